"""The shortest vector in a hull: optimality, invariances, and an outside solver."""

from __future__ import annotations

import numpy as np
import pytest

from frontrunner.methods.learning.min_norm import min_norm


def gramian(n: int, width: int, seed: int, scale: float = 1.0) -> np.ndarray:
    vectors = scale * np.random.default_rng(seed).standard_normal((n, width))
    return vectors @ vectors.T


CASES = [(n, width, seed) for n in (2, 3, 10) for width in (2, 30) for seed in range(10)]


@pytest.mark.parametrize(("n", "width", "seed"), CASES)
def test_no_vector_is_behind_the_shortest(n: int, width: int, seed: int) -> None:
    """d is the shortest in the hull if and only if v_j · d >= d · d for all j."""
    g = gramian(n, width, seed)
    w = min_norm(g)
    assert (w >= 0).all()
    assert w.sum() == pytest.approx(1)
    assert (g @ w >= w @ g @ w - 1e-9 * np.trace(g)).all()


def test_two_vectors_have_a_closed_form() -> None:
    for seed in range(20):
        g = gramian(2, 3, seed)
        first = np.clip((g[1, 1] - g[0, 1]) / (g[0, 0] + g[1, 1] - 2 * g[0, 1]), 0, 1)
        np.testing.assert_allclose(min_norm(g), [first, 1 - first], atol=1e-9)


@pytest.mark.parametrize("scale", [1e-8, 1e-3, 1e6])
def test_lengths_in_other_units_change_nothing(scale: float) -> None:
    np.testing.assert_allclose(
        min_norm(gramian(4, 9, 1, scale)), min_norm(gramian(4, 9, 1)), atol=1e-8
    )


def test_the_order_of_vectors_changes_nothing() -> None:
    g, order = gramian(5, 20, 2), np.array([3, 0, 4, 1, 2])
    np.testing.assert_allclose(min_norm(g[np.ix_(order, order)]), min_norm(g)[order], atol=1e-9)


def test_vectors_without_length_count_equally() -> None:
    np.testing.assert_array_equal(min_norm(np.zeros((3, 3))), np.full(3, 1 / 3))


def test_a_vector_without_length_is_the_shortest() -> None:
    np.testing.assert_allclose(min_norm(np.diag([0.0, 1.0])), [1, 0], atol=1e-12)


def test_it_is_no_longer_than_what_frank_and_wolfe_find() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    torch = pytest.importorskip("torch")
    for seed in range(3):
        g = gramian(4, 12, seed)
        theirs = aggregation.MGDAWeighting(epsilon=1e-6, max_iters=1000)(torch.as_tensor(g)).numpy()
        ours = min_norm(g)
        assert ours @ g @ ours <= theirs @ g @ theirs + 1e-9
        assert theirs @ g @ theirs <= 1.01 * (ours @ g @ ours)
