"""Runs of one sweep are one group in W&B."""

from __future__ import annotations

import time
from pathlib import Path

from frontrunner.cli import main
from frontrunner.tracking import offline


def first_record(run: Path) -> Path:
    # W&B's service writes a moment after the run has finished, later on a busy machine.
    for _ in range(100):
        if found := offline.records(run):
            return found[0]
        time.sleep(0.1)
    raise AssertionError(f"no record in {sorted(run.rglob('*'))}")


def test_runs_of_a_sweep_share_a_group(tmp_path: Path, tiny: list[str], monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = [w for w in tiny if not w.startswith("logger=")]
    code = main(["run", "-m", "method=learning/cosmos", "seed=0,1", "logger=wandb", *words])
    assert code == 0
    runs = sorted((tmp_path / "runs" / "multi_digits").glob("cosmos-*"))
    groups = [offline.read(first_record(run), wait=5)["group"] for run in runs]
    assert len(groups) == 2
    assert groups[0] == groups[1]
    assert groups[0]
