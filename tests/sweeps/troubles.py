"""A user's own method, into which troubles can be planned; copied into the projects of tests."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch
from troubles_words import WORD

from frontrunner.errors import RunError
from frontrunner.methods.base import Method
from frontrunner.pareto_sets.base import ParetoSet
from frontrunner.pareto_sets.finite import FiniteSet
from frontrunner.preferences import grid
from frontrunner.runner.runner import Runner
from frontrunner.tasks.base import Task


class Troubles(Method):
    """Networks as they are before training, for every preference the same.

    Args:
        what: ``none``, or what befalls the fit: ``error`` (a mistake a user can mend), ``bug``
            (any other), ``kill`` (SIGKILL), ``exit``; ``device`` is an error that names the GPU;
            ``once`` fails on the first attempt alone; ``wait`` counts steps for so many
            ``seconds``, and goes on where it was.
    """

    distributed = False

    def __init__(self, points: int, seed: int, what: str = "none", seconds: float = 60) -> None:
        self.points, self.seed, self.what, self.seconds = points, seed, what, seconds

    def fit(self, task: Task, runner: Runner) -> ParetoSet:
        with runner.one_shot():
            self.befall(runner.directory)
            torch.manual_seed(self.seed)
            network = task.network()
            preferences = grid(task.m, self.points)
            stacked = {
                name: tensor[None].repeat(len(preferences), *[1] * tensor.dim())
                for name, tensor in network.state_dict().items()
            }
            return FiniteSet(network, stacked, preferences, "weight")

    def befall(self, directory: Path) -> None:
        if self.what == "error":
            raise RunError(f"planted: {WORD}")
        if self.what == "device":
            raise RunError(os.environ["CUDA_VISIBLE_DEVICES"])
        if self.what == "bug":
            raise ZeroDivisionError("planted")
        if self.what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.what == "exit":
            os._exit(7)
        steps = directory / "steps.txt"
        if self.what == "once" and not steps.exists():
            steps.touch()
            raise RunError("planted for the first attempt")
        if self.what == "wait":
            taken = len(steps.read_text()) if steps.exists() else 0
            with open(steps, "a") as handle:
                while taken < 10 * self.seconds:
                    handle.write(".")
                    handle.flush()
                    taken += 1
                    time.sleep(0.1)
