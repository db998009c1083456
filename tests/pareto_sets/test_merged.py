"""Merged sets: models made in place from parents and a rule, no weights of their own stored."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from frontrunner.errors import FrontError, RunError
from frontrunner.front.objective import Objective
from frontrunner.methods.merging.average import Averaging
from frontrunner.methods.merging.fisher import FisherWeighted
from frontrunner.methods.merging.regmean import GramWeighted
from frontrunner.methods.merging.task_arithmetic import TaskVectors
from frontrunner.pareto_sets import base as pareto_sets
from frontrunner.pareto_sets.merged import MergedSet, Rule
from frontrunner.tasks.merging import MergingTask
from frontrunner.tasks.multi_digits import MultiDigits
from frontrunner.weights.networks import named_state
from frontrunner.weights.parents import Parents
from frontrunner.weights.source import InMemory

GRID = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
EQUAL = [0.5, 0.5]


class Net(nn.Module):
    """A linear layer and normalisation with its counter, an integer."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(2)

    def forward(self, x, k):
        return self.norm(self.linear(x))


class Two(MergingTask):
    """A base in bfloat16 and two experts, all random; ``seed`` makes other ones."""

    def __init__(self, seed=0):
        super().__init__()
        self.name, self.seed = "two", seed
        self.objectives = (Objective("a", "min"), Objective("b", "min"))
        self.reference_point = (1.0, 1.0)

    def make_parents(self):
        models = []
        for k in range(3):
            torch.manual_seed(10 * self.seed + k)
            network = Net()
            network.norm.num_batches_tracked += 7 * k
            models.append({n: t.detach().clone() for n, t in named_state(network).items()})
        models[0]["linear.weight"] = models[0]["linear.weight"].bfloat16()
        return Parents(
            InMemory("base", models[0]), [InMemory("e0", models[1]), InMemory("e1", models[2])]
        )

    def network(self):
        return Net()

    def load(self):
        raise AssertionError("a merged set needs no data")

    def loss(self, outputs, batch, k):
        raise AssertionError


def statistics(rule):
    source = torch.Generator().manual_seed(1)
    if isinstance(rule, FisherWeighted):
        return {"linear.weight": torch.rand(2, 2, 3, generator=source)}
    if isinstance(rule, GramWeighted):
        x = torch.randn(2, 20, 3, generator=source)
        return {"linear.weight": x.mT @ x}
    return None


def merged(rule=None, task=None, preferences=GRID, scales=(0.4, 0.6, 0.8)):
    rule = rule or TaskVectors()
    return MergedSet(task or Two(), rule, preferences, scales, statistics(rule))


RULES = pytest.mark.parametrize(
    "rule",
    [Averaging(), TaskVectors(), FisherWeighted(), GramWeighted()],
    ids=lambda r: type(r).__name__,
)


def states_equal(a, b):
    pairs = zip(a, b, strict=True)
    return all(m == n and torch.equal(x, y) for (m, x), (n, y) in pairs)


# ---------------------------------------------------------------------- making models


def test_a_preference_gets_the_scale_of_the_nearest_that_has_one():
    pareto_set = merged()
    for p, scale in (([0.5, 0.5], 0.6), ([0.45, 0.55], 0.6), ([0.1, 0.9], 0.8), ([1, 0], 0.4)):
        assert pareto_set.scale(np.array(p)) == scale
        assert states_equal(pareto_set.state(p), pareto_set.merge(p, scale))
        assert not states_equal(pareto_set.state(p), pareto_set.merge(p, scale + 0.1))


def test_a_model_is_what_the_rule_makes_of_whole_tensors():
    pareto_set = merged()
    weights = np.array([0.3, 0.7]) / 0.7
    state = dict(pareto_set.state([0.3, 0.7]))
    for key in ("linear.weight", "linear.bias", "norm.running_var"):
        base, experts = pareto_set.parents.read(key)
        expected = pareto_set.rule.merge(key, base, experts, weights, 0.6, None)
        torch.testing.assert_close(state[key], expected.to(state[key].dtype))


def test_tensors_keep_the_bases_dtypes_and_counters_are_the_bases():
    state = dict(merged().state(EQUAL))
    assert list(state) == list(Two().parents().base.shapes())
    assert state["linear.weight"].dtype == torch.bfloat16
    assert state["linear.bias"].dtype == torch.float32
    assert int(state["norm.num_batches_tracked"]) == 0


@RULES
def test_models_are_made_in_place(rule):
    pareto_set = merged(rule)
    before = {k: t.clone() for k, t in pareto_set.parents.experts[0].tensors.items()}
    network = pareto_set.materialize([1.0, 0.0])
    addresses = [t.data_ptr() for t in named_state(network).values()]
    first = network.linear.weight.detach().clone()
    for p in GRID[1:]:
        assert pareto_set.materialize(p) is network
        assert not network.training
    assert [t.data_ptr() for t in named_state(network).values()] == addresses
    assert not torch.equal(network.linear.weight, first)
    pareto_set.materialize([1.0, 0.0])
    assert torch.equal(network.linear.weight, first)
    assert all(torch.equal(t, before[k]) for k, t in pareto_set.parents.experts[0].tensors.items())


def test_another_scale_than_the_sets_own_is_not_kept():
    pareto_set = merged()
    own = pareto_set.materialize(EQUAL).linear.bias.detach().clone()
    base, _ = pareto_set.parents.read("linear.bias")
    assert torch.equal(pareto_set.at_scale(EQUAL, 0.0).linear.bias, base)
    assert torch.equal(pareto_set.materialize(EQUAL).linear.bias, own)


@pytest.mark.parametrize(
    "preference", [[0.5, 0.6], [1.5, -0.5], [1.0], [np.nan, 1.0], [[0.5, 0.5]]]
)
def test_what_is_not_a_preference_is_refused(preference):
    with pytest.raises(FrontError, match="preference"):
        merged().materialize(preference)


def test_statistics_reach_the_rule_in_place_of_what_it_prepares():
    seen = []

    class Spy(Rule):
        def prepare(self, parents):
            return "prepared"

        def merge(self, key, base, experts, weights, scale, prepared):
            seen.append(prepared)
            return base

    measured = {"linear.weight": torch.ones(2)}
    dict(MergedSet(Two(), Spy(), GRID, 1.0).state(EQUAL))
    assert set(seen) == {"prepared"}
    seen.clear()
    dict(MergedSet(Two(), Spy(), GRID, 1.0, measured).state(EQUAL))
    assert all(prepared == measured for prepared in seen)


# ---------------------------------------------------------------------- storage


@RULES
def test_saving_and_loading_changes_no_bit(rule, tmp_path):
    before = merged(rule)
    before.save(tmp_path)
    after = pareto_sets.load(tmp_path, Two())
    assert type(after) is MergedSet
    assert after.rule == rule
    assert np.array_equal(after.scales, before.scales)
    assert after.digest() == before.digest()
    assert after.stored_parameters == before.stored_parameters
    for p in (*GRID, [0.3, 0.7]):
        assert states_equal(before.state(p), after.state(p))


def test_a_set_without_statistics_stores_its_scales_alone(tmp_path):
    merged().save(tmp_path)
    assert list(load_file(tmp_path / "weights.safetensors")) == ["scales"]
    merged(FisherWeighted()).save(tmp_path)
    found = load_file(tmp_path / "weights.safetensors")
    assert sorted(found) == ["scales", "statistics.linear.weight"]


def test_the_digest_tells_what_changes_a_model():
    known = {merged().digest()}
    assert merged().digest() in known
    for other in (
        merged(scales=0.5),
        merged(Averaging()),
        merged(task=Two(seed=1)),
        merged(preferences=GRID[:2], scales=0.4),
        merged(FisherWeighted()),
        merged(FisherWeighted(floor=0.1)),
    ):
        assert other.digest() not in known
        known.add(other.digest())
    fisher = merged(FisherWeighted())
    fisher.statistics["linear.weight"][0, 0, 0] += 0.5
    assert fisher.digest() not in known


def test_stored_parameters_are_of_one_model_or_of_all_it_takes():
    one = 3 * 2 + 2 + 4 * 2 + 1  # the counter is a number too
    assert merged(preferences=[EQUAL], scales=1.0).stored_parameters == one
    assert merged(FisherWeighted(), preferences=[EQUAL], scales=1.0).stored_parameters == one
    assert merged().stored_parameters == 3 * one
    assert merged(FisherWeighted()).stored_parameters == 3 * one + 2 * 6
    assert merged(GramWeighted()).stored_parameters == 3 * one + 2 * 9


def test_other_parents_than_it_was_made_from_are_refused(tmp_path):
    merged().save(tmp_path)
    with pytest.raises(RunError, match="the base or an expert has changed since"):
        pareto_sets.load(tmp_path, Two(seed=1))


def test_a_task_that_has_no_models_to_merge_is_refused(tmp_path):
    merged().save(tmp_path)
    with pytest.raises(RunError, match="task 'multi_digits' has no models to merge"):
        pareto_sets.load(tmp_path, MultiDigits())


@pytest.mark.parametrize("rule", ["pathlib.Path", "frontrunner.nowhere.Rule"])
def test_what_is_not_a_rule_is_refused(rule, tmp_path):
    merged().save(tmp_path)
    path = tmp_path / "pareto_set.json"
    meta = json.loads(path.read_text())
    meta["options"]["rule"] = rule
    path.write_text(json.dumps(meta))
    with pytest.raises(RunError, match="does not hold a Pareto set of this task"):
        pareto_sets.load(tmp_path, Two())


def test_statistics_of_another_set_are_refused(tmp_path):
    merged(FisherWeighted()).save(tmp_path)
    path = tmp_path / "weights.safetensors"
    tensors = load_file(path)
    tensors["statistics.linear.weight"] += 1
    save_file(tensors, path)
    with pytest.raises(RunError, match="do not belong together"):
        pareto_sets.load(tmp_path, Two())
