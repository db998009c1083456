"""Plotly figures of a comparison: attainment differences, cost, alignment with preferences."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from frontrunner.front import attainment
from frontrunner.front.collect import Entry
from frontrunner.front.interactive import (
    groups_of,
    key_trace,
    line_trace,
    name_axes,
    new_figure,
    styled,
    symbol_of,
)
from frontrunner.front.plots import colour

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from frontrunner.front.comparison import Comparison


def difference(c: Comparison, entries: Sequence[Entry], a: str, b: str) -> Figure | None:
    """Where more of a's runs than of b's attain a point, and the reverse; two objectives only."""
    import plotly.graph_objects as go

    groups = groups_of(entries)
    left, right = ([e.front.minimised for e in groups[k]] for k in (a, b))
    found = attainment.difference(left, right)
    if found is None:
        return None
    order = list(groups)
    signs = np.array([o.sign for o in c.objectives])
    x, y, z = found.x * signs[0], found.y * signs[1], np.where(found.values == 0, np.nan, 1)
    z = z * found.values
    if signs[0] < 0:
        x, z = x[::-1], z[:, ::-1]
    if signs[1] < 0:
        y, z = y[::-1], z[::-1]
    figure = new_figure(height=430)
    figure.add_trace(
        go.Heatmap(
            x=x,
            y=y,
            z=z.astype(np.float32),
            zmin=-1,
            zmax=1,
            colorscale=[
                [0, colour(order.index(b))],
                [0.5, "#FFFFFF"],
                [1, colour(order.index(a))],
            ],
            hoverongaps=False,
            hovertemplate="%{x:.4g}, %{y:.4g}<br>difference %{z:+.0%}<extra></extra>",
            colorbar={
                "thickness": 12,
                "outlinewidth": 0,
                "len": 0.72,
                "y": 0,
                "yanchor": "bottom",
                "tickvals": [-1, -0.5, 0, 0.5, 1],
                "ticktext": ["100 %", "50 %", "0", "50 %", "100 %"],
                "title": {"text": "more runs", "font": {"size": 12}},
            },
        )
    )
    worst = np.array([found.x[-1], found.y[-1]])
    for label, runs in ((a, left), (b, right)):
        half = attainment.surface(runs).points
        assert half is not None
        line = attainment.staircase(half, worst) * signs
        figure.add_trace(line_trace(line, order.index(label), label, legend=True))
    name_axes(figure, c.objectives[0], c.objectives[1])
    figure.update_xaxes(range=[x[0], x[-1]], showgrid=False)
    figure.update_yaxes(range=[y[0], y[-1]], showgrid=False)
    return figure


def cost(c: Comparison) -> tuple[str, Figure] | None:
    """Hypervolume against what it cost, with what the horizontal axis is; None if nobody says."""
    import plotly.graph_objects as go

    runs = [r for g in c.groups for r in g.runs]
    known = {
        key: {r.indicators[key] for r in runs}
        for key in ("forward_passes", "seconds")
        if all(r.indicators[key] is not None for r in runs)
    }
    if not known:
        return None
    # Equal budgets, as they should be, leave the seconds to look at.
    key = next((k for k, values in known.items() if len(values) > 1), next(iter(known)))
    title = {"forward_passes": "forward passes", "seconds": "seconds"}[key]
    figure = new_figure(height=430)
    for k, g in enumerate(c.groups):
        name = html.escape(g.label)
        pairs = [(r.indicators[key], r.indicators["hypervolume"]) for r in g.runs]
        figure.add_trace(
            go.Scatter(
                x=[x for x, _ in pairs],
                y=[y for _, y in pairs],
                mode="markers",
                marker={"color": colour(k), "symbol": symbol_of(k), "size": 8, "opacity": 0.45},
                name=name,
                legendgroup=g.label,
                showlegend=False,
                text=[f"seed {r.seed}" for r in g.runs],
                hovertemplate=f"{name}, %{{text}}<br>{title} %{{x:,}}<br>hypervolume %{{y:.5g}}"
                "<extra></extra>",
            )
        )
        across, up = g.statistics[key], g.statistics["hypervolume"]
        if across is None or up is None:
            continue
        figure.add_trace(
            go.Scatter(
                x=[across.mean],
                y=[up.mean],
                error_y={"array": [up.std or 0.0], "color": colour(k), "thickness": 1.5},
                mode="markers",
                marker={
                    "color": colour(k),
                    "symbol": symbol_of(k),
                    "size": 13,
                    "line": {"color": "white", "width": 1},
                },
                name=name,
                legendgroup=g.label,
                hovertemplate=f"{name}, mean<br>{title} %{{x:,}}<br>hypervolume %{{y:.5g}}"
                "<extra></extra>",
            )
        )
    values = [float(v) for r in runs if (v := r.indicators[key]) is not None]
    wide = min(values) > 0 and max(values) > 20 * min(values)
    figure.update_xaxes(title_text=title, type="log" if wide else "linear", rangemode="tozero")
    figure.update_yaxes(title_text="hypervolume ↑")
    return title, figure


def alignment(entries: Sequence[Entry]) -> Figure | None:
    """Each objective against the preference entry that asks for it; None where none does."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    asked = [e for e in entries if e.front.aligned]
    if not asked:
        return None
    order = list(groups_of(entries))
    objectives = entries[0].front.objectives
    columns = min(3, len(objectives))
    rows = -(-len(objectives) // columns)
    figure = styled(
        make_subplots(rows, columns, horizontal_spacing=0.09, vertical_spacing=0.26 / rows),
        height=90 + 300 * rows,
    )
    for label in dict.fromkeys(e.label for e in asked):
        figure.add_trace(key_trace(order.index(label), label), row=1, col=1)
    for e in asked:
        assert e.front.preferences is not None
        k = order.index(e.label)
        seed = f", seed {e.seed}" if e.seed is not None else ""
        for j in range(len(objectives)):
            figure.add_trace(
                go.Scatter(
                    x=e.front.preferences[:, j],
                    y=e.front.values[:, j],
                    mode="markers",
                    marker={"color": colour(k), "symbol": symbol_of(k), "size": 7, "opacity": 0.6},
                    name=html.escape(e.label),
                    legendgroup=e.label,
                    showlegend=False,
                    hovertemplate=f"<b>{html.escape(e.label)}</b>{seed}<br>preference %{{x:.3g}}"
                    f"<br>{html.escape(objectives[j].label)}: %{{y:.5g}}<extra></extra>",
                ),
                row=j // columns + 1,
                col=j % columns + 1,
            )
    for j, o in enumerate(objectives):
        where = {"row": j // columns + 1, "col": j % columns + 1}
        figure.update_xaxes(title_text=f"preference for {html.escape(o.name)}", **where)
        figure.update_yaxes(title_text=html.escape(o.label), **where)
    return figure
