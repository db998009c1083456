"""MOO-SVGD: K networks as particles that descend together and push each other apart on the front.

Source: Liu, Tong & Liu, "Profiling Pareto front with multi-objective Stein variational gradient
descent", NeurIPS 2021. Particle i descends

    (1/K) Σ_j [ k(F_i, F_j) g(θ_j) - α ∇_θj k(F_i, F_j) ],

g the shortest vector in the hull of a particle's gradients (MGDA), k a Gaussian kernel of objective
vectors. What the authors' code for ZDT1-3 does otherwise is on docs/methods/learning.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from frontrunner.methods.base import Method, choice, positive, switch
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
from frontrunner.preferences import grid
from frontrunner.runner.runner import Runner
from frontrunner.tasks.base import Task

FAILED = "program_failed"


class MooSvgd(Method):
    """K networks from K initial weights, spread by repulsion between their objective vectors.

    No preference has a part in it: preference k of the lattice is the number of a network and says
    nothing of where on the front it ended.

    Args:
        training: the task's budget.
        points: number of networks, one for each point of the simplex lattice.
        seed: of the initial weights.
        bandwidth: h of the kernel exp(-d²/h²), in units of the objectives; None takes it from the
            median of the squared distances, over the logarithm of K + 1.
        repulsion: α. With a bandwidth that follows the distances repulsion grows without bound as
            particles gather, and on analytic problems α = 1 drives them off the front.
        pushed: whose gradient moves a particle away from another: its ``own``, as in the authors'
            code, which differentiates Σ_ij k(F_i, F_j) by each particle; or the ``other`` one's, as
            the formula has it, which in networks that share no weights points nowhere in
            particular.
        normalize: scale every gradient to length 1 before anything else. Ours: the authors' code
            scales each coordinate of the descent gradients over all particles.
        vectorize: see `population.Population`.
    """

    def __init__(
        self,
        training: Training,
        points: int,
        seed: int,
        bandwidth: float | None = 0.1,
        repulsion: float = 0.1,
        pushed: str = "own",
        normalize: bool = True,
        vectorize: str = "auto",
    ) -> None:
        self.training, self.points, self.seed = training, points, seed
        self.bandwidth = None if bandwidth is None else positive("method.bandwidth", bandwidth)
        self.repulsion = positive("method.repulsion", repulsion, zero=True)
        self.pushed = choice("method.pushed", pushed, ("own", "other"))
        self.normalize = switch("method.normalize", normalize)
        self.vectorize = vectorize
        self._fallbacks: dict[str, int] | None = None

    def check(self, task: Task) -> None:
        trainable(task)
        grid(task.m, self.points)

    def switches(self) -> dict[str, Any]:
        counted = {} if self._fallbacks is None else {"fallbacks": self._fallbacks}
        return {
            "bandwidth": "median" if self.bandwidth is None else self.bandwidth,
            "pushed": self.pushed,
            "normalize": self.normalize,
            "preferences": "number the networks and steer nothing",
            "initial_weights": "one draw for each network",
            "without_solution": "equal weights",
            **counted,
        }

    def fit(self, task: Task, runner: Runner) -> ParetoSet:
        def combine(moment: Moment) -> Combination:
            weights, failed = stein_weights(
                moment.losses,
                moment.gramians,
                bandwidth=self.bandwidth,
                repulsion=self.repulsion,
                pushed=self.pushed,
                normalize=self.normalize,
            )
            return Combination(weights, {FAILED: failed})

        learner = GradientPopulation(
            task,
            grid(task.m, self.points),
            combine,
            self.training,
            seed=self.seed,
            vectorize=self.vectorize,
            fallbacks=(FAILED,),
            spread=True,
            independent=False,
        )
        found, self._fallbacks = fit_gradients(learner, task, runner, self.training)
        return found


# ---------------------------------------------------------------------- mathematics


def stein_weights(
    losses: Array,
    gramians: Array,
    *,
    bandwidth: float | None = None,
    repulsion: float = 1.0,
    pushed: str = "own",
    normalize: bool = True,
) -> tuple[Array, NDArray[np.bool_]]:
    """Weights (K, K, m): particle i descends Σ_j Σ_l w_ijl ∇f_l(θ_j); and (K,) where the search for
    the shortest vector failed, so that its gradients count equally.

    Args:
        losses: F (K, m). gramians: (K, m, m).
        bandwidth, repulsion, pushed, normalize: see `MooSvgd`.
    """
    n, m = losses.shape
    lengths = np.ones((n, m))
    if normalize:
        lengths = np.sqrt(np.einsum("kjj->kj", gramians))
        lengths = np.where(lengths > 0, lengths, 1.0)
    descent, failed = np.full((n, m), 1.0 / m), np.zeros(n, dtype=bool)
    for k in range(n):
        try:
            descent[k] = min_norm(gramians[k] / np.outer(lengths[k], lengths[k]))
        except RuntimeError:
            failed[k] = True
    similar, slopes = kernel(losses, bandwidth)
    weights = similar[:, :, None] * descent[None]
    each = np.arange(n)
    if pushed == "own":
        weights[each, each] += repulsion * slopes.sum(axis=1)
    else:
        # The derivative with respect to the other argument is that of its own with indices swapped.
        weights -= repulsion * slopes.transpose(1, 0, 2)
    return weights / lengths[None] / n, failed


def kernel(losses: Array, bandwidth: float | None = None) -> tuple[Array, Array]:
    """k(F_i, F_j) = exp(-|F_i - F_j|²/h²) (K, K), and its derivatives by F_i, (K, K, m).

    Without a ``bandwidth``, h² is the median of the squared distances over log(K + 1).
    """
    n = len(losses)
    apart = losses[:, None] - losses[None]
    squared = (apart**2).sum(axis=2)
    if bandwidth is None:
        pairs = squared[np.triu_indices(n, 1)]
        width = float(np.median(pairs)) / np.log(n + 1) if len(pairs) else 1.0
    else:
        width = bandwidth**2
    width = max(width, 1e-12)
    similar = np.exp(-squared / width)
    return similar, -2.0 / width * apart * similar[:, :, None]
