from itertools import pairwise

import pytest
import torch

from frontrunner.errors import ConfigError
from frontrunner.methods.pruning.alps import ALPS
from frontrunner.methods.pruning.magnitude import Magnitude
from frontrunner.methods.pruning.sparsegpt import SparseGPT
from frontrunner.methods.pruning.wanda import Wanda
from frontrunner.sparse.patterns import NM, Unstructured
from frontrunner.sparse.quadratic import Quadratic

LEVELS = [Unstructured(0.5), Unstructured(0.7), Unstructured(0.8), NM(2, 4)]


def error(weight: torch.Tensor, dense: torch.Tensor, gram: torch.Tensor) -> float:
    """‖XŴᵀ - XWᵀ‖² / ‖XŴᵀ‖²."""

    def size(matrix: torch.Tensor) -> float:
        return float(((matrix.double() @ gram.double()) * matrix.double()).sum())

    return size(weight - dense) / size(dense)


def gradient(group, method: ALPS, name: str, weight: torch.Tensor) -> torch.Tensor:
    """Of the objective at a weight, over that at 0: (W - Ŵ) H / ‖ŴH‖, scaled."""
    problem = method.problem(group.grams[0], "up")
    dense = problem.scaled(group.dense[name])
    return (problem.scaled(weight) - dense) @ problem.matrix / (dense @ problem.matrix).norm()


@pytest.mark.parametrize("pattern", LEVELS, ids=str)
def test_it_ends_at_a_stationary_point_on_its_support(group, pattern) -> None:
    given = group(pattern)
    residuals = {}
    for steps in (0, 10, 300):
        method = ALPS(points=3, refinement=steps)
        for name, models in method.solve(given, given.grams[0], "cpu").items():
            slope = gradient(given, method, name, models.weights[0])
            support = models.supports[0]
            assert not models.weights[0][~support].any()
            assert int(support.sum()) == pattern.kept(tuple(slope.shape))
            residuals[steps] = float(slope[support].norm())
            # Off the support the objective could still fall.
            assert float(slope[~support].norm()) > 5e-3
    assert residuals[300] < 1e-4
    assert residuals[300] < residuals[10] < 0.01


@pytest.mark.parametrize("pattern", LEVELS, ids=str)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_its_objective_is_below_that_of_every_other_method(group, pattern, seed) -> None:
    given = group(pattern, seed=seed)
    gram = given.grams[0]
    problem = Quadratic(gram)
    found = ALPS(points=3).solve(given, gram, "cpu")
    for other in (Magnitude(points=3), Wanda(points=3), SparseGPT(points=3)):
        for name, models in other.solve(given, gram, "cpu").items():
            dense = given.dense[name]
            mine = problem.error(found[name].weights[0], dense)
            assert mine < problem.error(models.weights[0], dense), type(other).__name__


def test_at_70_per_cent_its_error_is_far_below_that_of_sparsegpt(group) -> None:
    ratios = []
    for seed in range(4):
        given = group(Unstructured(0.7), seed=seed)
        gram = given.grams[0]
        both = [m.solve(given, gram, "cpu") for m in (ALPS(points=3), SparseGPT(points=3))]
        for name, dense in given.dense.items():
            mine, theirs = (error(x[name].weights[0], dense, gram) for x in both)
            ratios.append(mine / theirs)
    assert max(ratios) < 1 / 3


def test_refinement_only_lowers_the_objective(group) -> None:
    given = group(Unstructured(0.7))
    problem = Quadratic(given.grams[0])
    for name, dense in given.dense.items():
        values = []
        for steps in (0, 1, 3, 10, 30):
            found = ALPS(points=3, refinement=steps).solve(given, given.grams[0], "cpu")
            values.append(problem.error(found[name].weights[0], dense))
        assert all(b <= a * (1 + 1e-6) for a, b in pairwise(values))
        assert values[-1] < values[0]


@pytest.mark.parametrize(
    "settings",
    [{"scaled": False}, {"ridge": "trace"}, {"stopping": "code"}, {"rho": 1.0}, {"limit": 3}],
    ids=str,
)
def test_variants_are_still_exact_in_number_and_better_than_magnitudes(group, settings) -> None:
    given = group(Unstructured(0.6))
    gram = given.grams[0]
    found = ALPS(points=3, **settings).solve(given, gram, "cpu")
    plain = Magnitude(points=3).solve(given, None, "cpu")
    for name, dense in given.dense.items():
        assert int(found[name].supports[0].sum()) == Unstructured(0.6).kept(tuple(dense.shape))
        mine, theirs = (error(x[name].weights[0], dense, gram) for x in (found, plain))
        assert mine < theirs


def test_calibration_decides_how_many_models_there_are() -> None:
    def anchors(calibration):
        return ALPS(points=3, calibration=calibration).anchors(2).tolist()

    assert anchors("concatenated") == [[0.5, 0.5]]
    assert anchors("per_objective") == [[1, 0], [0, 1]]
    assert sorted(anchors("weighted")) == [[0, 1], [0.5, 0.5], [1, 0]]


@pytest.mark.parametrize(
    "settings",
    [
        {"ridge": "max"},
        {"stopping": "never"},
        {"rho": 0},
        {"limit": 0},
        {"damping": -0.1},
        {"refinement": -1},
        {"calibration": "all"},
        {"norm": "mean"},
    ],
    ids=str,
)
def test_bad_settings_name_their_key(settings) -> None:
    with pytest.raises(ConfigError, match=f"method.{next(iter(settings))}"):
        ALPS(points=3, **settings)
