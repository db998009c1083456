"""Finding fronts on disk: what is read, what is skipped, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from frontrunner.errors import FrontError
from frontrunner.front import Front, Objective
from frontrunner.front.collect import collect

OBJECTIVES = (Objective("a"), Objective("b"))


def write_run(folder: Path, status: str | None = "done", **info: object) -> Path:
    folder.mkdir(parents=True)
    if status is not None:
        record = {"status": status, "seed": 5, "error": "DivergenceError: loss is nan\nmore"}
        (folder / "run.json").write_text(json.dumps(record))
    Front(OBJECTIVES, np.array([[1.0, 2.0], [2.0, 1.0]]), info=info).save(folder / "front.json")
    return folder


def test_a_file_a_run_and_a_tree_give_the_same_front_once(tmp_path: Path) -> None:
    run = write_run(tmp_path / "sweep" / "0", label="A", seed=3)
    for paths in ([run], [run / "front.json"], [tmp_path], [run, tmp_path, run / "front.json"]):
        (entry,) = collect(paths)
        assert (entry.label, entry.seed) == ("A", 3)
        assert entry.path.samefile(run / "front.json")


def test_label_and_seed_fall_back(tmp_path: Path) -> None:
    write_run(tmp_path / "x", method="linear")
    write_run(tmp_path / "y", status=None)
    write_run(tmp_path / "z", status=None, label="Z", seed="seven")
    found = {e.label: e.seed for e in collect([tmp_path])}
    assert found == {"linear": 5, "y": None, "Z": None}


def test_unfinished_and_unreadable_runs_of_a_tree_are_skipped_with_the_reason(
    tmp_path: Path,
) -> None:
    write_run(tmp_path / "good")
    write_run(tmp_path / "bad", status="failed")
    write_run(tmp_path / "now", status="running")
    (write_run(tmp_path / "torn") / "front.json").write_text('{"points": [')
    (write_run(tmp_path / "lost") / "front.json").unlink()
    (write_run(tmp_path / "odd") / "run.json").write_text("[]")
    found = collect([tmp_path])
    assert [e.path.parent.name for e in found] == ["good"]
    reasons = {s.path.parent.name: s.reason for s in found.skipped}
    assert set(reasons) == {"bad", "now", "torn", "lost", "odd"}
    assert "failed" in reasons["bad"]
    assert "loss is nan" in reasons["bad"]
    assert "more" not in reasons["bad"]
    assert "running" in reasons["now"]
    assert "front.json" in reasons["lost"]
    assert "JSON" in reasons["torn"]


def test_a_failed_run_named_explicitly_is_skipped_even_by_its_file(tmp_path: Path) -> None:
    good, bad = write_run(tmp_path / "good"), write_run(tmp_path / "bad", status="failed")
    for path in (bad, bad / "front.json"):
        found = collect([good, path])
        assert len(found) == 1
        assert len(found.skipped) == 1


def test_copies_inside_a_run_and_hidden_directories_are_not_searched(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    write_run(run / "wandb" / "files", status=None)
    write_run(tmp_path / ".cache" / "old")
    assert len(collect([tmp_path])) == 1


def test_a_link_that_leads_back_up_ends(tmp_path: Path) -> None:
    write_run(tmp_path / "sweep" / "0")
    (tmp_path / "sweep" / "up").symlink_to(tmp_path, target_is_directory=True)
    assert len(collect([tmp_path])) == 1


def test_a_corrupt_front_named_explicitly_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "torn")
    (run / "front.json").write_text("{")
    with pytest.raises(FrontError, match=r"front\.json"):
        collect([run])


def test_nothing_to_compare_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FrontError, match="does not exist"):
        collect([tmp_path / "nowhere"])
    with pytest.raises(FrontError, match="frontrunner run"):
        collect([tmp_path])
    write_run(tmp_path / "bad", status="failed")
    with pytest.raises(FrontError, match="loss is nan"):
        collect([tmp_path])
