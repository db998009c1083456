"""The errors a user can cause, each worded as one line that says what to change."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FrontrunnerError(Exception):
    """Base of every error this package raises on purpose; the command prints it as one line."""


class ConfigError(FrontrunnerError):
    """A configuration key or value that cannot be run."""


class DataError(FrontrunnerError):
    """A data file that is missing or malformed."""


class FrontError(FrontrunnerError):
    """Objective values, preferences or fronts that cannot be used or compared."""


class SplitError(FrontrunnerError):
    """The test split was asked for before the front was frozen."""


class RunError(FrontrunnerError):
    """A run directory that cannot be read, continued or claimed."""


class HeldError(RunError):
    """A directory that another process holds."""


class DivergenceError(FrontrunnerError):
    """Training produced a non-finite number; ``step`` is the training step it was seen at."""

    def __init__(self, message: str, step: int | None = None) -> None:
        super().__init__(message)
        self.step = step


class Stopped(BaseException):
    """A run was told to end where it stands, and may be continued. Like `KeyboardInterrupt` it is
    no `Exception`, so that nothing mistakes it for a failure it can handle."""


class TimeLimit(Stopped):
    """The scheduler's time for the job is about to be over."""


class Preempted(Stopped):
    """The scheduler needs the machine for another job."""


class Cancelled(Stopped):
    """Somebody ended the job."""


def nearest(word: str, valid: Iterable[str]) -> str:
    """Return ``"; did you mean 'a' or 'b'?"`` for the closest valid words, or all if few."""
    words = sorted({str(v) for v in valid})
    close = difflib.get_close_matches(word, words, n=2, cutoff=0.6)
    if close:
        return "; did you mean " + " or ".join(f"'{c}'" for c in close) + "?"
    if words and len(words) <= 12:
        return "; valid: " + ", ".join(words)
    return ""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where there is none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
