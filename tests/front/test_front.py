"""Front: its contract as a file, what it refuses, and that directions are respected."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import moocore
import numpy as np
import pytest

from frontrunner.errors import FrontError
from frontrunner.front import Front, Objective
from frontrunner.front.front import as_points, check_comparable

MIXED = (Objective("loss", "min", "nats"), Objective("accuracy", "max", "%"))


def mixed_front(n: int = 6, seed: int = 0) -> Front:
    """Loss against accuracy: a trade-off with both directions and every optional field."""
    rng = np.random.default_rng(seed)
    t = np.sort(rng.random(n))
    return Front(
        objectives=MIXED,
        values=np.stack([t, 100 * np.sqrt(t)], axis=1),
        preferences=np.stack([1 - t, t], axis=1),
        preference_kind="weight",
        reference_point=np.array([1.5, -10.0]),
        costs=tuple({"seconds": float(x)} for x in rng.random(n)),
        info={"method": "test", "seed": seed},
    )


def assert_same(a: Front, b: Front) -> None:
    assert a.objectives == b.objectives
    assert a.preference_kind == b.preference_kind
    for name in ("values", "preferences", "reference_point"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    assert [dict(c) for c in a.costs] == [dict(c) for c in b.costs]
    assert dict(a.info) == dict(b.info)


# ---------------------------------------------------------------------- files


def test_saving_and_loading_gives_the_same_front_bit_for_bit(tmp_path: Path) -> None:
    front = mixed_front()
    front.save(tmp_path / "front.json")
    assert_same(Front.load(tmp_path / "front.json"), front)


def test_a_front_with_nothing_optional_round_trips(tmp_path: Path) -> None:
    front = Front((Objective("a"), Objective("b")), np.array([[1.0, 2.0]]))
    front.save(tmp_path / "front.json")
    assert_same(Front.load(tmp_path / "front.json"), front)


def test_the_file_holds_the_published_fields(tmp_path: Path) -> None:
    mixed_front().save(tmp_path / "front.json")
    data = json.loads((tmp_path / "front.json").read_text())
    assert data["schema_version"] == 1
    assert data["objectives"][1] == {"name": "accuracy", "direction": "max", "unit": "%"}
    assert data["reference_point"] == [1.5, -10.0]
    assert set(data["points"][0]) == {"preference", "values", "dominated", "cost"}
    assert data["indicators"]["points"] == 6


def test_the_least_another_tool_can_write_is_read() -> None:
    front = Front.from_dict(
        {"objectives": [{"name": "a"}, {"name": "b"}], "points": [{"values": [1, 2]}]}
    )
    assert [o.direction for o in front.objectives] == ["min", "min"]
    assert front.preferences is front.preference_kind is front.reference_point is None
    assert front.costs == ()
    assert dict(front.info) == {}
    assert front.indicators()["hypervolume"] is None


def test_preferences_known_for_some_points_only_are_left_out() -> None:
    points = [{"values": [1, 2], "preference": [0.5, 0.5]}, {"values": [2, 1]}]
    front = Front.from_dict({"objectives": [{"name": "a"}, {"name": "b"}], "points": points})
    assert front.preferences is None
    assert len(front) == 2


def test_indicators_in_a_file_are_recomputed_not_believed() -> None:
    data = mixed_front().to_dict()
    data["indicators"]["hypervolume"] = 1e9
    data["points"][0]["dominated"] = True
    assert Front.from_dict(data).to_dict() == mixed_front().to_dict()


OBJECTIVES = [{"name": "a"}, {"name": "b"}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not readable as JSON"),
        ('{"objectives": [', "not readable as JSON"),
        ("[]", "is not a front"),
        ("{}", "is not a front"),
        (json.dumps({"objectives": OBJECTIVES}), "points"),
        (json.dumps({"objectives": OBJECTIVES, "points": []}), "at least one point"),
        (json.dumps({"objectives": OBJECTIVES, "points": [{}]}), "values"),
        (json.dumps({"objectives": OBJECTIVES, "points": [{"values": [1]}]}), r"shape \(n, 2\)"),
        (
            json.dumps({"objectives": OBJECTIVES, "points": [{"values": [1, 2]}, {"values": [1]}]}),
            "is not a front",
        ),
        (
            json.dumps({"objectives": OBJECTIVES, "points": [{"values": [1, "x"]}]}),
            "is not a front",
        ),
        (
            json.dumps({"objectives": [{"name": "a"}], "points": [{"values": [1]}]}),
            "two objectives",
        ),
        (
            json.dumps({"objectives": [{"name": "a"}] * 2, "points": [{"values": [1, 2]}]}),
            "must differ",
        ),
        (
            json.dumps(
                {
                    "objectives": [{"name": "a", "direction": "up"}, {"name": "b"}],
                    "points": [{"values": [1, 2]}],
                }
            ),
            "'min' or 'max', not 'up'",
        ),
        (
            json.dumps(
                {"schema_version": 2, "objectives": OBJECTIVES, "points": [{"values": [1, 2]}]}
            ),
            "schema_version 2 is not 1",
        ),
        (
            json.dumps(
                {
                    "objectives": OBJECTIVES,
                    "points": [{"values": [1, 2]}],
                    "reference_point": [1],
                }
            ),
            "2 finite entries",
        ),
    ],
)
def test_a_corrupt_file_is_refused_by_name(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "front.json"
    path.write_text(content)
    with pytest.raises(FrontError, match=message) as error:
        Front.load(path)
    assert str(path) in str(error.value)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FrontError, match=r"nowhere\.json does not exist"):
        Front.load(tmp_path / "nowhere.json")


@pytest.mark.parametrize("bad", ["NaN", "Infinity", "-Infinity", "null"])
def test_a_file_with_a_value_that_is_no_number_names_the_point(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "front.json"
    path.write_text(
        '{"objectives": [{"name": "a"}, {"name": "b"}],'
        f' "points": [{{"values": [1, 2]}}, {{"values": [1, {bad}]}}]}}'
    )
    with pytest.raises(FrontError, match="point 1 of the front is not finite"):
        Front.load(path)


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_values_are_refused_with_the_row_named(bad: float) -> None:
    values = np.ones((4, 2))
    values[2, 1] = bad
    with pytest.raises(FrontError, match="point 2 of the front is not finite"):
        Front(MIXED, values)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"preferences": np.ones((1, 2)) / 2}, r"shape \(1, 2\), points \(2, 2\)"),
        ({"reference_point": np.ones(3)}, "2 finite entries"),
        ({"reference_point": np.array([1.0, np.nan])}, "2 finite entries"),
        ({"costs": ({},) * 3}, "3 costs for 2 points"),
    ],
)
def test_parts_that_do_not_fit_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(FrontError, match=message):
        Front(MIXED, np.ones((2, 2)), **fields)


def test_as_points_copies_so_that_a_front_cannot_change_under_its_owner() -> None:
    values = np.ones((2, 2))
    points = as_points(values, 2, "front")
    values[0, 0] = 7
    assert points[0, 0] == 1


def test_fronts_of_other_objectives_are_not_comparable() -> None:
    front = mixed_front()
    flipped = Front((MIXED[0], Objective("accuracy", "min", "%")), front.values)
    other_unit = Front((Objective("loss", "min", "bits"), MIXED[1]), front.values)
    check_comparable([front, mixed_front(seed=1)])
    for other in (flipped, other_unit):
        with pytest.raises(FrontError, match="cannot be compared"):
            check_comparable([front, other])


def test_a_front_without_reference_says_so() -> None:
    front = Front(MIXED, np.ones((1, 2)))
    with pytest.raises(FrontError, match="no reference point"):
        _ = front.minimised_reference
    assert front.with_reference([2.0, 0.0]).minimised_reference.tolist() == [2.0, -0.0]


# ---------------------------------------------------------------------- directions and invariances


def test_hypervolume_respects_directions() -> None:
    front = Front(
        MIXED, np.array([[0.5, 60.0], [0.2, 40.0]]), reference_point=np.array([1.0, 10.0])
    )
    # boxes 0.5 x 50 and 0.8 x 30, sharing 0.5 x 30
    assert front.indicators()["hypervolume"] == pytest.approx(25 + 24 - 15)
    assert front.indicators()["hypervolume"] == pytest.approx(
        moocore.hypervolume(front.values, ref=[1.0, 10.0], maximise=[False, True])
    )


@pytest.mark.parametrize("directions", list(itertools.product(["min", "max"], repeat=3)))
def test_turning_an_objective_round_changes_no_indicator(directions: tuple[str, ...]) -> None:
    rng = np.random.default_rng(1)
    losses, p = rng.random((9, 3)), rng.dirichlet(np.ones(3), 9)
    sign = np.array([1.0 if d == "min" else -1.0 for d in directions])
    names = "abc"
    plain, turned = (
        Front(
            tuple(Objective(n, d) for n, d in zip(names, ds, strict=True)),  # type: ignore[arg-type]
            losses * s,
            preferences=p,
            preference_kind="weight",
            reference_point=np.full(3, 0.9) * s,
        )
        for ds, s in ((("min",) * 3, 1.0), (directions, sign))
    )
    assert turned.indicators() == plain.indicators()
    np.testing.assert_array_equal(turned.nondominated(), plain.nondominated())


def test_points_beyond_the_reference_are_counted() -> None:
    values = np.array([[0.5, 60.0], [2.0, 90.0], [0.1, 10.0]])  # 2 > 1; 10 is not above 10
    front = Front(MIXED, values, reference_point=np.array([1.0, 10.0]))
    assert front.indicators()["points_beyond_reference"] == 2
    assert front.indicators()["hypervolume"] == pytest.approx(25)


def test_the_dominated_flag_follows_directions() -> None:
    front = Front(MIXED, np.array([[0.5, 60.0], [0.5, 70.0], [0.2, 40.0], [0.5, 70.0]]))
    assert [p["dominated"] for p in front.to_dict()["points"]] == [True, False, False, True]


def test_permuting_objectives_and_points_changes_no_scalar_indicator() -> None:
    rng = np.random.default_rng(2)
    values, p = rng.random((10, 3)), rng.dirichlet(np.ones(3), 10)
    objectives = (Objective("a"), Objective("b", "max"), Objective("c"))
    z = np.array([0.9, 0.1, 0.9])
    plain = Front(objectives, values, p, "weight", z).indicators()
    rows, c = rng.permutation(10), [2, 0, 1]
    moved = Front(
        tuple(objectives[j] for j in c), values[rows][:, c], p[rows][:, c], "weight", z[c]
    ).indicators()
    width = plain.pop("range")
    assert moved.pop("range") == pytest.approx([width[j] for j in c])
    for name, value in plain.items():
        assert moved[name] == (pytest.approx(value) if isinstance(value, float) else value), name


def test_changing_a_unit_scales_the_hypervolume_and_keeps_ranks_and_dominance() -> None:
    front = mixed_front()
    assert front.reference_point is not None
    assert front.preferences is not None
    scale = np.array([1000.0, 0.01])
    scaled = Front(
        front.objectives,
        front.values * scale,
        front.preferences,
        "weight",
        front.reference_point * scale,
    )
    a, b = front.indicators(), scaled.indicators()
    assert b["hypervolume"] == pytest.approx(a["hypervolume"] * scale.prod())
    assert b["rank_alignment"] == pytest.approx(a["rank_alignment"])
    assert b["range"] == pytest.approx([x * s for x, s in zip(a["range"], scale, strict=True)])
    np.testing.assert_array_equal(front.nondominated(), scaled.nondominated())


def test_a_third_objective_that_never_changes_changes_nothing_but_the_unit() -> None:
    flat = mixed_front()
    assert flat.reference_point is not None
    solid = Front(
        (*flat.objectives, Objective("size", "min", "MB")),
        np.column_stack([flat.values, np.full(len(flat), 3.0)]),
        reference_point=np.append(flat.reference_point, 5.0),
    )
    a, b = flat.indicators(), solid.indicators()
    assert b["hypervolume"] == pytest.approx(2.0 * a["hypervolume"])
    for name in ("spacing", "uniformity", "gap_deviation", "nondominated"):
        assert b[name] == pytest.approx(a[name]), name
    assert b["range"] == [*a["range"], 0.0]
