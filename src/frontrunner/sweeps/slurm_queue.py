"""How jobs of a Slurm cluster stand, with and without accounting.

The controller is asked once for all jobs; it remembers them for minutes after they end (MinJobAge).
Of older ones sacct tells where there is accounting, else the text file of jobcomp.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from frontrunner import files
from frontrunner.errors import RunError
from frontrunner.sweeps.launcher import Job, JobState, Queue, State, signal_name
from frontrunner.sweeps.slurm_cluster import ask, complaint, configuration

FORMAT = "JobArrayID:64 ,State:24 ,RestartCnt:12 ,exit_code:12 ,Reason:48 "
FATAL = (signal.SIGABRT, signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM)
AT_ONCE = 500  # jobs named in one command
TAIL = 64 * 2**20  # bytes of a cluster's jobcomp file that are looked through

WAITING = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "CONFIGURING"}
RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "STAGE_OUT", "SIGNALING", "STOPPED", "RESIZING"}
ENDED = {
    "COMPLETED": State.DONE,
    "FAILED": State.FAILED,
    "CANCELLED": State.KILLED,
    "OUT_OF_MEMORY": State.KILLED,
    "TIMEOUT": State.TIMEOUT,
    "DEADLINE": State.TIMEOUT,
    "PREEMPTED": State.PREEMPTED,
    "NODE_FAIL": State.NODE_FAIL,
    "BOOT_FAIL": State.NODE_FAIL,
    "REVOKED": State.KILLED,
}
WORDS = {
    "CANCELLED": "cancelled",
    "OUT_OF_MEMORY": "out of memory: raise launcher.memory",
    "TIMEOUT": "time limit",
    "DEADLINE": "its deadline passed",
    "PREEMPTED": "preempted",
    "NODE_FAIL": "its node failed",
    "BOOT_FAIL": "its node did not boot",
    "REVOKED": "taken by another cluster",
}
REASONS = {
    "None": "",
    "Priority": "waiting for jobs of higher priority",
    "Resources": "waiting for free nodes",
    "BeginTime": "waiting for its time to begin",
    "Dependency": "waiting for another job",
    "DependencyNeverSatisfied": "waits for a job that failed: cancel it",
    "JobArrayTaskLimit": "as many run as launcher.parallel allows",
    "JobHeldUser": "held: scontrol release lets it go",
    "JobHeldAdmin": "held by an administrator",
    "PartitionTimeLimit": "launcher.time is more than the partition allows",
    "PartitionNodeLimit": "launcher.nodes is more than the partition allows",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition is inactive",
    "ReqNodeNotAvail": "its nodes are down or reserved",
    "NodeDown": "a node that it needs is down",
    "InvalidAccount": "launcher.account is not valid",
    "InvalidQOS": "launcher.qos is not valid",
    "BadConstraints": "no node is as launcher.constraint and the other keys want it",
}


class SlurmQueue(Queue):
    """Jobs of the cluster that this machine's Slurm commands speak to."""

    def states(self, jobs: Sequence[Job]) -> dict[str, JobState]:
        by_id = {str(job["job"]): job for job in jobs if _is_job(str(job["job"]))}
        found = _from_squeue(by_id)
        for source in (_from_sacct, _from_jobcomp):
            missing = [job for job in by_id if job not in found]
            if missing:
                found |= source(missing)
        for job in by_id:
            found.setdefault(job, JobState(None, "it ended, and Slurm no longer knows how"))
        return found

    def cancel(self, jobs: Sequence[Job]) -> None:
        for some in _chunks([str(job["job"]) for job in jobs if _is_job(str(job["job"]))]):
            done = ask(["scancel", *some])
            if done.returncode and "Invalid job id" not in done.stderr:
                raise RunError(f"not all jobs could be cancelled: {complaint(done)}")


# ---------------------------------------------------------------------- sources


def _from_squeue(jobs: Mapping[str, Job]) -> dict[str, JobState]:
    """What the controller remembers.

    Raises:
        RunError: it cannot be asked.
    """
    found = {}
    for some in _chunks(_arrays(jobs)):
        listed = f"--jobs={','.join(some)}"
        done = ask(
            ["squeue", "--noheader", "--array", "--states=all", listed, f"--Format={FORMAT}"]
        )
        if done.returncode and "Invalid job id" not in done.stderr:
            raise RunError(f"squeue cannot say how jobs stand: {complaint(done)}")
        for job, state, restarts, code, reason in _fields(done.stdout.splitlines(), 5):
            if job in jobs:
                found[job] = _state(state, reason, _status(code), int(restarts or 0), jobs[job])
    return found


def _from_sacct(jobs: Iterable[str]) -> dict[str, JobState]:
    wanted, found = set(jobs), {}
    for some in _chunks(_arrays(wanted)):
        words = ["sacct", "--allocations", "--noheader", "--parsable2"]
        done = ask([*words, "--format=JobID,State,ExitCode", "--jobs", ",".join(some)])
        if done.returncode:
            return {}  # no accounting here, or it is down: others may know
        for line in done.stdout.splitlines():
            job, state, code = [*line.split("|"), "", "", ""][:3]
            if job in wanted:
                end, number = _exit(code)
                # sacct shows srun's 128 + n as n; cells themselves end with 0 or 1.
                found[job] = _state(state, "", (end, number or (end if end in FATAL else 0)))
    return found


def _from_jobcomp(jobs: Iterable[str]) -> dict[str, JobState]:
    settings = configuration()
    if settings.get("JobCompType") != "jobcomp/filetxt":
        return {}
    wanted, found = set(jobs), {}
    for line in _last_lines(settings.get("JobCompLoc", "")):
        entry = dict(re.findall(r"(\w+)=(\S*)", line))
        job = entry.get("JobId", "")
        if "ArrayTaskId" in entry:
            job = f"{entry.get('ArrayJobId')}_{entry['ArrayTaskId']}"
        # PENDING is how a requeue is written down; a later line says how the job ended.
        if job in wanted and entry.get("JobState") in ENDED:
            found[job] = _state(entry["JobState"], "", _exit(entry.get("ExitCode", "")))
    return found


# ---------------------------------------------------------------------- words


def _state(
    word: str,
    reason: str,
    exit_: tuple[int, int],
    restarts: int = 0,
    job: Job | None = None,
) -> JobState:
    """``exit_`` is the code and the signal that a job ended with."""
    name = word.split()[0].rstrip("+") if word.split() else ""  # "CANCELLED by 1000"
    if name in WAITING:
        again = _again(restarts, job) if restarts else ""
        waits = REASONS.get(reason, reason)
        if again and reason in ("None", "BeginTime"):
            waits = ""
        return JobState(State.QUEUED, "; ".join(filter(None, (again, waits))))
    if name in RUNNING:
        return JobState(State.RUNNING)
    state = ENDED.get(name)
    if state is None:
        return JobState(None, f"Slurm calls it {word}")
    code, number = exit_
    if state == State.FAILED:
        # srun passes a signal on as the exit code 128 + n.
        number = number or (code - 128 if 128 < code < 160 else 0)
        if number:
            name = signal_name(number)
            return JobState(State.KILLED, f"signal {number}" + (f" ({name})" if name else ""))
        return JobState(State.FAILED, f"exit code {code}" if code else reason)
    return JobState(state, WORDS.get(name, ""))


def _again(restarts: int, job: Job | None) -> str:
    """Why a job is in the queue once more, as far as its run directory tells."""
    cause = "by Slurm, after preemption or the loss of its node"
    try:
        record = files.read_json(Path(str((job or {})["directory"])) / "run.json")
        kind = record["error"]["type"] if record["status"] == "failed" else ""
        cause = {"TimeLimit": "after its time limit", "Preempted": "after preemption"}.get(
            kind, cause
        )
    except (RunError, OSError, KeyError, TypeError):
        pass
    times = f" ({restarts} times so far)" if restarts > 1 else ""
    return f"requeued {cause}{times}"


def _status(raw: str) -> tuple[int, int]:
    """Code and signal of a wait status, which is how squeue has it."""
    number = int(raw) if raw.isdecimal() else 0
    return number >> 8, number & 0x7F


def _exit(text: str) -> tuple[int, int]:
    """Code and signal of ``1:0``."""
    found = re.match(r"(\d+):(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


# ---------------------------------------------------------------------- details


def _is_job(job: str) -> bool:
    return re.fullmatch(r"\d+(_\d+)?", job) is not None


def _arrays(jobs: Iterable[str]) -> list[str]:
    """The arrays, and jobs outside arrays, that these are of: few, where elements are many."""
    return list(dict.fromkeys(job.partition("_")[0] for job in jobs))


def _chunks(jobs: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(jobs), AT_ONCE):
        yield jobs[start : start + AT_ONCE]


def _fields(lines: Iterable[str], count: int) -> Iterator[list[str]]:
    for line in lines:
        words = line.split(None, count - 1)
        if len(words) >= count - 1:
            yield [*(word.strip() for word in words), ""][:count]


def _last_lines(path: str) -> list[str]:
    try:
        with open(path, "rb") as handle:
            handle.seek(max(0, os.fstat(handle.fileno()).st_size - TAIL))
            return handle.read().decode(errors="replace").splitlines()
    except OSError:
        return []
