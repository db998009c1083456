"""Pareto set learning: one conditioned network under a scalarisation that reaches every optimum.

Source: Lin et al., "Pareto set learning for expensive multi-objective optimization", NeurIPS 2022
(the conditioned model, Chebyshev scalarisation of random preferences); Lin et al., "Smooth
Tchebycheff scalarization for multi-objective optimization", ICML 2024 (the smooth one).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from frontrunner.methods.base import Method, choice, positive
from frontrunner.methods.learning import scalarization
from frontrunner.methods.learning.chebyshev import ideal_point
from frontrunner.methods.learning.preferences import PreferenceLearner
from frontrunner.methods.learning.training import Training, train, trainable
from frontrunner.pareto_sets.base import ParetoSet
from frontrunner.preferences import grid
from frontrunner.runner.runner import Runner
from frontrunner.tasks.base import Task


class ParetoSetLearning(Method):
    """Random preferences on a conditioned network, each scalarised.

    Args:
        training: the task's budget; ``concentration`` is the Dirichlet's.
        points: preferences of the front, a simplex lattice.
        seed: of the initial weights and the draws.
        scalarization: ``smooth_chebyshev``, ``chebyshev`` or ``linear``.
        mu: smoothing, in units of weight times objective.
        ideal: z, one entry per objective; None means 0, the ideal of losses.
    """

    def __init__(
        self,
        training: Training,
        points: int,
        seed: int,
        scalarization: str = "smooth_chebyshev",
        mu: float = 0.1,
        ideal: Sequence[float] | None = None,
    ) -> None:
        self.training, self.points, self.seed = training, points, seed
        kinds = ("smooth_chebyshev", "chebyshev", "linear")
        self.scalarization = choice("method.scalarization", scalarization, kinds)
        self.mu, self.ideal = positive("method.mu", mu), ideal

    def check(self, task: Task) -> None:
        trainable(task, conditioned=True)
        grid(task.m, self.points)
        ideal_point(self.ideal, task.m)

    def fit(self, task: Task, runner: Runner) -> ParetoSet:
        learner = _PSLLearner(task, self)
        return train(learner, task, runner, self.training, learner.pareto_set)


class _PSLLearner(PreferenceLearner):
    def __init__(self, task: Task, method: ParetoSetLearning) -> None:
        preferences = grid(task.m, method.points)
        super().__init__(task, method.training, preferences, method.seed)
        self._method, self._ideal = method, ideal_point(method.ideal, task.m)

    def loss(self, f: Tensor, r: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        ideal = self._ideal.to(f)
        if self._method.scalarization == "smooth_chebyshev":
            values = scalarization.smooth_chebyshev(f, r, self._method.mu, ideal)
        elif self._method.scalarization == "chebyshev":
            values = scalarization.chebyshev(f, r, ideal)
        else:
            values = scalarization.linear(f, r)
        return values.mean(), {}
