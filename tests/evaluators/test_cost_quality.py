"""Cost against quality: values by hand, axes, points that are reused, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from frontrunner.errors import ConfigError, FrontError
from frontrunner.evaluators.cost_quality import CostQuality
from frontrunner.front.points import PointLog
from frontrunner.models.networks import MLP
from frontrunner.pareto_sets.base import named_state
from frontrunner.pareto_sets.budgets import BudgetSet, preference_of
from frontrunner.pareto_sets.finite import FiniteSet
from frontrunner.tasks.base import Model
from frontrunner.tasks.images import Images
from frontrunner.tasks.multi_digits import MultiDigits

COSTS = [{"share": 0.1, "seconds": 3.0, "updates": 2.0}, {"share": 0.4, "seconds": 9.0}]


def small(**shapes):
    return MLP(**shapes, hidden=[6])


def budget_set(task) -> BudgetSet:
    torch.manual_seed(0)
    states = [dict(named_state(task.network())) for _ in COSTS]
    preferences = [preference_of(b, [1.0] if task.m == 1 else [0.5, 0.5]) for b in (0.1, 0.4)]
    return BudgetSet.of(task.network(), states, preferences, COSTS, [{}, {}])


@pytest.fixture
def task() -> Images:
    return Images(train=40, validation=30, test=50, model=Model(small))


def by_hand(pareto_set, task, split, what):
    batch = task.data(split)[list(range(len(task.data(split))))]
    found = []
    for preference in pareto_set.preferences:
        (outputs,) = pareto_set.materialize(preference)(batch[0])
        loss = nn.functional.cross_entropy(outputs, batch[1]).item()
        wrong = (outputs.argmax(1) != batch[1]).double().mean().item()
        found.append(loss if what == "losses" else wrong)
    return found


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("what", ["errors", "losses"])
@pytest.mark.parametrize("cost", ["share", "seconds"])
def test_values_are_costs_and_qualities(cost, what, split, task):
    pareto_set = budget_set(task)
    front = CostQuality(what, cost, split, batch_size=7).evaluate(pareto_set, task)
    np.testing.assert_array_equal(front.values[:, 0], [c[cost] for c in COSTS])
    expected = by_hand(pareto_set, task, split, what)
    np.testing.assert_allclose(front.values[:, 1], expected, rtol=1e-5, atol=1e-7)
    assert front.costs[0]["training_updates"] == 2.0
    assert front.costs[0]["training_share"] == 0.1
    assert all(c["seconds"] >= 0 for c in front.costs)


def test_all_axes_are_minimised_against_full_training_and_the_worst_quality(task):
    errors = CostQuality().evaluate(budget_set(task), task)
    assert [(o.name, o.direction, o.unit) for o in errors.objectives] == [
        ("cost", "min", "of full training"),
        ("class", "min", "error"),
    ]
    assert errors.reference_point.tolist() == [1.1, 1.0]
    losses = CostQuality("losses").evaluate(budget_set(task), task)
    assert losses.objectives[1].unit == "nats"
    assert losses.reference_point.tolist() == [1.1, *task.reference_point]
    assert CostQuality(cost="seconds").evaluate(budget_set(task), task).reference_point is None
    own = CostQuality(cost="seconds", reference_point=[10.0, 1.0])
    assert own.evaluate(budget_set(task), task).reference_point.tolist() == [10.0, 1.0]


def test_several_objectives_have_an_axis_each():
    task = MultiDigits(sizes=(40, 30, 50), model=Model(small))
    front = CostQuality().evaluate(budget_set(task), task)
    assert [o.name for o in front.objectives] == ["cost", "left", "right"]
    np.testing.assert_allclose(front.preferences, [[0.9, 0.05, 0.05], [0.6, 0.2, 0.2]])
    assert front.reference_point.tolist() == [1.1, 1.0, 1.0]


def test_logged_points_are_not_scored_again_and_belong_to_their_settings(task, tmp_path):
    pareto_set = budget_set(task)

    def front(evaluator):
        log = PointLog(tmp_path / "points.jsonl", evaluator.key(pareto_set), 2, 2)
        return evaluator.evaluate(pareto_set, task, log)

    first = front(CostQuality())
    pareto_set.materialize = None  # not needed any more
    again = front(CostQuality())
    np.testing.assert_array_equal(again.values, first.values)
    assert again.costs == first.costs
    keys = {
        CostQuality(what, cost, split).key(pareto_set)
        for what in ("errors", "losses")
        for cost in ("share", "seconds")
        for split in ("test", "validation")
    }
    assert len(keys) == 8


def test_models_without_costs_are_refused(task):
    torch.manual_seed(0)
    stacked = {k: torch.stack([t, t]).detach() for k, t in named_state(task.network()).items()}
    plain = FiniteSet(task.network(), stacked, [[0.9, 0.1], [0.6, 0.4]], "weight")
    with pytest.raises(FrontError, match="FiniteSet have no cost of their own"):
        CostQuality().evaluate(plain, task)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"what": "accuracies"}, "evaluator.what=accuracies is unknown; valid: errors, losses"),
        ({"cost": "second"}, "evaluator.cost=second is unknown; did you mean 'seconds'"),
        ({"split": "dev"}, "evaluator.split=dev"),
        ({"batch_size": 0}, "evaluator.batch_size=0"),
        ({"reference_point": [1.0, 2.0, 3.0]}, "needs 2 finite numbers"),
        ({"reference_point": [1.0, float("nan")]}, "needs 2 finite numbers"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, message, task):
    with pytest.raises(ConfigError, match=message):
        CostQuality(**options).check(task)


def test_a_task_without_accuracies_is_told_what_to_set():
    from frontrunner.tasks.fairness import Fairness

    task = object.__new__(Fairness)
    task.name = "compas"
    with pytest.raises(ConfigError, match=r"no accuracies: set evaluator\.what=losses"):
        CostQuality().check(task)
