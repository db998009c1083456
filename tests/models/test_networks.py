"""Networks: published sizes, shapes, and settings that are refused."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import nn

from frontrunner.errors import ConfigError
from frontrunner.models.conditioning import FiLM, build_network
from frontrunner.models.networks import MLP, LeNet, ResNet, SmallConv


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def by_hand(channels, hidden, heads, kernel=5, depth=1, size=36):
    """Weights and biases of the LeNet, layer by layer."""
    total = 0
    for width in channels:
        total += width * depth * kernel**2 + width
        depth, size = width, (size - kernel + 1) // 2
    total += depth * size**2 * hidden + hidden
    return total + sum(hidden * c + c for c in heads)


def test_lenet_has_the_42350_parameters_of_the_literature():
    # Chen & Kwok (NeurIPS 2022) count 42,350 for one network and 43,685 for GMOOAR's, vectors too.
    network = LeNet((1, 36, 36), (10, 10))
    assert parameters(network) == 42_350 == by_hand((10, 20), 50, (10, 10))


def test_lenet_with_kernels_of_9_and_5_has_the_31910_parameters_of_the_literature():
    # Fifteen such networks are the row of EPO and MOO-SVGD in Chen & Kwok (NeurIPS 2022).
    network = LeNet((1, 36, 36), (10, 10), kernel=[9, 5])
    convolutions = (10 * 9**2 + 10) + (20 * 10 * 5**2 + 20)
    # 36 - 9 + 1 = 28, halved 14; 14 - 5 + 1 = 10, halved 5.
    rest = (20 * 5**2 * 50 + 50) + 2 * (50 * 10 + 10)
    assert parameters(network) == 31_910 == convolutions + rest
    assert [o.shape for o in network(torch.zeros(2, 1, 36, 36))] == [(2, 10), (2, 10)]


def test_one_kernel_for_lenet_is_that_kernel_for_every_convolution():
    assert parameters(LeNet((1, 36, 36), (10, 10), kernel=[5, 5])) == 42_350
    assert parameters(LeNet((1, 36, 36), (10,), kernel=3)) == by_hand((10, 20), 50, (10,), 3)


def test_lenet_refuses_a_list_of_kernels_of_another_length():
    with pytest.raises(ConfigError, match=r"2 convolutions, and kernel=\[9\]"):
        LeNet((1, 36, 36), (10, 10), kernel=[9])


def test_lenet_with_film_and_15_angles_has_43685_parameters():
    network = FiLM(LeNet, (1, 36, 36), (10, 10), m=2, hidden=20)
    assert parameters(network) + 15 == 43_685
    generator = (2 * 20 + 20) + (20 * 2 * (10 + 20) + 2 * (10 + 20))
    assert parameters(network) == 42_350 + generator


def test_lenet_returns_one_tensor_per_head_for_any_image_size():
    outputs = LeNet((3, 28, 20), (7, 2, 5), channels=(4, 6), hidden=9)(torch.zeros(11, 3, 28, 20))
    assert [tuple(o.shape) for o in outputs] == [(11, 7), (11, 2), (11, 5)]


@pytest.mark.parametrize("shape", [(36, 36), (1, 36), (4,)])
def test_lenet_refuses_inputs_that_are_not_images(shape):
    with pytest.raises(ConfigError, match="images"):
        LeNet(shape, (10,))


def test_lenet_refuses_images_too_small_for_its_blocks():
    with pytest.raises(ConfigError, match="too small"):
        LeNet((1, 12, 12), (10,))


def test_mlp_is_its_formula():
    network = MLP((2, 3), (4, 1), hidden=[5, 7], activation=["tanh", "none"])
    x = torch.randn(8, 2, 3, generator=torch.Generator().manual_seed(0))
    first, second = network.linears
    h = second(torch.tanh(first(x.reshape(8, 6))))
    for output, layer in zip(network(x), network.heads.layers, strict=True):
        torch.testing.assert_close(output, h @ layer.weight.T + layer.bias)
    assert parameters(network) == (6 * 5 + 5) + (5 * 7 + 7) + (7 * 4 + 4) + (7 * 1 + 1)


def test_inputs_without_columns_give_a_constant_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network = MLP((0,), (3,), hidden=[4])
        (outputs,) = network(torch.zeros(2, 0))
        outputs.sum().backward()
    assert torch.equal(outputs[0], outputs[1])
    assert network.linears[0].bias.abs().max() > 0
    assert network.linears[0].bias.grad.abs().max() > 0


def test_networks_of_one_torch_seed_are_equal_also_without_inputs():
    def weights(seed):
        torch.manual_seed(seed)
        return nn.utils.parameters_to_vector(MLP((0,), (3,), hidden=[4, 4]).parameters())

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


def test_head_scale_shrinks_the_initial_outputs_and_clears_their_biases():
    torch.manual_seed(0)
    plain = MLP((3,), (2,), hidden=[6])
    torch.manual_seed(0)
    scaled = MLP((3,), (2,), hidden=[6], head_scale=0.01)
    before, after = plain.heads.layers[0], scaled.heads.layers[0]
    torch.testing.assert_close(after.weight, 0.01 * before.weight)
    assert (after.bias == 0).all()
    torch.testing.assert_close(scaled.linears[0].weight, plain.linears[0].weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": []}, "at least one hidden layer"),
        ({"hidden": [4, 0]}, "at least one"),
        ({"hidden": [4], "activation": "swish"}, "valid: relu"),
        ({"hidden": [4, 4], "activation": ["relu"]}, "1 activations for 2"),
    ],
)
def test_mlp_refuses_settings_with_what_to_change(options, message):
    with pytest.raises(ConfigError, match=message):
        MLP((3,), (2,), **options)


def test_a_factory_is_given_only_the_shapes_it_takes():
    assert build_network(lambda: nn.Linear(3, 4), (3,), (4,)).out_features == 4
    network = build_network(lambda input_shape: nn.Linear(math.prod(input_shape), 1), (2, 5), (4,))
    assert network.in_features == 10
    everything = {}
    build_network(lambda **shapes: everything.update(shapes) or nn.Identity(), (2,), (4,))
    assert everything == {"input_shape": (2,), "output_sizes": (4,)}


def test_small_conv_halves_the_image_in_each_block():
    network = SmallConv((1, 28, 20), (10, 3), channels=(4, 8, 16), hidden=12)
    assert network.hidden.in_features == 16 * 3 * 2
    outputs = network(torch.zeros(5, 1, 28, 20))
    assert [tuple(o.shape) for o in outputs] == [(5, 10), (5, 3)]
    convolutions = 4 * 9 + 4 + 8 * 4 * 9 + 8 + 16 * 8 * 9 + 16
    assert parameters(network) == convolutions + (96 * 12 + 12) + (12 * 13 + 13)
    FiLM(SmallConv, (1, 8, 8), (10,), m=2)(torch.zeros(2, 1, 8, 8), torch.tensor([0.5, 0.5]))


@pytest.mark.parametrize("shape", [(64,), (1, 8, 3)])
def test_small_conv_refuses_what_is_no_image_or_too_small_a_one(shape):
    with pytest.raises(ConfigError, match="images"):
        SmallConv(shape, (10,))


def test_resnet18_of_cifar_has_the_11173962_parameters_of_the_literature():
    # 11.17 million: the count of kuangliu/pytorch-cifar's ResNet18, which coreset papers train.
    network = ResNet((3, 32, 32), (10,), widths=(64, 128, 256, 512), blocks=(2, 2, 2, 2))
    assert parameters(network) == 11_173_962


def test_resnet_is_its_formula_and_has_one_tensor_per_head():
    network = ResNet((1, 12, 10), (4, 3), widths=(4, 6), blocks=(1, 2), stem_stride=2)

    def block(a, b, shortcut):
        return 9 * a * b + 2 * b + 9 * b * b + 2 * b + (a * b + 2 * b if shortcut else 0)

    expected = 9 * 4 + 2 * 4 + block(4, 4, False) + block(4, 6, True) + block(6, 6, False)
    assert parameters(network) == expected + 6 * 7 + 7
    outputs = network(torch.randn(5, 1, 12, 10, generator=torch.Generator().manual_seed(0)))
    assert [tuple(o.shape) for o in outputs] == [(5, 4), (5, 3)]
    sum(o.square().sum() for o in outputs).backward()
    assert all(p.grad is not None for p in network.parameters())


def test_resnet_halves_the_image_from_the_second_stage_on():
    network = ResNet((3, 32, 32), (10,)).eval()
    x, sizes = network.stem(torch.zeros(1, 3, 32, 32)), []
    for block in network.blocks:
        x = block(x)
        sizes.append(tuple(x.shape[1:]))
    assert sizes == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]


def test_resnet_can_be_conditioned():
    network = FiLM(ResNet, (1, 8, 8), (10,), m=2)
    network(torch.zeros(2, 1, 8, 8), torch.tensor([0.5, 0.5]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_shape": (64,)}, "images"),
        ({"input_shape": (1, 3, 8)}, r"images of \(1, 3, 8\) are too small for 3 stages"),
        ({"input_shape": (1, 4, 4), "stem_stride": 2}, "too small"),
        ({"widths": (8, 16)}, "as many widths as blocks"),
        ({"widths": (), "blocks": ()}, "as many widths as blocks"),
        ({"blocks": (1, 0, 1)}, "at least 1"),
        ({"stem_stride": 0}, "stem_stride"),
    ],
)
def test_resnet_refuses_settings_with_what_to_change(options, message):
    with pytest.raises(ConfigError, match=message):
        ResNet(**({"input_shape": (1, 28, 28), "output_sizes": (10,)} | options))
