"""LORPMAN: what rests and what learns, which objectives a step looks at, and what overlap costs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from frontrunner.errors import ConfigError
from frontrunner.methods.learning.lorpman import Lorpman, _LorpmanLearner
from frontrunner.methods.learning.pamal import PaMaLLearner
from frontrunner.methods.learning.training import Training
from frontrunner.models.conditioning import FiLM
from frontrunner.models.networks import MLP
from frontrunner.models.weights import Ensemble, LowRankUpdates
from frontrunner.runner.runner import Runner
from frontrunner.tasks.base import Model
from frontrunner.tasks.multi_digits import MultiDigits
from frontrunner.tasks.synthetic import Synthetic


def network(**shapes):
    return MLP(**shapes, hidden=[8, 6])


def task(conditioning=LowRankUpdates):
    return MultiDigits(sizes=(200, 40, 20), model=Model(network, conditioning))


def ten_objectives():
    return Synthetic("dtlz2", m=10, model=Model(network, LowRankUpdates))


def method(steps=20, rounds=4, window=2, **options):
    training = Training(
        steps=steps, batch_size=32, learning_rate=5e-3, rounds=rounds, vectors_per_step=window
    )
    return Lorpman(training, points=options.pop("points", 3), seed=4, **options)


def runner(folder):
    return Runner(directory=folder, seed=4, accelerator="cpu", progress="none", threads=1)


def descend(learner, data, steps):
    """Plain training; yields the step after each."""
    optimizer = learner.optimizers()["weights"]
    for step in range(steps):
        optimizer.zero_grad()
        learner.update(data, step).loss.backward()
        optimizer.step()
        yield step


def values(parameters):
    return [p.detach().clone() for p in parameters]


def same(before, after):
    return [torch.equal(a, b) for a, b in zip(before, after, strict=True)]


# ---------------------------------------------------------------------- freezing


def test_the_main_network_rests_after_its_share_of_the_steps_bit_for_bit():
    learner = _LorpmanLearner(task(), method(steps=10, freeze=0.6))
    batch = task().data("train")[list(range(64))]
    base = values(learner.network.base)
    updates = values((*learner.network.a, *learner.network.b))
    for step in descend(learner, batch, 10):
        now = values(learner.network.base)
        if step < 6:
            assert not any(same(base, now))
        else:
            assert all(same(base, now))
        base = now
        moved = values((*learner.network.a, *learner.network.b))
        # Where B is 0, in the first step, A has no gradient.
        assert not any(same(updates, moved)[0 if step else len(learner.network.a) :])
        updates = moved


def test_weight_decay_leaves_the_resting_network_alone():
    chosen = method(steps=4, freeze=0.5)
    chosen.training = Training(
        steps=4, batch_size=32, weight_decay=0.1, optimizer="sgd", vectors_per_step=2
    )
    learner = _LorpmanLearner(task(), chosen)
    batch = task().data("train")[list(range(64))]
    seen = [values(learner.network.base) for _ in descend(learner, batch, 4)]
    assert not any(same(seen[0], seen[1]))
    assert all(same(seen[1], seen[2]))
    assert all(same(seen[1], seen[3]))


def test_a_freeze_of_one_never_comes():
    learner = _LorpmanLearner(task(), method(steps=5, freeze=1))
    batch = task().data("train")[list(range(64))]
    base = values(learner.network.base)
    for _ in descend(learner, batch, 5):
        assert not learner.network.frozen
    assert not any(same(base, values(learner.network.base)))


class Killed(Exception):
    pass


@pytest.mark.parametrize("after", [10, 15])
def test_a_resumed_run_equals_an_uninterrupted_one_across_the_freeze(tmp_path, after):
    options = {"freeze": 0.6, "orthogonality": 0.1, "ordering": 0.5}
    whole = method(**options).fit(task().sealed(), runner(tmp_path / "whole"))

    def kill(metrics, step):
        if step > after:
            raise Killed

    stopped = runner(tmp_path / "stopped")
    stopped.log = kill
    with pytest.raises(Killed):
        method(**options).fit(task().sealed(), stopped)
    checkpoint = torch.load(stopped.checkpoint, weights_only=True)
    assert checkpoint["frontrunner"]["step"] == after
    resumed = method(**options).fit(task().sealed(), runner(tmp_path / "stopped"))
    assert resumed.digest() == whole.digest()


# ---------------------------------------------------------------------- many objectives


def test_of_many_objectives_three_are_drawn_for_each_step_and_preferences_lie_on_their_face():
    chosen = method(window=4, points=10)
    first = _LorpmanLearner(ten_objectives(), chosen)
    torch.manual_seed(99)
    second = _LorpmanLearner(ten_objectives(), chosen)
    seen = set()
    for step in range(200):
        objectives = first.objectives(step)
        assert len(set(objectives)) == 3
        assert objectives == second.objectives(step)
        r = first.drawn(step)
        assert r.shape == (4, 10)
        assert (r[:, objectives] > 0).all()
        np.testing.assert_allclose(r[:, objectives].sum(1), 1.0, atol=1e-6)
        assert torch.equal(r, second.drawn(step))
        seen.add(tuple(objectives))
    assert len(seen) > 60  # of 120
    assert set().union(*seen) == set(range(10))


def test_only_the_drawn_objectives_count():
    chosen = method(window=4, points=10, orthogonality=0.5, ordering=0.1)
    learner = _LorpmanLearner(ten_objectives(), chosen)
    with torch.no_grad():
        for b in learner.network.b:
            b.normal_()
    objectives, r = learner.objectives(5), learner.drawn(5)
    f = torch.rand(4, 10, requires_grad=True)
    loss, log = learner.loss(f, r, 5)
    (gradient,) = torch.autograd.grad(loss, f, retain_graph=True)
    rest = [j for j in range(10) if j not in objectives]
    assert gradient[:, objectives].all()
    assert not gradient[:, rest].any()
    overlap = learner.network.overlap(objectives)
    torch.testing.assert_close(log["train/overlap"], overlap.detach())
    factors = torch.autograd.grad(loss, list(learner.network.b))
    for gradient in factors:
        assert gradient[objectives].any()
        assert not gradient[rest].any()
    plain, _ = PaMaLLearner.loss(learner, f[:, objectives], r[:, objectives], 5)
    torch.testing.assert_close(loss, plain + 0.5 * overlap)


def test_of_three_objectives_or_fewer_all_count():
    assert _LorpmanLearner(task(), method()).objectives(3) == [0, 1]


# ---------------------------------------------------------------------- orthogonality


@pytest.mark.parametrize("kind", ["cosine", "plain"])
def test_orthogonality_lowers_the_overlap_of_updates(kind):
    found = {}
    batch = task().data("train")[list(range(200))]
    for weight in (0.0, 1.0):
        learner = _LorpmanLearner(task(), method(steps=60, orthogonality=weight, overlap=kind))
        for _ in descend(learner, batch, 60):
            pass
        found[weight] = float(learner.network.overlap(kind=kind).detach())
    assert found[1.0] < 0.2 * found[0.0]


# ---------------------------------------------------------------------- refused


@pytest.mark.parametrize("conditioning", [FiLM, Ensemble])
def test_other_conditionings_are_refused(conditioning):
    method().check(task())
    with pytest.raises(ConfigError, match="learning/lorpman is for conditioning=low_rank"):
        method().check(task(conditioning))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"orthogonality": -1}, "method.orthogonality=-1"),
        ({"overlap": "cosin"}, "'cosine'"),
        ({"freeze": 0}, "method.freeze=0 must be above 0 and at most 1"),
        ({"freeze": 1.5}, "method.freeze=1.5"),
        ({"sampled": 1}, "method.sampled=1"),
        ({"sampled": 2.5}, "method.sampled=2.5"),
    ],
)
def test_settings_are_refused_by_name(options, message):
    with pytest.raises(ConfigError, match=message):
        method(**options)


def test_the_record_names_every_switch():
    assert method(overlap="plain", freeze=0.5).switches() == {
        "ordering": 0.0,
        "ordering_sign": "corrected",
        "orthogonality": 0.0,
        "overlap": "plain",
        "freeze": 0.5,
        "sampled": 3,
    }
