"""Distances to the experts: a front of merged models without any data, and without a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from frontrunner.errors import ConfigError, DataError, FrontError
from frontrunner.evaluators.base import Array, Evaluator
from frontrunner.evaluators.objectives import Objectives
from frontrunner.front.objective import Objective
from frontrunner.pareto_sets.base import ParetoSet
from frontrunner.tasks.base import Task
from frontrunner.tasks.merging import DISTANCE, MergingTask
from frontrunner.weights.parents import PIECE, Parents
from frontrunner.weights.source import Weights


class Distances(Evaluator):
    """Objective k is ‖θ - θ_k‖ / ‖θ_0 - θ_k‖: 0 at expert k, 1 at the base θ_0.

    Norms run over all mergeable tensors together, with sums in float64. Merged tensors are taken
    as `ParetoSet.state` gives them and compared piece by piece with what lies on disk, so that
    memory is that of the largest tensor, not of a model.

    Args:
        points, reference_point: see `Evaluator`; the reference point is 1.1 everywhere by default.
    """

    what, split = "distances", None

    def __init__(
        self, points: int | None = None, reference_point: Sequence[float] | None = None
    ) -> None:
        super().__init__(points, reference_point)
        self._units: tuple[Parents, Array] | None = None

    def check(self, task: Task) -> None:
        if not isinstance(task, MergingTask):
            raise ConfigError(f"task '{task.name}' has no experts; use evaluator=objectives")
        super().check(task)

    def score(
        self, pareto_set: ParetoSet, task: Task, preference: Array, device: torch.device | str
    ) -> Array:
        assert isinstance(task, MergingTask)
        parents = task.parents()
        if self._units is None or self._units[0] is not parents:
            self._units = (parents, spread(parents))
        pareto_set.to("cpu")  # where the experts are read
        squares = np.zeros(len(parents))
        left = {key for key in parents.base.shapes() if parents.mergeable(key)}
        for key, tensor in pareto_set.state(preference):
            if key in left:
                squares += [_square(tensor, expert, key) for expert in parents.experts]
                left.remove(key)
        if left:
            raise FrontError(f"the merged model has no tensor '{min(left)}', which the base has")
        return np.sqrt(squares) / self._units[1]

    def axes(self, task: Task) -> tuple[tuple[Objective, ...], Sequence[float]]:
        unit, bound = DISTANCE
        objectives = (replace(o, direction="min", unit=unit) for o in task.objectives)
        return tuple(objectives), (bound,) * task.m


def spread(parents: Parents) -> Array:
    """‖θ_0 - θ_k‖ over all mergeable tensors, (K,).

    Raises:
        DataError: NaN or infinity, or an expert that is the base; it is named.
    """
    squares = np.zeros(len(parents))
    for key in parents.base.shapes():
        if parents.mergeable(key):
            base = parents.base.read(key)
            for k, expert in enumerate(parents.experts):
                square = _square(base, expert, key)
                if not np.isfinite(square):
                    bad = expert if bool(base.isfinite().all()) else parents.base
                    raise DataError(f"'{key}' in {bad.name} holds NaN or infinity")
                squares[k] += square
    for expert, square in zip(parents.experts, squares, strict=True):
        if square == 0:
            raise DataError(f"{expert.name} is the base itself: there is no distance to measure in")
    return np.sqrt(squares)


def losses_or_distances(texts: Any, **options: Any) -> Evaluator:
    """`Objectives` where there are texts, else `Distances`, which need no split and no batches."""
    if texts is not None:
        return Objectives(**options)
    shared = ("points", "reference_point")
    return Distances(**{key: value for key, value in options.items() if key in shared})


def _square(tensor: Tensor, expert: Weights, key: str) -> float:
    """Squared distance of a tensor from an expert's."""
    flat, start, total = tensor.reshape(-1), 0, 0.0
    for piece in expert.pieces(key, PIECE):
        difference = flat[start : start + len(piece)].double() - piece.double()
        total += float(difference @ difference)
        start += len(piece)
    return total
