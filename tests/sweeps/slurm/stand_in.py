"""In the frozen code of a sweep, in place of ``frontrunner.run``: cells that only take steps.

A cell's ``what`` says how many ``steps`` of a tenth of a second it takes (each a letter in
``steps.txt``, at which a later attempt goes on), or ``until`` which file is there, and what befalls
it at the last: ``raise``, an error; ``kill``, SIGKILL; ``refuse``, an error that a user can mend.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from frontrunner.errors import RunError
from frontrunner.tracking import manifest
from frontrunner.tracking.tracker import is_rank_zero


def execute(config: Any, overrides: Sequence[str] = (), group: str | None = None) -> Any:
    directory = Path(config.output) / "none" / config.label
    what = dict(config.what)
    if not is_rank_zero():
        time.sleep(what.get("steps", 0) / 10)
        raise SystemExit(0)
    if (directory / "run.json").exists():
        record = manifest.RunRecord.read(directory)
        if record.data["status"] == "done":
            return SimpleNamespace(directory=directory)
    with manifest.claim(directory):
        record = manifest.RunRecord.open(directory, overrides=[os.environ.get("OMP_NUM_THREADS")])
        try:
            _steps(directory / "steps.txt", what)
        except BaseException as error:
            record.fail(error)
            raise
        record.done(timings={"total": 1.0})
    return SimpleNamespace(directory=directory)


def _steps(path: Path, what: dict[str, Any]) -> None:
    letter = chr(ord("a") + int(os.environ.get("SLURM_RESTART_COUNT") or 0))
    taken = len(path.read_text()) if path.exists() else 0
    with open(path, "a") as handle:
        for _ in range(taken, what.get("steps", 1)):
            if "until" in what and Path(what["until"]).exists():
                break
            time.sleep(0.1)
            handle.write(letter)
            handle.flush()
    if "raise" in what:
        raise ValueError(what["raise"])
    if "refuse" in what:
        raise RunError(what["refuse"])
    if "kill" in what:
        os.kill(os.getpid(), signal.SIGKILL)
