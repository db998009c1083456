"""Moments between two states: interrupted commands, full disks, two submits at once."""

from __future__ import annotations

import errno
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from frontrunner import cli
from frontrunner.errors import ConfigError, RunError
from frontrunner.sweeps import local, verbs
from frontrunner.sweeps import plan as plans
from frontrunner.sweeps.freeze import freeze
from frontrunner.sweeps.launcher import State
from frontrunner.sweeps.status import statuses
from frontrunner.sweeps.sweep import FILE, MANIFEST, Sweep
from frontrunner.tracking import manifest

Words = Callable[..., list[str]]
Settle = Callable[..., list]


def frozen(words: list[str]) -> Sweep:
    return plans.write(plans.plan(["launcher=local", *words]))


def test_ctrl_c_while_run_m_submits_stops_what_it_started(
    project: Path, words: Words, settle: Settle, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, _ = verbs.submit(plans.plan(["launcher=local", *words("wait", "method.seconds=10")]))
    start = local._start

    def interrupted(*arguments: Any) -> None:
        start(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(local, "_start", interrupted)
    arguments = ["launcher=local", *words("wait", "method.seconds=10", "seed=0,1")]
    assert cli.main(["run", "-m", *arguments]) == 130
    folder = plans.plan(arguments).folder
    found = {s.cell.config["seed"]: s.state for s in settle(Sweep.read(folder))}
    # The cell of the earlier submit is not this command's to stop.
    assert found == {0: State.DONE, 1: State.KILLED}
    assert settle(before)[0].attempts == 1


def test_a_launch_under_way_is_not_lost(project: Path, words: Words) -> None:
    launch = project / "local" / "1"
    launch.mkdir(parents=True)
    job = {"launcher": "local", "job": "1.abc", "sweep": str(project), "after": 0}
    queue = local.LocalQueue()
    with manifest.claim(launch / local.SUBMIT):  # its supervisor is about to begin
        assert queue.states([job])["1.abc"].state == State.QUEUED
    found = queue.states([job])["1.abc"]
    assert found.state is None
    assert str(launch / "supervisor.log") in found.reason


def test_a_cell_stopped_before_its_run_began_is_killed(project: Path) -> None:
    launch = project / "local" / "1"
    launch.mkdir(parents=True)
    event = {"cell": "abc", "event": "ended", "code": 143}
    (launch / "journal.jsonl").write_text(json.dumps(event) + "\n")
    job = {"launcher": "local", "job": "1.abc", "sweep": str(project), "after": 0}
    found = local.LocalQueue().states([job])["1.abc"]
    assert (found.state, found.reason) == (State.KILLED, "stopped by SIGTERM")


def test_submits_to_one_output_folder_wait_for_each_other(
    project: Path, words: Words, settle: Settle
) -> None:
    plan = plans.plan(["launcher=local", *words("none")])
    taken: list[verbs.Weighed] = []
    other = threading.Thread(target=lambda: taken.append(verbs.submit(plan)[1]))
    with manifest.claim(plan.folder.parent):  # another submit under way
        other.start()
        other.join(1)
        assert other.is_alive()
        assert not plan.folder.exists()
    other.join(60)
    assert len(taken[0].start) == 1
    settle(Sweep.read(plan.folder))


def test_a_submit_that_hangs_does_not_hang_others(
    project: Path, words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verbs, "TURN", 0.1)
    plan = plans.plan(["launcher=local", *words("none")])
    with manifest.claim(plan.folder.parent), pytest.raises(RunError, match="wait for it"):
        verbs.submit(plan)


@pytest.mark.parametrize("name", [FILE, MANIFEST])
def test_a_damaged_sweep_is_mended_as_its_error_says(
    project: Path, words: Words, name: str
) -> None:
    sweep = frozen(words("none", "seed=0,1"))
    (sweep.folder / name).write_text('{"a": ')
    with pytest.raises(RunError, match=f"delete {sweep.folder / FILE} and submit") as told:
        Sweep.read(sweep.folder)
    assert "\n" not in str(told.value)
    (sweep.folder / FILE).unlink()
    assert frozen(words("none", "seed=0,1")).cells == sweep.cells
    assert {s.state for s in statuses(Sweep.read(sweep.folder))} == {State.PLANNED}


def test_a_disk_that_fills_up_is_named_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path) -> None:  # as shutil words it
        raise OSError(errno.ENOSPC, "No space left on device", str(source))

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space") as told:
        freeze(tmp_path / "code", [])
    assert str(told.value.filename).startswith(str(tmp_path / "code"))
    assert list((tmp_path / "code").iterdir()) == []


@pytest.mark.parametrize("name", ["..", ".", ".hidden", "-x", "a/b", "a b"])
def test_names_that_are_no_folder(project: Path, words: Words, name: str) -> None:
    with pytest.raises(ConfigError, match="--name"):
        plans.plan(["launcher=local", *words("none")], name)


def test_the_folder_comes_before_what_retry_changes(
    project: Path, words: Words, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = frozen(words("none"))
    assert cli.main(["retry", str(sweep.folder), "seed=3"]) == 1
    assert "only launcher.… can be changed" in capsys.readouterr().err
    assert cli.main(["retry", str(sweep.folder), "--failed", "launcher.per_device=0"]) == 0
    assert cli.main(["retry", str(sweep.folder), "--cell", "0", "launcher.per_device=0"]) == 1
    assert "launcher.per_device" in capsys.readouterr().err


def test_what_to_type_next_can_be_typed(
    project: Path, words: Words, settle: Settle, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["submit", "launcher=local", *words("none", "output='my runs'"), "--name", "a"]
    assert cli.main(arguments) == 0
    assert "frontrunner status 'my runs/sweeps/a'" in capsys.readouterr().out
    settle(Sweep.read(project / "my runs" / "sweeps" / "a"))


def test_gpus_are_those_that_can_be_seen(
    project: Path, words: Words, settle: Settle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,7")
    arguments = ["launcher=local", "launcher.devices=[0,1]", *words("device", "seed=0,1")]
    sweep, _ = verbs.submit(plans.plan(arguments))
    assert {s.reason for s in settle(sweep)} == {"6", "7"}


def test_gpus_that_are_not_there(
    project: Path, words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_gpus", lambda: 2)
    with pytest.raises(ConfigError, match=r"\[0, 9\]: the GPUs here are \[0, 1\]"):
        plans.plan(["launcher=local", "launcher.devices=[0,9]", *words("none")])


def test_a_sweep_away_from_its_runs(project: Path, words: Words) -> None:
    sweep = frozen(words("none"))
    (project / "runs").rename(project / "moved")  # with its runs: nothing is lost
    moved = project / "moved" / "sweeps" / sweep.name
    assert Sweep.read(moved).cells == sweep.cells
    moved.rename(project / "alone")
    with pytest.raises(RunError, match="moved away from its runs"):
        Sweep.read(project / "alone")
