"""Chebyshev scalarisation: one network per weight vector, each minimising max_j w_j (f_j - z_j)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from frontrunner.errors import ConfigError
from frontrunner.methods.base import Method
from frontrunner.methods.learning import scalarization
from frontrunner.methods.learning.population import fit_population
from frontrunner.methods.learning.training import Training, trainable
from frontrunner.pareto_sets.base import ParetoSet
from frontrunner.preferences import grid
from frontrunner.runner.runner import Runner
from frontrunner.tasks.base import Task


class Chebyshev(Method):
    """Independent networks on the simplex lattice of weights; reaches concave parts as well.

    Args:
        training: the task's budget.
        points: number of weight vectors.
        seed: of the initial weights.
        ideal: z, one entry per objective; None means 0, the ideal of losses.
        vectorize: see `population.Population`.
    """

    def __init__(
        self,
        training: Training,
        points: int,
        seed: int,
        ideal: Sequence[float] | None = None,
        vectorize: str = "auto",
    ) -> None:
        self.training, self.points, self.seed = training, points, seed
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
            lambda f, w: scalarization.chebyshev(f, w, ideal.to(f)),
            self.training,
            grid(task.m, self.points),
            seed=self.seed,
            vectorize=self.vectorize,
        )


def ideal_point(ideal: Sequence[float] | None, m: int) -> Tensor:
    """The ideal point as a tensor (m,); None means zeros.

    Raises:
        ConfigError: wrong length.
    """
    if ideal is None:
        return torch.zeros(m)
    if len(ideal) != m:
        raise ConfigError(f"method.ideal needs one entry for each of {m} objectives")
    return torch.tensor(list(ideal), dtype=torch.float32)
