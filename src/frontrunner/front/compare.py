"""Compare fronts of several methods over several seeds: one reference point, one normalisation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from frontrunner.errors import FrontError, nearest
from frontrunner.front import caveats, indicators, statistics
from frontrunner.front.collect import Entries, Entry
from frontrunner.front.comparison import COSTS, Comparison, Group, Pair, Run, indicator_list
from frontrunner.front.front import Front, check_comparable

Array = NDArray[np.float64]

__all__ = ["Comparison", "compare", "covered", "normalise"]


def compare(
    entries: Sequence[Entry],
    *,
    reference_point: ArrayLike | None = None,
    baseline: str | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = 2000,
) -> Comparison:
    """Compare the fronts of ``entries``, grouped by label.

    Args:
        entries: as `collect` returns them.
        reference_point: (m,) in the objectives' own units and directions. Without one, the fronts'
            common reference point is used, or one is derived from the fronts if none has any: the
            nadir of their joint non-dominated points, moved outwards by a tenth of the range.
        baseline: test every other label against this one instead of every pair.
        confidence: of the intervals; tests are at the level 1 - confidence.
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Raises:
        FrontError: no fronts; different objectives, tasks, splits or reference points; two
            different fronts under one label and seed; an unknown baseline.
    """
    entries, notes = _distinct(entries)
    _check(entries)
    task, split = _common(entries, "task"), _common(entries, "split")
    _same_limit(entries)
    fronts = [e.front for e in entries]
    points = [f.minimised for f in fronts]
    union = np.vstack(points)
    union = union[indicators.nondominated(union)]
    reference, source = _reference(entries, reference_point, union)
    signs = fronts[0].signs
    ideal, nadir = np.vstack(points).min(axis=0), np.vstack(points).max(axis=0)
    best = indicators.hypervolume(union, reference)
    runs = [_run(e, reference, best, union, ideal, nadir) for e in entries]

    labels = list(dict.fromkeys(e.label for e in entries))
    if baseline is not None and baseline not in labels:
        raise FrontError(f"no front is labelled '{baseline}'{nearest(baseline, labels)}")
    options: dict[str, Any] = {"confidence": confidence, "resamples": resamples, "seed": seed}
    keys = [i.key for i in indicator_list(fronts[0].objectives)]
    groups = []
    for label in labels:
        mine = tuple(r for r in runs if r.label == label)
        values = {k: [v for r in mine if (v := r.indicators[k]) is not None] for k in keys}
        described = {k: statistics.describe(v, **options) for k, v in values.items()}
        groups.append(Group(label, mine, described))
    pairs = _test(groups, baseline, options)
    named = {
        label: [(e.seed, p) for e, p in zip(entries, points, strict=True) if e.label == label]
        for label in labels
    }
    coverage = {a: {b: _coverage(named[a], named[b]) for b in labels} for a in labels}
    result = Comparison(
        objectives=fronts[0].objectives,
        task=task,
        split=split,
        evaluator=_common(entries, "evaluator", refuse=False),
        reference_point=reference * signs,
        reference_source=source,
        ideal=ideal * signs,
        nadir=nadir * signs,
        union_hypervolume=best,
        hypervolume_method=indicators.hypervolume_method(len(signs)),
        groups=tuple(groups),
        pairs=tuple(pairs),
        coverage=coverage,
        baseline=baseline,
        **options,
        skipped=entries.skipped,
        dense=_dense(entries),
    )
    return caveats.add(result, entries, notes)


# ---------------------------------------------------------------------- may they be compared?


def _distinct(entries: Sequence[Entry]) -> tuple[Entries, list[str]]:
    """Drop exact repetitions; refuse different fronts under one label and seed."""
    if not entries:
        raise FrontError("there are no fronts to compare")
    kept, notes = Entries(), list[str]()
    seen: dict[tuple[str, int | None], Entry] = {}
    kept.skipped = getattr(entries, "skipped", ())
    for entry in entries:
        other = seen.get((entry.label, entry.seed)) if entry.seed is not None else None
        if other is None:
            seen[entry.label, entry.seed] = entry
            kept.append(entry)
        elif other.front.objectives == entry.front.objectives and np.array_equal(
            other.front.values, entry.front.values
        ):
            notes.append(f"{entry.path} repeats {other.path} and was counted once")
        else:
            raise FrontError(
                f"two different fronts are labelled '{entry.label}' with seed {entry.seed}: "
                f"{other.path} and {entry.path}; name one of them, or label runs differently "
                "(label='a-${method.sparsity}', say)"
            )
    return kept, notes


def _check(entries: Sequence[Entry]) -> None:
    first = entries[0]
    for entry in entries[1:]:
        try:
            check_comparable([first.front, entry.front])
        except FrontError as error:
            raise FrontError(f"{error} ({first.path} and {entry.path})") from None


def _common(entries: Sequence[Entry], key: str, *, refuse: bool = True) -> str | None:
    """What all fronts that name ``key`` say; None if none does, or (not refused) if they differ."""
    said = {str(v): e.path for e in entries if (v := e.front.info.get(key)) is not None}
    if len(said) > 1:
        if not refuse:
            return None
        (a, first), (b, second) = list(said.items())[:2]
        raise FrontError(
            f"fronts of different {key}s cannot be compared: '{a}' ({first}) and '{b}' ({second})"
        )
    return next(iter(said), None)


def _dense(entries: Sequence[Entry]) -> dict[str, float] | None:
    """What all fronts say of the model before pruning; None if they do not agree."""
    said = [entry.front.info.get("dense") for entry in entries]
    if not all(isinstance(x, Mapping) and x == said[0] for x in said):
        return None
    return {str(name): float(value) for name, value in said[0].items()}  # type: ignore[union-attr]


def _same_limit(entries: Sequence[Entry]) -> None:
    """Refuse fronts of which one was scored on fewer documents than another."""
    first = entries[0]
    limit = first.front.info.get("limit")
    for entry in entries[1:]:
        other = entry.front.info.get("limit")
        if other != limit:
            said = [f"{'none' if x is None else x}" for x in (limit, other)]
            raise FrontError(
                "fronts scored with different limits on documents (evaluator.limit) cannot be "
                f"compared: {said[0]} ({first.path}) and {said[1]} ({entry.path})"
            )


def _reference(
    entries: Sequence[Entry], given: ArrayLike | None, union: Array
) -> tuple[Array, str]:
    """The minimised reference point (m,) and where it is from."""
    if given is not None:
        return entries[0].front.with_reference(given).minimised_reference, "given"
    stated = [e for e in entries if e.front.reference_point is not None]
    if not stated:
        nadir = union.max(axis=0)
        span = nadir - union.min(axis=0)
        # A flat objective has no range to take a tenth of; its own size stands in.
        span = np.where(span > 0, span, np.maximum(np.abs(nadir), 1.0))
        return nadir + 0.1 * span, "derived"
    first = stated[0]
    for entry in stated[1:]:
        a, b = first.front.reference_point, entry.front.reference_point
        if not np.allclose(a, b, rtol=1e-9, atol=0.0):  # type: ignore[arg-type]
            raise FrontError(
                "fronts with different reference points cannot be compared: "
                f"{a.tolist()} ({first.path}) and {b.tolist()} ({entry.path}); "  # type: ignore
                "give one reference point for all"
            )
    return first.front.minimised_reference, "common"


# ---------------------------------------------------------------------- numbers


def normalise(points: Array, ideal: Array, nadir: Array) -> Array:
    """Map minimised points (n, m) so that ideal is 0 and nadir 1; a flat objective stays 0."""
    span = nadir - ideal
    return (points - ideal) / np.where(span > 0, span, 1.0)


def _run(
    entry: Entry, reference: Array, best: float, union: Array, ideal: Array, nadir: Array
) -> Run:
    front: Front = entry.front
    points = front.minimised
    scaled, known = normalise(points, ideal, nadir), normalise(union, ideal, nadir)
    summary = indicators.summary(
        scaled,
        None,
        preferences=front.preferences if front.aligned else None,
        preference_kind=front.preference_kind,
    )
    volume = indicators.hypervolume(points, reference)
    mask = indicators.nondominated(points)
    cost = front.info.get("cost")
    values = {
        "hypervolume": volume,
        "relative_hypervolume": volume / best if best > 0 else None,
        "igd_plus": indicators.igd_plus(scaled, known),
        "epsilon_additive": indicators.epsilon_additive(scaled, known),
        "nondominated_share": float(mask.mean()),
        "beyond_reference": indicators.beyond_reference(points, reference),
        "points": len(points),
        **{k: summary[k] for k in ("spacing", "uniformity", "gap_deviation", "rank_alignment")},
        **{
            f"range:{o.name}": float(x)
            for o, x in zip(front.objectives, indicators.extent(points[mask]), strict=True)
        },
        **{i.key: cost.get(i.key) if isinstance(cost, Mapping) else None for i in COSTS},
    }
    return Run(entry.label, entry.seed, str(entry.path), {k: _number(v) for k, v in values.items()})


def _test(groups: Sequence[Group], baseline: str | None, options: dict[str, Any]) -> list[Pair]:
    """Paired tests on the hypervolume of every pair, or of every group against the baseline."""
    if baseline is None:
        chosen = list(combinations(groups, 2))
    else:
        base = next(g for g in groups if g.label == baseline)
        chosen = [(g, base) for g in groups if g is not base]
    rows = []
    for a, b in chosen:
        left, right = ({r.seed: r.indicators["hypervolume"] for r in g.runs} for g in (a, b))
        shared = [
            (s, left[s] - right[s])  # type: ignore[operator]
            for s in sorted(set(a.seeds) & set(b.seeds))
            if left[s] is not None and right[s] is not None
        ]
        differences = [d for _, d in shared]
        difference = statistics.describe(differences, **options)
        rows.append((a, b, [s for s, _ in shared], difference, statistics.paired_test(differences)))
    tested = [i for i, row in enumerate(rows) if row[4].p is not None]
    adjusted = dict(zip(tested, statistics.holm([rows[i][4].p for i in tested]), strict=True))  # type: ignore[misc]
    floor = dict(zip(tested, statistics.holm([rows[i][4].smallest for i in tested]), strict=True))
    alpha = caveats.level(options["confidence"])
    return [
        Pair(
            a=a.label,
            b=b.label,
            seeds=tuple(seeds),
            difference=difference,
            test=test,
            adjusted=adjusted.get(i),
            possible=floor.get(i, 1.0) <= alpha,
            significant=adjusted.get(i, 1.0) <= alpha,
        )
        for i, (a, b, seeds, difference, test) in enumerate(rows)
    ]


def covered(a: Array, b: Array) -> float:
    """C(A, B): share of b's points (k, m) that some point of a (n, m) weakly dominates.

    Source: Zitzler & Thiele, IEEE TEVC 3(4), 1999.
    """
    return float(np.mean([(a <= row).all(axis=1).any() for row in b]))


def _coverage(
    a: Sequence[tuple[int | None, Array]], b: Sequence[tuple[int | None, Array]]
) -> float:
    shared = [covered(p, q) for s, p in a for t, q in b if s is not None and s == t]
    return float(np.mean(shared or [covered(p, q) for _, p in a for _, q in b]))


def _number(value: Any) -> float | None:
    """A finite number, or None; another tool may have written anything."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        return None
    return float(value) if math.isfinite(value) else None
