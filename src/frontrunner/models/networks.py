"""The small networks of the literature. Each returns a tuple with one tensor per head."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from frontrunner.errors import ConfigError

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "none": nn.Identity,
}


def _activation(name: str) -> nn.Module:
    if name not in ACTIVATIONS:
        raise ConfigError(f"unknown activation '{name}'; valid: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


class Heads(nn.Module):
    """One linear layer per output, on shared features: (B, d) -> tuple of (B, c_i)."""

    def __init__(self, features: int, output_sizes: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(features, size) for size in output_sizes)

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        return tuple(layer(features) for layer in self.layers)

    @torch.no_grad()
    def scale_(self, factor: float) -> None:
        """Scale the weights and clear the biases, in place."""
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            layer.weight.mul_(factor)
            layer.bias.zero_()


class MLP(nn.Module):
    """Hidden linear layers with an activation, then one linear head per output.

    Inputs of any shape are flattened, (B, *input_shape) -> tuple of (B, c_i). An empty input
    (``input_shape=(0,)``) is allowed: the network is then a constant that training chooses.

    Args:
        hidden: width of each hidden layer, at least one.
        activation: ``relu``, ``tanh``, ``gelu`` or ``none``; one name, or one per hidden layer.
        head_scale: factor on the initial weights of the heads, whose biases then start at 0; None
            keeps PyTorch's initialisation.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        output_sizes: Sequence[int],
        hidden: Sequence[int],
        activation: str | Sequence[str] = "relu",
        head_scale: float | None = None,
    ) -> None:
        super().__init__()
        if not hidden or min(hidden) < 1:
            raise ConfigError("an MLP needs at least one hidden layer of at least one unit")
        widths = [math.prod(input_shape), *hidden]
        self.linears = nn.ModuleList(_linear(a, b) for a, b in itertools.pairwise(widths))
        names = [activation] * len(hidden) if isinstance(activation, str) else list(activation)
        if len(names) != len(hidden):
            raise ConfigError(f"{len(names)} activations for {len(hidden)} hidden layers")
        self.activations = nn.ModuleList(_activation(name) for name in names)
        self.heads = Heads(widths[-1], output_sizes)
        if head_scale is not None:
            self.heads.scale_(head_scale)
        self.film_layers = [f"linears.{i}" for i in range(len(hidden))]

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        x = inputs.flatten(1)
        for linear, activation in zip(self.linears, self.activations, strict=True):
            x = activation(linear(x))
        return self.heads(x)


def _linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer; with no inputs it is its bias, drawn as PyTorch would for one input."""
    if inputs > 0:
        return nn.Linear(inputs, outputs)
    with warnings.catch_warnings():
        # PyTorch remarks that there is nothing to initialise.
        warnings.simplefilter("ignore")
        layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
    with torch.no_grad():
        layer.bias.uniform_(-1.0, 1.0)
    return layer


class LeNet(nn.Module):
    """The LeNet of multi-task digit benchmarks: (B, c, h, w) -> tuple of (B, c_i).

    conv5 - pool - ReLU - conv5 - pool - ReLU - linear - ReLU - heads. With 36x36 grey images,
    channels (10, 20), 50 hidden units and two heads of 10 it has 42,350 parameters. Source: the
    networks of COSMOS (Ruchte & Grabocka, ICDM 2021) and GMOOAR (Chen & Kwok, NeurIPS 2022). With
    kernels of 9 and 5 it has 31,910, and is that of Pareto MTL (Lin et al., NeurIPS 2019), EPO,
    MOO-SVGD and PHN.

    Args:
        kernel: side of every convolution, or one for each.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        output_sizes: Sequence[int],
        channels: Sequence[int] = (10, 20),
        hidden: int = 50,
        kernel: int | Sequence[int] = 5,
    ) -> None:
        super().__init__()
        if len(input_shape) != 3:
            raise ConfigError(f"LeNet takes images (c, h, w), not inputs of shape {input_shape}")
        depth, height, width = input_shape
        blocks: list[nn.Module] = []
        kernels = [kernel] * len(channels) if isinstance(kernel, int) else list(kernel)
        if len(kernels) != len(channels):
            raise ConfigError(f"LeNet has {len(channels)} convolutions, and kernel={kernels}")
        for (before, after), size in zip(
            itertools.pairwise([depth, *channels]), kernels, strict=True
        ):
            blocks.append(nn.Sequential(nn.Conv2d(before, after, size), nn.MaxPool2d(2), nn.ReLU()))
            height, width = (height - size + 1) // 2, (width - size + 1) // 2
        if height < 1 or width < 1:
            raise ConfigError(f"images of {input_shape} are too small for {len(channels)} blocks")
        self.blocks = nn.ModuleList(blocks)
        self.hidden = nn.Linear(channels[-1] * height * width, hidden)
        self.heads = Heads(hidden, output_sizes)
        self.film_layers = [f"blocks.{i}" for i in range(len(channels))]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x = images
        for block in self.blocks:
            x = block(x)
        return self.heads(torch.relu(self.hidden(x.flatten(1))))


class SmallConv(nn.Module):
    """A convolutional network for small images: (B, c, h, w) -> tuple of (B, c_i).

    3×3 convolutions that keep the size, each followed by ReLU and 2×2 max-pooling, a linear layer
    with ReLU, and the heads.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        output_sizes: Sequence[int],
        channels: Sequence[int] = (16, 32),
        hidden: int = 64,
    ) -> None:
        super().__init__()
        if len(input_shape) != 3:
            raise ConfigError(
                f"SmallConv takes images (c, h, w), not inputs of shape {input_shape}"
            )
        depth, height, width = input_shape
        scale = 2 ** len(channels)
        if height < scale or width < scale:
            raise ConfigError(f"images of {input_shape} are too small for {len(channels)} blocks")
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise([depth, *channels])
        )
        self.hidden = nn.Linear(channels[-1] * (height // scale) * (width // scale), hidden)
        self.heads = Heads(hidden, output_sizes)
        self.film_layers = [f"convolutions.{i}" for i in range(len(channels))]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x = images
        for convolution in self.convolutions:
            x = max_pool2d(torch.relu(convolution(x)), 2)
        return self.heads(torch.relu(self.hidden(x.flatten(1))))


class ResNet(nn.Module):
    """A residual network for small images: (B, c, h, w) -> tuple of (B, c_i).

    A 3×3 convolution, stages of basic blocks that halve the image from the second on, the mean over
    positions, and the heads; batch normalisation after each convolution. With widths (64, 128, 256,
    512) and two blocks each it is the ResNet-18 of CIFAR benchmarks. Source: He et al., CVPR 2016.

    Args:
        widths: channels of each stage.
        blocks: basic blocks of each stage.
        stem_stride: of the first convolution.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        output_sizes: Sequence[int],
        widths: Sequence[int] = (16, 32, 64),
        blocks: Sequence[int] = (1, 1, 1),
        stem_stride: int = 1,
    ) -> None:
        super().__init__()
        if len(input_shape) != 3:
            raise ConfigError(f"ResNet takes images (c, h, w), not inputs of shape {input_shape}")
        if len(widths) != len(blocks) or not widths or min(*widths, *blocks) < 1:
            raise ConfigError("a ResNet needs as many widths as blocks, all of at least 1")
        if stem_stride < 1:
            raise ConfigError(f"a ResNet's stem_stride={stem_stride} must be at least 1")
        if min(input_shape[1:]) < stem_stride * 2 ** (len(widths) - 1):
            raise ConfigError(f"images of {input_shape} are too small for {len(widths)} stages")
        self.stem = nn.Sequential(
            nn.Conv2d(input_shape[0], widths[0], 3, stem_stride, padding=1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
        )
        stages: list[nn.Module] = []
        before = widths[0]
        for stage, (width, number) in enumerate(zip(widths, blocks, strict=True)):
            for block in range(number):
                stages.append(BasicBlock(before, width, 2 if stage > 0 and block == 0 else 1))
                before = width
        self.blocks = nn.ModuleList(stages)
        self.heads = Heads(before, output_sizes)
        self.film_layers = [f"blocks.{i}" for i in range(len(stages))]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x = self.stem(images)
        for block in self.blocks:
            x = block(x)
        return self.heads(x.mean(dim=(2, 3)))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut: (B, c, h, w) -> (B, out_channels, h/stride,
    w/stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.first = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(out_channels)
        self.second = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(out_channels)
        self.shortcut = (
            nn.Identity()
            if stride == 1 and in_channels == out_channels
            else nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )
        )

    def forward(self, inputs: Tensor) -> Tensor:
        x = torch.relu(self.first_norm(self.first(inputs)))
        return torch.relu(self.second_norm(self.second(x)) + self.shortcut(inputs))
