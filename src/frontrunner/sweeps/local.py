"""Cells on this machine: a process each, as many at once as there are places on its devices.

A supervisor of its own session takes the cells, so that whoever submitted them may go. It imports
what they need once and forks for every cell, which costs a cell milliseconds instead of seconds.
What becomes of the cells is written, line by line, to ``local/<launch>/journal.jsonl``.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from multiprocessing import connection
from pathlib import Path
from typing import Any

from frontrunner import files
from frontrunner.errors import ConfigError, RunError
from frontrunner.sweeps.launcher import Job, JobState, Launcher, Queue, State, signal_name
from frontrunner.sweeps.sweep import Cell, Sweep, write_job
from frontrunner.tracking import manifest

PLAN, JOURNAL, OUTPUT = "plan.json", "journal.jsonl", "supervisor.log"
SUBMIT = "submit"  # held by whoever starts the supervisor, until that is there
STARTING = 30.0  # seconds that a supervisor may take to say that it is there


class Local(Launcher):
    """Runs cells on this machine, in the background.

    Args:
        devices: numbers of the GPUs to use, among those that ``CUDA_VISIBLE_DEVICES`` leaves; null
            takes all there are, or the CPU. Where there are none, cells run on the CPU anyway.
        per_device: cells that share a device.
        threads: CPU threads of a cell; null divides the cores among the cells that run at once.
    """

    name = "local"

    def __init__(
        self,
        devices: Sequence[int] | None = None,
        per_device: int = 1,
        threads: int | None = None,
    ) -> None:
        given = list(devices) if isinstance(devices, Sequence) else devices
        whole = isinstance(given, list) and all(type(d) is int and d >= 0 for d in given)
        if given is not None and (not whole or not given or len(set(given)) < len(given)):
            raise ConfigError(f"launcher.devices={given} must be a list of GPUs, such as [0,1]")
        for name, value in (("per_device", per_device), ("threads", threads)):
            if value is not None and (type(value) is not int or value < 1):
                raise ConfigError(f"launcher.{name}={value} must be a whole number of at least 1")
        self.devices, self.per_device, self.threads = given, per_device, threads

    def check(self, cells: Sequence[Cell]) -> None:
        places, gpus = self._places(), _gpus()
        if gpus and self.devices is not None and max(self.devices) >= gpus:
            raise ConfigError(
                f"launcher.devices={list(self.devices)}: the GPUs here are {list(range(gpus))}"
            )
        for cell in cells:
            if needed(cell) > len(places):
                raise ConfigError(
                    f"{cell.name} needs {needed(cell)} devices and the launcher has {len(places)}: "
                    "give launcher.devices more, or runner.devices fewer"
                )

    def resources(self, cells: Sequence[Cell]) -> list[str]:
        places = self._places()
        what = "on the CPU" if places[0] is None or not _gpus() else f"on GPUs {self._devices()}"
        return [f"{len(places)} at a time {what}"]

    def submit(self, sweep: Sweep, cells: Sequence[Cell]) -> None:
        launch = _new(sweep.folder / "local")
        ordered = sorted(cells, key=lambda c: c.code)
        places = self._places()
        plan = {
            "groups": [
                {"code": code, "cells": [c.identity for c in group]}
                for code, group in groupby(ordered, key=lambda c: c.code)
            ],
            "places": places,
            "threads": self.threads or max(1, (os.cpu_count() or 1) // len(places)),
        }
        files.write_json(launch / PLAN, plan)
        (launch / JOURNAL).touch()
        with manifest.claim(launch / SUBMIT):
            for cell in ordered:
                job = f"{launch.name}.{cell.identity}"
                entry = {"launcher": self.name, "job": job, "sweep": str(sweep.folder)}
                log = str(_log(sweep, launch, cell.identity))
                write_job(sweep.directory(cell), {**entry, "log": log})
            _start(sweep, launch)

    def _places(self) -> list[int | None]:
        """A device for every cell that may run at once."""
        return [device for device in self._devices() for _ in range(self.per_device)]

    def _devices(self) -> list[int | None]:
        return list(self.devices or range(_gpus())) or [None]


class LocalQueue(Queue):
    """What supervisors have written of their cells."""

    def states(self, jobs: Sequence[Job]) -> dict[str, JobState]:
        launches: dict[Path, tuple[dict[str, dict[str, Any]], bool]] = {}
        found = {}
        for job in jobs:
            number, _, identity = str(job["job"]).partition(".")
            launch = Path(job["sweep"]) / "local" / number
            if not launch.is_dir():
                continue
            if launch not in launches:
                # In the order in which they are held, so that no moment is missed between them;
                # the journal last: what a supervisor writes before it ends is then read.
                alive = manifest.is_held(launch / SUBMIT) or manifest.is_held(launch)
                launches[launch] = (_journal(launch), alive)
            journal, alive = launches[launch]
            found[str(job["job"])] = _state(journal.get(identity), alive, launch)
        return found

    def cancel(self, jobs: Sequence[Job]) -> None:
        """As promised; cells that a supervisor has yet to start, it will not start."""
        wanted: dict[Path, list[str]] = {}
        for job in jobs:
            number, _, identity = str(job["job"]).partition(".")
            wanted.setdefault(Path(job["sweep"]) / "local" / number, []).append(identity)
        for launch, identities in wanted.items():
            with open(launch / "cancel", "a", encoding="utf-8") as handle:
                handle.write("".join(f"{identity}\n" for identity in identities))


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def needed(cell: Cell) -> int:
    """Devices that a cell trains on."""
    devices = cell.config["runner"].get("devices", 1)
    if isinstance(devices, list):
        return len(devices)
    return int(devices) if str(devices).isdecimal() else 1


# ---------------------------------------------------------------------- the supervisor


@dataclass
class _Running:
    process: Any
    identity: str
    places: list[int | None]
    stopped: bool = False


def supervise(folder: str, launch: str, group: int = 0) -> int:
    """Run the cells of one launch; what ``python -m frontrunner.sweeps.local`` does."""
    sweep, place = Sweep.read(folder), Path(folder) / "local" / launch
    if group:  # the lock is held by the supervisor that started this one
        return _supervise(sweep, place, group)
    with manifest.claim(place):
        return _supervise(sweep, place, group)


def _supervise(sweep: Sweep, launch: Path, group: int) -> int:
    plan = files.read_json(launch / PLAN)
    now = plan["groups"][group]
    cells = {c.identity: c for c in sweep.cells}
    waiting = deque(now["cells"])
    free: list[int | None] = list(plan["places"])
    running: list[_Running] = []
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_modules([cells[i] for i in waiting]))
    while waiting or running:
        cancelled = _cancelled(launch)
        for identity in [i for i in waiting if i in cancelled]:
            waiting.remove(identity)
            _write(launch, identity, "cancelled")
        for one in running:
            if one.identity in cancelled and not one.stopped:
                os.kill(one.process.pid, signal.SIGTERM)
                one.stopped = True
        while waiting and len(free) >= min(needed(cells[waiting[0]]), len(plan["places"])):
            identity = waiting.popleft()
            cell = cells[identity]
            taken = [free.pop(0) for _ in range(min(needed(cell), len(plan["places"])))]
            log = _log(sweep, launch, identity)
            process = context.Process(
                target=_cell, args=(str(sweep.folder), identity, str(log), taken, plan["threads"])
            )
            process.start()
            running.append(_Running(process, identity, taken))
            _write(launch, identity, "running", pid=process.pid)
        ended = connection.wait([one.process.sentinel for one in running], timeout=0.5)
        for one in [one for one in running if one.process.sentinel in ended]:
            one.process.join()
            _write(launch, one.identity, "ended", code=one.process.exitcode)
            free += one.places
            running.remove(one)
    if group + 1 < len(plan["groups"]):
        command, environment = _command(sweep, launch, group + 1)
        return subprocess.call(command, env=environment)
    return 0


def _cell(
    folder: str, identity: str, log: str, devices: Sequence[int | None], threads: int
) -> None:
    """In the process of a cell."""
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8") as handle:
        os.dup2(handle.fileno(), 1)
        os.dup2(handle.fileno(), 2)
    if None not in devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(_visible(d) for d in devices if d is not None)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    command = [sys.executable, "-P", "-m", "frontrunner.sweeps.cell", folder, identity]
    if len(devices) > 1:  # Lightning starts the other processes by repeating the command line
        os.execv(command[0], command)
    torch = sys.modules.get("torch")
    if torch is not None:  # it was imported before the number of threads was known
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    from frontrunner.sweeps.cell import main

    sys.exit(main([folder, identity]))


def _visible(device: int) -> str:
    """A GPU by its number among those that whoever submitted could see."""
    seen = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return seen[device] if device < len(seen) else str(device)


def _modules(cells: Sequence[Cell]) -> list[str]:
    """What to import before forking: what these cells are made of, and no more."""
    wanted = {"frontrunner.sweeps.local", "frontrunner.run", "frontrunner.front.plots"}
    wanted |= {"matplotlib.pyplot", "plotly.graph_objects"}  # of every front
    for cell in cells:
        nodes = (cell.config.get(k) for k in ("task", "method", "evaluator", "runner", "logger"))
        targets = [str(n["_target_"]) for n in nodes if isinstance(n, Mapping) and "_target_" in n]
        wanted |= {target.rpartition(".")[0] for target in targets}
        if "training" in cell.config["method"]:
            # The last is what the first step of any optimiser imports.
            wanted |= {"lightning.pytorch", "frontrunner.runner.training", "torch._dynamo"}
    return sorted(wanted)


# ---------------------------------------------------------------------- files of a launch


def _new(parent: Path) -> Path:
    """A folder of the next number."""
    parent.mkdir(parents=True, exist_ok=True)
    number = max((int(p.name) for p in parent.iterdir() if p.name.isdecimal()), default=0)
    while True:
        number += 1
        try:
            (parent / str(number)).mkdir()
        except FileExistsError:
            continue
        return parent / str(number)


def _log(sweep: Sweep, launch: Path, identity: str) -> Path:
    return sweep.logs / f"{identity}-local{launch.name}.log"


def _command(sweep: Sweep, launch: Path, group: int) -> tuple[list[str], dict[str, str]]:
    code = files.read_json(launch / PLAN)["groups"][group]["code"]
    environment = {**os.environ, "PYTHONPATH": sweep.python_path(code)}
    words = ["-P", "-m", "frontrunner.sweeps.local", str(sweep.folder), launch.name, str(group)]
    return [sys.executable, *words], environment


def _start(sweep: Sweep, launch: Path) -> None:
    """Start a supervisor in a session of its own, and wait until it is there."""
    command, environment = _command(sweep, launch, 0)
    output = launch / OUTPUT
    with open(output, "w", encoding="utf-8") as handle:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=handle,
            stderr=handle,
            start_new_session=True,
        )
    deadline = time.monotonic() + STARTING
    while process.poll() is None and not manifest.is_held(launch):
        if time.monotonic() > deadline:
            raise RunError(f"the cells' supervisor does not start; see {output}")
        time.sleep(0.02)
    if process.poll():
        raise RunError(f"the cells' supervisor ended with code {process.returncode}; see {output}")


def _write(launch: Path, identity: str, event: str, **facts: Any) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    line = json.dumps({"cell": identity, "event": event, "time": now, **facts})
    with open(launch / JOURNAL, "a", encoding="utf-8") as handle:
        handle.write(line + "\n")


def _journal(launch: Path) -> dict[str, dict[str, Any]]:
    """The last event of each cell."""
    return {entry["cell"]: entry for entry in _entries(launch / JOURNAL)}


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:  # cut short: its writer is gone, which the lock says too
            continue
        if isinstance(entry, dict) and "cell" in entry:
            yield entry


def _cancelled(launch: Path) -> set[str]:
    path = launch / "cancel"
    return set(path.read_text(encoding="utf-8").split()) if path.exists() else set()


def _state(entry: Mapping[str, Any] | None, alive: bool, launch: Path) -> JobState:
    event = entry["event"] if entry else None
    if event == "cancelled":
        return JobState(State.KILLED, "cancelled before it started")
    if entry and event == "ended":
        code = int(entry.get("code", 1))
        if code < 0:
            return JobState(State.KILLED, f"ended by {signal_name(-code) or f'signal {-code}'}")
        if code == 128 + signal.SIGTERM:  # a cell stopped before its run had begun
            return JobState(State.KILLED, "stopped by SIGTERM")
        return JobState(State.FAILED, f"exit code {code}") if code else JobState(State.DONE)
    if alive:
        return JobState(State.RUNNING if event == "running" else State.QUEUED)
    return JobState(None, f"the supervisor of its sweep has ended; see {launch / OUTPUT}")


if __name__ == "__main__":
    sys.exit(supervise(sys.argv[1], sys.argv[2], int(sys.argv[3])))
