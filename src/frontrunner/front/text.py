"""Numbers, tables and whole comparisons as plain text and Markdown."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from frontrunner.front.comparison import Comparison, Pair
    from frontrunner.front.statistics import Statistic

QUALITY = ("hypervolume", "relative_hypervolume", "igd_plus", "epsilon_additive")
SPREAD = ("nondominated_share", "beyond_reference", "spacing", "uniformity", "gap_deviation")
CONTROL = ("rank_alignment", "seconds", "forward_passes", "stored_parameters")


# ---------------------------------------------------------------------- numbers


def number(value: float | None, digits: int = 4) -> str:
    """A number with so many significant digits; thousands as in 1,250,000; ``-`` for None."""
    if value is None:
        return "-"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 10**digits:
        return f"{value:,.0f}" if abs(value) < 1e9 else f"{value:.{digits}g}"
    return f"{value:.{digits}g}"


def signed(value: float) -> str:
    """A number with its sign."""
    return number(value) if value < 0 else "+" + number(value)


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def spread(statistic: Statistic | None) -> str:
    """``mean ± std``, as precise as the standard deviation's second digit."""
    if statistic is None:
        return "-"
    if not statistic.std:
        return number(statistic.mean)
    if abs(statistic.mean) >= 1e9 or statistic.std < 1e-6:
        return f"{statistic.mean:.4g} ± {statistic.std:.2g}"
    places = max(0, 1 - math.floor(math.log10(statistic.std)))
    return f"{statistic.mean:,.{places}f} ± {statistic.std:,.{places}f}"


def interval(statistic: Statistic | None) -> str:
    """``[low, high]``, or a dash for fewer than two runs."""
    if statistic is None or statistic.low is None or statistic.high is None:
        return "-"
    return f"[{number(statistic.low)}, {number(statistic.high)}]"


def listed(words: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else ""


# ---------------------------------------------------------------------- tables


def grid(head: Sequence[str], rows: Sequence[Sequence[str]], *, markdown: bool = False) -> str:
    """Aligned columns: the first to the left, the others to the right."""
    cells = [[_inline(c) if markdown else c for c in row] for row in [head, *rows]]
    widths = [max(_width(row[j]) for row in cells) for j in range(len(head))]
    lines = [
        [
            _pad(cell, width, right=j > 0)
            for j, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in cells
    ]
    if not markdown:
        rule = ["─" * width for width in widths]
        return "\n".join("  ".join(line).rstrip() for line in [lines[0], rule, *lines[1:]])
    rule = ["-" * width if j == 0 else "-" * (width - 1) + ":" for j, width in enumerate(widths)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])


def table(c: Comparison, *, markdown: bool = False) -> str:
    """Quality, spread and cost of every group, best values marked, and the conventions."""
    titles = {i.key: i.title + _arrow(i.better) for i in c.indicators}
    blocks = []
    for keys in (QUALITY, SPREAD, CONTROL):
        known = [k for k in keys if any(g.statistics[k] for g in c.groups)]
        if keys is not QUALITY and not known:
            continue
        first = keys is QUALITY
        percent = f"{100 * c.confidence:g} % interval"
        head = ["method", *(["runs"] if first else []), *(titles[k] for k in known)]
        if first:
            head.insert(3, percent)
        rows = []
        for g in c.groups:
            row = [g.label, *([str(len(g.runs))] if first else [])]
            for key in known:
                text = spread(g.statistics[key])
                row.append(_marked(text, g.label in c.best(key), markdown))
            if first:
                row.insert(3, interval(g.statistics["hypervolume"]))
            rows.append(row)
        blocks.append(grid(head, rows, markdown=markdown))
    bullet = "- " if markdown else ""
    notes = "\n".join(
        bullet + (_inline(n) if markdown else n)
        for n in conventions(c, mark="bold" if markdown else "*")
    )
    return "\n\n".join([*blocks, notes]) + "\n"


def conventions(c: Comparison, *, mark: str = "*") -> list[str]:
    """Everything a reader must know to reproduce the numbers, a line each."""
    source = {
        "given": "given by the caller",
        "common": "common to the fronts",
        "derived": "derived: nadir of the joint front + 10 % of its range",
    }[c.reference_source]
    objectives = [o.label for o in c.objectives]
    seeds = sorted({s for g in c.groups for s in g.seeds})
    dense = [f"{name} {number(value)}" for name, value in (c.dense or {}).items()]
    return [
        *([f"before pruning: {', '.join(dense)}"] if dense else []),
        f"objectives: {', '.join(objectives)}"
        + (f"; task: {c.task}" if c.task else "")
        + (f"; evaluator: {c.evaluator}" if c.evaluator else ""),
        f"split: {c.split or 'not stated'}; seeds: {', '.join(map(str, seeds)) or 'not stated'}",
        f"reference point: ({', '.join(number(x, 6) for x in c.reference_point)}), {source}; "
        f"relative HV divides by {number(c.union_hypervolume, 6)}, that of all fronts together",
        "IGD+, ε, spacing and gaps: objectives scaled by the ideal "
        f"({', '.join(number(x) for x in c.ideal)}) and nadir "
        f"({', '.join(number(x) for x in c.nadir)}) of all points; against the joint front",
        f"mean ± standard deviation over runs (n - 1); {100 * c.confidence:g} % percentile "
        f"bootstrap interval of the mean, {c.resamples} resamples, seed {c.seed}, too narrow for "
        f"fewer than some 6 runs; {mark} marks the best mean, which is not a test",
    ]


def paired_tests(c: Comparison, *, markdown: bool = False) -> str:
    """The paired tests as a table; empty when there are none."""
    if not c.pairs:
        return ""
    head = ["hypervolume", "seeds", "difference", "interval", "p", "p (Holm)", "test", "verdict"]
    head.append("forward passes")
    rows = [
        [
            f"{p.a} - {p.b}",
            str(len(p.seeds)),
            signed(p.difference.mean) if p.difference else "-",
            interval(p.difference),
            number(p.test.p, 3),
            number(p.adjusted, 3),
            p.test.method,
            verdict(p.significant, p.possible, p.test.p is not None),
            budgets(c, p),
        ]
        for p in c.pairs
    ]
    return grid(head, rows, markdown=markdown)


def budgets(c: Comparison, p: Pair) -> str:
    """Forward passes of a pair as a ratio, ``3 : 1``; ``equal`` within the tolerance."""
    from frontrunner.front import caveats

    passes = caveats.passes(c)
    if p.a not in passes or p.b not in passes:
        return "unknown"
    if caveats.equal_budgets(passes[p.a], passes[p.b]):
        return "equal"
    a, b = passes[p.a], passes[p.b]
    least = min(a, b)
    return f"{number(a / least, 3)} : {number(b / least, 3)}" if least else "only one"


def verdict(significant: bool, possible: bool, tested: bool) -> str:
    """The outcome of a paired test in two or three words."""
    if not tested:
        return "no shared seeds"
    return "significant" if significant else "not shown" if possible else "too few seeds"


def coverage(c: Comparison, *, markdown: bool = False) -> str:
    """C(row, column): the share of the column's points that the row weakly dominates."""
    labels = [g.label for g in c.groups]
    rows = [
        [a, *("" if a == b else f"{100 * c.coverage[a][b]:.0f} %" for b in labels)] for a in labels
    ]
    return grid(["covers", *labels], rows, markdown=markdown)


def document(c: Comparison) -> str:
    """The whole comparison as Markdown."""
    parts = ["# Comparison of fronts", table(c, markdown=True).rstrip()]
    if c.pairs:
        parts += ["## Paired tests", paired_tests(c, markdown=True)]
        parts += ["## Coverage", "Share of the column's points that the row weakly dominates."]
        parts.append(coverage(c, markdown=True))
    if c.warnings:
        parts += ["## Warnings", "\n".join(f"- {_inline(w)}" for w in c.warnings)]
    parts += ["## What may be concluded", "\n".join(f"- {_inline(x)}" for x in c.conclusions)]
    return "\n\n".join(parts) + "\n"


# ---------------------------------------------------------------------- cells


def _arrow(better: int) -> str:
    return {1: " ↑", -1: " ↓", 0: ""}[better]


def _marked(text: str, best: bool, markdown: bool) -> str:
    if markdown:
        return f"**{text}**" if best else text
    return f"{text} *" if best else f"{text}  "


def _inline(text: str) -> str:
    """Text that Markdown neither splits into cells nor reads as markup or HTML."""
    text = text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
    return text.replace("<", "&lt;").replace("`", "\\`").replace("_", "\\_")


def _width(text: str) -> int:
    wide = sum(unicodedata.east_asian_width(ch) in "WF" for ch in text)
    return len(text) + wide - sum(unicodedata.combining(ch) > 0 for ch in text)


def _pad(text: str, width: int, *, right: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if right else text + space
