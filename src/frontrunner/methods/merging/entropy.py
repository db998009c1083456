"""Shannon entropy of predictions: what merging methods lower where there are no labels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from frontrunner.methods.merging.statistics import batches_of
from frontrunner.tasks.base import Split
from frontrunner.tasks.merging import Domains, MergingTask


def entropy(logits: Tensor) -> Tensor:
    """Mean Shannon entropy, in nats, of the predictions of logits (…, classes); a scalar."""
    log = torch.log_softmax(logits.float(), dim=-1)
    return -(log.exp() * log).sum(-1).mean()


@torch.no_grad()
def entropies(
    network: Callable[..., Tensor],
    task: MergingTask,
    split: Split,
    device: torch.device | str,
    batch_size: int = 4096,
) -> np.ndarray:
    """Mean entropy of ``network(inputs, k)`` over a whole split, (K,) float64, in nats."""
    domains = task.data(split)
    assert isinstance(domains, Domains)
    values = []
    for k, part in enumerate(domains.parts):
        total = 0.0
        for batch in batches_of(part, None, batch_size, device):
            total += float(entropy(network(batch[0], k))) * len(batch[0])
        values.append(total / domains.sizes[k])
    return np.array(values)
