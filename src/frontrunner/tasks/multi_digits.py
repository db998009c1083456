"""Two overlaid digits behind a narrow trunk: the embedded task, built from scikit-learn alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

from frontrunner.errors import ConfigError
from frontrunner.front.objective import Objective
from frontrunner.tasks.base import Batch, Model, Split, Task, tensor_splits
from frontrunner.tasks.digits import digits

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class MultiDigits(Task):
    """Name the left and the right of two 8×8 digits drawn over each other.

    A left digit at column 0 and a right digit ``shift`` columns further share a canvas of 8 rows
    and 8 + ``shift`` columns, combined by the larger pixel; Gaussian noise is added and the whole
    standardised by the mean and deviation of the training split. The objectives are the
    cross-entropies of the two labels, in nats. The trade-off comes from the model: a trunk too
    narrow for both (docs/tasks.md says how the design was measured).

    Args:
        sizes: overlays in the train, validation and test split.
        shift: columns between the digits, 0 to 8; fewer mean more overlap.
        noise: standard deviation of Gaussian pixel noise, pixels being in [0, 1].
        split_seed: decides which digit images go to which split, and the pairing.
        reference_point: for hypervolumes, nats.
        name: what runs and reports call the task.
        model: networks, from ``conf/model``.
    """

    objectives = (Objective("left", "min", "nats"), Objective("right", "min", "nats"))
    output_sizes = (10, 10)

    def __init__(
        self,
        sizes: tuple[int, int, int] = (20000, 2000, 2000),
        shift: int = 4,
        noise: float = 0.1,
        split_seed: int = 0,
        reference_point: tuple[float, float] = (2.5, 2.5),
        name: str = "multi_digits",
        model: Model | None = None,
    ) -> None:
        super().__init__(model)
        if not 0 <= shift <= 8:
            raise ConfigError(f"task.shift={shift} must lie between 0 and 8")
        if len(sizes) != 3 or min(sizes) < 1:
            raise ConfigError("task.sizes needs three numbers of at least 1")
        if noise < 0:
            raise ConfigError(f"task.noise={noise} must be at least 0")
        self.name = name
        self.sizes, self.shift, self.noise, self.split_seed = tuple(sizes), shift, noise, split_seed
        first, second = reference_point
        self.reference_point = (float(first), float(second))
        self.input_shape = (1, 8, 8 + shift)

    def load(self) -> dict[Split, Dataset[Batch]]:
        images, labels = digits()
        images = images / 16.0
        rng = np.random.default_rng(self.split_seed)
        # No digit image appears in two splits: pairs are drawn within a split only.
        order = rng.permutation(len(images))
        pools = np.split(order, [1000, 1360])
        parts = {
            split: self._overlays(images[pool], labels[pool], size, rng)
            for split, pool, size in zip(SPLITS, pools, self.sizes, strict=True)
        }
        mean, deviation = parts["train"][0].mean(), parts["train"][0].std()
        return tensor_splits(
            {split: ((x - mean) / deviation, *rest) for split, (x, *rest) in parts.items()}
        )

    def _overlays(
        self, images: NDArray[Any], labels: NDArray[Any], size: int, rng: np.random.Generator
    ) -> Batch:
        left, right = rng.integers(len(images), size=(2, size))
        canvas = np.zeros((size, 1, 8, 8 + self.shift))
        canvas[:, 0, :, :8] = images[left]
        canvas[:, 0, :, self.shift :] = np.maximum(canvas[:, 0, :, self.shift :], images[right])
        canvas += self.noise * rng.standard_normal(canvas.shape)
        return (
            torch.as_tensor(canvas, dtype=torch.float32),
            torch.as_tensor(labels[left]),
            torch.as_tensor(labels[right]),
        )

    def losses(self, outputs: tuple[Tensor, ...], batch: Batch) -> Tensor:
        pairs = zip(outputs, batch[1:], strict=True)
        return torch.stack([cross_entropy(logits, labels) for logits, labels in pairs])

    def accuracies(self, outputs: tuple[Tensor, ...], batch: Batch) -> Tensor:
        pairs = zip(outputs, batch[1:], strict=True)
        return torch.stack([(o.argmax(-1) == y).float().mean() for o, y in pairs])
