"""Experts of MNIST-format images: the files, and who gets which images."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from frontrunner import config
from frontrunner.errors import ConfigError, DataError
from frontrunner.run import build_task, run

TINY = ("task.base_steps=2", "task.expert_steps=2", "method=merging/average")


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRONTRUNNER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _no_data_root(monkeypatch):
    monkeypatch.delenv("FRONTRUNNER_DATA", raising=False)


def write(folder, prefix, first, count, side=12):
    """``count`` noisy images; the first pixel is the image's number, its label that modulo 10."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(first)
    ids = np.arange(first, first + count, dtype=np.uint8)
    images = rng.integers(0, 255, (count, side, side), dtype=np.uint8)
    images[:, 0, 0] = ids
    for name, data in (("images-idx3", images), ("labels-idx1", ids % 10)):
        shape = struct.pack(f">{data.ndim}I", *data.shape)
        header = struct.pack(">BBBB", 0, 0, 8, data.ndim) + shape
        path = folder / f"{prefix}-{name}-ubyte.gz"
        path.write_bytes(gzip.compress(header + data.astype(np.uint8).tobytes()))


def build(folder, *words):
    return build_task(config.compose(["task=merge_mnist", f"task.source={folder}", *TINY, *words]))


def ids_of(task):
    images, labels, parts = task.images()
    numbers = (images[:, 0, 0, 0] * 255).round().long()
    assert torch.equal(numbers % 10, labels)
    return {part: set(numbers[rows].tolist()) for part, rows in parts.items()}


def test_one_pair_of_files_is_shared_out_four_ways(tmp_path):
    write(tmp_path, "t10k", 0, 200)
    ids = ids_of(build(tmp_path))
    assert {part: len(i) for part, i in ids.items()} == {
        "experts": 80,
        "train": 40,
        "validation": 20,
        "test": 60,
    }
    assert set.union(*ids.values()) == set(range(200))


def test_with_train_files_the_test_files_are_the_test_split(tmp_path):
    write(tmp_path, "train", 0, 100)
    write(tmp_path, "t10k", 100, 50)
    ids = ids_of(build(tmp_path))
    assert [len(ids[part]) for part in ("experts", "train", "validation")] == [60, 30, 10]
    assert ids["test"] == set(range(100, 150))
    assert set.union(*ids.values()) == set(range(150))


def test_a_limit_keeps_so_many_images_of_each_part(tmp_path):
    write(tmp_path, "t10k", 0, 200)
    ids = ids_of(build(tmp_path, "task.limit=30"))
    assert {part: len(i) for part, i in ids.items()} == {
        "experts": 30,
        "train": 30,
        "validation": 20,
        "test": 30,
    }


@pytest.mark.parametrize("conflict", ["orientation", "relabel", "classes"])
@pytest.mark.parametrize("heads", ["shared", "separate"])
def test_experts_are_trained_merged_and_evaluated(tmp_path, work, quiet, conflict, heads):
    write(tmp_path / "data", "t10k", 0, 200)
    words = [f"task.source={tmp_path}/data", f"task.conflict={conflict}", f"task.heads={heads}"]
    done = run(["task=merge_mnist", *TINY, *words, "evaluator=accuracy", *quiet])
    assert done.front.values.shape == (1, 3)
    assert done.task.input_shape == (1, 12, 12)


def test_missing_files_wrong_shapes_and_too_few_images_are_named(tmp_path):
    with pytest.raises(DataError, match="has no IDX files"):
        build(tmp_path).check()
    with pytest.raises(DataError, match="neither a folder nor a known data set"):
        build(tmp_path / "nowhere").check()
    write(tmp_path, "t10k", 0, 3)
    with pytest.raises(DataError, match="3 images leave none for validation"):
        build(tmp_path).check()
    write(tmp_path, "train", 0, 30, side=10)
    with pytest.raises(DataError, match=r"test images have shape \(12, 12\)"):
        build(tmp_path).check()
    with pytest.raises(ConfigError, match=r"task\.limit=0"):
        build(tmp_path, "task.limit=0")


REAL = os.environ.get("FRONTRUNNER_DATA", "")


@pytest.mark.skipif(
    not (Path(REAL) / "mnist").is_dir() or not REAL,
    reason="FRONTRUNNER_DATA names no folder with mnist/",
)
def test_experts_for_real_digits_beat_their_average_on_their_own_orientation(monkeypatch):
    monkeypatch.setenv("FRONTRUNNER_DATA", REAL)
    words = ["task.experts=2", "task.limit=2000", "task.base_steps=60", "task.expert_steps=100"]
    task = build("mnist", *words)
    network, experts = task.network().eval(), task.parents().experts
    for k, expert in enumerate(experts):
        network.load_state_dict(expert.tensors)
        accuracies = task.measure(network, "test", what="accuracies")
        assert accuracies[k] > 0.85
        assert accuracies[k] > accuracies[1 - k] + 0.1
