"""Pruned blocks on disk: one file for each block of each pass, written whole and read in parts.

A file ``pass-000-block-017.safetensors`` holds of every layer, by the name of its weight: ``core``,
a bitmap of what all its models share, if they do; and for each model, an anchor of the Pareto set,
``support.<anchor>``, a bitmap, and ``values.<anchor>``, the weights on it row by row, in the
network's precision. ``<group>.diagonals`` (m, c) are the diagonals of the Gram matrices of layers
that have one input, one for each objective whose data the pass saw. The matrices themselves, where
they are kept, are ``<group>.<objective>`` (c, c) float32 in ``pass-000-grams-017.safetensors``. The
file's metadata, JSON under ``frontrunner``, say which anchors and layers it holds, of how many
blocks it is one, whether Gram matrices were kept, and what the blocks were pruned from.
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
from frontrunner.errors import DataError, RunError, first_line
from frontrunner.sparse.compact import expand, pack, unpack
from frontrunner.weights.files import dtypes

_GRAMS = "the Gram matrices that refits need"


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
        total: blocks of the pass.
        kept: whether its Gram matrices were kept.
        source: what it was pruned from, see `Store`.
    """

    path: Path
    grams: Path
    anchors: tuple[int, ...]
    layers: tuple[Pruned, ...] = field(default_factory=tuple)
    total: int = 0
    kept: bool = False
    source: str = ""

    def values(self, layer: Pruned, anchor: int) -> tuple[Tensor, Tensor]:
        """Values (k,) and support (d, c) of one model."""
        with _opened(self.path) as stored:
            bits = stored.get_tensor(f"{layer.name}.support.{anchor}")
            return stored.get_tensor(f"{layer.name}.values.{anchor}"), unpack(bits, layer.shape)

    def weight(self, layer: Pruned, anchor: int) -> Tensor:
        """(d, c) in the network's precision."""
        return expand(*self.values(layer, anchor))

    def dtype(self, layer: Pruned) -> torch.dtype:
        """The network's precision, from the file's header alone."""
        with _opened(self.path) as stored:
            values = stored.get_slice(f"{layer.name}.values.{self.anchors[0]}")
            return dtypes()[values.get_dtype()]

    def core(self, layer: Pruned) -> Tensor | None:
        """(d, c) bool, or None if the models share no core."""
        bits = _optional(self.path, f"{layer.name}.core")
        return None if bits is None else unpack(bits, layer.shape)

    def diagonals(self, group: str) -> Tensor | None:
        """(m, c), or None if the pass saw no data."""
        return _optional(self.path, f"{group}.diagonals")

    def gram(self, group: str, objective: int) -> Tensor:
        """(c, c) float32.

        Raises:
            RunError: they were not kept, or their file is gone.
        """
        if not self.grams.is_file():
            raise RunError(self.missing if self.kept else f"{self.path} was made without {_GRAMS}")
        with _opened(self.grams) as stored:
            return stored.get_tensor(f"{group}.{objective}")

    @property
    def missing(self) -> str:
        """What to say where the file of Gram matrices is gone."""
        return f"{self.grams} is missing: {_GRAMS}; restore it, or run again with fresh=true"


class Store:
    """A folder of such files.

    Args:
        folder: is made by the first `add`.
        source: what blocks are pruned from, a digest; `has` refuses those of another source.
    """

    def __init__(self, folder: str | os.PathLike[str], source: str = "") -> None:
        self.folder, self.source = Path(folder), source

    def path(self, number: int, block: int, what: str = "block") -> Path:
        return self.folder / f"pass-{number:03d}-{what}-{block:03d}.safetensors"

    def add(
        self,
        number: int,
        block: int,
        anchors: Sequence[int],
        layers: Sequence[Pruned],
        models: Mapping[str, Models],
        precisions: Mapping[str, torch.dtype],
        grams: Mapping[str, Sequence[Tensor]],
        keep_grams: bool,
        total: int,
    ) -> None:
        """Write one of ``total`` blocks, Gram matrices first: a block that is there is whole.

        Raises:
            DataError: a value that the precision of its layer does not hold.
            RunError: the disk is full; the file is absent then.
        """
        tensors: dict[str, Tensor] = {}
        for layer in layers:
            found = models[layer.name]
            if found.core is not None:
                tensors[f"{layer.name}.core"] = pack(found.core)
            for anchor, weight, support in zip(anchors, found.weights, found.supports, strict=True):
                values = weight[support].to(precisions[layer.name]).cpu()
                if not bool(values.isfinite().all()):
                    raise DataError(
                        f"'{layer.name}' has values beyond {precisions[layer.name]} once it is "
                        "pruned; try model.dtype=float32"
                    )
                tensors[f"{layer.name}.values.{anchor}"] = values
                tensors[f"{layer.name}.support.{anchor}"] = pack(support)
        for group, matrices in grams.items():
            tensors[f"{group}.diagonals"] = torch.stack([h.diagonal().cpu() for h in matrices])
        if keep_grams:
            kept = {f"{g}.{j}": h.cpu() for g, hs in grams.items() for j, h in enumerate(hs)}
            _save(self.path(number, block, "grams"), kept, {})
        described = {
            "anchors": list(anchors),
            "layers": [asdict(layer) for layer in layers],
            "total": total,
            "kept": keep_grams,
            "source": self.source,
        }
        _save(self.path(number, block), tensors, {"frontrunner": json.dumps(described)})
        self.__dict__.pop("blocks", None)

    def has(self, number: int, block: int) -> bool:
        """Whether a block is there, with its Gram matrices if they were kept.

        Raises:
            RunError: a file is damaged, or of another source.
        """
        path = self.path(number, block)
        if not path.is_file():
            return False
        found = self.open(path)
        if found.source != self.source:
            raise RunError(
                f"{path} was pruned from another model or on other text, which have changed since; "
                "run again with fresh=true"
            )
        if found.kept and found.grams.is_file():
            with _opened(found.grams):
                return True
        return not found.kept

    def open(self, path: Path) -> Block:
        """One block's file.

        Raises:
            RunError: damaged, or not such a file.
        """
        with _opened(path) as stored:
            text = (stored.metadata() or {}).get("frontrunner")
        try:
            described = json.loads(text or "")
            layers = [Pruned(**{**x, "shape": tuple(x["shape"])}) for x in described.pop("layers")]
            anchors = tuple(described.pop("anchors"))
            grams = path.with_name(path.name.replace("-block-", "-grams-"))
            return Block(path, grams, anchors, tuple(layers), **described)
        except (TypeError, ValueError, KeyError, AttributeError):
            raise RunError(f"{path} does not hold a pruned block") from None

    @cached_property
    def blocks(self) -> list[Block]:
        """Every block of every pass, in the order of passes and blocks."""
        return [self.open(path) for path in sorted(self.folder.glob("pass-*-block-*.safetensors"))]

    def of(self, anchor: int) -> Iterator[Block]:
        """The blocks of one model, from the first."""
        return (block for block in self.blocks if anchor in block.anchors)

    def files(self, grams: bool = True) -> list[Path]:
        """Every file in order, those of Gram matrices where they are wanted.

        Raises:
            RunError: one is missing; it is named.
        """
        found = []
        passes = {block.path.name.partition("-block-")[0] for block in self.blocks} or {"pass-000"}
        total = max((block.total for block in self.blocks), default=1)
        wanted = [
            self.folder / f"{p}-block-{b:03d}.safetensors" for p in passes for b in range(total)
        ]
        known = {block.path: block for block in self.blocks}
        for path in wanted:
            if path not in known:
                raise RunError(f"{path} is missing; restore it, or run again with fresh=true")
            found.append(path)
            if grams and known[path].kept:
                if not known[path].grams.is_file():
                    raise RunError(known[path].missing)
                found.append(known[path].grams)
        return sorted(found)

    def bytes(self) -> dict[str, int]:
        """Of the files with ``models``, and of those with ``grams``."""
        models = sum(path.stat().st_size for path in self.files(grams=False))
        return {"models": models, "grams": sum(p.stat().st_size for p in self.files()) - models}

    def tidy(self) -> None:
        """Remove what a process that was killed was about to write."""
        for path in self.folder.glob(".pass-*.tmp.safetensors"):
            path.unlink(missing_ok=True)

    def move(self, folder: Path) -> None:
        """Link (or copy) every file into another folder, and continue there."""
        if folder.resolve() == self.folder.resolve():
            return
        folder.mkdir(parents=True, exist_ok=True)
        for path in self.files():
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
        raise RunError(
            f"{path} is damaged ({first_line(error)}); delete it and run the same command again, "
            "with fresh=true if the run was done"
        ) from None


def _optional(path: Path, key: str) -> Tensor | None:
    """A tensor of a file, or None if it has none of that name."""
    with _opened(path) as stored:
        return stored.get_tensor(key) if key in set(stored.keys()) else None
