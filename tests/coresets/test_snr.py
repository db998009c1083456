"""Signal-to-noise ratios against their definitions on dense gradients, and a closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from frontrunner.coresets.gradients import Gradients
from frontrunner.coresets.pool import Pool
from frontrunner.coresets.snr import DEFINITIONS, snr


def gradients_of(n=40, seed=0, signal=1.0):
    g = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    return Gradients(
        ((draw(n, 3) + signal, draw(n, 5) + signal), (draw(n, 2), 2.0 * draw(n, 4) + signal))
    )


def by_definition(dense, definition, w):
    """On gradients in full; w has mean 1."""
    w = w[:, None]
    if definition == "norms":
        norms = dense.norm(dim=1, keepdim=True)
        mean = (w * norms).mean()
        return float(mean / (w * (norms - mean).square()).mean().sqrt())
    mean = (w * dense).mean(0)
    centred = dense - mean
    covariance = (w * centred).T @ centred / len(dense)
    eigenvalues = torch.linalg.eigvalsh(covariance)
    noise = eigenvalues[-1] if definition == "spectral" else torch.trace(covariance)
    return float(mean.norm() / noise.sqrt())


@pytest.mark.parametrize("definition", DEFINITIONS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_ratio_of_its_definition(definition, weighted, seed):
    gradients = gradients_of(seed=seed)
    weights = None
    if weighted:  # any scale: only proportions count
        g = torch.Generator().manual_seed(9)
        weights = 5.0 * torch.rand(40, generator=g, dtype=torch.float64)
    w = torch.ones(40, dtype=torch.float64) if weights is None else weights / weights.mean()
    expected = by_definition(gradients.dense(), definition, w)
    # Power iterations come from below, so the ratio may be a little high.
    loose = 2e-2 if definition == "spectral" else 1e-9
    assert snr(gradients, definition, weights) == pytest.approx(expected, rel=loose)
    if definition == "spectral":
        exact = snr(gradients, definition, weights, iterations=2000, tolerance=1e-14)
        assert exact == pytest.approx(expected, rel=1e-6)
        assert snr(gradients, definition, weights) >= expected * (1 - 1e-9)


def test_weights_matter():
    gradients, w = gradients_of(), torch.ones(40)
    w[:20] = 3.0
    for definition in DEFINITIONS:
        assert snr(gradients, definition, w) != pytest.approx(snr(gradients, definition), rel=1e-3)


@pytest.mark.parametrize("delta", [0.05, 0.5, 3.0])
def test_regression_has_the_ratio_of_theory(delta):
    """y = A* x + e with slope A = A* + δ: E g = δ E x², Var g = δ²(κ − 1)(E x²)² + σ² E x², so the
    mean of m samples has ratio √m |δ| / √(δ²(κ − 1) + σ²/E x²), κ = E x⁴ / (E x²)²."""
    n, sigma, star, m = 40_000, 0.7, 1.5, 25
    g = torch.Generator().manual_seed(3)
    x = 2.0 * torch.rand(n, 1, generator=g, dtype=torch.float64) - 0.5
    y = star * x + sigma * torch.randn(n, 1, generator=g, dtype=torch.float64)
    line = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        line.weight.fill_(star + delta)

    def losses(outputs, batch):
        return (0.5 * (outputs - batch[1]).square().mean()).reshape(1)

    pool = Pool(line, lambda i: (x[list(i)], y[list(i)]), n, losses, batch_size=10_000)
    found = pool.last_layer().objective(0)
    # x is uniform on [-1/2, 3/2]: E x² = 7/12, E x⁴ = 61/80.
    second, fourth = 7 / 12, 61 / 80
    kappa = fourth / second**2
    theory = math.sqrt(m) * delta / math.sqrt(delta**2 * (kappa - 1) + sigma**2 / second)
    # One number for each sample: largest eigenvalue and trace are the same variance.
    assert math.sqrt(m) * snr(found, "spectral") == pytest.approx(theory, rel=0.1)
    assert snr(found, "trace") == pytest.approx(snr(found, "spectral"), rel=1e-6)
    norms = torch.cat([r * h for r, h in found.factors]).abs()
    expected = float(norms.mean() / norms.std(unbiased=False))
    assert snr(found, "norms") == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("definition", DEFINITIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_that_are_all_the_same_have_no_noise(definition, dtype):
    g = torch.Generator().manual_seed(0)
    r, h = (
        torch.randn(1, 10, generator=g, dtype=dtype),
        torch.randn(1, 65, generator=g, dtype=dtype),
    )
    same = Gradients(((r.expand(500, -1), h.expand(500, -1)),))
    assert snr(same, definition) == math.inf
    assert snr(same[torch.arange(2)], definition) == math.inf


def test_gradients_that_cancel_have_no_signal():
    r, h = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]]), torch.ones(4, 3)
    assert snr(Gradients(((r, h),)), "spectral") == pytest.approx(0.0, abs=1e-6)
    assert snr(Gradients(((r, h),)), "trace") == pytest.approx(0.0, abs=1e-6)
