"""Tables at scale paper, end to end on stand-ins: checkpoints and data in the hub's own format."""

from __future__ import annotations

import importlib.util
import struct
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from frontrunner.tables.carry_out import complete
from frontrunner.tables.fill import Filled, fill
from frontrunner.tables.reading import load
from frontrunner.tasks import overlay

ROOT = Path(__file__).parents[2]


def carried_out(name: str, output: Path, rows: list[str], stand_ins: list[str]) -> Filled:
    """Rows of a table at scale paper, with these overrides last."""
    table = load(ROOT / "experiments" / f"{name}.yaml", "paper")
    assert {r.name for r in table.rows} >= set(rows)
    table = replace(
        table,
        rows=tuple(r for r in table.rows if r.name in rows),
        seeds=table.seeds[:1],
        panels=table.panels[:1],
        claims=(),
        last=(*table.last, "runner.accelerator=cpu", "runner.threads=1", *stand_ins),
    )
    done = complete(table, output, tell=lambda line: None)
    filled = fill(done.grid, done.problems)
    assert filled.whole, filled.reasons()
    return filled


@pytest.fixture
def domains(tmp_path, monkeypatch, small_llama, hub_dataset) -> list[str]:
    """Overrides that put small data sets and a small Llama in the place of the paper's."""
    datasets = pytest.importorskip("datasets", reason="the package 'datasets' is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    pages = [{"text": f"page {i} of a longer text"} for i in range(400)]
    sums = [{"question": f"{i} + {i}?", "answer": f"#### {2 * i}"} for i in range(300)]
    tasks = [{"instruction": f"Do {i}.", "input": "", "output": f"do({i})"} for i in range(300)]
    places = {
        "c4": hub_dataset(tmp_path / "c4", "en", {"train": pages, "validation": pages[:200]}),
        "gsm8k": hub_dataset(tmp_path / "gsm8k", "main", {"train": sums, "test": sums[:200]}),
        "code": hub_dataset(tmp_path / "code", "default", {"train": tasks}),
    }
    small = ["task.window=16", "task.segments=4", "task.windows.validation=2", "points=3"]
    small += ["task.windows.test=2", f"model.name={small_llama}"]
    return [*small, *(f"task.texts.{name}.hub={place}" for name, place in places.items())]


def test_mosps_perplexities_of_a_checkpoint_on_c4_code_and_mathematics(domains, tmp_path) -> None:
    rows = ["dense", "magnitude", "SparseGPT"]
    filled = carried_out("mosp/perplexity", tmp_path / "runs", rows, domains)
    assert {column for _, _, column in filled.cells} == {"C4", "GSM8K", "Code"}
    assert filled.cells["60 %", "magnitude", "C4"].statistic.mean > 1


def test_mosps_hypervolume_of_a_checkpoint(domains, tmp_path) -> None:
    rows = ["SparseGPT", "ALPS", "MOSP"]
    filled = carried_out("mosp/hypervolume", tmp_path / "runs", rows, domains)
    cells = [filled.cells["70 %", row, "hypervolume"] for row in rows]
    assert [cell.reported.text for cell in cells] == ["0.33", "7.73", "9.59"]


def idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim)
    path.write_bytes(header + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes())


def test_gmooars_pictures_from_idx_files(tmp_path, monkeypatch) -> None:
    rng = np.random.default_rng(0)
    for source in ("mnist", "fashion_mnist"):
        (tmp_path / source).mkdir()
        for part in ("train", "t10k"):
            idx(
                tmp_path / source / f"{part}-images-idx3-ubyte",
                rng.integers(0, 256, (60, 28, 28), dtype=np.uint8),
            )
            labels = (np.arange(60) % 10).astype(np.uint8)
            idx(tmp_path / source / f"{part}-labels-idx1-ubyte", labels)
    monkeypatch.setenv("FRONTRUNNER_DATA", str(tmp_path))
    sizes = [f"task.{split}_size=40" for split in ("train", "validation", "test")]
    short = [*sizes, "training.steps=4", "training.rounds=1", "training.batch_size=8"]
    filled = carried_out("gmooar/multi_mnist", tmp_path / "runs", ["COSMOS", "GMOOAR-HV"], short)
    # The paper's network on 36×36 pixels with FiLM; it counts the fifteen angles as well.
    cell = filled.cells["", "GMOOAR-HV", "parameters"]
    assert cell.statistic.mean + 15 == cell.reported.mean == 43_685


def test_eracs_on_pictures_of_the_hub(tmp_path, monkeypatch) -> None:
    datasets = pytest.importorskip("datasets", reason="the package 'datasets' is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)}
    )
    folder = tmp_path / "cifar" / "data"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    for part in ("train", "test"):
        content = {
            "img": list(rng.integers(0, 256, (80, 8, 8, 3), dtype=np.uint8)),
            "label": (np.arange(80) % 10).tolist(),
        }
        table = datasets.Dataset.from_dict(content, features=features)
        table.to_parquet(str(folder / f"{part}-00000-of-00001.parquet"))
    monkeypatch.setitem(overlay.HUB, "cifar10", str(tmp_path / "cifar"))
    small = ["task.validation=20", "training.steps=4"]
    small += ["training.rounds=1", "training.batch_size=20", "method.budget=0.5"]
    ours = "ERACS, SNR fell by 30 %"
    filled = carried_out("eracs/accuracy", tmp_path / "runs", ["random, fixed", ours], small)
    assert filled.cells["", ours, "5 %"].reported.text == "87.27"


@pytest.fixture(scope="module")
def clip() -> ModuleType:
    """The stand-in of CLIP and its experts that the task's own tests are made with."""
    for package in ("PIL.Image", "transformers", "tokenizers"):
        pytest.importorskip(package, reason=f"the package '{package}' is not installed")
    path = ROOT / "tests" / "tasks" / "test_vit_eight.py"
    spec = importlib.util.spec_from_file_location("stand_in_of_clip", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_merged_vision_experts_at_equal_priority_and_one_hot(clip, tmp_path) -> None:
    root = clip.make_world(tmp_path / "clip")
    stand_ins = [word for word in clip.words(root) if not word.startswith(("task=", "method="))]
    small = ["points=3", "training.steps=2", "training.batch_size=4", "training.rounds=1"]
    filled = carried_out(
        "pareto_merging/eight_tasks",
        tmp_path / "runs",
        ["rewarded soup", "task arithmetic, by preference"],
        [*stand_ins, *small],
    )
    assert {column for _, _, column in filled.cells} == {"equal", "priority", "one-hot"}
