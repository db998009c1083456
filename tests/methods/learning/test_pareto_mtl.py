"""Pareto MTL: who is in which cone, and where those outside go."""

from __future__ import annotations

import numpy as np
import pytest

from frontrunner.errors import ConfigError
from frontrunner.methods.learning.min_norm import min_norm
from frontrunner.methods.learning.pareto_mtl import ParetoMtl, pareto_mtl_weights
from frontrunner.methods.learning.training import Training
from frontrunner.preferences import even_rays, to_sphere

VECTORS = to_sphere(even_rays(2, 5))


def drawn(k: int, m: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    gradients = np.random.default_rng(seed).standard_normal((k, m, 30))
    return gradients, np.einsum("kip,kjp->kij", gradients, gradients)


@pytest.mark.parametrize("entering", [True, False])
def test_inside_its_cone_a_network_follows_mgda(entering: bool) -> None:
    _, products = drawn(5, 2, 0)
    weights, failed = pareto_mtl_weights(
        3.0 * VECTORS, products, VECTORS, np.arange(5), entering=entering
    )
    assert not failed.any()
    expected = [2 * min_norm(g) for g in products]
    np.testing.assert_allclose(weights, expected, atol=1e-9)


@pytest.mark.parametrize("m", [2, 3])
def test_outside_its_cone_a_network_goes_towards_it(m: int) -> None:
    """None of the violated constraints rises, and one falls at least."""
    vectors = to_sphere(even_rays(m, 5 if m == 2 else 6))
    stream = np.random.default_rng(1)
    for trial in range(30):
        _, products = drawn(1, m, trial)
        f, k = stream.uniform(0.1, 1, m), int(stream.integers(len(vectors)))
        away = vectors - vectors[k]
        active = away[away @ f > 0]
        if len(active) == 0:
            continue
        weights, _ = pareto_mtl_weights(f[None], products, vectors, np.array([k]), entering=True)
        falls = active @ products[0] @ weights[0]
        assert (falls >= -1e-7).all()
        assert falls.max() > 0


def test_after_the_start_objectives_outside_fall_too_where_they_can() -> None:
    for trial in range(30):
        _, products = drawn(1, 2, trial)
        f = np.array([1.0, 0.1])
        weights, _ = pareto_mtl_weights(f[None], products, VECTORS, np.array([4]), entering=False)
        away = VECTORS - VECTORS[4]
        rows = np.vstack([np.eye(2), away[away @ f > 0]])
        assert (rows @ products[0] @ weights[0] >= -1e-7).all()


def test_members_say_whose_cone_it_is() -> None:
    _, products = drawn(5, 2, 3)
    f = np.full((5, 2), [0.3, 0.8])
    whole, _ = pareto_mtl_weights(f, products, VECTORS, np.arange(5), entering=True)
    share, _ = pareto_mtl_weights(f[3:], products[3:], VECTORS, np.array([3, 4]), entering=True)
    np.testing.assert_array_equal(share, whole[3:])


def test_a_search_that_fails_is_counted_and_weighs_equally(monkeypatch) -> None:
    def fail(gramian: np.ndarray) -> np.ndarray:
        raise RuntimeError("too many iterations")

    monkeypatch.setattr("frontrunner.methods.learning.pareto_mtl.min_norm", fail)
    _, products = drawn(5, 2, 4)
    weights, failed = pareto_mtl_weights(VECTORS, products, VECTORS, np.arange(5), entering=False)
    assert failed.all()
    np.testing.assert_array_equal(weights, np.ones((5, 2)))


@pytest.mark.parametrize(("key", "value"), [("initial", 1.5), ("vectors", "odd")])
def test_a_wrong_value_is_named(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"method.{key}"):
        ParetoMtl(Training(steps=1, batch_size=1), points=5, seed=0, **{key: value})  # type: ignore[arg-type]
