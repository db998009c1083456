"""GradMatch: weighted samples whose gradients add up to those of all."""

from __future__ import annotations

from typing import Any

from frontrunner.coresets import select
from frontrunner.methods.base import choice, positive
from frontrunner.methods.coresets.base import CoresetMethod


class GradMatch(CoresetMethod):
    """Orthogonal matching pursuit on last-layer gradients. Source: Killamsetty et al., ICML 2021.

    Args:
        variant: ``per_class``, ``per_class_per_gradient``, ``per_batch`` or ``joint``, see
            `frontrunner.coresets.select.GradMatch`.
        ridge, tolerance: of the pursuit.
        settings: as in `CoresetMethod`.
    """

    def __init__(
        self,
        *,
        variant: str = "per_class",
        ridge: float = 0.0,
        tolerance: float = 0.0,
        **settings: Any,
    ) -> None:
        self.variant = choice("method.variant", variant, select.VARIANTS)
        self.ridge = positive("method.ridge", ridge, zero=True)
        self.tolerance = positive("method.tolerance", tolerance, zero=True)
        super().__init__(**settings)

    def selector(self) -> select.Selector:
        return select.GradMatch(self.variant, self.training.batch_size, self.ridge, self.tolerance)
