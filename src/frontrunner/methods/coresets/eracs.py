"""ERACS: GradMatch's coreset, chosen again when the signal-to-noise ratio of its gradients says
so."""

from __future__ import annotations

from typing import Any

from frontrunner.methods.coresets.gradmatch import GradMatch


class Eracs(GradMatch):
    """A coreset that is watched: every few epochs the signal-to-noise ratio of its own gradients is
    compared with a threshold. Source: Cheng et al., NeurIPS 2025.

    Args:
        trigger: by SNR, see `frontrunner.coresets.trigger`; the paper contradicts itself about it.
        settings: as in `GradMatch` and `CoresetMethod`.
    """

    def __init__(self, *, trigger: str = "relative_drop", every: int = 3, **settings: Any) -> None:
        super().__init__(trigger=trigger, every=every, **settings)
