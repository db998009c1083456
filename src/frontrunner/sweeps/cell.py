"""One cell in the process that runs it: what its manifest says, whatever was edited since."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from frontrunner.errors import Cancelled, FrontrunnerError, Stopped
from frontrunner.sweeps.sweep import Sweep

WARNING = signal.SIGUSR2  # comes before a time limit; NCCL may listen to SIGUSR1
Why = Callable[[int], Stopped]  # the number of a signal -> what it means


def terminated(number: int) -> Stopped:
    """The plainest answer to why a signal came."""
    return Cancelled(f"stopped by {signal.Signals(number).name}")


def carry_out(folder: str | os.PathLike[str], identity: str, why: Why = terminated) -> Path:
    """Run a cell, or continue it; a finished one is left as it is. Returns its run directory.

    A warning or SIGTERM ends the run where it stands, with what ``why`` makes of the signal in
    ``run.json``; all that is finished by then is kept for the next attempt.

    Raises:
        FrontrunnerError: anything a user can mend.
        Stopped: a signal came.
    """
    from omegaconf import OmegaConf

    import frontrunner.run as runs

    sweep, cell = Sweep.read_cell(folder, identity)
    os.chdir(sweep.facts["directory"])
    config = OmegaConf.create(dict(cell.config))
    config.output = str(sweep.directory(cell).parents[1])  # the sweep may have been moved
    with _listening(why):
        return runs.execute(config, cell.overrides, group=sweep.name).directory


@contextmanager
def _listening(why: Why) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        for one in before:  # once is enough: what ends the run must not be interrupted itself
            signal.signal(one, signal.SIG_IGN)
        raise why(number)

    before = {one: signal.getsignal(one) for one in (WARNING, signal.SIGTERM)}
    for one in before:
        signal.signal(one, stop)
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def main(words: Sequence[str]) -> int:
    """``python -m frontrunner.sweeps.cell SWEEP IDENTITY``; returns an exit code. What went wrong
    is the last line printed."""
    try:
        folder, identity = words
        print(carry_out(folder, identity), flush=True)
        return 0
    except FrontrunnerError as error:
        print(f"frontrunner: {error}", file=sys.stderr, flush=True)
        return 1
    except Stopped as stop:
        print(f"frontrunner: {stop}", file=sys.stderr, flush=True)
        return 128 + signal.SIGTERM
    except Exception:
        traceback.print_exc()
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
