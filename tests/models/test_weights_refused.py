"""Networks whose weights cannot depend on a preference, all or some of them."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from frontrunner.errors import ConfigError
from frontrunner.models.weights import Ensemble, HyperNetwork, LowRankUpdates


class Own(nn.Module):
    """A user's network."""

    def __init__(self, input_shape, output_sizes):
        super().__init__()
        self.conv = nn.Conv2d(input_shape[0], 4, 3)
        self.grouped = nn.Conv2d(4, 4, 3, groups=2)
        self.first = nn.Linear(16, 6)
        self.out = nn.Linear(6, output_sizes[0])

    def forward(self, x):
        x = torch.relu(self.grouped(torch.relu(self.conv(x))))
        return self.out(torch.relu(self.first(x.flatten(1))))


def own(**shapes):
    return Own(**shapes)


def frozen_body(**shapes):
    network = Own(**shapes)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith("out"))
    return network


SHAPES = {"input_shape": (1, 6, 6), "output_sizes": (3,)}
X = torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(1))
PREFERENCE = torch.tensor([0.2, 0.5, 0.3])


def made(kind, factory=own, **options):
    torch.manual_seed(0)
    network = kind(factory, **SHAPES, m=3, **options)
    if isinstance(network, LowRankUpdates):
        with torch.no_grad():
            for b in network.b:
                b.normal_()
    return network


@pytest.mark.parametrize("kind", [Ensemble, LowRankUpdates, HyperNetwork])
def test_frozen_weights_of_the_network_stay_as_they_are(kind):
    network = made(kind, frozen_body)
    torch.manual_seed(0)
    plain = dict(frozen_body(**SHAPES).named_parameters())
    learned = {"out.weight", "out.bias"}
    found = network.folded(PREFERENCE)
    for name, parameter in found.named_parameters():
        assert parameter.requires_grad == (name in learned)
        if kind is not LowRankUpdates and name not in learned:
            assert torch.equal(parameter, plain[name])
    if kind is LowRankUpdates:  # their updates learn
        assert sum(p.numel() for p in network.base) == sum(plain[name].numel() for name in learned)
        assert not torch.equal(found.first.weight, plain["first.weight"])


@pytest.mark.parametrize("kind", [Ensemble, HyperNetwork])
def test_a_network_with_nothing_to_condition_is_refused(kind):
    def frozen(**shapes):
        return Own(**shapes).requires_grad_(False)

    with pytest.raises(ConfigError, match=r"every weight.*frozen.*conditioning=low_rank"):
        made(kind, frozen)
    # Low-rank updates make a frozen network depend on the preference all the same.
    network = made(LowRankUpdates, frozen)
    assert len(network.base) == 0
    assert not torch.equal(network.eval()(X, torch.eye(3)[0]), network(X, torch.eye(3)[1]))


class Plain(nn.Module):
    """No linear and no convolution layer."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))


def parametrized(**shapes):
    network = Own(**shapes)
    parametrizations.weight_norm(network.first)
    return network


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factory": lambda: Plain()}, "conditioning.layers: the network has no linear or conv"),
        ({"layers": ["conv", "cnov*"]}, "conditioning.layers: no .* called 'cnov*'; there are"),
        ({"layers": ["grouped"]}, "called 'grouped'"),
        ({"layers": []}, "conditioning.layers is empty"),
        ({"factory": parametrized}, "the weight of 'first' is no parameter of its own"),
        ({"rank": 0}, "conditioning.rank=0"),
        ({"rank": 1.5}, "conditioning.rank=1.5"),
        ({"scale": 0}, "conditioning.scale=0"),
        ({"scale": "one"}, "conditioning.scale=one"),
    ],
)  # fmt: skip
def test_low_rank_updates_refuse_by_name(options, message):
    with pytest.raises(ConfigError, match=message.replace("*'", r"\*'")):
        made(LowRankUpdates, **options)


def test_a_parametrized_layer_is_no_obstacle_to_others():
    network = made(LowRankUpdates, parametrized, layers=["conv", "out"]).eval()
    torch.testing.assert_close(network.folded(PREFERENCE)(X), network(X, PREFERENCE))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": "new"}, "conditioning.start=new is not one of published, network"),
        ({"hidden": 0}, "conditioning.hidden=0"),
        ({"depth": 1.5}, "conditioning.depth=1.5"),
    ],
)
def test_a_hypernetwork_refuses_by_name(options, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        made(HyperNetwork, **options)
