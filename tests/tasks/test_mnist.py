"""Multi-MNIST: the IDX format, the construction, and splits that share no image."""

from __future__ import annotations

import gzip
import os
import struct
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from frontrunner.errors import ConfigError, DataError
from frontrunner.tasks.mnist import MultiMNIST
from frontrunner.tasks.overlay import Overlays, overlay, read_idx


@pytest.fixture(autouse=True)
def no_data_root(monkeypatch):
    monkeypatch.delenv("FRONTRUNNER_DATA", raising=False)


def idx(array):
    """An array of bytes in the IDX format, written out from the format's description."""
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(
        f">{array.ndim}I", *array.shape
    )
    return header + array.astype(np.uint8).tobytes()


def write_pair(folder, prefix, first_id, count, zipped=True):
    """``count`` images of 28 x 28 whose every pixel is the image's id, and labels id modulo 10."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = np.arange(first_id, first_id + count)
    images = np.broadcast_to(ids[:, None, None], (count, 28, 28))
    for name, data in (("images-idx3", images), ("labels-idx1", ids % 10)):
        path = folder / f"{prefix}-{name}-ubyte{'.gz' if zipped else ''}"
        path.write_bytes(gzip.compress(idx(data)) if zipped else idx(data))


def ids_of(task, split):
    """Image ids on the left and right of a split, read from two opposite corner pixels."""
    x, left, right = task.data(split)[list(range(len(task.data(split))))]
    a = (x[:, 0, 0, 0] * 255).round().long()
    b = (x[:, 0, -1, -1] * 255).round().long()
    assert torch.equal(a % 10, left)
    assert torch.equal(b % 10, right)
    return set(a.tolist()), set(b.tolist())


def test_overlay_puts_one_image_in_each_corner_and_takes_the_larger_pixel():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 256, (2, 5, 28, 28), dtype=np.uint8)
    canvas = overlay(first, second, 36)
    for k in range(5):
        for row, column in rng.integers(0, 36, (200, 2)):
            a = first[k, row, column] if row < 28 and column < 28 else 0
            b = second[k, row - 8, column - 8] if row >= 8 and column >= 8 else 0
            assert canvas[k, row, column] == max(a, b)


@pytest.mark.parametrize("zipped", [True, False])
def test_one_pair_of_files_is_shared_out_without_overlap(tmp_path, zipped):
    write_pair(tmp_path, "t10k", 1, 200, zipped)
    task = MultiMNIST(tmp_path, train_size=300, validation_size=60, test_size=100)
    seen = {split: set.union(*ids_of(task, split)) for split in ("train", "validation", "test")}
    assert [len(seen[s]) for s in ("train", "validation", "test")] == [140, 20, 40]
    assert set.union(*seen.values()) == set(range(1, 201))  # 140 + 20 + 40: so no id is shared


def test_four_files_keep_the_test_images_for_the_test_split(tmp_path):
    write_pair(tmp_path, "train", 1, 100)
    write_pair(tmp_path, "t10k", 101, 50)
    task = MultiMNIST(tmp_path, train_size=200, validation_size=40, test_size=80)
    train, validation, test = (set.union(*ids_of(task, s)) for s in ("train", "validation", "test"))
    assert len(train) == 90
    assert len(validation) == 10
    assert train | validation == set(range(1, 101))
    assert test == set(range(101, 151))


def test_a_mixture_takes_the_left_from_the_first_source_and_the_right_from_the_second(tmp_path):
    write_pair(tmp_path / "a", "t10k", 1, 100)
    write_pair(tmp_path / "b", "t10k", 101, 100)
    task = MultiMNIST(tmp_path / "a", tmp_path / "b", 200, 50, 50)
    for split in ("train", "validation", "test"):
        left, right = ids_of(task, split)
        assert max(left) <= 100 < min(right)


def test_same_split_seed_same_data_and_another_seed_another(tmp_path):
    write_pair(tmp_path, "t10k", 1, 100)

    def images(seed):
        return MultiMNIST(tmp_path, None, 50, 5, 10, split_seed=seed).data("train").images

    assert torch.equal(images(3), images(3))
    assert not torch.equal(images(3), images(4))


def test_a_batch_is_float_in_the_unit_interval_and_images_are_kept_as_bytes():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 36, 36), dtype=np.uint8)
    images[2, 0, 0], images[2, 0, 1] = 0, 255
    data = Overlays(images, np.arange(6), np.arange(6)[::-1].copy())
    x, left, right = data[[2, 5]]
    assert data.images.dtype == torch.uint8
    assert x.shape == (2, 1, 36, 36)
    assert x.dtype == torch.float32
    assert x[0, 0, 0, 0] == 0.0
    assert x[0, 0, 0, 1] == 1.0
    assert x.max() <= 1.0
    assert left.tolist() == [2, 5]
    assert right.tolist() == [3, 0]
    assert data[2][0].shape == (1, 36, 36)
    assert torch.equal(data[2][0], x[0])


def test_losses_are_the_two_cross_entropies_and_accuracies_the_two_shares(tmp_path):
    write_pair(tmp_path, "t10k", 1, 50)
    task = MultiMNIST(tmp_path, None, 20, 5, 10)
    batch = task.data("train")[list(range(20))]
    z = torch.randn(2, 20, 10, generator=torch.Generator().manual_seed(0))
    losses = task.losses((z[0], z[1]), batch)
    torch.testing.assert_close(losses[0], cross_entropy(z[0], batch[1]))
    torch.testing.assert_close(losses[1], cross_entropy(z[1], batch[2]))
    right = torch.nn.functional.one_hot(batch[2], 10).float()
    wrong = 1.0 - torch.nn.functional.one_hot(batch[1], 10)
    assert task.accuracies((wrong, right), batch).tolist() == [0.0, 1.0]
    models = torch.func.vmap(lambda a, b: task.losses((a, b), batch))(z, z.flip(0))
    torch.testing.assert_close(models[0], task.losses((z[0], z[1]), batch))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x00\x00\x08", "not an IDX file"),
        (b"PK\x03\x04whatever", "begins with 504b0304"),
        (struct.pack(">BBBBI", 0, 0, 0x0D, 1, 1) + b"\x00" * 4, "type 0x0d"),
        (struct.pack(">BBBB", 0, 0, 8, 3) + b"\x00" * 6, "cut short"),
        (idx(np.zeros((3, 4)))[:-1], "11 bytes of data"),
        (idx(np.zeros((3, 4))) + b"\x00", "13 bytes of data"),
        (gzip.compress(idx(np.arange(200)), mtime=0)[:-12], "cut short"),
        (gzip.compress(idx(np.arange(200)), mtime=0)[:20] + b"\xff" * 40, "damaged"),
    ],
)
def test_damaged_files_are_named(tmp_path, data, message):
    path = tmp_path / "t10k-images-idx3-ubyte"
    path.write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


def test_missing_and_mismatched_files_say_what_is_wrong(tmp_path):
    with pytest.raises(DataError, match="neither a folder nor a known data set"):
        MultiMNIST(tmp_path / "nowhere").check()
    with pytest.raises(DataError, match="did you mean 'fashion_mnist'"):
        MultiMNIST("fashion_mnits").check()
    with pytest.raises(DataError, match="no IDX files"):
        MultiMNIST(tmp_path).check()
    write_pair(tmp_path, "t10k", 1, 100)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.arange(9))))
    with pytest.raises(DataError, match="shape \\(9,\\) for 100 images"):
        MultiMNIST(tmp_path).check()
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match="has no t10k-labels-idx1-ubyte"):
        MultiMNIST(tmp_path).check()
    with pytest.raises(ConfigError, match="train_size must be at least 1"):
        MultiMNIST(tmp_path, train_size=0)
    write_pair(tmp_path, "t10k", 1, 100)
    with pytest.raises(ConfigError, match="size=20 is below the 28 pixels"):
        MultiMNIST(tmp_path, None, 10, 10, 10, size=20).check()


def test_names_are_found_under_the_data_root_before_the_hub(tmp_path, monkeypatch):
    write_pair(tmp_path / "fashion_mnist", "t10k", 1, 50)
    monkeypatch.setenv("FRONTRUNNER_DATA", str(tmp_path))
    assert len(MultiMNIST("fashion_mnist", None, 30, 5, 5).data("train")) == 30


def test_the_hub_is_asked_for_its_own_id_and_its_images_are_used(monkeypatch):
    asked = []

    class Loaded(dict):
        column_names = ("image", "label")

    def load_dataset(name, split):
        asked.append((name, split))
        start = 1 if split == "train" else 101
        ids = list(range(start, start + 100))
        return Loaded(
            image=[np.full((28, 28), i, np.uint8) for i in ids], label=[i % 10 for i in ids]
        )

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    task = MultiMNIST("mnist", None, 200, 40, 100)
    assert set.union(*ids_of(task, "test")) == set(range(101, 201))
    assert asked == [("ylecun/mnist", "train"), ("ylecun/mnist", "test")]


def test_without_files_or_the_hub_package_the_error_says_both_ways(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"FRONTRUNNER_DATA.*pip install datasets"):
        MultiMNIST().check()


REAL = os.environ.get("FRONTRUNNER_DATA", "")


@pytest.mark.skipif(
    not (Path(REAL) / "mnist").is_dir() or not REAL,
    reason="FRONTRUNNER_DATA names no folder with mnist/",
)
def test_real_digits_are_read_and_composed(monkeypatch):
    monkeypatch.setenv("FRONTRUNNER_DATA", REAL)
    task = MultiMNIST(train_size=2000, validation_size=200, test_size=200)
    x, left, right = task.data("train")[list(range(2000))]
    # MNIST's own statistics: mean 0.13 of 28 x 28, and ten classes of about equal size.
    one_image = 0.1307 * 28 * 28 / 36**2
    assert one_image < x.mean() < 2 * one_image
    assert torch.bincount(left, minlength=10).min() > 140
    assert (left == right).float().mean() < 0.2
