"""The evaluator: whole-split objectives, resumed point by point, refused where meaningless."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from frontrunner.errors import ConfigError, FrontError
from frontrunner.evaluators.objectives import Objectives
from frontrunner.front.points import PointLog
from frontrunner.models.conditioning import FiLM
from frontrunner.models.networks import MLP
from frontrunner.pareto_sets.conditioned import ConditionedNetwork
from frontrunner.preferences import grid
from frontrunner.tasks.base import Model
from frontrunner.tasks.multi_digits import MultiDigits
from frontrunner.tasks.synthetic import Synthetic


def network(**shapes):
    return MLP(**shapes, hidden=[6])


RAYS = [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]


@pytest.fixture
def task():
    return MultiDigits(sizes=(40, 30, 50), model=Model(network, FiLM))


@pytest.fixture
def pareto_set(task):
    torch.manual_seed(0)
    return ConditionedNetwork(task.conditioned_network(), RAYS, "ray")


def by_hand(pareto_set, task, split, what):
    batch = task.data(split)[list(range(len(task.data(split))))]
    rows = []
    for r in RAYS:
        outputs = pareto_set.materialize(r)(batch[0])
        for head, labels in zip(outputs, batch[1:], strict=True):
            if what == "losses":
                rows.append(nn.functional.cross_entropy(head, labels).item())
            else:
                rows.append(np.mean(head.argmax(1).numpy() == labels.numpy()))
    return np.reshape(rows, (3, 2))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("what", ["losses", "accuracies"])
def test_values_are_the_objectives_over_the_whole_split(what, split, task, pareto_set):
    front = Objectives(what, split, batch_size=7).evaluate(pareto_set, task)
    np.testing.assert_allclose(front.values, by_hand(pareto_set, task, split, what), rtol=1e-5)
    np.testing.assert_array_equal(front.preferences, RAYS)
    assert front.preference_kind == "ray"
    assert all(cost["seconds"] >= cost["materialize_seconds"] >= 0 for cost in front.costs)


def test_losses_are_minimised_against_the_tasks_reference(task, pareto_set):
    front = Objectives().evaluate(pareto_set, task)
    assert front.objectives == task.objectives
    assert front.reference_point.tolist() == list(task.reference_point)


def test_accuracies_are_maximised_against_zero(task, pareto_set):
    front = Objectives("accuracies").evaluate(pareto_set, task)
    assert [o.direction for o in front.objectives] == ["max", "max"]
    assert [o.name for o in front.objectives] == [o.name for o in task.objectives]
    assert front.reference_point.tolist() == [0.0, 0.0]
    # Every accuracy above 0 dominates the reference, so the area of the best point is a bound.
    assert front.hypervolume() >= front.values.prod(axis=1).max() - 1e-12


def test_the_batch_size_does_not_change_the_values(task, pareto_set):
    values = [Objectives(batch_size=n).evaluate(pareto_set, task).values for n in (1, 13, 4096)]
    np.testing.assert_allclose(values[0], values[2], rtol=1e-6)
    np.testing.assert_allclose(values[1], values[2], rtol=1e-6)


def test_points_scores_a_lattice_instead_of_the_sets_own_preferences(task, pareto_set):
    front = Objectives(points=5).evaluate(pareto_set, task)
    np.testing.assert_allclose(front.preferences, grid(2, 5))
    own = Objectives().evaluate(pareto_set, task)
    np.testing.assert_array_equal(front.values[[0, 2, 4]], own.values)


def test_a_given_reference_point_replaces_the_tasks(task, pareto_set):
    front = Objectives(reference_point=[3.0, 4.0]).evaluate(pareto_set, task)
    assert front.reference_point.tolist() == [3.0, 4.0]


def test_logged_points_are_not_scored_again(task, pareto_set, tmp_path, monkeypatch):
    evaluator = Objectives()
    key = evaluator.key(pareto_set)
    whole = evaluator.evaluate(pareto_set, task)
    log = PointLog(tmp_path / "points.jsonl", key, 2)
    log.append(1, RAYS[1], whole.values[1], {"seconds": 5.0})
    scored = []
    original = MultiDigits.measure
    monkeypatch.setattr(
        MultiDigits, "measure", lambda *a, **k: (scored.append(1), original(*a, **k))[1]
    )
    front = evaluator.evaluate(pareto_set, task, PointLog(tmp_path / "points.jsonl", key, 2))
    assert len(scored) == 2
    assert front.values.tobytes() == whole.values.tobytes()
    assert front.costs[1]["seconds"] == 5.0
    again = evaluator.evaluate(pareto_set, task, PointLog(tmp_path / "points.jsonl", key, 2))
    assert len(scored) == 2
    assert again.values.tobytes() == whole.values.tobytes()


def test_the_key_tells_weights_preferences_and_settings_apart(task, pareto_set):
    keys = {
        Objectives().key(pareto_set),
        Objectives("accuracies").key(pareto_set),
        Objectives(split="validation").key(pareto_set),
        Objectives(points=5).key(pareto_set),
    }
    with torch.no_grad():
        next(pareto_set.network.parameters()).view(-1)[0] += 1e-6
    keys.add(Objectives().key(pareto_set))
    keys.add(Objectives().key(ConditionedNetwork(pareto_set.network, RAYS[::-1], "ray")))
    assert len(keys) == 6
    assert Objectives().key(pareto_set) == Objectives(batch_size=3).key(pareto_set)


def test_an_objective_that_is_not_finite_names_the_preference(task, pareto_set, tmp_path):
    original = pareto_set.materialize

    def materialize(preference):
        module = original(preference)
        broken = preference[0] == 0.5
        return lambda x: tuple(o * float("nan") if broken else o for o in module(x))

    pareto_set.materialize = materialize
    log = PointLog(tmp_path / "points.jsonl", "key", 2)
    with pytest.raises(FrontError, match=r"preference \[0\.5, 0\.5\] are not finite"):
        Objectives().evaluate(pareto_set, task, log)
    assert list(log.done()) == [0]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"what": "loss"}, "losses"), ({"split": "tset"}, "test")],
)
def test_unknown_settings_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Objectives(**options)


def test_check_refuses_what_could_only_fail_after_training(task):
    with pytest.raises(ConfigError, match="needs 2 finite numbers"):
        Objectives(reference_point=[1.0, 2.0, 3.0]).check(task)
    with pytest.raises(FrontError, match="no simplex lattice"):
        Objectives(points=1).check(task)
    with pytest.raises(ConfigError, match="has no accuracies"):
        Objectives("accuracies").check(Synthetic("zdt1"))
    Objectives("accuracies", points=7, reference_point=[0.1, 0.1]).check(task)


@pytest.mark.parametrize("what", ["losses", "accuracies"])
@pytest.mark.parametrize("together", [2, 4, 100])
def test_preferences_of_one_pass_score_as_one_by_one(what, together, task, pareto_set, tmp_path):
    alone = Objectives(what, points=11).evaluate(pareto_set, task)
    log = PointLog(tmp_path / "points.jsonl", "key", 2, 2)
    passes = Objectives(what, points=11, together=together, batch_size=20)
    at_once = passes.evaluate(pareto_set, task, log)
    np.testing.assert_allclose(at_once.values, alone.values, atol=1e-5)
    assert sorted(log.done()) == list(range(11))


def test_preferences_per_pass_are_at_least_one():
    with pytest.raises(ConfigError, match=r"evaluator\.together"):
        Objectives(together=0)
