"""One network for all preferences: what is drawn, and its objectives however they are computed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from frontrunner.methods.learning.preferences import PreferenceLearner
from frontrunner.methods.learning.training import Training, objectives_at, outputs_at
from frontrunner.models.conditioning import FiLM
from frontrunner.models.networks import MLP, ResNet
from frontrunner.models.weights import Ensemble, LowRankUpdates
from frontrunner.tasks.base import Model
from frontrunner.tasks.multi_digits import MultiDigits
from frontrunner.tasks.synthetic import Synthetic


class Summed(PreferenceLearner):
    def loss(self, f, r, step):
        return (f * r).sum(), {"train/step": step}


def mlp(**shapes):
    return MLP(**shapes, hidden=[6])


def resnet(**shapes):
    return ResNet(**shapes, widths=[4, 4], blocks=[1, 1])


class Branching(nn.Module):
    """Its code looks at its data."""

    def __init__(self, input_shape, output_sizes):
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(96, size) for size in output_sizes)
        self.film_layers = ["heads.0"]

    def forward(self, x):
        out = [head(x.flatten(1)) for head in self.heads]
        return tuple(o if o.sum() > 0 else 2 * o for o in out)


def digits(network=mlp, conditioning=FiLM):
    return MultiDigits(sizes=(60, 20, 20), model=Model(network, conditioning))


def learner(task, k=3, seed=4, concentration=1.2):
    training = Training(steps=4, batch_size=8, vectors_per_step=k, concentration=concentration)
    return Summed(task, training, np.eye(task.m), seed)


RAYS = torch.tensor([[0.2, 0.8], [0.5, 0.5], [1.0, 0.0], [0.7, 0.3]])


def one_by_one(task, network, batch):
    return torch.stack([task.losses(network(batch[0], r), batch) for r in RAYS])


# ---------------------------------------------------------------------- draws


def test_draws_of_one_step_are_those_of_a_dirichlet_distribution():
    drawn = learner(digits(), k=4000, concentration=[2.0, 6.0]).drawn(0).double().numpy()
    assert drawn.shape == (4000, 2)
    np.testing.assert_allclose(drawn.sum(axis=1), 1.0, atol=1e-6)
    # Mean 2 / 8 and variance 2 · 6 / (8² · 9) of the first entry of Dirichlet(2, 6).
    assert drawn[:, 0].mean() == pytest.approx(0.25, abs=0.01)
    assert drawn[:, 0].var() == pytest.approx(12 / 576, rel=0.1)


def test_draws_depend_on_seed_and_step_alone():
    first = learner(digits())
    first.drawn(3), first.drawn(1)
    torch.manual_seed(123)
    second = learner(digits())
    assert torch.equal(first.drawn(17), second.drawn(17))
    assert not torch.equal(first.drawn(17), first.drawn(18))
    assert not torch.equal(first.drawn(17), learner(digits(), seed=5).drawn(17))


def test_draws_among_some_objectives_lie_on_their_face_however_small_the_concentration():
    task = Synthetic("dtlz2", m=5, model=Model(mlp, FiLM))
    tiny = learner(task, k=500, concentration=[0.01, 0.01, 3.0, 1.0, 1.0])
    drawn = tiny.drawn(0, among=[0, 1])
    assert not drawn[:, 2:].any()
    np.testing.assert_allclose(drawn.sum(1), 1.0, atol=1e-6)
    assert float(drawn[:, 0].mean()) == pytest.approx(0.5, abs=0.1)
    skewed = learner(task, k=4000, concentration=[2.0, 9.0, 6.0, 1.0, 1.0]).drawn(0, among=[0, 2])
    assert float(skewed[:, 0].mean()) == pytest.approx(0.25, abs=0.01)


def test_an_update_counts_a_pass_for_each_preference_and_hands_the_step_on():
    task = digits()
    made = learner(task, k=3)
    batch = task.data("train")[list(range(8))]
    update = made.update(batch, 6)
    r = made.drawn(6)
    f = torch.stack([task.losses(made.network(batch[0], row), batch) for row in r])
    torch.testing.assert_close(update.loss, (f * r).sum())
    assert (update.passes, update.log) == (3, {"train/step": 6})


# ---------------------------------------------------------------------- objectives


@pytest.mark.parametrize("network", [mlp, resnet, Branching])
@pytest.mark.parametrize("conditioning", [FiLM, Ensemble, LowRankUpdates])
def test_objectives_are_those_of_one_preference_after_another(network, conditioning):
    task = digits(network, conditioning)
    torch.manual_seed(0)
    together, alone = task.conditioned_network(), task.conditioned_network()
    alone.load_state_dict(together.state_dict())
    batch = task.data("train")[list(range(20))]
    for _ in range(2):  # what a first attempt finds out, a second one keeps to
        f, expected = objectives_at(task, together, RAYS, batch), one_by_one(task, alone, batch)
        torch.testing.assert_close(f, expected, rtol=1e-4, atol=1e-5)
    f.square().sum().backward()
    expected.square().sum().backward()
    for a, b in zip(together.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-4)
    for a, b in zip(together.buffers(), alone.buffers(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_network_that_can_be_vectorised_is_called_once_for_all_preferences():
    calls = []
    for network, expected in ((mlp, 1), (resnet, 1 + len(RAYS))):
        task = digits(network)
        made = task.conditioned_network()
        made.register_forward_pre_hook(lambda *_: calls.append(1))
        batch = task.data("train")[list(range(8))]
        calls.clear()
        objectives_at(task, made, RAYS, batch)
        assert len(calls) == expected
    calls.clear()
    objectives_at(task, made, RAYS, batch)
    assert len(calls) == len(RAYS)


def test_a_refused_attempt_leaves_no_trace_in_buffers():
    task = digits(resnet)
    network = task.conditioned_network()
    batch = task.data("train")[list(range(8))]
    objectives_at(task, network, RAYS, batch)
    counts = [int(b) for n, b in network.named_buffers() if n.endswith("num_batches_tracked")]
    assert counts == [len(RAYS)] * len(counts)


def test_dropout_differs_between_preferences_and_needs_no_loop():
    calls = []

    class Dropping(nn.Module):
        def forward(self, inputs, preference):
            calls.append(1)
            return nn.functional.dropout(inputs, 0.5)

    out = outputs_at(Dropping(), RAYS, torch.ones(30, 4))
    assert out.shape == (4, 30, 4)
    assert not torch.equal(out[0], out[1])
    assert len(calls) == 1


def test_an_error_of_the_network_itself_is_raised():
    task = digits()
    network = task.conditioned_network()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        outputs_at(network, RAYS, torch.zeros(3, 7))


@pytest.mark.parametrize("network", [mlp, Branching])
def test_noise_is_added_to_outputs_whether_vectorised_or_not(network):
    task = digits(network)
    made = task.conditioned_network()
    batch = task.data("train")[list(range(8))]

    def noisy(scale):
        return objectives_at(
            task, made, RAYS, batch, noise=(scale, torch.Generator().manual_seed(1))
        )

    torch.testing.assert_close(noisy(0.0), objectives_at(task, made, RAYS, batch))
    assert torch.equal(noisy(0.5), noisy(0.5))
    assert not torch.allclose(noisy(0.5), noisy(0.0), atol=1e-3)
