"""A population is its members: vectorised, looped, or trained one after the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from frontrunner.errors import ConfigError
from frontrunner.methods.learning import scalarization
from frontrunner.methods.learning.population import Population, fit_population
from frontrunner.methods.learning.training import Training
from frontrunner.models.networks import MLP
from frontrunner.runner.batches import StepSampler
from frontrunner.runner.runner import Runner
from frontrunner.tasks.base import Model
from frontrunner.tasks.multi_digits import MultiDigits

WEIGHTS = np.array([[1.0, 0.0], [0.5, 0.5], [0.2, 0.8]])
TRAINING = Training(steps=12, batch_size=20, learning_rate=1e-2, rounds=3)


class Normalised(nn.Module):
    """Batch normalisation, whose running statistics are each member's own."""

    def __init__(self, input_shape, output_sizes):
        super().__init__()
        # No bias: before normalisation its gradient is rounding, which Adam would blow up.
        self.first = nn.Linear(96, 8, bias=False)
        self.norm = nn.BatchNorm1d(8)
        self.heads = nn.ModuleList(nn.Linear(8, c) for c in output_sizes)

    def forward(self, x):
        h = torch.relu(self.norm(self.first(x.flatten(1))))
        return tuple(head(h) for head in self.heads)


def mlp(**shapes):
    return MLP(**shapes, hidden=[7, 5])


def task(network=mlp):
    return MultiDigits(sizes=(60, 40, 20), model=Model(network))


def population(network=mlp, vectorize="auto", weights=WEIGHTS):
    return Population(
        task(network), weights, scalarization.linear, TRAINING, seed=3, vectorize=vectorize
    )


def fitted(directory, network=mlp, vectorize="auto", weights=WEIGHTS, scalarize=None):
    runner = Runner(directory=directory, seed=3, accelerator="cpu", progress="none", threads=1)
    scalarize = scalarize or scalarization.linear
    return fit_population(
        task(network), runner, scalarize, TRAINING, weights, seed=3, vectorize=vectorize
    )


def close(one, other):
    assert set(one) == set(other)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=2e-5)


def test_vectorised_and_looped_training_agree(tmp_path):
    vectorised = fitted(tmp_path / "v", vectorize="always")
    close(vectorised.tensors(), fitted(tmp_path / "l", vectorize="never").tensors())


def test_objectives_and_gradients_agree_between_one_pass_and_a_loop():
    batch = task().data("train")[list(range(20))]
    results = []
    for vectorize in ("always", "never"):
        learner = population(vectorize=vectorize)
        with torch.no_grad():  # let the members differ
            for p in learner.stacked:
                p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
        update = learner.update(batch, 0)
        update.loss.backward()
        assert update.passes == 3
        results.append({str(i): p.grad for i, p in enumerate(learner.stacked)})
    close(*results)


@pytest.mark.parametrize("network", [mlp, Normalised])
def test_a_population_equals_its_members_trained_one_after_the_other(network, tmp_path):
    together = population(network)
    start = {name: t[0].clone() for name, t in together.state().items()}
    runner = Runner(directory=tmp_path, seed=3, accelerator="cpu", progress="none", threads=1)
    data = task().data("train")
    runner.fit(together, data, steps=12, batch_size=20, rounds=3)
    sampler = StepSampler(len(data), 20, seed=3, total=12, every=4)
    for k, weight in enumerate(torch.as_tensor(WEIGHTS, dtype=torch.float32)):
        member = task(network).network()
        member.load_state_dict(start)
        optimizer = torch.optim.Adam(member.parameters(), lr=1e-2)
        for step in range(12):
            batch = data[sampler.indices(step)]
            loss = (weight * task().losses(member(batch[0]), batch)).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        close(
            {
                name: t[k].detach()
                for name, t in together.state().items()
                if "num_batch" not in name
            },
            {n: t for n, t in member.state_dict().items() if "num_batch" not in n},
        )


def test_all_members_start_from_the_same_weights_and_then_differ(tmp_path):
    for tensor in population().state().values():
        assert torch.equal(tensor[0], tensor[1])
    after = fitted(tmp_path).tensors()
    assert not torch.allclose(after["linears.0.weight"][0], after["linears.0.weight"][2])


@pytest.mark.parametrize("vectorize", ["auto", "never"])
def test_running_statistics_are_each_members_own(vectorize):
    learner = population(Normalised, vectorize)
    batch = task().data("train")[list(range(20))]
    with torch.no_grad():
        learner.stacked[0][1] *= 3.0
    learner.objectives(batch)
    means = learner.state()["norm.running_mean"]
    expected = [0.1 * (batch[0].flatten(1) @ w.T).mean(0).detach() for w in learner.stacked[0]]
    torch.testing.assert_close(means, torch.stack(expected), rtol=1e-4, atol=1e-6)
    assert torch.equal(learner.state()["norm.num_batches_tracked"], torch.ones(3).long())


class Unvectorisable(nn.Module):
    """Looks at its numbers in Python, which vmap refuses."""

    def __init__(self, input_shape, output_sizes):
        super().__init__()
        self.body = mlp(input_shape=input_shape, output_sizes=output_sizes)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        outputs = self.body(x)
        return tuple(o if float(o.detach().sum()) > -1e9 else 0 * o for o in outputs)


def test_a_network_that_cannot_be_vectorised_is_looped_over_to_the_same_result(tmp_path):
    looped = fitted(tmp_path / "u", Unvectorisable).tensors()
    plain = fitted(tmp_path / "p").tensors()
    found = {n.removeprefix("body."): t for n, t in looped.items()}
    calls = found.pop("calls")
    close(found, plain)
    assert torch.equal(calls, calls[:1].expand(3))


def test_a_refused_vectorisation_leaves_no_trace_in_the_buffers():
    learner = population(Unvectorisable)
    batch = task().data("train")[list(range(20))]
    learner.objectives(batch)
    assert learner.vectorize == "never"
    assert learner.state()["calls"].tolist() == [1.0, 1.0, 1.0]


def test_where_only_vectorised_training_will_do_the_refusal_comes_out():
    batch = task().data("train")[list(range(20))]
    with pytest.raises(RuntimeError, match="vmap"):
        population(Unvectorisable, vectorize="always").objectives(batch)


def test_an_unknown_way_to_vectorise_is_refused():
    with pytest.raises(ConfigError, match="always"):
        population(vectorize="sometimes")


def test_the_set_answers_with_each_member_and_shares_its_weights(tmp_path):
    learner = population()
    found = learner.pareto_set()
    assert found.preference_kind == "weight"
    x = task().data("train")[list(range(4))][0]
    with torch.no_grad():
        learner.stacked[0][2] += 1.0
    changed = torch.cat(found.materialize(WEIGHTS[2])(x), dim=1)
    member = task().network()
    member.load_state_dict({name: t[2].detach() for name, t in learner.state().items()})
    torch.testing.assert_close(changed, torch.cat(member(x), dim=1))


def test_a_member_does_not_feel_the_others(tmp_path):
    """Adam acts element by element, so a model trained alone is the model trained in company."""
    alone = fitted(tmp_path / "one", weights=WEIGHTS[1:2], vectorize="never")
    runner = Runner(directory=tmp_path / "k", seed=3, accelerator="cpu", progress="none")
    company = population()
    runner.fit(company, task().data("train"), steps=12, batch_size=20, rounds=3)
    last = Runner(directory=tmp_path / "a", seed=3, accelerator="cpu", progress="none")
    single = population(weights=WEIGHTS[1:2])
    last.fit(single, task().data("train"), steps=12, batch_size=20, rounds=3)
    close(
        {name: t[1].detach() for name, t in company.state().items()},
        {name: t[0].detach() for name, t in single.state().items()},
    )
    assert len(alone.preferences) == 1


def test_clipping_bounds_each_member_by_itself(tmp_path):
    def trained(weights, name):
        runner = Runner(directory=tmp_path / name, seed=3, accelerator="cpu", progress="none")
        learner = population(weights=weights)
        data = task().data("train")
        runner.fit(learner, data, steps=6, batch_size=20, rounds=1, clip=0.05)
        return learner.state()

    company, single = trained(WEIGHTS, "k"), trained(WEIGHTS[2:3], "one")
    close(
        {name: t[2].detach() for name, t in company.items()},
        {name: t[0].detach() for name, t in single.items()},
    )


@pytest.mark.parametrize("network", [mlp, Normalised])
@pytest.mark.parametrize("vectorize", ["always", "never"])
def test_processes_that_divide_the_members_do_together_what_one_does(network, vectorize):
    whole = population(network, vectorize)
    shares = [population(network, vectorize) for _ in range(2)]
    sent = []  # what the processes put into a sum, until it is added up
    for rank, share in enumerate(shares):
        share.divide(rank, 2, lambda buffer: sent.append(buffer))
    everyone = [whole, *shares]
    optimizers = [learner.optimizers()["weights"] for learner in everyone]
    for step in range(3):
        batch = task().data("train")[list(range(20 * step, 20 * step + 20))]
        updates = [learner.update(batch, step) for learner in everyone]
        assert len({update.passes for update in updates}) == 1
        for update, optimizer in zip(updates, optimizers, strict=True):
            optimizer.zero_grad()
            update.loss.backward()
        for one, other in zip(*(share.stacked for share in shares), strict=True):
            one.grad = other.grad = (one.grad + other.grad) / 2
        for learner, optimizer in zip(everyone, optimizers, strict=True):
            optimizer.step()
            with torch.no_grad():
                learner.after_step("weights", step)
        for one, other in zip(sent[: len(sent) // 2], sent[len(sent) // 2 :], strict=True):
            one += other
            other.copy_(one)
        sent.clear()
    for share in shares:
        close(share.state(), whole.state())


def test_more_processes_than_members_are_refused():
    with pytest.raises(ConfigError, match="3 networks for 4 processes"):
        population().divide(0, 4, lambda tensor: None)


def frozen_body(**shapes):
    network = mlp(**shapes)
    network.linears.requires_grad_(False)
    return network


@pytest.mark.parametrize("vectorize", ["always", "never"])
def test_what_the_network_does_not_learn_stays_as_it_is(tmp_path, vectorize):
    start = population(frozen_body).state()
    models = fitted(tmp_path, frozen_body, vectorize)
    for preference in WEIGHTS[1:]:  # the first has no use for the second head
        network = models.materialize(preference)
        for name, weight in network.named_parameters():
            same = torch.equal(weight, start[name][0])
            assert same == name.startswith("linears"), name
