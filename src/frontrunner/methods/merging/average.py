"""Weighted averaging of experts: Σ_k p_k θ_k."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from frontrunner.methods.merging.base import Merger
from frontrunner.pareto_sets.merged import Array, Rule


@dataclass(frozen=True)
class Averaging(Rule):
    """θ(p) = Σ_k p_k θ_k. The base is not used."""

    elementwise = True
    scaled = False

    def merge(
        self,
        key: str,
        base: Tensor,
        experts: Sequence[Tensor],
        weights: Array,
        scale: float,
        prepared: Any,
    ) -> Tensor:
        shares = weights / weights.sum()
        merged = experts[0] * float(shares[0])
        for expert, share in zip(experts[1:], shares[1:], strict=True):
            merged.add_(expert, alpha=float(share))
        return merged


class Average(Merger):
    """The plain average of the experts, or one weighted by each preference (rewarded soup).

    Sources: Wortsman et al., "Model soups", ICML 2022; with preferences Ramé et al., "Rewarded
    soups", NeurIPS 2023, equation 1. There is no coefficient to choose.

    Args:
        points, preferences: see `Merger`.
    """

    def __init__(self, points: int, preferences: Any = "equal") -> None:
        super().__init__(Averaging(), points, preferences)
