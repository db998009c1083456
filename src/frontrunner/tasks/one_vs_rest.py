"""A class of images against all others, for each class: as many objectives as classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from frontrunner.errors import ConfigError
from frontrunner.front.objective import Objective
from frontrunner.tasks.base import Batch
from frontrunner.tasks.images import Images


class OneVsRest(Images):
    """Say of each class whether an image is of it; the objectives are binary cross-entropies, in
    nats, each with a head of its own.

    Args:
        classes: those that make an objective; None takes all.
        reference_point: one number for all objectives, or one for each. A constant answer has 0.325
            for ten classes of one size.
        settings: as in `Images`.

    Raises:
        ConfigError: fewer than two classes, or numbers that do not fit them.
    """

    def __init__(
        self,
        classes: int | None = None,
        reference_point: float | Sequence[float] = 0.5,
        name: str = "one_vs_rest",
        **settings: Any,
    ) -> None:
        super().__init__(name=name, **settings)
        self._count = classes
        if not 2 <= self.classes <= self._labels:
            raise ConfigError(f"task.classes={classes} must be 2 to {self._labels}, or null")
        several = isinstance(reference_point, Sequence)
        numbers = reference_point if several else [reference_point] * self.classes
        self.reference_point = tuple(float(r) for r in numbers)  # type: ignore[arg-type, union-attr]
        if len(self.reference_point) != self.classes:
            raise ConfigError(
                f"task.reference_point has {len(self.reference_point)} entries for {self.classes} "
                "classes"
            )
        self.objectives = tuple(  # type: ignore[assignment]
            Objective(f"class_{c}", "min", "nats") for c in range(self.classes)
        )

    @property
    def classes(self) -> int:
        """Number of classes, and of objectives."""
        return self._labels if self._count is None else self._count

    @property
    def output_sizes(self) -> tuple[int, ...]:  # type: ignore[override]
        return (1,) * self.classes

    def losses(self, outputs: Any, batch: Batch) -> Tensor:
        """(classes,): mean binary cross-entropy of each."""
        logits, wanted = self._pairs(outputs, batch)
        each = binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        return each.mean(0)

    def accuracies(self, outputs: Any, batch: Batch) -> Tensor:
        """(classes,): mean of the shares of a class's and of other images that are told rightly."""
        logits, wanted = self._pairs(outputs, batch)
        right = ((logits > 0) == (wanted > 0.5)).to(logits.dtype)
        inside = (right * wanted).sum(0) / wanted.sum(0).clamp_min(1)
        outside = (right * (1 - wanted)).sum(0) / (1 - wanted).sum(0).clamp_min(1)
        return 0.5 * (inside + outside)

    def _pairs(self, outputs: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        logits = torch.cat(list(outputs), dim=-1)
        wanted = batch[1][:, None] == torch.arange(self.classes, device=batch[1].device)
        return logits, wanted.to(logits.dtype)
