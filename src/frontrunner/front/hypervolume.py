"""The gradient of the hypervolume for two and three objectives.

Lowering coordinate k of a point by ε grows the dominated region by a slab of thickness ε whose
base is the point's face across k, less what points that are better in k already cover. So, with
all points sorted by coordinate k,

    dHV / df_k  =  -(what the point's projection along k adds to the projections before it),

a length for two objectives and an area for three (Emmerich & Deutz, 2014).

Where two points share a coordinate the hypervolume has a kink, and the sum needs an order. Rows
that tie in k are sorted by their other coordinates, then by row number. This is the gradient at
neighbouring sets in which the tie is broken that way: a dominated row always comes after its
dominator and so adds nothing, and of equal rows the first gets everything.
"""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
from numpy.typing import ArrayLike, NDArray

from frontrunner.errors import FrontError
from frontrunner.front import indicators

Array = NDArray[np.float64]


def hypervolume_gradient(points: ArrayLike, reference: ArrayLike) -> Array:
    """Derivative of the hypervolume with respect to every coordinate of every point.

    Takes O(n log n) for two objectives; for three, three sweeps of O(n log n) comparisons each.

    Args:
        points: (n, m) minimised, m = 2 or 3.
        reference: (m,) minimised.

    Returns:
        (n, m) with entries <= 0, in units of hypervolume per objective. Zero for points that are
        dominated, that repeat an earlier row, or that are not strictly better than the reference
        in every objective.

    Raises:
        FrontError: more than three objectives, non-finite input, or shapes that disagree.

    Source: Emmerich & Deutz, "Time complexity and zeros of the hypervolume indicator gradient
    field", EVOLVE III, 2014; the sweep for areas follows the dimension sweep of Fonseca, Paquete
    & López-Ibáñez, CEC 2006.
    """
    f, z = indicators.points_and_reference(points, reference)
    m = f.shape[1]
    if m not in (2, 3):
        raise FrontError(f"the hypervolume gradient is for 2 or 3 objectives, not {m}")
    gradient = np.zeros_like(f)
    inside = np.flatnonzero((f < z).all(axis=1))
    for k in range(m):
        others = [j for j in range(m) if j != k]
        keys = [f[inside, j] for j in (*reversed(others), k)]  # the last key sorts first
        order = inside[np.lexsort(keys)]
        added = _added_lengths if m == 2 else _added_areas
        gradient[order, k] = -added(f[order][:, others], z[others])
    return gradient


def front_ranks(points: ArrayLike) -> NDArray[np.int64]:
    """(n,) rank under non-dominated sorting: 0 for the non-dominated points, and so on inwards.

    Each further copy of a repeated row goes one front deeper, so that rank 0 is exactly
    `indicators.nondominated`.

    Source: Deb et al., IEEE TEVC 6(2), 2002.
    """
    f = indicators.finite_points(points)
    ranks = np.zeros(len(f), dtype=np.int64)
    left, rank = np.arange(len(f)), 0
    while len(left):
        best = indicators.nondominated(f[left])
        ranks[left[best]] = rank
        left, rank = left[~best], rank + 1
    return ranks


def sorted_hypervolume_gradient(points: ArrayLike, reference: ArrayLike) -> Array:
    """The hypervolume gradient each point has within its own front, (n, m).

    `hypervolume_gradient` leaves dominated and repeated points without a direction; here each
    front of `front_ranks` gets the gradient it would have alone. Points beyond the reference stay
    at zero.

    Raises:
        FrontError: as `hypervolume_gradient`.

    Source: Wang, Deutz, Bäck & Emmerich, "Hypervolume indicator gradient ascent multi-objective
    optimization", EMO 2017 (HIGA-MO).
    """
    f, z = indicators.points_and_reference(points, reference)
    gradient = np.zeros_like(f)
    ranks = front_ranks(f)
    for rank in range(int(ranks.max()) + 1):
        members = ranks == rank
        gradient[members] = hypervolume_gradient(f[members], z)
    return gradient


def _added_lengths(line: Array, end: Array) -> Array:
    """What each [x, end] adds to the union of those before it: (n, 1), (1,) -> (n,)."""
    x = line[:, 0]
    reached = np.minimum.accumulate(np.concatenate((end, x)))[:-1]
    return np.maximum(reached - x, 0.0)


def _added_areas(plane: Array, corner: Array) -> Array:
    """What each [x, X] x [y, Y] adds to the union of those before it: (n, 2), (2,) -> (n,).

    The union so far is a staircase; its steps (x, y) are kept sorted, x rising and y falling. A
    new rectangle swallows the steps it covers, each at most once, so all walks together are O(n).
    """
    right, top = (float(c) for c in corner)
    steps = [(-np.inf, top), (right, -np.inf)]  # walls, so that every step has two neighbours
    areas = np.zeros(len(plane))
    for row, (x, y) in enumerate(plane.tolist()):
        first = last = bisect_left(steps, (x, y))
        ceiling = steps[first - 1][1]
        if ceiling <= y:
            continue  # the step to the left covers this corner
        area, left = 0.0, x
        while steps[last][1] >= y:
            area += (steps[last][0] - left) * (ceiling - y)
            left, ceiling = steps[last]
            last += 1
        areas[row] = area + (steps[last][0] - left) * (ceiling - y)
        steps[first:last] = [(x, y)]
    return areas
