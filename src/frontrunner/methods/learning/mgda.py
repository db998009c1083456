"""MGDA and other ways to combine gradients: K networks, each down a common descent direction.

Sources: Désidéri, "Multiple-gradient descent algorithm (MGDA) for multiobjective optimization", C.
R. Math. 350, 2012: the shortest vector in the convex hull of the objectives' gradients.
The other combinations, and the solvers, are TorchJD's (Quinton & Rey, arXiv 2406.16232); among
them, for MGDA, the Frank-Wolfe iteration of Sener & Koltun, NeurIPS 2018, Algorithm 2, and for
Nash-MTL that of Navon et al., ICML 2022, Algorithm 1.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from frontrunner.errors import ConfigError
from frontrunner.methods.base import Method, choice
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
from frontrunner.seeds import derive
from frontrunner.tasks.base import Task

FAILED = "solver_failed"

Weighting = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Aggregator:
    """A way of TorchJD to combine gradients.

    Attributes:
        name: of its class that turns Gramians into weights.
        needs: packages beside TorchJD.
        options: arguments of the class.
    """

    name: str
    needs: tuple[str, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()


QUADPROG = ("qpsolvers", "quadprog")

AGGREGATORS = {
    "mgda": Aggregator("MGDAWeighting"),
    "upgrad": Aggregator("UPGradWeighting", QUADPROG),
    "dualproj": Aggregator("DualProjWeighting", QUADPROG),
    "pcgrad": Aggregator("PCGradWeighting"),
    "cagrad": Aggregator("CAGradWeighting", ("cvxpy", "clarabel"), (("c", 0.5),)),
    "nash_mtl": Aggregator("NashMTL", ("cvxpy", "ecos")),
    "aligned_mtl": Aggregator("AlignedMTLWeighting"),
    "imtl_g": Aggregator("IMTLGWeighting"),
    "mean": Aggregator("MeanWeighting"),
}


class Mgda(Method):
    """K networks from K initial weights, each trained alone down a combination of gradients.

    No preference has a part in it: preference k of the lattice is the number of a network and says
    nothing of where on the front it ended. Networks go wherever the first common descent direction
    leads; they crowd where that is, and do not cover a front.

    Args:
        training: the task's budget.
        points: number of networks, one for each point of the simplex lattice.
        seed: of the initial weights, and of the order in which PCGrad projects.
        aggregator: a key of `AGGREGATORS`. ``nash_mtl`` and ``cagrad`` compile a convex program for
            every network at every step, Nash-MTL up to twenty of them, which takes far longer than
            a small network's gradients.
        vectorize: see `population.Population`.
    """

    def __init__(
        self,
        training: Training,
        points: int,
        seed: int,
        aggregator: str = "mgda",
        vectorize: str = "auto",
    ) -> None:
        self.training, self.points, self.seed = training, points, seed
        self.aggregator = choice("method.aggregator", aggregator, AGGREGATORS)
        self.vectorize = vectorize
        self._fallbacks: dict[str, int] | None = None

    def check(self, task: Task) -> None:
        trainable(task)
        grid(task.m, self.points)
        required(self.aggregator)

    def switches(self) -> dict[str, Any]:
        counted = {} if self._fallbacks is None else {"fallbacks": self._fallbacks}
        return {
            "aggregator": self.aggregator,
            "preferences": "number the networks and steer nothing",
            "initial_weights": "one draw for each network",
            **counted,
        }

    def fit(self, task: Task, runner: Runner) -> ParetoSet:
        weighting = gramian_weighting(self.aggregator, task.m)
        learner = GradientPopulation(
            task,
            grid(task.m, self.points),
            lambda moment: combine(moment, weighting, self.seed),
            self.training,
            seed=self.seed,
            vectorize=self.vectorize,
            fallbacks=(FAILED,),
            spread=True,
        )
        found, self._fallbacks = fit_gradients(learner, task, runner, self.training)
        return found


def combine(moment: Moment, weighting: Weighting, seed: int) -> Combination:
    """Weights (K, m) that ``weighting`` gives each network; equal ones where it fails."""
    k, m = moment.losses.shape
    weights, failed = np.full((k, m), 1.0 / m), np.zeros(k, dtype=bool)
    # Some orders are random: drawn from streams of their own, and the global one left as it was.
    with torch.random.fork_rng(devices=[]):
        for i, gramian in enumerate(moment.gramians):
            torch.random.default_generator.manual_seed(
                derive(seed, "combine", int(moment.members[i]), moment.step)
            )
            found = _solved(weighting, gramian)
            failed[i] = found is None
            if found is not None:
                weights[i] = found
    return Combination(weights, {FAILED: failed})


def _solved(weighting: Weighting, gramian: Array) -> Array | None:
    try:
        found = weighting(torch.as_tensor(gramian)).double().numpy()
    except Exception:
        # cvxpy, qpsolvers and LAPACK raise types of their own; a solution left empty, any other.
        return None
    return found if np.isfinite(found).all() else None


def gramian_weighting(aggregator: str, m: int) -> Weighting:
    """TorchJD's Gramian (m, m) -> weights (m,) for a key of `AGGREGATORS`, without memory.

    Raises:
        ConfigError: a package it needs is missing.
    """
    required(aggregator)
    from torchjd import aggregation

    chosen = AGGREGATORS[aggregator]
    kind = getattr(aggregation, chosen.name)
    if aggregator == "nash_mtl":
        return _nash(kind, m)
    weighting: Weighting = kind(**dict(chosen.options))
    if aggregator == "mgda":
        return _mgda(weighting)
    # None of these weights depends on the length of gradients; the solvers' tolerances do.
    return lambda gramian: weighting(gramian * (m / gramian.trace()))


def _mgda(weighting: Weighting) -> Weighting:
    """MGDA, with the answer given at once where the shortest vector is one of the gradients: none
    then has a smaller inner product with it than itself. TorchJD's iteration, once it has found
    such a gradient, goes on to its last step.
    """

    def weights(gramian: Tensor) -> Tensor:
        lengths = gramian.diagonal()
        shortest = int(lengths.argmin())
        if bool((gramian[shortest] >= lengths[shortest]).all()):
            found = torch.zeros_like(lengths)
            found[shortest] = 1.0
            return found
        return weighting(gramian * (len(gramian) / gramian.trace()))

    return weights


def _nash(kind: Any, m: int) -> Weighting:
    """Nash-MTL takes a matrix, for which any root of the Gramian will do, and begins where it ended
    the last time, which a resumed run could not repeat: here it always begins with equal weights.
    Its direction has length 1, as in the published code.
    """
    weighting = kind(n_tasks=m, max_norm=1.0).weighting

    def weights(gramian: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(gramian)
        weighting.prvs_alpha = np.ones(m)
        with warnings.catch_warnings():
            # cvxpy remarks that it compiles the problem anew each time.
            warnings.filterwarnings("ignore", message=".*not DPP.*")
            found: Tensor = weighting(vectors * values.clamp(min=0.0).sqrt())
        return found

    return weights


def required(aggregator: str) -> None:
    """Refuse an aggregator whose packages are not installed.

    Raises:
        ConfigError: the message has the command that installs them.
    """
    needs = ("torchjd", *AGGREGATORS[aggregator].needs)
    missing = [name for name in needs if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"method.aggregator={aggregator} needs {' and '.join(missing)}: "
            "pip install frontrunner[combiners]"
        )
