"""AdaMerging: the composed model, falling entropy, bounds, resuming, and which state is kept."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from frontrunner.errors import ConfigError, SplitError
from frontrunner.front.objective import Objective
from frontrunner.methods.merging.adamerging import AdaMerging, EntropyLearner
from frontrunner.methods.merging.coefficients import Coefficients, agreeing
from frontrunner.methods.merging.entropy import entropies, entropy
from frontrunner.pareto_sets import base as pareto_sets
from frontrunner.runner.runner import Runner
from frontrunner.tasks.domains import Domains
from frontrunner.tasks.merging import MergingTask
from frontrunner.weights.networks import named_state
from frontrunner.weights.parents import Parents
from frontrunner.weights.source import InMemory

K, CLASSES, FEATURES = 3, 4, 5


class Net(nn.Module):
    """Shared layers, normalisation with its counter, and a head of each objective's own."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(FEATURES, 8)
        self.norm = nn.BatchNorm1d(8)
        self.heads = nn.ModuleList(nn.Linear(8, CLASSES) for _ in range(K))

    def forward(self, x, k):
        return self.heads[k](torch.relu(self.norm(self.first(x))))


class Random(MergingTask):
    """Random experts of one architecture; labels are an expert's own answers."""

    selection = "accuracies"

    def __init__(self):
        super().__init__()
        self.name = "random"
        self.objectives = tuple(Objective(f"o{k}", "min", "nats") for k in range(K))
        self.reference_point = (3.0,) * K

    def make_parents(self):
        torch.manual_seed(0)
        states = [{n: t.detach().clone() for n, t in named_state(Net()).items()} for _ in range(4)]
        self._heads = {n: t for n, t in states[1].items() if n.startswith("heads")}
        shared = [{n: t for n, t in s.items() if n not in self._heads} for s in states]
        for s in shared[1:]:
            s["first.weight"] = s["first.weight"] * 3
        return Parents(
            InMemory("base", shared[0]), [InMemory(f"e{k}", s) for k, s in enumerate(shared[1:])]
        )

    def network(self):
        network = Net()
        state = self.parents().base.tensors | self._heads
        network.load_state_dict(state)
        return network

    def load(self):
        splits = {}
        for i, split in enumerate(("train", "validation", "test")):
            x = torch.randn(K, 64, FEATURES, generator=torch.Generator().manual_seed(i))
            y = torch.arange(64) % CLASSES
            splits[split] = Domains([TensorDataset(part, y) for part in x])
        return splits

    def loss(self, outputs, batch, k):
        return nn.functional.cross_entropy(outputs, batch[1])

    def correct(self, outputs, batch, k):
        return (outputs.argmax(-1) == batch[1]).float().mean()


@pytest.fixture(scope="module")
def task():
    task = Random()
    task.parents()
    return task


def quiet(directory="."):
    return Runner(directory=directory, progress="none", accelerator="cpu", seed=3)


def method(**settings):
    return AdaMerging(**{"points": 3, "steps": 20, "rounds": 4, "learning_rate": 1e-2, **settings})


def trained(task, directory, **settings):
    """The learner after training for equal preferences."""
    own, network, equal = method(**settings), task.network(), np.full(K, 1 / K)
    coefficients = own.task_vectors(task)
    return own.train(task.sealed(), network, coefficients, equal, quiet(directory))


# ---------------------------------------------------------------------- the composed model


@pytest.mark.parametrize(("per", "shape"), [("task", (K,)), ("layer", (6, K))])
def test_there_are_k_coefficients_or_k_for_each_tensor(task, per, shape):
    coefficients = Coefficients(task.parents(), per)
    # two of each layer, and two running statistics; the counter is no layer
    assert len(coefficients.names) == 6
    assert coefficients.values.shape == shape
    assert list(coefficients.state_dict()) == ["values"]


@pytest.mark.parametrize("per", ["task", "layer"])
def test_the_start_is_task_arithmetic(task, per):
    parents = task.parents()
    state = Coefficients(parents, per, initial=0.4).compose()
    for key in parents.base.shapes():
        base, experts = (
            parents.read(key) if parents.mergeable(key) else (parents.base.read(key), [])
        )
        expected = base + sum(0.4 * (e - base) for e in experts)
        torch.testing.assert_close(state[key], expected)


def test_each_row_moves_its_own_tensor_towards_each_expert(task):
    coefficients = Coefficients(task.parents(), "layer", initial=0.0)
    row = coefficients.names.index("first.bias")
    with torch.no_grad():
        coefficients.values[row, 1] = 1.0
    state = coefficients.compose()
    torch.testing.assert_close(state["first.bias"], task.parents().experts[1].read("first.bias"))
    assert torch.equal(state["first.weight"], task.parents().base.read("first.weight"))


def test_the_cut_to_the_unit_interval_is_a_switch(task):
    cut, free = (Coefficients(task.parents(), "task", 1.7, clamp=c) for c in (True, False))
    assert cut.coefficients().max() == 1.0
    assert free.coefficients().tolist() == pytest.approx([1.7] * K)


def test_entropy_is_in_nats_over_the_last_dimension():
    assert float(entropy(torch.zeros(2, 3, 8))) == pytest.approx(math.log(8))
    assert float(entropy(torch.tensor([[0.0, 1e4]]))) == pytest.approx(0.0, abs=1e-6)
    p = torch.tensor([0.2, 0.8])
    expected = -(p * p.log()).sum() / 2 + math.log(2) / 2
    torch.testing.assert_close(entropy(torch.stack([p.log(), torch.zeros(2)])), expected)


def test_plusplus_keeps_what_is_large_and_has_the_elected_sign():
    vectors = torch.tensor([[3.0, -3.0, 0.5, 2.0, 1.2], [1.0, 4.0, 0.6, -2.5, -1.5]])
    kept = agreeing(vectors, np.array([1.0, 2.0], np.float32))
    # the sums of what is left by trimming are 3, 1, 0, -0.5 and 1.2
    expected = torch.tensor([[3.0, 0.0, 0.0, 0.0, 1.2], [0.0, 4.0, 0.0, -2.5, 0.0]])
    assert torch.equal(kept, expected)


def test_plusplus_trims_over_the_whole_task_vector(task):
    coefficients = Coefficients(task.parents(), density=0.2)
    found = [coefficients.get_buffer(f"vectors_{i}") for i in range(6)]
    kept = sum(int((v != 0).sum()) for v in found)
    total = sum(v[0].numel() for v in found)
    assert 0 < kept <= K * int(0.2 * total)
    for i, name in enumerate(coefficients.names):
        base, experts = task.parents().read(name)
        whole = torch.stack(experts) - base
        assert ((found[i] == whole) | (found[i] == 0)).all()


# ---------------------------------------------------------------------- training


@pytest.mark.parametrize(
    "settings", [{"coefficients": "task"}, {"coefficients": "layer"}, {"plusplus": True}]
)
def test_entropy_falls_and_coefficients_stay_within_their_bounds(task, tmp_path, settings):
    learner = trained(task, tmp_path, steps=60, learning_rate=5e-2, **settings)
    start = EntropyLearner(
        task,
        task.network(),
        Coefficients(task.parents(), density=0.2 if settings.get("plusplus") else None),
        np.full(K, 1 / K),
        1e-2,
    )
    before = entropies(start.merged(), task, "train", "cpu").sum()
    after = entropies(learner.merged(), task, "train", "cpu").sum()
    assert after < before - 0.02
    values = learner.coefficients.coefficients()
    assert values.min() >= 0
    assert values.max() <= 1
    assert not torch.allclose(values, torch.tensor(0.3), atol=1e-2)


class Killed(Exception):
    pass


def test_a_resumed_run_ends_with_the_same_coefficients(task, tmp_path, monkeypatch):
    whole = trained(task, tmp_path / "whole").coefficients.values
    update = EntropyLearner.update

    def dies(self, batch, step):
        if step == 12:
            raise Killed
        return update(self, batch, step)

    with monkeypatch.context() as patched:
        patched.setattr(EntropyLearner, "update", dies)
        with pytest.raises(Killed):
            trained(task, tmp_path / "broken")
    checkpoint = tmp_path / "broken" / "checkpoints" / "last.ckpt"
    assert checkpoint.stat().st_size < 50_000  # coefficients and Adam's state, no weights
    taken = []
    with monkeypatch.context() as patched:
        patched.setattr(
            EntropyLearner, "update", lambda s, b, step: taken.append(step) or update(s, b, step)
        )
        resumed = trained(task, tmp_path / "broken").coefficients.values
    assert taken == list(range(10, 20))
    assert torch.equal(whole, resumed)


def test_select_decides_which_state_is_kept(task, tmp_path, monkeypatch):
    scores = iter([1.0, 3.0, 2.0, 0.0])
    monkeypatch.setattr(EntropyLearner, "score", lambda self, select: next(scores))
    kept = trained(task, tmp_path / "a", select="validation").coefficients.values
    last = trained(task, tmp_path / "b", select="last").coefficients.values
    monkeypatch.undo()
    # the second of four rounds of five steps
    assert torch.equal(kept, trained(task, tmp_path / "c", steps=10, rounds=2, select="last")
                       .coefficients.values)  # fmt: skip
    assert not torch.equal(kept, last)


def test_scores_are_of_held_out_data(task, tmp_path):
    learner = trained(task, tmp_path)
    p = learner.preference
    held_out = entropies(learner.merged(), task, "validation", "cpu")
    assert learner.score("entropy") == pytest.approx(-float(p @ held_out))
    right = task.measure(learner.merged(), "validation", what="accuracies")
    assert learner.score("validation") == pytest.approx(float(p @ right))
    with pytest.raises(SplitError):
        entropies(learner.merged(), task.sealed(), "test", "cpu")


# ---------------------------------------------------------------------- what fit returns


def test_the_set_holds_the_merged_model_and_survives_saving(task, tmp_path):
    runner = quiet(tmp_path)
    before = method().fit(task.sealed(), runner)
    assert runner.cost["forward_passes"] == 20 * K
    assert runner.score == "objective"
    expected = trained(task, tmp_path / "again").merged()
    before.save(tmp_path / "set")
    after = pareto_sets.load(tmp_path / "set", task)
    equal = np.full(K, 1 / K)
    for k, part in enumerate(task.data("validation").parts):
        x = part.tensors[0]
        with torch.no_grad():
            out = after.materialize(equal)(x, k)
            torch.testing.assert_close(out, expected(x, k))
            assert torch.equal(out, before.materialize(equal)(x, k))


def test_a_grid_lowers_each_objectives_own_entropy_and_resumes(task, tmp_path, monkeypatch):
    settings = {"preferences": "grid", "learning_rate": 5e-2}
    runner = quiet(tmp_path / "whole")
    front = method(**settings).fit(task.sealed(), runner)
    n = len(front.preferences)
    assert n == 4  # three corners, and the uniform preference
    assert runner.cost["forward_passes"] == n * 20 * K
    found = np.array(
        [entropies(front.materialize(p), task, "train", "cpu") for p in front.preferences]
    )
    corners = [int(np.abs(front.preferences - e).sum(1).argmin()) for e in np.eye(K)]
    assert (found[corners].argmin(axis=0) == np.arange(K)).all()

    score, calls = EntropyLearner.score, []

    def dies(self, select):
        calls.append(select)
        if len(calls) == 7:  # in the second preference
            raise Killed
        return score(self, select)

    with monkeypatch.context() as patched:
        patched.setattr(EntropyLearner, "score", dies)
        with pytest.raises(Killed):
            method(**settings).fit(task.sealed(), quiet(tmp_path / "broken"))
    resumed = method(**settings).fit(task.sealed(), quiet(tmp_path / "broken"))
    assert resumed.digest() == front.digest()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"coefficients": "tensor"}, "method.coefficients=tensor is unknown"),
        ({"density": 0}, "method.density=0"),
        ({"density": 1.5}, "at most 1"),
        ({"select": "test"}, "method.select=test is unknown"),
        ({"preferences": "corners"}, "method.preferences=corners is unknown"),
        ({"learning_rate": -1}, "method.learning_rate=-1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        method(**settings)


def test_a_task_without_data_is_refused():
    task = Random()
    task.has_data = False
    with pytest.raises(ConfigError, match="has no data"):
        method().check(task)
