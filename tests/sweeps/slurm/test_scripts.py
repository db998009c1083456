"""What ``slurm/`` offers to edit: launchers compose, scripts run on the simulated cluster."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from frontrunner import config as configuration
from frontrunner.sweeps.plan import build_launcher
from frontrunner.sweeps.slurm import Slurm

SLURM = Path(__file__).resolve().parents[3] / "slurm"

# A stand-in for the command: it counts to thirty, stops at SIGTERM, and goes on from there.
COMMAND = """#!/usr/bin/env python3
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
with open(os.environ["STEPS"] + os.environ.get("SLURM_ARRAY_TASK_ID", ""), "a+") as handle:
    handle.seek(0)
    for i in range(len(handle.read().split()), 30):
        time.sleep(0.1)
        print(os.environ.get("SLURM_RESTART_COUNT", "0") + sys.argv[-1], file=handle, flush=True)
"""


def test_launchers_to_edit_are_launchers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: list[str]
) -> None:
    shutil.copytree(SLURM, tmp_path / "slurm")
    monkeypatch.chdir(tmp_path)
    for path in sorted((SLURM / "launcher").glob("*.yaml")):
        words = ["method=learning/cosmos", f"launcher={path.stem}", *tiny]
        launcher = build_launcher(configuration.compose(words).launcher)
        assert isinstance(launcher, Slurm)
        assert launcher.default.partition == "gpu"


def test_every_key_has_a_comment() -> None:
    path = configuration.conf_dir() / "launcher" / "slurm.yaml"
    lines = path.read_text().splitlines()
    keys = [i for i, line in enumerate(lines) if line and not line.startswith(("#", "_target_"))]
    together = {"qos", "constraint", "tasks_per_node"}  # under one comment with the key before
    for i in keys:
        assert lines[i - 1].startswith("#") or lines[i].split(":")[0] in together, lines[i]
    assert set(yaml.safe_load(path.read_text())) - {"_target_", "families"} == set(
        Slurm().default.__dataclass_fields__
    )


@pytest.fixture
def scripts(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the stand-in as the ``frontrunner`` of its jobs."""
    program = tmp_path / "bin" / "frontrunner"
    program.parent.mkdir()
    program.write_text(COMMAND)
    program.chmod(0o755)
    monkeypatch.setitem(cluster.environment, "PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setitem(cluster.environment, "STEPS", str(tmp_path / "steps"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slurm
def test_plain_scripts_go_on_after_a_warning(cluster: Any, scripts: Path) -> None:
    cluster.run("sbatch", "-c1", str(SLURM / "run.sbatch"), "seed=3")
    cluster.run("sbatch", "-c1", "--array=4-5", str(SLURM / "seeds.sbatch"), "method=x")
    paths = [scripts / name for name in ("steps", "steps4", "steps5")]
    cluster.until(lambda: all(p.exists() and p.read_text().count("\n") > 3 for p in paths))
    cluster.run("scancel", "--batch", "--signal=USR2", "--user=root", "--jobname=frontrunner")
    last = cluster.run("squeue", "-h", "--array", "-n", "seeds", "-o%i").split()
    (fifth,) = [job for job in last if job.endswith("_5")]
    cluster.run("scancel", "--batch", "--signal=USR2", fifth)
    cluster.until(lambda: not cluster.run("squeue", "-h").strip(), "they go on")
    words = [p.read_text().split() for p in paths]
    assert [len(w) for w in words] == [30, 30, 30]
    assert set(words[0]) == {"0seed=3", "1seed=3"}
    assert set(words[1]) == {"0seed=4"}
    assert set(words[2]) == {"0seed=5", "1seed=5"}


@pytest.mark.slurm
def test_two_nodes_train_one_run(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: list[str]
) -> None:
    source = str(Path(configuration.__file__).parents[1])
    program = tmp_path / "frontrunner"
    program.write_text(
        f"#!/bin/sh\nexport PYTHONPATH={source}\n"
        f'exec {sys.executable} -c "from frontrunner.cli import main; raise SystemExit(main())" '
        '"$@"\n'
    )
    program.chmod(0o755)
    monkeypatch.setitem(cluster.environment, "PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    options = ["--wait", "-N2", "--ntasks-per-node=1", "-c1"]
    words = ["method=learning/cosmos", *tiny]
    cluster.run("sbatch", *options, str(SLURM / "ddp.sbatch"), *words, check=False, timeout=600)
    logs = "".join(p.read_text() for p in tmp_path.glob("*.log"))
    (record,) = tmp_path.glob("runs/*/*/run.json")
    found = json.loads(record.read_text())
    assert (found["status"], found["device"]) == ("done", "2 x cpu"), logs[-2000:]
