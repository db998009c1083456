"""PCB-Merging: parameters weighted by importance within a task and agreement across tasks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frontrunner.errors import ConfigError
from frontrunner.methods.base import choice
from frontrunner.methods.merging.base import SCALES, Merger, Preferences, ScalePer
from frontrunner.methods.merging.ties import magnitudes, share_of
from frontrunner.pareto_sets.merged import Array, Rule
from frontrunner.weights.parents import Parents
from frontrunner.weights.selection import order_statistics

INTER = ("products", "signed_minmax", "elementwise")


class Statistics(NamedTuple):
    """Of each task vector as a whole, (K,) float32."""

    low: NDArray[np.float32]  # quantiles of its magnitudes
    high: NDArray[np.float32]
    cut: NDArray[np.float32]  # the score that becomes 0
    top: NDArray[np.float32]  # and the one that becomes 1


@dataclass(frozen=True)
class ParameterCompetition(Rule):
    """θ(p) = θ_0 + λ Σ_k w_k C_k S_k / Σ_k S_k, number by number. Here a_k is |τ_k| clamped to its
    quantiles q and 1 - q, C_k = sign(τ_k) a_k, N_k is a_k scaled to [0, 1], and S_k is
    exp(K N_k²) inter_k with its largest share ``ratio`` scaled to [0, 1] and the rest 0. inter_k is

    - ``products``: tanh(τ_k Σ_j τ_j);
    - ``signed_minmax``: tanh(τ_k Σ_j n_j), n_j = sign(τ_j) N_j;
    - ``elementwise``: Σ_j tanh(n_k n_j).

    Quantiles, smallest and largest numbers are those of a whole task vector, at any preference.
    A task vector whose magnitudes, or scores, are all equal has N_k, or S_k, 0.

    Attributes:
        ratio: share of each task vector whose score is not 0.
        quantile: q.
        inter: which agreement across tasks.
    """

    ratio: float
    quantile: float
    inter: str

    elementwise = True

    def prepare(self, parents: Parents) -> Statistics:
        """Four passes over all tensors: an exact selection takes two."""
        keys = [key for key in parents.base.shapes() if parents.mergeable(key)]
        size = sum(math.prod(parents.base.shapes()[key]) for key in keys)
        if not size:
            return Statistics(*np.zeros((4, len(parents)), dtype=np.float32))
        # Ranks as in the authors' code.
        low, high = int(size * self.quantile), max(0, int(size * (1 - self.quantile) - 1))
        cut = min(int(size * (1 - self.ratio)), size - 1)
        everyone = np.ones((len(parents), 1), dtype=np.int64)
        quantiles = order_statistics(lambda: magnitudes(parents, keys), everyone * [low, high])
        scores = order_statistics(
            lambda: self._all_scores(parents, keys, quantiles), everyone * [cut, size - 1]
        )
        return Statistics(*quantiles.T, *scores.T)

    def _all_scores(
        self, parents: Parents, keys: Sequence[str], quantiles: NDArray[np.float32]
    ) -> Iterator[list[Tensor]]:
        for key in keys:
            for _, base, experts in parents.pieces(key):
                task_vectors = [expert - base for expert in experts]
                yield [s.float() for s in self._scores(task_vectors, *quantiles.T)]

    def _scores(
        self, task_vectors: Sequence[Tensor], low: NDArray[np.float32], high: NDArray[np.float32]
    ) -> list[Tensor]:
        """exp(K N_k²) inter_k of each task vector."""
        normal = [
            _rescale(t.abs(), float(a), float(b))
            for t, a, b in zip(task_vectors, low, high, strict=True)
        ]
        signed = [n * t.sign() for n, t in zip(normal, task_vectors, strict=True)]
        if self.inter == "elementwise":
            inter = [sum((n * other).tanh_() for other in signed) for n in signed]
        else:
            total = sum(task_vectors if self.inter == "products" else signed)
            inter = [(t * total).tanh_() for t in task_vectors]
        k = len(task_vectors)
        return [n.square_().mul_(k).exp_().mul_(i) for n, i in zip(normal, inter, strict=True)]

    def merge(
        self,
        key: str,
        base: Tensor,
        experts: Sequence[Tensor],
        weights: Array,
        scale: float,
        prepared: Statistics,
    ) -> Tensor:
        task_vectors = [expert - base for expert in experts]
        scores = self._scores(task_vectors, prepared.low, prepared.high)
        merged, total = torch.zeros_like(base), torch.zeros_like(base)
        for k, (t, score) in enumerate(zip(task_vectors, scores, strict=True)):
            s = _rescale(score, float(prepared.cut[k]), float(prepared.top[k]))
            total.add_(s)
            clamped = t.abs().clamp_(float(prepared.low[k]), float(prepared.high[k]))
            merged.add_(clamped.mul_(t.sign()).mul_(s), alpha=scale * float(weights[k]))
        return merged.div_(total.clamp_min_(1e-12)).add_(base)


def _rescale(numbers: Tensor, low: float, high: float) -> Tensor:
    """Clamp to [low, high], then scale to [0, 1], in place; all 0 where low = high."""
    if not high > low:
        return numbers.zero_()
    return numbers.clamp_(low, high).sub_(low).div_(high - low)


class PCB(Merger):
    """PCB-Merging (Du et al., "Parameter competition balancing for model merging", NeurIPS 2024).

    Args:
        points, preferences, scale, scales, scale_per: see `Merger`. The published λ is 1.2.
        ratio: share of each task vector that is kept, in (0, 1]; 0.05 for vision.
        quantile: magnitudes are clamped at this quantile and 1 minus it.
        inter: how agreement across tasks is measured, one of three found in the authors' code:
            ``products``, ``signed_minmax`` or ``elementwise``.

    Raises:
        ConfigError: a ratio, quantile or agreement that does not exist.
    """

    def __init__(
        self,
        points: int,
        preferences: Preferences = "equal",
        scale: float | None = None,
        scales: Sequence[float] = SCALES,
        scale_per: ScalePer = "front",
        ratio: float = 0.05,
        quantile: float = 1e-4,
        inter: str = "products",
    ) -> None:
        share_of("method.ratio", ratio)
        if not 0 <= quantile < 0.5:
            raise ConfigError(f"method.quantile={quantile} must be at least 0 and less than 0.5")
        self.quantile, self.inter = quantile, choice("method.inter", inter, INTER)
        rule = ParameterCompetition(ratio, quantile, self.inter)
        super().__init__(rule, points, preferences, scale, scales, scale_per, published=1.2)

    def switches(self) -> dict[str, Any]:
        return {**super().switches(), "inter": self.inter, "quantile": self.quantile}
