"""Numbers that say how good a set of objective vectors is.

Every function takes points of shape (n, m) of which *less is better in every column*; a `Front`
passes its `minimised` values. Definitions, conventions and sources: docs/fronts.md.

Each function refuses non-finite points, because the library underneath would answer anyway: a NaN
row is skipped without a word in a hypervolume, and in a dominance test it removes valid rows.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from frontrunner.errors import FrontError
from frontrunner.preferences import Kind

Array = NDArray[np.float64]

APPROXIMATE_FROM = 8  # objectives; the cost of the exact hypervolume explodes from here on
MOST_OBJECTIVES = 31  # the library's limit


# ---------------------------------------------------------------------- dominance and hypervolume


def nondominated(points: ArrayLike) -> NDArray[np.bool_]:
    """(n,) mask of the points that no other point dominates; of equal points the first is kept."""
    import moocore

    return np.asarray(moocore.is_nondominated(finite_points(points)), dtype=bool)


def hypervolume_method(m: int) -> Literal["exact", "approximate"]:
    """How `hypervolume` is computed for ``m`` objectives."""
    return "exact" if m < APPROXIMATE_FROM else "approximate"


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """Volume of the region that the points dominate and that dominates ``reference``.

    Points that are not strictly better than the reference in every objective add nothing; count
    them with `beyond_reference`. Exact up to seven objectives; from eight on, a deterministic
    quasi-Monte-Carlo estimate (see `hypervolume_method`).

    Args:
        points: (n, m), minimised.
        reference: (m,), minimised.

    Raises:
        FrontError: non-finite input, shapes that disagree, or more than 31 objectives.

    Source: Zitzler & Thiele, PPSN V, 1998; computed by moocore (Fonseca et al., CEC 2006; Guerreiro
    & Fonseca, IEEE TEVC 22(3), 2018; estimate: Deng & Zhang, IEEE TEVC 23(5), 2019).
    """
    import moocore

    f, z = points_and_reference(points, reference)
    if f.shape[1] > MOST_OBJECTIVES:
        raise FrontError(
            f"a hypervolume takes at most {MOST_OBJECTIVES} objectives, not {f.shape[1]}"
        )
    inside = f[(f < z).all(axis=1)]
    if len(inside) == 0:
        return 0.0
    if hypervolume_method(f.shape[1]) == "exact":
        return float(moocore.hypervolume(inside, ref=z))
    return float(moocore.hv_approx(inside, ref=z))


def beyond_reference(points: ArrayLike, reference: ArrayLike) -> int:
    """How many points are not strictly better than ``reference`` in every objective."""
    f, z = points_and_reference(points, reference)
    return int((~(f < z).all(axis=1)).sum())


def relative_hypervolume(
    points: ArrayLike, reference: ArrayLike, truth: ArrayLike | float
) -> float:
    """Hypervolume divided by that of the best known front.

    Args:
        points: (n, m), minimised.
        reference: (m,), minimised.
        truth: the best known front, (k, m) minimised, or its hypervolume as a number.

    Raises:
        FrontError: as `hypervolume`, or a ``truth`` without hypervolume.
    """
    known = np.asarray(truth, dtype=np.float64)
    best = float(known) if known.ndim == 0 else hypervolume(known, reference)
    if not (math.isfinite(best) and best > 0):
        raise FrontError(f"the best known front has no hypervolume to compare with: {best:g}")
    return hypervolume(points, reference) / best


# ---------------------------------------------------------------------- distance to a known front


def igd_plus(points: ArrayLike, reference_front: ArrayLike) -> float:
    """Mean over the known front of the distance by which the points are worse; 0 is perfect.

    ``mean_z min_f ||max(f - z, 0)||``, z over ``reference_front`` (k, m), f over ``points`` (n, m).

    Source: Ishibuchi et al., EMO 2015.
    """
    import moocore

    return float(moocore.igd_plus(*_points_and_front(points, reference_front)))


def epsilon_additive(points: ArrayLike, reference_front: ArrayLike) -> float:
    """Least ε by which all points must be lowered to weakly dominate the whole known front.

    ``max_z min_f max_j (f_j - z_j)``; 0 or less means that nothing of it is missed.

    Source: Zitzler et al., IEEE TEVC 7(2), 2003.
    """
    import moocore

    return float(moocore.epsilon_additive(*_points_and_front(points, reference_front)))


# ---------------------------------------------------------------------- how the points are spread


def gaps(points: ArrayLike, *, norm: Literal["euclidean", "manhattan"] = "euclidean") -> Array:
    """(n,) distance of every point to its nearest other point; empty for a single point."""
    f = finite_points(points)
    if len(f) < 2:
        return np.empty(0)
    order = 2 if norm == "euclidean" else 1
    nearest = np.empty(len(f))
    for i, row in enumerate(f):  # one row at a time: memory stays O(n m)
        distance = np.linalg.norm(f - row, ord=order, axis=1)
        distance[i] = np.inf
        nearest[i] = distance.min()
    return nearest


def spacing(points: ArrayLike) -> float | None:
    """Standard deviation of the Manhattan nearest-neighbour gaps; None for fewer than two points.

    ``sqrt(sum_i (mean(d) - d_i)^2 / (n - 1))`` with ``d_i = min_{k != i} sum_j |f_ij - f_kj|``.

    Source: Schott, master's thesis, MIT, 1995.
    """
    d = gaps(points, norm="manhattan")
    return float(d.std(ddof=1)) if len(d) else None


def uniformity(points: ArrayLike) -> float | None:
    """Smallest Euclidean distance between two points; larger is better, None for a single point.

    Source: Sayın, Mathematical Programming 87, 2000.
    """
    d = gaps(points)
    return float(d.min()) if len(d) else None


def gap_deviation(points: ArrayLike) -> float | None:
    """Standard deviation (over n) of the Euclidean gaps; 0 is even, None for a single point."""
    d = gaps(points)
    return float(d.std()) if len(d) else None


def extent(points: ArrayLike) -> Array:
    """(m,) largest minus smallest value of each objective."""
    f = finite_points(points)
    return f.max(axis=0) - f.min(axis=0)


# ---------------------------------------------------------------------- obedience to preferences


def rank_alignment(preferences: ArrayLike, points: ArrayLike, kind: Kind) -> float | None:
    """Mean over objectives of the Spearman correlation between preference and what it asked for.

    For ``kind='weight'`` entry j is correlated with the goodness ``-f_j``, for ``kind='ray'`` with
    the value ``f_j`` itself, so that +1 is perfect obedience either way and -1 the reverse. An
    objective whose preference entry never changes is left out; one whose value never changes
    although its preference does counts 0. None when no preference entry changes.

    Args:
        preferences: (n, m) on the simplex.
        points: (n, m), minimised.
        kind: how a preference is read, see `frontrunner.preferences`.

    Raises:
        FrontError: non-finite input, shapes that disagree, or an unknown kind.

    Source: Spearman, 1904 (average ranks for ties); reading it as obedience is this package's.
    """
    p, f = _preferences_and_points(preferences, points)
    if kind not in ("weight", "ray"):
        raise FrontError(f"a preference is a 'weight' or a 'ray', not {kind!r}")
    wanted = f if kind == "ray" else -f
    asked = [j for j in range(p.shape[1]) if np.ptp(p[:, j]) > 0]
    if not asked:
        return None
    return float(np.mean([_spearman(p[:, j], wanted[:, j]) for j in asked]))


def ray_angle(preferences: ArrayLike, points: ArrayLike) -> float:
    """Mean angle in degrees between each point and the ray it was asked to lie on.

    Args:
        preferences: (n, m) rays.
        points: (n, m), minimised and non-negative.

    Raises:
        FrontError: non-finite input, shapes that disagree, a negative value, or a zero vector.
    """
    r, f = _preferences_and_points(preferences, points)
    if (f < 0).any():
        raise FrontError("an angle to a ray needs objective values of 0 or more; shift them first")
    # Kahan's half-angle form: arccos of a dot product loses half the digits at small angles.
    r, f = _unit_rows(r, "preference"), _unit_rows(f, "point")
    apart = np.linalg.norm(r - f, axis=1)
    along = np.linalg.norm(r + f, axis=1)
    return float(np.degrees(2.0 * np.arctan2(apart, along)).mean())


# ---------------------------------------------------------------------- all of them


def summary(
    points: ArrayLike,
    reference: ArrayLike | None,
    *,
    preferences: ArrayLike | None = None,
    preference_kind: Kind | None = None,
) -> dict[str, Any]:
    """Every indicator that needs no known front, as JSON values.

    ``spacing``, ``uniformity``, ``gap_deviation`` and ``range`` are of the non-dominated points,
    the alignment of all points. What cannot be computed is None, never NaN.

    Args:
        points: (n, m), minimised.
        reference: (m,) minimised, or None.
        preferences: (n, m), or None.
        preference_kind: how a preference is read; None leaves the alignment out.

    Raises:
        FrontError: non-finite input or shapes that disagree.
    """
    f = finite_points(points)
    best = f[nondominated(f)]
    volume = method = outside = alignment = angle = None
    if reference is not None:
        volume = _finite(hypervolume(f, reference))
        method = hypervolume_method(f.shape[1])
        outside = beyond_reference(f, reference)
    if preferences is not None and preference_kind is not None:
        alignment = _finite(rank_alignment(preferences, f, preference_kind))
        if preference_kind == "ray" and (f >= 0).all() and (f > 0).any(axis=1).all():
            angle = _finite(ray_angle(preferences, f))
    return {
        "hypervolume": volume,
        "hypervolume_method": method,
        "points_beyond_reference": outside,
        "points": len(f),
        "nondominated": len(best),
        "spacing": _finite(spacing(best)),
        "uniformity": _finite(uniformity(best)),
        "gap_deviation": _finite(gap_deviation(best)),
        "range": [_finite(x) for x in extent(best)],
        "rank_alignment": alignment,
        "ray_angle_degrees": angle,
    }


# ---------------------------------------------------------------------- guards


def finite_points(points: ArrayLike, what: str = "points") -> Array:
    """Return ``points`` as a finite float64 array (n, m) with at least one row.

    Raises:
        FrontError: not numbers, not two-dimensional, empty, or not finite (the row is named).
    """
    try:
        f = np.ascontiguousarray(points, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError):
        raise FrontError(
            f"{what} must be numbers, as many in every row; "
            "give a tensor as .detach().double().cpu()"
        ) from None
    if f.ndim != 2 or f.shape[0] == 0 or f.shape[1] == 0:
        raise FrontError(f"{what} have shape (n, m) with at least one row, not {f.shape}")
    bad = ~np.isfinite(f).all(axis=1)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise FrontError(f"row {row} of the {what} is not finite: {f[row].tolist()}")
    return f


def points_and_reference(points: ArrayLike, reference: ArrayLike) -> tuple[Array, Array]:
    """Return points (n, m) and reference (m,) as finite float64 arrays.

    Raises:
        FrontError: as `finite_points`, or a reference of another length or not finite.
    """
    f = finite_points(points)
    z = np.asarray(reference, dtype=np.float64)
    if z.shape != (f.shape[1],) or not np.isfinite(z).all():
        raise FrontError(f"a reference point needs {f.shape[1]} finite entries, not {z.tolist()}")
    return f, z


def _points_and_front(points: ArrayLike, front: ArrayLike) -> tuple[Array, Array]:
    f, z = finite_points(points), finite_points(front, "points of the known front")
    if f.shape[1] != z.shape[1]:
        raise FrontError(f"points have {f.shape[1]} objectives, the known front {z.shape[1]}")
    return f, z


def _preferences_and_points(preferences: ArrayLike, points: ArrayLike) -> tuple[Array, Array]:
    p, f = finite_points(preferences, "preferences"), finite_points(points)
    if p.shape != f.shape:
        raise FrontError(f"preferences have shape {p.shape}, points {f.shape}")
    return p, f


def _spearman(a: Array, b: Array) -> float:
    """Rank correlation of a varying column with another; 0 if the other never changes."""
    if np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(_average_ranks(a), _average_ranks(b))[0, 1])


def _average_ranks(column: Array) -> Array:
    """Ranks from 1; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(column, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2.0)[inverse]


def _unit_rows(vectors: Array, what: str) -> Array:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    if (length == 0).any():
        row = int(np.flatnonzero(length == 0)[0])
        raise FrontError(f"{what} {row} is the zero vector and has no direction")
    return vectors / length


def _finite(value: float | None) -> float | None:
    """The number, or None where huge objective values overflowed."""
    return None if value is None or not math.isfinite(value) else float(value)
