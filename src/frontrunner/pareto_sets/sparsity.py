"""Sparse models on their way into a checkpoint: its names and precision, and a check afterwards."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from frontrunner.errors import DataError, RunError
from frontrunner.pareto_sets.sparse import SparseSet
from frontrunner.sparse.patterns import pattern_of
from frontrunner.sparse.store import Pruned
from frontrunner.weights.files import Safetensors
from frontrunner.weights.source import Weights


class Sparse:
    """One model's pruned layers, counted as they go by and again in the files they went to.

    Args:
        pareto_set: makes them, one at a time.
        preference: (m,).
        base: the dense checkpoint, whose names and precision they get; None leaves them with the
            network's.

    Attributes:
        layers: by the name that the written file has.

    Raises:
        DataError: the base's file has none of a layer's name.
    """

    def __init__(
        self, pareto_set: SparseSet, preference: ArrayLike, base: Weights | None = None
    ) -> None:
        self.pareto_set, self.preference, self.base = pareto_set, preference, base
        known = pareto_set.layers
        self.names = file_names(known.values(), base) if base else {name: name for name in known}
        self.layers = {self.names[name]: layer for name, layer in known.items()}
        self.counts: dict[str, int] = {}

    @torch.no_grad()
    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Each layer as the file has it, block by block."""
        for layer, weight in self.pareto_set.pruned(self.preference):
            name = self.names[layer.name]
            stored = weight.mT if layer.transposed else weight
            stored = stored.to(self.base.dtype(name)) if self.base else stored
            self.counts[name] = int(stored.count_nonzero())
            yield name, stored

    def verify(self, folder: Path) -> dict[str, Any]:
        """Read every pruned layer back; what records say of them.

        A weight on the support may be zero by itself, as in a dense model that has zeros, but then
        it was so before it was written.

        Raises:
            RunError: a layer has another number of non-zeros than it was written with, more than
                its pattern allows, or numbers that are not finite.
        """
        written = Safetensors(folder)
        total = 0
        for name, layer in self.layers.items():
            stored = written.read(name)
            matrix = stored.mT if layer.transposed else stored
            found = int(matrix.count_nonzero())
            if found != self.counts.get(name, found) or not obeys(matrix != 0, layer.pattern):
                raise RunError(
                    f"'{name}' was written with {found} non-zeros, which its pattern "
                    f"({layer.pattern}: {pattern_of(layer.pattern).kept(layer.shape)} of "
                    f"{math.prod(layer.shape)}) does not allow or the run does not have; "
                    "nothing was exported"
                )
            if not bool(matrix.isfinite().all()):
                raise RunError(f"'{name}' overflows in {stored.dtype}; nothing was exported")
            total += found
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        return {**counted(self.layers.values(), total), "bytes": size}


def counted(layers: Iterable[Pruned], nonzeros: int) -> dict[str, Any]:
    """What records say of pruned layers: their entries, how many are not zero, and their share."""
    entries = sum(math.prod(layer.shape) for layer in layers)
    return {
        "nonzeros": nonzeros,
        "pruned_parameters": entries,
        "sparsity": round(1 - nonzeros / entries, 9),
    }


def obeys(support: Tensor, pattern: str) -> bool:
    """Whether (d, c) bool holds no more than a pattern allows."""
    allowed, _ = pattern_of(pattern).select(support.float())
    return not bool((support & ~allowed).any())


def state(
    pareto_set: SparseSet, preference: ArrayLike, base: Weights
) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a preference's model as the base's checkpoint has it: pruned layers block by
    block, then what is dense. One is in memory at a time.

    Raises:
        FrontError: the set has no model for the preference.
        DataError: the base's file has none of a layer's name.
    """
    sparse = Sparse(pareto_set, preference, base)
    yield from sparse.tensors()
    for name in base.shapes():
        if name not in sparse.layers:
            yield name, base.read(name)


# ---------------------------------------------------------------------- names


def file_names(layers: Iterable[Pruned], base: Weights) -> dict[str, str]:
    """The name that each layer has in the base's file, by that in the network.

    Files of base models lack the prefix that a network with a head gives them (``h.0…`` where the
    network has ``transformer.h.0…``), and those of larger models have one more. It is the same for
    all layers.

    Raises:
        DataError: no prefix leads to a tensor of the right shape for every layer.
    """
    found, shapes = list(layers), base.shapes()
    for rename in _renamings(found[0].name, shapes):
        names = {layer.name: rename(layer.name) for layer in found}
        if all(tuple(shapes.get(names[x.name], ())) == _stored_shape(x) for x in found):
            return names
    odd = next((x for x in found if tuple(shapes.get(x.name, ())) != _stored_shape(x)), found[0])
    raise DataError(
        f"{base.name} has no tensor for '{odd.name}' {_stored_shape(odd)}: the network has other "
        "names than its file; save it again with save_pretrained of transformers"
    )


def _renamings(name: str, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Callable[[str], str]]:
    parts = name.split(".")
    for k in range(len(parts)):
        prefix = "".join(f"{part}." for part in parts[:k])
        yield lambda x, prefix=prefix: x.removeprefix(prefix)  # type: ignore[misc]
    for longer in shapes:
        if longer.endswith(f".{name}"):
            more = longer.removesuffix(name)
            yield lambda x, more=more: more + x  # type: ignore[misc]


def _stored_shape(layer: Pruned) -> tuple[int, int]:
    d, c = layer.shape
    return (c, d) if layer.transposed else (d, c)
