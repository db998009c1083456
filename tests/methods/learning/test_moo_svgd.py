"""MOO-SVGD: the kernel against finite differences, and the two limits of the update."""

from __future__ import annotations

import numpy as np
import pytest

from frontrunner.errors import ConfigError
from frontrunner.methods.learning.min_norm import min_norm
from frontrunner.methods.learning.moo_svgd import MooSvgd, kernel, stein_weights
from frontrunner.methods.learning.training import Training


def drawn(k: int, m: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    stream = np.random.default_rng(seed)
    gradients = stream.standard_normal((k, m, 30))
    return stream.uniform(0, 1, (k, m)), np.einsum("kip,kjp->kij", gradients, gradients)


def test_slopes_of_the_kernel_are_its_derivatives() -> None:
    f, _ = drawn(6, 3, 0)
    _, slopes = kernel(f, bandwidth=0.4)
    for i in range(6):
        for j in range(3):
            up, down = f.copy(), f.copy()
            up[i, j] += 1e-6
            down[i, j] -= 1e-6
            change = (kernel(up, 0.4)[0][i] - kernel(down, 0.4)[0][i]) / 2e-6
            np.testing.assert_allclose(slopes[i, :, j], change, atol=1e-7)


def test_without_a_bandwidth_it_follows_the_distances() -> None:
    f, _ = drawn(8, 2, 1)
    np.testing.assert_allclose(kernel(f)[0], kernel(1000 * f)[0], rtol=1e-9)


def test_far_apart_every_particle_follows_mgda_alone() -> None:
    f, products = drawn(5, 2, 2)
    weights, failed = stein_weights(f, products, bandwidth=1e-3, normalize=False)
    assert not failed.any()
    expected = np.zeros((5, 5, 2))
    expected[np.arange(5), np.arange(5)] = [min_norm(g) / 5 for g in products]
    np.testing.assert_allclose(weights, expected, atol=1e-12)


def test_without_repulsion_particles_in_one_place_share_their_mean_direction() -> None:
    _, products = drawn(4, 2, 3)
    weights, _ = stein_weights(
        np.ones((4, 2)), products, bandwidth=0.1, repulsion=0.0, normalize=False
    )
    for row in weights:
        np.testing.assert_allclose(row, [min_norm(g) / 4 for g in products])


def test_repulsion_parts_two_particles() -> None:
    """With its own gradients as coordinates, each loss moves away from the other particle's."""
    f = np.array([[0.4, 0.6], [0.5, 0.5]])
    products = np.stack([np.eye(2)] * 2)
    with_it, _ = stein_weights(f, products, bandwidth=0.3)
    without, _ = stein_weights(f, products, bandwidth=0.3, repulsion=0.0)
    change = -(with_it - without)[[0, 1], [0, 1]]  # of f to first order, the Gramian being I
    assert (change * (f - f[::-1]) > 0).all()


def test_the_formula_pushes_along_the_other_particle_s_gradient() -> None:
    f, products = drawn(5, 2, 4)
    own, _ = stein_weights(f, products, bandwidth=0.5, normalize=False)
    other, _ = stein_weights(f, products, bandwidth=0.5, normalize=False, pushed="other")
    plain, _ = stein_weights(f, products, bandwidth=0.5, normalize=False, repulsion=0.0)
    apart = np.arange(5)
    np.testing.assert_array_equal((own - plain).sum(axis=1), (own - plain)[apart, apart])
    np.testing.assert_allclose((other - plain)[apart, apart], 0, atol=1e-15)
    _, slopes = kernel(f, 0.5)
    np.testing.assert_allclose((other - plain)[1, 3], -slopes[3, 1] / 5, atol=1e-12)


def test_normalised_gradients_have_no_units() -> None:
    f, products = drawn(5, 3, 5)
    units = np.array([1.0, 100.0, 0.01])
    here, _ = stein_weights(f, products)
    there, _ = stein_weights(f, products * units[None, :, None] * units[None, None])
    np.testing.assert_allclose(there * units, here, atol=1e-9)


@pytest.mark.parametrize(
    ("key", "value"), [("bandwidth", 0), ("repulsion", -1), ("pushed", "mine"), ("normalize", 2)]
)
def test_a_wrong_value_is_named(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"method.{key}"):
        MooSvgd(Training(steps=1, batch_size=1), points=5, seed=0, **{key: value})  # type: ignore[arg-type]
