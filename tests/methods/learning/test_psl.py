"""Pareto set learning: its scalarisations, and concave fronts that only some of them reach."""

from __future__ import annotations

import pytest
import torch

import frontrunner
from frontrunner.errors import ConfigError
from frontrunner.methods.learning.psl import ParetoSetLearning, _PSLLearner
from frontrunner.methods.learning.training import Training
from frontrunner.models.conditioning import InputConditioning
from frontrunner.models.networks import MLP
from frontrunner.tasks.base import Model
from frontrunner.tasks.synthetic import Synthetic


def task(conditioning=InputConditioning):
    model = Model(lambda **s: MLP(**s, hidden=[4]), conditioning)
    return Synthetic("vlmop2", model=model)


def method(**options):
    training = Training(steps=3, batch_size=1, vectors_per_step=4)
    return ParetoSetLearning(training, points=5, seed=1, **options)


F = torch.tensor([[0.4, 0.9], [0.8, 0.3]])
R = torch.tensor([[0.25, 0.75], [0.5, 0.5]])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("linear", (0.775 + 0.55) / 2),
        # Above the ideal (0.1, 0.2): 0.3, 0.7 and 0.7, 0.1.
        ("chebyshev", (0.75 * 0.7 + 0.5 * 0.7) / 2),
    ],
)
def test_the_loss_is_the_mean_scalarised_objective(kind, expected):
    learner = _PSLLearner(task(), method(scalarization=kind, ideal=[0.1, 0.2]))
    assert float(learner.loss(F, R, 0)[0]) == pytest.approx(expected)


def test_the_smooth_loss_lies_above_chebyshevs_by_at_most_mu_log_m():
    losses = {
        (kind, mu): float(_PSLLearner(task(), method(scalarization=kind, mu=mu)).loss(F, R, 0)[0])
        for kind in ("chebyshev", "smooth_chebyshev")
        for mu in (0.01, 0.1)
    }
    for mu in (0.01, 0.1):
        gap = losses["smooth_chebyshev", mu] - losses["chebyshev", mu]
        assert 0 < gap <= mu * 0.6932


def test_the_smooth_loss_measures_from_the_ideal():
    found, _ = _PSLLearner(task(), method(mu=0.2, ideal=[0.1, 0.2])).loss(F, R, 0)
    above = torch.tensor([[0.3, 0.7], [0.7, 0.1]])
    torch.testing.assert_close(found, 0.2 * (R * above / 0.2).exp().sum(1).log().mean())


@pytest.mark.parametrize(
    ("options", "message"),
    [({"scalarization": "smoth_chebyshev"}, "'smooth_chebyshev'"), ({"mu": 0}, "method.mu=0")],
)
def test_settings_are_refused_by_name(options, message):
    with pytest.raises(ConfigError, match=message):
        method(**options)


def test_check_refuses_a_model_without_conditioning_and_an_ideal_of_another_length():
    method().check(task())
    with pytest.raises(ConfigError, match="conditioning"):
        method().check(task(conditioning=None))
    with pytest.raises(ConfigError, match=r"method\.ideal needs one entry for each of 2"):
        method(ideal=[0.0]).check(task())


@pytest.mark.parametrize("problem", ["dtlz2", "vlmop2"])
def test_concave_fronts_are_reached_by_smooth_chebyshev_and_not_by_linear_scalarisation(
    problem, work
):
    shares = {}
    for kind in ("smooth_chebyshev", "linear"):
        run = frontrunner.run(
            [
                "method=learning/psl",
                f"method.scalarization={kind}",
                "method.mu=0.02",
                "task=synthetic",
                f"task.problem={problem}",
                "points=15",
                "training.steps=400",
                "training.rounds=4",
                "logger=none",
                "runner.progress=none",
                "runner.threads=1",
            ]
        )
        best = run.task.problem.best_hypervolume(15, run.task.reference_point)
        shares[kind] = run.front.hypervolume() / best
    assert shares["smooth_chebyshev"] >= 0.95
    assert shares["linear"] < 0.92
