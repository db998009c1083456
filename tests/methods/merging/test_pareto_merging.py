"""Pareto merging: closed form against training, corners, controls, resuming, and bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

import frontrunner.run as runs
from frontrunner import config as configuration
from frontrunner.errors import ConfigError
from frontrunner.front.objective import Objective
from frontrunner.methods.merging.factors import Distances, Factors, divergence, drawn
from frontrunner.methods.merging.pareto_merging import ParetoMerging
from frontrunner.methods.merging.task_arithmetic import TaskArithmetic
from frontrunner.pareto_sets import base as pareto_sets
from frontrunner.runner.runner import Runner
from frontrunner.tasks.domains import Domains
from frontrunner.tasks.merging import MergingTask
from frontrunner.weights.networks import named_state
from frontrunner.weights.parents import Parents
from frontrunner.weights.source import InMemory

K = 3
TASK = (
    "task=merge_digits",
    "task.base_steps=20",
    "task.expert_steps=20",
    "model.network.channels=[4,4]",
    "model.network.hidden=12",
)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("FRONTRUNNER_CACHE", str(tmp_path_factory.mktemp("cache")))
    config = configuration.compose([*TASK, "method=merging/average"])
    built = runs.build_task(config)
    built.parents()
    yield built
    patch.undo()


def method(**settings):
    given = {"base": None, "points": 6, "seed": 0, "initial": "zero", "select": "objective"}
    return ParetoMerging(**{**given, "learning_rate": 1e-3, "batch_size": 16, **settings})


def fit(task, directory, **settings):
    runner = Runner(directory=directory, accelerator="cpu", progress="none", threads=1)
    return method(**settings).fit(task.sealed(), runner), runner


def states(pareto_set, preference):
    return dict(pareto_set.state(preference))


# ---------------------------------------------------------------------- without data


CLOSED = {"objective": "distance", "scalarization": "linear", "initial": "tucker", "steps": 0}


@pytest.mark.parametrize("base", [None, TaskArithmetic(points=6, scale=1.5)])
def test_at_full_rank_the_closed_form_joins_the_experts(task, tmp_path, base):
    pareto_set, _ = fit(task, tmp_path, base=base, **CLOSED)
    experts = task.parents().experts
    for k in range(K):
        found = states(pareto_set, np.eye(K)[k])
        for name, tensor in found.items():
            assert torch.allclose(tensor, experts[k].read(name), atol=1e-5)
    middle = states(pareto_set, [1 / 3] * 3)
    for name, tensor in middle.items():
        mean = torch.stack([e.read(name) for e in experts]).mean(0)
        assert torch.allclose(tensor, mean, atol=1e-5)


def test_training_finds_the_closed_form(task, tmp_path):
    # The same problem by Adam on sampled preferences: its mean loss is the closed form's.
    settings = {**CLOSED, "rank": 3, "vectors": False, "concentration": 1.0}
    closed, _ = fit(task, tmp_path / "a", **settings)
    settings |= {"initial": "zero", "steps": 700, "learning_rate": 2e-2, "schedule": "cosine"}
    trained, _ = fit(task, tmp_path / "b", **settings, sampling="quasi_random", select="last")
    preferences = torch.tensor(np.random.default_rng(1).dirichlet(np.ones(K), size=300)).float()
    found, wanted = (
        np.mean([float(p @ measure(p)) for p in preferences])
        for measure in (distances(trained, task), distances(closed, task))
    )
    assert found == pytest.approx(wanted, rel=5e-3)


def distances(pareto_set, task):
    with torch.no_grad():
        measure = Distances(pareto_set, task.parents())
    return lambda gamma: measure(gamma).detach()


def test_distances_are_those_of_the_weights(task, tmp_path):
    pareto_set, _ = fit(task, tmp_path, **{**CLOSED, "rank": 2})
    gamma = np.array([0.5, 0.3, 0.2])
    state, parents = states(pareto_set, gamma), task.parents()
    wanted = [
        sum(float((state[n] - e.read(n)).square().sum()) for n in state)
        / sum(float((parents.base.read(n) - e.read(n)).square().sum()) for n in state)
        for e in parents.experts
    ]
    found = distances(pareto_set, task)(torch.tensor(gamma, dtype=torch.float32))
    assert np.allclose(found, wanted, rtol=1e-3)


# ---------------------------------------------------------------------- with data


@pytest.mark.parametrize("objective", ["entropy", "distillation", "loss"])
def test_training_lowers_its_objective(task, tmp_path, objective):
    settings = {"objective": objective, "steps": 40, "rounds": 2, "learning_rate": 3e-3}
    pareto_set, runner = fit(task, tmp_path, **settings, batch_size=32)
    fresh, _ = fit(task, tmp_path / "start", **{**settings, "steps": 0})
    learner = Factors(method(**settings).settings, task.sealed(), fresh, task.parents())
    assert runner.best_score > learner.validate()
    assert runner.cost["forward_passes"] == 40 * K * (2 if objective == "distillation" else 1)
    assert pareto_set.digest() != fresh.digest()


def test_the_start_is_kept_where_no_round_is_better(task, tmp_path):
    settings = {"steps": 6, "rounds": 2, "learning_rate": 10.0, "objective": "loss"}
    pareto_set, _ = fit(task, tmp_path / "a", **settings, initial="tucker")
    start, _ = fit(task, tmp_path / "b", **{**settings, "steps": 0}, initial="tucker")
    assert pareto_set.digest() == start.digest()


def test_zero_cores_start_at_the_base(task, tmp_path):
    pareto_set, _ = fit(task, tmp_path, initial="zero", steps=0)
    base = task.parents().base
    for name, tensor in states(pareto_set, [0.2, 0.3, 0.5]).items():
        assert torch.equal(tensor, base.read(name))
    for factor in (*pareto_set.change.left, *pareto_set.change.right):
        gram = factor.T @ factor
        assert torch.allclose(gram, torch.eye(len(gram)), atol=1e-5)


def test_the_control_moves_all_cores_alike(task, tmp_path):
    settings = {"steps": 8, "rounds": 1, "objective": "loss", "initial": "tucker", "select": "last"}
    start, _ = fit(task, tmp_path / "a", **{**settings, "steps": 0})
    moved, _ = fit(task, tmp_path / "b", **settings, preference_rate=0.0)
    for before, after in zip(start.change.core, moved.change.core, strict=True):
        step = (after - before).detach()
        assert step.abs().max() > 0
        assert torch.allclose(step, step[:1].expand_as(step), atol=1e-6)


def test_the_other_control_is_one_model(task, tmp_path):
    pareto_set, _ = fit(
        task, tmp_path, steps=4, rounds=1, objective="entropy", conditioned=False, select="last"
    )
    assert pareto_set.preferences.shape == (1, K)
    first, second = (states(pareto_set, p) for p in np.eye(K)[:2])
    assert all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.parametrize("joint", ["task", "layer"])
def test_coefficients_learn_with_the_factors(task, tmp_path, joint):
    pareto_set, _ = fit(
        task, tmp_path, steps=5, rounds=1, joint=joint, learning_rate=1e-2, select="last"
    )
    base = task.parents().base
    differs = [not torch.equal(t, base.read(n)) for n, t in pareto_set.base()]
    assert any(differs)
    pareto_set.save(tmp_path / "set")
    again = pareto_sets.load(tmp_path / "set", task)
    assert again.digest() == pareto_set.digest()


def test_a_killed_training_goes_on_to_the_same_factors(task, tmp_path):
    settings = {"steps": 12, "rounds": 3, "objective": "distillation", "initial": "tucker"}
    whole, _ = fit(task, tmp_path / "whole", **settings)

    class Killed(Exception):
        pass

    def kill(metrics, step):
        if step >= 8:
            raise Killed

    runner = Runner(
        directory=tmp_path / "cut", accelerator="cpu", progress="none", threads=1, log=kill
    )
    with pytest.raises(Killed):
        method(**settings).fit(task.sealed(), runner)
    resumed, _ = fit(task, tmp_path / "cut", **settings)
    assert resumed.digest() == whole.digest()


def test_a_base_method_runs_in_a_folder_of_its_own(task, tmp_path):
    base = ParetoMerging(None, points=6, seed=0, steps=2, rounds=1, conditioned=False)
    _, runner = fit(task, tmp_path, base=base, steps=3, rounds=1)
    assert (tmp_path / "base" / "checkpoints" / "last.ckpt").is_file()
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()
    assert runner.cost["forward_passes"] == (2 + 3) * K


# ---------------------------------------------------------------------- parts


@pytest.mark.parametrize("sampling", ["dirichlet", "corner_stratified", "quasi_random"])
def test_preferences_are_a_function_of_the_seed(sampling):
    settings = method(sampling=sampling, steps=64).settings
    first, again = drawn(settings, K), drawn(settings, K)
    assert np.array_equal(first, again)
    assert first.shape == (64, K)
    assert np.allclose(first.sum(1), 1)
    other = drawn(method(sampling=sampling, steps=64, seed=1).settings, K)
    assert not np.array_equal(first, other)


def test_corner_draws_are_spread_over_the_steps():
    draws = drawn(method(sampling="corner_stratified", steps=200).settings, K)
    near = draws.max(1) >= 0.5
    assert abs(near[:100].mean() - near[100:].mean()) < 0.3


def test_divergence_is_zero_for_the_expert_itself_and_positive_else():
    logits = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    assert float(divergence(logits, logits)) == pytest.approx(0, abs=1e-6)
    assert float(divergence(logits, torch.zeros(8, 5))) > 0


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "entropi"}, "entropy"),
        ({"scalarization": "max"}, "method.scalarization"),
        ({"mu": 0}, "method.mu"),
        ({"rank": 0}, "method.rank"),
        ({"initial": "random"}, "method.initial"),
        ({"preference_rate": 1.5}, "method.preference_rate"),
        ({"joint": "layer", "objective": "distance"}, "method.joint"),
        ({"joint": "tensor"}, "method.joint"),
        ({"base": 3}, "method.base"),
        ({"steps": -1}, "method.steps"),
    ],
)
def test_a_wrong_setting_is_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        method(**settings)


def test_a_pattern_that_matches_no_layer_is_named(task, tmp_path):
    with pytest.raises(ConfigError, match=r"'q_proj'; there are"):
        fit(task, tmp_path, layers=["q_proj"], steps=0)


def test_an_objective_on_data_needs_data(task, monkeypatch):
    monkeypatch.setattr(type(task), "has_data", False)
    with pytest.raises(ConfigError, match="objective=distance"):
        method(objective="entropy").check(task)
    method(**CLOSED).check(task)


def test_a_lattice_that_does_not_exist_is_refused_before_training(task):
    with pytest.raises(Exception, match="no simplex lattice"):
        method(points=7).check(task)


# ---------------------------------------------------------------------- running statistics


class Normed(torch.nn.Module):
    """A network with batch normalisation, whose running statistics are merged too."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(6, 8)
        self.norm = torch.nn.BatchNorm1d(8)
        self.out = torch.nn.Linear(8, 4)

    def forward(self, x, k):
        return self.out(torch.relu(self.norm(self.first(x))))


class NormedTask(MergingTask):
    name = "normed"
    objectives = tuple(Objective(f"o{k}", "min", "nats") for k in range(K))
    reference_point = (3.0,) * K

    def make_parents(self):
        torch.manual_seed(0)
        states = []
        for _ in range(K + 1):
            network = Normed()
            network(torch.randn(64, 6) * 2 + 1, 0)  # moves the running statistics
            states.append({n: t.detach().clone() for n, t in named_state(network).items()})
        return Parents(InMemory("base", states[0]), [InMemory("e", s) for s in states[1:]])

    def network(self):
        network = Normed()
        network.load_state_dict(self.parents().base.tensors)
        return network

    def load(self):
        x, y = torch.randn(K, 32, 6, generator=torch.Generator().manual_seed(1)), torch.arange(32)
        part = Domains([TensorDataset(inputs, y % 4) for inputs in x])
        return {"train": part, "validation": part, "test": part}

    def loss(self, outputs, batch, k):
        return torch.nn.functional.cross_entropy(outputs, batch[1])


@pytest.mark.parametrize("joint", [None, "layer"])
@pytest.mark.parametrize("objective", ["entropy", "distillation"])
def test_running_statistics_follow_the_preference_and_take_no_gradient(tmp_path, joint, objective):
    task = NormedTask()
    settings = {"initial": "tucker", "joint": joint, "objective": objective, "rounds": 1}
    pareto_set, _ = fit(task, tmp_path, steps=3, select="last", **settings)
    if joint is None:
        for k, expert in enumerate(task.parents().experts):
            found = states(pareto_set, np.eye(K)[k])["norm.running_mean"]
            assert torch.allclose(found, expert.read("norm.running_mean"), atol=1e-5)
    assert all(torch.isfinite(t).all() for t in states(pareto_set, [1 / 3] * 3).values())
