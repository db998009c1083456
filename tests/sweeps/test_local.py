"""Sweeps on this machine, from the submit to the last retry."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from frontrunner import cli
from frontrunner.errors import ConfigError, RunError
from frontrunner.front.collect import collect
from frontrunner.sweeps import plan as plans
from frontrunner.sweeps import verbs
from frontrunner.sweeps.launcher import State
from frontrunner.sweeps.local import LocalQueue
from frontrunner.sweeps.status import statuses
from frontrunner.sweeps.sweep import Sweep, read_job
from frontrunner.tracking import manifest

Words = Callable[..., list[str]]
Settle = Callable[..., list]


def submit(words: list[str], name: str | None = None) -> tuple[Sweep, verbs.Weighed]:
    return verbs.submit(plans.plan(["launcher=local", "launcher.per_device=2", *words], name))


def states(found: list) -> dict[str, State]:
    return {s.cell.config["method"]["what"]: s.state for s in found}


ALL = "none,error,bug,kill,exit,once"


@pytest.fixture(scope="module")
def mixed(make_project: Callable[[Path], Any], tmp_path_factory: Any, words: Words, settle: Settle):
    """A sweep with every trouble, settled; its folder is the working directory."""
    with make_project(tmp_path_factory.mktemp("mixed")):
        sweep, _ = submit(words(ALL))
        settle(sweep)
        yield sweep


def test_every_end_is_told_from_the_others(mixed: Sweep) -> None:
    found = {s.cell.config["method"]["what"]: s for s in statuses(mixed)}
    assert {what: s.state for what, s in found.items()} == {
        "none": State.DONE,
        "error": State.FAILED,
        "bug": State.FAILED,
        "kill": State.KILLED,
        "exit": State.FAILED,
        "once": State.FAILED,
    }
    assert found["error"].reason == "planted: as asked"
    assert found["bug"].reason == "planted"
    assert any("ZeroDivisionError" in line for line in found["bug"].lines())
    assert "SIGKILL" in found["kill"].reason
    assert "exit code 7" in found["exit"].reason
    assert all(s.attempts == 1 for s in found.values())
    assert found["none"].seconds > 0


def test_retry_runs_what_was_lost_and_only_that(
    project: Path, words: Words, settle: Settle
) -> None:
    mixed, _ = submit(words(ALL))
    settle(mixed)
    (done,) = [s for s in statuses(mixed) if s.state == State.DONE]
    front = mixed.directory(done.cell) / "front.json"
    before = front.stat().st_mtime_ns
    names = {c.name for c in verbs.retry(mixed, [State.KILLED])}
    assert {n.split("-s0")[0] for n in names} == {"troubles-kill"}
    settle(mixed)
    again = verbs.retry(mixed)
    assert len(again) == 5
    found = settle(mixed)
    assert states(found)["once"] == State.DONE
    assert Counter(s.state for s in found)[State.DONE] == 2
    attempts = {s.cell.config["method"]["what"]: s.attempts for s in found}
    assert attempts == {"none": 1, "error": 2, "bug": 2, "kill": 3, "exit": 2, "once": 2}
    assert front.stat().st_mtime_ns == before


def test_compare_takes_what_is_done_and_says_what_is_missing(
    mixed: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["compare", str(mixed.folder), "--out", "out"]) == 0
    told = capsys.readouterr().err
    assert "missing troubles-kill" in told
    assert "1 of 6 cells are done" in told
    assert len(collect([mixed.folder.parents[1]])) == 1


def test_status_as_a_table_and_as_json(mixed: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", str(mixed.folder)]) == 0
    table = capsys.readouterr().out
    assert "6 cells: 1 DONE, 4 FAILED, 1 KILLED" in table
    assert "| ZeroDivisionError: planted" in table
    assert cli.main(["status", str(mixed.folder), "--json", "--only", "killed"]) == 0
    (cell,) = json.loads(capsys.readouterr().out)["cells"]
    assert (cell["state"], cell["attempts"]) == ("KILLED", 1)
    assert cli.main(["status", str(mixed.folder), "--only", "dead"]) == 1
    assert "no such state" in capsys.readouterr().err


def test_the_same_submit_starts_nothing_and_a_wider_one_what_is_new(
    project: Path, words: Words, settle: Settle
) -> None:
    sweep, weighed = submit(words("none", "seed=0,1"))
    assert len(weighed.start) == 2
    again, weighed = submit(words("none", "seed=0,1"))
    assert again.folder == sweep.folder
    assert (len(weighed.start), len(weighed.waiting) + len(weighed.done)) == (0, 2)
    settle(sweep)
    wider, weighed = submit(words("none", "seed=0,1,2"))
    assert wider.folder != sweep.folder
    assert ([c.config["seed"] for c in weighed.start], len(weighed.done)) == ([2], 2)
    assert {s.state for s in settle(wider)} == {State.DONE}
    assert {s.attempts for s in statuses(wider)} == {1}


def test_a_named_sweep_grows(project: Path, words: Words, settle: Settle) -> None:
    sweep, _ = submit(words("none"), "mine")
    settle(sweep)
    sweep, weighed = submit(words("none", "seed=1"), "mine")
    assert sweep.folder == project / "runs" / "sweeps" / "mine"
    assert (len(sweep.cells), len(weighed.start)) == (2, 1)
    assert {s.state for s in settle(sweep)} == {State.DONE}


def test_lost_cells_are_left_to_retry(mixed: Sweep, words: Words) -> None:
    _, weighed = submit(words(ALL))
    assert (len(weighed.start), len(weighed.lost)) == (0, 5)


def test_edits_after_the_submit_change_nothing(project: Path, words: Words, settle: Settle) -> None:
    plan = plans.plan(["launcher=local", *words("error")])
    sweep = plans.write(plan)
    (project / "lib" / "troubles_words.py").write_text("WORD = 'edited'\n")
    (project / "lib" / "troubles.py").write_text("raise SystemExit('edited')\n")
    (project / "conf" / "method" / "troubles.yaml").write_text("nonsense: true\n")
    verbs.retry(sweep)
    (only,) = settle(sweep)
    # The method is frozen with its module; what it imports from beside it is, too.
    assert only.reason == "planted: as asked"


def test_updated_code_is_run_where_it_is_asked_for(
    project: Path, words: Words, settle: Settle
) -> None:
    sweep, _ = submit(words("error"))
    assert settle(sweep)[0].reason == "planted: as asked"
    (project / "lib" / "troubles_words.py").write_text("WORD = 'mended'\n")
    verbs.retry(sweep)
    assert settle(sweep)[0].reason == "planted: as asked"
    verbs.retry(sweep, update_code=True)
    sweep = Sweep.read(sweep.folder)
    assert settle(sweep)[0].reason == "planted: mended"
    assert len(sweep.facts["code"]) == 2


def test_cells_outlive_the_command_that_submitted_them(
    project: Path, words: Words, settle: Settle
) -> None:
    script = "import sys, os, signal; from frontrunner import cli; cli.main(sys.argv[1:]); "
    script += "os.kill(os.getpid(), signal.SIGKILL)"
    arguments = ["submit", "launcher=local", *words("none", "seed=0,1")]
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True)
    assert done.returncode == -signal.SIGKILL
    (folder,) = (f.parent for f in (project / "runs" / "sweeps").glob("*/sweep.json"))
    assert {s.state for s in settle(Sweep.read(folder))} == {State.DONE}


def test_cancel_stops_what_runs_and_what_waits(project: Path, words: Words, settle: Settle) -> None:
    arguments = ["launcher=local", *words("wait", "seed=0,1,2")]
    sweep, _ = verbs.submit(plans.plan(arguments))
    running(sweep)
    assert len(verbs.cancel(sweep)) == 3
    found = settle(sweep)
    assert {s.state for s in found} == {State.KILLED}
    assert sorted(s.attempts for s in found) == [0, 0, 1]
    assert {s.reason for s in found} == {"stopped by SIGTERM", "cancelled before it started"}


def test_a_cell_goes_on_where_a_kill_left_it(project: Path, words: Words, settle: Settle) -> None:
    sweep, _ = submit(words("wait", "method.seconds=2"))
    (one,) = running(sweep)
    steps = sweep.directory(one.cell) / "steps.txt"
    os.kill(pid_of(sweep), signal.SIGKILL)
    (lost,) = settle(sweep)
    assert (lost.state, lost.reason) == (State.KILLED, "ended by SIGKILL")
    taken = len(steps.read_text())
    verbs.retry(sweep)
    (done,) = settle(sweep)
    assert (done.state, done.attempts) == (State.DONE, 2)
    assert 0 < taken < len(steps.read_text()) == 20


def test_a_dead_supervisor_is_noticed_and_what_it_left_is_taken_up(
    project: Path, words: Words, settle: Settle
) -> None:
    arguments = ["launcher=local", *words("wait", "method.seconds=3", "seed=0,1")]
    sweep, _ = verbs.submit(plans.plan(arguments))
    running(sweep)
    (launch,) = (sweep.folder / "local").iterdir()
    holder = int((launch / ".lock").read_text().split("pid ")[1].split()[0])
    os.kill(holder, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while State.KILLED not in {s.state for s in statuses(sweep)} and time.monotonic() < deadline:
        time.sleep(0.1)
    waited = next(s for s in statuses(sweep) if s.attempts == 0)
    assert waited.state == State.KILLED
    assert "supervisor" in waited.reason
    assert {c.name for c in verbs.retry(sweep)} >= {waited.cell.name}
    settle(sweep)
    verbs.retry(sweep)
    assert {s.state for s in settle(sweep)} == {State.DONE}


def test_two_attempts_never_share_a_directory(project: Path, words: Words, settle: Settle) -> None:
    sweep, _ = submit(words("wait", "method.seconds=2"))
    (one,) = running(sweep)
    job = read_job(sweep.directory(one.cell))
    plan = plans.plan(["launcher=local", *words("wait", "method.seconds=2")])
    plan.launcher.submit(sweep, list(sweep.cells))  # somebody's second job for the same cell
    second = read_job(sweep.directory(one.cell))
    assert job
    assert second
    assert job["job"] != second["job"]
    (done,) = settle(sweep)
    assert done.state == State.DONE
    assert done.attempts == 1


def test_run_m_in_processes(project: Path, words: Words, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "-m", "launcher=local", *words("none,bug", "seed=0,1")]
    assert cli.main(arguments) == 1
    told = capfd.readouterr().err
    assert "2 of 4 runs done" in told
    assert "troubles-bug-s1" in told
    assert cli.main(["run", "-m", "launcher=local", *words("none", "seed=0,1")]) == 0


def test_other_launchers_of_hydra_run_cells_too(project: Path, words: Words) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    arguments = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", *words("none", "seed=0,1")]
    command = [sys.executable, "-m", "frontrunner.cli", "run", "-m", *arguments]
    subprocess.run(command, check=True, capture_output=True, timeout=200)
    assert len(list((project / "runs").glob("*/*/front.json"))) == 2


def test_devices_are_given_out_one_cell_each(project: Path, words: Words, settle: Settle) -> None:
    arguments = ["launcher=local", "launcher.devices=[3,5]", *words("device", "seed=range(0,4)")]
    sweep, _ = verbs.submit(plans.plan(arguments))
    found = settle(sweep)
    assert {s.reason for s in found} == {"3", "5"}


@pytest.mark.parametrize(
    ("words_of", "told"),
    [
        ("launcher.devices=[]", "launcher.devices"),
        ("launcher.devices=[0,0]", "launcher.devices"),
        ("launcher.per_device=0", "launcher.per_device"),
        ("launcher.devises=1", "launcher.devises"),
        ("runner.devices=2", "needs 2 devices"),
        ("fresh=true", "overwrites nothing"),
        ("method.whatt=none", "method.whatt"),
        ("seed=-1", "seed=-1"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(
    project: Path, words: Words, words_of: str, told: str
) -> None:
    with pytest.raises(ConfigError, match=told.replace(".", r"\.")):
        submit_only(words("none"), words_of)
    assert not (project / "runs").exists()


def submit_only(words: list[str], more: str) -> None:
    verbs.submit(plans.plan(["launcher=local", *words, more]))


def test_retry_changes_the_launcher_and_nothing_else(mixed: Sweep) -> None:
    with pytest.raises(ConfigError, match=r"only launcher\.… can be changed"):
        verbs.retry(mixed, overrides=["seed=3"])
    with pytest.raises(ConfigError, match="per_device"):
        verbs.retry(mixed, overrides=["launcher.per_device=0"])
    with pytest.raises(ConfigError, match="nothing to retry"):
        verbs.retry(mixed, names=["troubles-none"])
    with pytest.raises(ConfigError, match="names no cell"):
        verbs.retry(mixed, names=["trubles-kill"])


def test_no_launcher_is_named(project: Path, words: Words) -> None:
    with pytest.raises(ConfigError, match="launcher=local"):
        plans.plan(words("none"))


def test_a_folder_that_is_no_sweep(project: Path) -> None:
    with pytest.raises(RunError, match="is not a sweep"):
        Sweep.read(project)


def test_unknown_jobs_are_left_out(project: Path) -> None:
    job = {"launcher": "local", "job": "7.abc", "sweep": str(project), "after": 0}
    assert LocalQueue().states([job]) == {}


def running(sweep: Sweep, seconds: float = 120) -> list:
    """The cells that have begun, as soon as there is one."""
    deadline = time.monotonic() + seconds
    while True:
        found = [
            s
            for s in statuses(sweep)
            if s.state == State.RUNNING and (sweep.directory(s.cell) / "steps.txt").exists()
        ]
        if found:
            return found
        assert time.monotonic() < deadline
        time.sleep(0.05)


def pid_of(sweep: Sweep) -> int:
    (launch,) = (sweep.folder / "local").iterdir()
    events = [json.loads(line) for line in (launch / "journal.jsonl").read_text().splitlines()]
    assert manifest.is_held(launch)
    return int(events[-1]["pid"])
