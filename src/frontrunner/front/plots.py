"""Pictures of fronts: matplotlib figures, PNG files, and what notebooks show."""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from frontrunner import files
from frontrunner.errors import FrontError
from frontrunner.front import attainment
from frontrunner.front.collect import label_of
from frontrunner.front.text import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from frontrunner.front.front import Front

Array = NDArray[np.float64]

COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#8C8C8C",
)
"""Okabe & Ito's palette, told apart with any colour vision, in order of contrast on white; its
yellow, too light for lines, is replaced by grey. Source: Okabe & Ito, Color Universal Design, 2008.
"""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
GRID = "#E4E7EB"
INK = "#24292F"


def colour(i: int) -> str:
    """Colour of the i-th group; with more than eight the markers tell groups apart."""
    return COLOURS[i % len(COLOURS)]


def marker(i: int) -> str:
    """Marker of the i-th group."""
    return MARKERS[(i + i // len(COLOURS)) % len(MARKERS)]


def grouped(fronts: Sequence[Front], labels: Sequence[str] | None = None) -> dict[str, list[Front]]:
    """Fronts by label, in order of appearance. Without labels, each front's own, or a number.

    Raises:
        FrontError: no fronts, or as many labels as there are not fronts.
    """
    from frontrunner.front.front import check_comparable

    if not fronts:
        raise FrontError("there are no fronts to draw")
    check_comparable(fronts)
    if labels is None:
        labels = [label_of(f, f"front {i + 1}") for i, f in enumerate(fronts)]
    if len(labels) != len(fronts):
        raise FrontError(f"{len(labels)} labels for {len(fronts)} fronts")
    groups: dict[str, list[Front]] = {}
    for front, label in zip(fronts, labels, strict=True):
        groups.setdefault(label, []).append(front)
    return groups


def figure(
    fronts: Sequence[Front],
    labels: Sequence[str] | None = None,
    *,
    reference_point: ArrayLike | None = None,
    title: str | None = None,
    size: tuple[float, float] | None = None,
) -> Figure:
    """Draw fronts; those with the same label are runs of one method and share a colour.

    Two objectives: points, and the staircase that half of a label's runs attain, which for a single
    run is the boundary of what it dominates. Three: a view in space and its three projections.
    More: parallel coordinates with the better end of every axis upwards. Dominated points are
    hollow (with parallel coordinates: dashed).

    Args:
        fronts: with the same objectives.
        labels: one per front; without, each front's own.
        reference_point: (m,) in the objectives' own units; without, the first front's, if any.
        title: above the picture.
        size: width and height in inches.

    Raises:
        FrontError: no fronts, fronts of different objectives, or a wrong number of labels.
    """
    import matplotlib
    from matplotlib.figure import Figure

    groups = grouped(fronts, labels)
    m = len(fronts[0].objectives)
    reference = fronts[0].reference_point
    if reference_point is not None:
        reference = fronts[0].with_reference(reference_point).reference_point
    default = (8.0, 5.5) if m == 2 else (11.0, 8.5) if m == 3 else (2.0 + 1.7 * m, 5.5)
    with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
        fig = Figure(figsize=size or default, layout="constrained", facecolor="white")
        engine: Any = fig.get_layout_engine()
        engine.set(w_pad=0.09, h_pad=0.07)
        if m == 2:
            _flat(fig.add_subplot(), groups, (0, 1), reference, surface=True)
        elif m == 3:
            _solid(fig, groups, reference)
        else:
            _parallel(fig.add_subplot(), groups)
        if title:
            fig.suptitle(_plain(title), fontsize=13, color=INK)
        _legend(fig, groups, m, reference is not None and m <= 3)
    return fig


_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "axes.edgecolor": "#8C959F",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": "#57606A",
    "ytick.color": "#57606A",
    "text.color": INK,
    "legend.frameon": False,
}


def _flat(
    ax: Axes,
    groups: dict[str, list[Front]],
    axes: tuple[int, int],
    reference: Array | None,
    *,
    surface: bool,
) -> None:
    """Two objectives of the groups against each other."""
    i, j = axes
    first = next(iter(groups.values()))[0]
    pair = [i, j]
    values = np.vstack([f.values[:, pair] for runs in groups.values() for f in runs])
    low, high = values.min(axis=0), values.max(axis=0)
    span = np.where(high > low, high - low, np.maximum(np.abs(high), 1.0))
    low, high = low - 0.06 * span, high + 0.06 * span
    shown = reference is not None and bool(
        ((reference[pair] > low - 0.35 * span) & (reference[pair] < high + 0.35 * span)).all()
    )
    if shown:
        assert reference is not None
        low = np.minimum(low, reference[pair] - 0.04 * span)
        high = np.maximum(high, reference[pair] + 0.04 * span)
        ax.plot(*reference[pair], marker="+", ms=11, mew=1.8, color=INK, ls="", zorder=4)
    signs = first.signs[pair]
    worst = np.maximum(low * signs, high * signs) + 10 * span
    for k, (_, runs) in enumerate(groups.items()):
        light = 0.45 if len(runs) > 1 and surface else 0.9
        values, mask = _together(runs)
        kw: dict[str, Any] = {"marker": marker(k), "s": 26, "lw": 1.0, "alpha": light}
        ax.scatter(*values[mask][:, pair].T, color=colour(k), zorder=3, **kw)
        kw["alpha"] = 0.6 * light
        ax.scatter(*values[~mask][:, pair].T, fc="none", ec=colour(k), zorder=2, **kw)
        if surface:
            half = attainment.surface([f.minimised for f in runs]).points
            assert half is not None
            line = attainment.staircase(half, worst) * signs
            ax.plot(*line.T, color=colour(k), lw=2.0, alpha=0.9, zorder=2.5)
    ax.set_xlim(low[0], high[0])
    ax.set_ylim(low[1], high[1])
    ax.set_xlabel(_plain(first.objectives[i].label))
    ax.set_ylabel(_plain(first.objectives[j].label))


def _solid(fig: Figure, groups: dict[str, list[Front]], reference: Array | None) -> None:
    """Three objectives: a view in space, and the projections."""
    cells = fig.add_gridspec(2, 2)
    space: Any = fig.add_subplot(cells[0, 0], projection="3d")
    first = next(iter(groups.values()))[0]
    for k, (_, runs) in enumerate(groups.items()):
        values, mask = _together(runs)
        kw: dict[str, Any] = {"marker": marker(k), "s": 20, "depthshade": False}
        space.scatter(*values[mask].T, color=colour(k), alpha=0.85, **kw)
        if (~mask).any():
            space.scatter(*values[~mask].T, fc="none", ec=colour(k), alpha=0.5, **kw)
    names = [_plain(o.label) for o in first.objectives]
    space.set_xlabel(names[0], labelpad=4, fontsize=9)
    space.set_ylabel(names[1], labelpad=4, fontsize=9)
    space.set_zlabel(names[2], labelpad=4, fontsize=9)
    space.tick_params(labelsize=8, pad=0)
    space.view_init(elev=24, azim=40)
    space.set_box_aspect((1, 1, 0.9), zoom=0.98)
    for axis in (space.xaxis, space.yaxis, space.zaxis):
        axis.pane.set_facecolor("#F6F8FA")
        axis.set_major_locator(_few_ticks())
    for cell, axes in zip([(0, 1), (1, 0), (1, 1)], combinations(range(3), 2), strict=True):
        _flat(fig.add_subplot(cells[cell]), groups, axes, reference, surface=False)


def _together(runs: Sequence[Front]) -> tuple[Array, NDArray[np.bool_]]:
    """The points of all runs, (n, m), and which are not dominated in their own run: drawn one by
    one, hundreds of runs take most of a minute."""
    return np.vstack([f.values for f in runs]), np.concatenate([f.nondominated() for f in runs])


def _few_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(5)


def heights(groups: dict[str, list[Front]]) -> tuple[list[list[Array]], Array, Array]:
    """Values mapped to [0, 1] with 1 the best of all groups, per group and run, and both ends.

    Returns:
        the mapped values, (n, m) per run; worst and best values, (m,), in their own units.
    """
    first = next(iter(groups.values()))[0]
    everything = np.vstack([f.minimised for runs in groups.values() for f in runs])
    best, worst = everything.min(axis=0), everything.max(axis=0)
    span = np.where(worst > best, worst - best, 1.0)
    mapped = [[(worst - f.minimised) / span for f in runs] for runs in groups.values()]
    return mapped, worst * first.signs, best * first.signs


def _parallel(ax: Axes, groups: dict[str, list[Front]]) -> None:
    """Four or more objectives: one line per point."""
    from matplotlib.collections import LineCollection

    mapped, worst, best = heights(groups)
    objectives = next(iter(groups.values()))[0].objectives
    m = len(objectives)
    total = sum(len(run) for runs in mapped for run in runs)
    alpha = float(np.clip(25.0 / total, 0.12, 0.8))
    for k, (runs, values) in enumerate(zip(groups.values(), mapped, strict=True)):
        for front, run in zip(runs, values, strict=True):
            mask = front.nondominated()
            for rows, style in ((run[mask], "-"), (run[~mask], ":")):
                lines = [np.column_stack([np.arange(m), row]) for row in rows]
                ax.add_collection(
                    LineCollection(lines, colors=colour(k), lw=1.2, alpha=alpha, ls=style)
                )
    for j in range(m):
        ax.axvline(j, color="#8C959F", lw=1.0, zorder=0)
        kw: dict[str, Any] = {"ha": "center", "fontsize": 9.5, "color": "#57606A"}
        ax.text(j, 1.025, number(best[j], 3), va="bottom", **kw)
        ax.text(j, -0.025, number(worst[j], 3), va="top", **kw)
    ax.set_xlim(-0.35, m - 0.65)
    ax.set_ylim(-0.09, 1.09)
    ax.set_xticks(range(m), [_plain(o.label) for o in objectives])
    ax.set_yticks([])
    ax.grid(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
    ax.tick_params(axis="x", length=0, pad=8, labelsize=10.5, labelcolor=INK)
    ax.set_ylabel("better  →")


def _legend(fig: Figure, groups: dict[str, list[Front]], m: int, reference: bool) -> None:
    from matplotlib.lines import Line2D

    several = any(len(runs) > 1 for runs in groups.values())
    handles = []
    for k, (label, runs) in enumerate(groups.items()):
        text = f"{label} ({len(runs)} runs)" if len(runs) > 1 else label
        style: dict[str, Any] = {"color": colour(k), "label": _plain(text), "ms": 5.5}
        if m <= 3:
            style["marker"] = marker(k)
        handles.append(Line2D([], [], ls="" if m == 3 else "-", lw=2.0, **style))
    hollow = any((~f.nondominated()).any() for runs in groups.values() for f in runs)
    grey: dict[str, Any] = {"color": "#57606A", "ms": 5.5}
    if m == 2 and several:
        handles.append(Line2D([], [], lw=2.0, label="attained by half of the runs", **grey))
    if hollow and m <= 3:
        handles.append(Line2D([], [], ls="", marker="o", mfc="none", label="dominated", **grey))
    elif hollow:
        handles.append(Line2D([], [], ls=":", label="dominated", **grey))
    drawn = any(line.get_marker() == "+" for ax in fig.axes for line in ax.get_lines())
    if reference and drawn:
        handles.append(Line2D([], [], ls="", marker="+", mew=1.8, label="reference", **grey))
    longest = max(len(str(h.get_label())) for h in handles)
    columns = max(1, min(len(handles), int(fig.get_figwidth() * 14 // (longest + 6))))
    fig.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=10)


def _plain(text: str) -> str:
    """Text in which matplotlib reads no mathematics."""
    return text.replace("$", r"\$")


# ---------------------------------------------------------------------- files and pages


def save_png(fig: Figure, path: str | os.PathLike[str], *, dpi: int = 150) -> None:
    """Write a figure as PNG, atomically."""
    with files.atomic_path(path) as temporary:
        fig.savefig(temporary, dpi=dpi, format="png", facecolor="white")


def notebook_html(front: Front) -> str:
    """A table of the points beside the picture, as one piece of HTML."""
    buffer = io.BytesIO()
    figure([front]).savefig(buffer, format="png", dpi=110)
    image = base64.b64encode(buffer.getvalue()).decode()
    mask = front.nondominated()
    head = [*(["preference"] if front.preferences is not None else [])]
    head += [html.escape(o.label) for o in front.objectives]
    rows = []
    for i, row in enumerate(front.values):
        cells = [number(x) for x in row]
        if front.preferences is not None:
            cells.insert(0, "(" + ", ".join(f"{x:.3g}" for x in front.preferences[i]) + ")")
        note = "" if mask[i] else "dominated"
        rows.append("".join(f"<td>{c}</td>" for c in [*cells, note]))
    return (
        f"<div><p><b>{html.escape(label_of(front, 'front'))}</b>: {len(front)} points, "
        f"{int(mask.sum())} non-dominated</p>"
        f'<img alt="the front" style="max-width:640px" src="data:image/png;base64,{image}">'
        '<div style="max-height:22em;overflow:auto"><table><thead><tr>'
        + "".join(f"<th>{c}</th>" for c in [*head, ""])
        + "</tr></thead><tbody>"
        + "".join(f"<tr>{row}</tr>" for row in rows)
        + "</tbody></table></div></div>"
    )


def front_html(front: Front, path: str | os.PathLike[str]) -> None:
    """Write one front as a page of its own, which needs no network, atomically."""
    from frontrunner.front import page

    files.write_text(path, page.front_page(front, Path(path).parent))
