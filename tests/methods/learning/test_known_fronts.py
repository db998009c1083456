"""Fronts known in closed form: what each method reaches at a small budget, and what it cannot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import frontrunner
from frontrunner.front import indicators

POINTS = 7


@pytest.fixture(scope="module")
def solve(tmp_path_factory):
    """``solve(method, problem, *more)``: a run of 300 steps, once."""
    folder: Path = tmp_path_factory.mktemp("runs")

    def run(method: str, problem: str, *more: str) -> frontrunner.Run:
        chosen = ["task=synthetic", f"task.problem={problem}", f"method=learning/{method}"]
        budget = ["training.steps=300", "training.rounds=2", f"points={POINTS}"]
        quiet = ["logger=none", "runner.progress=none", "runner.accelerator=cpu"]
        return frontrunner.run([*chosen, *budget, *quiet, f"output={folder}", *more])

    return run


def share(run: frontrunner.Run) -> float:
    """Hypervolume over the largest that as many points can have."""
    problem = run.task.problem
    best = problem.best_hypervolume(POINTS, problem.reference_point)
    return run.front.hypervolume() / best


def distances(run: frontrunner.Run) -> np.ndarray:
    """How far the points are from the true front."""
    truth = run.task.problem.front(1001)
    return np.linalg.norm(run.front.minimised[:, None] - truth, axis=2).min(axis=1)


@pytest.mark.parametrize(
    ("method", "problem", "least"),
    [
        ("hv_maximization", "vlmop2", 0.998),
        ("hv_maximization", "zdt1", 0.99),
        ("epo", "vlmop2", 0.98),
        ("pareto_mtl", "vlmop2", 0.93),
        ("moo_svgd", "vlmop2", 0.98),
    ],
)
def test_networks_cover_the_front(solve, method: str, problem: str, least: float) -> None:
    """VLMOP2's front is concave: linear scalarisation has its end points alone."""
    run = solve(method, problem)
    assert share(run) >= least
    assert run.front.nondominated().all()


def test_exact_pareto_networks_lie_on_their_rays(solve) -> None:
    run = solve("epo", "vlmop2")
    assert run.front.preference_kind == "ray"
    inner = slice(1, -1)  # end rays are the axes, which the front does not reach
    angle = indicators.ray_angle(run.front.preferences[inner], run.front.minimised[inner])
    assert angle < 1.0
    assert (distances(run)[inner] < 0.01).all()


def test_networks_of_pareto_mtl_stay_in_their_cones(solve) -> None:
    run = solve("pareto_mtl", "vlmop2")
    unit = run.front.preferences / np.linalg.norm(run.front.preferences, axis=1, keepdims=True)
    nearest = (run.front.minimised @ unit.T).argmax(axis=1)
    assert np.abs(nearest - np.arange(POINTS)).max() <= 1  # on the border between two cones
    assert (distances(run)[1:-1] < 0.02).all()


def test_mgda_is_on_the_front_but_does_not_cover_it(solve) -> None:
    """From a common neighbourhood, descent in both objectives leads to a common neighbourhood."""
    run = solve("mgda", "vlmop2")
    assert (distances(run) < 0.01).all()
    assert indicators.extent(run.front.minimised).max() < 0.2
    assert share(run) < 0.6


def test_nothing_pushes_particles_apart_without_repulsion(solve) -> None:
    alone = solve("moo_svgd", "vlmop2", "method.repulsion=0")
    apart = solve("moo_svgd", "vlmop2")
    extents = [indicators.extent(run.front.minimised).min() for run in (alone, apart)]
    assert extents[0] < 0.2 < 0.8 < extents[1]


def test_three_objectives_are_covered_too(solve) -> None:
    run = solve("hv_maximization", "dtlz2", "task.m=3", "points=15", "training.steps=200")
    problem = run.task.problem
    assert run.front.nondominated().all()
    assert run.front.hypervolume() >= 0.75 * problem.hypervolume(1.1)
    assert indicators.extent(run.front.minimised).min() > 0.8
