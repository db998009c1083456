"""Networks as named tensors."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def named_state(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of a network by name; of tensors that are tied, the first name.

    They share their storage with the network, so `Tensor.copy_` into them changes it.
    """
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


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
