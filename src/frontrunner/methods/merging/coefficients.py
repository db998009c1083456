"""Task vectors with coefficients that learn: θ(λ) = θ_0 + Σ_k λ_k τ_k."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from frontrunner.methods.base import choice, positive
from frontrunner.methods.merging.ties import Ties
from frontrunner.weights.parents import Parents


class Coefficients(nn.Module):
    """Coefficients λ of task vectors τ_k = θ_k - θ_0, to be differentiated through `compose`.

    Source: Yang et al., "AdaMerging", ICLR 2024. Base and task vectors are buffers that move with
    the module but are not in its ``state_dict``: a checkpoint holds the coefficients alone. They
    take 1 + K models of memory.

    Args:
        parents: base and K experts.
        per: ``task`` for K coefficients, ``layer`` for one of each task and tensor, (L, K).
        initial: λ at the start.
        clamp: whether `compose` cuts λ to [0, 1], as the public code does. Beyond, the gradient
            is 0.
        density: share of each whole task vector that is kept, see `agreeing`; None keeps all.

    Attributes:
        values: λ before it is cut, (K,) or (L, K), float32.
        names: the L tensors that λ acts on, in the order of its rows.

    Raises:
        ConfigError: an unknown choice, or a number out of range.
        DataError: a parent's tensor is damaged or not finite.
    """

    def __init__(
        self,
        parents: Parents,
        per: str = "layer",
        initial: float = 0.3,
        clamp: bool = True,
        density: float | None = None,
    ) -> None:
        super().__init__()
        choice("method.coefficients", per, ("task", "layer"))
        positive("method.initial", initial, zero=True)
        keys = list(parents.base.shapes())
        self.names = [key for key in keys if parents.mergeable(key)]
        self._fixed = [key for key in keys if not parents.mergeable(key)]
        self.clamp = clamp
        bounds = None if density is None else Ties(density, "global").prepare(parents)
        for i, key in enumerate(self.names):
            base, experts = parents.read(key)
            vectors = torch.stack(experts) - base
            if bounds is not None and key in bounds:
                vectors = agreeing(vectors, bounds[key])
            self.register_buffer(f"base_{i}", base, persistent=False)
            self.register_buffer(f"vectors_{i}", vectors, persistent=False)
        for i, key in enumerate(self._fixed):
            self.register_buffer(f"fixed_{i}", parents.base.read(key), persistent=False)
        rows = (len(self.names),) if per == "layer" else ()
        self.initial = float(initial)
        self.values = nn.Parameter(torch.empty(*rows, len(parents)))
        self.restart()

    @torch.no_grad()
    def restart(self) -> None:
        """Put all coefficients back to where they start."""
        self.values.fill_(self.initial)

    def coefficients(self) -> Tensor:
        """λ as it acts, (K,) or (L, K)."""
        return self.values.clamp(0.0, 1.0) if self.clamp else self.values

    def compose(self) -> dict[str, Tensor]:
        """Every tensor of θ(λ) by name, in float32 (float64 stays); what is not mergeable is the
        base's."""
        state = {key: self.get_buffer(f"fixed_{i}") for i, key in enumerate(self._fixed)}
        rows = self.coefficients().expand(len(self.names), -1)
        for i, (name, row) in enumerate(zip(self.names, rows, strict=True)):
            base, vectors = self.get_buffer(f"base_{i}"), self.get_buffer(f"vectors_{i}")
            state[name] = base + torch.tensordot(row.to(base), vectors, 1)
        return state


def agreeing(vectors: Tensor, bounds: NDArray[np.float32]) -> Tensor:
    """Task vectors of one tensor as TIES leaves them before it averages: trimmed, signs elected.

    Kept are entries of at least the bound in magnitude, and of those the ones whose sign is that of
    their sum over tasks. Source: Yadav et al., "TIES-Merging", NeurIPS 2023, steps 1 and 2, as
    AdaMerging++ uses them.

    Args:
        vectors: (K, …).
        bounds: (K,), the smallest magnitude kept of each.

    Returns:
        (K, …), with zeros for what is dropped.
    """
    bound = torch.from_numpy(bounds).view(-1, *[1] * (vectors.ndim - 1))
    trimmed = vectors * (vectors.abs() >= bound)
    return trimmed * (trimmed.sign() == trimmed.sum(0).sign())
