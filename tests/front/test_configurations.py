"""Configuration differences: what differs between groups, within them, and what is left out."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from frontrunner.config import NOT_IDENTITY
from frontrunner.front import Front, Objective
from frontrunner.front.collect import Entries, collect
from frontrunner.front.compare import compare
from frontrunner.front.configurations import ABSENT, Cell, differences
from frontrunner.front.report import write_report

BASE: dict[str, Any] = {
    "seed": 0,
    "label": "a",
    "output": "runs",
    "training": {"steps": 100, "rates": [0.1, 0.2]},
    "task": {"name": "toy", "size": 5},
    "runner": {"progress": "bar", "precision": "32"},
    "logger": {"mode": "offline"},
    "method": {"_target_": "pkg.A", "steps": 1, "training": {"steps": 100, "rates": [0.1, 0.2]}},
}


def run(root: Path, label: str, seed: int, *, config: bool = True, **changed: Any) -> None:
    folder = root / f"{label}-{seed}"
    values = np.array([[0.1 * seed, 1.0], [0.5, 0.5]])
    front = Front((Objective("x"), Objective("y")), values, info={"label": label, "seed": seed})
    front.save(folder / "front.json")
    if config:
        whole = OmegaConf.create(BASE)
        for key, value in {"label": label, "seed": seed, **changed}.items():
            OmegaConf.update(whole, key.replace("__", "."), value)
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(whole))


def test_only_what_differs_between_groups_is_told_and_the_method_comes_last(tmp_path: Path) -> None:
    for seed in range(2):
        run(tmp_path, "a", seed)
        run(tmp_path, "b", seed, method___target_="pkg.B", task__size=6, method__extra=None)
    found = differences(collect([tmp_path]))
    assert dict(found.rows) == {
        "task.size": (Cell("5"), Cell("6")),
        "method._target_": (Cell("A"), Cell("B")),
        "method.extra": (Cell(ABSENT), Cell("null")),
    }
    assert next(iter(found.rows)) == "task.size"
    assert found.beyond_method == ["task.size"]
    assert found.missing == ()


def test_seeds_and_what_changes_no_result_are_left_out(tmp_path: Path) -> None:
    changed: dict[str, Any] = {
        key.replace(".", "__"): "other" for key in NOT_IDENTITY if key not in ("label",)
    }
    run(tmp_path, "a", 0, method__seed=0)
    run(tmp_path, "b", 1, method__seed=1, **changed)
    assert "output" in changed
    assert "runner__progress" in changed
    assert differences(collect([tmp_path])).rows == {}


def test_a_value_that_is_handed_on_is_told_once(tmp_path: Path) -> None:
    run(tmp_path, "a", 0)
    run(tmp_path, "b", 0, training__steps=200, method__training__steps=200)
    assert list(differences(collect([tmp_path])).rows) == ["training.steps"]


def test_values_that_differ_within_a_group_name_the_seeds(tmp_path: Path) -> None:
    for seed, size in enumerate((5, 5, 7)):
        run(tmp_path, "a", seed, task__size=size)
        run(tmp_path, "b", seed)
    (cells,) = differences(collect([tmp_path])).rows.values()
    assert cells == (Cell("5 (seeds 0 and 1); 7 (seed 2)", agrees=False), Cell("5"))


def test_one_and_a_float_of_one_differ_as_they_do_in_a_runs_identity(tmp_path: Path) -> None:
    run(tmp_path, "a", 0, task__size=1)
    run(tmp_path, "b", 0, task__size=1.0)
    (cells,) = differences(collect([tmp_path])).rows.values()
    assert cells == (Cell("1"), Cell("1.0"))


def test_runs_without_a_configuration_are_named_and_not_counted(tmp_path: Path) -> None:
    run(tmp_path, "a", 0)
    run(tmp_path, "a", 1, config=False)
    run(tmp_path, "b", 0, config=False)
    (tmp_path / "b-0" / "config.yaml").write_text("{not: [yaml")
    entries = collect([tmp_path])
    found = differences(entries)
    assert found.rows == {}
    assert found.missing == (tmp_path / "a-1", tmp_path / "b-0")
    write_report(compare(entries), entries, tmp_path / "out" / "report.html")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert html.escape(f"{tmp_path / 'a-1'} and {tmp_path / 'b-0'}") in page


def test_commits_and_versions_are_told_where_they_differ(tmp_path: Path) -> None:
    for label, commit, torch in (("a", "1" * 40, "2.13"), ("b", "2" * 40, "2.13")):
        run(tmp_path, label, 0)
        record = {
            "status": "done",
            "git": {"commit": commit, "dirty": label == "b"},
            "packages": {"torch": torch, "numpy": {"a": "2.0", "b": None}[label]},
            "python": "3.11.7",
        }
        (tmp_path / f"{label}-0" / "run.json").write_text(json.dumps(record))
    assert dict(differences(collect([tmp_path])).code) == {
        "git commit": (Cell("1" * 12), Cell("2" * 12 + " (edited)")),
        "numpy": (Cell("2.0"), Cell("not installed")),
    }


@pytest.mark.parametrize("hostile", ["</td><script>x</script>", "a\nb"])
def test_values_are_text_on_the_page(tmp_path: Path, hostile: str) -> None:
    run(tmp_path, "a", 0)
    run(tmp_path, "b", 0, task__size=hostile)
    entries: Entries = collect([tmp_path])
    write_report(compare(entries), entries, tmp_path / "out" / "report.html")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert html.escape(hostile) in page
    assert "<script>x</script>" not in page
