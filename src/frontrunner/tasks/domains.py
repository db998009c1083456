"""Tasks with data of each objective by itself."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from frontrunner.errors import ConfigError
from frontrunner.tasks.base import Batch, Measure, Split, Task, rows


class Domains(Dataset[tuple[Batch, ...]]):
    """Several data sets read side by side: sample i is a tuple with one sample of each.

    As long as the longest; a shorter one starts again from its beginning.
    """

    def __init__(self, parts: Sequence[Dataset[Batch]]) -> None:
        self.parts = tuple(parts)
        self.sizes = [len(part) for part in parts]  # type: ignore[arg-type]

    def __len__(self) -> int:
        return max(self.sizes)

    def __getitem__(self, indices: Sequence[int]) -> tuple[Batch, ...]:
        return tuple(
            rows(part, [i % size for i in indices])
            for part, size in zip(self.parts, self.sizes, strict=True)
        )


class DomainsTask(Task):
    """Objective k is measured on data of its own.

    A batch is a tuple of K batches, one per objective, and a network's ``forward(inputs, k)``
    takes inputs of objective k. Subclasses implement `network`, `load` and `loss`, and, where
    objectives have accuracies, `correct`.

    Attributes:
        batch_limit: samples per forward pass when a model is measured, at most.
    """

    batch_limit: int = 4096

    @abstractmethod
    def load(self) -> dict[Split, Dataset[Any]]:
        """The three splits, each a `Domains`."""

    @abstractmethod
    def loss(self, outputs: Tensor, batch: Batch, k: int) -> Tensor:
        """Mean loss of objective k, a scalar, of what the network returned on a batch of it."""

    def correct(self, outputs: Tensor, batch: Batch, k: int) -> Tensor:
        """Share of right answers of objective k, a scalar in [0, 1]."""
        raise ConfigError(f"task '{self.name}' has no accuracies; use evaluator=objectives")

    # ------------------------------------------------------------------ for everyone else

    def measures(self) -> tuple[str, ...]:
        classifies = type(self).correct is not DomainsTask.correct
        return ("losses", "accuracies") if classifies else ("losses",)

    def losses(self, outputs: Sequence[Tensor], batch: Sequence[Batch]) -> Tensor:  # type: ignore[override]
        return torch.stack(
            [self.loss(o, b, k) for k, (o, b) in enumerate(zip(outputs, batch, strict=True))]
        )

    @torch.no_grad()
    def measure(
        self,
        network: Callable[..., Any],
        split: Split,
        *,
        what: Measure = "losses",
        device: torch.device | str = "cpu",
        batch_size: int = 4096,
    ) -> np.ndarray:
        """Objectives over a whole split, (K,) float64: means over samples, batch by batch."""
        function = self.loss if what == "losses" else self.correct
        return self.mean(network, split, function, device=device, batch_size=batch_size)

    @torch.no_grad()
    def mean(
        self,
        network: Callable[..., Any],
        split: Split,
        function: Callable[[Tensor, Batch, int], Tensor],
        *,
        device: torch.device | str = "cpu",
        batch_size: int = 4096,
    ) -> np.ndarray:
        """Means over a whole split, (K,) float64, of ``function(outputs, batch, k)``, which is a
        mean over the samples of a batch.

        Raises:
            SplitError: the test split of a sealed task.
        """
        domains, step = self.data(split), min(batch_size, self.batch_limit)
        assert isinstance(domains, Domains)
        values = []
        for k, part in enumerate(domains.parts):
            size, total = domains.sizes[k], 0.0
            for start in range(0, size, step):
                indices = range(start, min(start + step, size))
                batch = tuple(t.to(device) for t in rows(part, indices))
                total += float(function(network(batch[0], k), batch, k)) * len(indices)
            values.append(total / size)
        return np.array(values)
