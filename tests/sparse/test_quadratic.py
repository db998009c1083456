import math

import numpy as np
import pytest
import torch
from torch import Tensor

from frontrunner.errors import DataError
from frontrunner.sparse.patterns import Unstructured
from frontrunner.sparse.quadratic import Quadratic, refine


def inputs(samples: int = 60, width: int = 12, seed: int = 0) -> Tensor:
    """Correlated inputs of very different sizes, as a network's are."""
    stream = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=stream) * torch.logspace(1, -1, width)
    return torch.randn(samples, width, generator=stream) @ mixing.mT


def weights(rows: int = 7, width: int = 12, seed: int = 1) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------- objective


@pytest.mark.parametrize("scaled", [False, True])
def test_the_objective_is_the_error_of_outputs_and_a_ridge(scaled) -> None:
    x, dense = inputs(), weights()
    problem = Quadratic(x.mT @ x, scaled=scaled)
    pruned = dense * Unstructured(0.5).select(dense.abs())[0]
    outputs = ((x.double() @ (dense - pruned).double().mT) ** 2).sum()
    ridge = problem.gamma * ((dense - pruned).double() ** 2).sum()
    assert problem.error(pruned, dense) == pytest.approx(float(outputs + ridge), rel=1e-4)
    assert problem.error(dense, dense) == 0


def test_scaling_has_a_unit_diagonal_and_goes_back() -> None:
    x, dense = inputs(), weights()
    problem = Quadratic(x.mT @ x)
    torch.testing.assert_close(problem.matrix.diagonal(), torch.ones(12))
    torch.testing.assert_close(problem.matrix, problem.matrix.mT)
    torch.testing.assert_close(problem.unscaled(problem.scaled(dense)), dense)


@pytest.mark.parametrize("ridge", ["mean", "trace"])
def test_ridges(ridge) -> None:
    gram = torch.diag(torch.tensor([1.0, 2, 3, 6]))
    problem = Quadratic(gram, damping=0.1, ridge=ridge, scaled=False)
    gamma = 0.1 * (3.0 if ridge == "mean" else 12.0)
    assert problem.gamma == pytest.approx(gamma)
    torch.testing.assert_close(problem.matrix, gram + gamma * torch.eye(4))
    assert gram[0, 0] == 1  # what was given is as it was


@pytest.mark.parametrize("scaled", [False, True])
def test_both_inverses_are_the_inverse(scaled) -> None:
    x = inputs()
    problem = Quadratic(x.mT @ x, scaled=scaled)
    for rho in (0.1, 0.5, 100.0):
        wanted = torch.linalg.inv(problem.matrix.double() + rho * torch.eye(12).double()).float()
        tolerance = {"rtol": 1e-3, "atol": 1e-4 * float(wanted.abs().max())}
        torch.testing.assert_close(problem.inverse(rho), wanted, **tolerance)
        torch.testing.assert_close(problem.shifted_inverse(rho), wanted, **tolerance)


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_gram_matrices_that_are_not_finite_are_named(bad) -> None:
    gram = torch.eye(4)
    gram[1, 2] = bad
    with pytest.raises(DataError, match="of q_proj has NaN or infinity"):
        Quadratic(gram, what="the Gram matrix of q_proj")


def test_inputs_that_are_all_zero_are_named() -> None:
    with pytest.raises(DataError, match="of q_proj is zero"):
        Quadratic(torch.zeros(4, 4), what="the Gram matrix of q_proj")


def test_a_singular_matrix_is_named_and_damping_mends_it() -> None:
    x = torch.ones(10, 4)
    with pytest.raises(DataError, match=r"of q_proj is singular.*damping"):
        Quadratic(x.mT @ x, damping=0, what="the Gram matrix of q_proj").inverse()
    assert Quadratic(x.mT @ x, damping=0.01).inverse().isfinite().all()


def test_an_input_that_is_always_zero_is_no_obstacle() -> None:
    x = inputs()
    x[:, 3] = 0
    problem = Quadratic(x.mT @ x)
    assert problem.matrix.isfinite().all()
    assert problem.scaled(weights()).isfinite().all()
    assert problem.inverse().isfinite().all()


# ---------------------------------------------------------------------- conjugate gradients


def exact(problem: Quadratic, dense: Tensor, support: Tensor) -> Tensor:
    """The least-squares solution of each row on its support, by NumPy, in the scaled space.

    Rows of the square root of H stand for inputs: ‖√H (w - ŵ)‖² is the objective.
    """
    values, vectors = np.linalg.eigh(problem.matrix.double().numpy())
    root = (vectors * np.sqrt(np.maximum(values, 0))).T
    target = problem.scaled(dense).double().numpy()
    solution = np.zeros(dense.shape)
    for row, kept in enumerate(support.numpy()):
        if kept.any():
            found = np.linalg.lstsq(root[:, kept], root @ target[row], rcond=None)
            solution[row, kept] = found[0]
    return torch.from_numpy(solution)


def refined(problem: Quadratic, dense: Tensor, support: Tensor, steps: int, **more) -> Tensor:
    target = problem.scaled(dense)
    start = target * support
    return refine(problem, target @ problem.matrix, start, support, steps, **more)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("samples", [60, 5])  # five inputs: singular but for the ridge
def test_refinement_solves_the_least_squares_of_every_row(scaled, samples) -> None:
    x, dense = inputs(samples), weights()
    problem = Quadratic(x.mT @ x, scaled=scaled)
    support, _ = Unstructured(0.5).select(problem.scaled(dense).abs())
    support[2] = False  # a row of which nothing is left
    support[3] = True  # and one that is not pruned
    found = refined(problem, dense, support, 200, tolerance=1e-7)
    wanted = exact(problem, dense, support)
    best = problem.error(problem.unscaled(wanted.float()), dense)
    assert problem.error(problem.unscaled(found), dense) == pytest.approx(best, rel=1e-4)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-2, atol=1e-2)
    assert not found[~support].any()
    assert not found[2].any()
    torch.testing.assert_close(found[3], problem.scaled(dense)[3], rtol=1e-5, atol=1e-5)


def test_no_step_raises_the_objective_of_any_row() -> None:
    for seed in range(5):
        x, dense = inputs(30, 24, seed), weights(8, 24, seed + 1)
        problem = Quadratic(x.mT @ x)
        support, _ = Unstructured(0.7).select(problem.scaled(dense).abs())
        before = torch.full((8,), math.inf)
        for steps in range(0, 60, 3):
            w = problem.unscaled(refined(problem, dense, support, steps, tolerance=0.0))
            now = torch.tensor([problem.error(w[i : i + 1], dense[i : i + 1]) for i in range(8)])
            assert (now <= before * (1 + 1e-5)).all(), steps
            before = now


def test_rows_do_not_depend_on_one_another() -> None:
    x, dense = inputs(), weights()
    dense[4] *= 1e4
    problem = Quadratic(x.mT @ x)
    support, _ = Unstructured(0.5).select(weights(seed=5).abs())
    together = refined(problem, dense, support, 4, tolerance=0.0)
    for row in range(len(dense)):
        one = slice(row, row + 1)
        alone = refined(problem, dense[one], support[one], 4, tolerance=0.0)
        found, wanted = (problem.unscaled(w) for w in (together[one], alone))
        error = problem.error(wanted, dense[one])
        assert problem.error(found, dense[one]) == pytest.approx(error, rel=1e-3)


def test_no_steps_and_a_solution_stay_as_they_are() -> None:
    x, dense = inputs(), weights()
    problem = Quadratic(x.mT @ x)
    every = torch.ones_like(dense, dtype=torch.bool)
    support, _ = Unstructured(0.5).select(dense.abs())
    assert torch.equal(refined(problem, dense, support, 0), problem.scaled(dense) * support)
    torch.testing.assert_close(refined(problem, dense, every, 5), problem.scaled(dense))
    nothing = refined(problem, dense, ~every, 5)
    assert not nothing.any()


def test_an_input_that_is_always_zero_does_no_harm_without_a_ridge():
    stream = torch.Generator().manual_seed(0)
    inputs = torch.randn(50, 8, generator=stream)
    inputs[:, 3] = 0
    problem = Quadratic(inputs.T @ inputs, damping=0.0)
    dense = torch.randn(4, 8, generator=stream)
    support = torch.rand(4, 8, generator=stream) < 0.5
    target = problem.scaled(dense)
    refined = refine(problem, target @ problem.matrix, target * support, support)
    assert refined.isfinite().all()
    assert problem.error(problem.unscaled(refined), dense) <= problem.error(dense * support, dense)
