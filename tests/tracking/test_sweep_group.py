"""Runs of one sweep are one group in W&B."""

from __future__ import annotations

from pathlib import Path

from frontrunner.cli import main
from frontrunner.tracking import offline


def test_runs_of_a_sweep_share_a_group(tmp_path: Path, tiny: list[str], monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = [w for w in tiny if not w.startswith("logger=")]
    code = main(["run", "-m", "method=learning/cosmos", "seed=0,1", "logger=wandb", *words])
    assert code == 0
    runs = sorted((tmp_path / "runs" / "multi_digits").glob("cosmos-*"))
    records = [offline.read(offline.records(run)[0], wait=5) for run in runs]
    groups = [record["group"] for record in records]
    assert len(groups) == 2
    assert groups[0] == groups[1]
    assert groups[0]
