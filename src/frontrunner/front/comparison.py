"""What a comparison holds: indicators per run, statistics per method, tests per pair."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frontrunner.front.collect import Skipped
from frontrunner.front.objective import Objective
from frontrunner.front.statistics import PairedTest, Statistic

Array = NDArray[np.float64]

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Indicator:
    """A number per run. ``better`` is +1 if more is better, -1 if less, 0 if neither is."""

    key: str
    title: str
    better: int


COSTS = (
    Indicator("seconds", "seconds", -1),
    Indicator("forward_passes", "forward passes", -1),
    Indicator("peak_memory_bytes", "peak memory [bytes]", -1),
    Indicator("stored_parameters", "stored parameters", -1),
)


def indicator_list(objectives: Sequence[Objective]) -> tuple[Indicator, ...]:
    """What is computed for every run, in the order in which it is shown."""
    return (
        Indicator("hypervolume", "hypervolume", 1),
        Indicator("relative_hypervolume", "relative HV", 1),
        Indicator("igd_plus", "IGD+", -1),
        Indicator("epsilon_additive", "additive ε", -1),
        Indicator("nondominated_share", "non-dominated share", 1),
        Indicator("beyond_reference", "beyond reference", -1),
        Indicator("spacing", "spacing", -1),
        Indicator("uniformity", "smallest gap", 1),
        Indicator("gap_deviation", "gap deviation", -1),
        Indicator("rank_alignment", "rank alignment", 1),
        *(Indicator(f"range:{o.name}", f"range of {o.name}", 0) for o in objectives),
        Indicator("points", "points", 0),
        *COSTS,
    )


@dataclass(frozen=True)
class Run:
    """One run's indicators; None where one does not apply or the front does not say."""

    label: str
    seed: int | None
    path: str
    indicators: Mapping[str, float | None]


@dataclass(frozen=True)
class Group:
    """The runs of one method and their statistics, by indicator; None where no run has it."""

    label: str
    runs: tuple[Run, ...]
    statistics: Mapping[str, Statistic | None]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the runs that have one, in order."""
        return tuple(r.seed for r in self.runs if r.seed is not None)


@dataclass(frozen=True)
class Pair:
    """Two groups over the seeds they share.

    Attributes:
        a, b: labels; differences are a minus b.
        seeds: the shared seeds.
        difference: of the hypervolumes; None without shared seeds.
        test: paired test on the hypervolumes.
        adjusted: p after Holm's correction over all pairs; None without shared seeds.
        possible: whether any data on these seeds could have been significant after Holm.
        significant: ``adjusted`` at most 1 - confidence.
    """

    a: str
    b: str
    seeds: tuple[int, ...]
    difference: Statistic | None
    test: PairedTest
    adjusted: float | None
    possible: bool
    significant: bool


@dataclass(frozen=True, eq=False)
class Comparison:
    """What `compare` found, with the conventions it was found under.

    Attributes:
        objectives: common to all fronts.
        task, split, evaluator: common to all fronts that say, or None.
        reference_point: (m,) in the objectives' own units and directions.
        reference_source: ``given``, ``common`` or ``derived``.
        ideal, nadir: (m,) best and worst value over all points of all fronts, own units;
            distances and gaps are measured after mapping them to 0 and 1.
        union_hypervolume: of all fronts together; relative hypervolumes are divided by it.
        hypervolume_method: ``exact`` or ``approximate``.
        groups: one per label.
        pairs: the paired tests.
        coverage: ``coverage[a][b]``: share of b's points weakly dominated by a's, mean over shared
            seeds, or over all combinations of runs where no seed is shared.
        baseline: the label all others are tested against, or None for all pairs.
        confidence, resamples, seed: of the bootstrap intervals.
        warnings: what may make the comparison unfair or weak.
        conclusions: what may be concluded, in words.
        skipped: runs that were found but left out.
        dense: the objectives of the model before it was pruned, by name, where all fronts agree.
    """

    objectives: tuple[Objective, ...]
    task: str | None
    split: str | None
    evaluator: str | None
    reference_point: Array
    reference_source: str
    ideal: Array
    nadir: Array
    union_hypervolume: float
    hypervolume_method: str
    groups: tuple[Group, ...]
    pairs: tuple[Pair, ...]
    coverage: Mapping[str, Mapping[str, float]]
    baseline: str | None
    confidence: float
    resamples: int
    seed: int
    warnings: tuple[str, ...] = ()
    conclusions: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    dense: Mapping[str, float] | None = None

    @property
    def indicators(self) -> tuple[Indicator, ...]:
        """What was computed for every run."""
        return indicator_list(self.objectives)

    def group(self, label: str) -> Group:
        """The group of that label."""
        return next(g for g in self.groups if g.label == label)

    def best(self, key: str) -> set[str]:
        """Labels with the best mean of an indicator; empty if it has no better end or no rival."""
        better = next(i.better for i in self.indicators if i.key == key)
        means = {g.label: s.mean for g in self.groups if (s := g.statistics[key]) is not None}
        if better == 0 or len(means) < 2 or len(set(means.values())) == 1:
            return set()
        top = max(better * mean for mean in means.values())
        return {label for label, mean in means.items() if better * mean == top}

    def table(self, markdown: bool = False) -> str:
        """The groups side by side, best values marked, with the conventions underneath."""
        from frontrunner.front import text

        return text.table(self, markdown=markdown)

    def to_dict(self) -> dict[str, Any]:
        """The content of ``comparison.json``: JSON values only, never NaN."""
        out = {"schema_version": SCHEMA_VERSION, **asdict(self)}
        for group, row in zip(self.groups, out["groups"], strict=True):
            row["seeds"] = list(group.seeds)
        return _plain(out)


def _plain(value: Any) -> Any:
    """``value`` with JSON types only."""
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
