"""Hypervolume maximisation: weights against finite differences, and who gets none."""

from __future__ import annotations

import numpy as np
import pytest

from frontrunner.errors import ConfigError
from frontrunner.front.indicators import hypervolume
from frontrunner.methods.learning.hv_maximization import HvMaximization, hypervolume_weights
from frontrunner.methods.learning.training import Training
from frontrunner.tasks.synthetic import Synthetic


def method(**options: object) -> HvMaximization:
    return HvMaximization(
        Training(steps=1, batch_size=1),
        points=6,
        seed=0,
        **options,  # type: ignore[arg-type]
    )


def front(m: int, k: int, seed: int) -> np.ndarray:
    """k points of a sphere, none of which dominates another."""
    x = np.abs(np.random.default_rng(seed).standard_normal((k, m)))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("m", [2, 3])
def test_weights_are_minus_the_derivatives_of_the_hypervolume(m: int) -> None:
    f, reference = front(m, 6, m), np.full(m, 1.1)
    weights = hypervolume_weights(f, reference, normalize=False)
    for i in range(6):
        for j in range(m):
            lower = f.copy()
            lower[i, j] -= 1e-6
            gain = (hypervolume(lower, reference) - hypervolume(f, reference)) / 1e-6
            assert weights[i, j] == pytest.approx(gain, abs=1e-4)


def test_dominated_networks_move_too_and_all_at_one_pace() -> None:
    f = np.array([[0.2, 0.8], [0.8, 0.2], [0.5, 0.9], [0.9, 0.9]])
    weights = hypervolume_weights(f, np.full(2, 1.1))
    assert (weights >= 0).all()
    np.testing.assert_allclose(np.linalg.norm(weights, axis=1), 1)


def test_the_reference_moves_out_to_networks_beyond_it() -> None:
    f = np.array([[0.2, 5.0], [0.8, 4.0]])
    np.testing.assert_allclose(
        hypervolume_weights(f, np.full(2, 1.1), normalize=False),
        hypervolume_weights(f, np.array([1.1, 5.5]), moving=False, normalize=False),
    )
    assert not hypervolume_weights(f, np.full(2, 1.1), moving=False).any()


def test_more_than_three_objectives_are_refused_before_training() -> None:
    with pytest.raises(ConfigError, match=r"2 or 3 objectives, not 4.*learning/epo"):
        HvMaximization(Training(steps=1, batch_size=1), points=10, seed=0).check(
            Synthetic("dtlz2", m=4)
        )


@pytest.mark.parametrize(("key", "value"), [("reference", "mine"), ("normalize", 1)])
def test_a_wrong_value_is_named(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"method.{key}"):
        method(**{key: value})
