"""Distances to the experts: against a computation by hand, resumed, in little memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from frontrunner.errors import ConfigError, DataError, FrontError
from frontrunner.evaluators.distances import Distances, losses_or_distances
from frontrunner.evaluators.objectives import Objectives
from frontrunner.front.objective import Objective
from frontrunner.front.points import PointLog
from frontrunner.methods.merging.average import Averaging
from frontrunner.pareto_sets.merged import MergedSet
from frontrunner.tasks.merging import MergingTask
from frontrunner.tasks.multi_digits import MultiDigits
from frontrunner.weights.parents import Parents
from frontrunner.weights.source import InMemory

PREFERENCES = [[1.0, 0.0], [0.25, 0.75], [0.0, 1.0]]


class Vectors(MergingTask):
    """Three models of a few tensors, without data."""

    name, has_data = "vectors", False
    objectives = (Objective("one"), Objective("two"))
    reference_point = (9.0, 9.0)

    def __init__(self, models) -> None:
        super().__init__()
        self.models = models

    def make_parents(self):
        base, *experts = (InMemory(name, tensors) for name, tensors in self.models.items())
        return Parents(base, experts)

    def network(self):
        raise AssertionError("no network is needed")

    load = loss = network


@pytest.fixture
def models():
    stream = torch.Generator().manual_seed(0)

    def draw():
        return {
            "weight": torch.randn(301, 257, generator=stream).bfloat16(),
            "bias": torch.randn(7, generator=stream, dtype=torch.float64),
            "empty": torch.zeros(0, 3),
            "steps": torch.tensor(int(torch.randint(9, (1,), generator=stream))),
        }

    return {"the base": draw(), "A": draw(), "B": draw()}


def merged(task, preferences=PREFERENCES):
    return MergedSet(task, Averaging(), preferences, 1.0)


def distance(a, b):
    keys = [k for k in a if a[k].is_floating_point()]
    return np.sqrt(sum(float((a[k].double() - b[k].double()).square().sum()) for k in keys))


def test_distances_are_relative_to_that_of_the_base(models):
    task = Vectors(models)
    front = Distances().evaluate(merged(task), task)
    base, *experts = models.values()
    for p, found in zip(PREFERENCES, front.values, strict=True):
        state = dict(merged(task).state(p))
        wanted = [distance(state, e) / distance(base, e) for e in experts]
        np.testing.assert_allclose(found, wanted, rtol=1e-12)
    assert front.values[0][0] == front.values[2][1] == 0.0
    assert {(o.direction, o.unit) for o in front.objectives} == {("min", "relative distance")}
    assert front.reference_point.tolist() == [1.1, 1.1]
    assert front.preference_kind == "weight"


def test_the_base_is_at_distance_one(models):
    class Base(Averaging):
        def merge(self, key, base, *rest):
            return base

    task = Vectors(models)
    set_ = MergedSet(task, Base(), PREFERENCES, 1.0)
    np.testing.assert_allclose(Distances().evaluate(set_, task).values, 1.0, rtol=1e-12)


def test_experts_are_read_in_pieces(models, monkeypatch):
    task = Vectors(models)
    front = Distances().evaluate(merged(task), task)
    monkeypatch.setattr("frontrunner.evaluators.distances.PIECE", 1000)
    np.testing.assert_allclose(
        Distances().evaluate(merged(task), task).values, front.values, rtol=1e-12
    )
    sizes = []

    def pieces(self, key, size):
        for start in range(0, self.tensors[key].numel(), size):
            piece = self.tensors[key].reshape(-1)[start : start + size]
            sizes.append(len(piece))
            yield piece

    monkeypatch.setattr(InMemory, "pieces", pieces)
    monkeypatch.setattr(Averaging, "elementwise", False)
    Distances().evaluate(merged(task), task)
    assert max(sizes) == 1000


def test_points_scores_a_lattice_and_logged_points_are_kept(models, tmp_path):
    task = Vectors(models)
    evaluator = Distances(points=5, reference_point=[2.0, 2.0])
    whole = evaluator.evaluate(merged(task), task)
    assert len(whole.values) == 5
    assert whole.reference_point.tolist() == [2.0, 2.0]
    key = evaluator.key(merged(task))
    log = PointLog(tmp_path / "points.jsonl", key, 2)
    log.append(0, whole.preferences[0], [5.0, 5.0], {"seconds": 1.0})
    resumed = evaluator.evaluate(merged(task), task, PointLog(tmp_path / "points.jsonl", key, 2))
    assert resumed.values[0].tolist() == [5.0, 5.0]
    np.testing.assert_array_equal(resumed.values[1:], whole.values[1:])
    assert key != Distances().key(merged(task))


def test_an_expert_that_is_the_base_has_no_distance(models):
    task = Vectors({**models, "B": models["the base"]})
    with pytest.raises(DataError, match="B is the base itself"):
        Distances().evaluate(merged(task), task)


@pytest.mark.parametrize("name", ["A", "B", "the base"])
def test_a_parent_with_nan_is_named(models, name):
    models[name]["weight"][3, 3] = float("nan")
    task = Vectors(models)
    with pytest.raises(DataError, match=f"'weight' in {name} holds NaN"):
        Distances().evaluate(merged(task), task)


def test_a_set_that_lacks_a_tensor_is_refused(models):
    task = Vectors(models)
    pareto_set = merged(task)
    pareto_set.state = lambda p: iter([("bias", models["A"]["bias"])])
    with pytest.raises(FrontError, match="no tensor 'empty'"):
        Distances().evaluate(pareto_set, task)


def test_only_tasks_with_experts_have_distances(models):
    with pytest.raises(ConfigError, match="has no experts; use evaluator=objectives"):
        Distances().check(MultiDigits())
    with pytest.raises(ConfigError, match="needs 2 finite numbers"):
        Distances(reference_point=[1.0]).check(Vectors(models))
    with pytest.raises(FrontError, match="no simplex lattice"):
        Distances(points=1).check(Vectors(models))
    Distances().check(Vectors(models))


def test_a_task_without_data_has_no_losses(models):
    task = Vectors(models)
    task.measures = lambda: ()
    with pytest.raises(ConfigError, match="no losses; use evaluator=distances"):
        Objectives().check(task)


def test_the_texts_decide_between_losses_and_distances():
    options = {"split": "test", "points": 5, "batch_size": 3, "what": "losses"}
    assert isinstance(losses_or_distances(["prose"], **options), Objectives)
    chosen = losses_or_distances(None, **options)
    assert isinstance(chosen, Distances)
    assert chosen.points == 5
