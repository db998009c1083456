"""Magnitude pruning (Han et al., NeurIPS 2015): the smallest weights of each layer go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from frontrunner.methods.base import choice
from frontrunner.methods.pruning.base import Pruner
from frontrunner.methods.pruning.blockwise import Group
from frontrunner.sparse.patterns import Pattern, Rows, Unstructured
from frontrunner.sparse.store import Models


class Magnitude(Pruner):
    """Keeps the weights of largest magnitude; there are no data and hence one model.

    Args:
        among: weights compete within the ``layer``, or within each ``output``, as Wanda's do.

    See `Pruner` for the others.
    """

    data = False

    def __init__(
        self,
        points: int,
        sparsity: float = 0.7,
        pattern: str = "unstructured",
        allocation: Mapping[str, float | str] | None = None,
        among: Literal["layer", "output"] = "layer",
    ) -> None:
        self.among = choice("method.among", among, ("layer", "output"))
        super().__init__(points, sparsity, pattern, allocation)

    def parse(self, pattern: str, sparsity: float) -> Pattern:
        found = super().parse(pattern, sparsity)
        if self.among == "output" and isinstance(found, Unstructured):
            return Rows(found.sparsity)
        return found

    def switches(self) -> dict[str, Any]:
        return {**super().switches(), "among": self.among}

    def solve(self, group: Group, gram: Tensor | None, device: str) -> Mapping[str, Models]:
        found = {}
        for name, dense in group.dense.items():
            weight = dense.to(device)
            support, _ = group.patterns[name].select(weight.abs())
            found[name] = Models([weight * support], [support])
        return found
