"""Order statistics of streams are those of the sorted numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from frontrunner.weights.selection import order_statistics


def rows(*numbers, piece):
    tensors = [torch.from_numpy(np.asarray(n, dtype=np.float32)) for n in numbers]
    return lambda: zip(*(t.split(piece) for t in tensors), strict=True)


def awkward(rng, n):
    """Numbers of all magnitudes, and many equal ones."""
    wide = rng.normal(size=n) * 10.0 ** rng.integers(-44, 38, size=n)
    wide[rng.random(n) < 0.3] = 0
    wide[rng.random(n) < 0.2] = -1e-3
    return wide.astype(np.float32)


@pytest.mark.parametrize("piece", [1, 7, 1000, 5000])
def test_selection_equals_partition(piece):
    rng = np.random.default_rng(0)
    n = 1000
    numbers = [awkward(rng, n), rng.normal(size=n), rng.integers(0, 3, size=n)]
    ranks = np.stack([rng.integers(0, n, size=6) for _ in numbers])
    ranks[:, :2] = 0, n - 1
    found = order_statistics(rows(*numbers, piece=piece), ranks)
    expected = [np.partition(np.float32(x), r)[r] for x, r in zip(numbers, ranks, strict=True)]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("value", [0.0, -2.5, 1e-45, 3e38])
def test_equal_numbers(value):
    found = order_statistics(rows(np.full(50, value), piece=8), [[0, 25, 49]])
    np.testing.assert_array_equal(found, np.full((1, 3), value, dtype=np.float32))


def test_numbers_that_share_their_upper_half():
    near_one = 1 + np.arange(400) * np.float32(2.0**-23)
    found = order_statistics(rows(near_one[::-1].copy(), piece=64), [[3, 399, 3]])
    np.testing.assert_array_equal(found[0], near_one[[3, 399, 3]].astype(np.float32))


@pytest.mark.parametrize("rank", [-1, 5])
def test_a_rank_beyond_the_numbers_is_refused(rank):
    with pytest.raises(IndexError, match="among 5 numbers"):
        order_statistics(rows(np.arange(5), piece=2), [[rank]])
