"""TSV-Merge: the leading singular vectors of all task matrices, made orthogonal to each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from frontrunner.methods.merging.base import SCALES, Merger, Preferences, ScalePer
from frontrunner.pareto_sets.merged import Array, Rule


@dataclass(frozen=True)
class TaskSingularVectors(Rule):
    """θ(p) = θ_0 + λ Û diag(w_1 σ_1, …, w_K σ_K) V̂ᵀ for a matrix, where σ_k are the r largest
    singular values of τ_k, r = ⌊min(rows, columns) / K⌋, and Û, V̂ have the orthonormal columns
    nearest to the singular vectors of all tasks side by side, [U_1 … U_K] and [V_1 … V_K].

    Tensors of more dimensions, such as convolution kernels, are matrices (first, all others).
    Vectors, scalars, and matrices with fewer rows or columns than there are experts: θ_0 + λ Σ_k
    w_k τ_k / Σ_k w_k.
    """

    def merge(
        self,
        key: str,
        base: Tensor,
        experts: Sequence[Tensor],
        weights: Array,
        scale: float,
        prepared: Any,
    ) -> Tensor:
        rank = min(base.flatten(1).shape) // len(experts) if base.dim() > 1 else 0
        if rank == 0:
            merged = base * (1 - scale)
            for expert, share in zip(experts, weights / weights.sum(), strict=True):
                merged.add_(expert, alpha=scale * float(share))
            return merged
        left, values, right = [], [], []
        for expert, weight in zip(experts, weights, strict=True):
            u, s, vh = torch.linalg.svd((expert - base).flatten(1), full_matrices=False)
            # Directions of singular values that are 0 are arbitrary: they must not push others.
            r = min(rank, numerical_rank(s, *base.flatten(1).shape))
            left.append(u[:, :r])
            values.append(s[:r] * float(weight))
            right.append(vh[:r])
        u, v = nearest_orthonormal(torch.cat(left, 1)), nearest_orthonormal(torch.cat(right).T)
        return base + scale * ((u * torch.cat(values)) @ v.T).view_as(base)


def nearest_orthonormal(matrix: Tensor) -> Tensor:
    """The matrix with orthonormal columns nearest to ``matrix`` (n, r), r <= n.

    Where its columns are dependent that matrix is not unique; directions outside their span are
    then left out, so that equal experts merge to themselves.
    """
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    r = numerical_rank(s, *matrix.shape)
    return u[:, :r] @ vh[:r]


def numerical_rank(values: Tensor, rows: int, columns: int) -> int:
    """How many singular values of a matrix, in descending order, are not rounding errors."""
    tolerance = max(rows, columns) * torch.finfo(values.dtype).eps
    return int((values > values[:1] * tolerance).sum())


class TSVMerge(Merger):
    """TSV-Merge (Gargiulo et al., "Task singular vectors", CVPR 2025).

    Args:
        points, preferences, scale, scales, scale_per: see `Merger`. The published λ is 1.
    """

    def __init__(
        self,
        points: int,
        preferences: Preferences = "equal",
        scale: float | None = None,
        scales: Sequence[float] = SCALES,
        scale_per: ScalePer = "front",
    ) -> None:
        super().__init__(TaskSingularVectors(), points, preferences, scale, scales, scale_per)

    def switches(self) -> dict[str, Any]:
        return {**super().switches(), "vectors": "weighted mean, times λ"}
