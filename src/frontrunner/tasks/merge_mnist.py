"""Merging experts of MNIST-format images, turned, relabelled or divided among them."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from torch import Tensor

from frontrunner.errors import ConfigError, DataError
from frontrunner.tasks.merge_digits import ImageExperts
from frontrunner.tasks.overlay import read_images

# Shares of all images: experts, train, validation, test; and of the train files' where both exist.
_ONE_PAIR = (0.4, 0.2, 0.1, 0.3)
_TWO_PAIRS = (0.6, 0.3, 0.1)


class MergeMNIST(ImageExperts):
    """`ImageExperts` on IDX files of ten classes, such as MNIST or Fashion-MNIST.

    Without the train files, the images of the test files are shared out 4:2:1:3 to experts, train,
    validation and test; with them, theirs are shared out 6:3:1 and the test files are the test
    split.

    Args:
        source: a folder of IDX files, a name under $FRONTRUNNER_DATA, or a data set id on the hub.
        limit: no more than so many images in each of the four parts; None keeps all.
        split_seed: of the shares, and of which images are kept.
        settings: see `ImageExperts`.

    Raises:
        ConfigError: a limit below 1.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] = "mnist",
        limit: int | None = None,
        name: str = "merge_mnist",
        **settings: Any,
    ) -> None:
        super().__init__(name=name, **settings)
        if limit is not None and limit < 1:
            raise ConfigError(f"task.limit={limit} must be at least 1, or null")
        self.source, self.limit = source, limit
        self._images: tuple[Tensor, Tensor, dict[str, np.ndarray]] | None = None

    def check(self) -> None:
        """Read the files.

        Raises:
            DataError: a file that is missing, cut short or not in the IDX format.
        """
        self.images()

    @property
    def input_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(self.images()[0].shape[1:])

    def images(self) -> tuple[Tensor, Tensor, dict[str, np.ndarray]]:
        if self._images is None:
            self._images = self._read()
        return self._images

    def _read(self) -> tuple[Tensor, Tensor, dict[str, np.ndarray]]:
        train, test = (read_images(self.source, part) for part in ("train", "test"))
        first = train if train is not None else test
        if first is None:
            raise DataError(f"{self.source} has no IDX files such as t10k-images-idx3-ubyte.gz")
        images, labels = first
        rng = np.random.default_rng(self.split_seed)
        both = train is not None and test is not None
        shares = np.cumsum(_TWO_PAIRS if both else _ONE_PAIR)[:-1]
        cuts = np.split(rng.permutation(len(images)), np.round(shares * len(images)).astype(int))
        if train is not None and test is not None:
            if test[0].shape[1:] != images.shape[1:]:
                raise DataError(
                    f"{self.source}: test images have shape {test[0].shape[1:]}, train images "
                    f"{images.shape[1:]}"
                )
            cuts.append(len(images) + rng.permutation(len(test[0])))
            images = np.concatenate([images, test[0]])
            labels = np.concatenate([labels, test[1]])
        parts = dict(zip(("experts", "train", "validation", "test"), cuts, strict=True))
        for part, rows in parts.items():
            if len(rows) == 0:
                raise DataError(f"{self.source}: {len(images)} images leave none for {part}")
        return (
            torch.from_numpy(images.astype(np.float32) / 255.0)[:, None],
            torch.from_numpy(labels.astype(np.int64)),
            {part: rows[: self.limit] for part, rows in parts.items()},
        )
