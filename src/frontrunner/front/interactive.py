"""Plotly figures of fronts, for pages that are read in a browser."""

from __future__ import annotations

import html
from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from frontrunner.front import attainment
from frontrunner.front.bundles import Bundle, bundles, groups_of
from frontrunner.front.collect import Entry
from frontrunner.front.plots import GRID, INK, colour
from frontrunner.front.text import number

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from frontrunner.front.objective import Objective

Array = NDArray[np.float64]

SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x", "star")
SOLID_SYMBOLS = ("circle", "square", "diamond", "cross", "x")
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif"


def fronts(entries: Sequence[Entry], reference: Array | None = None) -> list[tuple[str, Figure]]:
    """The fronts, each figure with the caption that explains it.

    Two objectives: points and 50 % attainment surfaces. Three: a view in space and the projections.
    More: parallel coordinates. ``reference`` is in the objectives' own units.
    """
    groups = groups_of(entries)
    objectives = entries[0].front.objectives
    m = len(objectives)
    several = any(len(g) > 1 for g in groups.values())
    if m == 2:
        caption = "Every point is one solution; the line is the " + (
            "surface that half of a method's runs attain." if several else "boundary they attain."
        )
        return [(f"{caption} Hollow points are dominated.", _plane(groups, reference))]
    if m == 3:
        return [
            ("Drag to turn. Hollow points are dominated.", _space(groups)),
            ("The same points, two objectives at a time.", _projections(groups)),
        ]
    return [
        (
            "One line per solution; upwards is better on every axis, whose ends are the best and "
            "the worst value of all fronts. Dotted lines are dominated.",
            _parallel(groups),
        )
    ]


# ---------------------------------------------------------------------- fronts


def _plane(groups: dict[str, list[Entry]], reference: Array | None) -> Figure:
    import plotly.graph_objects as go

    objectives = next(iter(groups.values()))[0].front.objectives
    signs = np.array([o.sign for o in objectives])
    values = np.vstack([e.front.values for g in groups.values() for e in g])
    low, high = values.min(axis=0), values.max(axis=0)
    span = np.where(high > low, high - low, np.maximum(np.abs(high), 1.0))
    near = reference is not None and bool(
        ((reference > low - 0.35 * span) & (reference < high + 0.35 * span)).all()
    )
    if near:
        assert reference is not None
        low, high = np.minimum(low, reference), np.maximum(high, reference)
    low, high = low - 0.05 * span, high + 0.05 * span
    worst = np.maximum(low * signs, high * signs)
    figure = new_figure(height=560)
    for k, label in enumerate(groups):
        figure.add_trace(key_trace(k, label))
    for b in bundles(groups):
        light = 0.4 if len(groups[b.label]) > 1 else 0.9
        figure.add_traces(clouds(b, ("v0", "v1"), light))
    for k, (label, group) in enumerate(groups.items()):
        half = attainment.surface([e.front.minimised for e in group]).points
        assert half is not None
        line = attainment.staircase(half, worst) * signs
        figure.add_trace(line_trace(line, k, label))
    if near:
        assert reference is not None
        figure.add_trace(
            go.Scatter(
                x=[reference[0]],
                y=[reference[1]],
                mode="markers",
                marker={"symbol": "cross-thin", "size": 13, "line": {"width": 2, "color": INK}},
                name="reference point",
                hovertemplate="reference point<br>%{x}, %{y}<extra></extra>",
            )
        )
    name_axes(figure, *objectives)
    figure.update_xaxes(range=[low[0], high[0]])
    figure.update_yaxes(range=[low[1], high[1]])
    return placed(figure, [{"x": "x", "y": "y", "axes": ["v0", "v1"]}])


def _space(groups: dict[str, list[Entry]]) -> Figure:
    import plotly.graph_objects as go

    objectives = next(iter(groups.values()))[0].front.objectives
    axes = ("v0", "v1", "v2")
    figure = new_figure(height=600)
    for k, label in enumerate(groups):
        figure.add_trace(key_trace(k, label, symbol=SOLID_SYMBOLS[k % len(SOLID_SYMBOLS)]))
    for b in bundles(groups):
        symbol = SOLID_SYMBOLS[b.k % len(SOLID_SYMBOLS)]
        for dominated in b.parts():
            figure.add_trace(
                go.Scatter3d(
                    mode="markers",
                    marker={
                        "color": colour(b.k),
                        "size": 4.5,
                        "opacity": 0.85,
                        "symbol": "circle-open" if dominated else symbol,
                    },
                    **b.said(axes, dominated),
                )
            )
    figure.add_trace(
        go.Scatter3d(
            x=[None],
            y=[None],
            z=[None],
            mode="markers",
            marker={"color": INK, "size": 11, "symbol": "circle-open", "line": {"width": 3}},
            showlegend=False,
            hoverinfo="skip",
        )
    )
    axis = {"gridcolor": GRID, "backgroundcolor": "#FAFBFC", "showbackground": True, "nticks": 6}
    titles = [{"title": {"text": html.escape(o.label)}, **axis} for o in objectives]
    figure.update_layout(
        scene=dict(zip(("xaxis", "yaxis", "zaxis"), titles, strict=True)),
        scene_aspectmode="cube",  # objectives of unlike ranges would make a tower or a plate
        scene_camera={
            "eye": {"x": 1.6, "y": 1.6, "z": 0.85},
            "center": {"x": 0, "y": 0, "z": -0.14},
        },
        margin={"l": 0, "r": 40, "t": 40, "b": 10},
    )
    # The legend's keys are flat traces; their axes stay out of sight.
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return placed(figure, [{"trace": len(figure.data) - 1, "axes": list(axes)}])


def _projections(groups: dict[str, list[Entry]]) -> Figure:
    from plotly.subplots import make_subplots

    objectives = next(iter(groups.values()))[0].front.objectives
    figure = styled(make_subplots(1, 3, horizontal_spacing=0.09), height=400)
    for k, label in enumerate(groups):
        figure.add_trace(key_trace(k, label), row=1, col=1)
    places = []
    for column, (i, j) in enumerate(combinations(range(3), 2), start=1):
        for b in bundles(groups):
            for trace in clouds(b, (f"v{i}", f"v{j}"), 0.7):
                figure.add_trace(trace, row=1, col=column)
        figure.update_xaxes(title_text=html.escape(objectives[i].label), row=1, col=column)
        figure.update_yaxes(title_text=html.escape(objectives[j].label), row=1, col=column)
        places.append(place(column, f"v{i}", f"v{j}"))
    return placed(figure, places)


def _parallel(groups: dict[str, list[Entry]]) -> Figure:
    import plotly.graph_objects as go

    objectives = next(iter(groups.values()))[0].front.objectives
    m = len(objectives)
    signs = np.array([o.sign for o in objectives])
    everything = np.vstack([e.front.minimised for g in groups.values() for e in g])
    best, worst = everything.min(axis=0) * signs, everything.max(axis=0) * signs
    span = {"best": best.tolist(), "worst": worst.tolist()}
    opacity = float(np.clip(40.0 / len(everything), 0.18, 0.85))
    figure = new_figure(height=540)
    for k, label in enumerate(groups):
        figure.add_trace(key_trace(k, label, mode="lines"))
    for b in bundles(groups):
        for dominated in b.parts():
            said = b.said((), dominated)
            said["meta"]["points"] |= {"span": span}
            figure.add_trace(
                go.Scatter(
                    mode="lines" if b.many else "lines+markers",
                    line={"color": colour(b.k), "width": 1.2, "dash": ["solid", "dot"][dominated]},
                    marker={"size": 4, "symbol": symbol_of(b.k)},
                    opacity=opacity,
                    **said,
                )
            )
    for j in range(m):
        figure.add_vline(x=j, line={"color": "#8C959F", "width": 1}, layer="below")
        for y, value, anchor in ((1.02, best[j], "bottom"), (-0.02, worst[j], "top")):
            figure.add_annotation(
                x=j, y=y, text=number(value, 3), showarrow=False, yanchor=anchor, font_size=12
            )
    figure.update_xaxes(
        range=[-0.4, m - 0.6],
        tickvals=list(range(m)),
        ticktext=[html.escape(o.label) for o in objectives],
        showgrid=False,
        showline=False,
        ticks="",
    )
    figure.update_yaxes(
        range=[-0.09, 1.09], showticklabels=False, showgrid=False, ticks="", showline=False
    )
    figure.update_yaxes(title_text="better →")
    return placed(figure, [{"span": span}])


# ---------------------------------------------------------------------- parts


def clouds(b: Bundle, axes: Sequence[str], opacity: float) -> list[Any]:
    """The points of a bundle in a plane, dominated ones hollow."""
    import plotly.graph_objects as go

    kind = go.Scattergl if b.many else go.Scatter
    return [
        kind(
            mode="markers",
            marker={
                "color": colour(b.k),
                "size": 5 if b.many else 8,
                "opacity": opacity,
                "symbol": symbol_of(b.k) + ("-open" if dominated else ""),
            },
            **b.said(axes, dominated),
        )
        for dominated in b.parts()
    ]


def place(subplot: int, x: str, y: str) -> dict[str, Any]:
    """Where the chosen point is marked: columns x and y in a subplot, counted from 1."""
    n = "" if subplot == 1 else str(subplot)
    return {"x": f"x{n}", "y": f"y{n}", "axes": [x, y]}


def placed(figure: Figure, places: list[dict[str, Any]]) -> Figure:
    """The figure, which tells the page's script where to mark the chosen point."""
    figure.update_layout(meta={"places": places})
    return figure


def symbol_of(k: int) -> str:
    return SYMBOLS[(k + k // len(SYMBOLS)) % len(SYMBOLS)]


def line_trace(line: Array, k: int, label: str, *, legend: bool = False) -> Any:
    import plotly.graph_objects as go

    return go.Scatter(
        x=line[:, 0],
        y=line[:, 1],
        mode="lines",
        line={"color": colour(k), "width": 2.5},
        name=html.escape(label),
        legendgroup=label,
        showlegend=legend,
        hoverinfo="skip",
    )


def key_trace(k: int, label: str, *, mode: str = "markers", symbol: str = "") -> Any:
    """An entry in the legend, in full colour, that turns all traces of a label on and off."""
    import plotly.graph_objects as go

    return go.Scatter(
        x=[None],
        y=[None],
        mode=mode,
        marker={"color": colour(k), "symbol": symbol or symbol_of(k), "size": 9},
        line={"color": colour(k), "width": 2.5},
        name=html.escape(label),
        legendgroup=label,
        hoverinfo="skip",
    )


def name_axes(figure: Figure, x: Objective, y: Objective) -> None:
    figure.update_xaxes(title_text=html.escape(x.label))
    figure.update_yaxes(title_text=html.escape(y.label))


def new_figure(height: int) -> Figure:
    import plotly.graph_objects as go

    return styled(go.Figure(), height)


def styled(figure: Figure, height: int) -> Figure:
    figure.update_layout(
        template="none",
        height=height,
        font={"family": FONT, "size": 13, "color": INK},
        paper_bgcolor="white",
        plot_bgcolor="white",
        margin={"l": 70, "r": 48, "t": 50, "b": 60},
        # Upright at the right edge, where no legend reaches.
        modebar={"orientation": "v"},
        hoverlabel={"bgcolor": "white", "font": {"family": FONT, "size": 12}, "align": "left"},
        hovermode="closest",
        legend={"orientation": "h", "x": 0, "y": 1.01, "yanchor": "bottom"},
    )
    axis = {"gridcolor": GRID, "zeroline": False, "linecolor": "#8C959F", "showline": True}
    figure.update_xaxes(ticks="outside", tickcolor="#8C959F", automargin=True, **axis)
    figure.update_yaxes(ticks="outside", tickcolor="#8C959F", automargin=True, **axis)
    return figure
