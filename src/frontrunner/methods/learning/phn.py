"""PHN: a hypernetwork that makes the weights for any preference.

Source: Navon et al., "Learning the Pareto front with hypernetworks", ICLR 2021, Algorithm 1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from frontrunner.methods.base import Method, choice, positive
from frontrunner.methods.learning import scalarization
from frontrunner.methods.learning.epo import exact_pareto_weights
from frontrunner.methods.learning.preferences import PreferenceLearner
from frontrunner.methods.learning.training import Training, train, trainable
from frontrunner.pareto_sets.base import ParetoSet
from frontrunner.preferences import even_rays, grid
from frontrunner.runner.runner import Runner
from frontrunner.tasks.base import Task


class PHN(Method):
    """Random preferences on a network conditioned by `HyperNetwork` (``conditioning=hypernetwork``,
    which its configuration chooses).

    Args:
        training: the task's budget; ``concentration`` is the Dirichlet's. The authors' code for
            two digits draws uniformly unless told otherwise, and learns at a rate of 1e-4.
        points: preferences of the front.
        seed: of the initial weights and the draws.
        solver: ``linear`` (PHN-LS) weights the objectives by the preference; ``epo`` (PHN-EPO)
            weights their gradients so that the objectives end on the ray of the preference, see
            `Epo`.
        margin: smallest entry of a ray, on the simplex.
        tolerance: non-uniformity up to which a ray counts as reached.
    """

    def __init__(
        self,
        training: Training,
        points: int,
        seed: int,
        solver: str = "linear",
        margin: float = 1e-3,
        tolerance: float = 1e-4,
    ) -> None:
        self.training, self.points, self.seed = training, points, seed
        self.solver = choice("method.solver", solver, ("linear", "epo"))
        self.margin = positive("method.margin", margin)
        self.tolerance = positive("method.tolerance", tolerance, zero=True)
        self.vectors = grid if solver == "linear" else even_rays
        self._failed: int | None = None

    def check(self, task: Task) -> None:
        trainable(task, conditioned=True)
        self.vectors(task.m, self.points)

    def switches(self) -> dict[str, Any]:
        counted = {} if self._failed is None else {"fallbacks": {"program_failed": self._failed}}
        return {"solver": self.solver, **(counted if self.solver == "epo" else {})}

    def fit(self, task: Task, runner: Runner) -> ParetoSet:
        learner = _PHNLearner(task, self)
        found = train(learner, task, runner, self.training, learner.pareto_set)
        self._failed = int(learner.failed)
        return found


class _PHNLearner(PreferenceLearner):
    failed: Tensor

    def __init__(self, task: Task, method: PHN) -> None:
        kind: Any = "weight" if method.solver == "linear" else "ray"
        vectors = method.vectors(task.m, method.points)
        super().__init__(task, method.training, vectors, method.seed, kind)
        self._method = method
        self.register_buffer("failed", torch.zeros((), dtype=torch.long))

    def loss(self, f: Tensor, r: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        if self._method.solver == "linear":
            return scalarization.linear(f, r).mean(), {}
        return (f * self._weights(f, r)).sum(1).mean(), {}

    def _weights(self, f: Tensor, r: Tensor) -> Tensor:
        """(k, m): of the objectives' gradients at each preference, by exact Pareto optimal
        search."""
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        gramians = []
        for row in f:
            gradients = []
            for value in row:
                parts = torch.autograd.grad(
                    value, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
                )
                gradients.append(torch.cat([part.flatten() for part in parts]))
            jacobian = torch.stack(gradients).double()
            gramians.append(jacobian @ jacobian.T)
        weights, failed = exact_pareto_weights(
            f.detach().double().cpu().numpy(),
            torch.stack(gramians).cpu().numpy(),
            1.0 / r.double().cpu().numpy().clip(min=self._method.margin),
            tolerance=self._method.tolerance,
        )
        self.failed += int(failed.sum())
        return torch.as_tensor(weights).to(f)
