"""Task arithmetic: θ_0 + s Σ_k p_k (θ_k - θ_0)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from frontrunner.methods.merging.base import SCALES, Merger, Preferences, ScalePer
from frontrunner.pareto_sets.merged import Array, Rule


@dataclass(frozen=True)
class TaskVectors(Rule):
    """θ(p) = θ_0 + s Σ_k p_k τ_k, τ_k = θ_k - θ_0: s = 1 is the experts' weighted average."""

    elementwise = True

    def merge(
        self,
        key: str,
        base: Tensor,
        experts: Sequence[Tensor],
        weights: Array,
        scale: float,
        prepared: Any,
    ) -> Tensor:
        coefficients = scale * weights / weights.sum()
        merged = base * float(1.0 - coefficients.sum())
        for expert, coefficient in zip(experts, coefficients, strict=True):
            merged.add_(expert, alpha=float(coefficient))
        return merged


class TaskArithmetic(Merger):
    """Task arithmetic (Ilharco et al., ICLR 2023), or, with ``preferences=grid``, task vectors
    weighted by each preference.

    Args:
        points, preferences, scales, scale_per: see `Merger`.
        scale: s. The published coefficient of each of K task vectors, λ, is s / K at equal
            preferences; the 0.3 recommended for eight tasks is s = 2.4.
    """

    def __init__(
        self,
        points: int,
        preferences: Preferences = "equal",
        scale: float | None = None,
        scales: Sequence[float] = SCALES,
        scale_per: ScalePer = "front",
    ) -> None:
        super().__init__(TaskVectors(), points, preferences, scale, scales, scale_per)
