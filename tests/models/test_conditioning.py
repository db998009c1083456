"""Conditioning: any network, the right channels, and the same numbers however it is called."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from frontrunner import config as configuration
from frontrunner import run as runs
from frontrunner.cli import main
from frontrunner.errors import ConfigError
from frontrunner.models.conditioning import ChannelConditioning, FiLM, InputConditioning
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
    with pytest.raises(ConfigError, match=r"modulate in conditioning\.layers.*'body\.1'"):
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
    with pytest.raises(ConfigError, match="use conditioning=film"):
        InputConditioning(own_factory, (1, 6, 6), (3,), m=2)


# ---------------------------------------------------------------------- channels of an image


def channels(factory=own_factory, m=3, shapes=SHAPES):
    torch.manual_seed(0)
    return ChannelConditioning(factory, **shapes, m=m)


def test_channel_conditioning_of_the_benchmarks_lenet_has_43058_weights():
    # The number in the comparison of Chen & Kwok (NeurIPS 2022).
    network = ChannelConditioning(LeNet, (1, 36, 36), (10, 10), m=2)
    grown = 2 * 2 * (4 * 4 + 6 * 6)
    assert sum(p.numel() for p in network.parameters()) == 43_058
    assert 42_350 + 2 * 10 * 5 * 5 + grown == 43_058


def test_the_preference_joins_the_image_as_m_channels_scaled_to_its_size():
    network = channels()
    first, _, second, _ = network.grow
    preference = torch.tensor([0.2, 0.5, 0.3])
    # A transposed convolution of one pixel is the sum of its kernels, weighted by the pixel.
    small = torch.relu(torch.einsum("i,ichw->chw", preference, first.weight))
    large = torch.relu(second(small[None]))[0]
    assert large.shape == (3, 10, 10)
    nearest = [int(i * 10 / 6) for i in range(6)]
    joined = torch.cat([images(), large[:, nearest][:, :, nearest].expand(5, -1, -1, -1)], dim=1)
    torch.testing.assert_close(network(images(), preference), network.network(joined))


def test_channel_conditioning_is_vectorised_over_preferences():
    network, x = channels(m=2), images()
    preferences = torch.tensor([[0.1, 0.9], [0.5, 0.5], [1.0, 0.0]])
    together = torch.vmap(lambda p: network(x, p))(preferences)
    each = torch.stack([network(x, p) for p in preferences])
    assert not torch.allclose(each[0], each[2])
    torch.testing.assert_close(together, each, rtol=1e-5, atol=1e-6)


def test_channel_conditioning_refuses_flat_inputs():
    with pytest.raises(ConfigError, match=r"not inputs of shape \(4,\); use conditioning=input"):
        channels(shapes={"input_shape": (4,), "output_sizes": (3,)})


# ---------------------------------------------------------------------- configurations

OPTIONS = sorted(p.stem for p in (configuration.conf_dir() / "conditioning").glob("*.yaml"))
COSMOS = ["method=learning/cosmos", "logger=none"]
# Models, and a task whose inputs they take.
MODELS = {
    "lenet": ["task=multi_digits", "task.shift=8", "model.network.kernel=[3,1]"],
    "mlp": ["task=multi_digits"],
    "narrow_mlp": ["task=multi_digits"],
    "pareto_mlp": ["task=synthetic"],
    "small_conv": ["task=multi_digits"],
    "small_resnet": ["task=multi_digits"],
}
CHOSEN = {
    "channels": ChannelConditioning,
    "film": FiLM,
    "film_residual": FiLM,
    "input": InputConditioning,
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("option", OPTIONS)
def test_every_conditioning_goes_with_every_model(option, model, work):
    words = [*COSMOS, *MODELS[model], f"model={model}", f"conditioning={option}"]
    config = configuration.compose(words)
    assert config.model.conditioning == config.conditioning
    task = runs.build_task(config)
    flat = len(task.input_shape) == 1
    if (option == "channels" and flat) or (option == "input" and not flat):
        with pytest.raises(ConfigError, match=f"conditioning={option} takes"):
            runs.check(config)
        return
    runs.check(config)
    network = task.conditioned_network()
    kind = CHOSEN.get(option)
    assert kind is None or type(network) is kind
    outputs = [
        network(torch.zeros(2, *task.input_shape), preference)[0] for preference in torch.eye(2)
    ]
    assert outputs[0].shape == (2, task.output_sizes[0])


def conditioning(*words):
    return configuration.compose(list(words)).model.conditioning["_target_"].rpartition(".")[2]


def test_the_command_line_chooses_before_the_method_and_the_method_before_the_model(work):
    digits = ["task=multi_digits", "model=narrow_mlp"]
    assert conditioning(*COSMOS, "task=synthetic") == "InputConditioning"
    plain = configuration.compose([*COSMOS, *digits])
    assert plain.conditioning.residual is True
    assert conditioning("method=learning/pamal", *digits) == "Ensemble"
    assert conditioning("method=learning/lorpman", "task=synthetic") == "LowRankUpdates"
    assert conditioning("method=learning/pamal", *digits, "conditioning=film") == "FiLM"
    words = ["task=synthetic", "conditioning=hypernetwork"]
    assert conditioning("method=learning/lorpman", *words) == "HyperNetwork"
    assert conditioning(*COSMOS, *digits, "conditioning=hypernetwork") == "HyperNetwork"


def test_settings_of_a_conditioning_reach_the_model(work):
    config = configuration.compose(["method=learning/lorpman", "conditioning.rank=7"])
    assert config.model.conditioning.rank == 7
    with pytest.raises(ConfigError, match=r"did you mean 'conditioning\.rank'"):
        configuration.compose(["method=learning/lorpman", "conditioning.rnk=7"])


def test_conditionings_are_listed_with_what_they_are(work, capsys):
    main(["list", "conditioning"])
    title, *lines = capsys.readouterr().out.splitlines()
    assert title.strip() == "conditioning"
    named = [line.split() for line in lines if line[1] != " "]
    assert [words[0] for words in named] == OPTIONS
    assert all(len(words) > 4 for words in named)
    assert "low_rank" in OPTIONS
