"""Attainment: surfaces and differences against their definition and against moocore."""

from __future__ import annotations

import moocore
import numpy as np
import pytest

from frontrunner.errors import FrontError
from frontrunner.front import attainment, indicators

A = np.array([[1.0, 5.0], [3.0, 3.0], [5.0, 1.0]])
B = np.array([[2.0, 2.5], [4.0, 2.0], [9.0, 9.0]])


def share(runs: list[np.ndarray], z: np.ndarray) -> float:
    """The definition: the share of runs with a point at least as good as z everywhere."""
    return float(np.mean([(run <= z).all(axis=1).any() for run in runs]))


def random_runs(n: int, m: int, seed: int, points: int = 8) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.random((points, m)) for _ in range(n)]


@pytest.mark.parametrize("m", [2, 3])
def test_a_single_runs_surface_is_its_own_nondominated_front(m: int) -> None:
    (run,) = random_runs(1, m, seed=m, points=20)
    own = run[indicators.nondominated(run)]
    found = attainment.surface([run]).points
    np.testing.assert_array_equal(found, own[np.lexsort(own.T[::-1])])


def test_two_runs_by_hand() -> None:
    # Half of two runs is one of them: the joint front.
    np.testing.assert_array_equal(
        attainment.surface([A, B], 0.5).points, [[1, 5], [2, 2.5], [4, 2], [5, 1]]
    )
    # Both: the joins of one point from each.
    np.testing.assert_array_equal(attainment.surface([A, B], 1.0).points, [[2, 5], [3, 3], [5, 2]])


@pytest.mark.parametrize("m", [2, 3])
@pytest.mark.parametrize("n", [2, 3, 5, 7])
def test_every_point_of_a_surface_is_attained_by_the_level_and_nothing_better(
    n: int, m: int
) -> None:
    runs = random_runs(n, m, seed=n)
    for level in (1 / n, 0.5, 2 / 3, 1.0):
        for z in attainment.surface(runs, level).points:
            assert share(runs, z) >= level - 1e-9
            assert all(share(runs, z - 1e-9 * np.eye(m)[j]) < level - 1e-9 for j in range(m))


def test_surfaces_get_worse_as_the_level_rises() -> None:
    runs = random_runs(6, 2, seed=1)
    volumes = [
        indicators.hypervolume(attainment.surface(runs, level).points, [1.1, 1.1])
        for level in np.linspace(0.05, 1.0, 20)
    ]
    assert (np.diff(volumes) <= 1e-12).all()
    assert volumes[0] > volumes[-1]


def test_four_objectives_have_no_surface_and_say_why() -> None:
    found = attainment.surface(random_runs(2, 4, seed=0))
    assert found.points is None
    assert "4" in found.reason


def test_difference_is_its_definition_on_every_cell_for_unequal_groups() -> None:
    a, b = random_runs(3, 2, seed=4), random_runs(2, 2, seed=5)
    found = attainment.difference(a, b)
    assert found is not None
    assert found.exact
    rng = np.random.default_rng(0)
    for _ in range(300):
        j, i = rng.integers(len(found.y) - 1), rng.integers(len(found.x) - 1)
        inside = rng.random(2)
        z = np.array(
            [
                found.x[i] + inside[0] * (found.x[i + 1] - found.x[i]),
                found.y[j] + inside[1] * (found.y[j + 1] - found.y[j]),
            ]
        )
        assert found.values[j, i] == pytest.approx(share(a, z) - share(b, z))


def test_difference_agrees_with_moocore_for_groups_of_equal_size() -> None:
    a, b = random_runs(3, 2, seed=6), random_runs(3, 2, seed=7)
    found = attainment.difference(a, b)
    assert found is not None
    stacked = [
        np.vstack([np.c_[r, np.full(len(r), i + 1)] for i, r in enumerate(g)]) for g in (a, b)
    ]
    rectangles = moocore.eafdiff(*stacked, intervals=3, rectangles=True)
    assert len(rectangles) > 10
    for x0, y0, x1, y1, value in rectangles:
        i = np.searchsorted(found.x, min(x0, x1), side="right") - 1
        j = np.searchsorted(found.y, min(y0, y1), side="right") - 1
        assert 3 * found.values[j, i] == pytest.approx(value)


def test_difference_of_a_group_with_itself_is_zero_and_swaps_sign() -> None:
    a, b = random_runs(2, 2, seed=8), random_runs(3, 2, seed=9)
    assert not attainment.difference(a, a).values.any()
    forth, back = attainment.difference(a, b), attainment.difference(b, a)
    np.testing.assert_allclose(forth.values, -back.values)
    assert np.abs(forth.values).max() > 0


def test_a_thinned_difference_says_so_and_keeps_to_its_size() -> None:
    a, b = random_runs(2, 2, seed=1, points=60), random_runs(2, 2, seed=2, points=60)
    found = attainment.difference(a, b, cells=50)
    assert found.values.shape <= (50, 50)
    assert not found.exact


def test_difference_is_for_two_objectives() -> None:
    assert attainment.difference(random_runs(2, 3, 0), random_runs(2, 3, 1)) is None


def test_the_area_under_a_staircase_is_the_hypervolume() -> None:
    run = random_runs(1, 2, seed=3, points=30)[0]
    line = attainment.staircase(run, np.array([1.2, 1.2]))
    x, y = line.T
    area = float(np.sum((x[1:] - x[:-1]) * (1.2 - np.minimum(y[1:], y[:-1]))))
    assert area == pytest.approx(indicators.hypervolume(run, [1.2, 1.2]))
    # Corners only: every step is along one axis.
    assert ((np.diff(x) == 0) | (np.diff(y) == 0)).all()


def test_bad_input_is_refused() -> None:
    with pytest.raises(FrontError):
        attainment.surface([])
    with pytest.raises(FrontError):
        attainment.surface([A], 0.0)
    with pytest.raises(FrontError):
        attainment.difference([A], [])
