"""Shannon entropy of predictions: what merging methods lower where there are no labels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from frontrunner.tasks.base import Split
from frontrunner.tasks.merging import MergingTask


def entropy(logits: Tensor) -> Tensor:
    """Mean Shannon entropy, in nats, of the predictions of logits (…, classes); a scalar."""
    log = torch.log_softmax(logits.float(), dim=-1)
    return -(log.exp() * log).sum(-1).mean()


def entropies(
    network: Callable[..., Tensor],
    task: MergingTask,
    split: Split,
    device: torch.device | str,
) -> np.ndarray:
    """Mean entropy of ``network(inputs, k)`` over a whole split, (K,) float64, in nats."""
    return task.mean(network, split, lambda logits, batch, k: entropy(logits), device=device)
