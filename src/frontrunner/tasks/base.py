"""The interface of a task: objectives, data with its splits kept apart, a model to start from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from frontrunner.errors import ConfigError, DataError, SplitError
from frontrunner.front.objective import Objective
from frontrunner.models.conditioning import build_network

# In which terms objectives are measured; the task says which it has.
Measure = Literal["losses", "accuracies", "perplexities"]
Split = Literal["train", "validation", "test"]
Batch = tuple[Tensor, ...]


@dataclass(frozen=True)
class Model:
    """How to build networks for a task; both members come from ``conf/model``.

    Attributes:
        network: callable ``(input_shape=…, output_sizes=…) -> nn.Module``.
        conditioning: callable ``(network_factory, input_shape=…, output_sizes=…, m=…) ->
            nn.Module`` that makes the same network depend on a preference, or None if it cannot be.
    """

    network: Callable[..., nn.Module]
    conditioning: Callable[..., nn.Module] | None = None


class Task(ABC):
    """What is traded off.

    A subclass sets ``name``, ``objectives``, ``reference_point``, ``input_shape`` and
    ``output_sizes`` and implements `load` and `losses`. Everything it trains on is minimised.
    """

    name: str
    objectives: tuple[Objective, ...]
    reference_point: tuple[float, ...]
    input_shape: tuple[int, ...]
    output_sizes: tuple[int, ...]

    def __init__(self, model: Model | None = None) -> None:
        self.model = model
        self._splits: dict[Split, Dataset[Batch]] | None = None
        self._sealed = False

    # ------------------------------------------------------------------ for subclasses

    def check(self) -> None:  # noqa: B027 - embedded data needs no check
        """Fail fast: do the files exist, have they the right columns? Called before any training.

        Raises:
            DataError: with the file and the field named.
        """

    @abstractmethod
    def load(self) -> dict[Split, Dataset[Batch]]:
        """Build the three splits, map-style and indexable by a list. Called once, lazily."""

    @abstractmethod
    def losses(self, outputs: Any, batch: Batch) -> Tensor:
        """Differentiable objectives to minimise, (m,), of network outputs on a batch.

        Must work under `torch.func.vmap`: no data-dependent Python control flow.
        """

    def accuracies(self, outputs: Any, batch: Batch) -> Tensor:
        """Per-objective accuracies in [0, 1], (m,). Only tasks that classify have them."""
        raise ConfigError(f"task '{self.name}' has no accuracies; use evaluator=objectives")

    # ------------------------------------------------------------------ for everyone else

    def measures(self) -> tuple[str, ...]:
        """What `measure` can be asked for."""
        classifies = type(self).accuracies is not Task.accuracies
        return ("losses", "accuracies") if classifies else ("losses",)

    @property
    def m(self) -> int:
        """Number of objectives."""
        return len(self.objectives)

    def data(self, split: Split) -> Dataset[Batch]:
        """One split of the data.

        Raises:
            SplitError: the test split of a task sealed by `sealed`.
        """
        if split == "test" and self._sealed:
            raise SplitError("the test split is not available before the front is frozen")
        if self._splits is None:
            self._splits = dict(self.load())
        return self._splits[split]

    def sealed(self) -> Task:
        """The same task without its test split: what a method is given."""
        self.data("train")
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        assert self._splits is not None
        twin._splits = {k: v for k, v in self._splits.items() if k != "test"}
        twin._sealed = True
        return twin

    def network(self) -> nn.Module:
        """A fresh network for this task, initialised from the global torch seed."""
        if self.model is None:
            raise ConfigError(f"task '{self.name}' was given no model")
        return build_network(self.model.network, self.input_shape, self.output_sizes)

    def conditioned_network(self) -> nn.Module:
        """A fresh network that depends on a preference: ``forward(inputs, preference)``.

        Raises:
            ConfigError: the configured model has no conditioning.
        """
        if self.model is None or self.model.conditioning is None:
            raise ConfigError(f"task '{self.name}': the model has no conditioning")
        return self.model.conditioning(
            self.model.network,
            input_shape=self.input_shape,
            output_sizes=self.output_sizes,
            m=self.m,
        )

    def measure(
        self,
        network: Callable[[Tensor], Any],
        split: Split,
        *,
        what: Measure = "losses",
        device: torch.device | str = "cpu",
        batch_size: int = 4096,
    ) -> np.ndarray:
        """Objectives of ``network`` over a whole split, (m,) float64.

        Outputs are gathered over the split first, so that objectives which are not means over
        samples (a difference between groups, say) are computed once on all of it.
        """
        function = self.losses if what == "losses" else self.accuracies
        outputs, batch = self._outputs(network, split, 0, device, batch_size)
        with torch.no_grad():
            return function(outputs, batch).double().cpu().numpy()

    def measure_many(
        self,
        networks: Callable[[Tensor], Any],
        split: Split,
        *,
        what: Measure = "losses",
        device: torch.device | str = "cpu",
        batch_size: int = 4096,
    ) -> np.ndarray:
        """`measure` of k networks in one pass, (k, m); their outputs have a leading dimension k."""
        function = self.losses if what == "losses" else self.accuracies
        outputs, batch = self._outputs(networks, split, 1, device, batch_size)
        with torch.no_grad():
            values = torch.vmap(lambda one: function(one, batch))(outputs)
        return values.double().cpu().numpy()

    @torch.no_grad()
    def _outputs(
        self,
        network: Callable[[Tensor], Any],
        split: Split,
        dimension: int,
        device: torch.device | str,
        batch_size: int,
    ) -> tuple[Any, Batch]:
        """Outputs over a whole split, joined along their ``dimension`` of samples, and the
        split."""
        dataset = self.data(split)
        size = len(dataset)  # type: ignore[arg-type]
        outputs, batches = [], []
        for start in range(0, size, batch_size):
            batch = rows(dataset, range(start, min(start + batch_size, size)))
            batch = tuple(t.to(device) for t in batch)
            outputs.append(network(batch[0]))
            batches.append(batch)
        whole: Batch = tuple(torch.cat(parts) for parts in zip(*batches, strict=True))
        if isinstance(outputs[0], Tensor):
            return torch.cat(outputs, dimension), whole
        return tuple(torch.cat(p, dimension) for p in zip(*outputs, strict=True)), whole


def rows(dataset: Dataset[Batch], indices: Sequence[int]) -> Batch:
    """Several samples of a data set as one batch.

    Tensors are indexed by a tensor, made once; every other data set is promised a list.
    """
    if isinstance(dataset, TensorDataset):
        return dataset[torch.as_tensor(indices)]
    return dataset[list(indices)]


def tensor_splits(parts: dict[Split, Batch]) -> dict[Split, Dataset[Batch]]:
    """Wrap in-memory tensors as the three splits.

    Raises:
        DataError: a split is empty.
    """
    for split, tensors in parts.items():
        if len(tensors[0]) == 0:
            raise DataError(f"the {split} split is empty")
    return {split: TensorDataset(*tensors) for split, tensors in parts.items()}
