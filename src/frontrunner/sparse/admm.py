"""ADMM for a layer's sparse least squares: ALPS, and the nested and the specialised form of MOSP.

All weights are scaled (`Quadratic.scaled`) and (d, c). The dual variable is not stored: after every
update V = ρ(U - D) with U = W + V/ρ, so U, the support of D and ρ say it all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor

from frontrunner.errors import DataError
from frontrunner.sparse.patterns import Pattern
from frontrunner.sparse.quadratic import Quadratic

Stopping = Literal["paper", "code"]

_LARGEST = 1e6  # of ρ
_PATIENCE, _STILL = 30, 3e-4  # of ALPS's code: iterations, and a share of the kept entries
_RESTARTS = 5


@dataclass(frozen=True)
class Schedule:
    """How the penalty ρ grows, and when to stop (ALPS, section 3; MOSP, section 3.1).

    Every ``every`` iterations ρ is multiplied by 1.3, 1.2 or 1.1 if the support has changed by at
    least 0.1 k, 0.005 k or 1 entries since the last time, k of them being kept.

    Attributes:
        rho: at the start.
        every: iterations between two looks at the support.
        limit: iterations at most.
        stopping: ``paper`` stops when the support no longer changes; ``code``, in the manner of
            ALPS's, after 30 iterations also when it changes by less than 3e-4 k, and starts again
            from ρ/5 if the support hardly moves in the first ``every`` iterations.
    """

    rho: float = 0.1
    every: int = 3
    limit: int = 300
    stopping: Stopping = "paper"


@dataclass
class Solution:
    """What ADMM ends with.

    Attributes:
        weight: D (d, c), scaled, zero off the support.
        support: (d, c) bool.
        core: (d, c) bool, a part of the support; None where none was asked for.
        iterations: how many were taken.
        residuals: ‖W - D‖ of every iteration, relative to ‖Ŵ‖, if they were asked for.
    """

    weight: Tensor
    support: Tensor
    core: Tensor | None
    iterations: int
    residuals: list[float] = field(default_factory=list)


class _Chain:
    """U and D, the support of D, and the ρ they were made with."""

    def __init__(self, start: Tensor) -> None:
        self.u, self.d = start.clone(), start.clone()
        self.mask = torch.ones_like(start, dtype=torch.bool)
        self.rho, self.near = 0.0, 0.0
        self.scores = torch.empty_like(start)

    def right_side(self, linear: Tensor, rho: float, out: Tensor) -> Tensor:
        """ŴH - V + ρD, into ``out``."""
        torch.add(linear, self.u, alpha=-self.rho, out=out)
        return out.add_(self.d, alpha=self.rho + rho)

    def accept(self, weight: Tensor, rho: float) -> None:
        """U = W + V/ρ for a new W."""
        self.u.sub_(self.d)
        torch.add(weight, self.u, alpha=self.rho / rho, out=self.u)
        self.rho = rho
        torch.abs(self.u, out=self.scores)

    def select(self, pattern: Pattern, core: Tensor | None = None) -> None:
        """D and its support, from U."""
        self.take(*pattern.select(self.scores, core, self.near))

    def take(self, mask: Tensor, near: float) -> None:
        self.mask, self.near = mask, near
        self.d.copy_(mask).mul_(self.u)  # much faster than a product with a mask of bools


class _Solver:
    """B -> B (H + ρI)⁻¹ for many B (d, c) and a ρ that changes now and then.

    The inverse is formed (c³) where that is cheaper, until ρ changes, than a second product of
    d c² in each iteration.
    """

    def __init__(self, problem: Quadratic, rows: int, every: int) -> None:
        self.problem = problem
        self.formed = len(problem.matrix) <= every * rows
        self.rho, self.inverse = -1.0, torch.empty(0)

    def solve(self, right: Tensor, rho: float, out: Tensor) -> Tensor:
        if self.formed:
            if rho != self.rho:
                self.rho, self.inverse = rho, self.problem.shifted_inverse(rho)
            return torch.mm(right, self.inverse, out=out)
        values, vectors = self.problem.eigen
        return torch.mm((right @ vectors).div_(values + rho), vectors.mT, out=out)


def admm(
    problem: Quadratic,
    dense: Tensor,
    pattern: Pattern,
    schedule: Schedule,
    core_share: float = 0.0,
    traced: bool = False,
) -> Solution:
    """Minimise f over supports of a pattern (ALPS), and with it over a nested core (MOSP, stage 1).

    The core's chain has the same objective, and its support lies within that of the first chain,
    which it does not influence.

    Args:
        problem: H.
        dense: Ŵ, scaled.
        pattern: what supports are allowed.
        schedule: of the penalty.
        core_share: α, the core's share of the support; 0 for none.
        traced: whether to keep residuals, at the price of one more pass over the matrix.

    Raises:
        DataError: the iterates are not finite.
    """
    linear = dense @ problem.matrix
    rho = schedule.rho
    for _ in range(_RESTARTS):
        solution = _run(problem, dense, linear, pattern, schedule, rho, core_share, traced)
        if solution is not None:
            return solution
        rho /= 5
    solution = _run(problem, dense, linear, pattern, schedule, rho, core_share, traced, final=True)
    assert solution is not None
    return solution


def _run(
    problem: Quadratic,
    dense: Tensor,
    linear: Tensor,
    pattern: Pattern,
    schedule: Schedule,
    rho: float,
    core_share: float,
    traced: bool,
    final: bool = False,
) -> Solution | None:
    """One run from a first ρ; None if the support hardly moves at first and this is not `final`."""
    nested = core_share > 0
    chains = [_Chain(dense) for _ in range(1 + nested)]
    primary = chains[0]
    rows = len(dense)
    right = torch.empty(rows * len(chains), dense.shape[1], device=dense.device)
    weight = torch.empty_like(right)
    solver = _Solver(problem, len(right), schedule.every)
    kept, residuals = pattern.kept((rows, dense.shape[1])), []
    code = schedule.stopping == "code"
    size = float(dense.norm())
    before: Tensor | None = None
    iteration = 0
    while iteration < schedule.limit:
        iteration += 1
        for chain, part in zip(chains, right.split(rows), strict=True):
            chain.right_side(linear, rho, part)
        solver.solve(right, rho, weight)
        for chain, part in zip(chains, weight.split(rows), strict=True):
            chain.accept(part, rho)
        primary.select(pattern)
        if nested:
            nest = chains[1]
            nest.take(*pattern.core(nest.scores, primary.mask, core_share, nest.near))
        if traced:
            residuals.append(float((weight[:rows] - primary.d).norm()) / size)
        if before is None:
            before = primary.mask
        if iteration % schedule.every:
            continue
        change = int((primary.mask ^ before).count_nonzero())
        if code and not final and iteration == schedule.every and change < _STILL * kept:
            return None
        if change == 0 or (code and iteration > _PATIENCE and change < _STILL * kept):
            break
        before = primary.mask
        growth = 1.3 if change >= 0.1 * kept else 1.2 if change >= 0.005 * kept else 1.1
        rho = min(rho * growth, _LARGEST)
    _refuse_not_finite(primary.d, problem.what)
    core = chains[1].mask if nested else None
    return Solution(primary.d, primary.mask, core, iteration, residuals)


def _refuse_not_finite(weight: Tensor, what: str) -> None:
    if not bool(weight.isfinite().all()):
        raise DataError(f"{what}: pruning did not stay finite")


@dataclass
class Job:
    """One layer for `follow`.

    Attributes:
        dense: Ŵ (d, c), scaled.
        start: D at the start, scaled; Ŵ itself starts as `admm` does.
        pattern: what supports are allowed.
        core: (d, c) bool, kept whatever its magnitudes; None keeps nothing in particular.
    """

    dense: Tensor
    start: Tensor
    pattern: Pattern
    core: Tensor | None = None


def follow(problem: Quadratic, jobs: Sequence[Job], penalties: Sequence[float]) -> list[Solution]:
    """As many iterations as there are ``penalties`` ρ, for layers of one input together.

    (H + ρI)⁻¹ is factored once for each run of equal ρ, whatever the number of layers. With a
    constant ρ, a sparse start and a core this is stage 2 of MOSP.

    Raises:
        DataError: H + ρI is singular, or the iterates are not finite.
    """
    chains = [_Chain(job.start) for job in jobs]
    linear = [job.dense @ problem.matrix for job in jobs]
    right = [torch.empty_like(job.dense) for job in jobs]
    for rho, same in groupby(penalties):
        inverse, count = problem.inverse(rho), len(list(same))
        for job, chain, given, buffer in zip(jobs, chains, linear, right, strict=True):
            for _ in range(count):
                chain.right_side(given, rho, buffer)
                chain.accept(buffer @ inverse, rho)
                chain.select(job.pattern, job.core)
    for chain in chains:
        _refuse_not_finite(chain.d, problem.what)
    return [
        Solution(chain.d, chain.mask, job.core, len(penalties))
        for chain, job in zip(chains, jobs, strict=True)
    ]
