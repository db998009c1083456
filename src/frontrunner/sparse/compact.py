"""Sparse matrices as a bitmap of their support and the values on it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def pack(mask: Tensor) -> Tensor:
    """Bool (d, c) -> uint8 (⌈dc/8⌉,), row by row, the first entry in the highest bit."""
    return torch.from_numpy(np.packbits(mask.cpu().numpy().reshape(-1)))


def unpack(bits: Tensor, shape: tuple[int, int]) -> Tensor:
    """What `pack` was given, bool (d, c) on the CPU."""
    flat = np.unpackbits(bits.numpy(), count=shape[0] * shape[1])
    return torch.from_numpy(flat.view(np.bool_)).view(shape)


def expand(values: Tensor, mask: Tensor) -> Tensor:
    """The dense matrix (d, c) of the values (k,) on a support, row by row."""
    dense = torch.zeros(mask.shape, dtype=values.dtype, device=values.device)
    dense[mask] = values
    return dense
