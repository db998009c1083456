"""The closed form of Pareto merging without data: HOOI, the Dirichlet moment, optimality."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from frontrunner.errors import ConfigError
from frontrunner.methods.merging.tucker import closed_form, preference_moment, tucker2
from frontrunner.preferences import dirichlet


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rebuilt(left, right, core):
    return left @ core @ right.T


def expected_distance(left, right, core, d, concentration):
    """E_γ Σ_k γ_k ‖A C(γ) Bᵀ - D_k‖², by the moments of γ alone."""
    moment = preference_moment(len(d), concentration)
    t = rebuilt(left, right, core)
    mean = d.new_full((len(d),), 1 / len(d))
    inner = torch.einsum("jcd,kcd->jk", t, d)
    squares = torch.einsum("jcd,kcd,jk->", t, t, moment)
    return squares - 2 * (inner * moment).sum() + (mean * d.square().sum((1, 2))).sum()


@pytest.mark.parametrize("concentration", [0.1, 0.5, 3.0])
def test_the_moment_is_that_of_draws(concentration):
    gamma = dirichlet(3, 200_000, concentration, seed=1)
    empirical = gamma.T @ gamma / len(gamma)
    assert np.allclose(preference_moment(3, concentration), empirical, atol=4e-3)


def test_a_concentration_of_zero_is_refused():
    with pytest.raises(ConfigError, match="concentration"):
        preference_moment(3, 0.0)


def test_a_tensor_of_low_rank_is_recovered_by_orthonormal_factors():
    exact = rebuilt(drawn(12, 4, seed=1), drawn(10, 4, seed=2), drawn(3, 4, 4, seed=3))
    left, right, core = tucker2(exact, 4)
    assert torch.allclose(rebuilt(left, right, core), exact, atol=1e-9)
    for factor in (left, right):
        assert torch.allclose(factor.T @ factor, torch.eye(4, dtype=torch.float64), atol=1e-9)


def test_each_mode_takes_the_rank_it_can_have():
    d = drawn(3, 16, 6)
    left, right, core = closed_form(d, 32, 0.5)
    assert (left.shape, right.shape, core.shape) == ((16, 16), (6, 6), (3, 16, 6))
    assert torch.allclose(rebuilt(left, right, core), d, atol=1e-9)


def test_no_difference_is_no_change():
    left, right, core = closed_form(torch.zeros(2, 5, 4), 3, 0.5)
    assert torch.isfinite(left).all()
    assert torch.isfinite(right).all()
    assert not core.any()


@pytest.mark.parametrize("concentration", [0.2, 1.0])
def test_gradient_descent_finds_nothing_better(concentration):
    d, rank = drawn(3, 12, 10, seed=4), 3
    best = expected_distance(*closed_form(d, rank, concentration, 60), d, concentration)
    found = []
    for seed in range(4):
        parts = [
            drawn(12, rank, seed=seed), drawn(10, rank, seed=seed + 9), drawn(3, rank, rank, seed=7)
        ]  # fmt: skip
        for p in parts:
            p.mul_(0.3).requires_grad_()
        optimizer = torch.optim.LBFGS(parts, max_iter=400, line_search_fn="strong_wolfe")

        def closure(parts=parts, optimizer=optimizer):
            optimizer.zero_grad()
            value = expected_distance(*parts, d, concentration)
            value.backward()
            return value

        optimizer.step(closure)
        found.append(float(closure().detach()))
    # Descent may end in a worse local optimum; its best run is the closed form.
    assert min(found) == pytest.approx(float(best), rel=1e-4)
    assert all(value >= float(best) * (1 - 1e-4) for value in found)
