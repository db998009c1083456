"""Labelled pictures of a data set, from folders or the hub, as a CLIP checkpoint takes them."""

from __future__ import annotations

import hashlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from frontrunner import files
from frontrunner.errors import ConfigError, DataError, first_line, nearest
from frontrunner.tasks.base import Batch, Split
from frontrunner.tasks.tabular import load_hub

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".tif", ".tiff")


@dataclass(frozen=True)
class ImageSet:
    """How a data set is named, split and described in words; its fields are ``task.datasets.…``.

    Attributes:
        templates: prompts for its classes; each has ``{}`` where the name of a class goes.
        hub: id of the data set on the hub, for use without ``task.data_root``.
        config: its configuration there, if it has several.
        classes: names of its classes for the prompts, in the order of its labels; None takes the
            data's own names, with spaces for underscores.
        train, validation, test: its splits on the hub; without a validation split, a part of train
            is held out.
        image, label: its columns on the hub.
    """

    templates: tuple[str, ...]
    hub: str | None = None
    config: str | None = None
    classes: tuple[str, ...] | None = None
    train: str = "train"
    validation: str | None = None
    test: str = "test"
    image: str = "image"
    label: str = "label"

    @classmethod
    def of(cls, name: str, settings: Mapping[str, Any]) -> ImageSet:
        """From configuration.

        Raises:
            ConfigError: an unknown key, or templates that are missing or have no place for a name.
        """
        known = [field.name for field in fields(cls)]
        for key in map(str, settings):
            if key not in known:
                raise ConfigError(f"unknown key 'task.datasets.{name}.{key}'{nearest(key, known)}")
        templates = tuple(settings.get("templates") or ())
        if not templates or not all("{}" in template for template in templates):
            raise ConfigError(
                f"task.datasets.{name}.templates must hold prompts with {{}} for the class"
            )
        classes = settings.get("classes")
        names = None if classes is None else tuple(str(c) for c in classes)
        rest = {k: v for k, v in settings.items() if k not in ("templates", "classes")}
        return cls(templates=templates, classes=names, **rest)


class Pictures(ABC):
    """Labelled pictures that are decoded when asked for.

    Attributes:
        source: what messages call them.
        classes: names in the order of labels.
        labels: (n,) int64.
    """

    source: str
    classes: list[str]
    labels: NDArray[np.int64]

    @abstractmethod
    def picture(self, row: int) -> Image:
        """One picture.

        Raises:
            DataError: it cannot be decoded; it is named.
        """

    @abstractmethod
    def identity(self, rows: NDArray[np.intp]) -> str:
        """What changes when one of these pictures does."""


class FolderPictures(Pictures):
    """``<folder>/<class>/<picture>``; classes are sorted, by value where all are numbers.

    Raises:
        DataError: no such folder, no class folders, or a class without pictures.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise DataError(f"{folder} does not exist; it should hold a folder for each class")
        names = [p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")]
        if not names:
            raise DataError(f"{folder} holds no folders; it should have one for each class")
        numbers = all(name.isdigit() for name in names)
        self.classes = sorted(names, key=(lambda n: (int(n), n)) if numbers else None)
        self.source, self.folder = str(folder), folder
        self.paths: list[Path] = []
        labels: list[int] = []
        for label, name in enumerate(self.classes):
            found = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in SUFFIXES)
            if not found:
                raise DataError(f"{folder / name} holds no pictures ({', '.join(SUFFIXES)})")
            self.paths += found
            labels += [label] * len(found)
        self.labels = np.array(labels, dtype=np.int64)

    def picture(self, row: int) -> Image:
        from PIL import Image

        path = self.paths[row]
        try:
            with Image.open(path) as image:
                return image.convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(f"{path} cannot be read as a picture: {first_line(error)}") from None

    def identity(self, rows: NDArray[np.intp]) -> str:
        stats = [(self.paths[i], self.paths[i].stat()) for i in rows]
        return "\n".join(f"{path} {s.st_size} {s.st_mtime_ns}" for path, s in stats)


class HubPictures(Pictures):
    """One split of a data set of the hub, or of a local copy that ``datasets`` reads.

    Raises:
        DataError: it cannot be loaded, or has no such columns.
        ConfigError: its labels have no names, and the configuration gives none.
    """

    def __init__(self, name: str, described: ImageSet, split: str) -> None:
        if described.hub is None:
            raise ConfigError(f"give task.data_root, or task.datasets.{name}.hub")
        self.source = f"hub data set '{described.hub}', split '{split}'"
        self.data = load_hub(described.hub, split, described.config)
        for column in (described.image, described.label):
            if column not in self.data.column_names:
                raise DataError(
                    f"{self.source} has no column '{column}'"
                    f"{nearest(column, self.data.column_names)}"
                )
        self.column = described.image
        self.labels = np.asarray(self.data[described.label], dtype=np.int64)
        names = getattr(self.data.features[described.label], "names", None)
        if names is None:
            if described.classes is None:
                raise ConfigError(
                    f"{self.source} does not name its labels; give task.datasets.{name}.classes"
                )
            names = described.classes
        self.classes = list(names)

    def picture(self, row: int) -> Image:
        try:
            image: Image = self.data[int(row)][self.column].convert("RGB")
        except Exception as error:  # of Pillow and of the library's readers
            raise DataError(f"{self.source}, row {row}: {first_line(error)}") from None
        return image

    def identity(self, rows: NDArray[np.intp]) -> str:
        return f"{self.source} {self.data._fingerprint} {rows.tolist()}"


def open_splits(
    name: str, described: ImageSet, root: Path | None, seed: int, held_out: float
) -> dict[Split, tuple[Pictures, NDArray[np.intp]]]:
    """Train, validation and test of a data set: pictures, and which of their rows.

    Args:
        root: where ``<name>/<split>/<class>/`` are, or None for the hub.
        seed: of what is held out of train where there is no validation split.
        held_out: its share.

    Raises:
        DataError: a folder or split is missing, or two splits have different classes.
    """
    train: Pictures
    test: Pictures
    validation: Pictures | None = None
    if root is not None:
        folder = root / name
        train, test = FolderPictures(folder / "train"), FolderPictures(folder / "test")
        for other in ("validation", "val"):
            if validation is None and (folder / other).is_dir():
                validation = FolderPictures(folder / other)
    else:
        train, test = (HubPictures(name, described, s) for s in (described.train, described.test))
        if described.validation is not None:
            validation = HubPictures(name, described, described.validation)
    for part in (test, validation):
        if part is None:
            continue
        for odd in sorted(set(train.classes) ^ set(part.classes)):
            has, lacks = (train, part) if odd in train.classes else (part, train)
            raise DataError(f"class '{odd}' is in {has.source} and not in {lacks.source}")
        if part.classes != train.classes:
            raise DataError(f"{part.source} and {train.source} number their classes differently")
    if validation is not None:
        return {"train": _all(train), "validation": _all(validation), "test": _all(test)}
    order = np.random.default_rng([seed, 0]).permutation(len(train.labels))
    cut = max(1, round(held_out * len(order)))
    if cut >= len(order):
        raise DataError(f"{train.source}: {len(order)} pictures are too few to hold some out")
    held, kept = np.sort(order[:cut]), np.sort(order[cut:])
    return {"train": (train, kept), "validation": (train, held), "test": _all(test)}


def _all(pictures: Pictures) -> tuple[Pictures, NDArray[np.intp]]:
    return pictures, np.arange(len(pictures.labels))


def class_names(name: str, described: ImageSet, train: Pictures) -> list[str]:
    """What the classes are called in prompts, in the order of labels.

    Configured names belong to the data's by name where the two are the same set, else by position.

    Raises:
        DataError: there are more or fewer of them than the data have classes.
    """
    own = [c.replace("_", " ") for c in train.classes]
    given = described.classes
    if given is None or set(given) == set(own):
        return own
    if len(given) != len(own):
        raise DataError(
            f"task.datasets.{name}.classes has {len(given)} names, and {train.source} has "
            f"{len(own)} classes"
        )
    return list(given)


# ---------------------------------------------------------------------- pixels


class Processor:
    """A checkpoint's ``preprocessor_config.json``: resize, crop, scale, normalise.

    Resizing and cropping are done by Pillow, through the class of `transformers` that needs no
    torchvision.

    Args:
        folder: of the CLIP checkpoint.

    Raises:
        DataError: the folder has no such configuration.
    """

    def __init__(self, folder: Path) -> None:
        import transformers

        if not (folder / "preprocessor_config.json").is_file():
            raise DataError(f"{folder} has no preprocessor_config.json, which says how to crop")
        # Before version 5 the class that works with Pillow had the other's name.
        kind = getattr(transformers, "CLIPImageProcessorPil", None)
        self._inner = (kind or transformers.CLIPImageProcessor).from_pretrained(str(folder))
        mean, deviation = self._inner.image_mean, self._inner.image_std
        self.mean = torch.tensor(mean if self._inner.do_normalize else [0.0] * 3).view(3, 1, 1)
        self.deviation = torch.tensor(deviation if self._inner.do_normalize else [1.0] * 3)
        self.deviation = self.deviation.view(3, 1, 1)
        self.factor = float(self._inner.rescale_factor) if self._inner.do_rescale else 1.0

    def crop(self, picture: Image) -> NDArray[np.uint8]:
        """An RGB picture -> (3, h, w) bytes."""
        done = self._inner(picture, do_rescale=False, do_normalize=False, return_tensors="np")
        pixels: NDArray[np.uint8] = np.asarray(done["pixel_values"][0]).astype(np.uint8)
        return pixels

    def normalise(self, pixels: Tensor) -> Tensor:
        """(B, 3, h, w) bytes -> the same shape, float32."""
        return (pixels.float() * self.factor - self.mean) / self.deviation

    def identity(self) -> str:
        """What changes when `crop` does."""
        return str(self._inner.to_json_string())


class Pixels(Dataset[Batch]):
    """Pictures as a model takes them: a list of indices -> ((B, 3, h, w) float32, labels (B,)).

    What was cropped is kept as bytes in the cache folder, by content, and mapped from there: a
    front of n models decodes its pictures once, and memory holds what is in use.

    Args:
        pictures: where they come from.
        rows: which of them.
        processor: how they are cropped and normalised.
    """

    def __init__(
        self, pictures: Pictures, rows: Sequence[int] | NDArray[np.intp], processor: Processor
    ) -> None:
        self.pictures, self.processor = pictures, processor
        self.rows = np.asarray(rows, dtype=np.intp)
        self.labels = torch.from_numpy(pictures.labels[self.rows])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, indices: Sequence[int]) -> Batch:
        # Copied: torch wants memory that can be written to.
        chosen = torch.from_numpy(np.array(self.bytes[list(indices)]))
        return self.processor.normalise(chosen), self.labels[torch.as_tensor(indices)]

    @cached_property
    def bytes(self) -> NDArray[np.uint8]:
        """(n, 3, h, w), mapped from the cache folder; made on first use."""
        text = f"{self.processor.identity()}\n{self.pictures.identity(self.rows)}"
        key = hashlib.sha256(text.encode()).hexdigest()[:24]
        path = files.cache_dir() / "pictures" / f"{key}.npy"
        try:
            return _mapped(path)
        except (OSError, ValueError):
            self._decode(path)  # absent or damaged
        return _mapped(path)

    def _decode(self, path: Path) -> None:
        source = self.pictures.source
        print(f"{source}: reading {len(self)} pictures once", file=sys.stderr, flush=True)
        first = self.processor.crop(self.pictures.picture(self.rows[0]))
        shape = (len(self), *first.shape)
        with files.atomic_path(path) as temporary:
            out = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
            out[0] = first
            for i, row in enumerate(self.rows[1:], start=1):
                out[i] = self.processor.crop(self.pictures.picture(row))
            out.flush()
            del out


def _mapped(path: Path) -> NDArray[np.uint8]:
    mapped: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return mapped
