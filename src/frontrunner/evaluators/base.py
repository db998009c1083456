"""What evaluators share: going through preferences, keeping points as they come, making a front."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from frontrunner.errors import ConfigError, FrontError
from frontrunner.front.front import Front
from frontrunner.front.objective import Objective
from frontrunner.front.points import PointLog
from frontrunner.pareto_sets.base import ParetoSet
from frontrunner.preferences import chosen, with_uniform
from frontrunner.runner.ranks import ALONE, Ranks
from frontrunner.tasks.base import Task
from frontrunner.tasks.pruning import PruningTask

Array = NDArray[np.float64]


class Evaluator(ABC):
    """Turns a Pareto set into a front, one preference after the other.

    A subclass implements `score` and `axes`.

    Attributes:
        what: in which terms objectives are measured.
        split: the split of the data that is scored, or None where none is.
        together: preferences that `scored_together` is asked for at once.
        own_axes: whether the objectives are others than the task's, to which preferences belong.
        needs_costs: whether it asks the Pareto set what each model took to make.

    Args:
        points: None scores the set's own preferences; a number scores a simplex lattice of that
            many instead, and ``scenarios`` those of `frontrunner.preferences.scenarios`, for sets
            that answer any preference.
        reference_point: None takes that of `axes`.
    """

    what: str
    split: str | None
    together: int = 1
    own_axes: bool = False
    needs_costs: bool = False

    def __init__(
        self, points: int | str | None = None, reference_point: Sequence[float] | None = None
    ) -> None:
        self.points, self.reference_point = points, reference_point

    @abstractmethod
    def score(
        self,
        pareto_set: ParetoSet,
        task: Task,
        preference: Array,
        device: torch.device | str,
    ) -> Array:
        """The objectives at one preference, (m,)."""

    @abstractmethod
    def axes(self, task: Task) -> tuple[tuple[Objective, ...], Sequence[float] | None]:
        """The objectives with their directions and units, and their reference point, if any."""

    def scored(
        self,
        pareto_set: ParetoSet,
        task: Task,
        preference: Array,
        device: torch.device | str,
    ) -> tuple[Array, dict[str, float]]:
        """`score`, and numbers to keep with the point beside what it cost."""
        return self.score(pareto_set, task, preference, device), {}

    def scored_together(
        self, pareto_set: ParetoSet, task: Task, preferences: Array, device: torch.device | str
    ) -> list[tuple[Array, dict[str, float]]]:
        """`scored` at several preferences (k, m)."""
        return [self.scored(pareto_set, task, p, device) for p in preferences]

    def score_dense(self, task: Task, device: torch.device | str) -> Array | None:
        """The objectives of the model that was pruned, (m,); None where they are not measured."""
        return None

    def info(self, task: Task) -> dict[str, Any]:
        """What the front's ``info`` says of how it was scored; JSON values."""
        return {}

    def check(self, task: Task) -> None:
        """Fail before anything is spent if these settings do not fit the task.

        Raises:
            ConfigError: a task that cannot be measured so, or a reference point of the wrong
                length.
            FrontError: no lattice of that many points.
        """
        reference, m = self.reference_point, len(self.axes(task)[0])
        if m < 2:
            raise ConfigError(
                f"task '{task.name}' has one objective, and a front needs two: use "
                "evaluator=cost_quality"
            )
        if self.points is not None:
            chosen(task.m, self.points)
        if reference is not None and (
            len(reference) != m or not np.isfinite(np.asarray(reference, dtype=float)).all()
        ):
            raise ConfigError(
                f"evaluator.reference_point needs {m} finite numbers, not {list(reference)}"
            )

    def key(self, pareto_set: ParetoSet) -> str:
        """Identifies weights, preferences and settings; points logged under it can be reused."""
        return f"{pareto_set.digest()}-{self.what}-{self.split}-{self.points}"

    def preferences(self, pareto_set: ParetoSet, task: Task) -> Array:
        """Those that are scored, (n, m); of a pruned model the equal one is among them."""
        if self.points is None:
            return pareto_set.preferences
        found = chosen(task.m, self.points)
        return with_uniform(found) if isinstance(task, PruningTask) else found

    def _asked_for(self, pareto_set: ParetoSet, task: Task) -> tuple[str, ...]:
        """What the entries of a preference ask for, where that is not the objectives in order."""
        names = tuple(o.name for o in task.objectives)
        if pareto_set.m == task.m:
            return names if self.own_axes else ()
        return () if self.needs_costs else ("cost", *names)

    def evaluate(
        self,
        pareto_set: ParetoSet,
        task: Task,
        log: PointLog | None = None,
        device: torch.device | str = "cpu",
        ranks: Ranks = ALONE,
    ) -> Front:
        """Score a Pareto set. Points already in ``log`` are not scored again.

        Of several processes, process r of W scores the preferences r, r + W, …; all of them have to
        call this, each with a log of its own, and all get the same front. Of a pruned model,
        ``info["dense"]`` has the objectives before pruning, in the first process.

        Raises:
            FrontError: an objective is not finite; the preference is named.
        """
        dense = None
        if isinstance(task, PruningTask) and not ranks.rank:
            # First, and not kept: a device may have no room for two models.
            dense = self.score_dense(task, device)
        preferences = self.preferences(pareto_set, task)
        done: dict[int, dict[str, Any]] = log.done() if log else {}
        found = {i: (done[i]["values"], done[i]["cost"]) for i in done}
        own = range(ranks.rank, len(preferences), ranks.world)
        todo = [index for index in own if index not in done]
        for first in range(0, len(todo), self.together):
            some, start = todo[first : first + self.together], time.perf_counter()
            scored = self.scored_together(pareto_set, task, preferences[some], device)
            seconds = (time.perf_counter() - start) / len(some)
            for index, (point, beside) in zip(some, scored, strict=True):
                if not np.isfinite(point).all():
                    raise FrontError(
                        f"the objectives at preference {preferences[index].round(4).tolist()} are "
                        f"not finite: {point.tolist()}"
                    )
                cost = {"seconds": seconds, **beside}
                if log:
                    log.append(index, preferences[index], point, cost)
                found[index] = [float(x) for x in point], cost
        mine = [found[index] for index in own]
        shares = ranks.gather(mine)
        points = [shares[i % ranks.world][i // ranks.world] for i in range(len(preferences))]
        objectives, reference = self.axes(task)
        if self.reference_point is not None:
            reference = self.reference_point
        front = Front(
            objectives=objectives,
            values=np.array([values for values, _ in points]),
            preferences=preferences,
            preference_kind=pareto_set.preference_kind,
            preference_names=self._asked_for(pareto_set, task),
            reference_point=None if reference is None else np.asarray(reference),
            costs=tuple(cost for _, cost in points),
            info=self.info(task),
        )
        if dense is None:
            return front
        names = [objective.name for objective in objectives]
        return front.with_info({"dense": dict(zip(names, dense.tolist(), strict=True))})
