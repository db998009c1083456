"""Gradients of many samples with respect to the last linear layers, kept as factors.

The gradient of sample i with respect to a linear layer's weight and bias is r_i ⊗ [h_i, 1], with
r_i that of its loss with respect to the layer's outputs and h_i the layer's inputs. All that
selection needs (means, norms, inner products) follows from the factors, in n·(c + d) numbers
instead of n·c·d. Source of last-layer gradients as a proxy: Killamsetty et al., GradMatch, ICML
2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Atoms(Protocol):
    """n vectors of D numbers that a selection combines."""

    def __len__(self) -> int: ...

    def dot(self, vector: Tensor) -> Tensor:
        """Inner products with a vector (D,): (n,)."""

    def column(self, index: int) -> Tensor:
        """Inner products of all with one of them: (n,)."""

    def mean(self, weights: Tensor | None = None) -> Tensor:
        """(1/n) Σ_i w_i a_i, (D,); w = 1 by default."""


@dataclass(frozen=True)
class Gradients:
    """Gradients of n samples as factors.

    Attributes:
        factors: for each layer the residuals (n, c) and the features (n, d), which have a last
            column of ones where the layer has a bias. D is the sum of c·d over the layers.
    """

    factors: tuple[tuple[Tensor, Tensor], ...]

    def __len__(self) -> int:
        return len(self.factors[0][0])

    def __getitem__(self, indices: Tensor) -> Gradients:
        return Gradients(tuple((r[indices], h[indices]) for r, h in self.factors))

    @property
    def dimension(self) -> int:
        """D, the length of one gradient."""
        return sum(r.shape[1] * h.shape[1] for r, h in self.factors)

    @property
    def finite(self) -> bool:
        """Whether all gradients are finite."""
        return all(bool(torch.isfinite(t).all()) for pair in self.factors for t in pair)

    def mean(self, weights: Tensor | None = None) -> Tensor:
        """(1/n) Σ_i w_i g_i, flat: (D,)."""
        n = len(self)
        parts = []
        for r, h in self.factors:
            scaled = r if weights is None else r * weights.to(r)[:, None]
            parts.append((scaled.T @ h).flatten() / n)
        return torch.cat(parts)

    def dot(self, vector: Tensor) -> Tensor:
        """<g_i, v> for a flat v (D,): (n,)."""
        total, start = None, 0
        for r, h in self.factors:
            c, d = r.shape[1], h.shape[1]
            part = vector[start : start + c * d].view(c, d)
            start += c * d
            # The smaller of the two intermediates, (n, c) or (n, d).
            value = ((h @ part.T) * r).sum(1) if c <= d else ((r @ part) * h).sum(1)
            total = value if total is None else total + value
        assert total is not None
        return total

    def column(self, index: int) -> Tensor:
        """<g_i, g_index> for all i: (n,)."""
        return sum((r @ r[index]) * (h @ h[index]) for r, h in self.factors)  # type: ignore[return-value]

    def gram(self) -> Tensor:
        """All inner products: (n, n)."""
        return sum((r @ r.T) * (h @ h.T) for r, h in self.factors)  # type: ignore[return-value]

    def squared_norms(self) -> Tensor:
        """‖g_i‖²: (n,)."""
        return sum(r.square().sum(1) * h.square().sum(1) for r, h in self.factors)  # type: ignore[return-value]

    def dense(self) -> Tensor:
        """The gradients themselves: (n, D)."""
        flat = [(r[:, :, None] * h[:, None, :]).flatten(1) for r, h in self.factors]
        return torch.cat(flat, dim=1)


@dataclass(frozen=True)
class Vectors:
    """Vectors in full, (n, D): the means of mini-batches, of which there are few."""

    values: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def dot(self, vector: Tensor) -> Tensor:
        return self.values @ vector

    def column(self, index: int) -> Tensor:
        return self.values @ self.values[index]

    def mean(self, weights: Tensor | None = None) -> Tensor:
        n = len(self)
        if weights is None:
            return self.values.sum(0) / n
        return weights.to(self.values) @ self.values / n


@dataclass(frozen=True)
class LastLayer:
    """What the last layers see of n samples, under each of m objectives.

    Attributes:
        features: for each layer the inputs (n, d), with a column of ones for a bias.
        residuals: for each objective, and each layer, (n, c): derivatives of a sample's loss with
            respect to the layer's outputs.
        losses: (m,), the mean of each objective.
    """

    features: tuple[Tensor, ...]
    residuals: tuple[tuple[Tensor, ...], ...]
    losses: Tensor

    def __len__(self) -> int:
        return len(self.features[0])

    @property
    def m(self) -> int:
        """Number of objectives."""
        return len(self.residuals)

    def objective(self, j: int) -> Gradients:
        """Gradients of objective j alone."""
        return Gradients(tuple(zip(self.residuals[j], self.features, strict=True)))

    def weighted(self, preference: Sequence[float]) -> Gradients:
        """Gradients of Σ_j λ_j f_j."""
        mixed = tuple(
            sum(p * r for p, r in zip(preference, parts, strict=True))
            for parts in zip(*self.residuals, strict=True)
        )
        return Gradients(tuple(zip(mixed, self.features, strict=True)))

    def stacked(self, preference: Sequence[float]) -> Gradients:
        """Gradients of all λ_j f_j, one after the other: a sample has to match each of them."""
        return Gradients(
            tuple(
                (p * r, h)
                for p, parts in zip(preference, self.residuals, strict=True)
                for r, h in zip(parts, self.features, strict=True)
            )
        )


def joined(parts: Sequence[LastLayer]) -> LastLayer:
    """Several groups of samples as one."""
    if len(parts) == 1:
        return parts[0]
    first, total = parts[0], sum(len(p) for p in parts)
    return LastLayer(
        tuple(torch.cat([p.features[k] for p in parts]) for k in range(len(first.features))),
        tuple(
            tuple(torch.cat([p.residuals[j][k] for p in parts]) for k in range(len(first.features)))
            for j in range(first.m)
        ),
        torch.stack([len(p) / total * p.losses for p in parts]).sum(0),
    )
