"""The task's own objectives: losses, accuracies or perplexities over a whole split."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import torch

from frontrunner.errors import ConfigError
from frontrunner.evaluators.base import Array, Evaluator
from frontrunner.front.objective import Objective
from frontrunner.methods.base import choice, whole
from frontrunner.pareto_sets.base import ParetoSet
from frontrunner.pareto_sets.conditioned import ConditionedNetwork
from frontrunner.tasks.base import Measure, Split, Task


class Objectives(Evaluator):
    """Scores every preference of a Pareto set on the task's objectives.

    One model at a time sits in memory, its weights changed in place from preference to preference.

    Args:
        what: ``losses`` (minimised, in the task's units), ``accuracies`` (maximised) or
            ``perplexities`` (minimised, the exponential of losses in nats).
        split: ``test``, ``validation`` or ``train``.
        points: see `Evaluator`.
        reference_point: None takes the task's, or 0 for every accuracy.
        batch_size: samples per forward pass.
        together: preferences per forward pass, of sets of one conditioned network: a curve of
            hundreds of points costs a few vectorised passes.
    """

    def __init__(
        self,
        what: Measure = "losses",
        split: Split = "test",
        points: int | str | None = None,
        reference_point: Sequence[float] | None = None,
        batch_size: int = 4096,
        together: int = 1,
    ) -> None:
        super().__init__(points, reference_point)
        choice("evaluator.what", what, get_args(Measure))
        choice("evaluator.split", split, ("train", "validation", "test"))
        self.what: Measure = what
        self.split: Split = split
        self.batch_size = batch_size
        self.together = whole("evaluator.together", together)

    def check(self, task: Task) -> None:
        measures = task.measures()
        if self.what not in measures:
            other = "objectives" if measures else "distances"
            raise ConfigError(f"task '{task.name}' has no {self.what}; use evaluator={other}")
        super().check(task)

    def score(
        self, pareto_set: ParetoSet, task: Task, preference: Array, device: torch.device | str
    ) -> Array:
        return self.scored(pareto_set, task, preference, device)[0]

    def scored(
        self, pareto_set: ParetoSet, task: Task, preference: Array, device: torch.device | str
    ) -> tuple[Array, dict[str, float]]:
        """The objectives; beside them ``materialize_seconds``, what making the model took."""
        pareto_set.to(device)
        start = time.perf_counter()
        network = pareto_set.materialize(preference)
        made = time.perf_counter() - start
        values = task.measure(
            network, self.split, what=self.what, device=device, batch_size=self.batch_size
        )
        return values, {"materialize_seconds": made}

    def scored_together(
        self, pareto_set: ParetoSet, task: Task, preferences: Array, device: torch.device | str
    ) -> list[tuple[Array, dict[str, float]]]:
        if len(preferences) == 1 or not isinstance(pareto_set, ConditionedNetwork):
            return super().scored_together(pareto_set, task, preferences, device)
        pareto_set.to(device)
        values = task.measure_many(
            pareto_set.many(preferences),
            self.split,
            what=self.what,
            device=device,
            batch_size=self.batch_size,
        )
        return [(point, {}) for point in values]

    def score_dense(self, task: Task, device: torch.device | str) -> Array:
        return task.measure(
            task.network().to(device),
            self.split,
            what=self.what,
            device=device,
            batch_size=self.batch_size,
        )

    def axes(self, task: Task) -> tuple[tuple[Objective, ...], Sequence[float]]:
        if self.what == "accuracies":
            better = (replace(o, direction="max", unit="accuracy") for o in task.objectives)
            return tuple(better), (0.0,) * task.m
        if self.what == "perplexities":
            perplexities = (replace(o, unit="perplexity") for o in task.objectives)
            return tuple(perplexities), tuple(math.exp(r) for r in task.reference_point)
        return task.objectives, task.reference_point
