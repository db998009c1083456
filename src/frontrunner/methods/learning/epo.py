"""Exact Pareto optimal search: K networks, each to where its own ray meets the front.

Source: Mahapatra & Rajan, "Multi-task learning with user preferences: gradient descent with
controlled ascent in Pareto optimization", ICML 2020. A solution for the weight r has r_1 f_1 = … =
r_m f_m, so it lies on the ray 1/r. Preferences here are those rays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frontrunner.errors import ConfigError
from frontrunner.methods.base import Method, choice, positive, switch
from frontrunner.methods.learning.chebyshev import ideal_point
from frontrunner.methods.learning.gradients import (
    Array,
    Combination,
    GradientPopulation,
    Moment,
    fit_gradients,
)
from frontrunner.methods.learning.training import Training, trainable
from frontrunner.pareto_sets.base import ParetoSet
from frontrunner.preferences import even_rays, grid, to_simplex
from frontrunner.runner.runner import Runner
from frontrunner.tasks.base import Task

FAILED = "program_failed"


class Epo(Method):
    """Networks on evenly spread rays, each balancing r ∘ f first and descending when balanced.

    Args:
        training: the task's budget.
        points: number of rays.
        seed: of the initial weights.
        vectors: ``even`` (equal angles for two objectives, the simplex lattice beyond), or
            ``lattice`` (Das-Dennis for any number).
        margin: smallest entry of a ray, on the simplex; where a ray lies on an axis, r = 1/ray
            would have no limit.
        tolerance: non-uniformity μ up to which r ∘ f counts as balanced, and the networks descend.
        relaxed: let the descent leave the ray; otherwise it may not lower the balance.
        ideal: subtracted from the objectives, one entry each; None means 0. What is left may not be
            negative.
        vectorize: see `population.Population`.
    """

    def __init__(
        self,
        training: Training,
        points: int,
        seed: int,
        vectors: str = "even",
        margin: float = 1e-2,
        tolerance: float = 1e-4,
        relaxed: bool = False,
        ideal: Sequence[float] | None = None,
        vectorize: str = "auto",
    ) -> None:
        self.training, self.points, self.seed = training, points, seed
        choice("method.vectors", vectors, ("even", "lattice"))
        self.vectors = even_rays if vectors == "even" else grid
        self.margin = positive("method.margin", margin)
        self.tolerance = positive("method.tolerance", tolerance, zero=True)
        self.relaxed = switch("method.relaxed", relaxed)
        self.ideal, self.vectorize = ideal, vectorize
        self._fallbacks: dict[str, int] | None = None

    def check(self, task: Task) -> None:
        trainable(task)
        self.vectors(task.m, self.points)
        ideal_point(self.ideal, task.m)
        if self.margin * task.m >= 1:
            raise ConfigError(f"method.margin={self.margin} must be below 1/{task.m}")

    def switches(self) -> dict[str, Any]:
        counted = {} if self._fallbacks is None else {"fallbacks": self._fallbacks}
        return {
            "weights": "r = 1 / ray",
            "relaxed": self.relaxed,
            "without_solution": "linear scalarisation by r (published code)",
            **counted,
        }

    def fit(self, task: Task, runner: Runner) -> ParetoSet:
        ideal = ideal_point(self.ideal, task.m).double().numpy()

        def combine(moment: Moment) -> Combination:
            _refuse_below(moment, ideal)
            weights, failed = exact_pareto_weights(
                moment.losses - ideal,
                moment.gramians,
                1.0 / moment.preferences.clip(min=self.margin),
                tolerance=self.tolerance,
                relaxed=self.relaxed,
            )
            return Combination(weights, {FAILED: failed})

        learner = GradientPopulation(
            task,
            self.vectors(task.m, self.points),
            combine,
            self.training,
            seed=self.seed,
            vectorize=self.vectorize,
            kind="ray",
            fallbacks=(FAILED,),
        )
        found, self._fallbacks = fit_gradients(learner, task, runner, self.training)
        return found


def _refuse_below(moment: Moment, ideal: Array) -> None:
    below = moment.losses < ideal
    if below.any():
        k, j = (int(i) for i in np.argwhere(below)[0])
        raise ConfigError(
            f"objective {j + 1} is {moment.losses[k, j]:g} at step {moment.step}, below "
            f"method.ideal={ideal.tolist()}: rays start there, so set method.ideal to a lower bound"
        )


# ---------------------------------------------------------------------- mathematics


def exact_pareto_weights(
    losses: Array,
    gramians: Array,
    weights: Array,
    *,
    tolerance: float = 1e-4,
    relaxed: bool = False,
) -> tuple[Array, NDArray[np.bool_]]:
    """Weights of the gradients for K networks at once.

    Args:
        losses: l (K, m), non-negative.
        gramians: C (K, m, m), inner products of the objectives' gradients.
        weights: r (K, m), positive; the aim is r_1 l_1 = … = r_m l_m.
        tolerance: of the non-uniformity μ(r ∘ l).
        relaxed: see `Epo`.

    Returns:
        (K, m) non-negative with sum m, and (K,) where a linear program had no solution, so that the
        weights are r, scaled.
    """
    k, m = losses.shape
    r = to_simplex(weights)
    programs = [linear_program(losses[i], gramians[i], r[i], tolerance, relaxed) for i in range(k)]
    found, failed = solve(programs)
    found[failed] = r[failed]
    return m * found, failed


def non_uniformity(balance: Array) -> float:
    """The paper's μ = Σ_j l̂_j log(m l̂_j), l̂ = r ∘ l scaled to sum 1: 0 when balanced, log m at
    worst."""
    share = to_simplex(balance.clip(min=1e-300))
    return float((share * np.log(share * len(share))).sum())


def linear_program(
    losses: Array, gramian: Array, r: Array, tolerance: float, relaxed: bool
) -> tuple[Array, Array, Array]:
    """(c, A, b) of one network's program: minimise c·β with A β <= b on the simplex; shapes (m,),
    (i, m), (i,).

    The paper's balance mode: max aᵀCβ, a the anchoring direction along which μ falls, where
    objectives that a lets rise, C_j·a < 0, rise no faster than along it, and the worst, J*, does
    not rise at all. Its descent mode: max 1ᵀCβ with no objective rising, nor, unless relaxed, μ;
    here also where no gradient changes μ, as at the end of an axis, and the balance would choose
    nothing.
    """
    m = len(losses)
    gramian = gramian * (m / max(float(np.trace(gramian)), 1e-300))
    balance = (r * losses).clip(min=1e-300)
    mu = non_uniformity(balance)
    anchor = r * (np.log(to_simplex(balance) * m) - mu)
    pull = gramian @ anchor
    idle = np.abs(pull).max() <= 1e-12 * np.abs(anchor).max()
    if mu <= tolerance or idle:
        rows, floors = gramian, np.zeros(m)
        if not relaxed and not idle:
            rows = np.vstack([gramian, pull])
            floors = np.append(floors, min(float(pull.max()), 0.0))
        return -gramian.sum(axis=0), -rows, -floors
    floors = np.zeros(m)
    if (pull > 0).any():
        floors = np.where(pull > 0, -np.inf, pull)
        floors[balance == balance.max()] = 0.0
    kept = np.isfinite(floors)
    return -pull, -gramian[kept], -floors[kept]


def solve(
    programs: Sequence[tuple[Array, Array, Array]],
) -> tuple[Array, NDArray[np.bool_]]:
    """Solutions (K, m) of K programs on the simplex, and (K,) which of them have none.

    All are put to HiGHS as one program of independent blocks, since a call costs far more than the
    arithmetic; only if that has no solution are they tried one by one.
    """
    from scipy.linalg import block_diag
    from scipy.optimize import linprog

    def attempt(chosen: Sequence[tuple[Array, Array, Array]]) -> Array | None:
        m = len(chosen[0][0])
        result = linprog(
            np.concatenate([c for c, _, _ in chosen]),
            block_diag(*(a for _, a, _ in chosen)),
            np.concatenate([b for _, _, b in chosen]),
            block_diag(*(np.ones((1, m)) for _ in chosen)),
            np.ones(len(chosen)),
            bounds=(0, None),
            method="highs",
        )
        return result.x.reshape(-1, m) if result.status == 0 else None

    together = attempt(programs)
    if together is not None:
        return together, np.zeros(len(programs), dtype=bool)
    each = [attempt([program]) for program in programs]
    failed = np.array([x is None for x in each])
    m = len(programs[0][0])
    return np.array([np.zeros(m) if x is None else x[0] for x in each]), failed
