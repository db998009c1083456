"""Whole sweeps on a simulated Slurm, by the verbs of the command."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from frontrunner import cli
from frontrunner.front.front import Front
from frontrunner.sweeps import plan as plans
from frontrunner.sweeps import verbs
from frontrunner.sweeps.launcher import State
from frontrunner.sweeps.slurm import Slurm
from frontrunner.sweeps.status import statuses
from frontrunner.sweeps.sweep import Sweep
from frontrunner.tracking import offline

pytestmark = pytest.mark.slurm

LAUNCHER = ["launcher=slurm", "launcher.cpus=1", "launcher.time=10"]
TROUBLES: dict[int, dict[str, Any]] = {
    **{i: {"raise": f"mistake {i}"} for i in (3, 50, 151)},
    **{i: {"refuse": f"change {i}"} for i in (17, 99)},
    **{i: {"kill": True} for i in (64, 180)},
    **{i: {"steps": 10**6} for i in (120, 199)},  # to be cancelled
}


def test_of_two_hundred_cells_exactly_the_lost_ones_are_named_and_retried(
    cluster: Any, stand_ins: Callable[..., Sweep], settle: Callable[..., list]
) -> None:
    sweep = stand_ins("many", {f"cell{i:03}": TROUBLES.get(i, {}) for i in range(200)})
    sweep.write()
    launcher = {"_target_": "frontrunner.sweeps.slurm.Slurm", "cpus": 1, "time": 10}
    sweep = Sweep(sweep.folder, {**sweep.facts, "launcher": launcher}, sweep.cells)
    sweep.write()
    assert len(verbs.retry(sweep)) == 200  # none of them was submitted yet
    endless = [f"cell{i:03}" for i in (120, 199)]

    def begun() -> bool:
        paths = [sweep.directory(c) / "steps.txt" for c in sweep.chosen(endless)]
        return all(p.exists() for p in paths)

    cluster.until(begun, "the endless cells do not begin", 300)
    assert len(verbs.cancel(sweep, endless)) == 2
    found = settle(sweep, 300)
    lost = {s.cell.name: s for s in found if s.state != State.DONE}
    assert set(lost) == {f"cell{i:03}" for i in TROUBLES}
    assert Counter(s.state for s in lost.values()) == {State.FAILED: 5, State.KILLED: 4}
    assert lost["cell050"].reason == "mistake 50"
    assert lost["cell017"].reason == "change 17"
    assert "signal 9" in lost["cell064"].reason
    assert "SIGTERM" in lost["cell120"].reason
    again = verbs.retry(sweep, [State.FAILED, State.KILLED])
    assert {cell.name for cell in again} == set(lost)
    cluster.run("scancel", "--user", str(os.getuid()))
    attempts = Counter(s.attempts for s in settle(sweep) if s.cell.name not in lost)
    assert attempts == {1: 191}


def test_a_trained_cell_goes_on_from_its_checkpoint_to_the_same_front(
    cluster: Any,
    project: Path,
    tiny: list[str],
    settle: Callable[..., list],
    capsys: pytest.CaptureFixture[str],
) -> None:
    long = [w for w in tiny if not w.startswith(("training.", "logger="))]
    long += ["training.steps=1000", "training.rounds=50", "training.batch_size=32"]
    words = ["method=learning/cosmos", *long]
    assert cli.main(["submit", *LAUNCHER, *words, "logger=wandb", "seed=0"]) == 0
    (folder,) = (f.parent for f in (project / "runs" / "sweeps").glob("*/sweep.json"))
    sweep = Sweep.read(folder)
    (cell,) = sweep.cells
    cluster.until(lambda: statuses(sweep)[0].state == State.RUNNING)
    capsys.readouterr()
    assert cli.main(["submit", *LAUNCHER, *words, "logger=wandb", "seed=0"]) == 0
    assert "0 submitted" in capsys.readouterr().out
    # From the first round on it takes seconds: it is stopped at once.
    told = sweep.directory(cell) / "progress.json"
    cluster.until(lambda: told.exists() and json.loads(told.read_text())["done"] > 0, timeout=300)
    (running,) = statuses(sweep)
    assert running.state == State.RUNNING
    assert running.progress.endswith("/1000")
    before = int(running.progress.split()[1].split("/")[0])
    assert before > 0
    assert running.job is not None
    cluster.run("scancel", "--signal=USR2", str(running.job["job"]))
    (done,) = settle(sweep)
    assert (done.state, done.attempts) == (State.DONE, 2)
    record = json.loads((sweep.directory(cell) / "run.json").read_text())
    assert record["cost"]["forward_passes"] >= 1000  # of all attempts, what was redone left out

    # One run of W&B in two pieces, whose curves go on where the checkpoint was.
    pieces = [offline.read(p, wait=5) for p in offline.records(sweep.directory(cell))]
    assert len(pieces) == 2
    assert {p["group"] for p in pieces} == {sweep.name}
    first, second = (
        [row["train/step"] for row in p["history"] if "train/step" in row] for p in pieces
    )
    assert second[0] > first[0]
    assert max(second) == 1000

    front = Front.load(sweep.directory(cell) / "front.json")
    code = cli.main(["run", *words, "logger=none", "seed=0", "output=uninterrupted"])
    assert code == 0
    (alone,) = (project / "uninterrupted").glob("*/*/front.json")
    np.testing.assert_array_equal(front.values, Front.load(alone).values)


def test_a_plan_for_the_cluster_names_its_resources(
    cluster: Any, project: Path, words: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["+launcher.families.troubles.gpus=1", "seed=0,1"]
    assert cli.main(["submit", *LAUNCHER, *words("none"), *more, "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "resources: 2 jobs: the default partition, 10 min, 1 CPU, 1 GPU" in told
    assert not (project / "runs").exists()
    assert isinstance(plans.plan([*LAUNCHER, *words("none")]).launcher, Slurm)
