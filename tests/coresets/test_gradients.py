"""Factored gradients are what the gradients in full would be."""

from __future__ import annotations

import pytest
import torch

from frontrunner.coresets.gradients import Gradients, LastLayer, Vectors, joined


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def factored(n=7, layers=((3, 5), (4, 2)), seed=0):
    g = stream(seed)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    return Gradients(tuple((draw(n, c), draw(n, d)) for c, d in layers))


@pytest.mark.parametrize("layers", [((3, 5),), ((5, 3),), ((3, 5), (4, 2))])
def test_factors_agree_with_dense_gradients(layers):
    g = factored(layers=layers)
    # Not by `dense`, which is itself to be tested.
    dense = torch.stack(
        [torch.cat([torch.outer(r[i], h[i]).flatten() for r, h in g.factors]) for i in range(7)]
    )
    torch.testing.assert_close(g.dense(), dense)
    assert g.dimension == dense.shape[1] == sum(c * d for c, d in layers)
    vector = torch.randn(g.dimension, generator=stream(1), dtype=torch.float64)
    weights = torch.rand(7, generator=stream(2), dtype=torch.float64)
    torch.testing.assert_close(g.dot(vector), dense @ vector)
    torch.testing.assert_close(g.column(3), dense @ dense[3])
    torch.testing.assert_close(g.gram(), dense @ dense.T)
    torch.testing.assert_close(g.squared_norms(), dense.square().sum(1))
    torch.testing.assert_close(g.mean(), dense.mean(0))
    torch.testing.assert_close(g.mean(weights), (weights[:, None] * dense).mean(0))
    some = torch.tensor([5, 0, 5])
    torch.testing.assert_close(g[some].dense(), dense[some])
    assert len(g[some]) == 3


def test_vectors_in_full_mean_the_same_as_factors():
    g = factored()
    full, weights = Vectors(g.dense()), torch.rand(7, generator=stream(3), dtype=torch.float64)
    vector = torch.randn(g.dimension, generator=stream(4), dtype=torch.float64)
    assert len(full) == len(g)
    torch.testing.assert_close(full.dot(vector), g.dot(vector))
    torch.testing.assert_close(full.column(2), g.column(2))
    torch.testing.assert_close(full.mean(), g.mean())
    torch.testing.assert_close(full.mean(weights), g.mean(weights))


def test_one_number_that_is_not_finite_is_noticed():
    g = factored()
    assert g.finite
    g.factors[1][1][2, 0] = torch.nan
    assert not g.finite


def seen(n, seed):
    g = stream(seed)
    features = (torch.randn(n, 4, generator=g), torch.randn(n, 2, generator=g))
    residuals = tuple(
        (torch.randn(n, 3, generator=g), torch.randn(n, 5, generator=g)) for _ in range(2)
    )
    return LastLayer(features, residuals, torch.rand(2, generator=g))


def test_objectives_are_weighted_or_stacked():
    one = seen(6, 0)
    first, second = (one.objective(j).dense() for j in range(2))
    torch.testing.assert_close(one.weighted((0.3, 0.7)).dense(), 0.3 * first + 0.7 * second)
    stacked = one.stacked((0.3, 0.7)).dense()
    torch.testing.assert_close(stacked, torch.cat([0.3 * first, 0.7 * second], dim=1))


def test_groups_are_joined_with_their_losses_by_size():
    one, other = seen(6, 0), seen(2, 1)
    both = joined([one, other])
    for j in range(2):
        expected = torch.cat([one.objective(j).dense(), other.objective(j).dense()])
        torch.testing.assert_close(both.objective(j).dense(), expected)
    torch.testing.assert_close(both.losses, (6 * one.losses + 2 * other.losses) / 8)
    # Processes exchange losses, whether theirs came in one piece or in several.
    assert both.losses.dtype == joined([one]).losses.dtype
