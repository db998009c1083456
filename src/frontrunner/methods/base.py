"""The interface of a method: ``fit(task, runner) -> ParetoSet``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from frontrunner.errors import ConfigError, nearest
from frontrunner.pareto_sets.base import ParetoSet
from frontrunner.runner.runner import Runner
from frontrunner.tasks.base import Task


class Method(ABC):
    """An algorithm that turns a task into a Pareto set. It never sees the test split.

    Attributes:
        distributed: whether the other processes of a run have a part in it; if not, they wait for
            the Pareto set, to score it.
        counts_costs: whether the Pareto set knows what each of its models took to make.
        answers_any: whether the Pareto set answers preferences that it was not made for.
    """

    distributed = True
    counts_costs = False
    answers_any = True

    def check(self, task: Task) -> None:  # noqa: B027 - most methods take every task
        """Fail before anything is spent if this method cannot take this task.

        Raises:
            ConfigError: with what to change.
        """

    def switches(self) -> dict[str, Any]:
        """How each doubtful point of the source stood, for the run's manifest."""
        return {}

    @abstractmethod
    def fit(self, task: Task, runner: Runner) -> ParetoSet:
        """Solve the task. ``task`` is sealed: its test split cannot be read."""


def choice(name: str, value: str, valid: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``valid``.

    Raises:
        ConfigError: it is not; the message names the key and the nearest valid values.
    """
    if value not in valid:
        raise ConfigError(f"{name}={value} is unknown{nearest(str(value), valid)}")
    return value


def positive(name: str, value: float, *, zero: bool = False) -> float:
    """Return ``value`` if it is a finite number above 0 (or 0 itself when ``zero``).

    Raises:
        ConfigError: it is not; the message names the key.
    """
    good = isinstance(value, int | float) and value == value and value < float("inf")
    if not good or value < 0 or (value == 0 and not zero):
        raise ConfigError(f"{name}={value} must be {'at least' if zero else 'more than'} 0")
    return value


def switch(name: str, value: bool) -> bool:
    """Return ``value`` if it is true or false.

    Raises:
        ConfigError: it is not; the message names the key.
    """
    if not isinstance(value, bool):
        raise ConfigError(f"{name}={value} must be true or false")
    return value


def whole(name: str, value: float, *, zero: bool = False) -> int:
    """Return ``value`` as a whole number of at least 1 (or 0 when ``zero``).

    Raises:
        ConfigError: it is not; the message names the key.
    """
    if isinstance(value, bool) or positive(name, value, zero=zero) != int(value):
        raise ConfigError(f"{name}={value} must be a whole number")
    return int(value)
