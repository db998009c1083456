"""Multi-MNIST: two images laid over each other, one objective for each (36 x 36 pixels).

Source of the construction: Sabour, Frosst & Hinton, NeurIPS 2017 (MultiMNIST), in the 36 x 36 form
of Lin et al., NeurIPS 2019 (Pareto multi-task learning), which later front-learning papers share.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

from frontrunner.errors import ConfigError, DataError
from frontrunner.front.objective import Objective
from frontrunner.tasks.base import Batch, Model, Split, Task
from frontrunner.tasks.overlay import Labelled, draw_pairs, read_images

# Shares of the images when only one pair of files is there: train, validation, test.
_SHARES = (0.7, 0.1, 0.2)


class MultiMNIST(Task):
    """Recognise the image at the top left against the one at the bottom right; both in nats.

    The same class serves MNIST, Fashion-MNIST and their mixture: give ``first`` and ``second``.
    No image appears in two splits. Train and validation overlays come from disjoint shares of the
    train files (9:1), test overlays from the test files; where only one of the two pairs of files
    exists, its images are shared out 7:1:2.

    Args:
        first: source of the left image: a folder of IDX files, a folder's name under
            $FRONTRUNNER_DATA, ``mnist`` or ``fashion_mnist`` (then also from the hub), or a hub id.
        second: source of the right image. Default: the same, with the same split.
        train_size, validation_size, test_size: number of overlays.
        split_seed: seed of the split and the pairing, apart from the run's seed.
        size: height and width of an overlay in pixels, at least those of the images.
        reference_point: (2,) cross-entropies.
        name: name of the task, e.g. ``multi_fashion``.
        model: how to build networks.

    Raises:
        ConfigError: a size that is not positive.
    """

    objectives = (Objective("left", "min", "nats"), Objective("right", "min", "nats"))
    output_sizes = (10, 10)

    def __init__(
        self,
        first: str | os.PathLike[str] | None = "mnist",
        second: str | os.PathLike[str] | None = None,
        train_size: int = 108_000,
        validation_size: int = 12_000,
        test_size: int = 20_000,
        split_seed: int = 0,
        size: int = 36,
        reference_point: Sequence[float] = (2.0, 2.0),
        name: str = "multi_mnist",
        model: Model | None = None,
    ) -> None:
        super().__init__(model)
        sizes: dict[Split, int] = {
            "train": train_size,
            "validation": validation_size,
            "test": test_size,
        }
        for split, number in sizes.items():
            if number < 1:
                raise ConfigError(f"task '{name}': {split}_size must be at least 1, not {number}")
        if len(reference_point) != 2:
            raise ConfigError(f"task '{name}': reference_point needs 2 entries")
        self.name = name
        self.reference_point = tuple(float(r) for r in reference_point)
        self.input_shape = (1, size, size)
        self.sizes = sizes
        self.split_seed = split_seed
        self._first = "mnist" if first is None else first
        self._second = second

    def check(self) -> None:
        """Read the images and make the splits.

        Raises:
            DataError: a file that is missing, cut short or not in the IDX format.
        """
        self.data("train")

    def load(self) -> dict[Split, Dataset[Batch]]:
        left = self._split(self._first)
        right = left if self._second is None else self._split(self._second)
        size = self.input_shape[-1]
        for pool in (left, right):
            largest = max(max(images.shape[1:]) for images, _ in pool.values())
            if largest > size:
                raise ConfigError(
                    f"task '{self.name}': size={size} is below the {largest} pixels of an image"
                )
        return {
            split: draw_pairs(left[split], right[split], number, (self.split_seed, k), size)
            for k, (split, number) in enumerate(self.sizes.items())
        }

    def losses(self, outputs: Any, batch: Batch) -> Tensor:
        """(2,): mean cross-entropy of the left and of the right image, nats."""
        return _per_side(cross_entropy, outputs, batch)

    def accuracies(self, outputs: Any, batch: Batch) -> Tensor:
        """(2,): share of left and of right images recognised."""
        return _per_side(lambda z, y: (z.argmax(dim=-1) == y).float().mean(), outputs, batch)

    def _split(self, source: str | os.PathLike[str]) -> dict[Split, Labelled]:
        read = {part: read_images(source, part) for part in ("train", "test")}
        found = {part: pair for part, pair in read.items() if pair is not None}
        if not found:
            raise DataError(f"{source} has no IDX files such as t10k-images-idx3-ubyte.gz")
        only_one = len(found) == 1
        images, labels = next(iter(found.values()))  # the train files, where they exist
        order = np.random.default_rng(self.split_seed).permutation(len(images))
        shares = np.array(_SHARES if only_one else (0.9, 0.1, 0.0))
        ends = np.round(np.cumsum(shares)[:2] * len(images)).astype(int)
        train, validation, rest = np.split(order, ends)
        pools: dict[Split, Labelled] = {
            "train": (images[train], labels[train]),
            "validation": (images[validation], labels[validation]),
            "test": (images[rest], labels[rest]) if only_one else found["test"],
        }
        for split, (pool, _) in pools.items():
            if len(pool) == 0:
                raise DataError(f"{source}: {len(images)} images are too few to split ({split})")
        return pools


def _per_side(measure: Any, outputs: Any, batch: Batch) -> Tensor:
    return torch.stack([measure(z, y) for z, y in zip(outputs, batch[1:], strict=True)])
