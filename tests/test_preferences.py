"""Preference grids and maps: membership of the simplex, counts, symmetry, closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from frontrunner import preferences
from frontrunner.errors import FrontError


@pytest.mark.parametrize(("m", "s"), [(2, 1), (2, 24), (3, 7), (4, 5), (6, 3)])
def test_das_dennis_is_the_whole_lattice(m: int, s: int) -> None:
    grid = preferences.das_dennis(m, s)
    assert grid.shape == (math.comb(s + m - 1, m - 1), m)
    np.testing.assert_allclose(grid.sum(axis=1), 1, atol=1e-15)
    np.testing.assert_allclose(grid * s, np.round(grid * s), atol=1e-12)
    assert len({tuple(np.round(row * s).astype(int)) for row in grid}) == len(grid)


def test_das_dennis_in_two_objectives_runs_from_the_first_to_the_second() -> None:
    np.testing.assert_allclose(preferences.das_dennis(2, 4)[:, 0], [1, 0.75, 0.5, 0.25, 0])


def test_das_dennis_equals_pymoos() -> None:
    pymoo = pytest.importorskip("pymoo.util.ref_dirs")
    theirs = pymoo.get_reference_directions("das-dennis", 3, n_partitions=6)
    ours = preferences.das_dennis(3, 6)
    np.testing.assert_allclose(
        sorted(map(tuple, ours.round(12))), sorted(map(tuple, theirs.round(12)))
    )


@pytest.mark.parametrize(("m", "s"), [(1, 3), (3, 0)])
def test_das_dennis_refuses_what_is_no_grid(m: int, s: int) -> None:
    with pytest.raises(FrontError, match="Das-Dennis"):
        preferences.das_dennis(m, s)


@pytest.mark.parametrize(("m", "n"), [(2, 2), (2, 25), (3, 36), (3, 105), (4, 35)])
def test_grid_has_exactly_n_points(m: int, n: int) -> None:
    assert preferences.grid(m, n).shape == (n, m)


def test_grid_names_the_nearest_sizes() -> None:
    with pytest.raises(FrontError, match="nearest: 21 and 28"):
        preferences.grid(3, 25)


@pytest.mark.parametrize(("n", "rest"), [(0, "0 points; nearest: 3"), ("abc", "abc points")])
def test_a_size_that_no_lattice_is_near_is_refused_in_plain_words(n, rest) -> None:
    with pytest.raises(FrontError, match=f"of 3 objectives has {rest}$"):
        preferences.grid(3, n)


def test_dirichlet_is_seeded_and_on_the_simplex() -> None:
    a, b = (preferences.dirichlet(3, 50, 0.5, seed) for seed in (1, 2))
    np.testing.assert_array_equal(a, preferences.dirichlet(3, 50, 0.5, 1))
    assert not np.allclose(a, b)
    preferences.validate(a, 3)
    assert a.shape == (50, 3)


def test_dirichlet_means_follow_the_concentration() -> None:
    draws = preferences.dirichlet(3, 20000, [1.0, 2.0, 5.0], 0)
    # standard error of a mean is below 0.0015 here
    np.testing.assert_allclose(draws.mean(axis=0), np.array([1, 2, 5]) / 8, atol=0.006)


@pytest.mark.parametrize("concentration", [0.0, -1.0, math.nan, math.inf, [1.0, 0.0]])
def test_dirichlet_refuses_a_concentration_that_is_not_positive(concentration: object) -> None:
    with pytest.raises(FrontError, match="positive"):
        preferences.dirichlet(2, 3, concentration, 0)  # type: ignore[arg-type]


def test_corner_stratified_visits_every_corner_equally_often() -> None:
    p = preferences.corner_stratified(3, 40, 1.0, 0, corner=0.75)
    preferences.validate(p, 3)
    pulled = p[:30]
    assert (pulled[np.arange(30), np.arange(30) % 3] >= 0.5).all()
    np.testing.assert_array_equal(p[30:], preferences.dirichlet(3, 40, 1.0, 0)[30:])


def test_corner_stratified_without_corners_is_dirichlet() -> None:
    np.testing.assert_array_equal(
        preferences.corner_stratified(4, 9, 0.3, 5, corner=0.0), preferences.dirichlet(4, 9, 0.3, 5)
    )


@pytest.mark.parametrize("corner", [-0.1, 1.1, math.nan])
def test_corner_stratified_refuses_shares_outside_0_and_1(corner: float) -> None:
    with pytest.raises(FrontError, match="between 0 and 1"):
        preferences.corner_stratified(2, 4, 1.0, 0, corner=corner)


def test_validate_puts_rows_exactly_on_the_simplex() -> None:
    p = preferences.validate([[0.3 + 4e-7, 0.7], [-1e-9, 1.0]], 2)
    assert (p >= 0).all()
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-15)
    assert preferences.validate([0.25, 0.75], 2).shape == (2,)


@pytest.mark.parametrize(
    ("p", "message"),
    [
        ([0.5, 0.5, 0.0], "expected 2"),
        (0.5, "expected 2"),
        ([[[0.5, 0.5]]], "expected 2"),
        ([np.nan, 1.0], "finite"),
        ([np.inf, 0.0], "finite"),
        ([-0.1, 1.1], "negative"),
        ([0.5, 0.6], "sum to 1, not 1.1"),
        ([0.0, 0.0], "sum to 1, not 0"),
        ([[0.5, 0.5], [1.0, 1.0]], "sum to 1"),
    ],
)
def test_validate_refuses_what_is_no_preference(p: object, message: str) -> None:
    with pytest.raises(FrontError, match=message):
        preferences.validate(p, 2)  # type: ignore[arg-type]


@pytest.mark.parametrize("m", [2, 3, 5])
def test_angles_give_non_negative_unit_vectors(m: int) -> None:
    angles = np.random.default_rng(m).uniform(0, np.pi / 2, (40, m - 1))
    v = preferences.angles_to_vectors(angles)
    assert v.shape == (40, m)
    assert (v >= 0).all()
    np.testing.assert_allclose(np.linalg.norm(v, axis=1), 1, rtol=1e-14)


def test_one_angle_gives_sine_and_cosine() -> None:
    x = np.linspace(0, np.pi / 2, 7)
    np.testing.assert_allclose(
        preferences.angles_to_vectors(x[:, None]), np.stack([np.sin(x), np.cos(x)], axis=1)
    )


@pytest.mark.parametrize("m", [2, 3, 4])
def test_extreme_angles_reach_every_axis(m: int) -> None:
    corners = np.array(np.meshgrid(*[[0.0, np.pi / 2]] * (m - 1))).reshape(m - 1, -1).T
    reached = {int(row.argmax()) for row in preferences.angles_to_vectors(corners)}
    assert reached == set(range(m))


def test_simplex_and_sphere_keep_the_direction() -> None:
    v = np.random.default_rng(0).random((10, 3)) + 0.01
    on_simplex, on_sphere = preferences.to_simplex(v), preferences.to_sphere(v)
    np.testing.assert_allclose(on_simplex.sum(axis=1), 1)
    np.testing.assert_allclose(np.linalg.norm(on_sphere, axis=1), 1)
    np.testing.assert_allclose(preferences.to_simplex(on_sphere), on_simplex)
    np.testing.assert_allclose(preferences.to_sphere(on_simplex), on_sphere)


def test_validating_twice_changes_no_bit():
    once = preferences.validate(preferences.dirichlet(2, 2000, 1.0, seed=5) * (1 + 5e-7), 2)
    np.testing.assert_array_equal(preferences.validate(once, 2), once)


def test_a_lattice_of_two_objectives_has_any_number_of_points():
    assert preferences.grid(2, 1000).shape == (1000, 2)
    assert preferences.grid(10, 55).shape == (55, 10)
