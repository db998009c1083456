"""What a sweep needs of whatever runs its cells: to take them, say how they are, stop them."""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from frontrunner.sweeps.sweep import Cell, Sweep

Job = Mapping[str, Any]  # as `frontrunner.sweeps.sweep.write_job` has it


class State(StrEnum):
    """How a cell stands."""

    PLANNED = "PLANNED"
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    DONE = "DONE"
    FAILED = "FAILED"
    KILLED = "KILLED"
    TIMEOUT = "TIMEOUT"
    PREEMPTED = "PREEMPTED"
    NODE_FAIL = "NODE_FAIL"


WAITING = (State.QUEUED, State.RUNNING)
LOST = (State.FAILED, State.KILLED, State.TIMEOUT, State.PREEMPTED, State.NODE_FAIL)


@dataclass(frozen=True)
class JobState:
    """What a launcher says of a job. ``state`` is None of one that ended it does not say how."""

    state: State | None
    reason: str = ""


def signal_name(number: int) -> str:
    """``SIGKILL`` for 9; empty for a number that has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return ""


class Queue(ABC):
    """Jobs that were submitted, asked about from any process on a machine that can see them."""

    @abstractmethod
    def states(self, jobs: Sequence[Job]) -> dict[str, JobState]:
        """How jobs stand, by their ``job``. What is not known of is left out. It never hangs:
        a scheduler that does not answer in seconds is an error.

        Raises:
            RunError: the scheduler cannot be asked; what to do.
        """

    @abstractmethod
    def cancel(self, jobs: Sequence[Job]) -> None:
        """Stop jobs that wait or run; those that ended are left alone."""


class Launcher(ABC):
    """Takes cells. A subclass is a node of the configuration group ``launcher``.

    Attributes:
        name: what ``job.json`` calls it.
    """

    name: str

    @abstractmethod
    def check(self, cells: Sequence[Cell]) -> None:
        """Fail before anything is written if these cells cannot be taken here.

        Raises:
            ConfigError: with what to change.
        """

    @abstractmethod
    def resources(self, cells: Sequence[Cell]) -> list[str]:
        """What will be asked for, a line for each kind of job."""

    @abstractmethod
    def submit(self, sweep: Sweep, cells: Sequence[Cell]) -> None:
        """Hand cells over, note each in its run directory (`write_job`), and return.

        Raises:
            RunError: not all could be handed over; those that were are noted.
        """
