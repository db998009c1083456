"""GLISTER: samples whose gradients lower the validation loss."""

from __future__ import annotations

from typing import Any

from frontrunner.coresets import select
from frontrunner.methods.base import positive, whole
from frontrunner.methods.coresets.base import CoresetMethod


class Glister(CoresetMethod):
    """Greedy selection by the validation loss's first-order change. Source: Killamsetty et al.,
    AAAI 2021.

    Args:
        parts: how often in one selection the validation gradient is computed anew.
        rate: learning rate of the steps between them.
        settings: as in `CoresetMethod`.
    """

    def __init__(self, *, parts: int = 10, rate: float = 0.05, **settings: Any) -> None:
        self.parts = whole("method.parts", parts)
        self.rate = positive("method.rate", rate)
        super().__init__(**settings)

    def selector(self) -> select.Selector:
        return select.Glister(self.parts, self.rate)
