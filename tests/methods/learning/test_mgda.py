"""Combinations of gradients: what each promises, its independence of what was before, failures."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

from frontrunner.errors import ConfigError
from frontrunner.methods.learning import mgda
from frontrunner.methods.learning.gradients import Moment
from frontrunner.methods.learning.mgda import AGGREGATORS, FAILED, Mgda, combine, gramian_weighting
from frontrunner.methods.learning.training import Training
from frontrunner.tasks.synthetic import Synthetic


def available(aggregator: str) -> None:
    for package in ("torchjd", *AGGREGATORS[aggregator].needs):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


def moment(m: int = 3, k: int = 6, seed: int = 0, step: int = 4) -> Moment:
    """Gradients of which some are in conflict."""
    gradients = np.random.default_rng(seed).standard_normal((k, m, 5))
    products = np.einsum("kip,kjp->kij", gradients, gradients)
    return Moment(np.ones((k, m)), products, np.full((k, m), 1 / m), np.arange(k), step)


@pytest.mark.parametrize("aggregator", sorted(AGGREGATORS))
@pytest.mark.parametrize("m", [2, 3])
def test_every_combination_gives_a_direction_of_descent_for_the_sum(
    aggregator: str, m: int
) -> None:
    available(aggregator)
    now = moment(m)
    found = combine(now, gramian_weighting(aggregator, m), seed=0)
    assert not found.fallbacks[FAILED].any()
    falls = np.einsum("ki,kij,kj->k", np.ones((6, m)), now.gramians, found.weights)
    assert (falls > 0).all()


@pytest.mark.parametrize("aggregator", ["mgda", "upgrad", "dualproj", "nash_mtl", "imtl_g"])
def test_these_raise_no_objective(aggregator: str) -> None:
    available(aggregator)
    now = moment(2)
    weights = combine(now, gramian_weighting(aggregator, 2), seed=0).weights
    falls = np.einsum("kij,kj->ki", now.gramians, weights)
    scale = np.trace(now.gramians, axis1=1, axis2=2)[:, None] * np.abs(weights).sum(1)[:, None]
    assert (falls >= -1e-3 * scale).all()


@pytest.mark.parametrize("aggregator", sorted(set(AGGREGATORS) - {"nash_mtl"}))
def test_the_length_of_gradients_changes_nothing(aggregator: str) -> None:
    available(aggregator)
    now = moment()
    small = Moment(now.losses, 1e-9 * now.gramians, now.preferences, now.members, now.step)
    weighting = gramian_weighting(aggregator, 3)
    np.testing.assert_allclose(
        combine(small, weighting, 0).weights, combine(now, weighting, 0).weights, atol=1e-5
    )


def test_nash_mtl_s_direction_has_length_one_and_no_memory() -> None:
    available("nash_mtl")
    now, other = moment(), moment(seed=1)
    weighting = gramian_weighting("nash_mtl", 3)
    fresh = combine(now, weighting, 0).weights
    combine(other, weighting, 0)
    np.testing.assert_array_equal(combine(now, weighting, 0).weights, fresh)
    lengths = np.einsum("ki,kij,kj->k", fresh, now.gramians, fresh)
    np.testing.assert_allclose(lengths, 1, rtol=1e-6)


def test_random_orders_depend_on_seed_step_and_network_alone() -> None:
    available("pcgrad")
    weighting, now = gramian_weighting("pcgrad", 3), moment(k=12)
    torch.manual_seed(0)
    first = combine(now, weighting, seed=5).weights
    stream = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(3), stream)
    np.testing.assert_array_equal(combine(now, weighting, seed=5).weights, first)
    assert (combine(now, weighting, seed=6).weights != first).any()
    late = Moment(now.losses[8:], now.gramians[8:], now.preferences[8:], now.members[8:], now.step)
    np.testing.assert_array_equal(combine(late, weighting, seed=5).weights, first[8:])


@pytest.mark.parametrize("trouble", [ValueError("no solution"), Exception("of its own"), None])
def test_a_solver_that_fails_is_counted_and_leaves_equal_weights(trouble: Exception | None) -> None:
    def weighting(gramian: torch.Tensor) -> torch.Tensor:
        if gramian[0, 0] > 5:
            return torch.tensor([0.2, 0.3, 0.5])
        if trouble is not None:
            raise trouble
        return torch.full((3,), torch.nan)

    now = moment()
    hard = now.gramians[:, 0, 0] <= 5
    assert 0 < hard.sum() < 6
    found = combine(now, weighting, seed=0)
    np.testing.assert_array_equal(found.fallbacks[FAILED], hard)
    np.testing.assert_allclose(found.weights[hard], 1 / 3)
    np.testing.assert_allclose(found.weights[~hard], [[0.2, 0.3, 0.5]] * int((~hard).sum()))


@pytest.mark.parametrize(
    ("aggregator", "absent", "message"),
    [
        ("mgda", ["torchjd"], "needs torchjd: pip install frontrunner\\[combiners\\]"),
        ("upgrad", ["quadprog"], "needs quadprog: pip"),
        ("nash_mtl", ["cvxpy", "ecos"], "needs cvxpy and ecos: pip"),
    ],
)
def test_packages_that_are_missing_are_named_before_training(
    monkeypatch, aggregator: str, absent: list[str], message: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        mgda.importlib.util, "find_spec", lambda name: None if name in absent else find("torch")
    )
    method = Mgda(Training(steps=1, batch_size=1), points=5, seed=0, aggregator=aggregator)
    with pytest.raises(ConfigError, match=message):
        method.check(Synthetic("zdt1"))


def test_an_unknown_aggregator_is_named() -> None:
    with pytest.raises(ConfigError, match=r"aggregator=mgd is unknown; did you mean 'mgda'"):
        Mgda(Training(steps=1, batch_size=1), points=5, seed=0, aggregator="mgd")


@pytest.mark.parametrize("m", [2, 3])
def test_mgda_is_torchjd_s_where_one_gradient_is_the_answer_and_elsewhere(m: int) -> None:
    available("mgda")
    from torchjd.aggregation import MGDAWeighting

    rng, reference, alone = np.random.default_rng(5), MGDAWeighting(), 0
    weighting = gramian_weighting("mgda", m)
    for _ in range(40):
        gradients = torch.as_tensor(rng.standard_normal((m, 4)) + rng.exponential(size=(m, 1)))
        gramian = gradients @ gradients.T
        found, expected = weighting(gramian), reference(gramian * (m / gramian.trace()))
        alone += int(float(found.max()) == 1.0)
        # The iteration's own tolerance, on the length of what it finds.
        lengths = [float((w @ gramian @ w).sqrt()) for w in (found, expected)]
        assert lengths[0] <= lengths[1] + 1e-9
        if m == 2:
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    assert 0 < alone < 40
