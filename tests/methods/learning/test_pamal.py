"""PaMaL: the loss of a window, the order it asks for, and runs from two and three objectives."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import frontrunner
from frontrunner.cli import main
from frontrunner.errors import ConfigError, FrontError
from frontrunner.methods.learning.pamal import PaMaL, PaMaLLearner, ordering_penalty
from frontrunner.methods.learning.training import Training
from frontrunner.models.networks import MLP
from frontrunner.models.weights import Ensemble
from frontrunner.tasks.base import Model
from frontrunner.tasks.multi_digits import MultiDigits


def network(**shapes):
    return MLP(**shapes, hidden=[6])


def task(conditioning=Ensemble):
    return MultiDigits(sizes=(60, 20, 20), model=Model(network, conditioning))


def method(window=3, points=5, **options):
    training = Training(steps=20, batch_size=16, rounds=2, vectors_per_step=window)
    return PaMaL(training, points, seed=4, **options)


# ---------------------------------------------------------------------- the penalty

# Weights of one objective that fall from row to row, so that its loss should rise.
FALLING = torch.tensor([[0.9], [0.5], [0.1]])
RIGHT = torch.tensor([[0.1], [0.3], [0.8]])


@pytest.mark.parametrize(
    ("losses", "published", "expected"),
    [
        # Differences 0.2 and 0.5: log((e^0.2 + e^0.5) / 2) = 0.361.
        (RIGHT, True, 0.361),
        (RIGHT.flip(0), True, 0.0),
        (RIGHT, False, 0.0),
        (RIGHT.flip(0), False, 0.361),
    ],
)
def test_the_corrected_sign_penalises_the_wrong_order_and_the_published_the_right_one(
    losses, published, expected
):
    found = float(ordering_penalty(losses, FALLING, published=published))
    assert found == pytest.approx(expected, abs=5e-4)
    if expected:
        assert found == pytest.approx(math.log((math.exp(0.2) + math.exp(0.5)) / 2))


def test_the_order_of_a_window_makes_no_difference():
    stream = torch.Generator().manual_seed(0)
    f, r = torch.rand(5, 3, generator=stream), torch.rand(5, 3, generator=stream)
    shuffled = torch.randperm(5, generator=stream)
    expected = ordering_penalty(f, r, 2.0)
    assert expected > 0
    torch.testing.assert_close(ordering_penalty(f[shuffled], r[shuffled], 2.0), expected)


def test_objectives_add_up_and_temperature_multiplies_the_differences():
    f = torch.cat([RIGHT.flip(0), RIGHT], dim=1)
    r = torch.cat([FALLING, FALLING.flip(0)], dim=1)
    expected = 2 * math.log((math.exp(0.4) + math.exp(1.0)) / 2)
    assert float(ordering_penalty(f, r, temperature=2.0)) == pytest.approx(expected)


@pytest.mark.parametrize("published", [False, True])
def test_equal_weights_order_no_losses(published):
    r = torch.tensor([[0.5], [0.5], [0.5]])
    assert float(ordering_penalty(RIGHT, r, published=published)) == 0.0
    assert float(ordering_penalty(RIGHT.flip(0), r, published=published)) == 0.0


def test_descending_the_penalty_puts_losses_in_order():
    f = RIGHT.flip(0).clone().requires_grad_()
    ordering_penalty(f, FALLING).backward()
    # The loss at the largest weight falls, that at the smallest rises.
    assert f.grad[0] > 0 > f.grad[2]


# ---------------------------------------------------------------------- the loss


def learner(**options):
    return PaMaLLearner(task(), method(**options))


def test_the_loss_is_the_mean_of_weighted_objectives_over_the_window():
    f, r = torch.rand(3, 2), torch.rand(3, 2)
    loss, log = learner().loss(f, r, 0)
    torch.testing.assert_close(loss, (f * r).sum() / 3)
    assert log == {}


@pytest.mark.parametrize(("weight", "kept"), [(0.5, True), (1.0, False)])
def test_the_penalty_counts_while_it_is_smaller_than_the_loss(weight, kept):
    f = torch.tensor([[0.8, 0.1], [0.3, 0.3], [0.1, 0.8]], requires_grad=True)
    r = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.1, 0.9]])
    # Both objectives are in the wrong order: 2 · 0.361 against a loss of 1.76 / 3 = 0.587.
    loss, log = learner(ordering=weight).loss(f, r, 0)
    penalty = weight * ordering_penalty(f, r)
    torch.testing.assert_close(log["train/ordering"], penalty.detach())
    linear = (f * r).sum() / 3
    torch.testing.assert_close(loss, linear + penalty if kept else linear)
    (gradient,) = torch.autograd.grad(loss, f)
    assert torch.allclose(gradient, r / 3) != kept


def test_the_published_sign_is_a_switch_that_the_record_names():
    f, r = RIGHT.expand(3, 2), FALLING.expand(3, 2)
    assert float(learner(ordering=1.0).loss(f, r, 0)[1]["train/ordering"]) == 0.0
    published = learner(ordering=1.0, ordering_sign="published").loss(f, r, 0)
    assert float(published[1]["train/ordering"]) == pytest.approx(2 * 0.361, abs=1e-3)
    assert method(ordering_sign="published").switches()["ordering_sign"] == "published"


# ---------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ordering": -1.0}, "method.ordering=-1"),
        ({"temperature": 0.0}, "method.temperature=0"),
        ({"ordering_sign": "right"}, "method.ordering_sign=right"),
    ],
)
def test_settings_are_refused_by_name(options, message):
    with pytest.raises(ConfigError, match=message):
        method(**options)


def test_check_refuses_a_window_of_one_only_where_it_is_to_be_ordered():
    method(window=1).check(task())
    method(window=2, ordering=1.0).check(task())
    with pytest.raises(ConfigError, match=r"set training\.vectors_per_step"):
        method(window=1, ordering=1.0).check(task())
    with pytest.raises(ConfigError, match="conditioning"):
        method().check(task(conditioning=None))
    with pytest.raises(FrontError, match="no simplex lattice"):
        method(points=1).check(task())


# ---------------------------------------------------------------------- runs

WEIGHTS = {
    "pamal": ["method=learning/pamal", "training.vectors_per_step=2", "method.ordering=1"],
    "lorpman": ["method=learning/lorpman", "method.orthogonality=0.1", "conditioning.rank=2"],
    "psl": ["method=learning/psl", "conditioning=hypernetwork", "conditioning.hidden=8"],
    "cosmos": ["method=learning/cosmos", "conditioning=ensemble"],
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_an_exported_model_is_a_checkpoint_of_the_plain_network(name, work, tiny, capsys):
    run = frontrunner.run([*WEIGHTS[name], *tiny])
    assert run.front.values.shape == (3, 2)
    again = frontrunner.load(run.directory)
    words = ["export", str(run.directory), "--preference", "0.3,0.7", "--out", "model"]
    assert main(words) == 0
    plain = run.task.network()
    plain.load_state_dict(load_file("model/model.safetensors"))
    x = run.task.data("test")[list(range(9))][0]
    found = torch.cat(plain.eval()(x), dim=1)
    stored = again.pareto_set
    assert type(stored.materialize([0.3, 0.7])) is type(plain)
    torch.testing.assert_close(torch.cat(stored.materialize([0.3, 0.7])(x), dim=1), found)
    conditioned = stored.network.eval()(x, torch.tensor([0.3, 0.7]))
    torch.testing.assert_close(torch.cat(conditioned, dim=1), found)
    described = json.loads((work / "model" / "model.json").read_text())
    assert described["parameters"] == sum(p.numel() for p in plain.parameters())
    # The front's points are those of the stored set.
    for preference, value in zip(run.front.preferences, run.front.values, strict=True):
        measured = run.task.measure(stored.materialize(preference), "test")
        np.testing.assert_allclose(measured, value, rtol=1e-5)


def test_images_and_flat_inputs_are_refused_where_the_conditioning_takes_the_other(work, tiny):
    words = ["method=learning/cosmos", "logger=none"]
    with pytest.raises(ConfigError, match="conditioning=channels takes images"):
        frontrunner.run([*words, "task=synthetic", "conditioning=channels", "points=3"])
    with pytest.raises(ConfigError, match="conditioning=input takes flat inputs"):
        frontrunner.run([*words, *tiny, "conditioning=input"])
    assert list(work.iterdir()) == []


@pytest.mark.parametrize("method", ["pamal", "psl", "lorpman"])
def test_three_objectives_end_on_the_octant_of_dtlz2(method, work):
    words = [f"method=learning/{method}", "task=synthetic", "task.problem=dtlz2", "task.m=3"]
    small = ["training.steps=200", "training.rounds=2", "training.vectors_per_step=6", "points=6"]
    run = frontrunner.run([*words, *small, "logger=none", "runner.progress=none"])
    assert run.front.values.shape == (6, 3)
    # DTLZ2's front is the unit sphere.
    assert np.median(np.abs(np.linalg.norm(run.front.values, axis=1) - 1)) < 0.05


def test_batch_normalisation_trains_with_several_preferences_a_step(work, tiny):
    words = ["method=learning/pamal", "model=small_resnet", "training.vectors_per_step=3"]
    words += [*tiny, "training.steps=4", "model.network.widths=[4]", "model.network.blocks=[1]"]
    run = frontrunner.run(words)
    assert np.isfinite(run.front.values).all()
    model = run.pareto_set.materialize([0.5, 0.5])
    counted = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert int(counted[0].num_batches_tracked) in (2 * 3, 4 * 3)
