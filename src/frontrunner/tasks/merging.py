"""Tasks of merging: a base, an expert for each objective, and data of each objective by itself."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Literal

from torch import nn

from frontrunner.tasks.base import Task
from frontrunner.tasks.domains import DomainsTask
from frontrunner.weights.parents import Parents

# Unit and reference point of ‖θ - θ_k‖ / ‖θ_0 - θ_k‖, which is 1 at the base.
DISTANCE = ("relative distance", 1.1)


class MergingTask(DomainsTask):
    """One objective for each of K experts; the data of objective k are expert k's.

    Subclasses implement `make_parents` beside what a `DomainsTask` needs; `network` is the
    architecture with the base's weights.

    Attributes:
        selection: what coefficients are chosen by on validation data.
        has_data: whether there are data at all; without, objectives are distances to experts.
        template: the base's folder, if it is a checkpoint in hub format: exports then are such.
    """

    selection: Literal["losses", "accuracies"] = "losses"
    has_data = True
    template: Path | None = None
    _parents: Parents | None = None

    @abstractmethod
    def make_parents(self) -> Parents:
        """Train, find or open the base and the experts. Called once, lazily."""

    @abstractmethod
    def network(self) -> nn.Module:
        """The architecture with the base's weights, and what is not merged (heads) in place:
        ``forward(inputs, k)`` -> logits (..., classes) of objective k."""

    # ------------------------------------------------------------------ for everyone else

    def parents(self) -> Parents:
        """The base and the experts, checked against each other.

        Raises:
            DataError: they do not correspond; model and tensor are named.
        """
        if self._parents is None:
            self._parents = self.make_parents()
        return self._parents

    def sealed(self) -> Task:
        self.parents()  # once, for both
        return super().sealed()
