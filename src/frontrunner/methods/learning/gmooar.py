"""GMOOAR: a conditioned network and the reference vectors it is read out at, learned together.

Source: Chen & Kwok, "Multi-objective deep learning with adaptive reference vectors", NeurIPS 2022.
Lower level: the weights φ minimise Σ_i s(f(φ, r_i), r_i). Upper level: the reference vectors R make
{f(φ, r_i)} a good front, by the gradient through r as a network input alone (the implicit term of
the bilevel gradient is dropped, as in the paper). What the paper leaves open, and how it was
decided here, is on docs/methods/gmooar.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from frontrunner.errors import ConfigError
from frontrunner.front.hypervolume import sorted_hypervolume_gradient
from frontrunner.methods.base import Method, choice, positive
from frontrunner.methods.learning import scalarization
from frontrunner.methods.learning.training import Training, adam, objectives_at, train, trainable
from frontrunner.pareto_sets.base import ParetoSet
from frontrunner.pareto_sets.conditioned import ConditionedNetwork
from frontrunner.preferences import Kind, to_simplex
from frontrunner.runner.learner import Learner, Update
from frontrunner.runner.runner import Runner
from frontrunner.seeds import derive, generator
from frontrunner.tasks.base import Batch, Task, rows

MARGIN = 1e-6
AUGMENTATION = 0.005


class Gmooar(Method):
    """Adaptive reference vectors.

    Args:
        training: the task's budget.
        points: number of reference vectors n.
        seed: of initial weights, initial vectors and draws.
        upper: what the vectors maximise: ``hv`` hypervolume, ``u`` uniformity (least energy of
            pairwise repulsion), or ``hv+u`` both.
        lower: scalarisation s: ``linear``, ``cosmos`` (linear minus λ times cosine) or ``stch``
            (smooth Chebyshev).
        cosine_weight: λ of ``cosmos``. mu: smoothing of ``stch``, in units of r_j f_j.
        vector_learning_rate: of Adam on the angles; None takes the task's.
        kernel: of the uniformity energy: ``gauss`` exp(-d²/h²) (paper) or ``laplace`` exp(-d/h)
            (the published code of a follow-up).
        bandwidth: h, in units of the objectives; None follows the solutions: a multiple of their
            mean nearest-neighbour distance that falls from 3 to 0.8 over the first 30 % of the
            steps, so that spacing is evened out at large before it is at small.
        schedule: ``cycle``: every vector once on the lower level, then one upper step (code);
            ``alternate``: one step each in turn (Algorithm 1).
        warmup: share of the steps in which vectors are drawn at random and do not learn.
        normalize: divide objectives, in the lower level, by the largest value each takes at the end
            points of the front, as the second half of the warm-up sees them.
        exploration: standard deviation of Gaussian noise on the network's outputs; it falls to 0
            over two thirds of the warm-up. For analytic problems, whose corners can be absorbing.
        freeze: share of the steps, at the end, in which the vectors rest again.
        upper_batch: mini-batch of the upper step: ``train``, or ``held_out`` from the validation
            split.
        region: smallest and largest angle in degrees between a vector and any axis; None is all.
        redraw: every how many upper steps, in the first half of the run, a vector whose
            solution repeats another's is drawn anew; 0 never.
    """

    def __init__(
        self,
        training: Training,
        points: int,
        seed: int,
        cosine_weight: float,
        upper: str = "hv",
        lower: str = "linear",
        mu: float = 0.1,
        vector_learning_rate: float | None = None,
        kernel: str = "gauss",
        bandwidth: float | None = None,
        schedule: str = "cycle",
        warmup: float = 0.05,
        normalize: bool = False,
        exploration: float = 0.0,
        freeze: float = 0.0,
        upper_batch: str = "train",
        region: Sequence[float] | None = None,
        redraw: int = 50,
    ) -> None:
        self.training, self.points, self.seed = training, points, seed
        if not isinstance(points, int) or points < 2:
            raise ConfigError(f"method.points={points} must be a whole number of at least 2")
        self.upper = choice("method.upper", upper, ("hv", "u", "hv+u"))
        self.lower = choice("method.lower", lower, ("linear", "cosmos", "stch"))
        self.kernel = choice("method.kernel", kernel, ("gauss", "laplace"))
        self.schedule = choice("method.schedule", schedule, ("cycle", "alternate"))
        self.upper_batch = choice("method.upper_batch", upper_batch, ("train", "held_out"))
        self.cosine_weight = positive("method.cosine_weight", cosine_weight, zero=True)
        self.mu = positive("method.mu", mu)
        rate = (
            training.vector_learning_rate if vector_learning_rate is None else vector_learning_rate
        )
        self.vector_learning_rate = positive("method.vector_learning_rate", rate)
        self.bandwidth = None if bandwidth is None else positive("method.bandwidth", bandwidth)
        if not 0 <= warmup < 1 or not 0 <= freeze < 1 or warmup + freeze >= 1:
            raise ConfigError("method.warmup and method.freeze are shares that sum to less than 1")
        self.warmup, self.freeze = warmup, freeze
        self.normalize = normalize
        self.exploration = positive("method.exploration", exploration, zero=True)
        if not isinstance(redraw, int) or redraw < 0:
            raise ConfigError(f"method.redraw={redraw} must be a whole number of at least 0")
        self.redraw = redraw
        self.region = None if region is None else tuple(float(a) for a in region)

    def check(self, task: Task) -> None:
        trainable(task, conditioned=True)
        if "hv" in self.upper and task.m > 3:
            raise ConfigError(
                f"method.upper={self.upper} takes 2 or 3 objectives, not {task.m}; use u"
            )
        if self.normalize and self.training.vectors_per_step < task.m:
            raise ConfigError(
                f"method.normalize needs training.vectors_per_step of at least {task.m}, one for "
                "each end point"
            )
        if self.region is not None:
            _check_region(self.region, task.m)

    def switches(self) -> dict[str, Any]:
        return {
            "cosine_sign": "subtracted",
            "kernel": self.kernel,
            "schedule": self.schedule,
            "hypervolume_sorting": "each non-dominated front by itself",
            "hypergradient": "direct term only",
            "normalize": self.normalize,
            "exploration": self.exploration,
            "redraw": self.redraw,
            "upper_batch": self.upper_batch,
        }

    def fit(self, task: Task, runner: Runner) -> ParetoSet:
        learner = _GmooarLearner(task, self)
        return train(learner, task, runner, self.training, learner.pareto_set)


class _GmooarLearner(Learner):
    """Weights of the conditioned network, n × (m - 1) angles, and the scale of the objectives."""

    payoff: Tensor
    upper_steps: Tensor

    def __init__(self, task: Task, method: Gmooar) -> None:
        super().__init__()
        torch.manual_seed(derive(method.seed, "network"))
        self.network = task.conditioned_network()
        self._task, self._method, self._m = task, method, task.m
        n, steps = method.points, method.training.steps
        self.angles = nn.Parameter(self._random_angles(n, "initial"))
        # Objectives at the m end points of the front, row by row; zeros until they are measured.
        self.register_buffer("payoff", torch.zeros(task.m, task.m))
        self.register_buffer("upper_steps", torch.zeros((), dtype=torch.long))
        self._reference = np.asarray(task.reference_point, dtype=np.float64)
        self.schedule = method.training.rate_schedule()
        self._per_step = min(method.training.vectors_per_step, n)
        self._steps = steps
        self._warm_until = round(method.warmup * steps)
        self._freeze_from = steps - round(method.freeze * steps)
        lower_steps = 1 if method.schedule == "alternate" else -(-n // self._per_step)
        self._period = lower_steps + 1
        self._mover: Optimizer | None = None
        self._values: np.ndarray | None = None

    # ------------------------------------------------------------------ vectors

    def _random_angles(self, n: int, *keys: int | str) -> Tensor:
        stream = generator(self._method.seed, "angles", *keys)
        angles = torch.rand(n, self._m - 1, generator=stream) * (math.pi / 2)
        return self._project(angles)

    def _project(self, angles: Tensor) -> Tensor:
        """Into (0, π/2), and into the region of interest."""
        angles = angles.clamp(MARGIN, math.pi / 2 - MARGIN)
        if self._method.region is None:
            return angles
        return vectors_to_angles(into_region(angles_to_vectors(angles), self._method.region))

    def pareto_set(self) -> ParetoSet:
        vectors = angles_to_vectors(self.angles.detach().double().cpu()).numpy()
        order = np.lexsort(vectors.T[::-1])[::-1]
        kind: Kind = "ray" if self._method.lower == "cosmos" else "weight"
        return ConditionedNetwork(self.network, to_simplex(vectors[order]), kind, scale="sphere")

    # ------------------------------------------------------------------ steps

    def optimizers(self) -> dict[str, Optimizer]:
        self._mover = adam([self.angles], self._method.vector_learning_rate)
        weights = self._method.training.optimize(self.network.parameters())
        return {"weights": weights, "vectors": self._mover}

    def turn(self, step: int) -> str:
        moving = self._warm_until <= step < self._freeze_from
        return "vectors" if moving and step % self._period == self._period - 1 else "weights"

    def update(self, batch: Batch, step: int) -> Update:
        if self.turn(step) == "vectors":
            return self._upper(self._held_out(step) or batch, step)
        return self._lower(batch, step)

    # ------------------------------------------------------------------ lower level

    def _lower(self, batch: Batch, step: int) -> Update:
        r = self._lower_vectors(step)
        f = objectives_at(self._task, self.network, r, batch, noise=self._noise(step))
        if self._method.normalize:
            self._measure_payoff(f.detach(), step)
            f = f / self._span()
        method = self._method
        if method.lower == "linear":
            s = scalarization.linear(f, r)
        elif method.lower == "cosmos":
            s = scalarization.cosmos(f, r, method.cosine_weight)
        else:
            # The small linear term makes minimisers Pareto optimal rather than weakly so.
            s = scalarization.smooth_chebyshev(f, r, method.mu) + AUGMENTATION * f.sum(-1)
        return Update(s.mean(), passes=len(r))

    def _lower_vectors(self, step: int) -> Tensor:
        """The vectors (k, m) that a lower step trains: random while warming up, then in turn."""
        k, n = self._per_step, len(self.angles)
        if step < self._warm_until:
            drawn = angles_to_vectors(self._random_angles(k, "warmup", step).to(self.angles))
            if self._method.normalize and k >= self._m:
                drawn[: self._m] = torch.eye(self._m, dtype=drawn.dtype, device=drawn.device)
            return drawn
        lower_step = step - step // self._period
        chosen = (torch.arange(k) + lower_step * k) % n
        return angles_to_vectors(self.angles.detach()[chosen.to(self.angles.device)])

    def _noise(self, step: int) -> tuple[float, torch.Generator] | None:
        share = 1.0 - 1.5 * step / max(self._warm_until, 1)
        if self._method.exploration == 0.0 or share <= 0.0:
            return None
        return self._method.exploration * share, generator(self._method.seed, "noise", step)

    def _measure_payoff(self, f: Tensor, step: int) -> None:
        """Follow the objectives at the end points through the second half of the warm-up."""
        if step < self._warm_until <= 2 * step:
            first = not bool(self.payoff.any())
            self.payoff.lerp_(f[: self._m].to(self.payoff.dtype), 1.0 if first else 0.05)

    def _span(self) -> Tensor:
        span = self.payoff.amax(dim=0)
        return torch.where(span > 0, span, torch.ones_like(span))

    # ------------------------------------------------------------------ upper level

    def _upper(self, batch: Batch, step: int) -> Update:
        f = objectives_at(self._task, self.network, angles_to_vectors(self.angles), batch)
        self._values = f.detach().double().cpu().numpy()
        weights = np.zeros_like(self._values)
        if "hv" in self._method.upper:
            weights += hypervolume_weights(self._values, self._reference)
        if "u" in self._method.upper:
            energy = energy_gradient(self._values, self._bandwidth(step), self._method.kernel)
            # Scaled so that the vectors keep their pace as the gaps even out and forces vanish.
            energy /= max(float(np.linalg.norm(energy, axis=1).max()), 1e-300)
            weights += energy if self._method.upper == "u" else 0.1 * energy
        loss = (torch.as_tensor(weights).to(f) * f).sum()
        return Update(loss, passes=len(f))

    def _bandwidth(self, step: int) -> float:
        if self._method.bandwidth is not None:
            return self._method.bandwidth
        assert self._values is not None
        factor = 0.8 + 2.2 * max(0.0, 1.0 - step / (0.3 * self._steps))
        return max(factor * float(distances(self._values).min(axis=1).mean()), 1e-9)

    def _held_out(self, step: int) -> Batch | None:
        if self._method.upper_batch == "train":
            return None
        data = self._task.data("validation")
        size = len(data)  # type: ignore[arg-type]
        stream = generator(self._method.seed, "held_out", step)
        count = min(size, self._method.training.batch_size)
        chosen = torch.randperm(size, generator=stream)[:count].tolist()
        return tuple(t.to(self.angles.device) for t in rows(data, chosen))

    def after_step(self, turn: str, step: int) -> None:
        if turn != "vectors":
            return
        self.angles.copy_(self._project(self.angles))
        self.upper_steps += 1
        every = self._method.redraw
        if every and int(self.upper_steps) % every == 0 and step < 0.5 * self._steps:
            self._redraw(step)

    def _redraw(self, step: int) -> None:
        """New angles for vectors whose solution repeats that of a vector before them.

        Such copies sit on a corner that several vectors lead to; there the network's output does
        not depend on the vector, so no gradient parts them.
        """
        assert self._values is not None
        apart = distances(self._values / self._values.max(axis=0).clip(1e-12))
        copies = (np.triu(apart < 1e-3, k=1)).any(axis=0)
        self._draw_anew(torch.as_tensor(copies), step)

    def _draw_anew(self, chosen: Tensor, step: int) -> None:
        if not chosen.any():
            return
        assert self._mover is not None
        fresh = self._random_angles(len(self.angles), "redraw", step)
        chosen = chosen.to(self.angles.device)
        self.angles[chosen] = fresh.to(self.angles)[chosen]
        for moment in ("exp_avg", "exp_avg_sq"):
            self._mover.state[self.angles][moment][chosen] = 0.0


# ---------------------------------------------------------------------- mathematics


def angles_to_vectors(angles: Tensor) -> Tensor:
    """(n, m-1) angles in [0, π/2] -> (n, m) non-negative unit vectors; see `preferences`."""
    rest = torch.ones_like(angles[:, :1])
    columns = []
    for a in angles.split(1, dim=1):
        columns.append(rest * torch.cos(a))
        rest = rest * torch.sin(a)
    return torch.cat([rest, *reversed(columns)], dim=1)


def vectors_to_angles(vectors: Tensor) -> Tensor:
    """The inverse of `angles_to_vectors` on non-negative unit vectors."""
    m = vectors.shape[1]
    return torch.stack(
        [
            torch.atan2(vectors[:, : m - 1 - j].norm(dim=1), vectors[:, m - 1 - j])
            for j in range(m - 1)
        ],
        dim=1,
    )


def into_region(vectors: Tensor, region: Sequence[float]) -> Tensor:
    """Pull unit vectors (n, m) towards the diagonal until their angles to the axes fit ``region``.

    Along that way each component moves monotonically towards 1/√m, which a feasible region holds,
    so bisection finds the first feasible vector; those already inside stay as they are.
    """
    low, high = (math.cos(math.radians(a)) for a in reversed(region))
    diagonal = torch.full_like(vectors, vectors.shape[1] ** -0.5)

    def moved(share: Tensor) -> Tensor:
        mixed = (1.0 - share) * vectors + share * diagonal
        return mixed / mixed.norm(dim=1, keepdim=True)

    def inside(r: Tensor) -> Tensor:
        return ((r >= low) & (r <= high)).all(dim=1, keepdim=True)

    near, far = torch.zeros_like(vectors[:, :1]), torch.ones_like(vectors[:, :1])
    for _ in range(30):
        middle = 0.5 * (near + far)
        good = inside(moved(middle))
        near, far = torch.where(good, near, middle), torch.where(good, middle, far)
    return torch.where(inside(vectors), vectors, moved(far))


def hypervolume_weights(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Weights w (n, m) such that a step down Σ w·f raises the hypervolume of f = ``values`` (n, m).

    The bare gradient is zero for dominated and repeated solutions and for those beyond the
    reference. Here each non-dominated front gets the gradient it would have alone; the reference
    moves out to ideal + 1.1 (worst - ideal) where solutions lie beyond it; and, in units of the
    distance from ideal to reference, every solution's weights have length 1, so that all move at
    one pace.
    """
    ideal, worst = values.min(axis=0), values.max(axis=0)
    moved = np.maximum(reference, ideal + 1.1 * (worst - ideal))
    span = np.maximum(moved - ideal, 1e-9)
    weights = -sorted_hypervolume_gradient((values - ideal) / span, np.ones_like(span) + 1e-9)
    norms = np.linalg.norm(weights, axis=1, keepdims=True)
    return weights / np.where(norms > 0, norms, 1.0) / span


def distances(values: np.ndarray) -> np.ndarray:
    """Euclidean distances between points (n, m), with infinity on the diagonal: (n, n)."""
    apart = np.linalg.norm(values[:, None, :] - values[None, :, :], axis=2)
    np.fill_diagonal(apart, np.inf)
    return apart


def energy_gradient(values: np.ndarray, bandwidth: float, kernel: str) -> np.ndarray:
    """dU/df (n, m) of U = Σ_{i≠j} k(|f_i - f_j| / h), with h = ``bandwidth`` held constant."""
    apart = distances(values)
    if kernel == "gauss":
        force = 2.0 / bandwidth**2 * np.exp(-((apart / bandwidth) ** 2))
    else:
        force = np.exp(-apart / bandwidth) / (bandwidth * np.maximum(apart, 1e-12))
    difference = values[:, None, :] - values[None, :, :]
    return -2.0 * (force[:, :, None] * difference).sum(axis=1)


def _check_region(region: tuple[float, ...], m: int) -> None:
    if len(region) != 2 or not 0 <= region[0] < region[1] <= 90:
        raise ConfigError(
            "method.region is a smallest and a largest angle between 0 and 90 degrees"
        )
    low, high = (math.cos(math.radians(a)) ** 2 for a in reversed(region))
    if not m * low < 1.0 < m * high:
        raise ConfigError(
            f"no direction of {m} objectives lies within {list(region)} of every axis"
        )
