"""Fisher merging: known diagonals, equal information is averaging, no labels are looked at."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from frontrunner.errors import ConfigError, DataError
from frontrunner.front.objective import Objective
from frontrunner.methods.merging.fisher import FisherMerging, FisherWeighted, PerSample
from frontrunner.pareto_sets import base as pareto_sets
from frontrunner.runner.runner import Runner
from frontrunner.tasks.domains import Domains
from frontrunner.tasks.merging import MergingTask
from frontrunner.weights.networks import named_state
from frontrunner.weights.parents import Parents
from frontrunner.weights.source import InMemory

CLASSES = 3


class Net(nn.Module):
    """A linear layer on normalised inputs; ``branches`` looks at its data, which vmap refuses."""

    def __init__(self, branches=False):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.linear = nn.Linear(4, CLASSES)
        self.branches = branches

    def forward(self, x, k):
        if self.branches and float(x.sum()) > 1e9:
            return self.linear(x)
        return self.linear(self.norm(x))


class Small(MergingTask):
    """Random experts; all of objective k's inputs are multiplied by ``gains[k]``."""

    def __init__(self, gains=(1.0, 1.0), same=True, branches=False, labels=0):
        super().__init__()
        self.name = "small"
        self.objectives = tuple(Objective(f"o{k}", "min", "nats") for k in range(len(gains)))
        self.reference_point = (2.0,) * len(gains)
        self.gains, self.same, self.branches, self.labels = gains, same, branches, labels

    def make_parents(self):
        models = []
        for seed in range(len(self.gains) + 1):
            torch.manual_seed(seed)
            network = Net()
            network.norm.running_mean += seed
            models.append({n: t.clone().detach() for n, t in named_state(network).items()})
        base, *experts = models
        return Parents(
            InMemory("base", base), [InMemory(f"expert {k}", e) for k, e in enumerate(experts)]
        )

    def network(self):
        return Net(self.branches)

    def load(self):
        source = torch.Generator().manual_seed(5)
        x = torch.randn(40, 4, generator=source)
        y = (torch.arange(40) + self.labels) % CLASSES
        parts = [TensorDataset(x * gain, y) for gain in self.gains]
        return {split: Domains(parts) for split in ("train", "validation", "test")}

    def loss(self, outputs, batch, k):
        return nn.functional.cross_entropy(outputs, batch[1])


def collected(task, **settings):
    method = FisherMerging(points=3, seed=0, **settings)
    runner = Runner(progress="none")
    with runner.one_shot():
        return method.collect(task, runner), runner.cost["forward_passes"]


def by_hand(task, labelled):
    """F_k of the weights, from Jacobians of one sample at a time."""
    found = []
    for k, expert in enumerate(task.parents().experts):
        network = task.network().eval()
        network.load_state_dict(expert.tensors | {"norm.num_batches_tracked": torch.tensor(0)})
        weight, total = network.linear.weight, torch.zeros(CLASSES, 4)
        data = task.data("train").parts[k]
        for x, y in data:
            log = network(x[None], k)[0].log_softmax(0)
            for c in [int(y)] if labelled else range(CLASSES):
                g = torch.autograd.grad(log[c], weight, retain_graph=True)[0]
                total += g**2 * (1.0 if labelled else log[c].exp().detach())
        found.append(total / len(data))
    return torch.stack(found)


@pytest.mark.parametrize("fisher", ["expected", "empirical"])
@pytest.mark.parametrize("branches", [False, True])
def test_the_diagonal_is_that_of_jacobians_taken_one_by_one(fisher, branches):
    task = Small((1.0, 2.0), branches=branches)
    found, _ = collected(task, fisher=fisher, normalize="none", batch_size=7)
    expected = by_hand(task, fisher == "empirical")
    shares = found["linear.weight"] / found["linear.weight"].sum()
    torch.testing.assert_close(shares, expected / expected.sum(), rtol=1e-4, atol=1e-7)


def test_a_network_that_refuses_vmap_is_differentiated_sample_by_sample():
    task = Small(branches=True)
    network = task.network().eval()
    weights = {n: t.detach() for n, t in network.named_parameters()}
    squared = PerSample(
        lambda state, sample, label: torch.func.functional_call(
            network, state, (sample[0], 0)
        ).sum()
    )
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    squared(weights, (x,), torch.zeros(5), torch.ones(5))
    assert not squared.vectorize


def test_attention_is_differentiated_sample_by_sample_at_once_and_without_a_warning(recwarn):
    torch.manual_seed(0)
    weights = {"weight": torch.randn(6, 6)}
    batch, labels = (torch.randn(4, 2, 5, 6),), torch.zeros(4, dtype=torch.long)

    def attended(state, sample, label):
        q = sample[0] @ state["weight"]
        return nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True).sum()

    both = [PerSample(attended), PerSample(attended)]
    both[1].vectorize = False
    found, wanted = (each(weights, batch, labels, torch.ones(4)) for each in both)
    torch.testing.assert_close(found["weight"], wanted["weight"], rtol=1e-4, atol=1e-4)
    assert both[0].vectorize
    assert not recwarn.list


def test_sampled_labels_approach_the_exact_expectation():
    task = Small()
    exact, _ = collected(task, exact_classes=CLASSES)
    sampled, passes = collected(task, exact_classes=CLASSES - 1, draws=200)
    again, _ = collected(task, exact_classes=CLASSES - 1, draws=200)
    # Σ_k of 1 pass for the predictions of 40 samples and 200 of gradients
    assert passes == 2 * (1 + 200)
    for key, found in sampled.items():
        torch.testing.assert_close(found, exact[key], rtol=0.2, atol=0.04)
        assert torch.equal(found, again[key])


class Twice(Net):
    """Two positions with the same prediction: logits (B, 2, classes), as text has."""

    def forward(self, x, k):
        return super().forward(x, k)[:, None].expand(-1, 2, -1)


def test_information_adds_up_over_the_positions_of_a_sample():
    task = Small()
    runner = Runner(progress="none")
    found = []
    for network in (Net(), Twice()):
        torch.manual_seed(0)
        network.linear.reset_parameters()
        method = FisherMerging(points=3, seed=0, draws=600)
        with runner.one_shot():
            batches = iter([(task.data("train").parts[0].tensors[0],)])
            found.append(method.measure(task, network.eval(), batches, 0, runner))
    once, twice = found
    for key, tensor in twice.items():
        torch.testing.assert_close(tensor, 2 * once[key], rtol=0.15, atol=0.01)


def test_the_expected_information_does_not_depend_on_labels():
    (one, _), (other, _) = collected(Small(labels=0)), collected(Small(labels=1))
    assert all(torch.equal(one[key], other[key]) for key in one)
    (one, _), (other, _) = (
        collected(Small(labels=0), fisher="empirical"),
        collected(Small(labels=1), fisher="empirical"),
    )
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_normalisation_gives_every_expert_the_same_mean_square():
    task = Small((1.0, 5.0))

    def mean_squares(found):
        flat = torch.cat([t.flatten(1) for t in found.values()], dim=1)
        return flat.square().mean(1)

    torch.testing.assert_close(mean_squares(collected(task)[0]), torch.ones(2))
    raw = mean_squares(collected(task, normalize="none")[0])
    torch.testing.assert_close(raw.mean(), torch.tensor(1.0))
    assert raw.max() > 2 * raw.min()


def merge(information, weights, floor=1e-6):
    source = torch.Generator().manual_seed(1)
    base, *experts = torch.randn(4, 2, 3, generator=source)
    found = {"w": torch.tensor(information).view(3, 1, 1).expand(3, 2, 3)}
    merged = FisherWeighted(floor).merge("w", base, experts, np.array(weights), 1.0, found)
    return merged, torch.stack(experts)


@pytest.mark.parametrize("information", [[2.0, 2.0, 2.0], [0.0, 0.0, 0.0]])
def test_equal_or_no_information_is_averaging_with_the_preference(information):
    merged, experts = merge(information, [1.0, 0.5, 0.5])
    expected = torch.tensordot(torch.tensor([0.5, 0.25, 0.25]), experts, 1)
    torch.testing.assert_close(merged, expected)


def test_an_element_goes_to_the_expert_that_is_sure_of_it():
    merged, experts = merge([1.0, 1e-9, 1e9], [1.0, 1.0, 1.0])
    torch.testing.assert_close(merged, experts[2])


def test_information_and_preference_multiply():
    merged, experts = merge([1.0, 2.0, 3.0], [1.0, 0.5, 1.0])
    expected = (1.0 * experts[0] + 1.0 * experts[1] + 3.0 * experts[2]) / 5.0
    torch.testing.assert_close(merged, expected)


def test_a_front_has_the_experts_at_its_corners_and_survives_saving(tmp_path):
    task = Small((1.0, 2.0))
    before = FisherMerging(points=3, seed=0, preferences="grid").fit(
        task.sealed(), Runner(progress="none")
    )
    for k, corner in enumerate(np.eye(2)):
        expert = task.parents().experts[k].tensors
        for key, tensor in before.state(corner):
            torch.testing.assert_close(tensor, expert[key])
    before.save(tmp_path)
    after = pareto_sets.load(tmp_path, task)
    for p in ([0.5, 0.5], [0.3, 0.7]):
        for (key, a), (_, b) in zip(before.state(p), after.state(p), strict=True):
            assert torch.equal(a, b), key


def test_buffers_are_averaged_and_counters_are_the_bases():
    task = Small()
    merged = FisherMerging(points=3, seed=0).fit(task.sealed(), Runner(progress="none"))
    state = dict(merged.state([0.5, 0.5]))
    _, means = task.parents().read("norm.running_mean")
    torch.testing.assert_close(state["norm.running_mean"], (means[0] + means[1]) / 2)
    assert state["norm.num_batches_tracked"].dtype == torch.int64


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match=r"method.fisher=exact.*expected"):
        FisherMerging(points=3, seed=0, fisher="exact")
    with pytest.raises(ConfigError, match=r"method.floor=0"):
        FisherMerging(points=3, seed=0, floor=0)
    task = Small()
    task.has_data = False
    with pytest.raises(ConfigError, match="has no data"):
        FisherMerging(points=3, seed=0).check(task)
    with pytest.raises(DataError, match=r"'norm.weight' in expert 1 are not finite"):
        collected(Small((1.0, float("inf"))))
