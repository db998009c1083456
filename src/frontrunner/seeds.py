"""Random streams that are pure functions of (seed, name, counter), so that resuming is exact."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive(seed: int, *keys: int | str) -> int:
    """A 63-bit seed from a seed and any number of keys; different keys give unrelated streams."""
    text = "/".join(str(k) for k in (seed, *keys))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *keys: int | str) -> torch.Generator:
    """A CPU generator for one purpose and moment, e.g. ``generator(seed, "preference", step)``."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *keys))


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch's global streams (network initialisation draws from them)."""
    import random

    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
