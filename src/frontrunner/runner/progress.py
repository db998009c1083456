"""How training shows that it moves: a bar on a terminal, a few lines elsewhere, and a file."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from frontrunner import files

FILE = "progress.json"
EVERY = 2.0  # seconds between two writings of the file


class Progress:
    """Shows steps taken, the validation score and the time, on standard error, and keeps the steps
    in ``progress.json`` for whoever asks from elsewhere.

    Args:
        mode: ``auto``, ``bar``, ``plain`` or ``none``.
        label: of the run.
        total: steps.
        directory: where the file goes; None writes none.
    """

    def __init__(self, mode: str, label: str, total: int, directory: Path | None = None) -> None:
        if mode == "auto":
            mode = "bar" if sys.stderr.isatty() else "plain"
        self.mode, self.label, self.total = mode, label, total
        self._file = None if directory is None else directory / FILE
        self._written = float("-inf")
        self._bar: Any = None
        self._next = 0.0
        self._start = time.perf_counter()

    def __enter__(self) -> Progress:
        if self.mode == "bar":
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(
                TextColumn("{task.description:<28}"),
                BarColumn(bar_width=30),
                TextColumn("{task.completed}/{task.total}"),
                TextColumn("{task.fields[score]}"),
                TimeElapsedColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(self.label, total=self.total, score="")
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, step: int, score: float | None, name: str = "hypervolume") -> None:
        """Show that ``step`` steps are done, and the validation score so named."""
        now = time.monotonic()
        if self._file and (now - self._written >= EVERY or step == self.total):
            self._written = now
            with contextlib.suppress(OSError):  # a full disk is for the run itself to report
                files.write_json(self._file, {"what": "step", "done": step, "total": self.total})
        short = "HV" if name == "hypervolume" else name
        text = "" if score is None else f"validation {short} {score:.4f}"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, score=text)
        elif self.mode == "plain" and (step / self.total >= self._next or step == self.total):
            self._next = step / self.total + 0.5
            seconds = time.perf_counter() - self._start
            print(
                f"  {self.label:<28} step {step}/{self.total}  {text}  {seconds:.1f} s",
                file=sys.stderr,
                flush=True,
            )
