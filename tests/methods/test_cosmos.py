"""COSMOS: the loss it descends, the preferences it draws, and the set it returns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from frontrunner.errors import ConfigError, FrontError
from frontrunner.methods.learning.cosmos import Cosmos, _CosmosLearner
from frontrunner.methods.learning.training import Training
from frontrunner.models.conditioning import FiLM
from frontrunner.models.networks import MLP
from frontrunner.preferences import even_rays
from frontrunner.runner.runner import Runner
from frontrunner.tasks.base import Model
from frontrunner.tasks.multi_digits import MultiDigits


def network(**shapes):
    return MLP(**shapes, hidden=[12, 6])


def task(conditioning=FiLM):
    return MultiDigits(sizes=(400, 100, 50), model=Model(network, conditioning))


def method(points=5, **options):
    budget = {
        "steps": 60,
        "batch_size": 64,
        "learning_rate": 5e-3,
        "rounds": 3,
        "concentration": 1.2,
    }
    chosen = {k: options.pop(k) for k in list(options) if k in (*budget, "vectors_per_step")}
    training = Training(**(budget | chosen))
    return Cosmos(training, points, seed=4, **({"cosine_weight": 2.0} | options))


@pytest.mark.parametrize("k", [1, 3])
def test_a_step_descends_the_mean_of_the_papers_loss(k):
    chosen = method(vectors_per_step=k)
    learner = _CosmosLearner(task(), chosen)
    batch = task().data("train")[list(range(32))]
    update = learner.update(batch, 7)
    expected = 0.0
    for r in learner.drawn(7):
        f = task().losses(learner.network(batch[0], r), batch)
        expected += ((r * f).sum() - 2.0 * (f @ r) / f.norm() / r.norm()) / k
    assert update.passes == k
    torch.testing.assert_close(update.loss, expected, rtol=1e-5, atol=1e-6)


def test_draws_are_dirichlet_and_depend_on_the_step_alone():
    learner = _CosmosLearner(task(), method(concentration=[2.0, 6.0]))
    draws = torch.cat([learner.drawn(step) for step in range(4000)]).double().numpy()
    np.testing.assert_allclose(draws.sum(axis=1), 1.0, atol=1e-6)
    assert (draws >= 0).all()
    # Mean 2 / 8 and variance 2 · 6 / (8² · 9) of the first entry of Dirichlet(2, 6).
    assert draws[:, 0].mean() == pytest.approx(0.25, abs=0.01)
    assert draws[:, 0].var() == pytest.approx(12 / 576, rel=0.1)
    torch.manual_seed(5)
    again = _CosmosLearner(task(), method(concentration=[2.0, 6.0]))
    assert torch.equal(again.drawn(17), learner.drawn(17))
    assert not torch.equal(again.drawn(17), learner.drawn(18))


def test_fixed_sampling_takes_the_read_out_vectors_in_turn():
    learner = _CosmosLearner(task(), method(sampling="fixed", vectors_per_step=2))
    rays = torch.as_tensor(even_rays(2, 5), dtype=torch.float32)
    taken = torch.cat([learner.drawn(step) for step in range(5)])
    assert torch.equal(taken, torch.cat([rays, rays]))


def test_the_set_is_read_out_at_even_rays_on_the_simplex():
    found = _CosmosLearner(task(), method()).pareto_set()
    np.testing.assert_allclose(found.preferences, even_rays(2, 5))
    assert found.preference_kind == "ray"
    assert found.options() == {"scale": "simplex"}


def test_training_improves_the_validation_hypervolume(tmp_path):
    scores = []
    runner = Runner(
        directory=tmp_path, seed=4, accelerator="cpu", progress="none", threads=1,
        log=lambda metrics, step: scores.append(metrics["validation/hypervolume"]),
    )  # fmt: skip
    method().fit(task().sealed(), runner)
    assert len(scores) == 3
    assert runner.best_score == max(scores) > scores[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"cosine_weight": -1.0}, "cosine_weight"), ({"sampling": "fixt"}, "fixed")],
)
def test_settings_are_refused_by_name(options, message):
    with pytest.raises(ConfigError, match=message):
        method(**options)


def test_check_refuses_a_model_that_cannot_be_conditioned_and_too_few_points():
    with pytest.raises(ConfigError, match="conditioning"):
        method().check(task(conditioning=None))
    with pytest.raises(FrontError, match="two rays"):
        method(points=1).check(task())
