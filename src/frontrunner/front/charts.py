"""Plotly figures of a comparison: attainment differences, cost, alignment with preferences."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from frontrunner.front import attainment
from frontrunner.front.bundles import Bundle, bundles, groups_of
from frontrunner.front.collect import Entry
from frontrunner.front.interactive import (
    clouds,
    key_trace,
    line_trace,
    name_axes,
    new_figure,
    place,
    placed,
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
    x, y, z = found.x * signs[0], found.y * signs[1], found.values
    if signs[0] < 0:
        x, z = x[::-1], z[:, ::-1]
    if signs[1] < 0:
        y, z = y[::-1], z[::-1]
    figure = new_figure(height=430)
    figure.add_trace(
        go.Heatmap(
            x=x,
            y=y,
            # In whole per cent, which is what is read: an eighth of the size.
            z=np.round(100 * z).astype(np.int8),
            zmin=-100,
            zmax=100,
            colorscale=[
                [0, colour(order.index(b))],
                [0.5, "#FFFFFF"],
                [1, colour(order.index(a))],
            ],
            hovertemplate="%{x:.4g}, %{y:.4g}<br>difference %{z:+d} %<extra></extra>",
            colorbar={
                "thickness": 12,
                "outlinewidth": 0,
                "len": 0.72,
                "y": 0,
                "yanchor": "bottom",
                "tickvals": [-100, -50, 0, 50, 100],
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
    """Each objective against the preference entry that asks for it; None where none does. Of many
    points it has medians and quartiles."""
    from plotly.subplots import make_subplots

    groups = groups_of(entries)
    asked = [b for b in bundles(groups) if b.entries[0].front.aligned]
    if not asked:
        return None
    objectives = entries[0].front.objectives
    columns = min(3, len(objectives))
    rows = -(-len(objectives) // columns)
    figure = styled(
        make_subplots(rows, columns, horizontal_spacing=0.09, vertical_spacing=0.26 / rows),
        height=90 + 300 * rows,
    )
    for k, label in {b.k: b.label for b in asked}.items():
        figure.add_trace(key_trace(k, label), row=1, col=1)
    places = []
    for j, o in enumerate(objectives):
        where = {"row": j // columns + 1, "col": j % columns + 1}
        for b in asked:
            traces = [_medians(b, j)] if b.many else clouds(b, (f"p{j}", f"v{j}"), 0.6)
            for trace in traces:
                figure.add_trace(trace.update(marker_size=7), **where)
        figure.update_xaxes(title_text=f"preference for {html.escape(o.name)}", **where)
        figure.update_yaxes(title_text=html.escape(o.label), **where)
        places.append({**place(j + 1, f"p{j}", f"v{j}"), "needs": len(objectives)})
    return placed(figure, places)


def _medians(b: Bundle, j: int, bins: int = 20) -> Any:
    """Median and quartiles of objective j by what was asked for it: by preference where all runs
    share a few, else over equal intervals."""
    import plotly.graph_objects as go

    asked = np.concatenate([e.front.preferences[:, j] for e in b.entries])  # type: ignore[index]
    values = np.concatenate([e.front.values[:, j] for e in b.entries])
    at, which = np.unique(asked.round(6), return_inverse=True)
    if len(at) > 2 * bins:
        which = np.minimum((asked * bins).astype(int), bins - 1)
        at = (np.arange(bins) + 0.5) / bins
    low, mid, high = (
        np.array([np.quantile(values[which == k], q) for k in np.unique(which)])
        for q in (0.25, 0.5, 0.75)
    )
    return go.Scatter(
        x=at[np.unique(which)],
        y=mid,
        error_y={"array": high - mid, "arrayminus": mid - low, "thickness": 1, "width": 0},
        mode="lines+markers",
        line={"color": colour(b.k), "width": 1.5},
        marker={"color": colour(b.k), "symbol": symbol_of(b.k)},
        name=html.escape(b.label),
        legendgroup=b.label,
        showlegend=False,
        hovertemplate=f"<b>{html.escape(b.label)}</b><br>preference %{{x:.3g}}"
        "<br>median %{y:.5g}<extra></extra>",
    )
