"""What a comparison may and may not say: its warnings and its conclusions, in words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from frontrunner.front import statistics
from frontrunner.front.collect import Entry
from frontrunner.front.text import listed, number, signed

if TYPE_CHECKING:
    from frontrunner.front.comparison import Comparison, Pair

BUDGET_TOLERANCE = 0.10
"""Forward passes may differ by this share between methods before it is called unfair."""


SENTENCES_UP_TO = 10
"""More tests than these are told together, by the method that is ahead."""


def level(confidence: float) -> float:
    """Level of the tests, 1 - confidence, without the rounding error of the subtraction."""
    return round(1.0 - confidence, 12)


def add(comparison: Comparison, entries: Sequence[Entry], notes: Sequence[str]) -> Comparison:
    """The comparison with its warnings (``notes`` first) and conclusions."""
    return replace(
        comparison,
        warnings=(*notes, *_warnings(comparison, entries)),
        conclusions=tuple(_conclusions(comparison)),
    )


# ---------------------------------------------------------------------- warnings


def _warnings(c: Comparison, entries: Sequence[Entry]) -> list[str]:
    out = [f"{s.path} was left out: {s.reason}" for s in c.skipped]
    if c.reference_source == "derived":
        out.append(
            "the reference point was derived from these fronts: hypervolumes change when a front "
            "is added; give the task's own to compare with other tables"
        )
    if c.union_hypervolume == 0:
        out.append("no point is strictly better than the reference point: all hypervolumes are 0")
    flat = [o.name for o, a, b in zip(c.objectives, c.ideal, c.nadir, strict=True) if a == b]
    if flat:
        out.append(f"all points have the same value of {listed(flat)}")
    if c.hypervolume_method != "exact":
        out.append(f"with {len(c.objectives)} objectives the hypervolume is an estimate")
    for key in ("task", "split"):
        silent = sum(e.front.info.get(key) is None for e in entries)
        if silent and getattr(c, key) is not None:
            out.append(f"{silent} of {len(entries)} fronts do not say their {key}")
    evaluators = {str(e.front.info["evaluator"]) for e in entries if e.front.info.get("evaluator")}
    if len(evaluators) > 1:
        out.append(f"the fronts come from different evaluators: {listed(sorted(evaluators))}")
    out += _scoring(entries) + _seeds(c) + _points(c)
    # Where cost is an objective, budgets are meant to differ.
    costs = [o for o in c.objectives if o.name == "cost"]
    if any(o.unit == "s" for o in costs):
        out.append(
            "costs are seconds, which depend on the machine and on what else it did: compare them "
            "only within one undisturbed machine, or use evaluator.cost=share"
        )
    return out + _collapsed(entries) + ([] if costs else _budgets(c))


def _scoring(entries: Sequence[Entry]) -> list[str]:
    """What lm-eval was told: fronts that differ in it were not scored alike."""
    out = []
    limit = entries[0].front.info.get("limit")  # one for all: others are refused
    if limit is not None:
        which = f"its first {limit:g}" if limit >= 1 else f"{100 * limit:g} % of its"
        out.append(
            f"each task was scored on {which} documents only (evaluator.limit): these scores are "
            "no basis for claims"
        )
    settings = [s for e in entries if isinstance(s := e.front.info.get("lm_eval"), Mapping)]
    for key in dict.fromkeys(key for s in settings for key in s):
        if len({json.dumps(s.get(key), sort_keys=True) for s in settings}) > 1:
            out.append(f"lm-eval did not score all fronts alike: they differ in {key}")
    return out


def _collapsed(entries: Sequence[Entry]) -> list[str]:
    """Trainings that failed without an error: they count in every mean, and have to be named."""
    failed: dict[str, list[str]] = {}
    for e in entries:
        budgets = e.front.info.get("collapsed")
        if isinstance(budgets, list) and budgets:
            said = listed([number(b) for b in dict.fromkeys(budgets)])
            seed = "a run without a seed" if e.seed is None else f"seed {e.seed}"
            failed.setdefault(e.label, []).append(f"{seed} at budget {said}")
    return [
        f"training of '{label}' collapsed, to hardly more than one answer for all samples: "
        f"{'; '.join(runs)}. These models are in all means"
        for label, runs in failed.items()
    ]


def _seeds(c: Comparison) -> list[str]:
    out = []
    every = sorted({s for g in c.groups for s in g.seeds})
    for g in c.groups:
        unnamed = len(g.runs) - len(g.seeds)
        if unnamed:
            out.append(f"'{g.label}': {_runs(unnamed)} without a seed cannot be paired with others")
        missing = [s for s in every if s not in g.seeds]
        if missing and g.seeds:
            out.append(f"'{g.label}' lacks {_seed_list(missing)}, which others have")
    few = [f"'{g.label}' ({_runs(len(g.runs))})" for g in c.groups if len(g.runs) < 3]
    if few:
        out.append(f"fewer than 3 runs: {listed(few)}; spread and intervals say little")
    return out


def _points(c: Comparison) -> list[str]:
    out = []
    counts = {g.label: sorted({int(r.indicators["points"] or 0) for r in g.runs}) for g in c.groups}
    if len({n for ns in counts.values() for n in ns}) > 1:
        said = [f"'{k}' {' or '.join(map(str, ns))}" for k, ns in counts.items()]
        out.append(f"the fronts have different numbers of points: {listed(said)}")
    beyond, dominated = [], []
    for g in c.groups:
        counts_of = [(r.indicators["points"] or 0, r.indicators) for r in g.runs]
        total = round(sum(n for n, _ in counts_of))
        outside = round(sum(v["beyond_reference"] or 0 for _, v in counts_of))
        beaten = round(sum(n * (1 - (v["nondominated_share"] or 0)) for n, v in counts_of))
        if outside:
            beyond.append(f"{outside} of {total} of '{g.label}'")
        if beaten:
            dominated.append(f"{beaten} of {total} of '{g.label}'")
    if beyond:
        out.append(
            "points beyond the reference point, which add nothing to the hypervolume: "
            + listed(beyond)
        )
    if dominated:
        out.append(f"points dominated within their own run: {listed(dominated)}")
    return out


def passes(c: Comparison) -> dict[str, float]:
    """Mean forward passes of the groups that state them."""
    return {g.label: s.mean for g in c.groups if (s := g.statistics["forward_passes"])}


def equal_budgets(a: float, b: float) -> bool:
    """Whether two numbers of forward passes are within the tolerance of each other."""
    return max(a, b) <= (1 + BUDGET_TOLERANCE) * min(a, b)


def _budgets(c: Comparison) -> list[str]:
    known = passes(c)
    silent = [f"'{g.label}'" for g in c.groups if g.label not in known]
    out = []
    if known and silent:
        out.append(f"forward passes are unknown for {listed(silent)}: budgets cannot be compared")
    if len(known) > 1:
        low, high = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
        if not equal_budgets(known[high], known[low]):
            factor = f"{known[high] / known[low]:.2g} times" if known[low] else "more than"
            out.append(
                f"budgets differ: '{high}' used {factor} the forward passes of '{low}' "
                f"({number(known[high])} and {number(known[low])})"
            )
    return out


# ---------------------------------------------------------------------- conclusions


def _conclusions(c: Comparison) -> list[str]:
    if len(c.groups) == 1:
        return [f"Only '{c.groups[0].label}' is here: it is described, and compared with nothing."]
    tested = [p for p in c.pairs if p.test.p is not None]
    able = [p for p in tested if p.possible]
    if len(able) > SENTENCES_UP_TO:
        out = _found_together(able, len(tested))
    else:
        out = [_found(c, p, len(tested)) for p in able]
    out += _impossible(c, [p for p in tested if not p.possible], len(tested))
    unpaired = [f"'{p.a}' and '{p.b}'" for p in c.pairs if p.test.p is None]
    if unpaired:
        out.append(f"Not tested, since they share no seed: {'; '.join(unpaired)}.")
    out += _dominance(c) + _unlike_budgets(c)
    where = f"the {c.split} split" if c.split else "these data"
    out.append(
        "The tests concern the hypervolume at this reference point, on "
        f"{where} and over these seeds; the other indicators are described, not tested."
    )
    return out


def _found(c: Comparison, p: Pair, tests: int) -> str:
    seeds = f"{len(p.seeds)} shared seeds"
    holm = f"p = {number(p.adjusted)}" + (f" after Holm over {tests} tests" if tests > 1 else "")
    assert p.difference is not None
    if not p.significant:
        return (
            f"No difference in hypervolume between '{p.a}' and '{p.b}' is shown on {seeds} "
            f"({_difference(c, p)}; {holm}); that is not evidence that they are equal."
        )
    a, b = (p.a, p.b) if p.difference.mean > 0 else (p.b, p.a)
    return (
        f"'{a}' reaches a larger hypervolume than '{b}' on {seeds} ({_difference(c, p)}; {holm})."
    )


def _found_together(pairs: Sequence[Pair], tests: int) -> list[str]:
    """One sentence for each method that is ahead of others, and one for what is not shown."""
    ahead: dict[str, list[str]] = {}
    for p in pairs:
        if p.significant and p.difference is not None:
            a, b = (p.a, p.b) if p.difference.mean > 0 else (p.b, p.a)
            ahead.setdefault(a, []).append(f"'{b}'")
    holm = f"after Holm over {tests} tests; differences and intervals are in the table of tests"
    out = [
        f"'{a}' reaches a larger hypervolume than {listed(others)} ({holm})."
        for a, others in ahead.items()
    ]
    open_ = [f"'{p.a}' and '{p.b}'" for p in pairs if not p.significant]
    if open_:
        out.append(
            f"No difference in hypervolume is shown between {'; '.join(open_)}; that is not "
            "evidence that they are equal."
        )
    return out


def _unlike_budgets(c: Comparison) -> list[str]:
    """Which comparisons rest on different budgets, unless cost is an objective."""
    known = passes(c)
    if any(o.name == "cost" for o in c.objectives):
        return []
    pairs = [(p.a, p.b) for p in c.pairs if p.a in known and p.b in known]
    unlike = [(a, b) for a, b in pairs if not equal_budgets(known[a], known[b])]
    if not unlike:
        return []
    if len(unlike) <= SENTENCES_UP_TO:
        said = [f"'{a}' and '{b}' ({number(known[a])} : {number(known[b])})" for a, b in unlike]
        which = "; ".join(said)
    else:
        at: dict[str, list[str]] = {}
        for label, n in sorted(known.items(), key=lambda item: item[1]):
            at.setdefault(number(n), []).append(f"'{label}'")
        which = "; ".join(f"{n} for {listed(labels)}" for n, labels in at.items())
    if len(pairs) == 1:
        return [
            f"This comparison rests on different budgets, in forward passes: {which}. What it "
            "shows is of methods and budgets together."
        ]
    count = "All" if len(unlike) == len(pairs) else str(len(unlike))
    return [
        f"{count} of {len(pairs)} comparisons rest on different budgets, in forward passes: "
        f"{which}. What they show is of methods and budgets together."
    ]


def _difference(c: Comparison, p: Pair) -> str:
    d = p.difference
    assert d is not None
    text = f"'{p.a}' minus '{p.b}': {signed(d.mean)}"
    if d.low is not None and d.high is not None:
        text += f", {100 * c.confidence:g} % interval {signed(d.low)} to {signed(d.high)}"
    return text


def _impossible(c: Comparison, pairs: Sequence[Pair], tests: int) -> list[str]:
    """One sentence for all pairs with as few seeds as each other."""
    out = []
    alpha = level(c.confidence)
    for n in sorted({p.test.n for p in pairs}):
        mine = [p for p in pairs if p.test.n == n]
        least = f"the smallest possible two-sided p is {number(statistics.smallest_p(n))}"
        if tests > 1:
            least += f", before Holm's correction over {tests} tests"
        if len(mine) <= 3:
            names = "; ".join(f"'{p.a}' and '{p.b}' ({_difference(c, p)})" for p in mine)
        else:
            names = f"{len(mine)} pairs, whose observed differences are in the table of tests"
        out.append(
            f"With {n} shared {'seed' if n == 1 else 'seeds'} no difference can be significant at "
            f"the {100 * alpha:g} % level, whatever the data: {least}. At least "
            f"{statistics.seeds_needed(tests, alpha)} shared seeds are needed. Undecided: {names}."
        )
    return out


def _dominance(c: Comparison) -> list[str]:
    """Pairs in which one side covers the other whole: true whatever the reference point."""
    out = []
    for a in c.groups:
        beaten: dict[str, list[str]] = {}
        for b in c.groups:
            if a is b or c.coverage[a.label][b.label] < 1 or c.coverage[b.label][a.label] == 1:
                continue
            over = "on every shared seed" if set(a.seeds) & set(b.seeds) else "in every run"
            beaten.setdefault(over, []).append(f"'{b.label}'")
        out += [
            f"Every point of {listed(labels)} is matched or dominated by a point of '{a.label}' "
            f"{over}, which holds for any reference point."
            for over, labels in beaten.items()
        ]
    return out


# ---------------------------------------------------------------------- words


def _runs(n: int) -> str:
    return f"{n} run" if n == 1 else f"{n} runs"


def _seed_list(seeds: Sequence[int]) -> str:
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {listed([str(s) for s in np.unique(seeds)])}"
