"""Indicators on shared fronts, against pymoo's and moocore's own; statistics against SciPy's."""

from __future__ import annotations

import moocore
import numpy as np
import pytest
from pymoo.indicators.hv import HV
from pymoo.indicators.igd_plus import IGDPlus
from pymoo.problems import get_problem
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting
from scipy import stats

from frontrunner.front import indicators, statistics

Array = np.ndarray


def shared(m: int) -> list[Array]:
    """Random clouds, points on a sphere, points with ties, and one point; all within [0, 1]."""
    rng = np.random.default_rng(m)
    sphere = np.abs(rng.normal(size=(30, m)))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    return [rng.random((40, m)), sphere, rng.integers(0, 4, (25, m)) / 4.0, rng.random((1, m))]


@pytest.mark.parametrize("m", [2, 3, 4, 5])
def test_hypervolume_is_pymoos_and_moocores(m: int) -> None:
    for front in shared(m):
        for reference in (np.full(m, 1.1), np.linspace(0.6, 1.0, m)):  # some points are beyond
            ours = indicators.hypervolume(front, reference)
            inside = front[(front < reference).all(axis=1)]
            pymoo = HV(ref_point=reference)(inside) if len(inside) else 0.0
            assert ours == pytest.approx(pymoo, rel=1e-9, abs=1e-12)
            assert ours == pytest.approx(moocore.hypervolume(front, ref=reference), rel=1e-9)


@pytest.mark.parametrize("m", [2, 3, 5])
def test_igd_plus_and_epsilon_are_pymoos_and_moocores(m: int) -> None:
    known = np.random.default_rng(99).random((20, m))
    for front in shared(m):
        ours = indicators.igd_plus(front, known)
        assert ours == pytest.approx(IGDPlus(known)(front), rel=1e-9)
        assert ours == pytest.approx(moocore.igd_plus(front, ref=known), rel=1e-9)
        theirs = moocore.epsilon_additive(front, ref=known)
        assert indicators.epsilon_additive(front, known) == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("m", [2, 3, 5])
def test_dominance_is_pymoos_and_moocores(m: int) -> None:
    for front in shared(m):
        ours = indicators.nondominated(front)
        np.testing.assert_array_equal(ours, moocore.is_nondominated(front))
        # pymoo keeps all copies of a point, ours the first.
        pymoo = NonDominatedSorting().do(front, only_non_dominated_front=True)
        assert {tuple(row) for row in front[ours]} == {tuple(row) for row in front[pymoo]}


@pytest.mark.parametrize("name", ["zdt1", "zdt2", "dtlz2"])
def test_known_fronts_of_pymoo_are_measured_alike(name: str) -> None:
    front = np.asarray(get_problem(name).pareto_front())[::5]
    reference = np.full(front.shape[1], 1.1)
    ours = indicators.hypervolume(front, reference)
    assert ours == pytest.approx(HV(ref_point=reference)(front), rel=1e-9)
    shifted = front + 0.1
    assert indicators.igd_plus(shifted, front) == pytest.approx(IGDPlus(front)(shifted), rel=1e-9)
    assert indicators.epsilon_additive(shifted, front) == pytest.approx(0.1)


def test_rank_alignment_is_the_mean_of_scipys_spearman_correlations() -> None:
    rng = np.random.default_rng(5)
    p, f = rng.dirichlet(np.ones(3), 15), rng.random((15, 3))
    theirs = np.mean([stats.spearmanr(p[:, j], -f[:, j]).statistic for j in range(3)])
    assert indicators.rank_alignment(p, f, "weight") == pytest.approx(theirs)


def test_intervals_are_scipys_percentile_bootstrap_in_the_limit() -> None:
    values = np.random.default_rng(1).normal(size=15)
    ours = statistics.describe(values, resamples=40_000)
    assert ours is not None
    theirs = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=40_000, rng=np.random.default_rng(2)
    ).confidence_interval
    assert [ours.low, ours.high] == pytest.approx([theirs.low, theirs.high], abs=0.02)
    assert ours.std == pytest.approx(stats.tstd(values))


@pytest.mark.parametrize("n", [4, 7, 12, 13, 20])
def test_paired_tests_are_scipys(n: int) -> None:
    differences = np.random.default_rng(n).normal(0.3, 1.0, n)
    ours = statistics.paired_test(differences)
    if n <= 12:
        theirs = stats.permutation_test(
            (differences, np.zeros(n)),
            lambda a, b: np.mean(a - b),
            permutation_type="samples",
            n_resamples=np.inf,
        )
    else:
        theirs = stats.wilcoxon(differences)
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-9)
