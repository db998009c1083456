"""Multi-digits: splits that share no image, labels that belong to it, and refused settings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from frontrunner.errors import ConfigError
from frontrunner.tasks.multi_digits import MultiDigits

SPLITS = ("train", "validation", "test")


def arrays(task, split):
    return [t.numpy() for t in task.data(split).tensors]


def digits_in(task):
    """For every split, the ids of the scikit-learn digits on its left halves, without noise."""
    images, labels = load_digits(return_X_y=True)
    known = {(images[i] / 16.0).round(4).tobytes(): i for i in range(len(images))}
    raw = [arrays(task, split) for split in SPLITS]
    # Undo the standardisation: blank pixels and full pixels are 0 and 1.
    low, high = raw[0][0].min(), raw[0][0].max()
    found = []
    for x, left, right in raw:
        pixels = ((x[:, 0] - low) / (high - low) * 16).round() / 16
        halves = [pixels[:, :, half].reshape(-1, 64) for half in (slice(0, 8), slice(8, 16))]
        ids = [
            [known[side.astype(np.float64).round(4).tobytes()] for side in half] for half in halves
        ]
        assert (labels[ids[0]] == left).all()
        assert (labels[ids[1]] == right).all()
        found.append(set(ids[0]) | set(ids[1]))
    return found


def test_labels_are_of_the_images_shown_and_no_image_is_in_two_splits():
    train, validation, test = digits_in(MultiDigits(sizes=(500, 300, 300), shift=8, noise=0.0))
    assert not train & validation
    assert not train & test
    assert not validation & test
    assert len(train) > 200


@pytest.mark.parametrize("shift", [0, 4, 8])
def test_shapes_and_standardisation_by_the_training_split(shift):
    task = MultiDigits(sizes=(600, 70, 80), shift=shift)
    for split, size in zip(SPLITS, task.sizes, strict=True):
        x, left, right = arrays(task, split)
        assert x.shape == (size, *task.input_shape) == (size, 1, 8, 8 + shift)
        assert set(np.unique([left, right])) <= set(range(10))
    x = arrays(task, "train")[0]
    assert x.mean() == pytest.approx(0.0, abs=1e-4)
    assert x.std() == pytest.approx(1.0, abs=1e-3)


def test_the_split_seed_decides_the_data_and_nothing_else_does():
    torch.manual_seed(0)
    first = MultiDigits(sizes=(50, 20, 20))
    np.random.seed(5)
    torch.manual_seed(1)
    second = MultiDigits(sizes=(50, 20, 20))
    other = MultiDigits(sizes=(50, 20, 20), split_seed=1)
    for split in SPLITS:
        for a, b in zip(arrays(first, split), arrays(second, split), strict=True):
            np.testing.assert_array_equal(a, b)
        assert not np.array_equal(arrays(first, split)[0], arrays(other, split)[0])


def test_both_digits_can_be_learned_where_they_do_not_overlap():
    task = MultiDigits(sizes=(1500, 50, 300), shift=8, noise=0.05)
    (x, *labels), (held_out, *truth) = arrays(task, "train"), arrays(task, "test")
    for half, y, z in zip((slice(0, 8), slice(8, 16)), labels, truth, strict=True):
        classifier = KNeighborsClassifier(1).fit(x[:, 0, :, half].reshape(len(x), -1), y)
        assert classifier.score(held_out[:, 0, :, half].reshape(len(z), -1), z) > 0.9


def test_losses_are_cross_entropies_and_accuracies_shares():
    task = MultiDigits(sizes=(20, 10, 10))
    x, left, right = task.data("train")[list(range(20))]
    stream = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 20, 10, generator=stream)
    found = task.losses(tuple(logits), (x, left, right))
    for value, z, y in zip(found, logits, (left, right), strict=True):
        expected = (z.exp().sum(1).log() - z[torch.arange(20), y]).mean()
        torch.testing.assert_close(value, expected)
    exact = [torch.nn.functional.one_hot(y, 10).float() for y in (left, (right + 1) % 10)]
    assert task.accuracies(tuple(exact), (x, left, right)).tolist() == [1.0, 0.0]


def test_a_guess_costs_the_logarithm_of_ten_and_lies_within_the_reference_point():
    task = MultiDigits(sizes=(20, 10, 10))
    guess = task.measure(lambda x: (torch.zeros(len(x), 10),) * 2, "test")
    np.testing.assert_allclose(guess, np.log(10), rtol=1e-6)
    assert (guess < task.reference_point).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shift": 9}, "task.shift=9"),
        ({"shift": -1}, "task.shift=-1"),
        ({"sizes": (10, 10)}, "three numbers"),
        ({"sizes": (10, 0, 10)}, "at least 1"),
        ({"noise": -0.1}, "task.noise=-0.1"),
    ],
)
def test_settings_are_refused_by_name(options, message):
    with pytest.raises(ConfigError, match=message):
        MultiDigits(**options)
