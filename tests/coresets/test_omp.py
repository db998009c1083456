"""Orthogonal matching pursuit against planted combinations and SciPy's least squares."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy.optimize import nnls

from frontrunner.coresets.gradients import Gradients, Vectors
from frontrunner.coresets.omp import nonnegative_omp


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def error(atoms, target, chosen, weights):
    return float((weights @ atoms[chosen] - target).norm())


def test_a_planted_combination_is_recovered():
    atoms = random(80, 300)
    planted, amounts = torch.tensor([3, 17, 50, 71]), torch.tensor([2.0, 0.5, 1.0, 3.0]).double()
    target = amounts @ atoms[planted]
    chosen, weights = nonnegative_omp(Vectors(atoms), target, 4)
    order = chosen.argsort()
    assert chosen[order].tolist() == planted.tolist()
    torch.testing.assert_close(weights[order], amounts)
    # With more atoms than are needed the rest is left out.
    more, _ = nonnegative_omp(Vectors(atoms), target, 30)
    assert sorted(more.tolist()) == planted.tolist()


def test_factors_give_what_vectors_give():
    factors = Gradients(((random(40, 3), random(40, 6, seed=1)),))
    target = factors.mean() * 40
    one = nonnegative_omp(factors, target, 10)
    other = nonnegative_omp(Vectors(factors.dense()), target, 10)
    assert torch.equal(one[0], other[0])
    torch.testing.assert_close(one[1], other[1])


@pytest.mark.parametrize(("n", "dimension"), [(30, 12), (60, 30), (20, 25)])
def test_run_to_its_end_it_is_nonnegative_least_squares(n, dimension):
    for seed in range(45):  # atoms are dropped on the way, and some come back
        atoms, target = random(n, dimension, seed=seed), random(dimension, seed=seed + 1000)
        chosen, weights = nonnegative_omp(Vectors(atoms), target, n)
        solution, residual = nnls(atoms.T.numpy(), target.numpy())
        found = torch.zeros(n, dtype=torch.float64)
        found[chosen] = weights
        assert error(atoms, target, chosen, weights) == pytest.approx(residual, abs=1e-7)
        if residual > 1e-6:  # else there are many solutions
            torch.testing.assert_close(found, torch.from_numpy(solution), atol=1e-5, rtol=1e-5)
        assert bool((weights > 0).all())
        assert len(set(chosen.tolist())) == len(chosen)


@pytest.mark.parametrize("seed", range(5))
def test_error_never_rises_with_the_count(seed):
    atoms = random(50, 15, seed=seed) + 0.3
    target = atoms.sum(0)
    errors = []
    for count in range(1, 20):
        chosen, weights = nonnegative_omp(Vectors(atoms), target, count)
        assert len(chosen) == len(set(chosen.tolist())) <= count
        assert bool((weights > 0).all())
        errors.append(error(atoms, target, chosen, weights))
    assert all(b <= a + 1e-9 for a, b in itertools.pairwise(errors))
    assert errors[-1] < 0.5 * errors[0]


def test_each_step_takes_the_atom_of_largest_correlation_and_refits():
    atoms = random(40, 60, seed=2).abs()  # weights stay above 0: plain matching pursuit
    target = atoms.sum(0)
    chosen, weights = nonnegative_omp(Vectors(atoms), target, 3)
    expected, residual = [], target
    for _ in range(3):
        expected.append(int((atoms @ residual).argmax()))
        solution = torch.linalg.lstsq(atoms[expected].T, target).solution
        residual = target - solution @ atoms[expected]
    assert chosen.tolist() == expected
    torch.testing.assert_close(weights, solution)


def test_atoms_that_depend_on_one_another_do_no_harm():
    few = random(4, 10, seed=3)
    atoms = torch.cat([few, few, few[:2] + few[2:], torch.zeros(1, 10, dtype=torch.float64)])
    target = few.sum(0)
    chosen, weights = nonnegative_omp(Vectors(atoms), target, 11)
    assert error(atoms, target, chosen, weights) < 1e-9
    assert torch.isfinite(weights).all()
    assert len(set(chosen.tolist())) == len(chosen)
    same = torch.ones(6, 3, dtype=torch.float64)
    chosen, weights = nonnegative_omp(Vectors(same), 6 * same[0], 6)
    assert float(weights.sum()) == pytest.approx(6.0)


def test_a_target_of_nothing_needs_no_atom():
    chosen, weights = nonnegative_omp(Vectors(random(9, 4)), torch.zeros(4).double(), 5)
    assert len(chosen) == len(weights) == 0


def test_atoms_that_point_away_are_not_chosen():
    atoms = random(9, 4).abs()
    chosen, weights = nonnegative_omp(Vectors(atoms), -atoms.sum(0), 5)
    assert len(chosen) == len(weights) == 0
    assert chosen.dtype == torch.long


def test_ridge_shrinks_weights_to_the_closed_form():
    atoms = random(30, 50, seed=4).abs()
    target = atoms.sum(0)
    norms = []
    for ridge in (0.0, 0.1, 1.0, 10.0):
        chosen, weights = nonnegative_omp(Vectors(atoms), target, 5, ridge=ridge)
        rho = ridge * float(atoms[chosen[0]].square().sum())
        gram = atoms[chosen] @ atoms[chosen].T + rho * torch.eye(len(chosen)).double()
        torch.testing.assert_close(weights, torch.linalg.solve(gram, atoms[chosen] @ target))
        norms.append(float(weights.norm()))
    assert norms == sorted(norms, reverse=True)
    assert norms[-1] < 0.5 * norms[0]


def test_tolerance_ends_it_early():
    atoms = random(60, 20, seed=5)
    target = atoms.sum(0)
    few, _ = nonnegative_omp(Vectors(atoms), target, 20, tolerance=0.5)
    many, _ = nonnegative_omp(Vectors(atoms), target, 20)
    assert 0 < len(few) < len(many)
    assert many[: len(few)].tolist() == few.tolist()
