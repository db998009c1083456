"""Empirical attainment: what a share of a method's runs reaches, and where two methods differ.

A point z is attained by a run when one of the run's points is at least as good in every objective.
The empirical attainment function is the share of runs that attain z; its level set at 50 % is the
median front. Source: Grunert da Fonseca, Fonseca & Hall, EMO 2001.

All arrays here are minimised, shape (n, m).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from frontrunner.errors import FrontError

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Surface:
    """The points that span an attainment surface, or why there is none.

    Attributes:
        points: (k, m), mutually non-dominated, first objective ascending; None with a ``reason``.
        level: share of the runs that attain the surface.
        runs: number of runs.
        reason: empty, or why ``points`` is None.
    """

    points: Array | None
    level: float
    runs: int
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Difference:
    """Where two groups differ: the share of A's runs minus the share of B's, over a grid of cells.

    Attributes:
        x: (k + 1,) cell edges of the first objective, minimised, ascending.
        y: (l + 1,) cell edges of the second.
        values: (l, k) in [-1, 1]; positive where more of A's runs attain the cell.
        exact: False when the grid was thinned to keep its size bounded.
    """

    x: Array
    y: Array
    values: Array
    exact: bool


def surface(runs: Sequence[Array], level: float = 0.5) -> Surface:
    """The surface that at least the share ``level`` of ``runs`` attains; see `moocore.eaf`.

    Two and three objectives; with more the surface is None and says why.

    Raises:
        FrontError: no runs, or a level outside (0, 1].
    """
    if not runs:
        raise FrontError("an attainment surface needs at least one run")
    if not 0.0 < level <= 1.0:
        raise FrontError(f"an attainment level lies in (0, 1], not {level:g}")
    n, m = len(runs), runs[0].shape[1]
    if m > 3:
        return Surface(None, level, n, f"attainment is computed for 2 or 3 objectives, not {m}")
    import moocore

    sets = np.repeat(np.arange(n), [len(r) for r in runs])
    # The k-th of n levels, asked for mid-step so that rounding cannot reach the next one.
    k = max(1, math.ceil(level * n - 1e-9))
    found = moocore.eaf(np.vstack(runs), sets, percentiles=[100.0 * (k - 0.5) / n])
    points = np.asarray(found[:, :m], dtype=np.float64)
    return Surface(points[np.lexsort(points.T[::-1])], level, n)


def difference(a: Sequence[Array], b: Sequence[Array], *, cells: int = 256) -> Difference | None:
    """Difference of the attainment of two groups of runs with two objectives; None with more.

    The attainment is constant between neighbouring coordinates of the points, so the grid through
    all of them is exact. Where that takes more than ``cells`` lines per objective, as many evenly
    chosen ones are kept. Computed here rather than by `moocore.eafdiff`, which (0.3.2) is right
    only for groups of equal size.

    Raises:
        FrontError: a group without runs.
    """
    if not a or not b:
        raise FrontError("an attainment difference needs runs on both sides")
    if a[0].shape[1] != 2:
        return None
    everything = np.vstack([*a, *b])
    x, y = np.unique(everything[:, 0]), np.unique(everything[:, 1])
    exact = max(len(x), len(y)) <= cells
    x, y = _thin(x, cells), _thin(y, cells)
    values = _attained(a, x, y) - _attained(b, x, y)
    return Difference(_close(x), _close(y), values, exact)


def _attained(runs: Sequence[Array], x: Array, y: Array) -> Array:
    """(len(y), len(x)) share of runs that attain each grid point."""
    total = np.zeros((len(y), len(x)))
    for run in runs:
        order = np.argsort(run[:, 0], kind="stable")
        # The best second objective among the points no worse than x in the first.
        best = np.concatenate([[np.inf], np.minimum.accumulate(run[order, 1])])
        total += best[np.searchsorted(run[order, 0], x, side="right")] <= y[:, None]
    return total / len(runs)


def _thin(lines: Array, cells: int) -> Array:
    if len(lines) <= cells:
        return lines
    return lines[np.unique(np.linspace(0, len(lines) - 1, cells).round().astype(int))]


def _close(lines: Array) -> Array:
    """Add the outer edge of the last cell, which in truth extends without end."""
    span = lines[-1] - lines[0]
    return np.append(lines, lines[-1] + (0.08 * span if span > 0 else 1.0))


def staircase(points: Array, limit: Array | None = None) -> Array:
    """Corners of the boundary that ``points`` (n, 2) attain, as a line to draw, (k, 2).

    The line runs from far above the first point to far right of the last when ``limit`` (2,), the
    worst corner of the picture, is given.
    """
    p = points[np.lexsort((points[:, 1], points[:, 0]))]
    best = np.minimum.accumulate(p[:, 1])
    p = p[np.concatenate([[True], p[1:, 1] < best[:-1]])]
    line = np.empty((2 * len(p) - 1, 2))
    line[0::2] = p
    line[1::2, 0] = p[1:, 0]
    line[1::2, 1] = p[:-1, 1]
    if limit is None:
        return line
    first = [line[0, 0], max(limit[1], line[0, 1])]
    last = [max(limit[0], line[-1, 0]), line[-1, 1]]
    return np.vstack([first, line, last])
