"""Sets of models that cost differently: preferences, costs and facts, stored and read again."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from frontrunner.errors import FrontError, RunError
from frontrunner.models.networks import MLP
from frontrunner.pareto_sets import base
from frontrunner.pareto_sets.budgets import BudgetSet, preference_of
from frontrunner.preferences import validate
from frontrunner.tasks.base import Model
from frontrunner.tasks.images import Images

COSTS = [{"share": 0.05, "seconds": 1.5}, {"share": 0.2, "seconds": 4.0}, {"share": 1.0}]
RECORD = [
    {"budget": 0.05, "collapsed": True, "history": [{"epoch": 0, "snr": [None]}]},
    {"budget": 0.2, "collapsed": False},
    {"budget": 1.0, "collapsed": False},
]


def small(**shapes):
    return MLP(**shapes, hidden=[5])


@pytest.fixture
def task() -> Images:
    return Images(train=20, validation=10, test=10, model=Model(small))


@pytest.fixture
def pareto_set(task) -> BudgetSet:
    states = []
    for seed in range(3):
        torch.manual_seed(seed)
        states.append({k: t.detach() for k, t in base.named_state(task.network()).items()})
    preferences = [preference_of(b, [1.0]) for b in (0.05, 0.2, 1.0)]
    return BudgetSet.of(task.network(), states, preferences, COSTS, RECORD)


@pytest.mark.parametrize("budget", [0.01, 0.1, 1 / 3, 1.0])
@pytest.mark.parametrize("preference", [[1.0], [1.0, 0.0], [0.5, 0.5], [0.2, 0.3, 0.5]])
def test_budget_and_preference_can_be_read_off_again(budget, preference):
    p = np.array(preference_of(budget, preference))
    validate(p, len(preference) + 1)
    assert 1 - p[0] == pytest.approx(budget)
    np.testing.assert_allclose(p[1:] / p[1:].sum(), preference)


def test_each_preference_has_its_model_and_its_cost(pareto_set, task):
    assert pareto_set.m == 2
    for seed, budget in enumerate((0.05, 0.2, 1.0)):
        torch.manual_seed(seed)
        expected = task.network().state_dict()
        found = pareto_set.materialize([1 - budget, budget]).state_dict()
        assert all(torch.equal(found[k], t) for k, t in expected.items())
        assert pareto_set.cost_of([1 - budget, budget]) == COSTS[seed]
    with pytest.raises(FrontError, match="3 models and none for"):
        pareto_set.cost_of([0.5, 0.5])


def test_facts_name_the_budgets_that_collapsed(pareto_set):
    assert pareto_set.facts() == {"models": RECORD, "collapsed": [0.05]}


def test_costs_and_facts_survive_the_disk(pareto_set, task, tmp_path):
    pareto_set.save(tmp_path)
    loaded = base.load(tmp_path, task)
    assert isinstance(loaded, BudgetSet)
    assert (loaded.costs, loaded.record) == (COSTS, RECORD)
    assert loaded.digest() == pareto_set.digest()
    assert loaded.cost_of([0.8, 0.2]) == COSTS[1]


def test_costs_of_another_number_are_refused(pareto_set, task, tmp_path):
    with pytest.raises(FrontError, match="2 costs for 3 models"):
        BudgetSet(
            task.network(), pareto_set.stacked, pareto_set.preferences, "weight", COSTS[:2], []
        )
    pareto_set.save(tmp_path)
    meta = json.loads((tmp_path / "pareto_set.json").read_text())
    meta["options"]["costs"].pop()
    (tmp_path / "pareto_set.json").write_text(json.dumps(meta))
    with pytest.raises(RunError, match="2 costs for 3 models"):
        base.load(tmp_path, task)
