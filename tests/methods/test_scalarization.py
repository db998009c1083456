"""Scalarisations against their formulas, their limits and each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from frontrunner.methods.learning import scalarization as s


@pytest.fixture
def pairs():
    stream = torch.Generator().manual_seed(11)
    f = torch.rand(40, 3, generator=stream, dtype=torch.float64) * 4
    w = torch.rand(40, 3, generator=stream, dtype=torch.float64) + 0.05
    return f, w / w.sum(-1, keepdim=True)


def by_hand(function, f, w):
    return [function(a, b) for a, b in zip(f.numpy(), w.numpy(), strict=True)]


def test_formulas(pairs):
    f, w = pairs
    ideal = np.array([0.1, -0.2, 0.3])
    z = torch.as_tensor(ideal)
    cases = {
        "linear": (s.linear(f, w), lambda a, b: sum(a * b)),
        "chebyshev": (s.chebyshev(f, w, z), lambda a, b: max(b * (a - ideal))),
        "smooth": (
            s.smooth_chebyshev(f, w, 0.3, z),
            lambda a, b: 0.3 * np.log(sum(np.exp(b * (a - ideal) / 0.3))),
        ),
        "cosmos": (
            s.cosmos(f, w, 2.5),
            lambda a, b: a @ b - 2.5 * (a @ b) / np.linalg.norm(a) / np.linalg.norm(b),
        ),
    }
    for name, (found, formula) in cases.items():
        np.testing.assert_allclose(found, by_hand(formula, f, w), rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("mu", [1.0, 0.1, 1e-3])
def test_the_smooth_maximum_lies_above_the_maximum_by_at_most_mu_log_m(pairs, mu):
    f, w = pairs
    gap = s.smooth_chebyshev(f, w, mu) - s.chebyshev(f, w)
    assert (gap >= -1e-12).all()
    assert (gap <= mu * np.log(3) + 1e-12).all()


def test_the_smooth_maximum_does_not_overflow_and_has_a_gradient():
    f = torch.tensor([1e4, 2e4], requires_grad=True)
    value = s.smooth_chebyshev(f, torch.tensor([0.5, 0.5]), 1e-3)
    value.backward()
    assert value.item() == pytest.approx(1e4)
    assert f.grad.tolist() == [0.0, 0.5]


def test_linear_and_chebyshev_never_reward_a_worse_objective(pairs):
    f, w = pairs
    worse = f + torch.rand(f.shape, generator=torch.Generator().manual_seed(2), dtype=f.dtype)
    for function in (s.linear, s.chebyshev, lambda a, b: s.smooth_chebyshev(a, b, 0.2)):
        assert (function(worse, w) >= function(f, w)).all()


def test_cosmos_pulls_the_objectives_towards_the_ray():
    ray = torch.tensor([0.8, 0.6])
    f = torch.tensor([0.2, 1.0], requires_grad=True)
    s.cosmos(f, ray, weight=100.0).backward()
    stepped = (f - 1e-3 * f.grad).detach()
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(stepped, ray, dim=0) > cosine(f, ray, dim=0)


def test_cosmos_without_its_cosine_is_linear(pairs):
    torch.testing.assert_close(s.cosmos(*pairs, 0.0), s.linear(*pairs))


def test_leading_dimensions_are_kept(pairs):
    f, w = (t.reshape(8, 5, 3) for t in pairs)
    for function in (s.linear, s.chebyshev, lambda a, b: s.cosmos(a, b, 2.0)):
        assert function(f, w).shape == (8, 5)
        torch.testing.assert_close(function(f, w)[3, 2], function(f[3, 2], w[3, 2]))
