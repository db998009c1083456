"""Naming the class of an image: one objective, whose fronts are of cost and quality."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

from frontrunner.errors import ConfigError, DataError
from frontrunner.front.objective import Objective
from frontrunner.tasks.base import Batch, Model, Split, Task, tensor_splits
from frontrunner.tasks.digits import digits
from frontrunner.tasks.overlay import Labelled, read_images


class Images(Task):
    """Classify images; the objective is the cross-entropy, in nats.

    Train and validation images come from the train files and test images from the test files; where
    a source has one of the two only, its images are shared out. Pixels are standardised by mean and
    deviation of each channel over the training split.

    Args:
        source: ``digits`` (scikit-learn's, embedded), a folder of IDX files, a folder's name under
            $FRONTRUNNER_DATA, ``mnist``, ``fashion_mnist``, ``cifar10``, ``cifar100`` or a hub id.
        train: images in the training split; None takes all that are left.
        validation: images held out.
        test: images in the test split; None takes the test files, or a fifth where there are none.
        imbalance: images of the rarest class over those of the most frequent one, in the training
            split; numbers fall geometrically from class 0 on. 1 changes nothing.
        label_noise: share of training labels that are replaced by another class's.
        split_seed: of the split, and of what ``imbalance`` and ``label_noise`` choose.
        reference_point: (1,) cross-entropy.
        name: what runs and reports call the task.
        model: networks, from ``conf/model``.

    Raises:
        ConfigError: a size below 1, or a share outside its range.
    """

    objectives = (Objective("class", "min", "nats"),)

    def __init__(
        self,
        source: str | os.PathLike[str] = "digits",
        train: int | None = None,
        validation: int = 200,
        test: int | None = None,
        imbalance: float = 1.0,
        label_noise: float = 0.0,
        split_seed: int = 0,
        reference_point: tuple[float] = (2.5,),
        name: str = "images",
        model: Model | None = None,
    ) -> None:
        super().__init__(model)
        for key, number, least in (
            ("train", 1 if train is None else train, 1),
            ("validation", validation, 1),
            ("test", 1 if test is None else test, 1),
            ("split_seed", split_seed, 0),
        ):
            if not isinstance(number, int) or number < least:
                raise ConfigError(
                    f"task.{key}={number} must be at least {least}, and a whole number"
                )
        if not isinstance(imbalance, int | float) or not 0 < imbalance <= 1:
            raise ConfigError(f"task.imbalance={imbalance} must be above 0 and at most 1")
        if not isinstance(label_noise, int | float) or not 0 <= label_noise < 1:
            raise ConfigError(f"task.label_noise={label_noise} must be at least 0 and below 1")
        self.name, self.source, self.split_seed = name, source, split_seed
        self.train, self.validation, self.test = train, validation, test
        self.imbalance, self.label_noise = imbalance, label_noise
        self.reference_point = tuple(float(r) for r in reference_point)
        if len(self.reference_point) != 1:
            raise ConfigError(f"task '{name}': reference_point needs 1 entry")
        self._read: tuple[Labelled, Labelled | None] | None = None

    def check(self) -> None:
        """Read the images and make the splits.

        Raises:
            DataError: a file that is missing, cut short or not in the IDX format; too few images.
        """
        self.data("train")

    @property
    def input_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        images = self._files()[0][0]
        return (1, *images.shape[1:]) if images.ndim == 3 else (images.shape[3], *images.shape[1:3])

    @property
    def output_sizes(self) -> tuple[int, ...]:  # type: ignore[override]
        return (self._labels,)

    @property
    def _labels(self) -> int:
        """Number of classes that labels tell apart."""
        return int(self._files()[0][1].max()) + 1

    def load(self) -> dict[Split, Dataset[Batch]]:
        (images, labels), tested = self._files()
        rng = np.random.default_rng(self.split_seed)
        order = rng.permutation(len(images))
        parts: dict[Split, Labelled] = {}
        if tested is None:
            number = self.test if self.test is not None else len(images) // 5
            parts["test"] = (images[order[:number]], labels[order[:number]])
            order = order[number:]
        else:
            if self.test is not None and len(tested[0]) < self.test:
                raise DataError(
                    f"task '{self.name}': {len(tested[0])} test images are fewer than "
                    f"task.test={self.test}"
                )
            chosen = rng.permutation(len(tested[0]))[: self.test]
            parts["test"] = (tested[0][chosen], tested[1][chosen])
        held, rest = order[: self.validation], order[self.validation :]
        rest = rest[: self.train]
        if len(rest) == 0 or (self.train is not None and len(rest) < self.train):
            raise DataError(
                f"task '{self.name}': {len(images)} images are too few for {self.train or 1} to "
                f"train on beside {self.validation} for validation"
            )
        rest = self._imbalanced(labels, rest, rng)
        parts["validation"] = (images[held], labels[held])
        parts["train"] = (images[rest], self._noisy(labels[rest], rng))
        scaled = {split: _floats(pair[0]) for split, pair in parts.items()}
        mean = scaled["train"].mean((0, 2, 3), keepdims=True)
        deviation = scaled["train"].std((0, 2, 3), keepdims=True) + 1e-8
        return tensor_splits(
            {
                split: (
                    torch.as_tensor((scaled[split] - mean) / deviation, dtype=torch.float32),
                    torch.as_tensor(pair[1].astype(np.int64)),
                )
                for split, pair in parts.items()
            }
        )

    def losses(self, outputs: Any, batch: Batch) -> Tensor:
        return cross_entropy(_logits(outputs), batch[1]).reshape(1)

    def accuracies(self, outputs: Any, batch: Batch) -> Tensor:
        return (_logits(outputs).argmax(-1) == batch[1]).float().mean().reshape(1)

    def _files(self) -> tuple[Labelled, Labelled | None]:
        """The images to train on, and those of the test files if there are both."""
        if self._read is None:
            if self.source == "digits":
                self._read = digits(), None
            else:
                train, test = (read_images(self.source, part) for part in ("train", "test"))
                first = train if train is not None else test
                if first is None:
                    raise DataError(
                        f"{self.source} has no IDX files such as t10k-images-idx3-ubyte"
                    )
                self._read = first, test if train is not None else None
        return self._read

    def _imbalanced(
        self, labels: NDArray[Any], rows: NDArray[np.intp], rng: np.random.Generator
    ) -> NDArray[np.intp]:
        if self.imbalance == 1.0:
            return rows
        sizes = np.bincount(labels[rows])
        most = sizes.max()
        kept = []
        for c, size in enumerate(sizes):
            wanted = most * self.imbalance ** (c / max(1, len(sizes) - 1))
            kept.append(rows[labels[rows] == c][: max(1, min(size, round(wanted)))])
        joined = np.concatenate(kept)
        return joined[rng.permutation(len(joined))]

    def _noisy(self, labels: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        if self.label_noise == 0.0:
            return labels
        noisy, classes = labels.copy(), self._labels
        chosen = rng.permutation(len(labels))[: round(self.label_noise * len(labels))]
        noisy[chosen] = (labels[chosen] + rng.integers(1, classes, len(chosen))) % classes
        return noisy


def _floats(images: NDArray[Any]) -> NDArray[np.float32]:
    """(n, c, h, w), unscaled."""
    stacked = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return stacked.astype(np.float32)


def _logits(outputs: Any) -> Tensor:
    return outputs[0] if isinstance(outputs, tuple) else outputs
