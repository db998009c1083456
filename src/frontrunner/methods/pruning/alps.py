"""ALPS (Meng et al., NeurIPS 2024): ADMM on the layer's objective, then conjugate gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from frontrunner.methods.base import choice, positive, switch, whole
from frontrunner.methods.pruning.base import Pruner
from frontrunner.methods.pruning.blockwise import Group
from frontrunner.sparse.admm import Schedule, Stopping, admm
from frontrunner.sparse.quadratic import Quadratic, Ridge, refine
from frontrunner.sparse.store import Models


class ALPS(Pruner):
    """Solves each layer's least squares over sparse weights.

    Args:
        damping: ridge γ, as a share of what ``ridge`` says.
        ridge: ``mean`` of the Gram matrix's diagonal (the code), or its ``trace`` (as printed).
        scaled: whether columns are scaled to a Gram matrix of unit diagonal.
        rho: penalty at the start.
        limit: ADMM iterations at most.
        stopping: ``paper`` or ``code``, see `frontrunner.sparse.admm.Schedule`.
        refinement: steps of conjugate gradients on the support.

    See `Pruner` for the others.
    """

    def __init__(
        self,
        points: int,
        damping: float = 0.01,
        ridge: Ridge = "mean",
        scaled: bool = True,
        rho: float = 0.1,
        limit: int = 300,
        stopping: Stopping = "paper",
        refinement: int = 10,
        **shared: Any,
    ) -> None:
        super().__init__(points, **shared)
        self.damping = positive("method.damping", damping, zero=True)
        self.ridge: Ridge = choice("method.ridge", ridge, ("mean", "trace"))  # type: ignore[assignment]
        self.scaled = switch("method.scaled", scaled)
        choice("method.stopping", stopping, ("paper", "code"))
        self.schedule = Schedule(
            rho=positive("method.rho", rho),
            limit=whole("method.limit", limit),
            stopping=stopping,
        )
        self.refinement = whole("method.refinement", refinement, zero=True)

    def switches(self) -> dict[str, Any]:
        return {
            **super().switches(),
            "ridge": f"{self.damping} x {self.ridge}",
            "column scaling": self.scaled,
            "stopping": self.schedule.stopping,
            "conjugate gradients": "per output",
        }

    def problem(self, gram: Tensor, what: str) -> Quadratic:
        """A group's objective from its Gram matrix (c, c)."""
        return Quadratic(gram, self.damping, self.ridge, self.scaled, f"the Gram matrix of {what}")

    def primary(
        self, problem: Quadratic, dense: Tensor, pattern: Any, core_share: float = 0.0
    ) -> Models:
        """One layer (d, c) on one Gram matrix, unscaled."""
        target = problem.scaled(dense)
        found = admm(problem, target, pattern, self.schedule, core_share)
        refined = refine(
            problem, target @ problem.matrix, found.weight, found.support, self.refinement
        )
        return Models([problem.unscaled(refined)], [found.support], found.core)

    def solve(self, group: Group, gram: Tensor | None, device: str) -> Mapping[str, Models]:
        assert gram is not None
        problem = self.problem(gram, group.name)
        return {
            name: self.primary(problem, dense, group.patterns[name])
            for name, dense in group.dense.items()
        }
