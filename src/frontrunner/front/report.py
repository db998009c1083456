"""The report of a comparison: one HTML page, and the files that go with it."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from urllib.parse import quote

from frontrunner import files
from frontrunner.front import (
    bundles,
    charts,
    configurations,
    explore,
    interactive,
    plots,
    surfaces,
    text,
)
from frontrunner.front.collect import Entry
from frontrunner.front.comparison import Comparison
from frontrunner.front.page import Cell, bullets, chart, page, table

DIFFERENCES_UP_TO = 3
"""With more groups only the two of largest mean hypervolume get a plot of differences."""


def save(
    comparison: Comparison, entries: Sequence[Entry], directory: str | os.PathLike[str]
) -> list[Path]:
    """Write comparison.json, comparison.md, comparison.png and report.html, each atomically.

    Args:
        comparison: what `compare` returned.
        entries: what it was given.
        directory: where to; made if it does not exist.

    Returns:
        the four paths, in that order.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    names = ("comparison.json", "comparison.md", "comparison.png", "report.html")
    data, words, picture, report = (folder / name for name in names)
    entries = _compared(comparison, entries)
    files.write_json(data, comparison.to_dict())
    files.write_text(words, text.document(comparison))
    figure = plots.figure(
        [e.front for e in entries],
        [e.label for e in entries],
        reference_point=comparison.reference_point,
    )
    plots.save_png(figure, picture)
    write_report(comparison, entries, report)
    return [data, words, picture, report]


def write_report(
    comparison: Comparison, entries: Sequence[Entry], path: str | os.PathLike[str]
) -> None:
    """Write the comparison as one HTML page that needs no network, atomically."""
    c, entries = comparison, _compared(comparison, entries)
    names = f"{len(c.groups)} methods" if len(c.groups) > 1 else c.groups[0].label
    title = f"Comparison of {names}" + (f" on {c.task}" if c.task else "")
    runs = len(entries)
    body = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p class='soft'>{runs} run{'s' if runs > 1 else ''}, "
        f"{html.escape(' · '.join(o.label for o in c.objectives))}</p>",
        f"<div class='box'><h2>What may be concluded</h2>{bullets(c.conclusions)}</div>",
    ]
    if c.warnings:
        body.append(f"<div class='box warn'><h2>Warnings</h2>{bullets(c.warnings)}</div>")
    body += ["<div><h2>Fronts</h2>"]  # the control stays in view within this element
    for i, (caption, figure) in enumerate(interactive.fronts(entries, c.reference_point)):
        body.append(chart(figure, f"front-{i}", caption, panels=i > 0))
    body += [explore.control(entries), "</div>"]
    body += ["<h2>Indicators</h2>", _indicators(c)]
    body += ["<h2>Conventions</h2>", bullets(text.conventions(c, mark="bold"))]
    body += _surfaces(entries) + _attainment(c, entries)
    if c.pairs:
        body += ["<h2>Paired tests on the hypervolume</h2>", _tests(c)]
        body += [
            "<h2>Coverage</h2><p>Share of the column's points that are weakly dominated by a "
            "point of the row. Row and column need not add up to 100 %.</p>",
            _coverage(c),
        ]
    spent = charts.cost(c)
    if spent is not None:
        caption = "Large marks are means with one standard deviation, small ones are runs."
        body += [f"<h2>Hypervolume against {spent[0]}</h2>", chart(spent[1], "cost", caption)]
    obeyed = charts.alignment(entries)
    if obeyed is not None:
        body += ["<h2>Alignment with preferences</h2>", _alignment_note(entries)]
        body.append(chart(obeyed, "alignment", panels=True))
    body += _configurations(entries)
    body += ["<h2>Runs</h2>", _runs(c, Path(path))]
    points = bundles.ordered(bundles.groups_of(entries))
    files.write_text(path, page(title, "\n".join(body), points))


# ---------------------------------------------------------------------- sections


def _compared(c: Comparison, entries: Sequence[Entry]) -> list[Entry]:
    """The entries that were counted: repetitions were not."""
    kept = {r.path for g in c.groups for r in g.runs}
    return [e for e in entries if str(e.path) in kept]


def _indicators(c: Comparison) -> str:
    best = {i.key: c.best(i.key) for i in c.indicators}
    rows: list[list[str | Cell]] = [["runs", *(str(len(g.runs)) for g in c.groups)]]
    for i in c.indicators:
        if not any(g.statistics[i.key] for g in c.groups):
            continue
        row: list[str | Cell] = [i.title + {1: " ↑", -1: " ↓", 0: ""}[i.better]]
        for g in c.groups:
            s = g.statistics[i.key]
            inside = text.interval(s) if s is not None and s.std else ""
            row.append(Cell(text.spread(s), inside, g.label in best[i.key]))
        rows.append(row)
    return table(["", *(g.label for g in c.groups)], rows)


def _surfaces(entries: Sequence[Entry]) -> list[str]:
    head = "<h2>Attainment surfaces</h2>"
    found = surfaces.figure(entries)
    if isinstance(found, str):
        return [head, f"<p>{html.escape(found)}</p>"]
    figure, caption = found
    return [head, chart(figure, "surfaces", caption, panels=True)]


def _attainment(c: Comparison, entries: Sequence[Entry]) -> list[str]:
    if len(c.groups) < 2:
        return []
    head = "<h2>Differences in attainment</h2>"
    if len(c.objectives) != 2:
        return [
            head,
            f"<p>Drawn for two objectives only; these fronts have {len(c.objectives)}.</p>",
        ]
    labels = [g.label for g in c.groups]
    note = ""
    if len(labels) > DIFFERENCES_UP_TO:

        def volume(label: str) -> float:
            found = c.group(label).statistics["hypervolume"]
            return found.mean if found else 0.0

        labels = sorted(labels, key=volume, reverse=True)[:2]
        note = " Shown for the two methods of largest mean hypervolume."
    body = [
        head,
        "<p>Each region is coloured by the method of which more runs attain it, the stronger the "
        f"larger the difference; white where as many do. Lines are attained by half.{note}</p>",
        "<div class='pair'>",
    ]
    for i, (a, b) in enumerate(combinations(labels, 2)):
        figure = charts.difference(c, entries, a, b)
        if figure is not None:
            body.append(chart(figure, f"difference-{i}"))
    return [*body, "</div>"]


def _tests(c: Comparison) -> str:
    rows: list[list[str | Cell]] = [
        [
            f"{p.a} − {p.b}",
            str(len(p.seeds)),
            Cell(
                text.signed(p.difference.mean) if p.difference else "-",
                text.interval(p.difference) if p.difference and p.difference.std else "",
            ),
            text.number(p.test.p, 3),
            Cell(text.number(p.adjusted, 3), best=p.significant),
            p.test.method,
            Cell(text.verdict(p.significant, p.possible, p.test.p is not None), best=p.significant),
            text.budgets(c, p),
        ]
        for p in c.pairs
    ]
    head = ["pair", "shared seeds", "mean difference", "p", "p after Holm", "test", "verdict"]
    head.append("forward passes")
    return table(head, rows)


def _coverage(c: Comparison) -> str:
    labels = [g.label for g in c.groups]
    rows = [
        [a, *("" if a == b else f"{100 * c.coverage[a][b]:.0f} %" for b in labels)] for a in labels
    ]
    return table(["", *labels], rows)


def _alignment_note(entries: Sequence[Entry]) -> str:
    kinds = {e.front.preference_kind for e in entries if e.front.aligned}
    if kinds == {"weight"}:
        meaning = "A larger weight asks for a better value of that objective."
    elif kinds == {"ray"}:
        meaning = "A larger entry allows a larger value of that objective."
    else:
        meaning = "The fronts do not read preferences in one way, or do not say how."
    return (
        f"<p>{meaning} The rank alignment in the table is 1 when the order of the values is the "
        "order that was asked for.</p>"
    )


def _configurations(entries: Sequence[Entry]) -> list[str]:
    found = configurations.differences(entries)
    body = ["<h2>Configuration differences</h2>"]
    count = len({e.path for e in entries}) - len(found.missing)
    if not count:
        return [*body, "<p>No front has a config.yaml beside it, so nothing is known of this.</p>"]
    beyond = found.beyond_method
    if len(found.labels) > 1:
        said = (
            f"Beside the method's own settings the runs differ in {text.listed(beyond)}."
            if beyond
            else "The runs differ in nothing but the method's own settings."
        )
        body.append(f"<p>{html.escape(said)}</p>")
    if found.rows:
        body.append(_cells(found, found.rows, "key"))
    elif len(found.labels) == 1:
        body.append("<p>All runs have one configuration.</p>")
    body.append(
        "<p class='soft'>Resolved values that are not the same for all runs, without seeds and "
        f"what changes no result; {configurations.ABSENT} where there is no such key.</p>"
    )
    if found.missing:
        names = [str(path) for path in found.missing]
        more = [f"{len(names) - 20} more"] if len(names) > 20 else []
        body.append(
            "<p>Nothing is known of runs without a config.yaml: "
            f"{html.escape(text.listed([*names[:20], *more]))}.</p>"
        )
    if found.code:
        body += ["<h3>Code and versions that differ</h3>", _cells(found, found.code, "")]
    return body


def _cells(
    found: configurations.Differences,
    rows: Mapping[str, tuple[configurations.Cell, ...]],
    head: str,
) -> str:
    return table(
        [head, *found.labels],
        [
            [key, *(Cell(c.text, "" if c.agrees else "differs within", wrap=True) for c in cells)]
            for key, cells in rows.items()
        ],
    )


def _runs(c: Comparison, path: Path) -> str:
    here = path.resolve().parent
    rows: list[list[str | Cell]] = []
    for g in c.groups:
        for r in g.runs:
            where = Path(os.path.relpath(Path(r.path).resolve(), here)).as_posix()
            rows.append(
                [
                    g.label,
                    "-" if r.seed is None else str(r.seed),
                    text.number(r.indicators["hypervolume"], 5),
                    text.number(r.indicators["points"]),
                    text.number(r.indicators["seconds"]),
                    Cell(where, link=quote(where)),
                ]
            )
    return table(["method", "seed", "hypervolume", "points", "seconds", "front"], rows)
