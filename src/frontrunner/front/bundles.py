"""Which points of a page a trace of a plot holds, and what it says of them."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from frontrunner.front.collect import Entry

MANY = 3000
"""From so many points on planes are drawn by WebGL and lines without markers, for speed."""


def groups_of(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    groups: dict[str, list[Entry]] = {}
    for e in entries:
        groups.setdefault(e.label, []).append(e)
    return groups


@dataclass(frozen=True)
class Bundle:
    """Runs of one label that a trace can hold: asked alike, and all with a seed or all without.

    Attributes:
        k: number of the label. entries: the runs. runs: their numbers in the page's store.
        many: whether all runs together have many points.
    """

    k: int
    label: str
    entries: tuple[Entry, ...]
    runs: tuple[int, ...]
    many: bool

    def parts(self) -> list[bool]:
        """Which of not dominated (False) and dominated (True) points there are."""
        masks = np.concatenate([e.front.nondominated() for e in self.entries])
        return [dominated for dominated in (False, True) if (masks != dominated).any()]

    def said(self, axes: Sequence[str], dominated: bool | None = None) -> dict[str, Any]:
        """What a trace says of its points: which they are, and method, seed, preference, values.

        The page's script puts in the coordinates: ``axes`` are columns, ``v0`` the first objective
        and ``p0`` the first entry of the preference. ``dominated`` chooses points.
        """
        front = self.entries[0].front
        p = 0 if front.preferences is None else front.preferences.shape[1]
        m = len(front.objectives)
        seed = "" if self.entries[0].seed is None else f", seed %{{customdata[{p + m}]}}"
        lines = [f"<b>{html.escape(self.label)}</b>{seed}"]
        if p:
            lines.append("preference " + ", ".join(f"%{{customdata[{j}]:.3g}}" for j in range(p)))
        for j, o in enumerate(front.objectives):
            lines.append(f"{html.escape(o.label)}: %{{customdata[{p + j}]:.5g}}")
        points: dict[str, Any] = {"runs": list(self.runs), "axes": list(axes)}
        if dominated is not None:
            points["dominated"] = dominated
            lines += ["dominated"] if dominated else []
        return {
            "meta": {"points": points},
            "name": html.escape(self.label),
            "legendgroup": self.label,
            "showlegend": False,
            "hovertemplate": "<br>".join(lines) + "<extra></extra>",
        }


def bundles(groups: dict[str, list[Entry]]) -> list[Bundle]:
    """The bundles of all groups; runs are numbered in the order of `groups_of`'s entries."""
    number_of = {id(e): i for i, e in enumerate(ordered(groups))}
    many = sum(len(e.front) for e in ordered(groups)) > MANY
    out = []
    for k, (label, group) in enumerate(groups.items()):
        alike: dict[Any, list[Entry]] = {}
        for e in group:
            asked = e.front.asked_for if e.front.preferences is not None else None
            alike.setdefault((asked, e.front.aligned, e.seed is None), []).append(e)
        out += [
            Bundle(k, label, tuple(es), tuple(number_of[id(e)] for e in es), many)
            for es in alike.values()
        ]
    return out


def ordered(groups: dict[str, list[Entry]]) -> list[Entry]:
    """All entries, group by group: the order of the page's store."""
    return [e for group in groups.values() for e in group]
