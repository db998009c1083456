"""Figures of attainment: what a share of each method's runs reaches, a panel per method."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from frontrunner.front import attainment
from frontrunner.front.bundles import groups_of
from frontrunner.front.collect import Entry
from frontrunner.front.interactive import styled
from frontrunner.front.plots import colour

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Array = NDArray[np.float64]

LINES = {"best": ("dot", 1.5), "median": ("solid", 2.5), "worst": ("dash", 1.5)}
CELLS = 48
"""Grid lines per objective of the maps for three objectives."""


def levels(runs: int) -> dict[str, float]:
    """Which shares of so many runs are drawn, by the name of the line.

    Quarters need four runs; fewer have their best, their middle and their worst. Of two runs the
    middle is their best.
    """
    if runs == 1:
        return {"median": 1.0}
    if runs == 2:
        return {"best": 0.5, "worst": 1.0}
    if runs == 3:
        return {"best": 1 / 3, "median": 2 / 3, "worst": 1.0}
    return {"best": 0.25, "median": 0.5, "worst": 0.75}


def figure(entries: Sequence[Entry]) -> tuple[Figure, str] | str:
    """The figure and what it shows; or, with four and more objectives, why there is none."""
    m = len(entries[0].front.objectives)
    if m > 3:
        return f"Drawn for two and three objectives; these fronts have {m}."
    groups = groups_of(entries)
    if m == 2:
        return _lines(groups), _words({len(g) for g in groups.values()})
    o = entries[0].front.objectives
    return _maps(groups), (
        f"Colour: the {_better(o[2].direction)} {o[2].name} that half of a method's runs attain "
        f"together with this {o[0].name} and {o[1].name}; white where fewer than half attain any. "
        "One scale for all panels."
    )


def _undominated(groups: dict[str, list[Entry]]) -> Array:
    """The points that span the surfaces: dominated ones would only widen the picture."""
    every = [e.front for g in groups.values() for e in g]
    return np.vstack([f.minimised[f.nondominated()] for f in every])


def _better(direction: str) -> str:
    return "largest" if direction == "max" else "smallest"


def _words(sizes: set[int]) -> str:
    said = []
    if any(n >= 4 for n in sizes):
        said.append("dotted, solid and dashed lines are attained by 25, 50 and 75 % of the runs")
    if 3 in sizes:
        said.append("of three runs, dotted, solid and dashed ones are attained by one, two and all")
    if 2 in sizes:
        said.append("of two runs, dotted lines are attained by one and dashed by both")
    if 1 in sizes:
        said.append("one run has a single line, what it attains")
    words = "; ".join(said)
    return f"{words[0].upper()}{words[1:]}. Other methods' middle lines are grey."


def _panels(labels: Sequence[str]) -> tuple[Figure, int, int]:
    from plotly.subplots import make_subplots

    columns = min(3, len(labels))
    rows = -(-len(labels) // columns)
    panels = make_subplots(
        rows,
        columns,
        shared_xaxes="all",
        shared_yaxes="all",
        horizontal_spacing=0.035,
        vertical_spacing=0.12 / rows,
        subplot_titles=[html.escape(label) for label in labels],
    )
    height = 110 + (300 if rows == 1 else 250) * rows
    figure = styled(panels, height=height)
    figure.update_annotations(font_size=13)
    figure.update_layout(margin_t=40, showlegend=False)
    return figure, rows, columns


def _lines(groups: dict[str, list[Entry]]) -> Figure:
    import plotly.graph_objects as go

    objectives = next(iter(groups.values()))[0].front.objectives
    signs = np.array([o.sign for o in objectives])
    points = _undominated(groups)
    span = np.ptp(points, axis=0)
    span = np.where(span > 0, span, 1.0)
    low, high = points.min(axis=0) - 0.05 * span, points.max(axis=0) + 0.05 * span
    found: dict[str, dict[str, Array]] = {}
    for label, group in groups.items():
        points_of = [e.front.minimised for e in group]
        found[label] = {}
        for name, level in levels(len(group)).items():
            surface = attainment.surface(points_of, level).points
            assert surface is not None
            line = attainment.staircase(surface, high) * signs
            # Its points and ends; plotly draws the corners between them.
            found[label][name] = line[[0, *range(1, len(line), 2), -1]].astype(np.float32)
    figure, rows, columns = _panels(list(groups))
    cells = {k: {"row": i // columns + 1, "col": i % columns + 1} for i, k in enumerate(groups)}
    # Underneath, other methods' middle lines: each travels once, in its own panel, and the page's
    # script copies it.
    n, first = len(groups) * (len(groups) - 1), {}
    for label, lines in found.items():
        first[label] = n + list(lines).index("median" if "median" in lines else "best")
        n += len(lines)
    grey = {"color": "#D0D7DE", "width": 1, "shape": "hv"}
    for label, cell in cells.items():
        for other, trace in first.items():
            if other != label:
                copy = go.Scatter(mode="lines", line=grey, hoverinfo="skip", meta={"same": trace})
                figure.add_trace(copy, **cell)
    for k, (label, lines) in enumerate(found.items()):
        runs = len(groups[label])
        for name, line in lines.items():
            dash, width = LINES[name]
            by = math.ceil(levels(runs)[name] * runs - 1e-9)
            figure.add_trace(
                go.Scatter(
                    x=line[:, 0],
                    y=line[:, 1],
                    mode="lines",
                    line={"color": colour(k), "width": width, "dash": dash, "shape": "hv"},
                    name=html.escape(label),
                    hovertemplate=f"<b>{html.escape(label)}</b><br>attained by {by} of {runs} runs"
                    "<br>%{x:.5g}, %{y:.5g}<extra></extra>",
                ),
                **cells[label],
            )
    _name(figure, objectives, rows, columns, len(groups))
    ends = np.sort(np.array([low, high]) * signs, axis=0)
    figure.update_xaxes(range=list(ends[:, 0]))
    figure.update_yaxes(range=list(ends[:, 1]))
    return figure


def _maps(groups: dict[str, list[Entry]]) -> Figure:
    import plotly.graph_objects as go

    objectives = next(iter(groups.values()))[0].front.objectives
    signs = np.array([o.sign for o in objectives])
    points = _undominated(groups)
    low, high = points.min(axis=0), points.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    x, y = (np.linspace(low[j], high[j] + 0.03 * span[j], CELLS) for j in (0, 1))
    depths = {k: depth([e.front.minimised for e in g], x, y) for k, g in groups.items()}
    figure, rows, columns = _panels(list(groups))
    for k, (label, z) in enumerate(depths.items()):
        figure.add_trace(
            go.Heatmap(
                x=(x * signs[0]).astype(np.float32),
                y=(y * signs[1]).astype(np.float32),
                z=(z * signs[2]).astype(np.float32),
                coloraxis="coloraxis",
                hoverongaps=False,
                hovertemplate=f"<b>{html.escape(label)}</b><br>"
                f"{html.escape(objectives[0].name)} %{{x:.4g}}, "
                f"{html.escape(objectives[1].name)} %{{y:.4g}}<br>half of the runs attain "
                f"{html.escape(objectives[2].name)} %{{z:.4g}}<extra></extra>",
            ),
            row=k // columns + 1,
            col=k % columns + 1,
        )
    figure.update_layout(
        coloraxis={
            "colorscale": "Cividis",
            "reversescale": bool(signs[2] > 0),  # light is good
            "colorbar": {
                "title": {"text": html.escape(objectives[2].label), "side": "right"},
                "thickness": 14,
                "outlinewidth": 0,
            },
        }
    )
    _name(figure, objectives, rows, columns, len(groups))
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(showgrid=False)
    return figure


def depth(runs: Sequence[Array], x: Array, y: Array, level: float = 0.5) -> Array:
    """(len(y), len(x)): the least third objective that the share ``level`` of ``runs`` attains
    together with x and y; NaN where no such share attains any. All minimised.

    It is the 50 % attainment surface of three objectives, read as a function of two.
    """
    reached = np.full((len(runs), len(y), len(x)), np.inf)
    for r, run in enumerate(runs):
        for a, b, c in run:
            i, j = np.searchsorted(x, a), np.searchsorted(y, b)
            part = reached[r, j:, i:]
            np.minimum(part, c, out=part)
    k = max(1, math.ceil(level * len(runs) - 1e-9))
    found = np.partition(reached, k - 1, axis=0)[k - 1]
    return np.where(np.isfinite(found), found, np.nan)


def _name(figure: Figure, objectives: Sequence[Any], rows: int, columns: int, count: int) -> None:
    """Axis titles at the left and under the lowest panel of each column only."""
    for j in range(columns):
        last = (count - 1 - j) // columns + 1
        where = {"row": last, "col": j + 1}
        figure.update_xaxes(
            title_text=html.escape(objectives[0].label), showticklabels=True, **where
        )
    for i in range(rows):
        figure.update_yaxes(title_text=html.escape(objectives[1].label), row=i + 1, col=1)
