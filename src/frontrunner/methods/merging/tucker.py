"""The truncated Tucker-2 decomposition by higher-order orthogonal iteration (HOOI)."""

from __future__ import annotations

import torch
from torch import Tensor

from frontrunner.errors import ConfigError


def tucker2(tensor: Tensor, rank: int, iterations: int = 20) -> tuple[Tensor, Tensor, Tensor]:
    """T_k ≈ A C_k Bᵀ in the sense of least squares, A and B with orthonormal columns.

    Source: De Lathauwer, De Moor & Vandewalle, SIAM J. Matrix Anal. Appl. 21(4), 2000 (HOOI), with
    the third mode left whole.

    Args:
        tensor: (K, c, d).
        rank: r; each mode takes r or as many as it has, r_c = min(r, c) and r_d = min(r, d).
        iterations: alternations after the start from the higher-order SVD.

    Returns:
        A (c, r_c), B (d, r_d), C (K, r_c, r_d), in the dtype of ``tensor``; computed in float64.
    """
    t = tensor.double()
    right = _leading(torch.cat(tuple(t.mT), dim=1), rank)
    for _ in range(max(1, iterations)):
        left = _leading(torch.cat(tuple(t @ right), dim=1), rank)
        right = _leading(torch.cat(tuple(t.mT @ left), dim=1), rank)
    core = left.T @ t @ right
    return left.to(tensor.dtype), right.to(tensor.dtype), core.to(tensor.dtype)


def _leading(matrix: Tensor, rank: int) -> Tensor:
    """The first left singular vectors, at most as many as there are rows; completed to an
    orthonormal set where the matrix has a smaller rank."""
    gram = matrix @ matrix.T
    return torch.linalg.eigh(gram).eigenvectors[:, -min(rank, len(gram)) :].flip(1)


def preference_moment(m: int, concentration: float) -> Tensor:
    """M = E[γγᵀ] of γ ~ Dirichlet(concentration · 1), (m, m) float64: (p I + p² 11ᵀ) / (mp(mp+1)).

    Raises:
        ConfigError: a concentration that is not positive.
    """
    if not concentration > 0:
        raise ConfigError(f"method.concentration={concentration} must be more than 0")
    p = float(concentration)
    ones = torch.ones(m, m, dtype=torch.float64)
    return (p * torch.eye(m, dtype=torch.float64) + p * p * ones) / (m * p * (m * p + 1))


def closed_form(
    differences: Tensor, rank: int, concentration: float, iterations: int = 20
) -> tuple[Tensor, Tensor, Tensor]:
    """The optimum of Pareto merging without data under linear scalarisation, for one matrix.

    With D_k = θ_k - θ_0, E_γ Σ_k γ_k ‖A C(γ) Bᵀ - D_k‖² = ‖(T - D) ×₃ M^½‖² + const, so that the
    optimum is the Tucker-2 approximation of D ×₃ M^½, taken back by M^-½: C_k = Aᵀ D_k B.

    Args:
        differences: D, (K, c, d).

    Returns:
        A (c, r_c), B (d, r_d), C (K, r_c, r_d).
    """
    moment = preference_moment(len(differences), concentration)
    values, vectors = torch.linalg.eigh(moment)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    weighted = torch.einsum("jk,kcd->jcd", root, differences.double())
    left, right, _ = tucker2(weighted, rank, iterations)
    core = left.T @ differences.double() @ right
    like = differences.dtype
    return left.to(like), right.to(like), core.to(like)
