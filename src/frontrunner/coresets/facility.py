"""Facility location: samples such that every sample has one of them near it.

Source: Mirzasoleiman, Bilmes & Leskovec, CRAIG, ICML 2020: minimise Σ_i min_{j∈S} ‖g_i − g_j‖ over
sets S of a given size, each chosen sample weighted by how many it is the nearest for.
"""

from __future__ import annotations

import torch
from torch import Tensor


def facility_location(similarity: Tensor, count: int, block: int = 32) -> tuple[Tensor, Tensor]:
    """Greedily maximise Σ_i max_{j∈S} s_ij: at least 1 − 1/e of the best.

    Lazy greedy (Minoux, 1978) with the candidates of largest bound evaluated a ``block`` at a time.

    Args:
        similarity: (n, n), at least 0.
        count: size of S.

    Returns:
        indices (count,) in the order of choice, and weights (count,): the number of samples that
        each is the most similar to.
    """
    n = len(similarity)
    count = min(count, n)
    covered = similarity.new_zeros(n)
    taken = torch.zeros(n, dtype=torch.bool, device=similarity.device)
    bounds = similarity.sum(0)
    chosen: list[int] = []
    for step in range(count):
        best, best_gain = -1, -1.0
        if step == 0:
            best = int(bounds.argmax())
        else:
            order = bounds.argsort(descending=True)
            for start in range(0, n, block):
                candidates = order[start : start + block]
                if best >= 0 and float(bounds[candidates[0]]) <= best_gain:
                    break
                gains = (similarity[candidates] - covered).clamp_min_(0).sum(1)
                gains[taken[candidates]] = -1.0
                bounds[candidates] = gains
                top = int(gains.argmax())
                if float(gains[top]) > best_gain:
                    best, best_gain = int(candidates[top]), float(gains[top])
        chosen.append(best)
        taken[best], bounds[best] = True, -1.0
        covered = torch.maximum(covered, similarity[best])
    indices = torch.tensor(chosen, device=similarity.device)
    nearest = similarity[indices].argmax(0)
    weights = torch.bincount(nearest, minlength=count).to(similarity)
    return indices, weights
