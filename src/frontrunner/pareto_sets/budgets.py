"""Models that were trained at different costs: a finite set in which a preference is for cheapness
too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from frontrunner.errors import FrontError
from frontrunner.pareto_sets.finite import FiniteSet
from frontrunner.preferences import Kind
from frontrunner.tasks.base import Task


def preference_of(budget: float, preference: Sequence[float]) -> list[float]:
    """The preference (1 − b, b·λ) of a budget b and a preference λ over the task's objectives.

    Its first entry is for cheapness; both can be read off again.
    """
    return [1.0 - budget, *(budget * p for p in preference)]


class BudgetSet(FiniteSet):
    """Models for budgets and preferences, and what each took to train.

    Args:
        network, stacked: see `FiniteSet`.
        preferences: (K, m + 1), from `preference_of`.
        costs: one mapping for each model.
        record: facts of each model's training; JSON values.
    """

    def __init__(
        self,
        network: nn.Module,
        stacked: dict[str, Tensor],
        preferences: ArrayLike,
        preference_kind: Kind,
        costs: Sequence[Mapping[str, float]],
        record: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(network, stacked, preferences, preference_kind)
        if len(costs) != len(self.preferences):
            raise FrontError(f"{len(costs)} costs for {len(self.preferences)} models")
        self.costs = [dict(cost) for cost in costs]
        self.record = [dict(facts) for facts in record]

    def cost_of(self, preference: ArrayLike) -> dict[str, float]:
        return self.costs[self.index(preference)]

    def facts(self) -> dict[str, Any]:
        collapsed = [float(r["budget"]) for r in self.record if r.get("collapsed")]
        return {"models": self.record, "collapsed": collapsed}

    def options(self) -> dict[str, Any]:
        return {"costs": self.costs, "record": self.record}

    @classmethod
    def restore(
        cls,
        task: Task,
        tensors: dict[str, Tensor],
        preferences: NDArray[np.float64],
        preference_kind: Kind,
        options: dict[str, Any],
    ) -> BudgetSet:
        plain = FiniteSet.restore(task, tensors, preferences, preference_kind, {})
        return cls(plain.network, plain.stacked, preferences, preference_kind, **options)

    @staticmethod
    def of(
        network: nn.Module,
        states: Sequence[Mapping[str, Tensor]],
        preferences: ArrayLike,
        costs: Sequence[Mapping[str, float]],
        record: Sequence[Mapping[str, Any]],
    ) -> BudgetSet:
        """From the states of the models."""
        stacked = {name: torch.stack([s[name] for s in states]) for name in states[0]}
        return BudgetSet(network, stacked, preferences, "weight", costs, record)
