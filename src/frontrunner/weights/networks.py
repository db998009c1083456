"""Networks as named tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.func import functional_call

from frontrunner.errors import ConfigError


def named_state(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of a network by name; of tensors that are tied, the first name.

    They share their storage with the network, so `Tensor.copy_` into them changes it.
    """
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def with_state(network: nn.Module, state: Mapping[str, Tensor]) -> Callable[[Tensor, int], Tensor]:
    """``network(inputs, k)`` with other tensors, those that are named and that it has.

    Differentiable in parameters but not in buffers: normalisation refuses gradients of its running
    statistics.
    """
    own = {n: state[n] for n, _ in network.named_parameters() if n in state}
    own |= {n: state[n].detach() for n, _ in network.named_buffers() if n in state}
    return lambda inputs, k: functional_call(network, own, (inputs, k))


@torch.no_grad()
def place(network: nn.Module, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Copy named tensors into a network, in place.

    Raises:
        ValueError: the network has no tensor of that name.
    """
    state = named_state(network)
    tied = set(network.state_dict(keep_vars=True))
    for key, tensor in tensors:
        if key in state:
            state[key].copy_(tensor)
        elif key not in tied:
            raise ValueError(f"the network has no tensor '{key}'")


def target_layers(
    network: nn.Module, patterns: Sequence[str], key: str = "method.layers"
) -> dict[str, tuple[int, int]]:
    """Linear and (ungrouped) convolution layers whose name matches a pattern, with (out, in).

    Of a convolution ``in`` is channels · height · width; ``key`` names the patterns in errors.

    Raises:
        ConfigError: a pattern that no such layer matches.
    """
    shapes = {
        name: (layer.weight.shape[0], math.prod(layer.weight.shape[1:]))
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear)
        or (isinstance(layer, nn.Conv2d) and layer.groups == 1 and layer.padding_mode == "zeros")
    }
    if patterns and not shapes:
        raise ConfigError(f"{key}: the network has no linear or convolution layer")
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in shapes):
            raise ConfigError(
                f"{key}: no linear or convolution layer is called '{pattern}'; there are "
                f"{', '.join(list(shapes)[:8])}{' …' if len(shapes) > 8 else ''}"
            )
    return {n: s for n, s in shapes.items() if any(fnmatchcase(n, p) for p in patterns)}
