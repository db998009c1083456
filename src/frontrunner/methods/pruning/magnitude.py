"""Magnitude pruning (Han et al., NeurIPS 2015): the smallest weights of each layer go."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from frontrunner.methods.pruning.base import Pruner
from frontrunner.methods.pruning.blockwise import Group
from frontrunner.sparse.store import Models


class Magnitude(Pruner):
    """Keeps the weights of largest magnitude; there are no data and hence one model.

    Args: see `Pruner`.
    """

    data = False

    def __init__(
        self,
        points: int,
        sparsity: float = 0.7,
        pattern: str = "unstructured",
        allocation: Mapping[str, float | str] | None = None,
    ) -> None:
        super().__init__(points, sparsity, pattern, allocation)

    def solve(self, group: Group, gram: Tensor | None, device: str) -> Mapping[str, Models]:
        found = {}
        for name, dense in group.dense.items():
            weight = dense.to(device)
            support, _ = group.patterns[name].select(weight.abs())
            found[name] = Models([weight * support], [support])
        return found
