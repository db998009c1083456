"""Wrappers that make any network depend on a preference: ``forward(inputs, preference)``.

Both leave the network's own code alone, so a user's network needs no change to be conditioned.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from frontrunner.errors import ConfigError, nearest


def build_network(
    factory: Callable[..., nn.Module], input_shape: Sequence[int], output_sizes: Sequence[int]
) -> nn.Module:
    """Call a network factory with the shapes of the task, those of them that it takes."""
    shapes = {"input_shape": tuple(input_shape), "output_sizes": tuple(output_sizes)}
    parameters = inspect.signature(factory).parameters
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        shapes = {name: shape for name, shape in shapes.items() if name in parameters}
    return factory(**shapes)


class _Modulated(nn.Module):
    """A layer whose output channels are scaled and shifted by what the wrapper puts here."""

    def __init__(self, inner: nn.Module, channels: int, channel_dim: int) -> None:
        super().__init__()
        self.inner = inner
        self.channels, self.channel_dim = channels, channel_dim
        self.modulation: tuple[Tensor, Tensor] | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        out = self.inner(inputs)
        if self.modulation is None:
            return out
        scale, shift = self.modulation
        shape = [1] * out.ndim
        shape[self.channel_dim] = -1
        return out * scale.view(shape) + shift.view(shape)


class FiLM(nn.Module):
    """Feature-wise linear modulation: chosen layers become ``out * scale(r) + shift(r)``.

    (scale, shift) = Linear(hidden, 2C)(ReLU(Linear(m, hidden)(r))), C the channels of all chosen
    layers together. Sources: Perez et al., AAAI 2018; GMOOAR (Chen & Kwok, NeurIPS 2022).

    Args:
        factory: makes the network to wrap.
        m: number of objectives, the length of a preference.
        hidden: width of the generator's hidden layer.
        layers: names of the submodules to modulate; None takes the network's ``film_layers``.
        residual: modulate as ``out * (1 + scale) + shift`` (not in the paper).

    Raises:
        ConfigError: no layer is named, or a name does not exist or has no channels.
    """

    def __init__(
        self,
        factory: Callable[..., nn.Module],
        input_shape: Sequence[int],
        output_sizes: Sequence[int],
        m: int,
        hidden: int = 20,
        layers: Sequence[str] | None = None,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.network = build_network(factory, input_shape, output_sizes)
        names = list(layers) if layers is not None else getattr(self.network, "film_layers", [])
        available = [name for name, _ in self.network.named_modules() if name]
        if not names:
            raise ConfigError(
                f"name the layers to modulate in conditioning.layers; there are {available}"
            )
        for name in names:
            if name not in available:
                raise ConfigError(f"the network has no layer '{name}'{nearest(name, available)}")
        if len(set(names)) < len(names):
            raise ConfigError(f"conditioning.layers names a layer twice: {names}")
        # Inner layers first: once a block is wrapped, the names of what it holds have changed.
        wrapped: dict[str, _Modulated] = {}
        for name in sorted(names, key=lambda n: -n.count(".")):
            parent, _, child = name.rpartition(".")
            inner = self.network.get_submodule(name)
            wrapped[name] = _Modulated(inner, *_channels(inner, name))
            setattr(self.network.get_submodule(parent), child, wrapped[name])
        self._modulated = [wrapped[name] for name in names]
        self.channels = [layer.channels for layer in self._modulated]
        self.residual = residual
        self.generator = nn.Sequential(
            nn.Linear(m, hidden), nn.ReLU(), nn.Linear(hidden, 2 * sum(self.channels))
        )

    def forward(self, inputs: Tensor, preference: Tensor) -> Any:
        """(B, *input_shape) and (m,) -> what the network returns."""
        scale, shift = self.generator(preference).chunk(2)
        if self.residual:
            scale = 1.0 + scale
        try:
            for layer, a, b in zip(
                self._modulated,
                scale.split(self.channels),
                shift.split(self.channels),
                strict=True,
            ):
                layer.modulation = (a, b)
            return self.network(inputs)
        finally:
            for layer in self._modulated:
                layer.modulation = None


def _channels(layer: nn.Module, name: str) -> tuple[int, int]:
    """Number and dimension of a layer's output channels, from its last part that has any."""
    for part in reversed(list(layer.modules())):
        for attribute in ("out_channels", "num_features", "out_features"):
            size = getattr(part, attribute, None)
            if isinstance(size, int):
                return size, -1 if attribute == "out_features" else 1
    raise ConfigError(f"layer '{name}' has no output channels to modulate")


class InputConditioning(nn.Module):
    """The preference joins the (flattened) inputs; with no inputs it is the whole input.

    The usual choice of Pareto set learning on analytic problems (Lin et al., NeurIPS 2022).
    """

    def __init__(
        self,
        factory: Callable[..., nn.Module],
        input_shape: Sequence[int],
        output_sizes: Sequence[int],
        m: int,
    ) -> None:
        super().__init__()
        if len(input_shape) != 1:
            raise ConfigError(
                f"conditioning=input takes flat inputs, not {tuple(input_shape)}; "
                "use conditioning=film"
            )
        self.network = build_network(factory, (input_shape[0] + m,), output_sizes)

    def forward(self, inputs: Tensor, preference: Tensor) -> Any:
        """(B, d) and (m,) -> what the network returns on (B, d + m)."""
        joined = torch.cat([inputs, preference.expand(len(inputs), -1)], dim=1)
        return self.network(joined)


class ChannelConditioning(nn.Module):
    """The preference joins an image as m further channels, grown from a single pixel by two
    transposed convolutions with ReLU and nearest-neighbour scaling.

    With two objectives and the 5×5 LeNet on 36×36 images it has 43,058 weights. Source: Ruchte &
    Grabocka, "Scalable Pareto front approximation for deep multi-objective learning", ICDM 2021
    (COSMOS); the sizes of the convolutions are reconstructed from that number.
    """

    def __init__(
        self,
        factory: Callable[..., nn.Module],
        input_shape: Sequence[int],
        output_sizes: Sequence[int],
        m: int,
    ) -> None:
        super().__init__()
        if len(input_shape) != 3:
            raise ConfigError(
                f"conditioning=channels takes images (c, h, w), not inputs of shape "
                f"{tuple(input_shape)}; use conditioning=input"
            )
        channels, *self.pixels = input_shape
        self.network = build_network(factory, (channels + m, *self.pixels), output_sizes)
        self.grow = nn.Sequential(
            nn.ConvTranspose2d(m, m, 4, bias=False),
            nn.ReLU(),
            nn.ConvTranspose2d(m, m, 6, stride=2, padding=1, bias=False),
            nn.ReLU(),
        )

    def forward(self, inputs: Tensor, preference: Tensor) -> Any:
        """(B, c, h, w) and (m,) -> what the network returns on (B, c + m, h, w)."""
        image = interpolate(self.grow(preference.view(1, -1, 1, 1)), size=self.pixels)
        return self.network(torch.cat([inputs, image.expand(len(inputs), -1, -1, -1)], dim=1))
