"""The hub's loaders, with the real `datasets` library on local folders in the hub's own format."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from frontrunner.tasks import overlay
from frontrunner.tasks.fairness import Fairness
from frontrunner.tasks.mnist import MultiMNIST

datasets = pytest.importorskip("datasets", reason="the package 'datasets' is not installed")

ADULT = (
    "age,workclass,fnlwgt,education,education.num,marital.status,occupation,relationship,race,sex,"
    "capital.gain,capital.loss,hours.per.week,native.country,income"
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.delenv("FRONTRUNNER_DATA", raising=False)


def write_adult(path: Path, n: int = 80) -> None:
    rng = np.random.default_rng(0)
    rows = [ADULT]
    for i in range(n):
        sex, income = ("Male", "Female")[i % 2], ("<=50K", ">50K")[i % 3 == 0]
        rows.append(
            f"{rng.integers(18, 80)},Private,{rng.integers(10**4, 10**5)},Bachelors,13,"
            f"Never-married,Sales,Unmarried,White,{sex},0,0,{rng.integers(10, 60)},"
            f"United-States,{income}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows) + "\n")


def test_a_table_in_hub_format_gives_what_its_csv_gives(tmp_path: Path) -> None:
    write_adult(tmp_path / "csv" / "adult.csv")
    repository = tmp_path / "repository"
    repository.mkdir()
    shutil.copy(tmp_path / "csv" / "adult.csv", repository / "train.csv")
    hub = Fairness("adult", hub=str(repository)).data("train").tensors
    file = Fairness("adult", path=tmp_path / "csv").data("train").tensors
    for one, other in zip(hub, file, strict=True):
        assert torch.equal(one, other)


def test_images_in_hub_format_become_overlays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(1)
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)}
    )
    folder = tmp_path / "repository" / "data"
    folder.mkdir(parents=True)
    pixels = {}
    for part in ("train", "test"):
        pixels[part] = rng.integers(0, 256, (40, 28, 28), dtype=np.uint8)
        content = {"image": list(pixels[part]), "label": (np.arange(40) % 10).tolist()}
        table = datasets.Dataset.from_dict(content, features=features)
        table.to_parquet(str(folder / f"{part}-00000-of-00001.parquet"))
    monkeypatch.setitem(overlay.HUB, "mnist", str(tmp_path / "repository"))
    monkeypatch.chdir(tmp_path)
    task = MultiMNIST(train_size=30, validation_size=10, test_size=20)
    images, left, right = task.data("test")[list(range(20))]
    assert images.shape == (20, 1, 36, 36)
    corner = (images[0, 0, :8, :8] * 255).round().to(torch.uint8).numpy()
    # Rows and columns that only the left picture reaches hold one of the test pictures.
    assert any(np.array_equal(corner, p[:8, :8]) for p in pixels["test"])
    assert left.shape == right.shape == (20,)
