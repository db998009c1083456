"""True fronts in closed form, with their exact hypervolume. NumPy only; all objectives minimised.

A front of two objectives is a `Curve` f₂ = h(f₁), a front of more a `Surface`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from frontrunner.errors import FrontError
from frontrunner.preferences import das_dennis

Array = NDArray[np.float64]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(200)


@dataclass(frozen=True)
class Curve:
    """The front f₂ = height(f₁) for f₁ in ``pieces``; height falls on every piece and across them.

    Attributes:
        height: h, elementwise on arrays.
        pieces: closed intervals of f₁ in ascending order.
    """

    height: Callable[[Array], Array]
    pieces: tuple[tuple[float, float], ...]

    def front(self, n: int) -> Array:
        """n points at equal steps of arc length, gaps not counted, both ends included: (n, 2)."""
        x = self._along(np.linspace(0.0, 1.0, n))
        return np.stack([x, self.height(x)], axis=1)

    def hypervolume(self, reference: tuple[float, ...]) -> float:
        """Area between the front and ``reference`` (2,).

        Quadrature after f₁ = a + (b-a)(1 - cos πs)/2, which turns square-root ends into analytic
        ones, so that 200 Gauss-Legendre nodes reach rounding error.
        """
        r1, r2 = reference
        inside = self.clipped(reference)
        area = 0.0
        for i, (a, b) in enumerate(inside):
            angle = 0.5 * math.pi * (_NODES + 1.0)
            x = a + 0.5 * (b - a) * (1.0 - np.cos(angle))
            slope = 0.25 * math.pi * (b - a) * np.sin(angle)
            area += float(_WEIGHTS @ (slope * (r2 - self.height(x))))
            until = inside[i + 1][0] if i + 1 < len(inside) else r1
            area += (until - b) * (r2 - float(self.height(np.array(b))))
        return area

    def clipped(self, reference: tuple[float, ...]) -> tuple[tuple[float, float], ...]:
        """The pieces of the front that lie strictly below ``reference``."""
        r1, r2 = reference
        kept = []
        for a, b in self.pieces:
            b = min(b, r1)
            if a >= r1 or self.height(np.array(b)) >= r2:
                continue
            if self.height(np.array(a)) > r2:
                above, below = a, b
                while (middle := 0.5 * (above + below)) not in (above, below):
                    if self.height(np.array(middle)) > r2:
                        above = middle
                    else:
                        below = middle
                a = below
            kept.append((a, b))
        return tuple(kept)

    def _along(self, s: Array) -> Array:
        """f₁ at the share s in [0, 1] of the arc length."""
        x, arc = _arc(self)
        return np.interp(s, arc, x)


@lru_cache(maxsize=256)
def _arc(curve: Curve) -> tuple[Array, Array]:
    """Dense f₁ (k,) over all pieces and the share of arc length reached there, (k,)."""
    ramp = 0.5 * (1.0 - np.cos(np.linspace(0.0, math.pi, 4001)))
    xs, lengths, total = [], [], 0.0
    for a, b in curve.pieces:
        x = a + (b - a) * ramp
        x[-1] = b
        step = np.hypot(np.diff(x), np.diff(curve.height(x)))
        length = total + np.concatenate([[0.0], np.cumsum(step)])
        total = float(length[-1])
        xs.append(x)
        lengths.append(length)
    return np.concatenate(xs), np.concatenate(lengths) / (total or 1.0)


@lru_cache(maxsize=256)
def best_hypervolume(curve: Curve, n: int, reference: tuple[float, ...]) -> float:
    """Largest hypervolume of n points of ``curve`` against ``reference`` (2,).

    The area of points ordered by f₁ is Σ_i (r₁ - x_i)(h(x_{i-1}) - h(x_i)) with h(x_0) = r₂, a
    chain, so dynamic programming over a grid of 1001 places finds the optimum of the grid. It is
    then repeated over 17 places around each point, closer at every round, until the grid is finer
    than the square root of double precision (the error of the area is quadratic in that step).
    """
    if n < 1:
        raise FrontError("a front needs at least one point")
    inside = curve.clipped(reference)
    if not inside:
        return 0.0
    part = Curve(curve.height, inside)
    step = 1e-3
    s, area = _chain(part, np.tile(np.linspace(0.0, 1.0, 1001), (n, 1)), reference)
    window = np.arange(-8, 9) / 8.0
    while step > 1e-10:
        s, area = _chain(part, np.clip(s[:, None] + step * window, 0.0, 1.0), reference)
        step *= 0.6
    return area


def _chain(curve: Curve, places: Array, reference: tuple[float, ...]) -> tuple[Array, float]:
    """The best choice of one of ``places`` (n, k) in each row: (n,) shares of arc, and its area."""
    r1, r2 = reference
    x = curve._along(places)
    y = curve.height(x)
    value = (r1 - x[0]) * (r2 - y[0])
    came_from = []
    for i in range(1, len(places)):
        # Going back to a smaller f₁ costs area here, so order needs no constraint.
        total = value[:, None] + (r1 - x[i]) * (y[i - 1][:, None] - y[i])
        came_from.append(total.argmax(axis=0))
        value = total.max(axis=0)
    j = int(value.argmax())
    chosen = [j]
    for back in reversed(came_from):
        chosen.append(int(back[chosen[-1]]))
    return places[np.arange(len(places)), chosen[::-1]], float(value[j])


# ---------------------------------------------------------------------- curves


def _line(x: Array) -> Array:
    return 1.0 - x


def _half_line(x: Array) -> Array:
    return 0.5 - x


def _root(x: Array) -> Array:
    return 1.0 - np.sqrt(x)


def _parabola(x: Array) -> Array:
    return 1.0 - x**2


def _wave(x: Array) -> Array:
    return 1.0 - np.sqrt(x) - x * np.sin(10.0 * math.pi * x)


def _circle(x: Array) -> Array:
    return np.sqrt(np.maximum(0.0, (1.0 - x) * (1.0 + x)))


def _bell(x: Array) -> Array:
    # t = 1 - √(-ln(1 - f₁)) on the Pareto set, and f₂ = 1 - exp(-(t + 1)²).
    return -np.expm1(-((2.0 - np.sqrt(-np.log1p(-x))) ** 2))


# ZDT6 begins where exp(-4x) sin⁶(6πx) is largest: tan(6πx) = 9π, f₁ = 0.280775….
_ZDT6_START = (
    1.0
    - math.exp(-4.0 * math.atan(9 * math.pi) / (6 * math.pi))
    * (9 * math.pi / math.hypot(1.0, 9 * math.pi)) ** 6
)

ROOT = Curve(_root, ((0.0, 1.0),))
PARABOLA = Curve(_parabola, ((0.0, 1.0),))
SHORT_PARABOLA = Curve(_parabola, ((_ZDT6_START, 1.0),))
BELL = Curve(_bell, ((0.0, -math.expm1(-4.0)),))
# ZDT3: every piece ends where h' = 0 and the next begins where h falls below that value again.
WAVE = Curve(
    _wave,
    (
        (0.0, 0.0830015349269116327),
        (0.18222872802939978, 0.257762363387830222),
        (0.409313674808656842, 0.453882104088830166),
        (0.618396794439265793, 0.652511703804662519),
        (0.823331798326632738, 0.851832865436413896),
    ),
)


# ---------------------------------------------------------------------- surfaces


@dataclass(frozen=True)
class Surface:
    """A front of m >= 3 objectives that is the image of the simplex.

    Attributes:
        m: number of objectives.
        place: simplex points (k, m) -> points of the front (k, m).
        volume: reference (m,) -> exact hypervolume.
    """

    m: int
    place: Callable[[Array], Array]
    volume: Callable[[tuple[float, ...]], float]

    def front(self, n: int) -> Array:
        """n points, farthest-first from the image of a simplex lattice of ten times as many."""
        divisions = 1
        while math.comb(divisions + self.m - 1, self.m - 1) < 10 * n:
            divisions += 1
        candidates = self.place(das_dennis(self.m, divisions))
        chosen = [0]
        gap = np.linalg.norm(candidates - candidates[0], axis=1)
        while len(chosen) < n:
            chosen.append(int(gap.argmax()))
            gap = np.minimum(gap, np.linalg.norm(candidates - candidates[chosen[-1]], axis=1))
        return candidates[chosen]

    def hypervolume(self, reference: tuple[float, ...]) -> float:
        """Exact hypervolume against ``reference`` (m,)."""
        return self.volume(reference) if all(r > 0 for r in reference) else 0.0


def simplex(m: int) -> Curve | Surface:
    """DTLZ1's front: f >= 0, Σ f = ½."""
    if m == 2:
        return Curve(_half_line, ((0.0, 0.5),))
    return Surface(m, lambda w: 0.5 * w, _simplex_volume)


def sphere(m: int) -> Curve | Surface:
    """The front of DTLZ2-4: f >= 0, ‖f‖ = 1."""
    if m == 2:
        return Curve(_circle, ((0.0, 1.0),))
    return Surface(m, lambda w: w / np.linalg.norm(w, axis=1, keepdims=True), _sphere_volume)


def inverted_simplex(m: int) -> Curve | Surface:
    """MaF1's front: 0 <= f <= 1, Σ f = m - 1."""
    if m == 2:
        return Curve(_line, ((0.0, 1.0),))
    return Surface(m, lambda w: 1.0 - w, _inverted_volume)


def _subsets(reference: tuple[float, ...]) -> Iterator[tuple[float, ...]]:
    for k in range(len(reference) + 1):
        yield from itertools.combinations(reference, k)


def _simplex_volume(r: tuple[float, ...]) -> float:
    """Π r less the corner Σ f <= ½ inside the box, by inclusion and exclusion of f_i > r_i."""
    m = len(r)
    corner = sum((-1) ** len(s) * max(0.0, 0.5 - sum(s)) ** m for s in _subsets(r))
    return math.prod(r) - corner / math.factorial(m)


def _sphere_volume(r: tuple[float, ...]) -> float:
    """Π r less the positive part of the unit ball, π^(m/2) / (2^m Γ(m/2 + 1))."""
    m = len(r)
    if min(r) < 1.0:
        raise FrontError(
            "the exact hypervolume of a spherical front of 3 or more objectives is known only for "
            f"reference points of at least 1 per (unscaled) objective, not {r}"
        )
    return math.prod(r) - math.pi ** (m / 2) / (2**m * math.gamma(m / 2 + 1))


def _inverted_volume(r: tuple[float, ...]) -> float:
    """f is dominated exactly when Σ min(f_i, 1) >= m - 1.

    Sum over the set S of objectives beyond 1: those contribute Π (r_i - 1); the others, with
    g = 1 - f, fill the corner Σ g <= 1, g_i >= 1 - r_i, of volume (1 - Σ max(0, 1 - r_i))^k / k!.
    """
    m = len(r)
    total = 0.0
    for beyond in itertools.product((False, True), repeat=m):
        factor = math.prod(max(0.0, v - 1.0) for v, b in zip(r, beyond, strict=True) if b)
        rest = [max(0.0, 1.0 - v) for v, b in zip(r, beyond, strict=True) if not b]
        total += factor * max(0.0, 1.0 - sum(rest)) ** len(rest) / math.factorial(len(rest))
    return total
