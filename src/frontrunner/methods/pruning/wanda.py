"""Wanda (Sun et al., ICLR 2024): the smallest of |W_ij| ‖X_j‖ go, each output by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from frontrunner.errors import ConfigError
from frontrunner.methods.base import choice
from frontrunner.methods.pruning.base import Pruner
from frontrunner.methods.pruning.blockwise import Group
from frontrunner.sparse.patterns import Pattern, Rows, Unstructured
from frontrunner.sparse.store import Models


class Wanda(Pruner):
    """Keeps weights by magnitude times the norm of their input; what is kept does not change.

    Args:
        among: weights compete within each ``output``, as published, or within the ``layer``.
        rounding: ``exact`` prunes as many entries of a layer as the sparsity says; ``truncate``
            ⌊c · sparsity⌋ of every row, as the published code does. It needs ``among=output``.

    See `Pruner` for the others.
    """

    def __init__(
        self,
        points: int,
        rounding: Literal["exact", "truncate"] = "exact",
        among: Literal["output", "layer"] = "output",
        **shared: Any,
    ) -> None:
        self.rounding = choice("method.rounding", rounding, ("exact", "truncate"))
        self.among = choice("method.among", among, ("layer", "output"))
        if (rounding, among) == ("truncate", "layer"):
            raise ConfigError("method.rounding=truncate is of rows: it needs method.among=output")
        super().__init__(points, **shared)

    def parse(self, pattern: str, sparsity: float) -> Pattern:
        found = super().parse(pattern, sparsity)
        if self.among == "output" and isinstance(found, Unstructured):
            return Rows(found.sparsity, self.rounding == "truncate")
        return found

    def switches(self) -> dict[str, Any]:
        return {**super().switches(), "rounding": self.rounding, "among": self.among}

    def solve(self, group: Group, gram: Tensor | None, device: str) -> Mapping[str, Models]:
        assert gram is not None
        norms = gram.diagonal().sqrt()
        found = {}
        for name, dense in group.dense.items():
            weight = dense.to(device)
            support, _ = group.patterns[name].select(weight.abs() * norms)
            found[name] = Models([weight * support], [support])
        return found
