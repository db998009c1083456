"""A filled table as text, Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import Any

from frontrunner.front import text
from frontrunner.tables.fill import MARKED, Cell, Filled

FORMATS = ("text", "markdown", "latex", "csv", "json")
MARK = "*"
EMPTY = "—"


def render(filled: Filled, format: str) -> str:
    """The table in one of `FORMATS`."""
    return {
        "text": _plain,
        "markdown": _markdown,
        "latex": _latex,
        "csv": _csv,
        "json": lambda f: json.dumps(to_dict(f), indent=1, ensure_ascii=False) + "\n",
    }[format](filled)


def grid(filled: Filled, markdown: bool = False) -> str:
    """The cells alone."""
    return text.grid(*_lines(filled), markdown=markdown)


def notes(filled: Filled) -> list[str]:
    """Everything a reader must know to judge the numbers, a line each."""
    t = filled.table
    lines = [*_conventions(filled)]
    for held in filled.claims:
        what = "panels, columns and seeds" if len(t.panels) > 1 else "columns and seeds"
        lines.append(
            f"claim: {held.claim.says}: held in {held.held} of {held.of} {what}"
            if held.of
            else f"claim: {held.claim.says}: no run tells"
        )
    lines += [f"note: {line}" for line in t.notes]
    numbers = _footnotes(filled)
    for reason, cells in filled.reasons().items():
        where = "; ".join(" / ".join(filter(None, key)) for key in cells[:3])
        more = f" and {len(cells) - 3} more" if len(cells) > 3 else ""
        lines.append(f"[{numbers[reason]}] {where}{more}: {reason}")
    return lines


# ---------------------------------------------------------------------- forms


def _plain(filled: Filled) -> str:
    t = filled.table
    head = f"{t.title}\n{t.name}, scale {t.scale}"
    return "\n\n".join([head, grid(filled), "\n".join(notes(filled))]) + "\n"


def _markdown(filled: Filled) -> str:
    t = filled.table
    command = f"<!-- frontrunner table {t.name} --scale {t.scale} -->"
    lines = "\n".join(f"- {_escaped(line)}" for line in notes(filled))
    return "\n\n".join([command, f"**{t.title}**", grid(filled, markdown=True), lines]) + "\n"


def _latex(filled: Filled) -> str:
    """A booktabs table; panels are separated by a rule."""
    t = filled.table
    head, rows = _lines(filled)
    panels = _panels(filled)
    first = 2 if panels else 1
    lines = [
        r"\begin{table}[t]",
        r"  \centering",
        f"  \\caption{{{_tex(t.title)}. {_tex(_seeds(filled))}}}",
        f"  \\begin{{tabular}}{{{'l' * first}{'r' * (len(head) - first)}}}",
        r"    \toprule",
        f"    {' & '.join(map(_tex, head))} \\\\",
        r"    \midrule",
    ]
    before = rows[0][0] if rows else ""
    for row in rows:
        if panels and row[0] != before:
            lines.append(r"    \midrule")
            before = row[0]
        lines.append(f"    {' & '.join(map(_tex, row))} \\\\")
    lines += [r"    \bottomrule", r"  \end{tabular}", r"\end{table}"]
    lines += [f"% {line}" for line in notes(filled)]
    return "\n".join(lines) + "\n"


def _csv(filled: Filled) -> str:
    """A line for each cell, for programs."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = ["panel", "row", "column", "seeds", "seeds_asked", "mean", "deviation", "low", "high"]
    writer.writerow([*head, "reported", "reported_deviation", "marked", "missing"])
    for (panel, row, column), cell in filled.cells.items():
        s, r = cell.statistic, cell.reported
        ours: list[Any] = [None] * 4 if s is None else [s.mean, s.std, s.low, s.high]
        printed = [None, None] if r is None else [r.mean, r.deviation]
        why = "; ".join(dict.fromkeys(cell.missing.values()))
        writer.writerow(
            [panel, row, column, len(cell.values), _asked(cell), *ours, *printed, cell.marked, why]
        )
    return out.getvalue()


def to_dict(filled: Filled) -> dict[str, Any]:
    """Every number of the table, as JSON values."""
    t = filled.table
    return {
        "table": t.name,
        "title": t.title,
        "scale": t.scale,
        "source": t.source,
        "seeds": list(t.seeds),
        "references": dict(filled.references),
        "facts": {key: list(value) for key, value in filled.facts.items()},
        "cells": [
            {
                "panel": panel,
                "row": row,
                "column": column,
                "text": cell.text,
                "values": {_key(key): x for key, x in cell.values.items()},
                "missing": {_key(key): why for key, why in cell.missing.items()},
                "reported": None if cell.reported is None else cell.reported.text,
                "marked": cell.marked,
            }
            for (panel, row, column), cell in filled.cells.items()
        ],
        "claims": [{"says": h.claim.says, "held": h.held, "of": h.of} for h in filled.claims],
        "notes": notes(filled),
    }


# ---------------------------------------------------------------------- cells


def _lines(filled: Filled) -> tuple[list[str], list[list[str]]]:
    """Head and rows as they are shown: beside a column that the paper has numbers for, these."""
    t = filled.table
    numbers = _footnotes(filled)
    told = {key[2] for key, cell in filled.cells.items() if cell.reported is not None}
    head = [*([t.panel or "panel"] if _panels(filled) else []), t.stub]
    for column in t.columns:
        head += [column.name, *(["reported"] if column.name in told else [])]
    rows = []
    for block in t.blocks:
        for row in t.shown:
            line = [*([block] if _panels(filled) else []), row.name]
            for column in t.columns:
                cell = filled.cells[block, row.name, column.name]
                line.append(_text(cell, numbers))
                if column.name in told:
                    line.append("" if cell.reported is None else cell.reported.text)
            rows.append(line)
    return head, rows


def _panels(filled: Filled) -> bool:
    return any(filled.table.blocks)


def _asked(cell: Cell) -> int:
    """How many seeds the cell is over."""
    return len(cell.values) + len(cell.missing)


def _key(repetition: tuple[str, int]) -> str:
    """``panel/seed``, or the seed alone."""
    return "/".join(str(x) for x in repetition if x != "")


def _text(cell: Cell, numbers: dict[str, int]) -> str:
    notes_ = "".join(f"[{numbers[why]}]" for why in dict.fromkeys(cell.missing.values()))
    if cell.statistic is None:
        return f"{EMPTY} {notes_}" if cell.missing else ""
    mark = f" {MARK}" if cell.marked else ""
    short = f" ({len(cell.values)} of {_asked(cell)} runs) {notes_}" if cell.missing else ""
    return f"{cell.text}{mark}{short}"


def _footnotes(filled: Filled) -> dict[str, int]:
    return {reason: number for number, reason in enumerate(filled.reasons(), start=1)}


def _conventions(filled: Filled) -> list[str]:
    t, lines = filled.table, [_seeds(filled)]
    by_point: dict[str, list[str]] = {}
    for column, point in filled.references.items():
        by_point.setdefault(point, []).append(column)
    for point, columns in by_point.items():
        of = "" if len(by_point) == 1 else f" of {text.listed(columns)}"
        lines.append(f"hypervolume{of}: reference point {point}")
    compared = [c for c in t.columns if c.rivals]
    if any(c.show == "difference" for c in compared):
        lines.append(
            "differences are paired by seed; in brackets the 95 % percentile bootstrap interval of "
            "their mean"
        )
    if any(c.show == "p" for c in compared):
        lines.append("p of the two-sided paired test over seeds (sign-flip, exact), uncorrected")
    if any(c.show == "holm" for c in compared):
        lines.append("Holm: the same p, corrected over the rows of its column")
    if any(cell.reported for cell in filled.cells.values()):
        source = f" by {t.source}" if t.source else ""
        if t.comparable:
            lines.append(
                f"reported: as printed{source}; {MARK} where the means differ by more than "
                f"{MARKED:g} of the larger deviation"
            )
        else:
            lines.append(
                f"reported: as printed{source}, for other models or data than at this scale: not "
                "to be compared number by number"
            )
    if t.says:
        lines.append(f"at this scale: {t.says}")
    return lines


def _seeds(filled: Filled) -> str:
    t = filled.table
    seeds = ", ".join(map(str, t.seeds))
    seeds = f"seed{'s' if len(t.seeds) > 1 else ''} {seeds}"
    if len(t.seeds) > 2 and list(t.seeds) == list(range(t.seeds[0], t.seeds[-1] + 1)):
        seeds = f"seeds {t.seeds[0]}-{t.seeds[-1]}"
    split = "".join(f", {s} split" for s in filled.facts.get("split", ()))
    if t.pool:
        panels = text.listed([p.name for p in t.panels])
        split = f", over {t.panel or 'panels'} {panels}{split}"
    elif len(t.seeds) == 1:
        return f"{seeds}{split}"
    return f"{seeds}{split}; mean ± standard deviation (n - 1) where there is no other word"


# ---------------------------------------------------------------------- words


def _escaped(line: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([*_<\[\]`|])", r"\\\1", line)


TEX = {
    "±": r"$\pm$", "—": "--", "−": "$-$", "→": r"$\to$", "≥": r"$\ge$", "≤": r"$\le$",
    "α": r"$\alpha$", "λ": r"$\lambda$", "ρ": r"$\rho$", "τ": r"$\tau$", "×": r"$\times$",
    "μ": r"$\mu$", "σ": r"$\sigma$", "·": r"$\cdot$", "–": "--",
    "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}",
    "<": "$<$", ">": "$>$", MARK: r"$^{*}$",
}  # fmt: skip


def _tex(word: str) -> str:
    return "".join(TEX.get(letter, letter) for letter in word)
