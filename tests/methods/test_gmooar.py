"""GMOOAR: its geometry, its upper-level weights, and fronts it must reach."""

from __future__ import annotations

import math

import moocore
import numpy as np
import pytest
import torch

from frontrunner import preferences
from frontrunner.errors import ConfigError
from frontrunner.methods.learning import gmooar
from frontrunner.methods.learning.gmooar import Gmooar, _GmooarLearner
from frontrunner.methods.learning.training import Training
from frontrunner.models.conditioning import FiLM, InputConditioning
from frontrunner.models.networks import MLP, LeNet
from frontrunner.tasks.base import Model
from frontrunner.tasks.mnist import MultiMNIST
from frontrunner.tasks.synthetic import Synthetic

TRAINING = Training(steps=100, batch_size=1, vectors_per_step=15)


def method(**options: object) -> Gmooar:
    arguments = {"training": TRAINING, "points": 15, "seed": 0, "cosine_weight": 2.0}
    return Gmooar(**{**arguments, **options})  # type: ignore[arg-type]


def synthetic(problem: str = "dtlz2", **options: object) -> Synthetic:
    def network(**shapes: object) -> MLP:
        return MLP(**shapes, hidden=[20, 20], activation="tanh", head_scale=0.1)  # type: ignore[arg-type]

    return Synthetic(problem, model=Model(network, InputConditioning), **options)  # type: ignore[arg-type]


# ---------------------------------------------------------------------- vectors


@pytest.mark.parametrize("m", [2, 3, 4])
def test_torch_vectors_equal_numpy_vectors_and_invert(m: int) -> None:
    angles = np.random.default_rng(m).uniform(0.01, 1.56, (20, m - 1))
    vectors = gmooar.angles_to_vectors(torch.as_tensor(angles))
    np.testing.assert_allclose(vectors.numpy(), preferences.angles_to_vectors(angles), atol=1e-12)
    np.testing.assert_allclose(gmooar.vectors_to_angles(vectors).numpy(), angles, atol=1e-9)


def test_initial_vectors_are_positive_unit_vectors_that_depend_on_the_seed() -> None:
    first, second = (
        gmooar.angles_to_vectors(_GmooarLearner(synthetic(), method(seed=s)).angles.detach())
        for s in (0, 1)
    )
    assert (first > 0).all()
    torch.testing.assert_close(first.norm(dim=1), torch.ones(15))
    assert not torch.allclose(first, second)


@pytest.mark.parametrize(("m", "region"), [(2, (18.0, 72.0)), (3, (36.0, 72.0)), (3, (18.0, 90.0))])
def test_vectors_stay_in_the_region_of_interest(m: int, region: tuple[float, float]) -> None:
    learner = _GmooarLearner(synthetic(m=m), method(region=region))
    angles = torch.rand(200, m - 1, generator=torch.Generator().manual_seed(0)) * 1.6
    vectors = gmooar.angles_to_vectors(learner._project(angles))
    to_axes = torch.rad2deg(torch.arccos(vectors))
    assert (to_axes >= region[0] - 0.1).all()
    assert (to_axes <= region[1] + 0.1).all()


def test_an_impossible_region_is_refused() -> None:
    with pytest.raises(ConfigError, match="no direction"):
        method(region=(0.0, 40.0)).check(synthetic(m=3))


def test_multi_mnist_has_the_paper_s_number_of_parameters() -> None:
    # 42,350 LeNet + 1,320 FiLM + 15 angles (Chen & Kwok 2022, Table of hypervolumes).
    model = Model(LeNet, lambda factory, **shapes: FiLM(factory, **shapes, hidden=20))
    task = MultiMNIST(model=model)
    learner = _GmooarLearner(task, method())
    assert sum(p.numel() for p in learner.parameters()) == 43_685


# ---------------------------------------------------------------------- upper level


def test_hypervolume_weights_reach_dominated_repeated_and_distant_solutions() -> None:
    values = np.array([[0.2, 0.8], [0.2, 0.8], [0.5, 0.9], [0.8, 0.1], [3.0, 0.05]])
    weights = gmooar.hypervolume_weights(values, np.array([1.1, 1.1]))
    assert (weights >= 0).all()
    assert (np.linalg.norm(weights, axis=1) > 0).all()


def test_a_small_step_down_the_weights_raises_the_hypervolume() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        m = int(rng.integers(2, 4))
        values, reference = rng.random((8, m)), np.full(m, 1.1)
        weights = gmooar.hypervolume_weights(values, reference)
        moved = values - 1e-4 * weights
        before, after = (moocore.hypervolume(v, ref=reference) for v in (values, moved))
        assert after > before


def test_hypervolume_weights_do_not_depend_on_units() -> None:
    values = np.random.default_rng(1).random((10, 2))
    scale = np.array([1.0, 50.0])
    weights = gmooar.hypervolume_weights(values, np.array([1.1, 1.1]))
    rescaled = gmooar.hypervolume_weights(values * scale, np.array([1.1, 1.1]) * scale)
    np.testing.assert_allclose(rescaled * scale, weights, rtol=1e-6)


@pytest.mark.parametrize("kernel", ["gauss", "laplace"])
def test_energy_gradient_equals_finite_differences(kernel: str) -> None:
    values, h = np.random.default_rng(2).random((6, 3)), 0.4

    def energy(f: np.ndarray) -> float:
        d = gmooar.distances(f)
        return float(np.exp(-((d / h) ** 2) if kernel == "gauss" else -d / h).sum())

    gradient = gmooar.energy_gradient(values, h, kernel)
    for index in np.ndindex(*values.shape):
        step = np.zeros_like(values)
        step[index] = 1e-6
        numeric = (energy(values + step) - energy(values - step)) / 2e-6
        assert gradient[index] == pytest.approx(numeric, rel=1e-5, abs=1e-8)


def test_moving_down_the_energy_evens_out_the_gaps() -> None:
    t = np.sort(np.random.default_rng(3).uniform(0, 1, 9))
    values = np.stack([t, 1 - t], axis=1)
    before = gmooar.distances(values).min(axis=1).std()
    for _ in range(2000):
        h = gmooar.distances(values).min(axis=1).mean()
        slope = gmooar.energy_gradient(values, h, "gauss") @ np.array([1.0, -1.0])
        t = np.clip(t - 0.02 * h**2 * slope, 0, 1)
        values = np.stack([t, 1 - t], axis=1)
    assert gmooar.distances(values).min(axis=1).std() < 0.5 * before


# ---------------------------------------------------------------------- schedule


def test_cycle_trains_every_vector_once_between_upper_steps() -> None:
    training = Training(steps=320, batch_size=1, vectors_per_step=1)
    learner = _GmooarLearner(synthetic(), method(training=training, warmup=0.1))
    turns = [learner.turn(step) for step in range(32, 320)]
    upper = [i for i, turn in enumerate(turns) if turn == "vectors"]
    assert set(np.diff(upper)) == {16}
    start = 32 + upper[0] + 1
    seen = torch.cat([learner._lower_vectors(s) for s in range(start, start + 15)])
    everything = gmooar.angles_to_vectors(learner.angles.detach())
    apart = torch.cdist(seen, everything)
    assert sorted(apart.argmin(dim=1).tolist()) == list(range(15))


def test_vectors_rest_during_warmup_and_freeze() -> None:
    learner = _GmooarLearner(synthetic(), method(warmup=0.2, freeze=0.3, schedule="alternate"))
    turns = [learner.turn(step) for step in range(100)]
    assert "vectors" not in turns[:20] + turns[70:]
    assert turns[20:70].count("vectors") == 25


@pytest.mark.parametrize(
    ("key", "value"),
    [("upper", "hvv"), ("lower", "tch"), ("kernel", "cauchy"), ("schedule", "x"), ("mu", 0.0)],
)
def test_a_wrong_value_is_named(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"method.{key}"):
        method(**{key: value})


def test_hypervolume_of_more_than_three_objectives_is_refused_before_training() -> None:
    with pytest.raises(ConfigError, match="2 or 3 objectives"):
        method(upper="hv").check(synthetic(m=4))


# ---------------------------------------------------------------------- repeats


def test_repeated_solutions_get_new_vectors() -> None:
    learner = _GmooarLearner(synthetic(), method(redraw=1))
    learner.optimizers()
    batch = (torch.zeros(1, 0),)
    with torch.no_grad():
        learner.angles[5] = learner.angles[4]
    before = learner.angles.detach().clone()
    learner._upper(batch, 40)
    (learner.angles.sum() * 0).backward()
    learner._mover.step()  # type: ignore[union-attr]
    with torch.no_grad():
        learner.after_step("vectors", 40)
    changed = (learner.angles.detach() - before).abs().amax(dim=1) > 1e-6
    assert bool(changed[5])
    assert not bool(changed[4])
    assert math.isfinite(float(learner.angles.detach().sum()))
