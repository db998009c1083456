"""The budget's optimiser: which it is, with which settings, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam

from frontrunner.errors import ConfigError
from frontrunner.methods.learning.training import Training, trainable
from frontrunner.models.conditioning import InputConditioning
from frontrunner.models.networks import MLP
from frontrunner.tasks.base import Model
from frontrunner.tasks.synthetic import Synthetic


def training(**settings) -> Training:
    return Training(**({"steps": 1, "batch_size": 1, "learning_rate": 0.1} | settings))


def walked(optimizer: torch.optim.Optimizer, weight: nn.Parameter, steps: int = 5) -> torch.Tensor:
    """The weight after some steps down w⁴/4."""
    for _ in range(steps):
        optimizer.zero_grad()
        (weight**4 / 4).sum().backward()
        optimizer.step()
    return weight.detach().clone()


def start() -> nn.Parameter:
    return nn.Parameter(torch.tensor([1.0, -0.5, 2.0]))


def test_adam_is_the_default_and_takes_the_weight_decay():
    weight, other = start(), start()
    (group,) = training().optimize([weight]).param_groups
    assert (group["lr"], group["weight_decay"]) == (0.1, 0.0)
    found = walked(training(weight_decay=0.3).optimize([weight]), weight)
    expected = walked(Adam([other], lr=0.1, weight_decay=0.3), other)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("momentum", "decay"), [(0.9, 5e-4), (0.5, 0.0), (0.0, 0.1)])
def test_sgd_is_nesterovs_with_momentum_and_decay(momentum, decay):
    """v <- m v + g, w <- w - r (g + m v), g with the decay's share of w; written out."""
    weight = start()
    made = training(optimizer="sgd", momentum=momentum, weight_decay=decay, learning_rate=0.05)
    found = walked(made.optimize([weight]), weight)
    w, v = start().detach(), torch.zeros(3)
    for _ in range(5):
        g = w**3 + decay * w
        v = momentum * v + g
        w = w - 0.05 * (g + momentum * v)
    torch.testing.assert_close(found, w)
    assert isinstance(made.optimize([weight]), SGD)


def test_the_schedule_ends_where_it_should():
    assert training(schedule="cosine").rate_schedule()(0.0) == 1.0
    assert training(schedule="cosine").rate_schedule()(1.0) == pytest.approx(0, abs=1e-9)
    falls = training(schedule="milestones", milestones=[0.5, 0.75]).rate_schedule()
    assert [falls(p) for p in (0.2, 0.6, 0.9)] == pytest.approx([1.0, 0.1, 0.01])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "sdg"}, r"training\.optimizer=sdg is unknown; did you mean 'sgd'"),
        ({"momentum": 1.0}, r"training\.momentum=1\.0 must be at least 0 and below 1"),
        ({"momentum": -0.1}, r"training\.momentum=-0\.1"),
        ({"momentum": "high"}, r"training\.momentum=high"),
        ({"weight_decay": -1e-4}, r"training\.weight_decay=-0\.0001 must be at least 0"),
        ({"learning_rate": 0}, r"training\.learning_rate=0 must be more than 0"),
        ({"steps": 0}, r"training\.steps=0 must be a whole number of at least 1"),
        ({"schedule": "cosin"}, "cosin"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        training(**settings)


@pytest.mark.parametrize("conditioned", [False, True])
def test_a_network_of_which_nothing_learns_is_refused(conditioned):
    def frozen(**shapes):
        return MLP(**shapes, hidden=[4]).requires_grad_(False)

    # Preferences that join the inputs bring no weights of their own.
    task = Synthetic("vlmop2", model=Model(frozen, InputConditioning))
    with pytest.raises(ConfigError, match=r"every weight of its network is frozen"):
        trainable(task, conditioned=conditioned)
