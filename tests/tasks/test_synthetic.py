"""Synthetic tasks: decisions stay in the box, reach it, and descend to known optima."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from frontrunner.errors import ConfigError, SplitError
from frontrunner.tasks.problems import NAMES
from frontrunner.tasks.synthetic import Synthetic, into_unit_box

NOTHING = (torch.zeros(1, 0),)


@pytest.mark.parametrize("name", NAMES)
def test_decisions_stay_in_the_box_and_reach_its_bounds_exactly(name):
    task = Synthetic(name)
    n = task.problem.n_var
    z = 3.0 * torch.randn(500, n, generator=torch.Generator().manual_seed(0))
    x = task.decision(z).numpy()
    lower, upper = task.problem.lower, task.problem.upper
    assert (x >= lower).all()
    assert (x <= upper).all()
    np.testing.assert_array_equal(task.decision(torch.full((1, n), -0.5))[0], lower)
    np.testing.assert_array_equal(task.decision(torch.full((1, n), 7.0))[0], upper)
    np.testing.assert_allclose(task.decision(torch.zeros(1, n))[0], (lower + upper) / 2)


@pytest.mark.parametrize("name", NAMES)
def test_returned_decisions_evaluate_to_the_returned_objectives(name):
    task = Synthetic(name)
    z = torch.randn(4, task.problem.n_var, generator=torch.Generator().manual_seed(1))
    again = task.problem(task.decision(z))
    torch.testing.assert_close(task.losses(z, NOTHING), again.mean(0))
    torch.testing.assert_close(task.losses((z,), NOTHING), again.mean(0))


def test_gradients_that_lead_out_of_the_box_are_stopped_and_no_others():
    z = torch.tensor([-0.3, -0.3, 0.0, 0.0, 0.4, 0.4, 1.0, 1.0, 1.7, 1.7], requires_grad=True)
    slope = torch.tensor([1.0, -1.0] * 5)
    (slope * into_unit_box(z)).sum().backward()
    # Descent goes against the slope: down where it is 1, up where it is -1.
    assert z.grad.tolist() == [0.0, -1.0, 0.0, -1.0, 1.0, -1.0, 1.0, 0.0, 1.0, 0.0]


def test_projection_works_under_vmap_and_jacrev():
    task = Synthetic("zdt1", n_var=4)
    z = torch.randn(6, 1, 4, generator=torch.Generator().manual_seed(2))

    def losses(one):
        return task.losses(one, NOTHING)

    together = torch.func.vmap(torch.func.jacrev(losses))(z)
    for row, one in zip(z, together, strict=True):
        torch.testing.assert_close(torch.func.jacrev(losses)(row), one)


@pytest.mark.parametrize("w1", [0.4, 0.6, 0.8])
def test_descent_from_outside_the_box_finds_the_known_optimum_of_zdt1(w1):
    # min w₁f₁ + w₂(1 - √f₁) has √f₁ = min(1, w₂ / 2w₁).
    task = Synthetic("zdt1", n_var=5)
    z = torch.full((1, 5), 2.0, requires_grad=True)
    optimiser = torch.optim.SGD([z], lr=0.05)
    for _ in range(1200):
        f = task.losses((z,), NOTHING)
        optimiser.zero_grad()
        (w1 * f[0] + (1 - w1) * f[1]).backward()
        optimiser.step()
    assert task.problem.distance(task.decision(z)).item() == 0.0
    expected = min(1.0, (1 - w1) / (2 * w1)) ** 2
    assert task.losses(z, NOTHING)[0].item() == pytest.approx(expected, abs=1e-3)


def test_the_splits_are_one_empty_row_and_measure_needs_nothing_else():
    task = Synthetic("dtlz2", n_var=30)
    assert task.input_shape == (0,)
    assert task.output_sizes == (30,)
    middle = task.measure(lambda x: (torch.zeros(len(x), 30),), "validation")
    np.testing.assert_allclose(middle, [np.sqrt(0.5)] * 2, rtol=1e-6)
    with pytest.raises(SplitError):
        task.sealed().data("test")


def test_objectives_and_reference_follow_the_problem():
    task = Synthetic("scaled_dtlz2", m=3, scales=(1, 2, 10))
    assert [o.label for o in task.objectives] == ["f1 ↓", "f2 ↓", "f3 ↓"]
    assert task.reference_point == pytest.approx((1.1, 2.2, 11.0))
    assert Synthetic("zdt1", reference_point=(11, 11)).reference_point == (11.0, 11.0)
    with pytest.raises(ConfigError, match="needs 2 entries"):
        Synthetic("zdt1", reference_point=(1,))
    with pytest.raises(ConfigError, match="did you mean 'vlmop2'"):
        Synthetic("vlmop")
