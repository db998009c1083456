"""The signal-to-noise ratio of a coreset's gradients, by which ERACS notices that it is stale.

Source: Cheng et al., ERACS, NeurIPS 2025. The paper defines it in three ways that are not
equivalent; all are here. ``spectral`` is the theorem's ‖μ‖/σ with σ² the largest eigenvalue of the
gradients' covariance, ``trace`` takes its trace instead, ``norms`` is the mean of gradient norms
over their standard deviation (§5.1 and the caption of Figure 1).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from frontrunner.coresets.gradients import Gradients

DEFINITIONS = ("spectral", "trace", "norms")


def snr(
    gradients: Gradients,
    definition: str = "spectral",
    weights: Tensor | None = None,
    *,
    iterations: int = 20,
    tolerance: float = 1e-3,
) -> float:
    """Signal-to-noise ratio of n gradients, n >= 2; infinite where they are all the same.

    No gradient is formed: the covariance's largest eigenvalue comes from power iterations, on its
    factors at n·c·d products each, or on the n·n inner products where these are fewer.

    Args:
        gradients: of the coreset's samples.
        definition: ``spectral``, ``trace`` or ``norms``.
        weights: (n,), only their proportions count; None is the theorem's plain mean.
        iterations: of the power method, at most.
        tolerance: relative change of the eigenvalue at which they end.
    """
    n = len(gradients)
    squared = gradients.squared_norms()
    w = torch.ones(n).to(squared) if weights is None else weights.to(squared)
    w = w / w.mean()
    rounding = 32 * torch.finfo(squared.dtype).eps
    if definition == "norms":
        norms = squared.sqrt()
        mean = (w * norms).mean()
        deviation = (w * (norms - mean).square()).mean().sqrt()
        return _ratio(float(mean), float(deviation), rounding * float(mean))
    mean_gradient = gradients.mean(w)
    signal = float(mean_gradient.norm())
    power = float((w * squared).mean())
    total = power - signal**2
    if total <= rounding * power:  # a difference of nearly equal numbers
        return math.inf
    if definition == "spectral":
        total = _largest(gradients, w, mean_gradient, total, iterations, tolerance)
    return _ratio(signal, math.sqrt(total))


def _largest(
    gradients: Gradients, w: Tensor, mean: Tensor, trace: float, iterations: int, tolerance: float
) -> float:
    """Largest eigenvalue of the covariance (1/n) Σ w_i (g_i − μ)(g_i − μ)ᵀ."""
    n = len(gradients)
    # The start is the centred gradient that is farthest out: never orthogonal to everything.
    start = int((w * (gradients.squared_norms() - 2 * gradients.dot(mean))).argmax())
    sizes = [(r.shape[1], h.shape[1]) for r, h in gradients.factors]
    if n * sum(c + d for c, d in sizes) <= 2 * iterations * gradients.dimension:
        # Of few samples the inner products have the same eigenvalues, and are quicker.
        gram = gradients.gram()
        inner = gram @ w / n
        root = w.sqrt()
        gram = gram - inner[:, None] - inner + inner @ w / n
        gram = root[:, None] * gram * root / n
        vector = gram[start]

        def times(vector: Tensor) -> Tensor:
            return gram @ vector

    else:
        one = torch.zeros_like(w)
        one[start] = n
        vector = gradients.mean(one) - mean

        def times(vector: Tensor) -> Tensor:
            along = gradients.dot(vector)
            along = w * (along - (w * along).mean())
            return gradients.mean(along) - along.mean() * mean

    value = 0.0
    for _ in range(iterations):
        product = times(vector / vector.norm().clamp_min(1e-30))
        previous, value = value, float(product.norm())
        vector = product
        if value <= 0.0 or abs(value - previous) <= tolerance * value:
            break
    return min(value, trace)


def _ratio(signal: float, noise: float, none: float = 0.0) -> float:
    return signal / noise if noise > none else math.inf
