"""What data-free mergers share: preferences, and coefficients chosen on validation data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from frontrunner.errors import ConfigError
from frontrunner.front.indicators import hypervolume
from frontrunner.methods.base import Method, choice, positive
from frontrunner.pareto_sets.base import ParetoSet
from frontrunner.pareto_sets.merged import MergedSet, Rule
from frontrunner.preferences import grid, with_uniform
from frontrunner.runner.runner import Runner
from frontrunner.tasks.base import Task
from frontrunner.tasks.merging import MergingTask

Array = NDArray[np.float64]
Preferences = Literal["equal", "grid", "corners"]
ScalePer = Literal["front", "preference"]

SCALES = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0)


def preferences_of(kind: str, k: int, points: int) -> Array:
    """(n, k): ``equal`` the uniform preference alone; ``corners`` the one-hot ones; ``grid`` the
    simplex lattice of ``points``, and the uniform preference where it is not among them.

    Raises:
        FrontError: no lattice of that size.
    """
    if kind == "equal":
        return np.full((1, k), 1.0 / k)
    return np.eye(k) if kind == "corners" else with_uniform(grid(k, points))


def merging_task(task: Task) -> MergingTask:
    """``task`` if it has models to merge.

    Raises:
        ConfigError: it has none.
    """
    if not isinstance(task, MergingTask):
        raise ConfigError(
            f"task '{task.name}' has no models to merge; choose one, such as task=merge_digits"
        )
    return task


class Merger(Method):
    """Merges tensor by tensor by a `Rule`, one model for each preference.

    Args:
        rule: how to merge.
        points: size of the lattice of preferences.
        preferences: ``equal`` (one model, as published), ``grid`` (a front) or ``corners``.
        scale: λ of the merged task vector at every preference. None chooses from ``scales`` on
            validation data, see `choose_scales`.
        scales: candidates; every method of a comparison gets the same number.
        scale_per: ``front`` chooses one λ for all preferences, ``preference`` one for each.
        published: λ where ``scale`` is None and the task has no validation data.

    Raises:
        ConfigError: an unknown choice, no candidates, or one that is not a number of at least 0.
    """

    # Little work, done in one process; the others only score.
    distributed = False

    def __init__(
        self,
        rule: Rule,
        points: int,
        preferences: Preferences = "equal",
        scale: float | None = None,
        scales: Sequence[float] = SCALES,
        scale_per: ScalePer = "front",
        published: float = 1.0,
    ) -> None:
        self.rule, self.points, self.scale, self.published = rule, points, scale, published
        self.preferences = choice("method.preferences", preferences, ("equal", "grid", "corners"))
        self.scales = sorted(float(positive("method.scales", s, zero=True)) for s in scales)
        self.scale_per = choice("method.scale_per", scale_per, ("front", "preference"))
        if not (scale is None or (isinstance(scale, int | float) and math.isfinite(scale))):
            raise ConfigError(f"method.scale={scale} must be a number, or null to choose one")
        if not self.scales and rule.scaled and scale is None:
            raise ConfigError("method.scales is empty; give candidates, or method.scale")

    def check(self, task: Task) -> None:
        preferences_of(self.preferences, merging_task(task).m, self.points)

    def switches(self) -> dict[str, Any]:
        if not self.rule.scaled:
            return {"scale": "none"}
        if self.scale is not None:
            return {"scale": self.scale}
        return {"scale": f"chosen per {self.scale_per}, on validation data where there are any"}

    def fit(self, task: Task, runner: Runner) -> ParetoSet:
        merging = merging_task(task)
        self.rule.check(merging.parents())
        preferences = preferences_of(self.preferences, merging.m, self.points)
        start = self.scale if self.scale is not None else self.published
        with runner.one_shot():
            merged = MergedSet(merging, self.rule, preferences, start)
            if self.rule.scaled and self.scale is None and merging.has_data:
                merged.to(runner.evaluation_device)
                choose_scales(merged, merging, self.scales, self.scale_per, runner)
        return merged.to("cpu")


def choose_scales(
    merged: MergedSet,
    task: MergingTask,
    candidates: Sequence[float],
    per: str,
    runner: Runner,
) -> None:
    """Set a merged set's scales from candidates, on validation data, in terms of what the task
    selects by. Every preference is evaluated at every candidate; of equals, the smaller is taken,
    and none whose objectives are not finite if there is another.

    ``front``: the candidate at which all preferences together have the largest hypervolume (the
    largest mean, if there is one preference). ``preference``: for each preference p the candidate
    with the best Σ_k p_k v_k.
    """
    what, device = task.selection, runner.evaluation_device
    values = np.array(
        [
            [
                task.measure(merged.at_scale(p, scale), "validation", what=what, device=device)
                for p in merged.preferences
            ]
            for scale in candidates
        ]
    )  # (candidates, n, m)
    runner.cost["forward_passes"] += values.shape[0] * values.shape[1]
    diverged = ~np.isfinite(values).all(axis=2)
    finite = np.nan_to_num(values)
    if per == "front" and len(merged.preferences) > 1:
        volumes = np.array([volume(task, front) for front in finite])
        volumes[diverged.any(axis=1)] = -1.0
        merged.scales[:] = candidates[int(np.argmax(volumes))]
    else:
        sign = -1.0 if what == "accuracies" else 1.0
        weighted = sign * np.einsum("snm,nm->sn", finite, merged.preferences)
        weighted[diverged] = np.inf
        merged.scales[:] = np.asarray(candidates)[weighted.argmin(axis=0)]


def volume(task: MergingTask, values: Array) -> float:
    """Hypervolume of what a task selects by, (n, m): of accuracies at 0, of losses at the task's
    reference point."""
    if task.selection == "accuracies":
        return hypervolume(-values, np.zeros(task.m))
    return hypervolume(values, np.asarray(task.reference_point))
