"""Synthetic problems that own their truth: objectives, exact front, exact hypervolume.

Everything is minimised. Sources: Zitzler, Deb & Thiele, Evol. Comput. 8(2), 2000 (ZDT); Deb,
Thiele, Laumanns & Zitzler, CEC 2002 (DTLZ); Cheng et al., Complex Intell. Syst. 3, 2017 (MaF1);
Fonseca & Fleming, Evol. Comput. 3(1), 1995, as VLMOP2 in Van Veldhuizen's collection.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frontrunner.errors import ConfigError, FrontError, nearest
from frontrunner.tasks import truth
from frontrunner.tasks.truth import Array, Curve, Surface


@dataclass(frozen=True, eq=False)
class Problem:
    """A box-constrained problem ``x (…, n_var) -> f (…, m)``, called like a function.

    Values are exact everywhere in the box. Gradients are the true ones wherever those are finite;
    where a root has an infinite slope (ZDT1, ZDT3, ZDT4 at f₁ = 0, ZDT6 at g = 1) the root's slope
    is taken as that at 1e-6: finite, of the right sign, and steep enough to lead away. Safe under
    `torch.func.vmap`.

    Attributes:
        name: lower-case name.
        m: number of objectives.
        lower, upper: (n_var,) float64, the box.
        scales: (m,) factor applied to each objective; 1 unless asked for.
        reference_point: (m,) 1.1 times the unit of each objective, the unit being 1 for all but
            DTLZ1 (½). It is 1.1 times the nadir where the front fills the unit box.
    """

    name: str
    m: int
    lower: Array
    upper: Array
    scales: tuple[float, ...]
    reference_point: tuple[float, ...]
    _evaluate: Callable[[Tensor, int], Tensor] = field(repr=False)
    _distance: Callable[[Tensor, int], Tensor] = field(repr=False)
    _truth: Curve | Surface = field(repr=False)

    @property
    def n_var(self) -> int:
        """Number of decision variables."""
        return len(self.lower)

    def __call__(self, x: Tensor) -> Tensor:
        """Objectives (…, m) of decisions (…, n_var), in the precision of ``x``."""
        return self._evaluate(x, self.m) * x.new_tensor(self.scales)

    def distance(self, x: Tensor) -> Tensor:
        """How far decisions (…, n_var) are from the Pareto set, (…): non-negative, 0 when there.

        The ``g`` of each problem less its minimum, as pygmo's ``p_distance``; for VLMOP2 the
        Euclidean distance to the segment. In ZDT3 and ZDT6 a zero says that the point lies on the
        boundary curve; ZDT3's curve has stretches that are not Pareto-optimal, which only f₁ tells.
        """
        return self._distance(x, self.m)

    def front(self, n: int) -> Array:
        """``n`` points of the true front, (n, m) float64, evenly spread.

        With two objectives at equal steps of arc length (in unscaled units), both ends included;
        with more, chosen farthest-first, the corners among the first.
        """
        if n < 1:
            raise FrontError("a front needs at least one point")
        return self._truth.front(n) * np.array(self.scales)

    def hypervolume(self, reference: Sequence[float] | float) -> float:
        """Hypervolume of the whole true front against ``reference`` (m,) or one number for all.

        Two objectives: Gauss-Legendre quadrature of the closed-form front, accurate to 1e-12.
        More: a closed form, see `frontrunner.tasks.truth`.

        Raises:
            FrontError: a malformed reference, or DTLZ2-4 with m >= 3 and a reference below 1.
        """
        return math.prod(self.scales) * self._truth.hypervolume(self._unscaled(reference))

    def best_hypervolume(self, n: int, reference: Sequence[float] | float) -> float:
        """The largest hypervolume that ``n`` points of the front can have against ``reference``.

        Raises:
            FrontError: more than two objectives, where it is not known.
        """
        if not isinstance(self._truth, Curve):
            raise FrontError(
                f"the best hypervolume of {n} points is known for 2 objectives only, "
                f"not for {self.name} with {self.m}"
            )
        best = truth.best_hypervolume(self._truth, int(n), self._unscaled(reference))
        return math.prod(self.scales) * best

    def _unscaled(self, reference: Sequence[float] | float) -> tuple[float, ...]:
        r = np.asarray(reference, dtype=np.float64)
        if r.shape not in ((), (self.m,)) or not np.isfinite(r).all():
            raise FrontError(f"the reference point of {self.name} needs {self.m} finite entries")
        return tuple(float(v) for v in np.broadcast_to(r, (self.m,)) / np.array(self.scales))


# ---------------------------------------------------------------------- objectives


def _root(u: Tensor, power: float) -> Tensor:
    """``u**power`` for u >= 0 and power < 1; its infinite slope at 0 becomes that at 1e-6."""
    positive = u > 0
    slope = power * 1e-6 ** (power - 1.0)
    return torch.where(positive, torch.where(positive, u, torch.ones_like(u)) ** power, slope * u)


def _pair(f1: Tensor, f2: Tensor) -> Tensor:
    return torch.stack([f1, f2], dim=-1)


def _zdt_gap(x: Tensor, _: int = 2) -> Tensor:
    return 9.0 * x[..., 1:].mean(dim=-1)


def _zdt4_gap(x: Tensor, _: int = 2) -> Tensor:
    y = x[..., 1:]
    return (10.0 + y**2 - 10.0 * torch.cos(4.0 * math.pi * y)).sum(dim=-1)


def _zdt6_gap(x: Tensor, _: int = 2) -> Tensor:
    return 9.0 * _root(x[..., 1:].mean(dim=-1), 0.25)


def _zdt1(x: Tensor, _: int) -> Tensor:
    f1, g = x[..., 0], 1.0 + _zdt_gap(x)
    return _pair(f1, g * (1.0 - _root(f1 / g, 0.5)))


def _zdt2(x: Tensor, _: int) -> Tensor:
    f1, g = x[..., 0], 1.0 + _zdt_gap(x)
    return _pair(f1, g * (1.0 - (f1 / g) ** 2))


def _zdt3(x: Tensor, _: int) -> Tensor:
    f1, g = x[..., 0], 1.0 + _zdt_gap(x)
    u = f1 / g
    return _pair(f1, g * (1.0 - _root(u, 0.5) - u * torch.sin(10.0 * math.pi * f1)))


def _zdt4(x: Tensor, _: int) -> Tensor:
    f1, g = x[..., 0], 1.0 + _zdt4_gap(x)
    return _pair(f1, g * (1.0 - _root(f1 / g, 0.5)))


def _zdt6(x: Tensor, _: int) -> Tensor:
    first, g = x[..., 0], 1.0 + _zdt6_gap(x)
    f1 = 1.0 - torch.exp(-4.0 * first) * torch.sin(6.0 * math.pi * first) ** 6
    return _pair(f1, g * (1.0 - (f1 / g) ** 2))


def _products(a: Tensor, b: Tensor) -> Tensor:
    """(…, m) with entry i the product of a_1 … a_{m-1-i} and, for i > 0, b_{m-i}; a, b (…, m-1).

    Every DTLZ front is such a product. A loop: the derivative of ``cumprod`` branches on zeros.
    """
    running, columns = torch.ones_like(a[..., 0]), []
    for j in range(a.shape[-1]):
        columns.append(running * b[..., j])
        running = running * a[..., j]
    return torch.stack([running, *reversed(columns)], dim=-1)


def _rastrigin_gap(x: Tensor, m: int) -> Tensor:
    y = x[..., m - 1 :] - 0.5
    return 100.0 * (1.0 + y**2 - torch.cos(20.0 * math.pi * y)).sum(dim=-1)


def _sphere_gap(x: Tensor, m: int) -> Tensor:
    return ((x[..., m - 1 :] - 0.5) ** 2).sum(dim=-1)


def _simplex(p: Tensor) -> Tensor:
    return _products(p, 1.0 - p)


def _sphere(p: Tensor) -> Tensor:
    angle = p * (math.pi / 2)
    return _products(torch.cos(angle), torch.sin(angle))


def _dtlz1(x: Tensor, m: int) -> Tensor:
    return 0.5 * (1.0 + _rastrigin_gap(x, m))[..., None] * _simplex(x[..., : m - 1])


def _dtlz2(x: Tensor, m: int) -> Tensor:
    return (1.0 + _sphere_gap(x, m))[..., None] * _sphere(x[..., : m - 1])


def _dtlz3(x: Tensor, m: int) -> Tensor:
    return (1.0 + _rastrigin_gap(x, m))[..., None] * _sphere(x[..., : m - 1])


def _dtlz4(x: Tensor, m: int) -> Tensor:
    return (1.0 + _sphere_gap(x, m))[..., None] * _sphere(x[..., : m - 1] ** 100)


def _maf1(x: Tensor, m: int) -> Tensor:
    return (1.0 + _sphere_gap(x, m))[..., None] * (1.0 - _simplex(x[..., : m - 1]))


def _vlmop2(x: Tensor, _: int) -> Tensor:
    shift = 1.0 / math.sqrt(x.shape[-1])
    return _pair(
        -torch.expm1(-((x - shift) ** 2).sum(dim=-1)),
        -torch.expm1(-((x + shift) ** 2).sum(dim=-1)),
    )


def _vlmop2_gap(x: Tensor, _: int) -> Tensor:
    # The segment has ends ±1/√n in every coordinate; the nearest point has the mean coordinate.
    end = 1.0 / math.sqrt(x.shape[-1])
    nearest_point = x.mean(dim=-1, keepdim=True).clamp(-end, end)
    return torch.linalg.vector_norm(x - nearest_point, dim=-1)


# ---------------------------------------------------------------------- the collection


@dataclass(frozen=True)
class _Definition:
    evaluate: Callable[[Tensor, int], Tensor]
    distance: Callable[[Tensor, int], Tensor]
    truth: Callable[[int], Curve | Surface]
    m: int = 2
    any_m: bool = False
    variables: int = 30  # default n_var, or, where any_m, how many besides the m - 1 positions
    first: tuple[float, float] = (0.0, 1.0)  # bounds of the first variable
    rest: tuple[float, float] = (0.0, 1.0)
    unit: float = 1.0


_DTLZ2 = _Definition(_dtlz2, _sphere_gap, truth.sphere, any_m=True, variables=10)

_DEFINITIONS: dict[str, _Definition] = {
    "zdt1": _Definition(_zdt1, _zdt_gap, lambda m: truth.ROOT),
    "zdt2": _Definition(_zdt2, _zdt_gap, lambda m: truth.PARABOLA),
    "zdt3": _Definition(_zdt3, _zdt_gap, lambda m: truth.WAVE),
    "zdt4": _Definition(_zdt4, _zdt4_gap, lambda m: truth.ROOT, variables=10, rest=(-5.0, 5.0)),
    "zdt6": _Definition(_zdt6, _zdt6_gap, lambda m: truth.SHORT_PARABOLA, variables=10),
    "dtlz1": _Definition(_dtlz1, _rastrigin_gap, truth.simplex, any_m=True, variables=5, unit=0.5),
    "dtlz2": _DTLZ2,
    "dtlz3": _Definition(_dtlz3, _rastrigin_gap, truth.sphere, any_m=True, variables=10),
    "dtlz4": _Definition(_dtlz4, _sphere_gap, truth.sphere, any_m=True, variables=10),
    "scaled_dtlz2": _DTLZ2,
    "maf1": _Definition(_maf1, _sphere_gap, truth.inverted_simplex, m=3, any_m=True, variables=10),
    "vlmop2": _Definition(
        _vlmop2, _vlmop2_gap, lambda m: truth.BELL, variables=2, first=(-2.0, 2.0), rest=(-2.0, 2.0)
    ),
}

NAMES: tuple[str, ...] = tuple(_DEFINITIONS)


def problem(
    name: str,
    *,
    n_var: int | None = None,
    m: int | None = None,
    scales: Sequence[float] | None = None,
) -> Problem:
    """Build a problem by name, see `NAMES`.

    Args:
        name: e.g. ``zdt1``, ``dtlz2``, ``maf1``, ``vlmop2``.
        n_var: number of variables. Default: 30 (ZDT1-3), 10 (ZDT4, ZDT6), m + 4 (DTLZ1), m + 9
            (DTLZ2-4, MaF1), 2 (VLMOP2).
        m: number of objectives, free for DTLZ and MaF1. Default: 3 for MaF1, 2 elsewhere.
        scales: one positive factor per objective. Default: 1, and 1, 2, 4, … for ``scaled_dtlz2``.

    Raises:
        ConfigError: an unknown name, or a size or scale that the problem cannot have.
    """
    if name not in _DEFINITIONS:
        raise ConfigError(f"unknown problem '{name}'{nearest(name, NAMES)}")
    definition = _DEFINITIONS[name]
    m = definition.m if m is None else int(m)
    if m < 2 or (m != 2 and not definition.any_m):
        raise ConfigError(f"problem '{name}' cannot have {m} objectives")
    if n_var is None:
        n_var = definition.variables + (m - 1 if definition.any_m else 0)
    # VLMOP2 has no position variable: even one variable spans its front.
    least = 1 if name == "vlmop2" else m
    if n_var < least:
        raise ConfigError(f"problem '{name}' with {m} objectives needs at least {least} variables")
    if scales is None:
        scales = [2.0**j if name == "scaled_dtlz2" else 1.0 for j in range(m)]
    factors = tuple(float(s) for s in scales)
    if len(factors) != m or not all(math.isfinite(s) and s > 0 for s in factors):
        raise ConfigError(f"problem '{name}': scales needs {m} positive numbers, not {factors}")
    return Problem(
        name=name,
        m=m,
        lower=_box(definition.first[0], definition.rest[0], n_var),
        upper=_box(definition.first[1], definition.rest[1], n_var),
        scales=factors,
        reference_point=tuple(1.1 * definition.unit * s for s in factors),
        _evaluate=definition.evaluate,
        _distance=definition.distance,
        _truth=definition.truth(m),
    )


def _box(first: float, rest: float, n: int) -> NDArray[np.float64]:
    bounds = np.full(n, rest)
    bounds[0] = first
    return bounds
