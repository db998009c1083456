"""One testbed of the MOSP experiments: runs, levels of sparsity, and what they cost."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import frontrunner
from frontrunner import config as configuration
from frontrunner.methods.base import Method
from frontrunner.pareto_sets.base import ParetoSet
from frontrunner.run import build, build_task
from frontrunner.tasks.base import Task

Array = NDArray[np.float64]

QUIET = ["logger=none", "runner.progress=none", "runner.threads=1"]
TASKS = {
    "text_domains": ["task=text_domains"],
    "text_domains_local": ["task=text_domains_local", "model=small_llama"],
}
LEVELS = {
    "60": ("60 %", ["method.sparsity=0.6"]),
    "70": ("70 %", ["method.sparsity=0.7"]),
    "80": ("80 %", ["method.sparsity=0.8"]),
    "90": ("90 %", ["method.sparsity=0.9"]),
    "2:4": ("2:4", ["method.pattern='2:4'"]),
}
REFERENCE = 1.1  # times SparseGPT's perplexities of the same seed and level


@dataclass(frozen=True)
class Study:
    """Runs of one task.

    Attributes:
        task: one of `TASKS`.
        seeds: of calibration data; the model is the same for all.
        levels: of sparsity, of `LEVELS`.
        points: of the lattice of preferences, to which equal preferences are added.
        windows: of test text per domain.
        output: folder of runs.
    """

    task: str
    seeds: int
    levels: Sequence[str]
    points: int
    windows: int
    output: Path

    def words(self, overrides: Sequence[str], level: str, seed: int) -> list[str]:
        """Overrides of a whole run."""
        own = [f"points={self.points}", f"task.windows.test={self.windows}", f"seed={seed}"]
        return [*TASKS[self.task], *overrides, *LEVELS[level][1], *own, *QUIET]

    def run(self, label: str, overrides: Sequence[str], level: str, seed: int) -> frontrunner.Run:
        """One run; a finished one is read."""
        print(f"  {LEVELS[level][0]}, seed {seed}: {label}", file=sys.stderr, flush=True)
        folder = self.output / self.task / level.replace(":", "of")
        named = [f"label='{label}'", f"output={folder}"]
        return frontrunner.run([*self.words(overrides, level, seed), *named])

    def sweep(self, label: str, overrides: Sequence[str], level: str) -> list[frontrunner.Run]:
        """A configuration over all seeds."""
        return [self.run(label, overrides, level, seed) for seed in range(self.seeds)]

    def parts(self, overrides: Sequence[str], level: str, seed: int) -> tuple[Task, Method, Any]:
        """Task, method and configuration of a run."""
        words = self.words(overrides, level, seed)
        config = configuration.compose([*words, "label=timing"])
        task, method, _ = build(config)
        return task, method, config

    def fit_seconds(self, overrides: Sequence[str], level: str) -> float:
        """Processor seconds of a fit at seed 0, on one thread, without reading the text."""
        task, method, config = self.parts(overrides, level, 0)
        seconds = 0.0
        with tempfile.TemporaryDirectory() as folder:
            runner = configuration.build(config.runner, directory=Path(folder), seed=0)
            one_shot = runner.one_shot

            @contextmanager
            def timed(parts: int = 0, devices: int = 1) -> Iterator[Callable[[], None]]:
                nonlocal seconds
                with one_shot(parts, devices) as advance:
                    start = time.process_time()
                    yield advance
                    seconds = time.process_time() - start

            runner.one_shot = timed
            method.fit(task.sealed(), runner)
        return seconds

    @cached_property
    def dense(self) -> Array:
        """Perplexities of the dense model, (m,)."""
        words = self.words(["method=pruning/magnitude"], "70", 0)
        task = build_task(configuration.compose([*words, "label=dense"]))
        return task.measure(task.network(), "test", what="perplexities")

    @cached_property
    def domains(self) -> list[str]:
        """Names of the objectives."""
        words = self.words(["method=pruning/magnitude"], "70", 0)
        task = build_task(configuration.compose([*words, "label=dense"]))
        return [objective.name for objective in task.objectives]


def materialize_seconds(found: ParetoSet, preferences: Array) -> float:
    """Processor seconds to make the models of all preferences, without scoring them."""
    found.materialize(preferences[0])  # builds the network
    start = time.process_time()
    for p in preferences:
        found.materialize(p)
    return time.process_time() - start


def at(run: frontrunner.Run, preference: Sequence[float] | Array) -> Array:
    """Objectives of the model for a preference, (m,)."""
    preferences = run.front.preferences
    assert preferences is not None
    distance = np.abs(preferences - np.asarray(preference)).max(axis=1)
    assert distance.min() < 1e-6, f"no model for {preference}"
    return run.front.values[int(distance.argmin())]


def equal(run: frontrunner.Run) -> Array:
    """Objectives at equal preferences, (m,)."""
    m = run.front.values.shape[1]
    return at(run, np.full(m, 1 / m))


def specialists(run: frontrunner.Run) -> Array:
    """Objective j of the model for objective j alone, (m,)."""
    m = run.front.values.shape[1]
    return np.array([at(run, np.eye(m)[j])[j] for j in range(m)])


def volume(run: frontrunner.Run, sparsegpt: frontrunner.Run) -> float:
    """Hypervolume against 1.1 times SparseGPT's perplexities."""
    return run.front.hypervolume(REFERENCE * equal(sparsegpt))


def spread(values: Sequence[float], digits: int = 4) -> str:
    """Mean ± standard deviation over seeds, in so many significant digits; one value as it is."""
    array = np.asarray(values, dtype=float)
    if np.isnan(array).any():
        return ""
    mean = float(array.mean())
    places = max(0, digits - 1 - int(np.floor(np.log10(abs(mean))))) if mean else 2
    text = f"{mean:,.{places}f}"
    return text if len(array) < 2 else f"{text} ± {array.std(ddof=1):,.{places}f}"
