"""ADMM against a naive version in float64, written from the equations: weights are (c, d) here, as
papers have them, the dual variables V are stored, and linear systems are solved anew each time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor

from frontrunner.errors import DataError
from frontrunner.sparse.admm import Job, Schedule, admm, follow
from frontrunner.sparse.patterns import NM, Pattern, Unstructured
from frontrunner.sparse.quadratic import Quadratic

GAP = 2e-6  # of scores at the threshold, relative to the largest: closer ones may change places


@dataclass
class Trace:
    """Iterates of the naive version, (c, d) each."""

    weight: list[np.ndarray] = field(default_factory=list)
    support: list[np.ndarray] = field(default_factory=list)
    core: list[np.ndarray] = field(default_factory=list)
    rho: list[float] = field(default_factory=list)
    gap: float = math.inf


class Naive:
    """P_k and its relatives, and the smallest relative gap between what they keep and drop."""

    def __init__(self, pattern: Pattern) -> None:
        self.pattern, self.gap = pattern, math.inf

    def keep(self, matrix: np.ndarray, core: np.ndarray | None = None) -> np.ndarray:
        """The support of P_k, or of P_{k,S_c}: bool (c, d)."""
        scores = np.abs(matrix)
        if core is not None:
            scores = np.where(core, np.inf, scores)
        if isinstance(self.pattern, NM):
            blocks = scores.T.reshape(-1, self.pattern.m)
            kept = np.stack([self.top(block, self.pattern.n) for block in blocks])
            return kept.reshape(scores.T.shape).T
        return self.top(scores, self.pattern.kept((scores.shape[1], scores.shape[0])))

    def top(self, scores: np.ndarray, k: int) -> np.ndarray:
        flat = np.sort(scores.reshape(-1))[::-1]
        if 0 < k < len(flat) and np.isfinite(flat[k - 1]):
            self.gap = min(
                self.gap, (flat[k - 1] - flat[k]) / flat[0 if np.isfinite(flat[0]) else k - 1]
            )
        return scores >= flat[k - 1] if k else np.zeros(scores.shape, dtype=bool)

    def nested(self, matrix: np.ndarray, support: np.ndarray, alpha: float) -> np.ndarray:
        """The core's support within that of the primary, bool (c, d)."""
        if isinstance(self.pattern, NM):
            blocks = np.abs(matrix).T.reshape(-1, self.pattern.m).sum(1)
            chosen = np.repeat(self.top(blocks, round(alpha * len(blocks))), self.pattern.m)
            return support & chosen.reshape(matrix.T.shape).T
        k = self.pattern.kept((matrix.shape[1], matrix.shape[0]))
        return self.top(np.where(support, np.abs(matrix), 0.0), round(alpha * k))


def dual(
    h: np.ndarray,
    dense: np.ndarray,
    pattern: Pattern,
    alpha: float,
    iterations: int,
    rho: float = 0.1,
    every: int = 3,
) -> Trace:
    """MOSP, stage 1, of H (c, c) and Ŵ (c, d), with its schedule of ρ and its stop."""
    c, _ = dense.shape
    k = pattern.kept((dense.shape[1], c))
    naive, trace = Naive(pattern), Trace()
    d = d_core = dense.copy()
    v = v_core = np.zeros_like(dense)
    before: np.ndarray | None = None
    for t in range(1, iterations + 1):
        inverse = np.linalg.inv(h + rho * np.eye(c))
        w = inverse @ (h @ dense - v + rho * d)
        w_core = inverse @ (h @ dense - v_core + rho * d_core)
        support = naive.keep(w + v / rho)
        core = naive.nested(w_core + v_core / rho, support, alpha)
        d, d_core = (w + v / rho) * support, (w_core + v_core / rho) * core
        v, v_core = v + rho * (w - d), v_core + rho * (w_core - d_core)
        for rows, value in zip(
            (trace.weight, trace.support, trace.core, trace.rho),
            (d, support, core, rho),
            strict=True,
        ):
            rows.append(value)
        # D of iteration 0 is dense: W of iteration 1 is too, and its D the first with a support.
        before = support if before is None else before
        if t % every == 0:
            change = int((support ^ before).sum())
            if change == 0:
                break
            before = support
            rho *= 1.3 if change >= 0.1 * k else 1.2 if change >= 0.005 * k else 1.1
    trace.gap = naive.gap
    return trace


def task(
    h: np.ndarray,
    dense: np.ndarray,
    start: np.ndarray,
    pattern: Pattern,
    core: np.ndarray | None,
    penalties: Sequence[float],
) -> Trace:
    """MOSP, stage 2, from W (c, d), with a ρ for each iteration."""
    naive, trace = Naive(pattern), Trace()
    d, v = start.copy(), np.zeros_like(start)
    for rho in penalties:
        w = np.linalg.solve(h + rho * np.eye(len(h)), h @ dense - v + rho * d)
        support = naive.keep(w + v / rho, core)
        d = (w + v / rho) * support
        v = v + rho * (w - d)
        trace.weight.append(d)
        trace.support.append(support)
    trace.gap = naive.gap
    return trace


def layer(d: int, c: int, seed: int, samples: int = 40) -> tuple[Quadratic, Tensor]:
    """A layer of correlated inputs: H, and Ŵ (d, c) scaled."""
    stream = torch.Generator().manual_seed(seed)
    mixing = torch.randn(c, c, generator=stream) * torch.logspace(0, -1.5, c)
    x = torch.randn(samples, c, generator=stream) @ mixing.mT
    problem = Quadratic(x.mT @ x)
    return problem, problem.scaled(torch.randn(d, c, generator=stream))


def double(matrix: Tensor) -> np.ndarray:
    """(d, c) -> (c, d) in float64, or H itself, which is symmetric."""
    return matrix.double().numpy().T


# Few outputs: two products with the eigenvectors; many: one with the inverse that they give.
SHAPES = [(2, 24), (16, 12)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pattern", [Unstructured(0.7), Unstructured(0.45), NM(2, 4)], ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_every_iterate_of_both_chains_is_that_of_the_equations(shape, pattern, seed) -> None:
    problem, dense = layer(*shape, seed)
    naive = dual(double(problem.matrix), double(dense), pattern, 0.5, 40)
    assert naive.gap > GAP, "choose another seed: a tie would make supports a matter of luck"
    assert len(naive.rho) >= 6
    assert naive.rho[-1] > naive.rho[0]
    for t in range(1, len(naive.rho) + 1):
        found = admm(problem, dense, pattern, Schedule(limit=t), core_share=0.5)
        assert found.iterations == t
        assert np.array_equal(found.support.numpy().T, naive.support[t - 1]), t
        assert found.core is not None
        assert np.array_equal(found.core.numpy().T, naive.core[t - 1]), t
        size = np.abs(naive.weight[t - 1]).max()
        assert np.abs(double(found.weight) - naive.weight[t - 1]).max() < 1e-4 * size, t
        # The core is nested, of its size, and both are exact.
        assert not (found.core & ~found.support).any()
        assert int(found.support.sum()) == pattern.kept(shape)
        assert not found.weight[~found.support].any()


@pytest.mark.parametrize("shape", SHAPES)
def test_it_stops_where_the_equations_do(shape) -> None:
    problem, dense = layer(*shape, 3)
    naive = dual(double(problem.matrix), double(dense), Unstructured(0.6), 0.5, 300)
    found = admm(problem, dense, Unstructured(0.6), Schedule(), core_share=0.5)
    assert found.iterations == len(naive.rho) < 300
    assert np.array_equal(found.support.numpy().T, naive.support[-1])
    # The support of the last look is that of the one before.
    before = admm(problem, dense, Unstructured(0.6), Schedule(limit=found.iterations - 3))
    assert torch.equal(before.support, found.support)


def test_the_core_does_not_influence_the_primary() -> None:
    problem, dense = layer(10, 16, 4)
    alone = admm(problem, dense, Unstructured(0.7), Schedule())
    assert alone.core is None
    for alpha in (0.2, 0.5, 1.0):
        both = admm(problem, dense, Unstructured(0.7), Schedule(), core_share=alpha)
        assert torch.equal(both.support, alone.support)
        torch.testing.assert_close(both.weight, alone.weight)
        assert both.core is not None
        assert int(both.core.sum()) == round(alpha * Unstructured(0.7).kept((10, 16)))
    assert torch.equal(both.core, both.support)  # α = 1


def test_both_ways_to_solve_give_the_same() -> None:
    # Groups of inputs do not see one another, so that outputs can be stacked: three of them are
    # solved for with two products, and eight times as many with the inverse.
    problem, dense = layer(3, 20, 5)
    assert Schedule().every * 3 < 20 <= Schedule().every * 24
    for limit in (1, 2, 5, 20):
        few = admm(problem, dense, NM(2, 4), Schedule(limit=limit))
        many = admm(problem, dense.repeat(8, 1), NM(2, 4), Schedule(limit=limit))
        assert few.iterations == many.iterations
        assert torch.equal(few.support.repeat(8, 1), many.support)
        torch.testing.assert_close(few.weight.repeat(8, 1), many.weight, rtol=1e-4, atol=1e-4)


def test_residuals_fall_and_the_support_settles() -> None:
    for seed in range(3):
        problem, dense = layer(16, 24, seed)
        found = admm(problem, dense, Unstructured(0.7), Schedule(), traced=True)
        assert len(found.residuals) == found.iterations < 300
        assert found.residuals[-1] < 0.1 * max(found.residuals)
        settled = [
            admm(problem, dense, Unstructured(0.7), Schedule(limit=found.iterations - n)).support
            for n in range(4)
        ]
        assert all(torch.equal(settled[0], other) for other in settled)


def test_it_beats_magnitudes() -> None:
    for seed in range(3):
        problem, dense = layer(16, 24, seed)
        found = admm(problem, dense, Unstructured(0.7), Schedule())
        kept, _ = Unstructured(0.7).select(dense.abs())
        mine, theirs = (problem.unscaled(w) for w in (found.weight, dense * kept))
        whole = problem.unscaled(dense)
        assert problem.error(mine, whole) < 0.7 * problem.error(theirs, whole)


# ---------------------------------------------------------------------- stopping


def test_the_code_stops_no_later_and_starts_again_where_rho_was_too_large() -> None:
    problem, dense = layer(16, 24, 6)
    pattern, whole = Unstructured(0.7), problem.unscaled(dense)

    def error(rho: float, stopping: str) -> float:
        found = admm(problem, dense, pattern, Schedule(rho=rho, stopping=stopping))  # type: ignore[arg-type]
        return problem.error(problem.unscaled(found.weight), whole)

    paper = admm(problem, dense, pattern, Schedule())
    code = admm(problem, dense, pattern, Schedule(stopping="code"))
    assert code.iterations <= paper.iterations
    # With ρ = 1000 nothing moves: the paper's rule ends at magnitudes, at once.
    stuck = admm(problem, dense, pattern, Schedule(rho=1000.0))
    assert stuck.iterations == 3
    assert torch.equal(stuck.support, pattern.select(dense.abs())[0])
    assert error(1000.0, "code") < 0.9 * error(1000.0, "paper")


def test_a_support_that_never_moves_ends_all_the_same() -> None:
    problem, dense = layer(4, 8, 0)
    found = admm(problem, dense, Unstructured(0.5), Schedule(rho=1e12, stopping="code", limit=30))
    assert torch.equal(found.support, Unstructured(0.5).select(dense.abs())[0])


def test_the_limit_is_kept() -> None:
    problem, dense = layer(16, 24, 0)
    for limit in (1, 2, 7):
        assert admm(problem, dense, Unstructured(0.7), Schedule(limit=limit)).iterations == limit


def test_what_does_not_stay_finite_is_named() -> None:
    problem, dense = layer(4, 8, 0)
    dense[0, 0] = math.nan
    with pytest.raises(DataError, match="Gram matrix: pruning did not stay finite"):
        admm(problem, dense, Unstructured(0.5), Schedule(limit=2))
    with pytest.raises(DataError, match="Gram matrix: pruning did not stay finite"):
        follow(problem, [Job(dense, dense, Unstructured(0.5))], [0.5])


# ---------------------------------------------------------------------- specialists


FIXED = [0.5] * 12
GROWING = [0.2 * 1.3 ** (i // 3) for i in range(12)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pattern", [Unstructured(0.7), NM(2, 4)], ids=str)
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("penalties", [FIXED, GROWING], ids=["fixed", "growing"])
def test_every_iterate_of_a_specialist_is_that_of_the_equations(
    shape, pattern, share, penalties
) -> None:
    shared, dense = layer(*shape, 7)
    first = admm(shared, dense, pattern, Schedule(), core_share=0.5)
    own, _ = layer(*shape, 8)  # other data, and the same layer
    target = own.scaled(shared.unscaled(dense))
    start = own.scaled(shared.unscaled(first.weight))
    core = pattern.core(start.abs(), first.support, share)[0] if share else None
    given = core.numpy().T if core is not None else None
    naive = task(double(own.matrix), double(target), double(start), pattern, given, penalties)
    assert naive.gap > GAP, "choose another seed: a tie would make supports a matter of luck"
    for t in range(1, len(penalties) + 1):
        (found,) = follow(own, [Job(target, start, pattern, core)], penalties[:t])
        assert np.array_equal(found.support.numpy().T, naive.support[t - 1]), t
        size = np.abs(naive.weight[t - 1]).max()
        assert np.abs(double(found.weight) - naive.weight[t - 1]).max() < 1e-4 * size, t
        assert int(found.support.sum()) == pattern.kept(shape)
        if core is not None:
            assert not (core & ~found.support).any()
    if share == 1:
        assert torch.equal(found.support, first.support)
    else:
        assert not torch.equal(found.support, first.support)


def test_layers_of_one_input_do_not_see_one_another() -> None:
    problem, dense = layer(6, 12, 9)
    _, other = layer(3, 12, 10)
    jobs = [Job(dense, dense, Unstructured(0.6)), Job(other, other * 0.5, NM(2, 4))]
    together = follow(problem, jobs, GROWING)
    for job, found in zip(jobs, together, strict=True):
        (alone,) = follow(problem, [job], GROWING)
        assert torch.equal(found.support, alone.support)
        assert torch.equal(found.weight, alone.weight)


def test_from_the_dense_weights_it_does_what_admm_does() -> None:
    problem, dense = layer(8, 12, 11)
    whole = admm(problem, dense, Unstructured(0.6), Schedule(rho=0.3, limit=3))
    (same,) = follow(problem, [Job(dense, dense, Unstructured(0.6))], [0.3] * 3)
    assert torch.equal(whole.support, same.support)
    torch.testing.assert_close(whole.weight, same.weight, rtol=1e-4, atol=1e-4)
