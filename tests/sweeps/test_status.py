"""How a cell stands, for everything that its run and its job may say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from frontrunner import files
from frontrunner.errors import Cancelled, Preempted, RunError, TimeLimit
from frontrunner.sweeps import status
from frontrunner.sweeps.launcher import JobState, Queue, State
from frontrunner.sweeps.sweep import JOB, Cell, announce_job, write_job
from frontrunner.tracking import manifest

CELL = Cell("0123456789abcdef", "../../task/a-s0-01234567", (), {})


class Fixed(Queue):
    """A scheduler that says the same of every job."""

    def __init__(self, state: JobState | None) -> None:
        self.state = state

    def states(self, jobs: Any) -> dict[str, JobState]:
        return {} if self.state is None else {str(job["job"]): self.state for job in jobs}

    def cancel(self, jobs: Any) -> None:
        raise AssertionError


@pytest.fixture
def stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """``stands(asked)``: how the cell stands if the scheduler says so of its job."""

    def ask(asked: JobState | None) -> status.Standing:
        monkeypatch.setattr(status, "queue", lambda launcher: Fixed(asked))
        (one,) = status.standings([(CELL, tmp_path)])
        return one

    return ask


def submitted(directory: Path) -> None:
    announce_job(directory)
    write_job(directory, {"launcher": "slurm", "job": "12_3", "sweep": "s", "log": "l"})


def attempt(directory: Path, error: BaseException | None = None) -> manifest.RunRecord:
    record = manifest.RunRecord.open(directory)
    if error is not None:
        record.fail(error)
    return record


def test_nothing_known_is_planned(stands: Any) -> None:
    assert stands(None).state == State.PLANNED


def test_a_submission_that_was_cut_short_is_planned(stands: Any, tmp_path: Path) -> None:
    announce_job(tmp_path)
    assert stands(None).state == State.PLANNED
    (tmp_path / JOB).write_text('{"launcher": "sl')
    assert stands(None).state == State.PLANNED


@pytest.mark.parametrize(
    ("asked", "state"),
    [
        (JobState(State.QUEUED, "waits for resources"), State.QUEUED),
        (JobState(State.RUNNING), State.RUNNING),
        (JobState(State.FAILED, "exit code 1"), State.FAILED),
        (JobState(State.KILLED, "out of memory"), State.KILLED),
        (JobState(State.TIMEOUT), State.TIMEOUT),
        (JobState(State.PREEMPTED), State.PREEMPTED),
        (JobState(State.NODE_FAIL), State.NODE_FAIL),
        (JobState(State.DONE), State.KILLED),
        (JobState(None), State.KILLED),
        (None, State.KILLED),
    ],
)
def test_a_job_whose_run_says_nothing(
    stands: Any, tmp_path: Path, asked: JobState | None, state: State
) -> None:
    submitted(tmp_path)
    one = stands(asked)
    assert (one.state, one.attempts) == (state, 0)
    assert one.reason or state == State.RUNNING or (asked and not asked.reason)


@pytest.mark.parametrize("asked", [JobState(None), None, JobState(State.DONE)])
def test_running_is_not_believed_of_a_job_that_is_gone(
    stands: Any, tmp_path: Path, asked: JobState | None
) -> None:
    submitted(tmp_path)
    attempt(tmp_path)
    assert stands(asked).state == State.KILLED
    with manifest.claim(tmp_path):
        assert stands(asked).state == State.RUNNING


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (RunError("told"), State.FAILED),
        (KeyboardInterrupt(), State.KILLED),
        (Cancelled("told"), State.KILLED),
        (TimeLimit("told"), State.TIMEOUT),
        (Preempted("told"), State.PREEMPTED),
    ],
)
def test_the_run_knows_best_why_it_ended(
    stands: Any, tmp_path: Path, error: BaseException, state: State
) -> None:
    submitted(tmp_path)
    attempt(tmp_path, error)
    for asked in (JobState(State.DONE), JobState(State.FAILED, "exit code 1"), None):
        assert stands(asked).state == state
    assert stands(JobState(State.QUEUED)).state == State.QUEUED  # it was requeued


def test_what_an_earlier_job_left_is_not_this_one(stands: Any, tmp_path: Path) -> None:
    attempt(tmp_path, RunError("told"))
    assert stands(None).state == State.FAILED
    submitted(tmp_path)
    assert stands(JobState(State.QUEUED)).state == State.QUEUED
    one = stands(JobState(State.KILLED, "cancelled before it started"))
    assert (one.state, one.reason) == (State.KILLED, "cancelled before it started")


def test_done_is_done(stands: Any, tmp_path: Path) -> None:
    submitted(tmp_path)
    attempt(tmp_path).done(timings={"total": 3.0})
    one = stands(JobState(State.NODE_FAIL))
    assert (one.state, one.seconds) == (State.DONE, 3.0)


def test_a_record_cut_short_is_a_failure_that_says_what_to_do(stands: Any, tmp_path: Path) -> None:
    submitted(tmp_path)
    (tmp_path / manifest.FILE).write_text('{"schema_version": 1, "sta')
    one = stands(None)
    assert one.state == State.FAILED
    assert "delete" in one.reason


def test_progress_of_a_running_cell(stands: Any, tmp_path: Path) -> None:
    submitted(tmp_path)
    attempt(tmp_path)
    assert stands(JobState(State.RUNNING)).progress == ""
    files.write_json(tmp_path / "progress.json", {"what": "step", "done": 3, "total": 10})
    assert stands(JobState(State.RUNNING)).progress == "step 3/10"


def test_an_unknown_launcher_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="launcher 'pigeon'"):
        status.queue("pigeon")
