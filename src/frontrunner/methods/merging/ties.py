"""TIES: trim task vectors, elect a sign for each parameter, average those that agree with it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frontrunner.errors import ConfigError
from frontrunner.methods.base import choice
from frontrunner.methods.merging.base import SCALES, Merger, Preferences, ScalePer
from frontrunner.pareto_sets.merged import Array, Rule
from frontrunner.weights.parents import Parents
from frontrunner.weights.selection import order_statistics

_SMALLEST = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Ties(Rule):
    """θ(p) = θ_0 + λ s ⊙ Σ_k w_k |t_k| [sign t_k = s] / Σ_k w_k [sign t_k = s], where t_k is the
    trimmed task vector and s = sign Σ_k w_k t_k; where no t_k has the sign s, θ_0.

    Trimming keeps magnitudes of at least the k-th largest, k = ⌊density · numbers⌋ but at least 1:
    more than k where several equal the k-th.

    Attributes:
        density: share of each task vector that is kept.
        trim: ``tensor`` counts within each tensor, ``global`` within the whole task vector.
    """

    density: float
    trim: str

    elementwise = True

    def prepare(self, parents: Parents) -> dict[str, NDArray[np.float32]]:
        """The smallest magnitude kept of each expert, (K,), by tensor."""
        keys = [k for k in parents.base.shapes() if parents.mergeable(k) and _size(parents, k)]
        if self.density >= 1 or not keys:
            return dict.fromkeys(keys, np.zeros(len(parents), np.float32))
        if self.trim == "global":
            return dict.fromkeys(keys, self._threshold(parents, keys))
        return {key: self._threshold(parents, [key]) for key in keys}

    def _threshold(self, parents: Parents, keys: Sequence[str]) -> NDArray[np.float32]:
        size = sum(_size(parents, key) for key in keys)
        rank = size - max(1, int(self.density * size))
        ranks = np.full((len(parents), 1), rank)
        return order_statistics(lambda: magnitudes(parents, keys), ranks)[:, 0]

    def merge(
        self,
        key: str,
        base: Tensor,
        experts: Sequence[Tensor],
        weights: Array,
        scale: float,
        prepared: Mapping[str, NDArray[np.float32]],
    ) -> Tensor:
        # hardshrink keeps what lies strictly beyond its bound.
        bounds = np.nextafter(prepared[key], np.float32(-np.inf))
        kept = [
            torch.hardshrink(expert - base, float(bound))
            for expert, bound in zip(experts, bounds, strict=True)
        ]
        return elected_mean(kept, weights).mul_(scale).add_(base)


def magnitudes(parents: Parents, keys: Sequence[str]) -> Iterator[list[Tensor]]:
    """|θ_k - θ_0| of K experts in float32, piece by piece over all of the tensors named."""
    for key in keys:
        for _, base, experts in parents.pieces(key):
            yield [(expert - base).abs_().float() for expert in experts]


def elected_mean(task_vectors: Sequence[Tensor], weights: Array) -> Tensor:
    """Mean of the task vectors that have the elected sign, weighted; 0 where none has.

    The sign is that of the weighted sum; a sum of 0 elects the positive one.

    Args:
        task_vectors: K tensors of one shape. Weights are multiplied into them in place.
        weights: (K,), at least 0: they count in the vote and in the mean.
    """
    weighted = [
        t if w == 1 else t.mul_(float(w)) for t, w in zip(task_vectors, weights, strict=True)
    ]
    total = weighted[0].clone()
    for t in weighted[1:]:
        total.add_(t)
    sign = torch.copysign(torch.ones((), dtype=total.dtype), total)
    total.zero_()
    share = torch.zeros_like(total)
    for t, w in zip(weighted, weights, strict=True):
        agreeing = t.mul_(sign).clamp_min_(0)  # |t| where the signs agree
        total.add_(agreeing)
        share.add_(agreeing.sign_(), alpha=float(w))
    # Where no task vector agrees, 0 / tiny is 0.
    return total.div_(share.clamp_min_(_SMALLEST)).mul_(sign)


class TIES(Merger):
    """TIES-Merging (Yadav et al., NeurIPS 2023, section 4).

    Args:
        points, preferences, scale, scales, scale_per: see `Merger`. The published λ is 1.
        density: share of each task vector that is kept, in (0, 1]; 0.2 in the paper.
        trim: ``global`` over the whole task vector, as in the paper, or ``tensor`` by tensor, as
            in mergekit.

    Raises:
        ConfigError: a density or trim that does not exist.
    """

    def __init__(
        self,
        points: int,
        preferences: Preferences = "equal",
        scale: float | None = None,
        scales: Sequence[float] = SCALES,
        scale_per: ScalePer = "front",
        density: float = 0.2,
        trim: str = "global",
    ) -> None:
        self.trim = choice("method.trim", trim, ("global", "tensor"))
        rule = Ties(share_of("method.density", density), self.trim)
        super().__init__(rule, points, preferences, scale, scales, scale_per)

    def switches(self) -> dict[str, Any]:
        return {**super().switches(), "trim": self.trim, "equal_magnitudes": "kept"}


def share_of(name: str, value: float) -> float:
    """Return ``value`` if it is a share that is not empty.

    Raises:
        ConfigError: it is not; the message names the key.
    """
    if not 0 < value <= 1:
        raise ConfigError(f"{name}={value} must be more than 0 and at most 1")
    return value


def _size(parents: Parents, key: str) -> int:
    return math.prod(parents.base.shapes()[key])
