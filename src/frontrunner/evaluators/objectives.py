"""The task's own objectives: its losses, or its accuracies, over a whole split."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import torch

from frontrunner.errors import ConfigError, FrontError
from frontrunner.front.front import Front
from frontrunner.front.points import PointLog
from frontrunner.methods.base import choice
from frontrunner.pareto_sets.base import ParetoSet
from frontrunner.preferences import grid
from frontrunner.tasks.base import Measure, Split, Task


class Objectives:
    """Scores every preference of a Pareto set on the task's objectives.

    One model at a time sits in memory, its weights changed in place from preference to preference.

    Args:
        what: ``losses`` (minimised, in the task's units), ``accuracies`` (maximised) or
            ``perplexities`` (minimised, the exponential of losses in nats).
        split: ``test``, ``validation`` or ``train``.
        points: None scores the set's own preferences; a number scores a simplex lattice of that
            many instead, for sets that answer any preference.
        reference_point: None takes the task's, or 0 for every accuracy.
        batch_size: samples per forward pass.
    """

    def __init__(
        self,
        what: Measure = "losses",
        split: Split = "test",
        points: int | None = None,
        reference_point: Sequence[float] | None = None,
        batch_size: int = 4096,
    ) -> None:
        choice("evaluator.what", what, get_args(Measure))
        choice("evaluator.split", split, ("train", "validation", "test"))
        self.what: Measure = what
        self.split: Split = split
        self.points, self.reference_point, self.batch_size = points, reference_point, batch_size

    def check(self, task: Task) -> None:
        """Fail before anything is spent if these settings do not fit the task.

        Raises:
            ConfigError: no accuracies to measure, or a reference point of the wrong length.
            FrontError: no lattice of that many points.
        """
        if self.what not in task.measures():
            raise ConfigError(f"task '{task.name}' has no {self.what}; use evaluator=objectives")
        if self.points is not None:
            grid(task.m, self.points)
        reference = self.reference_point
        if reference is not None and (
            len(reference) != task.m or not np.isfinite(np.asarray(reference, dtype=float)).all()
        ):
            raise ConfigError(
                f"evaluator.reference_point needs {task.m} finite numbers, not {list(reference)}"
            )

    def key(self, pareto_set: ParetoSet) -> str:
        """Identifies weights, preferences and settings; points logged under it can be reused."""
        return f"{pareto_set.digest()}-{self.what}-{self.split}-{self.points}"

    def evaluate(
        self,
        pareto_set: ParetoSet,
        task: Task,
        log: PointLog | None = None,
        device: torch.device | str = "cpu",
    ) -> Front:
        """Score a Pareto set. Points already in ``log`` are not scored again.

        Raises:
            FrontError: an objective is not finite; the preference is named.
        """
        preferences = pareto_set.preferences if self.points is None else grid(task.m, self.points)
        pareto_set.to(device)
        done: dict[int, dict[str, Any]] = log.done() if log else {}
        values, costs = [], []
        for index, preference in enumerate(preferences):
            if index in done:
                values.append(done[index]["values"])
                costs.append(done[index]["cost"])
                continue
            start = time.perf_counter()
            point = task.measure(
                pareto_set.materialize(preference),
                self.split,
                what=self.what,
                device=device,
                batch_size=self.batch_size,
            )
            if not np.isfinite(point).all():
                raise FrontError(
                    f"the objectives at preference {preference.round(4).tolist()} are not finite: "
                    f"{point.tolist()}"
                )
            cost = {"seconds": time.perf_counter() - start}
            if log:
                log.append(index, preference, point, cost)
            values.append([float(x) for x in point])
            costs.append(cost)
        objectives = task.objectives
        reference: Sequence[float] = task.reference_point
        if self.what == "accuracies":
            objectives = tuple(replace(o, direction="max", unit="accuracy") for o in objectives)
            reference = (0.0,) * task.m
        elif self.what == "perplexities":
            objectives = tuple(replace(o, unit="perplexity") for o in objectives)
            reference = tuple(math.exp(r) for r in reference)
        return Front(
            objectives=objectives,
            values=np.array(values),
            preferences=preferences,
            preference_kind=pareto_set.preference_kind,
            reference_point=np.asarray(
                self.reference_point if self.reference_point is not None else reference
            ),
            costs=tuple(costs),
        )
