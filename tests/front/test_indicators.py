"""Indicators against closed forms, outside libraries and invariances."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import moocore
import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr

from frontrunner.errors import FrontError
from frontrunner.front import indicators


def quarter_circle(n: int) -> np.ndarray:
    angle = np.linspace(0, np.pi / 2, n)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def sphere(rng: np.random.Generator, n: int, m: int) -> np.ndarray:
    f = np.abs(rng.normal(size=(n, m)))
    return f / np.linalg.norm(f, axis=1, keepdims=True)


# ---------------------------------------------------------------------- dominance


@pytest.mark.parametrize("m", [2, 3, 4, 7])
def test_nondominated_is_the_definition_and_keeps_the_first_of_equal_points(m: int) -> None:
    rng = np.random.default_rng(m)
    for _ in range(20):
        f = rng.integers(0, 4, (25, m)).astype(float)
        expected = [
            not any(
                (g <= row).all() and ((g < row).any() or k < i) for k, g in enumerate(f) if k != i
            )
            for i, row in enumerate(f)
        ]
        assert indicators.nondominated(f).tolist() == expected


def test_a_nan_row_cannot_knock_out_a_valid_one() -> None:
    with pytest.raises(FrontError, match="row 0 of the points is not finite"):
        indicators.nondominated([[np.nan, 0.0], [1.0, 1.0]])


# ---------------------------------------------------------------------- hypervolume

CLOSED_FORMS = {  # continuous hypervolume, reference, front as (f1, f2) on a fine grid
    "line": (0.71, 1.1, lambda t: (t, 1 - t)),
    "zdt1": (0.876667, 1.1, lambda t: (t**2, 1 - t)),
    "zdt2": (0.543333, 1.1, lambda t: (t, 1 - t**2)),
    "dtlz2": (0.424602, 1.1, lambda t: (np.cos(t * np.pi / 2), np.sin(t * np.pi / 2))),
    "dtlz2 at 2": (3.214602, 2.0, lambda t: (np.cos(t * np.pi / 2), np.sin(t * np.pi / 2))),
    "vlmop2": (
        0.552116,
        1.1,
        lambda t: (1 - np.exp(-((2 * t - 2) ** 2)), 1 - np.exp(-((2 * t) ** 2))),
    ),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_hypervolume_of_a_dense_front_is_its_closed_form(name: str) -> None:
    exact, r, front = CLOSED_FORMS[name]
    f = np.stack(front(np.linspace(0, 1, 20001)), axis=1)
    assert indicators.hypervolume(f, [r, r]) == pytest.approx(exact, abs=1e-4)
    assert indicators.hypervolume(f, [r, r]) < exact + 1e-6  # points lie on the front


@pytest.mark.parametrize(("n", "best"), [(5, 0.6), (10, 0.654545), (15, 0.674286), (25, 0.689167)])
def test_even_points_on_a_line_reach_the_best_n_point_hypervolume(n: int, best: float) -> None:
    # The best steps are even, the margin of 0.1 beyond each end included if a step reaches it.
    end = max(0.0, 1.2 / (n + 1) - 0.1)
    x = np.linspace(end, 1 - end, n)
    volume = indicators.hypervolume(np.stack([x, 1 - x], axis=1), [1.1, 1.1])
    assert volume == pytest.approx(best, abs=2e-6)


def test_hypervolume_by_inclusion_and_exclusion_in_four_objectives() -> None:
    rng = np.random.default_rng(0)
    f, z = rng.random((2, 4)), np.ones(4)
    boxes = (z - f).prod(axis=1)
    shared = (z - f.max(axis=0)).prod()
    assert indicators.hypervolume(f, z) == pytest.approx(boxes.sum() - shared)


def test_points_beyond_the_reference_are_counted_and_add_nothing() -> None:
    f = np.array([[0.2, 0.2], [1.0, 0.0], [0.1, 3.0], [2.0, 2.0]])
    assert indicators.beyond_reference(f, [1.0, 1.0]) == 3  # on the reference counts as beyond
    assert indicators.hypervolume(f, [1.0, 1.0]) == pytest.approx(0.64)
    assert indicators.hypervolume(f[1:], [1.0, 1.0]) == 0.0


def test_from_eight_objectives_on_the_value_is_close_to_exact_and_says_so() -> None:
    f, z = sphere(np.random.default_rng(1), 12, 8), np.full(8, 1.1)
    assert indicators.hypervolume_method(7) == "exact"
    assert indicators.hypervolume_method(8) == "approximate"
    approximate, exact = indicators.hypervolume(f, z), moocore.hypervolume(f, ref=z)
    assert approximate == pytest.approx(exact, rel=2e-3)
    assert approximate == indicators.hypervolume(f, z)  # deterministic
    assert indicators.hypervolume(f + 5, z) == 0.0  # even powers of negative sides stay out


def test_too_many_objectives_are_refused() -> None:
    with pytest.raises(FrontError, match="at most 31 objectives, not 32"):
        indicators.hypervolume(np.zeros((1, 32)), np.ones(32))


@pytest.mark.parametrize("m", [2, 3, 5])
def test_hypervolume_is_invariant_to_order_and_scales_with_units(m: int) -> None:
    rng = np.random.default_rng(2)
    f, z = rng.random((12, m)), rng.uniform(0.8, 1.2, m)
    volume = indicators.hypervolume(f, z)
    rows, columns = rng.permutation(12), rng.permutation(m)
    scale, shift = rng.uniform(0.1, 9, m), rng.normal(size=m)
    assert indicators.hypervolume(f[rows][:, columns], z[columns]) == pytest.approx(volume)
    rescaled = indicators.hypervolume(f * scale + shift, z * scale + shift)
    assert rescaled == pytest.approx(volume * scale.prod())
    assert indicators.hypervolume(np.vstack([f, f]), z) == pytest.approx(volume)


def test_two_objectives_embedded_in_three_keep_their_hypervolume() -> None:
    f = quarter_circle(9)
    solid = np.insert(f, 1, 0.25, axis=1)
    assert indicators.hypervolume(solid, [1.1, 1.25, 1.1]) == pytest.approx(
        indicators.hypervolume(f, [1.1, 1.1])
    )


def test_relative_hypervolume_takes_a_front_or_a_number() -> None:
    f, truth, z = quarter_circle(5), quarter_circle(201), [1.1, 1.1]
    ratio = indicators.relative_hypervolume(f, z, truth)
    assert ratio == pytest.approx(
        indicators.relative_hypervolume(f, z, moocore.hypervolume(truth, ref=z))
    )
    assert 0 < ratio < 1
    assert indicators.relative_hypervolume(truth, z, truth) == 1.0


@pytest.mark.parametrize("truth", [0.0, -1.0, math.nan, math.inf, [[2.0, 2.0]]])
def test_relative_hypervolume_refuses_a_truth_without_volume(truth: object) -> None:
    with pytest.raises(FrontError, match="no hypervolume"):
        indicators.relative_hypervolume([[0.5, 0.5]], [1.0, 1.0], truth)  # type: ignore[arg-type]


# ---------------------------------------------------------------------- known fronts


def test_igd_plus_and_epsilon_are_their_definitions() -> None:
    rng = np.random.default_rng(3)
    f, z = rng.random((7, 3)), rng.random((11, 3))
    worse = f[None, :, :] - z[:, None, :]
    igd = np.linalg.norm(np.maximum(worse, 0), axis=2).min(axis=1).mean()
    epsilon = worse.max(axis=2).min(axis=1).max()
    assert indicators.igd_plus(f, z) == pytest.approx(igd)
    assert indicators.epsilon_additive(f, z) == pytest.approx(epsilon)


def test_a_front_misses_nothing_of_itself_and_exactly_a_shift() -> None:
    f = quarter_circle(20)
    assert indicators.igd_plus(f, f) == 0
    assert indicators.epsilon_additive(f, f) == 0
    assert indicators.epsilon_additive(f + 0.3, f) == pytest.approx(0.3)
    assert indicators.igd_plus(f - 0.3, f) == 0


@pytest.mark.parametrize("indicator", [indicators.igd_plus, indicators.epsilon_additive])
def test_indicators_of_a_known_front_refuse_what_would_give_a_number(indicator) -> None:
    with pytest.raises(FrontError, match="row 0 of the points"):
        indicator([[0.5, np.nan]], [[0.1, 0.1]])
    with pytest.raises(FrontError, match="row 1 of the points of the known front"):
        indicator([[0.5, 0.5]], [[0.1, 0.1], [np.inf, 0.0]])
    with pytest.raises(FrontError, match="3 objectives, the known front 2"):
        indicator([[0.5, 0.5, 0.5]], [[0.1, 0.1]])


# ---------------------------------------------------------------------- spread


def test_gaps_agree_with_scipy() -> None:
    f = np.random.default_rng(4).random((30, 3))
    for norm, scipy_name in (("euclidean", "euclidean"), ("manhattan", "cityblock")):
        distance = cdist(f, f, scipy_name)
        np.fill_diagonal(distance, np.inf)
        np.testing.assert_allclose(indicators.gaps(f, norm=norm), distance.min(axis=1))


def test_even_points_have_no_spacing_and_the_known_smallest_gap() -> None:
    f = quarter_circle(15)
    assert indicators.uniformity(f) == pytest.approx(0.112141, abs=5e-7)
    assert indicators.uniformity(f) == pytest.approx(2 * math.sin(math.pi / (4 * 14)))
    assert indicators.gap_deviation(f) == pytest.approx(0, abs=1e-15)
    line = np.stack([np.arange(6.0), 5 - np.arange(6.0)], axis=1)
    assert indicators.spacing(line) == 0


def test_spacing_by_hand() -> None:
    f = np.array([[0.0, 3.0], [1.0, 2.0], [3.0, 0.0]])  # Manhattan gaps 2, 2, 4
    assert indicators.spacing(f) == pytest.approx(math.sqrt((4 / 9 + 4 / 9 + 16 / 9) / 2))


def test_gap_deviation_by_hand() -> None:
    f = np.array([[0.0, 4.0], [3.0, 0.0], [9.0, -8.0]])  # Euclidean gaps 5, 5, 10
    assert indicators.gap_deviation(f) == pytest.approx(math.sqrt(50 / 9))


def test_a_single_point_has_no_spread() -> None:
    f = [[1.0, 2.0]]
    assert indicators.gaps(f).shape == (0,)
    assert indicators.spacing(f) is indicators.uniformity(f) is indicators.gap_deviation(f) is None
    assert indicators.extent(f).tolist() == [0.0, 0.0]


def test_extent_is_the_width_of_each_column() -> None:
    assert indicators.extent([[1.0, -2.0], [4.0, 3.0], [2.0, 0.0]]).tolist() == [3.0, 5.0]


# ---------------------------------------------------------------------- preferences


def simplex(rng: np.random.Generator, n: int, m: int) -> np.ndarray:
    return rng.dirichlet(np.ones(m), size=n)


def test_obedient_points_align_fully_and_reversed_ones_against() -> None:
    p = simplex(np.random.default_rng(5), 12, 3)
    assert indicators.rank_alignment(p, np.exp(-3 * p), "weight") == pytest.approx(1)
    assert indicators.rank_alignment(p, np.exp(3 * p), "weight") == pytest.approx(-1)
    assert indicators.rank_alignment(p, p**2, "ray") == pytest.approx(1)
    assert indicators.rank_alignment(p, -p, "ray") == pytest.approx(-1)


def test_alignment_is_scipys_spearman_with_ties() -> None:
    rng = np.random.default_rng(6)
    p = rng.integers(1, 4, (20, 3)).astype(float)
    p /= p.sum(axis=1, keepdims=True)
    f = rng.integers(0, 5, (20, 3)).astype(float)
    expected = np.mean([spearmanr(p[:, j], -f[:, j]).statistic for j in range(3)])
    assert indicators.rank_alignment(p, f, "weight") == pytest.approx(expected)
    assert indicators.rank_alignment(p, f, "ray") == pytest.approx(-expected)


def test_alignment_ignores_monotone_changes_of_units() -> None:
    rng = np.random.default_rng(7)
    p, f = simplex(rng, 15, 2), rng.random((15, 2))
    changed = np.stack([np.exp(f[:, 0]), 100 * f[:, 1] - 3], axis=1)
    assert indicators.rank_alignment(p, f, "weight") == indicators.rank_alignment(
        p, changed, "weight"
    )


def test_an_objective_nobody_asked_about_is_left_out() -> None:
    p = np.array([[0.1, 0.6, 0.3], [0.4, 0.3, 0.3], [0.6, 0.1, 0.3]])
    f = np.array([[3.0, 1.0, 7.0], [2.0, 2.0, 1.0], [1.0, 3.0, 4.0]])
    assert indicators.rank_alignment(p, f, "weight") == pytest.approx(1)
    assert indicators.rank_alignment(p[:1], f[:1], "weight") is None


def test_a_method_that_always_answers_the_same_obeys_nothing() -> None:
    p = simplex(np.random.default_rng(8), 6, 2)
    assert indicators.rank_alignment(p, np.ones((6, 2)), "weight") == 0
    half = np.stack([1 - p[:, 0], np.ones(6)], axis=1)
    assert indicators.rank_alignment(p, half, "weight") == pytest.approx(0.5)


def test_alignment_refuses_other_shapes_and_kinds() -> None:
    with pytest.raises(FrontError, match="shape"):
        indicators.rank_alignment([[0.5, 0.5]], [[1.0, 2.0], [3.0, 4.0]], "weight")
    with pytest.raises(FrontError, match="'weight' or a 'ray'"):
        indicators.rank_alignment([[0.5, 0.5]], [[1.0, 2.0]], "wieght")  # type: ignore[arg-type]


def test_points_on_their_rays_have_no_angle_even_to_the_last_digit() -> None:
    rng = np.random.default_rng(9)
    p = simplex(rng, 20, 4)
    assert indicators.ray_angle(p, p * rng.uniform(0.1, 50, (20, 1))) < 1e-13


def test_the_ray_angle_is_a_mean_in_degrees() -> None:
    r = [[1.0, 0.0], [1.0, 0.0], [0.5, 0.5]]
    f = [[2.0, 2.0], [0.0, 3.0], [7.0, 7.0]]
    assert indicators.ray_angle(r, f) == pytest.approx((45 + 90 + 0) / 3)
    tiny = 1e-9
    assert indicators.ray_angle([[1.0, 0.0]], [[1.0, tiny]]) == pytest.approx(math.degrees(tiny))


def test_the_ray_angle_refuses_negative_and_zero_vectors() -> None:
    with pytest.raises(FrontError, match="0 or more"):
        indicators.ray_angle([[0.5, 0.5]], [[1.0, -1.0]])
    with pytest.raises(FrontError, match="point 0 is the zero vector"):
        indicators.ray_angle([[0.5, 0.5]], [[0.0, 0.0]])


# ---------------------------------------------------------------------- summary


def test_summary_is_json_and_complete() -> None:
    p = simplex(np.random.default_rng(10), 9, 3)
    out = indicators.summary(p, [1.1] * 3, preferences=p, preference_kind="ray")
    assert json.loads(json.dumps(out, allow_nan=False)) == out
    assert list(out) == [
        "hypervolume",
        "hypervolume_method",
        "points_beyond_reference",
        "points",
        "nondominated",
        "spacing",
        "uniformity",
        "gap_deviation",
        "range",
        "rank_alignment",
        "ray_angle_degrees",
    ]
    assert out["points"] == out["nondominated"] == 9
    assert out["hypervolume_method"] == "exact"
    assert out["rank_alignment"] == pytest.approx(1)
    assert out["ray_angle_degrees"] < 1e-6


def test_summary_leaves_out_what_cannot_be_computed() -> None:
    out = indicators.summary([[1.0, 2.0]], None)
    for name in (
        "hypervolume",
        "hypervolume_method",
        "points_beyond_reference",
        "spacing",
        "uniformity",
        "gap_deviation",
        "rank_alignment",
        "ray_angle_degrees",
    ):
        assert out[name] is None, name
    unknown = indicators.summary([[1.0, 2.0]] * 2, None, preferences=[[1.0, 0.0], [0.0, 1.0]])
    assert unknown["rank_alignment"] is None


@pytest.mark.parametrize("f", [[[1.0, -2.0], [2.0, 1.0]], [[0.0, 0.0], [2.0, 1.0]]])
def test_summary_gives_no_angle_where_none_is_defined(f: list[list[float]]) -> None:
    p = [[0.3, 0.7], [0.6, 0.4]]
    out = indicators.summary(f, [3.0, 3.0], preferences=p, preference_kind="ray")
    assert out["ray_angle_degrees"] is None
    assert out["rank_alignment"] is not None
    weights = indicators.summary(
        [[1.0, 2.0], [2.0, 1.0]], None, preferences=p, preference_kind="weight"
    )
    assert weights["ray_angle_degrees"] is None


def test_summary_never_holds_an_infinity() -> None:
    f = [[-1e200, 1e200], [1e200, -1e200]]
    with np.errstate(over="ignore", invalid="ignore"):
        out = indicators.summary(f, [1.5e200, 1.5e200])
    json.dumps(out, allow_nan=False)
    assert out["hypervolume"] is None


def test_spread_in_the_summary_is_of_the_nondominated_points() -> None:
    front = quarter_circle(7)
    p = simplex(np.random.default_rng(11), 10, 2)
    noisy = np.vstack([front, [[5.0, 5.0], [1.01, 0.01]], front[3:4]])
    clean = indicators.summary(front, [1.1, 1.1])
    out = indicators.summary(noisy, [1.1, 1.1], preferences=p, preference_kind="weight")
    for name in ("hypervolume", "spacing", "uniformity", "gap_deviation", "range", "nondominated"):
        assert out[name] == clean[name], name
    assert out["points"] == 10
    assert out["points_beyond_reference"] == 1


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([], "at least one row"),
        (np.zeros((0, 2)), "at least one row"),
        ([1.0, 2.0], "shape"),
        ([[1.0, 2.0], [3.0]], "as many in every row"),
        ([["a", "b"]], "must be numbers"),
        ([[1.0, np.inf]], "row 0"),
    ],
)
def test_malformed_points_are_refused(points: object, message: str) -> None:
    with pytest.raises(FrontError, match=message):
        indicators.summary(points, None)  # type: ignore[arg-type]


def test_tensors_that_cannot_be_read_say_how() -> None:
    torch = pytest.importorskip("torch")
    for tensor in (torch.ones(2, 2, requires_grad=True), torch.ones(2, 2, dtype=torch.bfloat16)):
        with pytest.raises(FrontError, match="detach"):
            indicators.hypervolume(tensor, [2.0, 2.0])


def test_importing_indicators_loads_no_heavy_library() -> None:
    code = (
        "import sys, frontrunner.front.indicators, frontrunner.front.hypervolume, "
        "frontrunner.front.points; "
        "print([m for m in ('moocore','torch','matplotlib','scipy','pandas') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
