"""One objective for each class: losses, balanced accuracies, and what is refused."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from frontrunner.errors import ConfigError
from frontrunner.models.networks import MLP
from frontrunner.tasks.base import Model
from frontrunner.tasks.one_vs_rest import OneVsRest


def task(**settings):
    model = Model(partial(MLP, hidden=[8]))
    return OneVsRest(train=300, validation=50, test=100, model=model, **settings)


def test_each_class_is_an_objective_with_a_head():
    ten = task()
    assert ten.m == 10
    assert ten.output_sizes == (1,) * 10
    assert ten.reference_point == (0.5,) * 10
    assert [o.name for o in ten.objectives][:2] == ["class_0", "class_1"]


def test_losses_are_binary_cross_entropies_class_by_class():
    ten = task()
    x, y = ten.data("train")[list(range(64))]
    outputs = ten.network()(x)
    expected = [
        binary_cross_entropy_with_logits(z[:, 0], (y == c).float()) for c, z in enumerate(outputs)
    ]
    torch.testing.assert_close(ten.losses(outputs, (x, y)), torch.stack(expected))


def test_accuracies_weigh_a_class_and_the_others_alike():
    two = task(classes=2)
    y = torch.tensor([0, 0, 1, 5])
    outputs = (torch.tensor([[1.0], [-1.0], [-1.0], [1.0]]), -torch.ones(4, 1))
    found = two.accuracies(outputs, (torch.zeros(4), y))
    torch.testing.assert_close(found, torch.tensor([0.5 * (1 / 2 + 1 / 2), 0.5 * (0 + 1)]))


def test_label_noise_counts_all_classes():
    noisy = task(classes=2, label_noise=0.5).data("train")[:][1]
    assert noisy.max() > 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": 1}, r"task\.classes=1"),
        ({"classes": 11}, r"task\.classes=11"),
        ({"classes": 3, "reference_point": [0.5, 0.5]}, r"reference_point has 2 entries for 3"),
    ],
)
def test_what_does_not_fit_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        task(**settings)
