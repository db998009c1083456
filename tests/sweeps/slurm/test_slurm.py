"""Sweeps on a simulated Slurm: what befalls a job, and what is left of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from frontrunner.errors import ConfigError, RunError
from frontrunner.sweeps import slurm_queue
from frontrunner.sweeps.launcher import WAITING, JobState, State
from frontrunner.sweeps.slurm import Slurm
from frontrunner.sweeps.slurm_queue import SlurmQueue
from frontrunner.sweeps.sweep import Sweep, read_job

pytestmark = pytest.mark.slurm

StandIns = Callable[..., Sweep]


def submit(sweep: Sweep, **keys: Any) -> None:
    launcher = Slurm(**{"cpus": 1, "time": 10, **keys})
    launcher.check(sweep.cells)
    launcher.submit(sweep, sweep.cells)


def states(sweep: Sweep) -> dict[str, JobState]:
    jobs = {cell.name: read_job(sweep.directory(cell)) for cell in sweep.cells}
    found = SlurmQueue().states([job for job in jobs.values() if job])
    return {name: found[job["job"]] for name, job in jobs.items() if job}


def settled(cluster: Any, sweep: Sweep, timeout: float = 120) -> dict[str, JobState]:
    def over() -> bool:
        return all(s.state not in WAITING for s in states(sweep).values())

    cluster.until(over, "cells go on", timeout)
    return states(sweep)


def run_of(sweep: Sweep, name: str) -> dict[str, Any]:
    return json.loads((directory(sweep, name) / "run.json").read_text())


def directory(sweep: Sweep, name: str) -> Path:
    (cell,) = sweep.chosen([name])
    return sweep.directory(cell)


def steps(sweep: Sweep, name: str) -> str:
    path = directory(sweep, name) / "steps.txt"
    return path.read_text() if path.exists() else ""


def job(sweep: Sweep, name: str) -> Mapping[str, Any]:
    found = read_job(directory(sweep, name))
    assert found is not None
    return found


def under_way(cluster: Any, sweep: Sweep, name: str) -> str:
    """Wait until a cell has taken steps; its job."""
    cluster.until(lambda: len(steps(sweep, name)) > 2, f"{name} takes no steps")
    return str(job(sweep, name)["job"])


def test_every_end_of_a_job_is_told(cluster: Any, stand_ins: StandIns) -> None:
    sweep = stand_ins(
        "ends",
        {
            "fine": {},
            "raises": {"raise": "planted mistake"},
            "refuses": {"refuse": "planted: change it"},
            "killed": {"kill": True},
            "cancelled": {"steps": 300},
        },
    )
    submit(sweep)
    under_way(cluster, sweep, "cancelled")
    SlurmQueue().cancel([job(sweep, "cancelled")])
    found = settled(cluster, sweep)
    assert {name: s.state for name, s in found.items()} == {
        "fine": State.DONE,
        "raises": State.FAILED,
        "refuses": State.FAILED,
        "killed": State.KILLED,
        "cancelled": State.KILLED,
    }
    assert found["raises"].reason == "exit code 1"
    assert "signal 9" in found["killed"].reason
    assert run_of(sweep, "fine")["status"] == "done"
    error = run_of(sweep, "raises")["error"]
    assert error == {"type": "ValueError", "message": "planted mistake"}
    assert run_of(sweep, "cancelled")["error"]["type"] == "Cancelled"
    assert run_of(sweep, "killed")["status"] == "running"
    last = {name: Path(job(sweep, name)["log"]).read_text().splitlines()[-1] for name in found}
    assert last["raises"] == "ValueError: planted mistake"
    assert last["refuses"] == "frontrunner: planted: change it"
    jobs = {name: str(job(sweep, name)["job"]) for name in found}
    assert {cluster.job(number)["Restarts"] for number in jobs.values()} == {"0"}
    # The file that the cluster keeps tells the same, once the controller has forgotten.
    kept = slurm_queue._from_jobcomp(jobs.values())
    assert {name: kept[number] for name, number in jobs.items()} == found
    assert slurm_queue._from_sacct(jobs.values()) == {}


# ---------------------------------------------------------------------- stopped, and continued


def test_a_time_limit_is_continued_where_it_struck(cluster: Any, stand_ins: StandIns) -> None:
    slow = stand_ins("limit", {"slow": {"steps": 400}})
    submit(slow, time=1, warning=59)  # Slurm looks at time limits twice a minute
    cells = {name: {"steps": 60} for name in ("first", "second")}
    sweep = stand_ins("warned", cells)
    submit(sweep, time=3)
    assert job(sweep, "first")["job"].endswith("_0")
    number = under_way(cluster, sweep, "first")  # also the number of its whole array
    under_way(cluster, sweep, "second")
    cluster.run("scancel", "--signal=USR2", number)
    cluster.until(lambda: run_of(sweep, "first")["status"] == "failed")
    error = run_of(sweep, "first")["error"]
    assert error["type"] == "TimeLimit"
    assert error["message"] == "time limit reached in attempt 1 of 5; continued in the next"
    cluster.until(lambda: states(sweep)["first"].state == State.QUEUED)
    assert states(sweep)["first"].reason == "requeued after its time limit"
    assert settled(cluster, sweep) == dict.fromkeys(cells, JobState(State.DONE))
    taken = steps(sweep, "first")
    assert len(taken) == 60
    assert 2 < taken.count("a") < 60
    assert set(taken) == {"a", "b"}
    assert set(steps(sweep, "second")) == {"a"}
    assert run_of(sweep, "first")["attempt"] == 2

    cluster.until(lambda: run_of(slow, "slow")["status"] == "failed")
    assert run_of(slow, "slow")["error"]["type"] == "TimeLimit"
    cluster.until(lambda: "b" in steps(slow, "slow"), "it does not go on")
    assert list(steps(slow, "slow")) == sorted(steps(slow, "slow"))
    assert run_of(slow, "slow")["attempt"] == 2


def test_attempts_are_bounded(cluster: Any, stand_ins: StandIns) -> None:
    sweep = stand_ins("bounded", {"only": {"steps": 300}})
    submit(sweep, time=3, max_attempts=1)
    cluster.run("scancel", "--signal=USR2", under_way(cluster, sweep, "only"))
    assert settled(cluster, sweep)["only"] == JobState(State.FAILED, "exit code 1")
    error = run_of(sweep, "only")["error"]
    assert error["type"] == "TimeLimit"
    assert error["message"].startswith("stopped 1 times, now by its time limit: raise launcher.max")
    assert Path(job(sweep, "only")["log"]).read_text().splitlines()[-1].startswith("frontrunner: ")


def test_preemption_is_continued_elsewhere(cluster: Any, stand_ins: StandIns) -> None:
    sweep = stand_ins("low", {"one": {"steps": 50}})
    submit(sweep, partition="low", options={"nodelist": "n1"})
    number = under_way(cluster, sweep, "one")
    started = time.monotonic()
    cluster.run("sbatch", "-phigh", "-wn1", "--exclusive", "-o/dev/null", "--wrap=sleep 2")
    cluster.until(lambda: run_of(sweep, "one")["status"] == "failed")
    assert run_of(sweep, "one")["error"]["type"] == "Preempted"
    assert time.monotonic() - started < 50  # it does not sit out the 60 s of grace
    cluster.until(lambda: cluster.job(number)["JobState"] == "PENDING")
    assert states(sweep)["one"] == JobState(State.QUEUED, "requeued after preemption")
    cluster.run("scontrol", "update", f"JobId={number}", "ReqNodeList=n2")
    assert settled(cluster, sweep)["one"].state == State.DONE
    assert set(steps(sweep, "one")) == {"a", "b"}
    assert cluster.job(number)["NodeList"] == "n2"


def test_a_dead_node_is_continued_elsewhere(cluster: Any, stand_ins: StandIns) -> None:
    sweep = stand_ins("death", {"one": {"steps": 60}, "last": {"steps": 60}})
    submit(sweep, options={"nodelist": "n2"}, max_attempts=2)
    number = under_way(cluster, sweep, "one")
    under_way(cluster, sweep, "last")
    cluster.run("scontrol", "update", f"JobId={number}", "Requeue=1")
    cluster.kill_node("n2")
    try:
        cluster.until(lambda: states(sweep)["one"].state == State.QUEUED)
        assert states(sweep)["one"].reason.startswith("requeued by Slurm, after preemption or")
        assert run_of(sweep, "one")["status"] == "running"
        for name in ("one", "last"):
            cluster.run("scontrol", "update", f"JobId={job(sweep, name)['job']}", "ReqNodeList=")
        settled(cluster, sweep)
        assert run_of(sweep, "one")["status"] == "done"
        assert set(steps(sweep, "one")) == {"a", "b"}
    finally:
        cluster.start_node("n2")
        cluster.until(lambda: "idle" in cluster.run("sinfo", "-h", "-nn2", "-plow", "-o%t"))


def test_a_survivor_that_slurm_lost_sight_of_is_not_doubled(
    cluster: Any, stand_ins: StandIns, tmp_path: Path
) -> None:
    enough = tmp_path / "enough"
    sweep = stand_ins("survivor", {"one": {"steps": 10**6, "until": str(enough)}})
    submit(sweep, options={"nodelist": "n2"})
    number = under_way(cluster, sweep, "one")
    cluster.kill_slurmd("n2")
    try:
        cluster.until(lambda: states(sweep)["one"].state == State.QUEUED)
        cluster.run("scontrol", "update", f"JobId={number}", "ReqNodeList=n1")
        log = Path(job(sweep, "one")["log"])
        cluster.until(lambda: "another process is running this" in log.read_text())
        taken = len(steps(sweep, "one"))
        cluster.until(lambda: len(steps(sweep, "one")) > taken, "the survivor takes no steps")
        enough.touch()
        assert settled(cluster, sweep)["one"].state == State.DONE
        assert set(steps(sweep, "one")) == {"a"}
        assert run_of(sweep, "one")["attempt"] == 1
    finally:
        enough.touch()
        cluster.start_node("n2")
        cluster.until(lambda: "idle" in cluster.run("sinfo", "-h", "-nn2", "-plow", "-o%t"))


# ---------------------------------------------------------------------- what jobs do not mind

SUBMIT = """
import os, signal, sys
from frontrunner.sweeps.slurm import Slurm
from frontrunner.sweeps.sweep import Sweep
sweep = Sweep.read(sys.argv[1])
Slurm(cpus=1, time=10, parallel=2).submit(sweep, sweep.cells)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_jobs_outlive_who_submitted_them_and_edits_after_that(
    cluster: Any, stand_ins: StandIns, tmp_path: Path, environment: dict[str, str]
) -> None:
    # What is in PYTHONPATH behind the frozen code, and in the working directory, is not run.
    other = tmp_path / "edited" / "frontrunner"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("raise SystemExit('edited')")
    (tmp_path / "frontrunner.py").write_text("raise SystemExit('edited')")
    sweep = stand_ins("orphans", {f"cell{i}": {"steps": 10} for i in range(6)})
    path = f"{environment['PYTHONPATH']}{os.pathsep}{other.parent}"
    done = subprocess.run(
        [sys.executable, "-c", SUBMIT, str(sweep.folder)],
        env={**cluster.environment, "PYTHONPATH": path},
        cwd=environment.get("HOME", "/"),
    )
    assert done.returncode == -signal.SIGKILL
    assert len({job(sweep, c.name)["job"].split("_")[0] for c in sweep.cells}) == 1
    assert cluster.run("squeue", "--array", "--noheader", "--states=R,CG").count("\n") <= 2
    assert {s.state for s in settled(cluster, sweep).values()} == {State.DONE}


def test_a_sweep_is_split_into_what_alike_cells_and_arrays_allow(
    make_cluster: Callable[..., Any], stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a cluster that remembers nothing: no accounting, no jobcomp, and only for seconds."""
    with make_cluster(nodes=1, jobcomp=False, options={"MaxArraySize": 3, "MinJobAge": 2}) as bare:
        monkeypatch.setenv("SLURM_CONF", bare.environment["SLURM_CONF"])
        sweep = stand_ins("split", {f"cell{i}": {"steps": 1, "kill": True} for i in range(4)})
        submit(sweep, families={"learning": {"gpus": 1}})
        arrays = [job(sweep, c.name)["job"] for c in sweep.cells]
        first, last = arrays[0].split("_")[0], arrays[-1]
        assert arrays == [f"{first}_0", f"{first}_1", f"{first}_2", last]
        assert last.isdecimal()
        found = settled(bare, sweep)
        assert {s.state for s in found.values()} <= {State.KILLED, None}
        bare.until(lambda: {s.state for s in states(sweep).values()} == {None}, "it remembers")
        assert states(sweep)["cell0"].reason == "it ended, and Slurm no longer knows how"

        bare.pause_controller()
        monkeypatch.setattr("frontrunner.sweeps.slurm_cluster.PATIENCE", 1.0)
        started = time.monotonic()
        try:
            with pytest.raises(RunError, match="squeue did not answer within 1 s"):
                states(sweep)
            with pytest.raises(ConfigError, match="sinfo did not answer"):
                Slurm().check(sweep.cells)
        finally:
            bare.pause_controller(resume=True)
        assert time.monotonic() - started < 5


def test_accounting_remembers_what_the_controller_forgot(
    make_cluster: Callable[..., Any], stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = {"fine": {}, "raises": {"raise": "mistake"}, "killed": {"kill": True}}
    with make_cluster(nodes=1, accounting=True) as one:
        for name, value in one.environment.items():
            monkeypatch.setenv(name, value)
        sweep = stand_ins("remembered", ends)
        submit(sweep)
        expected = settled(one, sweep)
        jobs = {name: str(job(sweep, name)["job"]) for name in ends}

        def remembered() -> dict[str, JobState]:
            found = slurm_queue._from_sacct(jobs.values())
            return {name: found[number] for name, number in jobs.items() if number in found}

        one.until(lambda: len(remembered()) == len(ends), "sacct says nothing")
        assert remembered() == expected


# ---------------------------------------------------------------------- refused before anything


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"partition": "hihg"}, r"launcher\.partition=hihg does not exist; did you mean 'high'"),
        ({"gpus": 3}, r"launcher\.gpus=3, and no node of partition low has more than 2"),
        ({"cpus": 9}, r"launcher\.cpus=9, and no node of partition low has more than 4"),
        ({"memory": "5GB"}, r"launcher\.memory=5GB, and no node .* more than 4000 MB"),
        ({"partition": "high", "time": "2:00:00"}, r"time=2:00:00 is 120 min, .* allows 60 min"),
        ({"constraint": "a100"}, r"launcher\.constraint: Slurm says: .*nvalid feature"),
        ({"options": {"colour": "red"}}, r"launcher\.options: .*unrecognized option '--colour"),
        ({"families": {"learning": {"gpus": 5}}}, r"launcher\.families\.learning\.gpus=5"),
    ],
)
def test_what_no_node_has_is_refused(
    cluster: Any, stand_ins: StandIns, keys: dict[str, Any], told: str
) -> None:
    sweep = stand_ins("refused", {"one": {}})
    with pytest.raises(ConfigError, match=told) as caught:
        submit(sweep, **keys)
    assert "\n" not in str(caught.value)
    assert not cluster.run("squeue", "--noheader").strip()


def test_what_was_submitted_before_a_refusal_is_noted(cluster: Any, stand_ins: StandIns) -> None:
    sweep = stand_ins("half", {f"cell{i}": {} for i in range(3)})
    launcher = Slurm(cpus=1)
    launcher.families["learning"] = launcher.default
    one = Sweep(sweep.folder, sweep.facts, sweep.cells[:1])
    refusing = Slurm(cpus=1, partition="nowhere")
    launcher.of = lambda cell: (launcher if cell in one.cells else refusing).default  # type: ignore[method-assign]
    with pytest.raises(RunError, match=r"1 of 3 cells .* invalid partition .*nowhere"):
        launcher.submit(sweep, sweep.cells)
    assert [read_job(sweep.directory(c)) is not None for c in sweep.cells] == [True, False, False]
    assert settled(cluster, sweep)["cell0"].state == State.DONE
