"""RegMean: joint least squares on linear models, limits of alpha, convolutions as linear layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from frontrunner.errors import ConfigError
from frontrunner.front.objective import Objective
from frontrunner.methods.merging.regmean import GramWeighted, RegMean, layer_inputs
from frontrunner.pareto_sets import base as pareto_sets
from frontrunner.runner.runner import Runner
from frontrunner.tasks.domains import Domains
from frontrunner.tasks.merging import MergingTask
from frontrunner.weights.networks import named_state
from frontrunner.weights.parents import Parents
from frontrunner.weights.source import InMemory


class Regression(MergingTask):
    """Two linear experts, each the least-squares fit of its own 30 samples."""

    inputs, outputs = 6, 2

    def __init__(self):
        super().__init__()
        self.name = "regression"
        self.objectives = (Objective("a", "min"), Objective("b", "min"))
        self.reference_point = (9.0, 9.0)
        source = torch.Generator().manual_seed(0)
        mix = torch.randn(2, self.inputs, self.inputs, generator=source)
        self.x = torch.randn(2, 30, self.inputs, generator=source) @ mix
        self.y = torch.randn(2, 30, self.outputs, generator=source)

    def fitted(self, x, y):
        return torch.linalg.lstsq(x.double(), y.double()).solution.T.float()

    def make_parents(self):
        weights = [self.fitted(x, y) for x, y in zip(self.x, self.y, strict=True)]
        experts = [InMemory(f"expert {k}", {"0.weight": w}) for k, w in enumerate(weights)]
        return Parents(InMemory("base", {"0.weight": torch.zeros_like(weights[0])}), experts)

    def network(self):
        return Chain(nn.Linear(self.inputs, self.outputs, bias=False))

    def load(self):
        parts = [TensorDataset(x, y) for x, y in zip(self.x, self.y, strict=True)]
        return {split: Domains(parts) for split in ("train", "validation", "test")}

    def loss(self, outputs, batch, k):
        return (outputs - batch[1]).square().mean()


class Chain(nn.Sequential):
    def forward(self, x, k):
        return super().forward(x)


class Images(Regression):
    """Two random experts with a convolution and a linear layer."""

    def __init__(self, **conv):
        super().__init__()
        self.conv = {"kernel_size": 3, **conv}
        self.x = torch.randn(2, 8, 4, 6, 5, generator=torch.Generator().manual_seed(3))
        self.y = self.y[:, :8]

    def make_parents(self):
        models = []
        for seed in range(3):
            torch.manual_seed(seed)
            state = named_state(self.network())
            models.append(InMemory(f"model {seed}", {n: t.detach() for n, t in state.items()}))
        return Parents(models[0], models[1:])

    def network(self):
        convolution = nn.Conv2d(4, 4, **self.conv)
        rest = (nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 2))
        return Chain(convolution, *rest)


def fit(task, **settings):
    return RegMean(points=3, **settings).fit(task.sealed(), Runner(progress="none"))


def merged(task, preference=(0.5, 0.5), **settings):
    return dict(fit(task, **settings).state(np.array(preference)))


# ---------------------------------------------------------------------- linear models


def test_with_alpha_one_it_is_the_fit_of_all_data_together():
    task = Regression()
    joint = task.fitted(task.x.flatten(0, 1), task.y.flatten(0, 1))
    found = merged(task, alpha=1.0, ridge=1e-12)["0.weight"]
    torch.testing.assert_close(found, joint, rtol=1e-4, atol=1e-5)
    _, experts = task.parents().read("0.weight")
    assert (found - (experts[0] + experts[1]) / 2).abs().max() > 0.01


def test_a_preference_weighs_the_data_of_its_objective():
    task = Regression()
    root = torch.tensor([0.2, 0.8]).sqrt().view(2, 1, 1)
    weighted = task.fitted((root * task.x).flatten(0, 1), (root * task.y).flatten(0, 1))
    pareto_set = fit(task, alpha=1.0, ridge=1e-12, preferences="grid")
    found = dict(pareto_set.state([0.2, 0.8]))["0.weight"]
    torch.testing.assert_close(found, weighted, rtol=1e-4, atol=1e-5)


def test_with_alpha_zero_each_input_is_weighted_by_its_mean_square():
    task = Regression()
    _, experts = task.parents().read("0.weight")
    share = task.x.square().mean(1)
    expected = (share[0] * experts[0] + share[1] * experts[1]) / share.sum(0)
    torch.testing.assert_close(merged(task, alpha=0.0)["0.weight"], expected, rtol=1e-4, atol=1e-6)


def test_alpha_acts_off_the_diagonal_alone():
    task = Regression()
    grams = (task.x.mT @ task.x / 30).double()
    off = 1 - torch.eye(6)
    grams = grams * (1 - 0.3 * off)
    _, experts = task.parents().read("0.weight")
    right = sum(g @ e.double().T for g, e in zip(grams, experts, strict=True))
    expected = torch.linalg.solve(grams.sum(0), right).T.float()
    torch.testing.assert_close(merged(task, alpha=0.7)["0.weight"], expected, rtol=1e-3, atol=1e-5)


def test_corners_are_the_experts():
    task = Regression()
    pareto_set = fit(task, preferences="corners")
    _, experts = task.parents().read("0.weight")
    for corner, expert in zip(np.eye(2), experts, strict=True):
        torch.testing.assert_close(dict(pareto_set.state(corner))["0.weight"], expert)


# ---------------------------------------------------------------------- singular systems


def rule(gram, alpha=1.0):
    base, *experts = torch.randn(3, 2, len(gram), generator=torch.Generator().manual_seed(2))
    weights = np.array([1.0, 1.0])
    found = GramWeighted(alpha).merge(
        "w", base, experts, weights, 1.0, {"w": gram.expand(2, -1, -1)}
    )
    return found, (experts[0] + experts[1]) / 2


def test_an_input_that_never_occurs_keeps_the_average():
    gram = torch.diag(torch.tensor([1.0, 0.0, 2.0]))
    found, average = rule(gram)
    torch.testing.assert_close(found, average)


@pytest.mark.parametrize("kind", ["zero", "rank one", "not quite semi-definite"])
def test_singular_sums_give_finite_weights(kind):
    v = torch.tensor([1.0, 2.0, 3.0])
    gram = {"zero": torch.zeros(3, 3), "rank one": torch.outer(v, v)}.get(kind)
    if gram is None:  # as rounding may leave it
        gram = torch.outer(v, v) - 1e-4 * torch.eye(3)
    found, average = rule(gram)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found, average, rtol=1e-3, atol=1e-3)  # equal G: it is the average


# ---------------------------------------------------------------------- convolutions and the rest


@pytest.mark.parametrize(
    "conv",
    [
        {},
        {"padding": 1},
        {"padding": (2, 1), "stride": 2, "dilation": (1, 2)},
        {"padding": "same", "kernel_size": (3, 5)},
        {"padding": 1, "padding_mode": "reflect"},
    ],
)
def test_patches_times_the_flattened_kernel_are_the_convolution(conv):
    task = Images(**conv)
    convolution = task.network()[0]
    rows = layer_inputs(convolution, task.x[0])
    out = convolution(task.x[0])
    by_rows = rows @ convolution.weight.flatten(1).T + convolution.bias
    torch.testing.assert_close(by_rows, out.permute(0, 2, 3, 1).flatten(0, 2), rtol=1e-4, atol=1e-5)


def test_convolutions_are_merged_like_the_linear_layers_they_are_or_averaged():
    task = Images(padding=1)
    _, experts = task.parents().read("0.weight")
    average = (experts[0] + experts[1]) / 2
    torch.testing.assert_close(merged(task, convolutions="average")["0.weight"], average)
    found = merged(task, alpha=1.0, ridge=1e-12)["0.weight"]
    x = [layer_inputs(nn.Conv2d(4, 4, 3, padding=1), part) for part in task.x]
    y = [a @ e.flatten(1).T for a, e in zip(x, experts, strict=True)]
    joint = torch.linalg.lstsq(torch.cat(x).double(), torch.cat(y).double()).solution.T
    torch.testing.assert_close(found.flatten(1), joint.float(), rtol=1e-3, atol=1e-5)
    for key in ("0.bias", "4.bias"):
        _, biases = task.parents().read(key)
        torch.testing.assert_close(merged(task)[key], (biases[0] + biases[1]) / 2)


def test_a_grouped_convolution_is_averaged():
    task = Images(groups=2)
    _, experts = task.parents().read("0.weight")
    torch.testing.assert_close(merged(task)["0.weight"], (experts[0] + experts[1]) / 2)


def test_samples_bound_what_is_looked_at():
    task = Regression()
    method = RegMean(points=3, samples=3, batch_size=2)
    runner = Runner(progress="none")
    with runner.one_shot():
        found = method.collect(task, runner)["0.weight"]
    assert runner.cost["forward_passes"] == 2 * 2
    spread = task.x[:, [0, 14, 29]]  # first, middle, last
    torch.testing.assert_close(found, spread.mT @ spread / 3)


def test_a_set_that_was_saved_merges_any_preference_without_data(tmp_path):
    task = Images(padding=1)
    before = fit(task, preferences="grid")
    before.save(tmp_path)
    without = Images(padding=1)
    without.load = None
    after = pareto_sets.load(tmp_path, without)
    for (key, a), (_, b) in zip(before.state([0.3, 0.7]), after.state([0.3, 0.7]), strict=True):
        assert torch.equal(a, b), key


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"alpha": 1.5}, r"method.alpha=1.5 must lie between 0 and 1"),
        ({"ridge": 0}, r"method.ridge=0 must be more than 0"),
        ({"convolutions": "gramm"}, r"method.convolutions=gramm is unknown.*'gram'"),
        ({"samples": 0}, r"method.samples=0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        RegMean(points=3, **settings)
