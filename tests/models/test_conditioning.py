"""Conditioning: any network, the right channels, and the same numbers however it is called."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from frontrunner.errors import ConfigError
from frontrunner.models.conditioning import FiLM, InputConditioning
from frontrunner.models.networks import MLP, LeNet


class Own(nn.Module):
    """A user's network: named layers, no knowledge of preferences."""

    def __init__(self, input_shape, output_sizes):
        super().__init__()
        self.conv = nn.Conv2d(input_shape[0], 6, 3, padding=1)
        self.row = nn.Conv1d(6, 6, 1)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(6 * 6, 6), nn.ReLU())
        self.out = nn.Linear(6, output_sizes[0])
        self.flat = nn.Flatten()

    def forward(self, x):
        x = torch.relu(self.conv(x))  # (B, 6, 6, 6): every dimension but the first has 6
        x = torch.relu(self.row(x.mean(-1)))  # (B, 6, 6)
        return self.out(self.body(x))


def own_factory(**shapes):
    return Own(**shapes)


SHAPES = {"input_shape": (1, 6, 6), "output_sizes": (3,)}
NAMES = ["conv", "row", "body.1"]


def film(layers=NAMES, m=2, **options):
    torch.manual_seed(0)
    return FiLM(own_factory, **SHAPES, m=m, hidden=8, layers=layers, **options)


def images(n=5):
    return torch.randn(n, 1, 6, 6, generator=torch.Generator().manual_seed(1))


PREFERENCE = torch.tensor([0.3, 0.7])


@pytest.mark.parametrize(
    ("name", "shape"), [("conv", (1, 6, 1, 1)), ("row", (1, 6, 1)), ("body.1", (1, 6))]
)
def test_film_scales_and_shifts_the_channels_of_a_layer_where_all_sizes_coincide(name, shape):
    conditioned = film([name])
    seen = {}
    layer = conditioned.network.get_submodule(name)
    layer.inner.register_forward_hook(lambda module, x, out: seen.update(inner=out.clone()))
    layer.register_forward_hook(lambda module, x, out: seen.update(modulated=out.clone()))
    conditioned(images(), PREFERENCE)
    scale, shift = conditioned.generator(PREFERENCE).chunk(2)
    assert len(scale) == 6
    expected = seen["inner"] * scale.reshape(shape) + shift.reshape(shape)
    torch.testing.assert_close(seen["modulated"], expected)


def test_modulation_by_one_and_zero_is_the_network_itself():
    torch.manual_seed(0)
    plain = Own(**SHAPES)
    conditioned = film()
    last = conditioned.generator[2]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.cat([torch.ones(18), torch.zeros(18)]))
    torch.testing.assert_close(conditioned(images(), PREFERENCE), plain(images()))


def test_residual_modulation_starts_from_the_network_where_the_generator_gives_zero():
    torch.manual_seed(0)
    plain = Own(**SHAPES)
    conditioned = film(residual=True)
    nn.init.zeros_(conditioned.generator[2].weight)
    nn.init.zeros_(conditioned.generator[2].bias)
    torch.testing.assert_close(conditioned(images(), PREFERENCE), plain(images()))


def test_residual_adds_one_to_the_scale():
    plain, residual = film(), film(residual=True)
    with torch.no_grad():
        plain.generator[2].bias[:18] += 1.0
    torch.testing.assert_close(
        residual(images(), PREFERENCE), plain(images(), PREFERENCE), rtol=1e-5, atol=1e-6
    )


def test_outputs_depend_on_the_preference():
    conditioned = film()
    other = torch.tensor([0.7, 0.3])
    assert not torch.allclose(conditioned(images(), PREFERENCE), conditioned(images(), other))


def test_an_unknown_layer_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match="no layer 'convv'; did you mean 'conv'"):
        film(["convv"])


def test_a_layer_without_channels_is_refused():
    with pytest.raises(ConfigError, match="'flat' has no output channels"):
        film(["flat"])


def test_a_layer_named_twice_is_refused():
    with pytest.raises(ConfigError, match="twice"):
        film(["conv", "conv"])


def test_a_network_that_names_no_layers_asks_for_them_and_lists_what_there_is():
    with pytest.raises(ConfigError, match=r"model\.conditioning\.layers.*'body\.1'"):
        film(None)


@pytest.mark.parametrize("order", [["body", "body.1"], ["body.1", "body"]])
def test_a_block_and_a_layer_inside_it_can_both_be_modulated(order):
    conditioned = film(order)
    scale, shift = conditioned.generator(PREFERENCE).chunk(2)
    parts = dict(zip(order, zip(scale.split(6), shift.split(6), strict=True), strict=True))
    network = conditioned.network
    block = network.body.inner
    x = torch.relu(network.row(torch.relu(network.conv(images())).mean(-1)))
    inner, outer = parts["body.1"], parts["body"]
    y = torch.relu(block[1].inner(x.flatten(1)) * inner[0] + inner[1]) * outer[0] + outer[1]
    torch.testing.assert_close(conditioned(images(), PREFERENCE), network.out(y))


def test_film_takes_the_layers_that_a_network_names_itself():
    assert FiLM(LeNet, (1, 16, 16), (10,), m=3).channels == [10, 20]
    network = FiLM(lambda **s: MLP(**s, hidden=[5, 7]), (4,), (2,), m=2)
    assert network.channels == [5, 7]


def test_vectorised_over_preferences_equals_a_loop_and_so_do_the_gradients():
    conditioned = film(m=3)
    preferences = torch.rand(4, 3, generator=torch.Generator().manual_seed(2))

    def gradients(outputs):
        conditioned.zero_grad()
        outputs.square().sum().backward()
        return [p.grad.clone() for p in conditioned.parameters()]

    x = images()
    together = torch.vmap(lambda p: conditioned(x, p))(preferences)
    one_by_one = torch.stack([conditioned(x, p) for p in preferences])
    torch.testing.assert_close(together, one_by_one, rtol=1e-5, atol=1e-6)
    for a, b in zip(gradients(together), gradients(one_by_one), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_deep_copy_is_independent_and_equal():
    conditioned = film()
    expected = conditioned(images(), PREFERENCE)
    twin = copy.deepcopy(conditioned)
    with torch.no_grad():
        for p in conditioned.parameters():
            p.zero_()
    torch.testing.assert_close(twin(images(), PREFERENCE), expected)
    assert not torch.allclose(conditioned(images(), PREFERENCE), expected)


def test_the_state_dict_carries_everything():
    conditioned = film()
    torch.manual_seed(9)
    other = FiLM(own_factory, **SHAPES, m=2, hidden=8, layers=NAMES)
    assert not torch.allclose(other(images(), PREFERENCE), conditioned(images(), PREFERENCE))
    other.load_state_dict(conditioned.state_dict())
    assert torch.equal(other(images(), PREFERENCE), conditioned(images(), PREFERENCE))


def test_an_error_in_the_network_leaves_no_modulation_behind():
    conditioned = film()
    with pytest.raises(RuntimeError):
        conditioned(torch.zeros(2, 9, 6, 6), PREFERENCE)
    assert all(layer.modulation is None for layer in conditioned._modulated)


def test_input_conditioning_appends_the_preference_to_every_row():
    network = InputConditioning(lambda **s: MLP(**s, hidden=[5]), (3,), (2,), m=2)
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(3))
    joined = torch.cat([x, PREFERENCE.repeat(4, 1)], dim=1)
    torch.testing.assert_close(network(x, PREFERENCE), network.network(joined))


def test_input_conditioning_without_inputs_sees_the_preference_alone():
    network = InputConditioning(lambda **s: MLP(**s, hidden=[5]), (0,), (2,), m=2)
    (out,) = network(torch.zeros(1, 0), PREFERENCE)
    torch.testing.assert_close(out, network.network(PREFERENCE[None])[0])
    together = torch.vmap(lambda p: network(torch.zeros(1, 0), p)[0])(torch.eye(2))
    torch.testing.assert_close(together[1], network(torch.zeros(1, 0), torch.eye(2)[1])[0])


def test_input_conditioning_refuses_images():
    with pytest.raises(ConfigError, match="use film"):
        InputConditioning(own_factory, (1, 6, 6), (3,), m=2)
