"""A server for tests that end a command at a chosen moment; a script for `conftest.command`.

It imports what is heavy once, then forks for every line of JSON on its standard input, so that each
command runs in a fresh process at a fraction of the cost. It answers with the exit code, or minus
the signal that ended the process. Standard error of the command goes to ``stderr.txt`` in its
working directory.

A moment is [what, where, n]: ``what`` befalls the command at the n-th time it passes ``where``.

what: ``kill``, ``interrupt`` (Ctrl-C), ``terminate``, ``full`` (no file can grow from then on)
where: ``step`` (before a training step), ``point`` (after a point is logged), or the name of a file
    (written to its temporary name, about to be renamed)
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from typing import Any

import lightning.pytorch
import matplotlib.pyplot
import plotly.graph_objects

from frontrunner import cli
from frontrunner.front import points
from frontrunner.runner import training

HEAVY = (lightning.pytorch, matplotlib.pyplot, plotly.graph_objects)
SIGNALS = {"kill": signal.SIGKILL, "interrupt": signal.SIGINT, "terminate": signal.SIGTERM}


def befall(what: str) -> None:
    if what == "full":
        # As on a full disk, writes fail; the signal that would come with it is ignored.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    else:
        os.kill(os.getpid(), SIGNALS[what])


def arm(what: str, where: str, n: int) -> None:
    """Make ``what`` happen at the n-th passage of ``where``."""
    passed = 0

    def passage() -> None:
        nonlocal passed
        passed += 1
        if passed == n:
            befall(what)

    if where == "step":
        original_step = training.TrainingModule.training_step

        def training_step(self: Any, batch: Any, batch_idx: int) -> None:
            passage()
            original_step(self, batch, batch_idx)

        training.TrainingModule.training_step = training_step
    elif where == "point":
        original_append = points.PointLog.append

        def append(self: Any, *args: Any) -> None:
            original_append(self, *args)
            passage()

        points.PointLog.append = append
    else:
        original_replace = os.replace

        def replace(source: Any, target: Any) -> None:
            if os.path.basename(target) == where:
                passage()
            original_replace(source, target)

        os.replace = replace


def child(job: dict[str, Any]) -> int:
    os.chdir(job["cwd"])
    out = os.open(job.get("out", "stderr.txt"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    # A shell's background jobs ignore Ctrl-C and so would this: give it a terminal's behaviour.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if job["moment"]:
        arm(*job["moment"])
    return cli.main(job["words"])


def main() -> None:
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                code = child(json.loads(line))
            except SystemExit as error:
                code = int(error.code or 0)
            finally:
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
