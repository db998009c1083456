"""Preferences: points of the simplex, one entry per objective, and the grids of them.

A preference is read in one of two ways, and every grid, Pareto set and front says which:

* ``weight``: the larger entry j, the more objective j matters, so the *better* it should become;
* ``ray``: the wanted objective vector is parallel to the preference, so the larger entry j, the
  *larger* objective j is allowed to be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from frontrunner.errors import FrontError

Kind = Literal["weight", "ray"]
Array = NDArray[np.float64]


def validate(preference: ArrayLike, m: int, *, tolerance: float = 1e-6) -> Array:
    """Return ``preference`` as float64 of shape (m,) or (n, m), each row summing to 1.

    Raises:
        FrontError: wrong length, a non-finite or negative entry, or a sum away from 1.
    """
    p = np.asarray(preference, dtype=np.float64)
    if p.ndim not in (1, 2) or p.shape[-1] != m:
        raise FrontError(
            f"a preference has one entry per objective: expected {m}, got shape {p.shape}"
        )
    if not np.isfinite(p).all():
        raise FrontError("a preference must be finite")
    if (p < -tolerance).any():
        raise FrontError(f"a preference has no negative entries: {p.tolist()}")
    total = p.sum(axis=-1, keepdims=True)
    if (np.abs(total - 1.0) > tolerance).any():
        raise FrontError(f"the entries of a preference sum to 1, not {float(total.ravel()[0]):g}")
    p = np.clip(p, 0.0, None)
    total = p.sum(axis=-1, keepdims=True)
    # Dividing again could change the last bit: what is valid already comes back as it is.
    return np.where(np.abs(total - 1.0) <= 1e-12, p, p / total)


def das_dennis(m: int, divisions: int) -> Array:
    """All points of the simplex with entries in {0, 1/s, …, 1}, s = ``divisions``.

    Shape (C(s+m-1, m-1), m), rows in lexicographic order of the first entry, descending. Source:
    Das & Dennis, SIAM J. Optim. 8(3), 1998 (simplex-lattice design).
    """
    if m < 2 or divisions < 1:
        raise FrontError("a Das-Dennis grid needs m >= 2 objectives and at least 1 division")
    rows: list[list[int]] = [[]]
    for _j in range(m - 1):
        rows = [[*row, i] for row in rows for i in range(divisions - sum(row), -1, -1)]
    grid = np.array([[*row, divisions - sum(row)] for row in rows], dtype=np.float64)
    return grid / divisions


def grid(m: int, n: int) -> Array:
    """The simplex lattice with n points, (n, m).

    Raises:
        FrontError: no lattice has exactly n points; the message names the nearest sizes.
    """
    message = f"no simplex lattice of {m} objectives has {n} points"
    if m < 2 or not isinstance(n, int):
        raise FrontError(message)
    divisions, below, size = 1, 0, m
    while size < n:
        divisions, below = divisions + 1, size
        size = math.comb(divisions + m - 1, m - 1)
    if size != n:
        nearest = [str(number) for number in (below, size) if number]
        raise FrontError(f"{message}; nearest: {' and '.join(nearest)}")
    return das_dennis(m, divisions)


def scenarios(m: int) -> Array:
    """The preferences of merging papers, (1 + 2m, m): equal; half of the weight on each objective
    in turn and the rest shared (priority); all of it on each in turn (one-hot).

    Source: Pareto Merging and ReACT evaluate so; half is our reading of "priority".
    """
    if m < 2:
        raise FrontError("scenarios need at least two objectives")
    first = np.eye(m)
    half = np.full((m, m), 0.5 / (m - 1))
    np.fill_diagonal(half, 0.5)
    rows = np.concatenate([np.full((1, m), 1.0 / m), half, first])
    _, kept = np.unique(rows.round(12), axis=0, return_index=True)  # of two, half is equal
    return rows[np.sort(kept)]


def chosen(m: int, points: int | str) -> Array:
    """`grid` for a number, `scenarios` for their name.

    Raises:
        FrontError: no such lattice, or another name.
    """
    if points == "scenarios":
        return scenarios(m)
    if isinstance(points, str):
        raise FrontError(f"points '{points}' is neither a number nor 'scenarios'")
    return grid(m, points)


def with_uniform(preferences: ArrayLike) -> Array:
    """The rows (n, m), and the uniform preference after them where it is not among them."""
    p = np.atleast_2d(np.asarray(preferences, dtype=np.float64))
    uniform = np.full((1, p.shape[1]), 1.0 / p.shape[1])
    return p if (np.abs(p - uniform).max(axis=1) < 1e-9).any() else np.concatenate([p, uniform])


def dirichlet(m: int, n: int, concentration: float | Sequence[float], seed: int) -> Array:
    """n draws from Dirichlet(concentration), (n, m); a scalar serves every objective."""
    alpha = np.broadcast_to(np.asarray(concentration, dtype=np.float64), (m,))
    if not (np.isfinite(alpha).all() and (alpha > 0).all()):
        raise FrontError("a Dirichlet concentration is positive")
    return np.random.default_rng(seed).dirichlet(alpha, size=n)


def corner_stratified(m: int, n: int, concentration: float, seed: int, *, corner: float) -> Array:
    """Dirichlet draws of which the share ``corner`` is pulled towards the corners in turn, (n, m).

    A pulled draw is the mean of the Dirichlet draw and a one-hot vector; corner k serves every m-th
    pulled row, so every corner is visited equally often.
    """
    if not 0.0 <= corner <= 1.0:
        raise FrontError("the corner share lies between 0 and 1")
    p = dirichlet(m, n, concentration, seed)
    pulled = np.arange(round(corner * n))
    p[pulled] = 0.5 * (p[pulled] + np.eye(m)[pulled % m])
    return p


def quasi_random(m: int, n: int, concentration: float, seed: int) -> Array:
    """n points of Dirichlet(concentration) that fill the simplex more evenly than draws, (n, m).

    A scrambled Sobol sequence through the inverse distribution of the gamma variables that make up
    a Dirichlet one; every stretch of it is spread out.
    """
    from scipy.stats import gamma, qmc

    if not concentration > 0:
        raise FrontError("a Dirichlet concentration is positive")
    sobol = qmc.Sobol(m, rng=np.random.default_rng(seed))
    u = sobol.random_base2(max(1, (n - 1).bit_length()))[:n]
    return to_simplex(np.maximum(gamma.ppf(u.clip(1e-9, 1 - 1e-9), concentration), 1e-12))


def angles_to_vectors(angles: ArrayLike) -> Array:
    """Map m-1 angles in [0, π/2] per row to a non-negative unit vector: (n, m-1) -> (n, m).

    m = 2 gives (sin x, cos x); in general the spherical product form.
    """
    a = np.atleast_2d(np.asarray(angles, dtype=np.float64))
    n, k = a.shape
    out = np.ones((n, k + 1))
    for j in range(k):
        out[:, : k - j] *= np.sin(a[:, j : j + 1])
        out[:, k - j] *= np.cos(a[:, j])
    return out


def to_simplex(vectors: ArrayLike) -> Array:
    """Scale non-negative vectors (n, m) to sum 1."""
    v = np.asarray(vectors, dtype=np.float64)
    return v / v.sum(axis=-1, keepdims=True)


def to_sphere(vectors: ArrayLike) -> Array:
    """Scale non-negative vectors (n, m) to Euclidean length 1."""
    v = np.asarray(vectors, dtype=np.float64)
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def even_rays(m: int, n: int) -> Array:
    """n evenly spread rays on the simplex, (n, m): equal angles for m = 2, the lattice beyond.

    With two objectives the end rays are the axes, and the angle between neighbours is π/(2(n-1)).

    Raises:
        FrontError: fewer than two rays, or no lattice of that size.
    """
    if m != 2:
        return grid(m, n)
    if n < 2:
        raise FrontError("an even spread needs at least two rays")
    rays = angles_to_vectors(np.linspace(math.pi / 2, 0.0, n)[:, None])
    return to_simplex(np.where(rays < 1e-15, 0.0, rays))
