"""Runs of one sweep are one group in W&B."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from frontrunner.tracking import offline


def test_runs_of_a_sweep_share_a_group(tmp_path: Path, tiny: list[str]) -> None:
    words = [w for w in tiny if not w.startswith("logger=")]
    words = ["run", "-m", "method=learning/cosmos", "seed=0,1", "logger=wandb", *words]
    # A process with a W&B service of its own: other tests leave theirs in any state.
    environment = {k: v for k, v in os.environ.items() if k != "WANDB_SERVICE"}
    subprocess.run(
        [sys.executable, "-m", "frontrunner.cli", *words],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
        timeout=120,
    )
    runs = sorted((tmp_path / "runs" / "multi_digits").glob("cosmos-*"))
    groups = [offline.read(offline.records(run)[0], wait=5)["group"] for run in runs]
    assert len(groups) == 2
    assert groups[0] == groups[1]
    assert groups[0]
