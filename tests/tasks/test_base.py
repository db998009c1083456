"""The task's interface: splits kept apart, objectives over a whole split, models that fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from frontrunner.errors import ConfigError, DataError, SplitError
from frontrunner.front.objective import Objective
from frontrunner.models.conditioning import FiLM
from frontrunner.models.networks import MLP
from frontrunner.tasks.base import Model, Task, tensor_splits


class Spread(Task):
    """Objectives that are not means over samples: the mean, and the range, of a column."""

    name = "spread"
    objectives = (Objective("mean"), Objective("range"))
    reference_point = (1.0, 1.0)
    input_shape = (1,)
    output_sizes = (1,)
    loaded = 0

    def load(self):
        type(self).loaded += 1
        x = torch.rand(31, 1, generator=torch.Generator().manual_seed(0))
        return tensor_splits({"train": (x,), "validation": (x[:9],), "test": (2 * x,)})

    def losses(self, outputs, batch):
        y = outputs if isinstance(outputs, torch.Tensor) else outputs[0]
        return torch.stack([y.mean(), y.max() - y.min()])


def test_a_sealed_task_has_no_test_split_and_the_original_keeps_it():
    task = Spread()
    sealed = task.sealed()
    with pytest.raises(SplitError, match="before the front is frozen"):
        sealed.data("test")
    with pytest.raises(SplitError):
        sealed.sealed().data("test")
    with pytest.raises(SplitError):
        sealed.measure(lambda x: x, "test")
    assert "test" not in sealed._splits
    assert len(task.data("test")) == 31
    assert isinstance(sealed, Spread)
    assert sealed.data("train") is task.data("train")


def test_data_is_loaded_once():
    Spread.loaded = 0
    task = Spread()
    for split in ("train", "validation", "test"):
        task.data(split)
    task.sealed().data("train")
    assert Spread.loaded == 1


@pytest.mark.parametrize("batch_size", [1, 4, 31, 4096])
def test_measure_takes_objectives_of_the_whole_split_not_means_of_batches(batch_size):
    task = Spread()
    x = task.data("test").tensors[0].double().numpy()
    for wrap in (lambda y: y, lambda y: (y,)):
        found = task.measure(lambda y, w=wrap: w(3 * y), "test", batch_size=batch_size)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, [3 * x.mean(), 3 * np.ptp(x)], rtol=1e-6)


def test_measure_leaves_no_gradient():
    weight = torch.ones(1, requires_grad=True)
    Spread().measure(lambda x: x * weight, "train")
    assert weight.grad is None


def test_accuracies_of_a_task_without_classes_are_refused():
    with pytest.raises(ConfigError, match="evaluator=objectives"):
        Spread().measure(lambda x: x, "test", what="accuracies")


def test_networks_have_the_shapes_of_the_task():
    task = Spread(Model(lambda **s: MLP(**s, hidden=[3]), FiLM))
    assert task.network()(torch.zeros(5, 1))[0].shape == (5, 1)
    conditioned = task.conditioned_network()
    assert conditioned(torch.zeros(5, 1), torch.tensor([0.5, 0.5]))[0].shape == (5, 1)


def test_a_task_without_a_model_or_conditioning_says_so():
    with pytest.raises(ConfigError, match="no model"):
        Spread().network()
    with pytest.raises(ConfigError, match="no conditioning"):
        Spread(Model(MLP)).conditioned_network()


def test_an_empty_split_is_refused_by_name():
    x = torch.zeros(3, 1)
    with pytest.raises(DataError, match="validation split is empty"):
        tensor_splits({"train": (x,), "validation": (x[:0],), "test": (x,)})
    assert isinstance(tensor_splits({"train": (x,)})["train"], TensorDataset)
