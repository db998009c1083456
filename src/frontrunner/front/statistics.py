"""Statistics over seeds: mean, spread, bootstrap intervals, paired tests, Holm's correction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from frontrunner.errors import FrontError

Array = NDArray[np.float64]

ENUMERATED_PAIRS = 12
"""Up to this many pairs the sign-flip test visits all 2^n signs; beyond, Wilcoxon's is used."""


@dataclass(frozen=True)
class Statistic:
    """A mean over n runs. ``std`` (ddof = 1) and the interval are None when n = 1."""

    n: int
    mean: float
    std: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class PairedTest:
    """A two-sided paired test.

    Attributes:
        n: number of pairs.
        p: p-value; None without pairs.
        smallest: the smallest p that n pairs can give at all, 2^(1-n).
        method: ``sign-flip`` (exact), ``wilcoxon``, or ``none``.
    """

    n: int
    p: float | None
    smallest: float
    method: str


def describe(
    values: ArrayLike, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Statistic | None:
    """Mean, standard deviation (ddof = 1) and bootstrap interval of ``values``, (n,).

    None when there are no values.

    Raises:
        FrontError: a value that is not finite.
    """
    x = np.asarray(values, dtype=np.float64).ravel()
    if not np.isfinite(x).all():
        raise FrontError("statistics need finite values")
    if len(x) == 0:
        return None
    if len(x) == 1:
        return Statistic(1, float(x[0]), None, None, None)
    low, high = bootstrap(x, confidence=confidence, resamples=resamples, seed=seed)
    return Statistic(len(x), float(x.mean()), float(x.std(ddof=1)), low, high)


def bootstrap(
    values: ArrayLike, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of ``values``, (n,), n >= 2.

    The plain percentile method is used because with the three to ten seeds that are usual here the
    acceleration of BCa is itself badly estimated. Every call starts its own generator from
    ``seed``, so an interval does not depend on what else was computed before it.

    Source: Efron & Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.

    Raises:
        FrontError: fewer than two values, or a confidence outside (0, 1).
    """
    x = np.asarray(values, dtype=np.float64).ravel()
    if len(x) < 2:
        raise FrontError("a bootstrap interval needs at least two values")
    if not 0.0 < confidence < 1.0:
        raise FrontError(f"confidence lies between 0 and 1, not {confidence:g}")
    if resamples < 1:
        raise FrontError("a bootstrap needs at least one resample")
    draws = np.random.default_rng(seed).integers(len(x), size=(resamples, len(x)))
    tail = 50.0 * (1.0 - confidence)
    low, high = np.percentile(x[draws].mean(axis=1), [tail, 100.0 - tail])
    return float(low), float(high)


def paired_test(differences: ArrayLike) -> PairedTest:
    """Two-sided test that paired ``differences``, (n,), are symmetric around 0.

    For n <= 12 the exact permutation test that flips the sign of each difference: p is the share of
    the 2^n sign patterns whose mean is at least as far from 0 as the observed one. For more pairs
    Wilcoxon's signed-rank test as SciPy does it.

    Source: Fisher, The Design of Experiments, 1935, section 21; Wilcoxon, Biometrics 1, 1945.

    Raises:
        FrontError: a difference that is not finite.
    """
    d = np.asarray(differences, dtype=np.float64).ravel()
    if not np.isfinite(d).all():
        raise FrontError("a paired test needs finite differences")
    n = len(d)
    if n == 0:
        return PairedTest(0, None, 1.0, "none")
    if not d.any():
        return PairedTest(
            n, 1.0, smallest_p(n), "sign-flip" if n <= ENUMERATED_PAIRS else "wilcoxon"
        )
    if n > ENUMERATED_PAIRS:
        from scipy.stats import wilcoxon

        return PairedTest(n, float(wilcoxon(d).pvalue), smallest_p(n), "wilcoxon")
    patterns = np.arange(2**n)
    signs = 1.0 - 2.0 * ((patterns[:, None] >> np.arange(n)) & 1)
    sums = np.abs(signs @ d)
    # Sums of the same numbers in another order differ in the last bits; they count as equal.
    p = np.mean(sums >= abs(d.sum()) - 1e-12 * np.abs(d).sum())
    return PairedTest(n, float(p), smallest_p(n), "sign-flip")


def smallest_p(n: int) -> float:
    """The smallest two-sided p-value of n >= 1 pairs: only two of 2^n sign patterns are extreme."""
    return min(1.0, 2.0 ** (1 - n))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of p-values, in their given order.

    The i-th smallest of k becomes ``max_{j <= i} min(1, (k - j + 1) p_(j))``. The adjustment never
    falls when a p-value rises, so adjusting the smallest possible p-values shows which tests cannot
    become significant whatever the data.

    Source: Holm, Scandinavian Journal of Statistics 6, 1979.
    """
    p = np.asarray(p_values, dtype=np.float64)
    k = len(p)
    order = np.argsort(p, kind="stable")
    stepped = np.minimum(1.0, (k - np.arange(k)) * p[order])
    adjusted = np.empty(k)
    adjusted[order] = np.maximum.accumulate(stepped)
    return [float(x) for x in adjusted]


def seeds_needed(comparisons: int, alpha: float) -> int:
    """The fewest pairs with which one of ``comparisons`` tests can pass Holm at level ``alpha``."""
    n = 1
    while comparisons * smallest_p(n) > alpha:
        n += 1
    return n
