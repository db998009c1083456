"""PHN: preferences weighted linearly, or by exact Pareto optimal search."""

from __future__ import annotations

from functools import partial

import pytest
import torch

import frontrunner
from frontrunner.errors import ConfigError
from frontrunner.methods.learning.phn import PHN, _PHNLearner
from frontrunner.methods.learning.training import Training
from frontrunner.models.conditioning import FiLM
from frontrunner.models.networks import MLP
from frontrunner.models.weights import HyperNetwork
from frontrunner.tasks.base import Model, rows
from frontrunner.tasks.multi_digits import MultiDigits

TRAINING = Training(steps=4, batch_size=16, rounds=1, vectors_per_step=2)


def task():
    model = Model(partial(MLP, hidden=[6]), partial(HyperNetwork, hidden=8))
    return MultiDigits(sizes=(60, 30, 20), model=model)


def learner(solver):
    return _PHNLearner(task(), PHN(TRAINING, points=5, seed=0, solver=solver))


def test_linear_weights_objectives_by_the_preference():
    f, r = torch.tensor([[1.0, 3.0], [2.0, 4.0]]), torch.tensor([[0.25, 0.75], [1.0, 0.0]])
    loss, _ = learner("linear").loss(f, r, 0)
    assert float(loss) == pytest.approx((0.25 + 2.25 + 2.0) / 2)


def test_epo_pulls_towards_the_ray_of_the_preference():
    trained = learner("epo")
    batch = rows(trained._task.data("train"), range(60))
    f = torch.stack(
        [
            trained._task.losses(trained.network(batch[0], torch.tensor([p, 1 - p])), batch)
            for p in (0.2, 0.8)
        ]
    )
    weights = trained._weights(f, torch.tensor([[0.2, 0.8], [0.8, 0.2]]))
    # Both losses are alike at the start: the one that should be the smaller counts more.
    assert weights[0, 0] > weights[0, 1]
    assert weights[1, 1] > weights[1, 0]
    assert trained.failed == 0


@pytest.mark.parametrize(("solver", "kind"), [("linear", "weight"), ("epo", "ray")])
def test_a_run_trains_and_says_how_preferences_are_read(solver, kind, tmp_path):
    words = "task=multi_digits task.sizes=[200,60,60] method=learning/phn points=4 logger=none"
    words += f" training.steps=6 training.rounds=2 method.solver={solver} output={tmp_path}"
    run = frontrunner.run(words + " runner.progress=none")
    assert run.front.preference_kind == kind
    assert len(run.front.values) == 4
    fallbacks = run.record["switches"].get("fallbacks")
    assert fallbacks == (None if solver == "linear" else {"program_failed": 0})


def test_an_unknown_solver_is_named():
    with pytest.raises(ConfigError, match=r"method\.solver"):
        PHN(TRAINING, points=5, seed=0, solver="lp")


class Partly(MLP):
    """Its hidden layer is frozen."""

    def __init__(self, **shapes):
        super().__init__(**shapes)
        self.linears.requires_grad_(False)


@pytest.mark.parametrize("solver", ["linear", "epo"])
@pytest.mark.parametrize("kind", [HyperNetwork, FiLM])
def test_frozen_weights_are_left_alone_and_the_others_trained(solver, kind):
    model = Model(partial(Partly, hidden=[6]), partial(kind, hidden=8))
    chosen = MultiDigits(sizes=(60, 30, 20), model=model)
    method = PHN(TRAINING, points=5, seed=0, solver=solver)
    method.check(chosen)
    trained = _PHNLearner(chosen, method)
    before = trained.pareto_set().materialize([0.3, 0.7]).state_dict()
    before = {name: tensor.clone() for name, tensor in before.items()}
    optimizer = trained.optimizers()["weights"]
    trained.update(rows(chosen.data("train"), range(60)), 0).loss.backward()
    optimizer.step()
    after = trained.pareto_set().materialize([0.3, 0.7]).state_dict()
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert moved
    assert not [name for name in moved if "linears" in name]


def test_a_network_frozen_altogether_is_refused_before_anything_is_trained():
    class Whole(Partly):
        def __init__(self, **shapes):
            super().__init__(**shapes)
            self.requires_grad_(False)

    chosen = MultiDigits(
        sizes=(60, 30, 20), model=Model(partial(Whole, hidden=[6]), partial(HyperNetwork, hidden=8))
    )
    with pytest.raises(ConfigError, match=r"every weight of the network is frozen.*conditioning="):
        PHN(TRAINING, points=5, seed=0).check(chosen)
