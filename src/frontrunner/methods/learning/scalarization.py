"""Scalarisations: objectives (…, m) and a preference (…, m) -> one number (…,) to minimise."""

from __future__ import annotations

import torch
from torch import Tensor


def linear(f: Tensor, w: Tensor) -> Tensor:
    """Σ_j w_j f_j. Reaches only the convex parts of a front."""
    return (w * f).sum(-1)


def chebyshev(f: Tensor, w: Tensor, ideal: float | Tensor = 0.0) -> Tensor:
    """max_j w_j (f_j - z_j), z the ideal point (Bowman, 1976). Reaches all weak optima."""
    return (w * (f - ideal)).amax(-1)


def smooth_chebyshev(
    f: Tensor, w: Tensor, mu: float | Tensor, ideal: float | Tensor = 0.0
) -> Tensor:
    """μ log Σ_j exp(w_j (f_j - z_j) / μ); tends to `chebyshev` from above as μ → 0.

    Source: Lin et al., "Smooth Tchebycheff scalarization for multi-objective optimization", ICML
    2024.
    """
    return mu * torch.logsumexp(w * (f - ideal) / mu, dim=-1)


def cosmos(f: Tensor, r: Tensor, weight: float) -> Tensor:
    """Σ_j r_j f_j - λ cos(f, r), λ = ``weight``; r is read as a ray. Not monotone in f.

    Source: Ruchte & Grabocka, "Scalable Pareto front approximation for deep multi-objective
    learning", ICDM 2021. The cosine pulls f towards the ray, so it is subtracted; GMOOAR's paper
    prints the opposite sign (docs/methods/gmooar.md).
    """
    return linear(f, r) - weight * torch.cosine_similarity(f, r, dim=-1)
