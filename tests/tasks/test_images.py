"""Images with one objective: splits, scales, classes that are rare or wrong, and their files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from frontrunner.errors import ConfigError, DataError
from frontrunner.tasks import overlay
from frontrunner.tasks.images import Images

REAL = os.environ.get("FRONTRUNNER_DATA", "")
real_mnist = pytest.mark.skipif(
    not REAL or not (Path(REAL) / "mnist").is_dir(),
    reason="FRONTRUNNER_DATA names no folder with mnist/",
)


@pytest.fixture(autouse=True)
def no_data_root(monkeypatch):
    monkeypatch.delenv("FRONTRUNNER_DATA", raising=False)


def pixels(task: Images, split: str) -> torch.Tensor:
    return task.data(split).tensors[0]


def labels(task: Images, split: str) -> torch.Tensor:
    return task.data(split).tensors[1]


def sources(task: Images) -> dict[str, set[bytes]]:
    """The digits' own bytes behind each split, by undoing the scale."""
    from sklearn.datasets import load_digits

    every = load_digits(return_X_y=True)[0]
    mean, deviation = scale(task, every)
    found = {}
    for split in ("train", "validation", "test"):
        values = pixels(task, split).double() * deviation + mean
        found[split] = {x.round().to(torch.uint8).numpy().tobytes() for x in values}
    return found


def scale(task: Images, every: np.ndarray) -> tuple[float, float]:
    """Mean and deviation that were taken off, from the smallest and the largest value."""
    values = torch.cat([pixels(task, s) for s in ("train", "validation", "test")])
    low, high = float(values.min()), float(values.max())
    deviation = (every.max() - every.min()) / (high - low)
    return float(every.min()) - low * deviation, deviation


# ---------------------------------------------------------------------- splits


def test_sizes_are_those_asked_for():
    task = Images(train=100, validation=40, test=30)
    sizes = [len(task.data(s)) for s in ("train", "validation", "test")]
    assert sizes == [100, 40, 30]
    assert pixels(task, "train").shape == (100, 1, 8, 8)
    assert task.input_shape == (1, 8, 8)
    assert task.output_sizes == (10,)
    rest = Images(validation=200)
    sizes = [len(rest.data(s)) for s in ("train", "validation", "test")]
    assert sizes == [1797 - 200 - 359, 200, 359]


def test_splits_have_no_image_in_common():
    found = sources(Images())
    assert sum(len(s) for s in found.values()) == 1797
    assert not found["train"] & found["validation"]
    assert not (found["train"] | found["validation"]) & found["test"]


def test_the_split_seed_alone_decides_the_splits():
    def train(**options) -> torch.Tensor:
        return pixels(Images(train=50, **options), "train")

    torch.manual_seed(1)
    first = train()
    torch.manual_seed(2)
    np.random.seed(3)
    assert torch.equal(train(), first)
    assert not torch.equal(train(split_seed=1), first)
    # Fewer images to train on leave the others where they are.
    few, many = Images(train=20), Images(train=200)
    assert torch.equal(labels(few, "test"), labels(many, "test"))
    assert torch.equal(labels(few, "validation"), labels(many, "validation"))


def test_pixels_are_standardised_by_the_training_split_alone():
    task = Images(train=60, validation=40, test=50)
    train = pixels(task, "train").double()
    assert float(train.mean()) == pytest.approx(0, abs=1e-5)
    assert float(train.std(correction=0)) == pytest.approx(1, abs=1e-5)
    assert abs(float(pixels(task, "test").mean())) > 1e-4


def test_the_seed_of_a_run_does_not_move_the_data(quiet):
    from frontrunner import config as configuration
    from frontrunner import run as runs

    words = ["task=digits_full", "task.train=50", "method=coresets/random", *quiet]
    tasks = [runs.build_task(configuration.compose([*words, f"seed={s}"])) for s in (0, 1)]
    assert torch.equal(pixels(tasks[0], "train"), pixels(tasks[1], "train"))
    other = runs.build_task(configuration.compose([*words, "task.split_seed=1"]))
    assert not torch.equal(pixels(other, "train"), pixels(tasks[0], "train"))


# ---------------------------------------------------------------------- rare and wrong classes


@pytest.mark.parametrize("imbalance", [0.1, 0.5])
def test_classes_become_rarer_geometrically(imbalance):
    plain, rare = (
        Images(validation=97, test=300),
        Images(validation=97, test=300, imbalance=imbalance),
    )
    before = torch.bincount(labels(plain, "train"), minlength=10)
    counts = torch.bincount(labels(rare, "train"), minlength=10)
    for c in range(10):
        wanted = round(int(before.max()) * imbalance ** (c / 9))
        assert int(counts[c]) == min(wanted, int(before[c]))
    for split in ("validation", "test"):
        assert torch.equal(labels(plain, split), labels(rare, split))
    assert len(set(labels(rare, "train")[:20].tolist())) > 5  # not sorted by class


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.35])
def test_as_many_training_labels_are_wrong_as_asked_for(noise):
    plain, noisy = Images(train=400), Images(train=400, label_noise=noise)
    wrong = labels(plain, "train") != labels(noisy, "train")
    assert int(wrong.sum()) == round(400 * noise)
    assert torch.equal(pixels(plain, "train"), pixels(noisy, "train"))
    for split in ("validation", "test"):
        assert torch.equal(labels(plain, split), labels(noisy, split))
    if noise == 0.35:
        assert len(labels(noisy, "train")[wrong].unique()) == 10


# ---------------------------------------------------------------------- objectives


def test_the_objective_is_the_cross_entropy_of_one_head_or_of_plain_logits():
    task = Images(train=30, validation=20, test=20)
    batch = task.data("train")[list(range(30))]
    logits = torch.randn(30, 10, generator=torch.Generator().manual_seed(0))
    for outputs in (logits, (logits,)):
        loss = task.losses(outputs, batch)
        assert loss.shape == (1,)
        torch.testing.assert_close(loss[0], cross_entropy(logits, batch[1]))
        right = float((logits.argmax(1) == batch[1]).float().mean())
        assert task.accuracies(outputs, batch).tolist() == [pytest.approx(right)]


# ---------------------------------------------------------------------- files


def write_idx(folder: Path, part: str, images: np.ndarray, classes: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in (("images-idx3", images), ("labels-idx1", classes)):
        header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
        (folder / f"{part}-{name}-ubyte").write_bytes(header + array.astype(np.uint8).tobytes())


def drawn(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 9, 7), dtype=np.uint8), np.arange(n) % 10


def test_train_and_test_files_stay_apart(tmp_path):
    images, classes = drawn(50)
    write_idx(tmp_path, "train", images, classes)
    write_idx(tmp_path, "t10k", 255 - images[:30], (classes[:30] + 5) % 10)
    task = Images(source=tmp_path, validation=10)
    sizes = [len(task.data(s)) for s in ("train", "validation", "test")]
    assert sizes == [40, 10, 30]
    assert task.input_shape == (1, 9, 7)
    assert len(Images(source=tmp_path, validation=10, test=12).data("test")) == 12


@pytest.mark.parametrize("part", ["train", "t10k"])
def test_one_pair_of_files_is_shared_out(part, tmp_path):
    write_idx(tmp_path, part, *drawn(60))
    task = Images(source=tmp_path, validation=10, test=20)
    assert [len(task.data(s)) for s in ("train", "validation", "test")] == [30, 10, 20]
    every = torch.cat([pixels(task, s) for s in ("train", "validation", "test")])
    assert len({x.numpy().tobytes() for x in every}) == 60


@real_mnist
def test_real_digits_are_read(monkeypatch):
    monkeypatch.setenv("FRONTRUNNER_DATA", REAL)
    task = Images(source="mnist", train=500, validation=100, test=200)
    task.check()
    assert task.input_shape == (1, 28, 28)
    assert len(task.data("test")) == 200
    assert set(labels(task, "train").tolist()) == set(range(10))


@pytest.mark.parametrize(
    ("shape", "columns"),
    [((12, 12), ("image", "label")), ((10, 8, 3), ("img", "fine_label"))],
)
def test_data_sets_of_the_hub_are_grey_or_coloured(shape, columns, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="the package 'datasets' is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    image, label = columns
    features = datasets.Features(
        {image: datasets.Image(), label: datasets.ClassLabel(num_classes=20)}
    )
    folder = tmp_path / "repository" / "data"
    folder.mkdir(parents=True)
    rng, stored = np.random.default_rng(1), {}
    for part in ("train", "test"):
        stored[part] = rng.integers(0, 256, (40, *shape), dtype=np.uint8)
        content = {image: list(stored[part]), label: (np.arange(40) % 20).tolist()}
        table = datasets.Dataset.from_dict(content, features=features)
        table.to_parquet(str(folder / f"{part}-00000-of-00001.parquet"))
    monkeypatch.setitem(overlay.HUB, "cifar100", str(tmp_path / "repository"))
    monkeypatch.chdir(tmp_path)
    task = Images(source="cifar100", validation=10)
    channels = 1 if len(shape) == 2 else 3
    assert task.input_shape == (channels, *shape[:2])
    assert task.output_sizes == (20,)
    train = pixels(task, "train")
    assert train.shape == (30, channels, *shape[:2])
    for channel in range(channels):
        assert float(train[:, channel].mean()) == pytest.approx(0, abs=1e-5)
        assert float(train[:, channel].std(correction=0)) == pytest.approx(1, abs=1e-4)
    # One image, undone channel by channel, is one of those of the test files.
    order = np.random.default_rng(0)
    order.permutation(40)
    first = stored["test"][order.permutation(40)[0]]
    first = first[None] if channels == 1 else first.transpose(2, 0, 1)
    seen = pixels(task, "test")[0].numpy()
    for channel in range(channels):
        line = np.polyfit(first[channel].ravel(), seen[channel].ravel(), 1)
        np.testing.assert_allclose(np.polyval(line, first[channel]), seen[channel], atol=1e-4)


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": 0}, r"task\.train=0 must be at least 1"),
        ({"validation": 0}, r"task\.validation=0"),
        ({"validation": None}, r"task\.validation=None"),
        ({"test": -3}, r"task\.test=-3"),
        ({"train": 1.5}, r"task\.train=1\.5"),
        ({"imbalance": 0}, r"task\.imbalance=0 must be above 0"),
        ({"imbalance": 1.2}, r"task\.imbalance=1\.2"),
        ({"imbalance": "x"}, r"task\.imbalance=x"),
        ({"label_noise": 1.0}, r"task\.label_noise=1\.0 must be at least 0 and below 1"),
        ({"label_noise": -0.1}, r"task\.label_noise=-0\.1"),
        ({"split_seed": -1}, r"task\.split_seed=-1"),
        ({"reference_point": (1.0, 2.0)}, "reference_point needs 1 entry"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Images(**options)


@pytest.mark.parametrize(
    "options",
    [{"train": 1600}, {"validation": 1500}, {"test": 1797}, {"test": 5000}, {"validation": 1797}],
)
def test_more_images_than_there_are_is_an_error(options):
    with pytest.raises(DataError, match=r"'images': 1797 images are too few"):
        Images(**options).check()


def test_more_test_images_than_the_test_files_have_is_an_error(tmp_path):
    write_idx(tmp_path, "train", *drawn(50))
    write_idx(tmp_path, "t10k", *drawn(30, seed=1))
    with pytest.raises(DataError, match=r"30 test images are fewer than task\.test=40"):
        Images(source=tmp_path, validation=10, test=40).check()


def test_a_folder_without_images_is_named(tmp_path):
    with pytest.raises(DataError, match="no IDX files"):
        Images(source=tmp_path).check()
    with pytest.raises(DataError, match=r"neither a folder nor a known data set.*'cifar10'"):
        Images(source="cifar1").check()
