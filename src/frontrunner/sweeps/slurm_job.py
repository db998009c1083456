"""A cell inside its Slurm job: why a signal came, back into the queue, and how the job ends.

Slurm tells a job little. A warning (SIGUSR2) comes before the time limit and, where the cluster is
set up so, before preemption; elsewhere preemption begins with the SIGTERM that also ends a
cancelled job. What is meant is asked of the controller, which knows it by then.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import FrameType

from frontrunner.errors import (
    Cancelled,
    FrontrunnerError,
    HeldError,
    Preempted,
    RunError,
    Stopped,
    TimeLimit,
)
from frontrunner.sweeps import slurm_cluster
from frontrunner.sweeps.cell import WARNING, carry_out
from frontrunner.sweeps.sweep import Sweep
from frontrunner.tracking import manifest

ANSWER = 5.0  # seconds for the controller to say why
REQUEUE = 40.0  # seconds to get back into the queue
OTHER = 300.0  # seconds to wait for another attempt that is still alive
SLACK = 90.0  # seconds; Slurm warns up to a minute early


def run(folder: str, identity: str, max_attempts: int, minutes: float, warning: int) -> str:
    """What submitit calls in each task of a job; returns the run directory.

    It ends the process instead, with a message, if the cell fails in a way that a user can mend, or
    is stopped. Other exceptions are submitit's, which ends the job with them.
    """
    rank = int(os.environ.get("SLURM_PROCID") or 0)
    attempt = Attempt(
        number=int(os.environ.get("SLURM_RESTART_COUNT") or 0) + 1,
        most=max_attempts,
        minutes=minutes,
        warning=warning,
        started=time.monotonic(),
    )

    def stop(number: int, frame: FrameType | None) -> None:
        raise attempt.why(number)

    signal.signal(signal.SIGCONT, signal.SIG_DFL)
    for number in (WARNING, signal.SIGTERM):  # instead of submitit's own, until `carry_out`'s
        signal.signal(number, stop)
    try:
        if rank == 0 and attempt.number > max_attempts:
            _give_up(folder, identity, attempt)
        return _once_alone(folder, identity, attempt)
    except Stopped as stopped:
        _deaf()
        if rank:  # the first process sees to it; another's exit code must not end it before
            sys.exit(0)
        if attempt.goes_on:
            _requeue(attempt)
            print(f"frontrunner: {stopped}", file=sys.stderr, flush=True)
            sys.exit(0)
        sys.exit(f"frontrunner: {stopped}")
    except FrontrunnerError as error:
        sys.exit(f"frontrunner: {error}")
    finally:
        _deaf()


@dataclass
class Attempt:
    """The attempt under way: its number from 1, of at most ``most``, the time limit and how many
    seconds before it Slurm warns, and when it started (`time.monotonic`)."""

    number: int
    most: int
    minutes: float
    warning: int
    started: float
    goes_on: bool = False
    requeued: bool = False

    def why(self, number: int) -> Stopped:
        """What a signal means; decides whether the job goes back into the queue."""
        facts = facts_of(job_name())
        kind = cause(
            number,
            facts,
            restarts=self.number - 1,
            left=self.minutes * 60 - (time.monotonic() - self.started),
            warning=self.warning,
        )
        self.requeued = _restarts(facts) > self.number - 1
        what = {
            TimeLimit: "time limit reached",
            Preempted: "preempted",
            Cancelled: f"stopped by {signal.Signals(number).name}",
        }[kind]
        if kind is Cancelled:
            return kind(what)
        self.goes_on = self.requeued or self.number < self.most
        if self.goes_on:
            return kind(f"{what} in attempt {self.number} of {self.most}; continued in the next")
        return kind(_given_up(self.number, kind))


def cause(
    number: int, facts: Mapping[str, str], *, restarts: int, left: float, warning: int
) -> type[Stopped]:
    """What a signal means.

    Args:
        number: of the signal.
        facts: what Slurm says of the job; empty if it does not answer.
        restarts: that this attempt knows of.
        left: seconds to the time limit by the job's own watch.
        warning: seconds before the limit at which Slurm was asked to warn.
    """
    if _restarts(facts) > restarts:  # in the queue already: preempted, or requeued by hand
        return Preempted
    if facts.get("PreemptTime", "None") not in ("None", "Unknown", "N/A"):
        return Preempted
    limit, run = (slurm_cluster.minutes(facts.get(k, "")) for k in ("TimeLimit", "RunTime"))
    if limit is not None and run is not None:
        left = 60 * (limit - run)
    if number == WARNING:
        return TimeLimit if left <= warning + SLACK else Preempted
    return TimeLimit if left <= 0 else Cancelled


def job_name() -> str:
    """Of this job, as Slurm's commands take it. An array's last element has the number of the whole
    array as its own, so that elements must be named as such."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array:
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURM_JOB_ID"]


def facts_of(job: str) -> dict[str, str]:
    """What ``scontrol show job`` says; empty if it does not answer in seconds."""
    try:
        done = slurm_cluster.ask(["scontrol", "--oneliner", "show", "job", job], ANSWER)
    except RunError:
        return {}
    return dict(re.findall(r"(\S+?)=(\S*)", done.stdout)) if done.returncode == 0 else {}


# ---------------------------------------------------------------------- details


def _deaf() -> None:
    """From here on the process only ends, which further signals must not disturb."""
    for number in (WARNING, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _restarts(facts: Mapping[str, str]) -> int:
    return int(facts.get("Restarts", "0") or 0)


def _given_up(attempts: int, kind: type[Stopped]) -> str:
    by = "its time limit" if kind is TimeLimit else "preemption or lost nodes"
    keys = "launcher.max_attempts" + (" or launcher.time" if kind is TimeLimit else "")
    return f"stopped {attempts} times, now by {by}: raise {keys}, and retry"


def _give_up(folder: str, identity: str, attempt: Attempt) -> None:
    """Slurm itself has put this job into the queue too often."""
    sweep, cell = Sweep.read_cell(folder, identity)
    directory = sweep.directory(cell)
    with manifest.claim(directory):
        stopped = Preempted(_given_up(attempt.number - 1, Preempted))
        if (directory / manifest.FILE).exists():
            record = manifest.RunRecord.read(directory)
            if record.data["status"] == "done":
                return
            record.fail(stopped)
    raise stopped


def _once_alone(folder: str, identity: str, attempt: Attempt) -> str:
    """Carry the cell out. An earlier attempt may be alive on a node that Slurm lost sight of: it is
    waited for, and what it finishes is then simply there."""
    deadline = time.monotonic() + OTHER
    while True:
        try:
            return str(carry_out(folder, identity, attempt.why))
        except HeldError as error:
            if time.monotonic() > deadline:
                raise
            print(f"frontrunner: {error}", flush=True)
            time.sleep(3)


def _requeue(attempt: Attempt) -> None:
    job, deadline = job_name(), time.monotonic() + REQUEUE
    while not attempt.requeued:
        try:
            done = slurm_cluster.ask(["scontrol", "requeue", job], 2 * ANSWER)
            if done.returncode == 0 or _restarts(facts_of(job)) >= attempt.number:
                return
            problem = slurm_cluster.complaint(done)
        except RunError as error:
            problem = str(error)
        if time.monotonic() > deadline:
            sys.exit(f"frontrunner: stopped, and not requeued ({problem}): retry it")
        time.sleep(2)
