"""Fronts that are known in closed form, reached end to end through `frontrunner.run`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

import frontrunner
from frontrunner.front import indicators

SMALL = ["task=synthetic", "logger=none", "runner.progress=none", "runner.threads=1"]


def solve(tmp_path: Path, *overrides: str, steps: int = 400) -> frontrunner.Run:
    budget = [f"training.steps={steps}", "training.rounds=4", "training.learning_rate=2e-2"]
    return frontrunner.run([*SMALL, *budget, f"output={tmp_path}", *overrides])


@pytest.mark.parametrize("problem", ["zdt2", "dtlz2", "vlmop2"])
def test_linear_scalarisation_reaches_only_end_points_of_concave_fronts(
    tmp_path: Path, problem: str
) -> None:
    run = solve(
        tmp_path, "method=learning/linear_scalarization", "points=6", f"task.problem={problem}"
    )
    ends = run.task.problem.front(501)[[0, -1]]
    # A weight of 0 leaves the other objective free, so one-hot weights say nothing.
    values = run.front.values[1:-1]
    apart = np.linalg.norm(values[:, None] - ends[None], axis=2).min(axis=1)
    assert (apart < 0.02).all()


def test_linear_scalarisation_of_zdt1_meets_its_closed_form(tmp_path: Path) -> None:
    # w1 f1 + w2 (1 - sqrt f1) is least at sqrt f1 = min(1, w2 / (2 w1)).
    run = solve(
        tmp_path,
        "method=learning/linear_scalarization",
        "points=6",
        "task.problem=zdt1",
    )
    assert run.front.preferences is not None
    w = run.front.preferences
    inner = (w > 0).all(axis=1)
    root = np.minimum(1.0, w[inner, 1] / (2 * w[inner, 0]))
    expected = np.stack([root**2, 1 - root], axis=1)
    np.testing.assert_allclose(run.front.values[inner], expected, atol=0.02)


def test_chebyshev_solutions_lie_on_the_rays_of_inverse_weights(tmp_path: Path) -> None:
    run = solve(tmp_path, "method=learning/chebyshev", "points=7", "task.problem=vlmop2")
    assert run.front.preferences is not None
    weighted = (run.front.preferences * run.front.values)[1:-1]
    np.testing.assert_allclose(weighted[:, 0], weighted[:, 1], atol=0.01)
    on_front = run.task.problem.front(2001)
    apart = np.linalg.norm(run.front.values[1:-1, None] - on_front[None], axis=2).min(axis=1)
    assert (apart < 0.01).all()


def test_smooth_chebyshev_meets_the_minimiser_of_a_one_dimensional_search(tmp_path: Path) -> None:
    run = solve(
        tmp_path,
        "method=learning/smooth_chebyshev",
        "points=5",
        "task.problem=vlmop2",
        "method.mu=0.1",
    )
    assert run.front.preferences is not None

    def on_front(t: float) -> np.ndarray:
        return np.array([1 - np.exp(-((t - 1) ** 2)), 1 - np.exp(-((t + 1) ** 2))])

    for weight, value in zip(run.front.preferences[1:-1], run.front.values[1:-1], strict=True):

        def scalarised(t: float, w: np.ndarray = weight) -> float:
            return float(0.1 * np.log(np.exp(w * on_front(t) / 0.1).sum()))

        best = minimize_scalar(scalarised, bounds=(-1, 1), method="bounded").x
        np.testing.assert_allclose(value, on_front(best), atol=0.02)


def test_decisions_stay_in_bounds_and_evaluate_to_the_front(tmp_path: Path) -> None:
    import torch

    run = solve(tmp_path, "method=learning/chebyshev", "points=5", "task.problem=zdt2", steps=100)
    task = run.task
    for preference, value in zip(run.pareto_set.preferences, run.front.values, strict=True):
        outputs = run.pareto_set.materialize(preference)(torch.zeros(1, 0).double())
        x = task.decision(outputs)
        assert (x >= torch.as_tensor(task.problem.lower)).all()
        assert (x <= torch.as_tensor(task.problem.upper)).all()
        np.testing.assert_array_equal(task.problem(x)[0].detach().numpy(), value)


def test_adaptive_vectors_reach_the_best_hypervolume_from_random_ones(tmp_path: Path) -> None:
    words = ["experiment=gmooar_synthetic", "task.problem=dtlz2", "points=5", "seed=3"]
    run = frontrunner.run([*SMALL[1:], *words, "training.steps=1000", f"output={tmp_path}"])
    best = run.task.problem.best_hypervolume(5, (1.1, 1.1))
    assert run.front.hypervolume() >= 0.998 * best


def test_uniform_vectors_space_a_quarter_circle_evenly(tmp_path: Path) -> None:
    words = ["experiment=gmooar_synthetic", "task.problem=dtlz2", "method.upper=u"]
    run = frontrunner.run([*SMALL[1:], *words, "training.steps=1500", f"output={tmp_path}"])
    gap = indicators.uniformity(run.front.minimised)
    assert gap is not None
    assert gap >= 0.95 * 2 * np.sin(np.pi / (4 * 14))
