"""Pareto MTL: K networks, each kept in its own cone of the objective space.

Source: Lin, Zhen, Li, Zhang & Kwong, "Pareto multi-task learning", NeurIPS 2019. Unit vectors
u_1 … u_K divide the objective space: F belongs to the cone of the u_k that it has the smallest
angle with, that is, G_j(F) = (u_j - u_k)·F <= 0 for all j.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frontrunner.errors import ConfigError
from frontrunner.methods.base import Method, choice, positive
from frontrunner.methods.learning.chebyshev import ideal_point
from frontrunner.methods.learning.gradients import (
    Array,
    Combination,
    GradientPopulation,
    Moment,
    fit_gradients,
)
from frontrunner.methods.learning.min_norm import min_norm
from frontrunner.methods.learning.training import Training, trainable
from frontrunner.pareto_sets.base import ParetoSet
from frontrunner.preferences import even_rays, grid, to_sphere
from frontrunner.runner.runner import Runner
from frontrunner.tasks.base import Task

FAILED = "program_failed"


class ParetoMtl(Method):
    """Networks in evenly spread cones: first each into its own, then down without leaving it.

    Args:
        training: the task's budget.
        points: number of cones.
        seed: of the initial weights.
        vectors: ``even`` (equal angles for two objectives, the simplex lattice beyond), or
            ``lattice`` (Das-Dennis for any number).
        initial: share of the steps in which a network outside its cone goes nowhere but into it.
        ideal: the apex of the cones, one entry for each objective; None means 0.
        vectorize: see `population.Population`.
    """

    def __init__(
        self,
        training: Training,
        points: int,
        seed: int,
        vectors: str = "even",
        initial: float = 0.2,
        ideal: Sequence[float] | None = None,
        vectorize: str = "auto",
    ) -> None:
        self.training, self.points, self.seed = training, points, seed
        choice("method.vectors", vectors, ("even", "lattice"))
        self.vectors = even_rays if vectors == "even" else grid
        self.initial = positive("method.initial", initial, zero=True)
        if initial > 1:
            raise ConfigError(f"method.initial={initial} is a share of the steps, at most 1")
        self.ideal, self.vectorize = ideal, vectorize
        self._fallbacks: dict[str, int] | None = None

    def check(self, task: Task) -> None:
        trainable(task)
        self.vectors(task.m, self.points)
        ideal_point(self.ideal, task.m)

    def switches(self) -> dict[str, Any]:
        counted = {} if self._fallbacks is None else {"fallbacks": self._fallbacks}
        return {
            "initial": self.initial,
            "weights": "scaled to absolute sum m in both phases (published code: in the second)",
            "without_solution": "equal weights",
            **counted,
        }

    def fit(self, task: Task, runner: Runner) -> ParetoSet:
        rays = self.vectors(task.m, self.points)
        ideal = ideal_point(self.ideal, task.m).double().numpy()
        until = round(self.initial * self.training.steps)

        def combine(moment: Moment) -> Combination:
            weights, failed = pareto_mtl_weights(
                moment.losses - ideal,
                moment.gramians,
                to_sphere(rays),
                moment.members,
                entering=moment.step < until,
            )
            return Combination(weights, {FAILED: failed})

        learner = GradientPopulation(
            task,
            rays,
            combine,
            self.training,
            seed=self.seed,
            vectorize=self.vectorize,
            kind="ray",
            fallbacks=(FAILED,),
        )
        found, self._fallbacks = fit_gradients(learner, task, runner, self.training)
        return found


# ---------------------------------------------------------------------- mathematics


def pareto_mtl_weights(
    losses: Array,
    gramians: Array,
    vectors: Array,
    members: NDArray[np.int64],
    *,
    entering: bool,
) -> tuple[Array, NDArray[np.bool_]]:
    """Weights of the gradients, (k, m) with absolute sum m, and (k,) where no solution was found.

    Args:
        losses: F (k, m). gramians: (k, m, m).
        vectors: u (K, m), unit vectors of all cones.
        members: (k,) which cone is whose.
        entering: whether networks outside their cone descend the violated G_j alone (the paper's
            search for an initial solution), and not the objectives along with them.
    """
    k, m = losses.shape
    weights, failed = np.full((k, m), 1.0), np.zeros(k, dtype=bool)
    for i in range(k):
        away = vectors - vectors[members[i]]
        active = away[away @ losses[i] > 1e-12 * np.linalg.norm(losses[i])]
        inside = len(active) == 0
        rows = active if entering and not inside else np.vstack([np.eye(m), active])
        try:
            found = min_norm(rows @ gramians[i] @ rows.T) @ rows
        except RuntimeError:
            failed[i] = True
            continue
        total = float(np.abs(found).sum())
        if total > 0:
            weights[i] = found * (m / total)
    return weights, failed
