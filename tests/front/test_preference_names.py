"""Fronts whose preferences ask for something else than their objectives, or for more or less."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from frontrunner.errors import FrontError
from frontrunner.front import Front, Objective, charts, plots
from frontrunner.front.collect import collect
from frontrunner.front.compare import compare
from frontrunner.front.points import PointLog
from frontrunner.front.report import write_report
from frontrunner.preferences import das_dennis
from frontrunner.tracking.tracker import front_rows

DOMAINS = ("prose", "code", "sums")


def front(m: int, seed: int = 0, names: tuple[str, ...] = DOMAINS) -> Front:
    """Three domains to weigh, m scores."""
    preferences = das_dennis(3, 2)
    stream = np.random.default_rng(seed)
    return Front(
        tuple(Objective(f"score {j}", "max", "acc") for j in range(m)),
        stream.random((len(preferences), m)),
        preferences,
        "weight",
        np.zeros(m),
        info={"task": "toy", "evaluator": "lm_eval", "seed": seed},
        preference_names=names,
    )


@pytest.mark.parametrize("m", [2, 3, 5])
@pytest.mark.parametrize("names", [DOMAINS, ()])
def test_they_round_trip(tmp_path: Path, m: int, names: tuple[str, ...]) -> None:
    made = front(m, names=names)
    made.save(tmp_path / "front.json")
    read = Front.load(tmp_path / "front.json")
    assert np.array_equal(read.preferences, made.preferences)
    assert read.preference_names == names
    assert json.loads((tmp_path / "front.json").read_text()).get("preference_names") == (
        list(names) or None
    )
    assert read.aligned == (m == 3 and not names)
    assert read.asked_for == (names or (("1", "2", "3") if m != 3 else read.asked_for))


@pytest.mark.parametrize("m", [2, 3, 5])
def test_they_have_every_indicator_but_those_of_obedience(m: int) -> None:
    made = front(m)
    found = made.indicators()
    assert found["rank_alignment"] is None
    assert found["ray_angle_degrees"] is None
    expected = replace(made, preferences=None, preference_names=()).indicators()
    assert found == expected
    assert found["hypervolume"] > 0


def test_entries_that_ask_for_the_objectives_are_related_to_them() -> None:
    assert front(3, names=()).indicators()["rank_alignment"] is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preferences": np.full((5, 3), 1 / 3)}, "preferences have shape"),
        ({"preferences": np.full(6, 1 / 3)}, "preferences have shape"),
        ({"preferences": np.ones((6, 0)), "preference_names": ()}, "preferences have shape"),
        ({"preference_names": ("a", "b")}, "preference_names has 2 entries, a preference 3"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(FrontError, match=message):
        replace(front(2), **changes)


def test_names_go_with_the_preferences() -> None:
    assert replace(front(2), preferences=None).preference_names == ()


@pytest.mark.parametrize("m", [2, 4])
def test_they_are_compared_plotted_and_reported(tmp_path: Path, m: int) -> None:
    for label in ("a", "b"):
        for seed in range(2):
            made = front(m, seed + 10 * (label == "b")).with_info({"label": label, "seed": seed})
            made.save(tmp_path / label / str(seed) / "front.json")
    entries = collect([tmp_path / "a", tmp_path / "b"])
    comparison = compare(entries)
    runs = [run for group in comparison.groups for run in group.runs]
    assert len(runs) == 4
    assert all(run.indicators["rank_alignment"] is None for run in runs)
    assert charts.alignment(entries) is None
    write_report(comparison, entries, tmp_path / "report.html")
    assert "Alignment with preferences" not in (tmp_path / "report.html").read_text()
    made = front(m)
    plots.save_png(made.plot(), tmp_path / "front.png")
    plots.front_html(made, tmp_path / "front.html")
    page = (tmp_path / "front.html").read_text()
    assert "What was asked for" not in page
    assert "0.5, 0.5, 0" in page
    assert "(0.5, 0.5, 0)" in made._repr_html_()


def test_rows_of_the_tracker_name_what_was_asked_for() -> None:
    columns, rows = front_rows(front(2))
    assert columns[:5] == ["preference prose", "preference code", "preference sums",
                           "score 0", "score 1"]  # fmt: skip
    assert rows[1][:3] == [0.5, 0.5, 0.0]
    assert all(len(row) == len(columns) for row in rows)


def test_points_are_logged_with_preferences_of_their_own_length(tmp_path: Path) -> None:
    log = PointLog(tmp_path / "points.jsonl", "k", 2, 3)
    log.append(0, [0.5, 0.5, 0.0], [1.0, 2.0], {"seconds": 1.0, "stderr score 0": 0.1})
    assert PointLog(tmp_path / "points.jsonl", "k", 2, 3).done() == log.done()
    with pytest.raises(FrontError, match="preference must be 3 finite numbers"):
        log.append(1, [0.5, 0.5], [1.0, 2.0])
