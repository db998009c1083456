"""What coreset methods minimise, and how a training that failed is told from one that did not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import frontrunner
from frontrunner import config as configuration
from frontrunner import run as runs
from frontrunner.coresets.coreset import Coreset
from frontrunner.coresets.select import Random
from frontrunner.coresets.trigger import Trigger
from frontrunner.errors import ConfigError
from frontrunner.methods.coresets.base import (
    CoresetLearner,
    collapsed,
    constant_losses,
    sample_losses,
)
from frontrunner.methods.learning.training import Training
from frontrunner.models.networks import MLP
from frontrunner.tasks.base import Model, Task, rows, tensor_splits
from frontrunner.tasks.images import Images
from frontrunner.tasks.multi_digits import MultiDigits


def small(**shapes):
    return MLP(**shapes, hidden=[8])


@pytest.fixture
def digits_task() -> Images:
    return Images(train=60, validation=90, test=50, imbalance=0.2, model=Model(small))


@pytest.fixture
def two_task() -> MultiDigits:
    return MultiDigits(sizes=(60, 50, 40), model=Model(small))


# ---------------------------------------------------------------------- losses of samples


@pytest.mark.parametrize("kind", ["digits_task", "two_task"])
def test_losses_of_samples_are_those_of_batches_of_one(kind, request):
    task = request.getfixturevalue(kind)
    torch.manual_seed(0)
    network, batch = task.network(), rows(task.data("train"), range(20))
    outputs = network(batch[0])
    each = sample_losses(task, outputs, batch)
    assert each.shape == (20, task.m)
    for i in range(20):
        alone = tuple(t[i : i + 1] for t in batch)
        torch.testing.assert_close(each[i], task.losses(network(alone[0]), alone))
    torch.testing.assert_close(each.mean(0), task.losses(outputs, batch))


def learner(task: Task, weighting: str) -> CoresetLearner:
    preference = [1.0] if task.m == 1 else [0.3, 0.7]
    return CoresetLearner(task, preference, Training(steps=1, batch_size=8), 0, weighting)


def gradient(made: CoresetLearner, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    made.zero_grad()
    made.update(batch, 0).loss.backward()
    return nn.utils.parameters_to_vector([p.grad for p in made.network.parameters()])


@pytest.mark.parametrize("kind", ["digits_task", "two_task"])
def test_equal_weights_change_nothing(kind, request):
    task = request.getfixturevalue(kind)
    batch = rows(task.data("train"), range(20))
    plain = gradient(learner(task, "sampling"), batch)
    weighted = gradient(learner(task, "loss"), (*batch, torch.ones(20)))
    torch.testing.assert_close(weighted, plain, rtol=1e-4, atol=1e-6)


def test_the_preference_weighs_the_objectives(two_task):
    batch = rows(two_task.data("train"), range(20))
    made = learner(two_task, "sampling")
    left, right = two_task.losses(made.network(batch[0]), batch)
    torch.testing.assert_close(made.update(batch, 0).loss, 0.3 * left + 0.7 * right)


def test_weights_by_loss_and_by_sampling_agree_in_expectation():
    """An epoch's mean gradient by loss is Σ w_i g_i / k; by sampling it is that on average."""
    size, budget = 60, 0.5
    task = Images(train=size, validation=9, test=50, model=Model(small))
    stream = torch.Generator().manual_seed(3)

    def coreset(weighting: str, seed: int) -> Coreset:
        made = Coreset(Random(), Trigger("never"), budget, 10, seed, weighting=weighting)
        made.size, made.indices = size, torch.randperm(size, generator=stream)[:30]
        weights = torch.rand(30, generator=stream) ** 3
        made.weights = weights / weights.mean()
        return made

    by_loss = coreset("loss", 0)
    indices, weights = by_loss.order(0)
    expected = gradient(
        learner(task, "loss"), (*rows(task.data("train"), indices.tolist()), weights)
    )
    one = learner(task, "sampling")
    found = []
    for epoch in range(400):
        drawn = coreset("sampling", 1)
        drawn.indices, drawn.weights = by_loss.indices, by_loss.weights
        chosen, even = drawn.order(epoch)
        assert even.eq(1).all()
        found.append(gradient(one, rows(task.data("train"), chosen.tolist())))
    mean, deviation = torch.stack(found).mean(0), torch.stack(found).std(0) / 20
    # Unbiased: within four standard errors almost everywhere, and not where weights are left out.
    assert ((mean - expected).abs() <= 4 * deviation + 1e-6).float().mean() > 0.99
    unweighted = gradient(one, rows(task.data("train"), by_loss.indices.tolist()))
    assert (mean - expected).norm() < 0.2 * (unweighted - expected).norm()


# ---------------------------------------------------------------------- collapse


def entropy(labels: torch.Tensor) -> float:
    shares = torch.bincount(labels).double() / len(labels)
    shares = shares[shares > 0]
    return float(-(shares * shares.log()).sum())


def test_the_best_constant_answer_has_the_entropy_of_the_classes(digits_task, two_task):
    for task in (digits_task, two_task):
        batch = rows(task.data("validation"), range(len(task.data("validation"))))
        expected = [entropy(labels) for labels in batch[1:]]
        np.testing.assert_allclose(constant_losses(task), expected, atol=2e-3)


class Answers(nn.Module):
    """Answers the label that is written in the inputs, as confidently as told, for some samples."""

    def __init__(self, share: float, logit: float) -> None:
        super().__init__()
        self.share, self.logit = share, logit

    def forward(self, inputs):
        labels = inputs[:, 0].long()
        known = torch.arange(len(inputs)) < self.share * len(inputs)
        answer = torch.where(known, labels, (labels + 1) % 10)
        return (self.logit * nn.functional.one_hot(answer, 10).float(),)


class Written(Images):
    """Ten classes, whose label is the input."""

    input_shape = (1,)
    output_sizes = (10,)

    def load(self):
        labels = torch.arange(100) % 10
        part = (labels.float()[:, None], labels)
        return tensor_splits({"train": part, "validation": part, "test": part})


@pytest.mark.parametrize(
    ("share", "logit", "failed"),
    [
        (0.1, 0.0, True),  # the same answer for all
        (0.1, 30.0, True),  # confident, and right as often as by chance
        (
            0.5,
            30.0,
            False,
        ),  # confident and wrong in half of the cases: learned by heart, not failed
        (0.9, 3.0, False),
    ],
)
def test_a_failed_training_is_no_better_than_a_constant_answer(share, logit, failed):
    task = Written(model=Model(small))
    network = Answers(share, logit)
    assert collapsed(task, network, [1.0]) is failed
    if share == 0.5:
        assert task.measure(network, "validation") > constant_losses(task)


def test_only_objectives_that_were_trained_for_can_fail(two_task):
    network = two_task.network()
    batch = rows(two_task.data("validation"), range(50))

    def left_only(_inputs):
        return 9.0 * nn.functional.one_hot(batch[1], 10).float(), torch.zeros(50, 10)

    assert collapsed(two_task, network, [0.5, 0.5])
    assert not collapsed(two_task, left_only, [1.0, 0.0])
    assert collapsed(two_task, left_only, [0.0, 1.0])


def test_runs_that_collapse_say_so(digits, tmp_path):
    def budgets(*more: str) -> list[float]:
        run = frontrunner.run(digits("random", f"output={tmp_path}", *more))
        return run.front.info["collapsed"]

    absurd = "training.learning_rate=5"
    assert budgets("method.budget=[0.2,0.5]", absurd) == [0.2, 0.5]
    assert budgets("method.budget=0.2", "training.learning_rate=1e-9") == [0.2]
    assert budgets("method.budget=0.5", "training.steps=300") == []
    # Twelve samples learned by heart: a loss far above a constant answer's, and 60 % right.
    assert budgets("method.budget=0.04", "training.steps=900") == []


def test_compare_names_collapsed_runs(digits, tmp_path):
    from frontrunner.front.collect import collect
    from frontrunner.front.compare import compare

    run = frontrunner.run(digits("random", f"output={tmp_path}", "training.learning_rate=30"))
    (said,) = [w for w in compare(collect([run.directory])).warnings if "collapsed" in w]
    assert "'random-never'" in said
    assert "seed 0 at budget 0.1" in said


# ---------------------------------------------------------------------- what is refused at check


class NotAMean(MultiDigits):
    def losses(self, outputs, batch):
        left, right = super().losses(outputs, batch)
        return torch.stack([left, right.square()])


@pytest.mark.parametrize("weighting", ["loss", "sampling"])
def test_weights_on_the_loss_need_objectives_that_are_means(weighting):
    from frontrunner.methods.coresets.random import Random as RandomMethod

    task = NotAMean(sizes=(60, 50, 40), model=Model(small))
    method = RandomMethod(
        training=Training(steps=9, batch_size=8), seed=0, points=3, weighting=weighting
    )
    if weighting == "sampling":
        method.check(task)
        return
    with pytest.raises(ConfigError, match=r"not a mean over samples.*method.weighting=sampling"):
        method.check(task)


def check(words: list[str]) -> None:
    runs.check(configuration.compose(words))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method.budget=0", r"method\.budget=0 must be above 0 and at most 1"),
        ("method.budget=1.5", r"method\.budget=1\.5 must be"),
        ("method.budget=[0.1,0.1]", r"method\.budget=\[0\.1, 0\.1\] must be .*different"),
        ("method.budget=[0.1,0.1000001]", r"method\.budget=.*different"),
        ("method.budget=[]", r"method\.budget=\[\] must be one or more"),
        ("method.budget=much", r"method\.budget=much must be"),
        ("method.budget=[0.1,much]", r"method\.budget=much must be"),
        ("method.budget=null", r"method\.budget=None must be"),
        ("method.budget=true", r"method\.budget=True must be"),
        ("method.budget=0.01", r"method\.budget=0\.01 of 300 samples is 3, fewer than the 10"),
        ("method.budget=[0.5,0.02]", r"method\.budget=0\.02 .* at least 0\.0333"),
        ("method.trigger=sometimes", r"method\.trigger=sometimes is unknown; valid"),
        ("method.trigger=random", r"method\.count"),
        ("method.threshold=high", r"method\.threshold=high"),
        ("method.every=0", r"method\.every=0"),
        ("method.variant=per_clas", r"method\.variant=per_clas.*'per_class'"),
        ("method.snr=norm", r"method\.snr=norm.*'norms'"),
        ("method.snr_samples=1", r"method\.snr_samples=1"),
        ("method.target=sum", r"method\.target=sum"),
        ("method.weighting=none", r"method\.weighting=none"),
        ("method.warm=1", r"method\.warm=1"),
        ("method.ridge=-1", r"method\.ridge=-1"),
        ("method.tolerance=x", r"method\.tolerance=x"),
        ("evaluator.cost=money", r"evaluator\.cost=money.*seconds, share"),
        ("evaluator.what=mistakes", r"evaluator\.what=mistakes.*errors, losses"),
        ("evaluator.batch_size=0", r"evaluator\.batch_size=0"),
        ("evaluator.reference_point=[1]", "needs 2 finite numbers"),
        ("evaluator=objectives", "has one objective, and a front needs two: use .*cost_quality"),
        ("evaluator=accuracy", "has one objective"),
        ("task.imbalance=0", r"task\.imbalance=0"),
        ("training.optimizer=lion", r"training\.optimizer=lion"),
    ],
)
def test_check_refuses_with_the_key_named(override, message, digits, work):
    with pytest.raises(ConfigError, match=message):
        check(digits("eracs", override))
    assert list(work.iterdir()) == []


def test_combinations_of_labels_are_classes(two_digits):
    message = r"20, fewer than the \d\d classes \(combinations of labels\);.*joint"
    with pytest.raises(ConfigError, match=message):
        check(two_digits("eracs", "method.budget=0.1"))
    check(two_digits("eracs", "method.budget=0.1", "method.variant=joint"))


@pytest.mark.parametrize("key", ["parts", "rate"])
def test_check_refuses_glisters_settings(key, digits):
    with pytest.raises(ConfigError, match=rf"method\.{key}=0"):
        check(digits("glister", f"method.{key}=0"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["task=digits_full", "method=learning/cosmos"], "one objective.*coresets"),
        (["task=digits_full", "method=learning/gmooar"], "one objective.*coresets"),
        (["task=digits_full", "method=learning/linear_scalarization"], "one objective"),
        (["task=digits_full", "method=merging/ties"], "no models to merge"),
        (["task=digits_full", "method=pruning/alps"], "no model to prune"),
        (["task=merge_digits", "method=coresets/eracs"], "'merge_digits' is not one that coresets"),
        (["task=synthetic", "method=coresets/eracs"], "'dtlz2' has no data to choose"),
        (["task=text_domains", "method=coresets/eracs"], "goes without training"),
        (
            ["task=multi_digits", "method=learning/cosmos", "evaluator=cost_quality"],
            "evaluator=cost_quality is for methods whose models differ in cost",
        ),
        (["task=multi_digits", "method=coresets/random", "points=1"], "."),
    ],
)
def test_what_does_not_go_together_is_refused_at_check(words, message, quiet, work):
    from frontrunner.errors import FrontrunnerError

    with pytest.raises(FrontrunnerError, match=message):
        check([*words, *quiet])
    assert list(work.iterdir()) == []


@pytest.mark.parametrize("method", ["full", "random", "glister"])
def test_methods_without_classes_take_any_budget(method, digits, work):
    check(digits(method, *([] if method == "full" else ["method.budget=0.01"])))
