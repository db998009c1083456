"""The hypervolume gradient against finite differences of an outside hypervolume, and identities."""

from __future__ import annotations

import itertools

import moocore
import numpy as np
import pytest

from frontrunner.errors import FrontError
from frontrunner.front import indicators
from frontrunner.front.hypervolume import (
    front_ranks,
    hypervolume_gradient,
    sorted_hypervolume_gradient,
)


def finite_differences(f: np.ndarray, z: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Central differences of moocore's hypervolume."""
    out = np.zeros_like(f)
    for i, k in np.ndindex(*f.shape):
        up, down = f.copy(), f.copy()
        up[i, k] += step
        down[i, k] -= step
        out[i, k] = moocore.hypervolume(up, ref=z) - moocore.hypervolume(down, ref=z)
    return out / (2 * step)


def untied(f: np.ndarray, z: np.ndarray, margin: float = 1e-5) -> bool:
    """No two numbers of a column are so close that a step of the differences crosses a kink."""
    columns = np.sort(np.vstack([f, z]), axis=0)
    return bool((np.diff(columns, axis=0) > margin).all())


@pytest.mark.parametrize("m", [2, 3])
def test_gradient_equals_finite_differences_on_random_sets(m: int) -> None:
    rng = np.random.default_rng(20 + m)
    checked = 0
    for trial in range(300):
        n = int(rng.integers(1, 13))
        f = rng.random((n, m))
        if trial % 2:  # mutually non-dominated: on a sphere
            f = np.abs(rng.normal(size=(n, m)))
            f /= np.linalg.norm(f, axis=1, keepdims=True)
        z = rng.uniform(0.7, 1.2, m)  # some points lie beyond
        if not untied(f, z):
            continue
        np.testing.assert_allclose(hypervolume_gradient(f, z), finite_differences(f, z), atol=2e-8)
        checked += 1
    assert checked > 250


def test_gradient_of_one_point_is_minus_the_faces_of_its_box() -> None:
    f, z = np.array([[0.2, 0.5, 0.1]]), np.array([1.0, 1.0, 2.0])
    a, b, c = (z - f)[0]
    np.testing.assert_allclose(hypervolume_gradient(f, z), [[-b * c, -a * c, -a * b]])


def test_two_interlocking_boxes_by_hand() -> None:
    f, z = np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([2.0, 3.0])
    # HV = (2-0)(3-1) + (2-1)(1-0); the second term's height is f01 - f11.
    np.testing.assert_allclose(hypervolume_gradient(f, z), [[-2, -1], [-1, -1]])


@pytest.mark.parametrize("m", [2, 3])
def test_euler_identity_links_gradient_and_volume(m: int) -> None:
    """HV is homogeneous of degree m in f - r, so the sum of gradient * (f - r) is m HV."""
    rng = np.random.default_rng(3)
    for n in (1, 4, 40, 200):
        f, z = rng.random((n, m)), np.full(m, 0.9)
        total = (hypervolume_gradient(f, z) * (f - z)).sum()
        assert total == pytest.approx(m * moocore.hypervolume(f, ref=z), rel=1e-10)


@pytest.mark.parametrize("m", [2, 3])
def test_euler_identity_holds_with_many_ties(m: int) -> None:
    rng = np.random.default_rng(4)
    for _ in range(200):
        f, z = rng.integers(0, 5, (12, m)).astype(float), np.full(m, 4.0)
        total = (hypervolume_gradient(f, z) * (f - z)).sum()
        assert total == pytest.approx(m * moocore.hypervolume(f, ref=z), abs=1e-9)


@pytest.mark.parametrize("m", [2, 3])
def test_permuting_rows_and_objectives_permutes_the_gradient(m: int) -> None:
    rng = np.random.default_rng(5)
    f, z = rng.random((15, m)), np.full(m, 1.1)
    gradient = hypervolume_gradient(f, z)
    rows = rng.permutation(15)
    np.testing.assert_array_equal(hypervolume_gradient(f[rows], z), gradient[rows])
    for columns in itertools.permutations(range(m)):
        c = list(columns)
        np.testing.assert_allclose(hypervolume_gradient(f[:, c], z[c]), gradient[:, c], atol=1e-14)


def test_permuting_rows_with_shared_coordinates_permutes_the_gradient() -> None:
    rng = np.random.default_rng(6)
    f = np.unique(rng.integers(0, 5, (20, 3)).astype(float), axis=0)
    z = np.full(3, 6.0)
    rows = rng.permutation(len(f))
    np.testing.assert_array_equal(
        hypervolume_gradient(f[rows], z), hypervolume_gradient(f, z)[rows]
    )


@pytest.mark.parametrize("m", [2, 3])
def test_rescaling_objectives_scales_the_gradient(m: int) -> None:
    rng = np.random.default_rng(7)
    f, z = rng.random((10, m)), np.full(m, 1.1)
    scale, shift = rng.uniform(0.1, 9, m), rng.normal(size=m)
    np.testing.assert_allclose(
        hypervolume_gradient(f * scale + shift, z * scale + shift),
        hypervolume_gradient(f, z) * scale.prod() / scale,
        rtol=1e-9,
        atol=1e-12,
    )


def test_two_objectives_embedded_in_three_have_the_same_gradient() -> None:
    rng = np.random.default_rng(8)
    f, z = rng.random((12, 2)), np.array([0.9, 1.1])
    flat = hypervolume_gradient(f, z)
    for column in range(3):
        inserted = np.insert(f, column, 0.25, axis=1)
        solid = hypervolume_gradient(inserted, np.insert(z, column, 1.0))
        np.testing.assert_allclose(np.delete(solid, column, axis=1), 0.75 * flat, atol=1e-14)
        # Moving the whole plane loses the area it shows.
        assert solid[:, column].sum() == pytest.approx(-moocore.hypervolume(f, ref=z))


@pytest.mark.parametrize("m", [2, 3])
def test_dominated_and_beyond_points_have_no_gradient_and_change_none(m: int) -> None:
    rng = np.random.default_rng(9)
    front = np.abs(rng.normal(size=(8, m)))
    front /= np.linalg.norm(front, axis=1, keepdims=True)
    z = np.full(m, 1.1)
    beyond = np.zeros((2, m))
    beyond[0, 0] = 1.1  # on the reference is not strictly better
    beyond[1, m - 1] = 5.0
    f = np.vstack([front[:4] + 0.01, front, beyond])
    gradient = hypervolume_gradient(f, z)
    assert not gradient[:4].any()
    assert not gradient[12:].any()
    np.testing.assert_array_equal(gradient[4:12], hypervolume_gradient(front, z))
    assert (gradient[4:12] < 0).all()


@pytest.mark.parametrize("m", [2, 3])
def test_weakly_dominated_points_have_no_gradient(m: int) -> None:
    better, worse = np.full((1, m), 0.5), np.full((1, m), 0.5)
    worse[0, -1] = 0.7
    for f in (np.vstack([better, worse]), np.vstack([worse, better])):
        gradient = hypervolume_gradient(f, np.ones(m))
        row = int(f[0, -1] == 0.5)
        assert not gradient[row].any()
        np.testing.assert_allclose(gradient[1 - row], -(0.5 ** (m - 1)))


@pytest.mark.parametrize("m", [2, 3])
def test_of_equal_points_the_first_gets_the_gradient(m: int) -> None:
    rng = np.random.default_rng(10)
    f = np.abs(rng.normal(size=(6, m)))
    f /= np.linalg.norm(f, axis=1, keepdims=True)
    z = np.full(m, 1.1)
    twice = hypervolume_gradient(np.vstack([f, f]), z)
    np.testing.assert_array_equal(twice[:6], hypervolume_gradient(f, z))
    assert not twice[6:].any()


@pytest.mark.parametrize("m", [2, 3])
def test_points_that_share_a_coordinate_keep_the_gradient_of_their_group(m: int) -> None:
    """Shifting all points tied in k together moves the volume by the sum of their entries."""
    rng = np.random.default_rng(16)
    for _ in range(40):
        f, z = rng.integers(0, 4, (10, m)).astype(float), np.full(m, 4.0)
        gradient = hypervolume_gradient(f, z)
        for k in range(m):
            for value in np.unique(f[:, k]):
                group = f[:, k] == value
                up, down = f.copy(), f.copy()
                up[group, k] += 1e-3  # HV is linear in the shift until the next tie
                down[group, k] -= 1e-3
                slope = (moocore.hypervolume(up, ref=z) - moocore.hypervolume(down, ref=z)) / 2e-3
                assert gradient[group, k].sum() == pytest.approx(slope, abs=1e-9)


def test_ascent_reaches_the_best_hypervolume_of_ten_points_on_a_line() -> None:
    """The known optimum on f2 = 1 - f1 with reference 1.1 is 0.654545 for n = 10."""
    x = np.sort(np.random.default_rng(11).random(10))
    z = np.array([1.1, 1.1])
    for _ in range(3000):
        gradient = hypervolume_gradient(np.stack([x, 1 - x], axis=1), z)
        x = np.clip(x + 0.05 * (gradient[:, 0] - gradient[:, 1]), 0, 1)
    volume = moocore.hypervolume(np.stack([x, 1 - x], axis=1), ref=z)
    assert volume == pytest.approx(0.654545, abs=1e-5)


def test_more_than_three_objectives_are_refused() -> None:
    with pytest.raises(FrontError, match="2 or 3 objectives, not 4"):
        hypervolume_gradient(np.zeros((1, 4)), np.ones(4))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_points_and_references_are_refused(bad: float) -> None:
    with pytest.raises(FrontError, match="row 1"):
        hypervolume_gradient([[0.0, 0.0], [bad, 0.0]], [1.0, 1.0])
    with pytest.raises(FrontError, match="reference"):
        hypervolume_gradient([[0.0, 0.0]], [1.0, bad])


# ---------------------------------------------------------------------- non-dominated sorting


@pytest.mark.parametrize("m", [2, 3, 5])
def test_ranks_agree_with_moocore_where_no_rows_repeat(m: int) -> None:
    f = np.random.default_rng(12).random((80, m))
    np.testing.assert_array_equal(front_ranks(f), moocore.pareto_rank(f))


def test_each_copy_of_a_repeated_point_goes_one_front_deeper() -> None:
    f = np.array([[1.0, 1.0], [0.0, 2.0], [1.0, 1.0], [1.0, 1.0], [3.0, 3.0]])
    assert front_ranks(f).tolist() == [0, 0, 1, 2, 3]


def test_rank_zero_is_the_nondominated_mask() -> None:
    f = np.random.default_rng(13).integers(0, 5, (40, 3)).astype(float)
    np.testing.assert_array_equal(front_ranks(f) == 0, indicators.nondominated(f))


@pytest.mark.parametrize("m", [2, 3])
def test_sorted_gradient_of_nested_fronts_is_each_fronts_own(m: int) -> None:
    rng = np.random.default_rng(14)
    front = np.abs(rng.normal(size=(6, m)))
    front /= np.linalg.norm(front, axis=1, keepdims=True)
    z = np.full(m, 3.0)
    rows = rng.permutation(12)
    f = np.vstack([front, front * 1.5])[rows]
    expected = np.vstack([hypervolume_gradient(front, z), hypervolume_gradient(front * 1.5, z)])
    np.testing.assert_array_equal(sorted_hypervolume_gradient(f, z), expected[rows])


def test_sorted_gradient_leaves_only_points_beyond_the_reference_still() -> None:
    rng = np.random.default_rng(15)
    f, z = rng.random((30, 2)), np.array([0.8, 0.8])
    inside = (f < z).all(axis=1)
    gradient = sorted_hypervolume_gradient(f, z)
    assert (gradient[inside] < 0).all()
    assert not gradient[~inside].any()
    assert not inside.all()
