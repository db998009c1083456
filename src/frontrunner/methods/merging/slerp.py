"""SLERP: two models, interpolated along the arc between their weights, tensor by tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from frontrunner.errors import ConfigError
from frontrunner.methods.merging.base import Merger, Preferences
from frontrunner.pareto_sets.merged import Array, Rule
from frontrunner.tasks.base import Task
from frontrunner.weights.parents import Parents

_COLLINEAR = 0.9995  # |cosine| beyond which mergekit interpolates linearly
_ZERO = 1e-8  # length up to which mergekit does not normalise


@dataclass(frozen=True)
class Slerp(Rule):
    """θ(p) = (sin((1 - t) φ) θ_1 + sin(t φ) θ_2) / sin φ for each tensor, φ the angle between the
    experts' flattened tensors and t = p_2; (1 - t) θ_1 + t θ_2 where |cos φ| > 0.9995.

    The base is not used. The lengths of the experts are not made equal, as in mergekit.
    """

    elementwise = True
    scaled = False

    def check(self, parents: Parents) -> None:
        _two(len(parents))

    def prepare(self, parents: Parents) -> dict[str, float]:
        """The angle of each tensor in radians; 0 where interpolation is linear."""
        return {
            key: _angle(parents, key) for key in parents.base.shapes() if parents.mergeable(key)
        }

    def merge(
        self,
        key: str,
        base: Tensor,
        experts: Sequence[Tensor],
        weights: Array,
        scale: float,
        prepared: Mapping[str, float],
    ) -> Tensor:
        t, angle = float(weights[1] / weights.sum()), prepared[key]
        first, second = 1 - t, t
        if angle:
            first = math.sin((1 - t) * angle) / math.sin(angle)
            second = math.sin(t * angle) / math.sin(angle)
        return (experts[0] * first).add_(experts[1], alpha=second)


def _angle(parents: Parents, key: str) -> float:
    products = np.zeros(3)  # a·a, b·b, a·b
    for _, _, (a, b) in parents.pieces(key):
        b = b.to(a.dtype)
        products += [float(torch.dot(x, y)) for x, y in ((a, a), (b, b), (a, b))]
    lengths = [r if r > _ZERO else 1.0 for r in np.sqrt(products[:2])]
    cosine = float(np.clip(products[2] / (lengths[0] * lengths[1]), -1, 1))
    return 0.0 if abs(cosine) > _COLLINEAR else math.acos(cosine)


class SLERP(Merger):
    """Spherical linear interpolation (Shoemake, SIGGRAPH 1985) of two experts, as in mergekit.

    Args:
        points, preferences: see `Merger`; the second expert's weight is the place on the arc.
    """

    def __init__(self, points: int, preferences: Preferences = "equal") -> None:
        super().__init__(Slerp(), points, preferences)

    def check(self, task: Task) -> None:
        super().check(task)
        _two(task.m)


def _two(experts: int) -> None:
    if experts != 2:
        raise ConfigError(
            f"SLERP merges two experts, and the task has {experts}; choose two, or another method"
        )
