"""How the cells of a sweep stand: what run directories say, put together with what the scheduler
says of their jobs. Neither is right alone: a killed process leaves ``running`` behind, and a
scheduler does not see what went wrong inside a job that it calls completed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frontrunner import files
from frontrunner.errors import RunError
from frontrunner.sweeps.launcher import Job, JobState, Queue, State
from frontrunner.sweeps.local import LocalQueue
from frontrunner.sweeps.sweep import Cell, Sweep, read_job
from frontrunner.tracking import manifest

STOPPED = {
    "TimeLimit": State.TIMEOUT,
    "Preempted": State.PREEMPTED,
    "Cancelled": State.KILLED,
    "KeyboardInterrupt": State.KILLED,
}


@dataclass(frozen=True)
class Standing:
    """How a cell stands.

    Attributes:
        reason: why, in a line; empty where there is nothing to say.
        attempts: that began so far.
        progress: of the attempt under way, such as ``fit 300/1000``.
        seconds: of the whole run once it is done.
        log: what the last job printed, where there is such a file.
        job: last submitted for the cell, if any.
    """

    cell: Cell
    state: State
    reason: str = ""
    attempts: int = 0
    progress: str = ""
    seconds: float | None = None
    log: Path | None = None
    job: Job | None = None

    def lines(self, count: int = 5) -> list[str]:
        """The last lines of its log."""
        if self.log is None:
            return []
        try:
            with open(self.log, "rb") as handle:
                handle.seek(max(0, handle.seek(0, 2) - 8192))
                text = handle.read().decode(errors="replace")
        except OSError:
            return []
        return [line for line in re.split(r"[\r\n]+", text) if line.strip()][-count:]


def statuses(sweep: Sweep, cells: Sequence[Cell] | None = None) -> list[Standing]:
    """How the cells of a sweep (or these of them) stand, in their order.

    Raises:
        RunError: a scheduler that has some of them cannot be asked.
    """
    chosen = list(sweep.cells if cells is None else cells)
    return standings([(cell, sweep.directory(cell)) for cell in chosen])


def standings(places: Sequence[tuple[Cell, Path]]) -> list[Standing]:
    """How cells stand that run in these directories."""
    records = [_record(directory) for _, directory in places]
    jobs = [None if _done(r) else read_job(d) for r, (_, d) in zip(records, places, strict=True)]
    known = _ask([job for job in jobs if job is not None])
    return [
        _standing(cell, directory, record, job, known)
        for (cell, directory), record, job in zip(places, records, jobs, strict=True)
    ]


def queue(launcher: str) -> Queue:
    """Where jobs of a launcher so named are asked about.

    Raises:
        RunError: no such launcher.
    """
    if launcher == "local":
        return LocalQueue()
    if launcher == "slurm":
        from frontrunner.sweeps.slurm_queue import SlurmQueue

        return SlurmQueue()
    raise RunError(f"job.json names a launcher '{launcher}' that this frontrunner does not know")


# ---------------------------------------------------------------------- details


def _record(directory: Path) -> dict[str, Any] | RunError | None:
    """``run.json``; None where there is none, the error where it cannot be read."""
    try:
        return manifest.RunRecord.read(directory).data
    except RunError as error:
        return error if (directory / manifest.FILE).exists() else None


def _done(record: Any) -> bool:
    return isinstance(record, dict) and record["status"] == "done"


def _ask(jobs: Sequence[Job]) -> dict[tuple[str, str], JobState]:
    by_launcher: dict[str, list[Job]] = {}
    for job in jobs:
        by_launcher.setdefault(str(job["launcher"]), []).append(job)
    return {
        (launcher, job): state
        for launcher, its in by_launcher.items()
        for job, state in queue(launcher).states(its).items()
    }


def _standing(
    cell: Cell,
    directory: Path,
    record: dict[str, Any] | RunError | None,
    job: Job | None,
    known: Mapping[tuple[str, str], JobState],
) -> Standing:
    if isinstance(record, RunError):
        return Standing(cell, State.FAILED, str(record), job=job)
    attempts = record["attempt"] if record else 0
    if record and record["status"] == "done":
        return Standing(
            cell, State.DONE, attempts=attempts, seconds=(record["timings"] or {}).get("total")
        )
    log = Path(job["log"]) if job and job.get("log") else None
    asked = known.get((str(job["launcher"]), str(job["job"]))) if job else None

    def stands(state: State, reason: str = "", progress: str = "") -> Standing:
        return Standing(cell, state, reason, attempts, progress, None, log, job)

    if asked and asked.state in (State.QUEUED, State.RUNNING):
        if asked.state == State.QUEUED:
            return stands(State.QUEUED, asked.reason)
        return stands(State.RUNNING, asked.reason, _progress(directory))
    if record and record["status"] == "running" and manifest.is_held(directory):
        return stands(State.RUNNING, "not by the job that this sweep knows", _progress(directory))
    # An attempt before the job was submitted says nothing of the job.
    fresh = attempts > (job["after"] if job else 0)
    if record and record["status"] == "failed" and fresh:
        error = record["error"] or {}
        state = STOPPED.get(str(error.get("type")), State.FAILED)
        told = str(error.get("message") or error.get("type") or "")
        return stands(state, " ".join(told.split()))
    if asked and asked.state not in (None, State.DONE):
        return stands(asked.state, asked.reason)
    if not fresh and job is None:
        return stands(State.PLANNED)
    if not fresh:
        # Ended, or forgotten by the scheduler, before the run itself wrote anything.
        return stands(State.KILLED, (asked.reason if asked else "") or "its job ended unseen")
    return stands(State.KILLED, (asked.reason if asked else "") or "it ended without a word")


def _progress(directory: Path) -> str:
    """What the run last said of its steps, or how many points it has scored since."""
    points = sum(_points(path) for path in directory.glob("points*.jsonl"))
    if points and (directory / "pareto_set" / "pareto_set.json").exists():
        return f"point {points}"
    try:
        told = files.read_json(directory / "progress.json")
        return f"{told['what']} {told['done']}/{told['total']}"
    except (RunError, OSError, KeyError, TypeError):
        return ""


def _points(path: Path) -> int:
    try:
        return max(0, path.read_bytes().count(b"\n") - 1)  # the first line is a header
    except OSError:
        return 0
