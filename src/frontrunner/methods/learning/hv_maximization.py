"""Hypervolume maximisation: K networks, each down the direction that enlarges the hypervolume most.

Source: Deist, Grewal, Dankers, Alderliesten & Bosman, "Multi-objective learning to predict Pareto
fronts using hypervolume maximization", arXiv 2102.04523 (EMO 2023): network k minimises
Σ_j w_kj f_j with w_kj = -∂HV/∂f_kj; dominated networks by non-dominated sorting, as in HIGA-MO
(Wang, Deutz, Bäck & Emmerich, EMO 2017).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from frontrunner.errors import ConfigError
from frontrunner.front.hypervolume import sorted_hypervolume_gradient
from frontrunner.methods.base import Method, choice, switch
from frontrunner.methods.learning.gradients import (
    Array,
    Combination,
    GradientPopulation,
    Moment,
    fit_gradients,
)
from frontrunner.methods.learning.training import Training, trainable
from frontrunner.pareto_sets.base import ParetoSet
from frontrunner.preferences import grid
from frontrunner.runner.runner import Runner
from frontrunner.tasks.base import Task

BEYOND = "beyond_reference"


class HvMaximization(Method):
    """K networks from K initial weights that share out the hypervolume; two or three objectives.

    No preference has a part in it: preference k of the lattice is the number of a network and says
    nothing of where on the front it ended.

    Args:
        training: the task's budget.
        points: number of networks, one for each point of the simplex lattice.
        seed: of the initial weights.
        reference: ``moving``: the task's reference point, or 1.1 times the largest of the networks'
            losses where that is more (published code); ``task``: the task's alone, beyond which a
            network minimises the sum of its objectives.
        normalize: scale each network's weights to length 1, so that all move at one pace (paper).
        vectorize: see `population.Population`.
    """

    def __init__(
        self,
        training: Training,
        points: int,
        seed: int,
        reference: str = "moving",
        normalize: bool = True,
        vectorize: str = "auto",
    ) -> None:
        self.training, self.points, self.seed = training, points, seed
        self.reference = choice("method.reference", reference, ("moving", "task"))
        self.normalize = switch("method.normalize", normalize)
        self.vectorize = vectorize
        self._fallbacks: dict[str, int] | None = None

    def check(self, task: Task) -> None:
        trainable(task)
        grid(task.m, self.points)
        if task.m > 3:
            raise ConfigError(
                f"method=learning/hv_maximization takes 2 or 3 objectives, not {task.m}; "
                "method=learning/epo takes more"
            )

    def switches(self) -> dict[str, Any]:
        counted = {} if self._fallbacks is None else {"fallbacks": self._fallbacks}
        return {
            "reference": self.reference,
            "normalize": self.normalize,
            "hypervolume_sorting": "each non-dominated front by itself",
            "preferences": "number the networks and steer nothing",
            "initial_weights": "one draw for each network",
            **counted,
        }

    def fit(self, task: Task, runner: Runner) -> ParetoSet:
        reference = np.asarray(task.reference_point, dtype=np.float64)

        def combine(moment: Moment) -> Combination:
            weights = hypervolume_weights(
                moment.losses,
                reference,
                moving=self.reference == "moving",
                normalize=self.normalize,
            )
            idle: NDArray[np.bool_] = (weights == 0).all(axis=1)
            weights[idle] = 1.0 / weights.shape[1]
            return Combination(weights, {BEYOND: idle})

        learner = GradientPopulation(
            task,
            grid(task.m, self.points),
            combine,
            self.training,
            seed=self.seed,
            vectorize=self.vectorize,
            fallbacks=(BEYOND,),
            spread=True,
            independent=False,
        )
        found, self._fallbacks = fit_gradients(learner, task, runner, self.training)
        return found


def hypervolume_weights(
    losses: Array, reference: Array, *, moving: bool = True, normalize: bool = True
) -> Array:
    """w (K, m) >= 0: minus the gradient that each of the losses (K, m) has within its own
    non-dominated front; zero beyond the reference (m,).

    Args:
        moving: move the reference out to 1.1 times the largest loss where that is more.
        normalize: scale rows that are not zero to length 1.
    """
    if moving:
        largest = losses.max(axis=0)
        reference = np.maximum(reference, largest + 0.1 * np.abs(largest))
    weights = -sorted_hypervolume_gradient(losses, reference)
    if normalize:
        lengths = np.linalg.norm(weights, axis=1, keepdims=True)
        weights = weights / np.where(lengths > 0, lengths, 1.0)
    return weights
