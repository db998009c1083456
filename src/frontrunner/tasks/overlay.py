"""Images in the MNIST formats, and two of them laid over each other."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from frontrunner.errors import DataError, nearest
from frontrunner.tasks.base import Batch
from frontrunner.tasks.tabular import data_root, load_hub

Bytes = NDArray[np.uint8]
Labelled = tuple[Bytes, Bytes]  # images (n, h, w) and labels (n,)

HUB = {
    "mnist": "ylecun/mnist",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
}
# What data sets of the hub call a column, beside its usual name.
_COLUMNS = {"image": ("img",), "label": ("fine_label",)}

_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def read_idx(path: str | os.PathLike[str]) -> Bytes:
    """Read an IDX file of unsigned bytes, gzipped or not (told by its first bytes).

    The header is two zero bytes, the type (8: unsigned byte), the number of dimensions, then each
    dimension as a big-endian 32-bit number.

    Raises:
        DataError: missing, not IDX, of another type, or of another length than its header says.
    """
    try:
        data = Path(path).read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is damaged or cut short: {error}; fetch it again") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) < 4 or data[:2] != b"\x00\x00":
        raise DataError(f"{path} is not an IDX file: it begins with {data[:4].hex() or 'nothing'}")
    kind, rank = data[2], data[3]
    if kind != 8:
        raise DataError(f"{path} holds IDX type 0x{kind:02x}, not unsigned bytes (0x08)")
    start = 4 + 4 * rank
    if rank < 1 or len(data) < start:
        raise DataError(f"{path} is cut short: {len(data)} bytes, its header alone has {start}")
    shape = tuple(int(d) for d in np.frombuffer(data, ">u4", count=rank, offset=4))
    if len(data) - start != math.prod(shape):
        raise DataError(
            f"{path} has {len(data) - start} bytes of data where its header {shape} "
            f"needs {math.prod(shape)}; fetch it again"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def read_images(source: str | os.PathLike[str], part: str) -> Labelled | None:
    """Images (n, h, w) and labels (n,) of one part of a data set; None if it has no such part.

    Args:
        source: a folder of IDX files (``train-images-idx3-ubyte``, …, with or without ``.gz``); or
            a name, looked for as a folder under $FRONTRUNNER_DATA and then on the hub (`HUB`); or
            a hub id with a slash.
        part: ``train`` or ``test``.

    Raises:
        DataError: no such source, or files that cannot be read or do not fit each other.
    """
    folder = _folder(source)
    if folder is None:
        return _from_hub(str(source), part)
    paths = [_either(folder / name) for name in _FILES[part]]
    if paths[0] is None and paths[1] is None:
        return None
    for path, name in zip(paths, _FILES[part], strict=True):
        if path is None:
            raise DataError(f"{folder} has no {name} (nor {name}.gz)")
    images, labels = read_idx(str(paths[0])), read_idx(str(paths[1]))
    if images.ndim != 3:
        raise DataError(f"{paths[0]} has shape {images.shape}, not (images, height, width)")
    if labels.shape != images.shape[:1]:
        raise DataError(f"{paths[1]} has shape {labels.shape} for {len(images)} images")
    if len(labels) and labels.max() > 9:
        raise DataError(f"{paths[1]} has a label {labels.max()}, above 9")
    return images, labels


def _folder(source: str | os.PathLike[str]) -> Path | None:
    root = data_root()
    for folder in (Path(source), root / source if root is not None else None):
        if folder is not None and folder.is_dir():
            return folder
    if str(source) in HUB or (isinstance(source, str) and source.count("/") == 1):
        return None
    raise DataError(
        f"'{source}' is neither a folder nor a known data set{nearest(str(source), HUB)}"
    )


def _either(path: Path) -> Path | None:
    zipped = path.with_name(path.name + ".gz")
    return path if path.exists() else zipped if zipped.exists() else None


def _from_hub(source: str, part: str) -> Labelled:
    try:
        loaded = load_hub(HUB.get(source, source), part)
    except DataError as error:
        raise DataError(
            f"no images '{source}': put their IDX files in the folder '{source}' under the one "
            f"$FRONTRUNNER_DATA names, or give the folder itself; {error}"
        ) from None
    columns = {}
    for name, others in _COLUMNS.items():
        found = [c for c in (name, *others) if c in loaded.column_names]
        if not found:
            raise DataError(f"hub data set '{source}' has no column '{name}'")
        columns[name] = loaded[found[0]]
    images = np.stack([np.asarray(image, dtype=np.uint8) for image in columns["image"]])
    return images, np.asarray(columns["label"], dtype=np.uint8)


def overlay(first: Bytes, second: Bytes, size: int) -> Bytes:
    """Put ``first`` (n, h, w) top left, ``second`` bottom right, by maximum: (n, size, size)."""
    n, h, w = first.shape
    canvas = np.zeros((n, size, size), dtype=np.uint8)
    canvas[:, :h, :w] = first
    h, w = second.shape[1:]
    corner = canvas[:, size - h :, size - w :]
    np.maximum(corner, second, out=corner)
    return canvas


class Overlays(Dataset[Batch]):
    """Overlays kept as bytes, handed out as ``(x (B, 1, size, size) in [0, 1], left, right (B,))``.

    Args:
        images: (n, size, size) uint8.
        left, right: (n,) labels.
    """

    def __init__(self, images: Bytes, left: Bytes, right: Bytes) -> None:
        self.images = torch.from_numpy(images)
        self.left = torch.from_numpy(left.astype(np.int64))
        self.right = torch.from_numpy(right.astype(np.int64))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Any) -> Batch:
        """One sample for a number, a batch for a list, slice or tensor of numbers."""
        x = self.images[index].float().div_(255.0)
        return x.unsqueeze(-3), self.left[index], self.right[index]


def draw_pairs(
    first: Labelled, second: Labelled, n: int, seed: Sequence[int], size: int
) -> Overlays:
    """n overlays of a random image of ``first`` and a random image of ``second``.

    Both run through shuffles of all their images, so each image serves equally often (±1). Labels
    are independent: a pair may show the same class twice.
    """
    rng = np.random.default_rng(seed)
    i, j = (_cycle(rng, len(images), n) for images, _ in (first, second))
    canvas = np.empty((n, size, size), dtype=np.uint8)
    for start in range(0, n, 4096):  # in blocks, to keep no second copy of everything
        rows = slice(start, start + 4096)
        canvas[rows] = overlay(first[0][i[rows]], second[0][j[rows]], size)
    return Overlays(canvas, first[1][i], second[1][j])


def _cycle(rng: np.random.Generator, count: int, n: int) -> NDArray[np.intp]:
    shuffles = [rng.permutation(count) for _ in range(-(-n // count))]
    return np.concatenate(shuffles)[:n]
