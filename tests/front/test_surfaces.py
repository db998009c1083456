"""Figures of attainment: what they draw is what moocore computes."""

from __future__ import annotations

import math
from pathlib import Path

import moocore
import numpy as np
import pytest

from frontrunner.front import Front, Objective, attainment, surfaces
from frontrunner.front.collect import Entry


def entries(
    m: int, runs: int, labels: tuple[str, ...] = ("a",), maximised: int = -1
) -> list[Entry]:
    out = []
    for k, label in enumerate(labels):
        for seed in range(runs):
            values = np.random.default_rng([k, seed]).random((7, m)) + 0.1 * k
            directions = ["max" if j == maximised else "min" for j in range(m)]
            objectives = tuple(Objective(f"f{j}", d) for j, d in enumerate(directions))
            out.append(Entry(Front(objectives, values), label, seed, Path()))
    return out


def test_few_runs_have_their_best_middle_and_worst_and_four_have_quarters() -> None:
    assert surfaces.levels(1) == {"median": 1.0}
    assert surfaces.levels(2) == {"best": 0.5, "worst": 1.0}
    assert list(surfaces.levels(3).values()) == pytest.approx([1 / 3, 2 / 3, 1])
    assert list(surfaces.levels(20).values()) == [0.25, 0.5, 0.75]


@pytest.mark.parametrize("n", [3, 4, 5, 8])
@pytest.mark.parametrize("m", [2, 3])
def test_surfaces_are_moocores_at_their_percentiles(n: int, m: int) -> None:
    runs = [e.front.minimised for e in entries(m, n)]
    sets = np.repeat(np.arange(n), [len(r) for r in runs])
    levels = moocore.eaf(np.vstack(runs), sets)  # every level there is
    for level in surfaces.levels(n).values():
        percentile = 100 * math.ceil(level * n - 1e-9) / n
        theirs = levels[np.isclose(levels[:, m], percentile)][:, :m]
        ours = attainment.surface(runs, level).points
        assert sorted(map(tuple, ours)) == sorted(map(tuple, theirs))


@pytest.mark.parametrize("maximised", [-1, 0, 1])
def test_lines_go_through_the_surfaces_points_in_own_units(maximised: int) -> None:
    every = entries(2, 5, ("a", "b"), maximised)
    figure, words = surfaces.figure(every)
    assert "25, 50 and 75 %" in words
    drawn = [t for t in figure.data if t.name == "b"]
    assert [t.line.dash for t in drawn] == ["dot", "solid", "dash"]
    fronts = [e.front for e in every if e.label == "b"]
    for trace, level in zip(drawn, (0.25, 0.5, 0.75), strict=True):
        points = attainment.surface([f.minimised for f in fronts], level).points
        corners = np.c_[trace.x, trace.y]
        for point in points * fronts[0].signs:
            assert np.isclose(corners, point, atol=1e-6).all(axis=1).any()


@pytest.mark.parametrize("n", [1, 3, 4, 7])
def test_depths_are_the_lowest_surface_point_no_worse_in_the_other_two(n: int) -> None:
    runs = [e.front.minimised for e in entries(3, n)]
    x, y = np.linspace(0, 1.1, 13), np.linspace(0, 1.1, 11)
    found = surfaces.depth(runs, x, y)
    sets = np.repeat(np.arange(n), [len(r) for r in runs])
    k = max(1, math.ceil(n / 2))
    levels = moocore.eaf(np.vstack(runs), sets)
    half = levels[np.isclose(levels[:, 3], 100 * k / n)]
    for j, b in enumerate(y):
        for i, a in enumerate(x):
            reached = half[(half[:, 0] <= a) & (half[:, 1] <= b), 2]
            assert found[j, i] == pytest.approx(
                reached.min() if len(reached) else np.nan, nan_ok=True
            )
    assert np.isfinite(found).any()
    assert np.isnan(found).any()


def test_the_maps_of_three_objectives_are_in_own_units_and_share_a_scale() -> None:
    every = entries(3, 3, ("a", "b"), maximised=2)
    figure, words = surfaces.figure(every)
    assert "largest f2" in words
    assert {t.coloraxis for t in figure.data} == {"coloraxis"}
    assert np.nanmin(np.concatenate([t.z for t in figure.data])) >= 0


def test_more_objectives_say_why_there_is_no_figure() -> None:
    said = surfaces.figure(entries(4, 2))
    assert isinstance(said, str)
    assert "4" in said
