"""Pruned blocks on disk: one file for each block of each pass, written whole and read in parts.

A file ``pass-000-block-017.safetensors`` holds of every layer, by the name of its weight: ``core``,
a bitmap of what all its models share, if they do; and for each model, an anchor of the Pareto set,
``support.<anchor>``, a bitmap, and ``values.<anchor>``, the weights on it row by row, in the
checkpoint's precision. ``<group>.diagonals`` (m, c) are the diagonals of the Gram matrices of
layers that have one input. The matrices themselves, where they are kept, are
``<group>.<objective>`` (c, c) float32 in ``pass-000-grams-017.safetensors``.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from frontrunner import files
from frontrunner.errors import RunError
from frontrunner.sparse.compact import expand, pack, unpack


@dataclass(frozen=True)
class Pruned:
    """A layer of a block, as it is stored.

    Attributes:
        name: of its weight.
        group: of the layers that share its input.
        shape: (d, c).
        pattern: of its support, in words.
        transposed: whether the network has it as (c, d).
    """

    name: str
    group: str
    shape: tuple[int, int]
    pattern: str
    transposed: bool = False


@dataclass
class Models:
    """The pruned weights of one layer, one model after the other.

    Attributes:
        weights: (d, c) each, zero off their supports.
        supports: (d, c) bool each.
        core: (d, c) bool, in every support; or None.
    """

    weights: list[Tensor]
    supports: list[Tensor]
    core: Tensor | None = None


@dataclass(frozen=True)
class Block:
    """One block of one pass.

    Attributes:
        path, grams: its files; the second may be absent.
        anchors: the models it holds.
        layers: in the order they are called in.
    """

    path: Path
    grams: Path
    anchors: tuple[int, ...]
    layers: tuple[Pruned, ...] = field(default_factory=tuple)

    def values(self, layer: Pruned, anchor: int) -> tuple[Tensor, Tensor]:
        """Values (k,) and support (d, c) of one model."""
        with _opened(self.path) as stored:
            bits = stored.get_tensor(f"{layer.name}.support.{anchor}")
            return stored.get_tensor(f"{layer.name}.values.{anchor}"), unpack(bits, layer.shape)

    def weight(self, layer: Pruned, anchor: int) -> Tensor:
        """(d, c) in the checkpoint's precision."""
        return expand(*self.values(layer, anchor))

    def core(self, layer: Pruned) -> Tensor | None:
        """(d, c) bool, or None if the models share no core."""
        with _opened(self.path) as stored:
            key = f"{layer.name}.core"
            return unpack(stored.get_tensor(key), layer.shape) if key in stored.keys() else None  # noqa: SIM118

    def diagonals(self, group: str) -> Tensor | None:
        """(m, c), or None if the pass saw no data."""
        with _opened(self.path) as stored:
            key = f"{group}.diagonals"
            return stored.get_tensor(key) if key in stored.keys() else None  # noqa: SIM118

    def gram(self, group: str, objective: int) -> Tensor:
        """(c, c) float32.

        Raises:
            RunError: they were not kept.
        """
        if not self.grams.is_file():
            raise RunError(f"{self.grams} does not exist: Gram matrices were not kept")
        with _opened(self.grams) as stored:
            return stored.get_tensor(f"{group}.{objective}")


class Store:
    """A folder of such files.

    Args:
        folder: is made by the first `add`.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def path(self, number: int, block: int, what: str = "block") -> Path:
        return self.folder / f"pass-{number:03d}-{what}-{block:03d}.safetensors"

    def add(
        self,
        number: int,
        block: int,
        anchors: Sequence[int],
        layers: Sequence[Pruned],
        models: Mapping[str, Models],
        dtypes: Mapping[str, torch.dtype],
        grams: Mapping[str, Sequence[Tensor]],
        keep_grams: bool,
    ) -> None:
        """Write one block, Gram matrices first: a block that is there has all it needs.

        Raises:
            RunError: the disk is full; the file is absent then.
        """
        tensors: dict[str, Tensor] = {}
        for layer in layers:
            found = models[layer.name]
            if found.core is not None:
                tensors[f"{layer.name}.core"] = pack(found.core)
            for anchor, weight, support in zip(anchors, found.weights, found.supports, strict=True):
                values = weight[support].to(dtypes[layer.name]).cpu()
                tensors[f"{layer.name}.values.{anchor}"] = values
                tensors[f"{layer.name}.support.{anchor}"] = pack(support)
        for group, matrices in grams.items():
            tensors[f"{group}.diagonals"] = torch.stack([h.diagonal().cpu() for h in matrices])
        if keep_grams:
            kept = {f"{g}.{j}": h.cpu() for g, hs in grams.items() for j, h in enumerate(hs)}
            _save(self.path(number, block, "grams"), kept, {})
        described = {"anchors": list(anchors), "layers": [asdict(layer) for layer in layers]}
        _save(self.path(number, block), tensors, {"frontrunner": json.dumps(described)})
        self.__dict__.pop("blocks", None)

    def has(self, number: int, block: int) -> bool:
        return self.path(number, block).is_file()

    def open(self, path: Path) -> Block:
        """One block's file.

        Raises:
            RunError: damaged, or not such a file.
        """
        with _opened(path) as stored:
            text = (stored.metadata() or {}).get("frontrunner")
        if text is None:
            raise RunError(f"{path} does not hold a pruned block")
        described = json.loads(text)
        layers = (Pruned(**{**x, "shape": tuple(x["shape"])}) for x in described["layers"])
        grams = path.with_name(path.name.replace("-block-", "-grams-"))
        return Block(path, grams, tuple(described["anchors"]), tuple(layers))

    @cached_property
    def blocks(self) -> list[Block]:
        """Every block of every pass, in the order of passes and blocks."""
        return [self.open(path) for path in sorted(self.folder.glob("pass-*-block-*.safetensors"))]

    def of(self, anchor: int) -> Iterator[Block]:
        """The blocks of one model, from the first."""
        return (block for block in self.blocks if anchor in block.anchors)

    def move(self, folder: Path) -> None:
        """Link (or copy) every file into another folder, and continue there."""
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(self.folder.glob("pass-*.safetensors")):
            target = folder / path.name
            target.unlink(missing_ok=True)
            try:
                os.link(path, target)
            except OSError:  # another file system, or one without links
                try:
                    with files.atomic_path(target) as temporary:
                        shutil.copyfile(path, temporary)
                except OSError as error:
                    raise RunError(
                        f"{target} could not be written ({error.strerror}); make room, run again"
                    ) from error
        self.folder = folder
        self.__dict__.pop("blocks", None)


def _save(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    try:
        with files.atomic_path(path) as temporary:
            save_file(whole, temporary, metadata=metadata or None)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RunError(f"{path} could not be written ({reason}); make room, run again") from error


def _opened(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(str(path), framework="pt")
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path} is not readable: {error}") from None
