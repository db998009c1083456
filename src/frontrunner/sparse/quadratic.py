"""The objective of a pruned layer: a quadratic form of its change, from a Gram matrix of inputs.

A layer has weights Ŵ (d, c): d outputs, c inputs, as `torch.nn.Linear` has them, the transpose of
what papers on pruning write. With calibration inputs X (n, c) and H = XᵀX + γI, pruning minimises

    f(W) = tr((W - Ŵ) H (W - Ŵ)ᵀ) = ‖XŴᵀ - XWᵀ‖² + γ‖Ŵ - W‖²

over W of a sparse support. With column scaling (ALPS), W' = W diag(s) and H' = H / (s sᵀ) take the
place of W and H, where s = √diag(H), so that H' has a unit diagonal.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from frontrunner.errors import DataError

Ridge = Literal["mean", "trace"]


class Quadratic:
    """H with its ridge, column scaling and factorisations: shared by all layers of one input.

    Args:
        gram: XᵀX (c, c) float32, symmetric; left unchanged.
        damping: γ as a share of what ``ridge`` says.
        ridge: ``mean`` of the diagonal (ALPS's code), or ``trace`` (as printed).
        scaled: whether columns are scaled to a unit diagonal.
        what: what messages call the Gram matrix.

    Raises:
        DataError: NaN or infinity in the Gram matrix, or nothing but zeros.
    """

    def __init__(
        self,
        gram: Tensor,
        damping: float = 0.01,
        ridge: Ridge = "mean",
        scaled: bool = True,
        what: str = "the Gram matrix",
    ) -> None:
        self.what = what
        diagonal = gram.diagonal()
        if not bool(gram.isfinite().all()):
            raise DataError(f"{what} has NaN or infinity: so do the model's activations")
        if float(diagonal.max()) <= 0:
            raise DataError(f"{what} is zero: no input ever reaches these layers")
        total = float(diagonal.double().sum())
        self.gamma = damping * (total if ridge == "trace" else total / len(diagonal))
        matrix = gram.clone()
        matrix.diagonal().add_(self.gamma)
        # Without a ridge, inputs that are always zero have no scale of their own.
        own = matrix.diagonal()
        self.scale = own.sqrt().where(own > 0, 1.0) if scaled else torch.ones_like(own)
        if scaled:
            matrix /= self.scale
            matrix /= self.scale[:, None]
        self.matrix = matrix

    def scaled(self, weight: Tensor) -> Tensor:
        """W' = W diag(s), in float32 on the Gram matrix's device."""
        return weight.to(self.matrix.device, torch.float32) * self.scale

    def unscaled(self, weight: Tensor) -> Tensor:
        """W = W' diag(s)⁻¹."""
        return weight / self.scale

    @cached_property
    def eigen(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues (c,) and eigenvectors (c, c), computed in float64, kept in float32.

        Raises:
            DataError: the decomposition did not converge.
        """
        try:
            values, vectors = torch.linalg.eigh(self.matrix.double())
        except torch.linalg.LinAlgError as error:
            raise DataError(f"{self.what} has no eigendecomposition: {error}") from None
        return values.clamp_min(0).float(), vectors.float()

    def shifted_inverse(self, rho: float) -> Tensor:
        """(H + ρI)⁻¹ from the eigendecomposition: one matrix product for each ρ."""
        values, vectors = self.eigen
        return (vectors / (values + rho)) @ vectors.mT

    def inverse(self, rho: float = 0.0) -> Tensor:
        """(H + ρI)⁻¹ by a Cholesky factorisation, for a single ρ.

        Raises:
            DataError: singular.
        """
        shifted = self.matrix.clone()
        shifted.diagonal().add_(rho)
        factor, info = torch.linalg.cholesky_ex(shifted)
        if int(info):
            raise DataError(
                f"{self.what} is singular (at row {int(info)}): give more calibration text or a "
                "larger method.damping"
            )
        return torch.cholesky_inverse(factor)

    def error(self, weight: Tensor, dense: Tensor) -> float:
        """f(W) of unscaled weights (d, c)."""
        change = self.scaled(weight) - self.scaled(dense)
        return float(((change @ self.matrix).double() * change.double()).sum())


def weighted(
    grams: Iterable[Tensor], weights: Iterable[float], device: torch.device | str
) -> Tensor:
    """Σ_j λ_j H_j (c, c) on a device, of one Gram matrix or more; one at a time is looked at."""
    total: Tensor | None = None
    for gram, weight in zip(grams, weights, strict=True):
        if total is None:
            total = torch.zeros_like(gram, device=device)
        total.add_(gram.to(device), alpha=float(weight))
    assert total is not None
    return total


def refine(
    problem: Quadratic,
    target: Tensor,
    start: Tensor,
    support: Tensor,
    steps: int = 10,
    tolerance: float = 1e-4,
) -> Tensor:
    """Minimise the objective over a fixed support by conjugate gradients, each row by itself.

    The preconditioner is the diagonal of H (MOSP, Algorithm 1; ALPS). Step lengths are taken per
    output, as in ALPS's code; its paper prints one for the whole matrix.

    Args:
        problem: H.
        target: ŴH (d, c), scaled.
        start: W (d, c), scaled, zero off the support.
        support: (d, c) bool.
        steps: at most.
        tolerance: on the norm of the residual, relative to that at the start.

    Returns:
        (d, c), scaled; zero off the support.
    """
    diagonal = problem.matrix.diagonal()
    # Without a ridge, an input that is always zero has no say, and no direction of its own.
    diagonal = diagonal.where(diagonal > 0, 1.0)
    weight = start.clone()
    residual = torch.addmm(target, weight, problem.matrix, alpha=-1.0).mul_(support)
    direction = residual / diagonal
    descent = (residual * direction).sum(1, keepdim=True)
    first = float(descent.sum())
    for _ in range(steps):
        if float(descent.sum()) <= tolerance**2 * first:
            break
        image = (direction @ problem.matrix).mul_(support)
        step = descent / (direction * image).sum(1, keepdim=True).clamp_min(1e-30)
        weight.addcmul_(direction, step)
        residual.addcmul_(image, step, value=-1.0)
        preconditioned = residual / diagonal
        following = (residual * preconditioned).sum(1, keepdim=True)
        direction.mul_(following / descent.clamp_min(1e-30)).add_(preconditioned)
        descent = following
    return weight
