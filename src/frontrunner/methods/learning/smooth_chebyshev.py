"""Smooth Chebyshev scalarisation: μ log Σ_j exp(w_j (f_j - z_j) / μ), one network per weight."""

from __future__ import annotations

from collections.abc import Sequence

from frontrunner.methods.base import Method, positive
from frontrunner.methods.learning import scalarization
from frontrunner.methods.learning.chebyshev import ideal_point
from frontrunner.methods.learning.population import fit_population
from frontrunner.methods.learning.training import Training, trainable
from frontrunner.pareto_sets.base import ParetoSet
from frontrunner.preferences import grid
from frontrunner.runner.runner import Runner
from frontrunner.tasks.base import Task


class SmoothChebyshev(Method):
    """Independent networks on the simplex lattice of weights, with a differentiable maximum.

    Source: Lin et al., ICML 2024.

    Args:
        training: the task's budget.
        points: number of weight vectors.
        seed: of the initial weights.
        mu: smoothing, in units of w_j f_j.
        ideal: z, one entry per objective; None means 0, the ideal of losses.
        vectorize: see `population.Population`.
    """

    def __init__(
        self,
        training: Training,
        points: int,
        seed: int,
        mu: float = 0.1,
        ideal: Sequence[float] | None = None,
        vectorize: str = "auto",
    ) -> None:
        self.training, self.points, self.seed = training, points, seed
        self.mu = positive("method.mu", mu)
        self.ideal, self.vectorize = ideal, vectorize

    def check(self, task: Task) -> None:
        trainable(task)
        grid(task.m, self.points)
        ideal_point(self.ideal, task.m)

    def fit(self, task: Task, runner: Runner) -> ParetoSet:
        ideal = ideal_point(self.ideal, task.m)
        return fit_population(
            task,
            runner,
            lambda f, w: scalarization.smooth_chebyshev(f, w, self.mu, ideal.to(f)),
            self.training,
            grid(task.m, self.points),
            seed=self.seed,
            vectorize=self.vectorize,
        )
