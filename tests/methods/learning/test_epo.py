"""Exact Pareto optimal search: what its linear programs promise, and what they do without."""

from __future__ import annotations

import numpy as np
import pytest

from frontrunner.errors import ConfigError
from frontrunner.methods.learning import epo
from frontrunner.methods.learning.epo import Epo, exact_pareto_weights, non_uniformity
from frontrunner.methods.learning.gradients import Moment
from frontrunner.methods.learning.training import Training


def drawn(k: int, m: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Losses (k, m), gradients (k, m, 40), Gramians and weights r (k, m)."""
    stream = np.random.default_rng(seed)
    gradients = stream.standard_normal((k, m, 40))
    products = np.einsum("kip,kjp->kij", gradients, gradients)
    return stream.uniform(0.1, 2, (k, m)), gradients, products, stream.uniform(0.2, 1, (k, m))


def method(**options: object) -> Epo:
    return Epo(Training(steps=1, batch_size=1), points=5, seed=0, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("m", [2, 3, 6])
def test_non_uniformity_is_zero_when_balanced_and_largest_on_an_axis(m: int) -> None:
    assert non_uniformity(np.full(m, 0.3)) == pytest.approx(0, abs=1e-12)
    assert non_uniformity(np.eye(m)[0]) == pytest.approx(np.log(m))
    for seed in range(5):
        values = np.random.default_rng(seed).uniform(0, 1, m)
        assert 0 <= non_uniformity(values) <= np.log(m)
        assert non_uniformity(7 * values) == pytest.approx(non_uniformity(values))


@pytest.mark.parametrize("m", [2, 3, 5])
def test_an_unbalanced_network_becomes_more_balanced(m: int) -> None:
    """Where no gradient helps the balance, the paper's program asks for common descent instead."""
    losses, _, products, r = drawn(60, m, m)
    weights, failed = exact_pareto_weights(losses, products, r)
    assert not failed.any()
    change = -np.einsum("kij,kj->ki", products, weights)  # of the losses, to first order
    helped = 0
    for i in range(60):
        before = non_uniformity(r[i] * losses[i])
        share = r[i] * losses[i] / (r[i] @ losses[i])
        anchor = r[i] * (np.log(m * share) - before)
        if (products[i] @ anchor > 0).any():
            helped += 1
            assert non_uniformity(r[i] * (losses[i] + 1e-6 * change[i])) < before
            assert change[i, share.argmax()] <= 1e-7
        else:
            assert (change[i] <= 1e-7).all()
    assert helped > 40


@pytest.mark.parametrize("relaxed", [False, True])
def test_a_balanced_network_lowers_every_objective(relaxed: bool) -> None:
    _, _, products, r = drawn(30, 3, 1)
    weights, failed = exact_pareto_weights(1 / r, products, r, relaxed=relaxed)
    assert not failed.any()
    assert (np.einsum("kij,kj->ki", products, weights) >= -1e-7).all()


def test_the_weights_are_on_the_simplex_times_the_number_of_objectives() -> None:
    losses, _, products, r = drawn(20, 4, 2)
    weights, _ = exact_pareto_weights(losses, products, r)
    assert (weights >= -1e-12).all()
    np.testing.assert_allclose(weights.sum(axis=1), 4)


def test_programs_solved_together_are_solved_as_well_as_one_by_one() -> None:
    losses, _, products, r = drawn(12, 3, 3)
    programs = [epo.linear_program(losses[i], products[i], r[i], 1e-4, False) for i in range(12)]
    together, _ = epo.solve(programs)
    for i, program in enumerate(programs):
        alone, failed = epo.solve([program])
        assert not failed.any()
        cost = program[0]
        assert cost @ together[i] == pytest.approx(cost @ alone[0], abs=1e-9)


def test_units_of_gradients_change_nothing() -> None:
    losses, _, products, r = drawn(12, 3, 4)
    here, _ = exact_pareto_weights(losses, products, r)
    there, _ = exact_pareto_weights(losses, 1e-10 * products, r)
    np.testing.assert_allclose(here, there, atol=1e-6)


def test_a_program_without_solution_falls_back_to_r_and_leaves_the_others_alone() -> None:
    losses, _, products, r = drawn(3, 2, 5)
    # Opposed in a way no Gramian is: nothing that lowers the worst objective exists.
    products[1] = [[-1.0, -1.0], [-1.0, -1.0]]
    weights, failed = exact_pareto_weights(losses, products, r)
    assert failed.tolist() == [False, True, False]
    np.testing.assert_allclose(weights[1], 2 * r[1] / r[1].sum())
    alone, _ = exact_pareto_weights(losses[:1], products[:1], r[:1])
    np.testing.assert_allclose(weights[0], alone[0], atol=1e-9)


def test_descent_ends_on_the_ray_of_inverse_weights() -> None:
    """Two paraboloids and plain gradient descent; where rays meet the front is known."""
    ends = np.array([[0.0, 0.0], [1.0, 0.0]])
    r = np.array([[0.5, 0.5], [0.8, 0.2], [0.3, 0.7]])
    x = np.full((3, 2), [0.7, 0.9])
    for step in range(600):
        apart = x[:, None] - ends
        products = 4 * apart @ apart.transpose(0, 2, 1)
        weights, _ = exact_pareto_weights((apart**2).sum(axis=2), products, r)
        x = x - 0.1 / (1 + step / 30) * np.einsum("kj,kjp->kp", weights, apart)
    # On the segment between the ends f = (t², (1 - t)²), so r₁ t² = r₂ (1 - t)².
    root = np.sqrt(r)
    t = root[:, 1] / root.sum(axis=1)
    np.testing.assert_allclose(x, np.stack([t, 0 * t], axis=1), atol=5e-3)


def test_objectives_below_the_ideal_are_named() -> None:
    losses = np.array([[0.5, 0.5], [0.5, -0.25]])
    moment = Moment(losses, np.zeros((2, 2, 2)), losses, np.arange(2), step=7)
    with pytest.raises(ConfigError, match=r"objective 2 is -0\.25 at step 7.*method\.ideal"):
        epo._refuse_below(moment, np.zeros(2))


@pytest.mark.parametrize(
    ("key", "value"),
    [("margin", 0), ("tolerance", -1), ("vectors", "evne"), ("relaxed", "yes")],
)
def test_a_wrong_value_is_named(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"method.{key}"):
        method(**{key: value})
