"""DARE: drop most of each task vector at random, rescale the rest, and add up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from frontrunner.methods.base import choice
from frontrunner.methods.merging.base import SCALES, Merger, Preferences, ScalePer
from frontrunner.methods.merging.ties import elected_mean, share_of
from frontrunner.pareto_sets.merged import Array, Rule
from frontrunner.seeds import generator


@dataclass(frozen=True)
class Dare(Rule):
    """θ(p) = θ_0 + s Σ_k p_k m_k ⊙ τ_k / density, each number of m_k being 1 with probability
    ``density`` and otherwise 0; or, with ``elect=ties``, s times TIES' elected mean of the
    m_k ⊙ τ_k / density.

    A mask depends on seed, expert and tensor only: all preferences and scales share it.

    Attributes:
        density: share that is kept.
        elect: ``none`` or ``ties``.
        seed: of the masks.
    """

    density: float
    elect: str
    seed: int

    def merge(
        self,
        key: str,
        base: Tensor,
        experts: Sequence[Tensor],
        weights: Array,
        scale: float,
        prepared: Any,
    ) -> Tensor:
        kept = []
        for k, expert in enumerate(experts):
            stream = generator(self.seed, "dare", k, key)
            mask = torch.rand(base.shape, generator=stream) < self.density
            kept.append((expert - base).mul_(mask).div_(self.density))
        if self.elect == "ties":
            return elected_mean(kept, weights).mul_(scale).add_(base)
        merged = base.clone()
        for task_vector, weight in zip(kept, weights / weights.sum(), strict=True):
            merged.add_(task_vector, alpha=scale * float(weight))
        return merged


class DARE(Merger):
    """DARE (Yu et al., ICML 2024), followed by task arithmetic or by TIES' sign election.

    Args:
        points, preferences, scales, scale_per: see `Merger`.
        scale: s; 1 is the average of experts that have been dropped from, as in the authors'
            commands.
        seed: of the masks.
        density: 1 - drop rate, in (0, 1]. Default: the drop rate of 0.2 that the authors' commands
            merge language models with.
        elect: ``none`` adds the task vectors up, ``ties`` elects signs first.

    Raises:
        ConfigError: a density or election that does not exist.
    """

    def __init__(
        self,
        points: int,
        seed: int,
        preferences: Preferences = "equal",
        scale: float | None = None,
        scales: Sequence[float] = SCALES,
        scale_per: ScalePer = "front",
        density: float = 0.8,
        elect: str = "none",
    ) -> None:
        self.elect = choice("method.elect", elect, ("none", "ties"))
        rule = Dare(share_of("method.density", density), self.elect, seed)
        super().__init__(rule, points, preferences, scale, scales, scale_per)

    def switches(self) -> dict[str, Any]:
        return {**super().switches(), "elect": self.elect, "rescale": "1/density"}
