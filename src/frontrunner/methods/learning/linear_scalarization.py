"""Linear scalarisation: one network per weight vector, each minimising Σ_j w_j f_j."""

from __future__ import annotations

from frontrunner.methods.base import Method
from frontrunner.methods.learning import scalarization
from frontrunner.methods.learning.population import fit_population
from frontrunner.methods.learning.training import Training, trainable
from frontrunner.pareto_sets.base import ParetoSet
from frontrunner.preferences import grid
from frontrunner.runner.runner import Runner
from frontrunner.tasks.base import Task


class LinearScalarization(Method):
    """Independent networks on the simplex lattice of weights; the textbook baseline.

    It reaches only the convex part of a front: on a concave one every weight ends at an end point.

    Args:
        training: the task's budget.
        points: number of weight vectors.
        seed: of the initial weights.
        vectorize: see `population.Population`.
    """

    def __init__(self, training: Training, points: int, seed: int, vectorize: str = "auto") -> None:
        self.training, self.points, self.seed = training, points, seed
        self.vectorize = vectorize

    def check(self, task: Task) -> None:
        trainable(task)
        grid(task.m, self.points)

    def fit(self, task: Task, runner: Runner) -> ParetoSet:
        return fit_population(
            task,
            runner,
            scalarization.linear,
            self.training,
            grid(task.m, self.points),
            seed=self.seed,
            vectorize=self.vectorize,
        )
