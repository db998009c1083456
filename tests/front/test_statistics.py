"""Statistics over seeds, against SciPy and against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from frontrunner.errors import FrontError
from frontrunner.front import statistics


def test_mean_and_deviation_are_the_sample_ones() -> None:
    found = statistics.describe([1.0, 2.0, 6.0])
    assert found is not None
    assert found.mean == pytest.approx(3.0)
    assert found.std == pytest.approx(np.sqrt(7.0))  # (4 + 1 + 9) / 2


def test_one_value_has_no_spread_and_none_has_no_statistic() -> None:
    assert statistics.describe([2.5]) == statistics.Statistic(1, 2.5, None, None, None)
    assert statistics.describe([]) is None


def test_bootstrap_agrees_with_scipy_percentiles() -> None:
    x = np.random.default_rng(3).normal(size=30)
    low, high = statistics.bootstrap(x, confidence=0.9, resamples=20_000)
    theirs = stats.bootstrap(
        (x,), np.mean, method="percentile", confidence_level=0.9, n_resamples=20_000, rng=1
    ).confidence_interval
    width = theirs.high - theirs.low
    assert low == pytest.approx(theirs.low, abs=0.03 * width)
    assert high == pytest.approx(theirs.high, abs=0.03 * width)


def test_bootstrap_repeats_itself_and_moves_with_the_data() -> None:
    x = np.random.default_rng(0).normal(size=6)
    low, high = statistics.bootstrap(x, seed=4)
    assert (low, high) == statistics.bootstrap(x, seed=4)
    moved = statistics.bootstrap(3.0 * x + 1.0, seed=4)
    np.testing.assert_allclose(moved, [3.0 * low + 1.0, 3.0 * high + 1.0])
    assert low < x.mean() < high


def test_bootstrap_interval_usually_contains_the_mean() -> None:
    rng = np.random.default_rng(8)
    hits = 0
    for i in range(200):
        low, high = statistics.bootstrap(rng.normal(size=40), resamples=400, seed=i)
        hits += low <= 0.0 <= high
    assert 0.88 <= hits / 200 <= 0.99


@pytest.mark.parametrize("n", [2, 3, 7, 12])
def test_sign_flip_agrees_with_scipys_permutation_test(n: int) -> None:
    d = np.random.default_rng(n).normal(0.4, 1.0, size=n)
    theirs = stats.permutation_test(
        (d,), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=False
    )
    assert statistics.paired_test(d).p == pytest.approx(theirs.pvalue, abs=1e-12)


def test_sign_flip_by_hand() -> None:
    # Of the eight sums ±1 ±2 ±4 four are at least 5 away from 0: ±5 and ±7.
    assert statistics.paired_test([-1.0, 2.0, 4.0]).p == pytest.approx(4 / 8)
    assert statistics.paired_test([1.0, 2.0, 4.0]).p == pytest.approx(2 / 8)


def test_sign_flip_counts_equal_sums_as_equal_despite_rounding() -> None:
    d = [0.1, 0.2, 0.3, -0.6]  # several patterns sum to exactly as much as the observed one: 0
    assert statistics.paired_test(d).p == 1.0
    # Equal differences: of the 16 patterns only the two uniform ones are as extreme.
    assert statistics.paired_test([0.1 + 0.2, 0.3, 0.3, 0.3]).p == pytest.approx(2 / 16)


def test_differences_of_one_sign_reach_the_smallest_p_and_no_data_less() -> None:
    rng = np.random.default_rng(5)
    for n in range(1, 11):
        same = statistics.paired_test(rng.random(n) + 0.1)
        assert same.p == pytest.approx(same.smallest)
        assert same.smallest == 2.0 ** (1 - n)
        mixed = statistics.paired_test(rng.normal(size=n))
        assert mixed.p is not None
        assert mixed.p >= mixed.smallest - 1e-12


def test_more_than_twelve_pairs_use_wilcoxon() -> None:
    d = np.random.default_rng(2).normal(0.3, 1.0, size=15)
    found = statistics.paired_test(d)
    assert found.method == "wilcoxon"
    assert found.p == pytest.approx(stats.wilcoxon(d).pvalue)


@pytest.mark.parametrize("n", [3, 20])
def test_no_difference_at_all_has_p_one(n: int) -> None:
    assert statistics.paired_test(np.zeros(n)).p == 1.0


def test_no_pairs_have_no_p() -> None:
    assert statistics.paired_test([]) == statistics.PairedTest(0, None, 1.0, "none")


def test_holm_by_hand() -> None:
    # sorted 0.01, 0.02, 0.03, 0.04 -> 0.04, 0.06, 0.06, 0.06
    assert statistics.holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert statistics.holm([0.5, 0.9]) == [1.0, 1.0]
    assert statistics.holm([]) == []


def test_holm_rejects_what_closed_testing_with_bonferroni_rejects() -> None:
    rng = np.random.default_rng(11)
    for _ in range(20):
        p = rng.random(4) ** 3
        subsets = [[j for j in range(4) if mask >> j & 1] for mask in range(1, 16)]
        closed = [
            max(min(1.0, len(s) * min(p[j] for j in s)) for s in subsets if i in s)
            for i in range(4)
        ]
        assert statistics.holm(p) == pytest.approx(closed)


def test_seeds_needed_is_the_first_number_that_suffices() -> None:
    for k in (1, 3, 6):
        n = statistics.seeds_needed(k, 0.05)
        assert k * statistics.smallest_p(n) <= 0.05 < k * statistics.smallest_p(n - 1)


@pytest.mark.parametrize(
    "call",
    [
        lambda: statistics.describe([1.0, np.nan]),
        lambda: statistics.paired_test([np.inf]),
        lambda: statistics.bootstrap([1.0]),
        lambda: statistics.bootstrap([1.0, 2.0], confidence=95),
        lambda: statistics.bootstrap([1.0, 2.0], resamples=0),
    ],
)
def test_bad_input_is_refused(call) -> None:
    with pytest.raises(FrontError):
        call()
