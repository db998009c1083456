"""Sweeps: planning 200 cells, the state of 1,000, fifty small cells, and a job's way to its work.

Planning composes and validates every cell; beside it every cell is composed by Hydra alone.
``status`` reads 1,000 run directories and asks no scheduler. Fifty cells of one training step each
are run by ``run -m`` in Hydra's basic and joblib launchers and in ours, two at a time, and by a
bare loop over `frontrunner.run.execute` in one process: on the same cells, in turn. A job is the
process of one cell, from its start to its first training step. Ratios of whole commands are of
wall-clock time, since they use several processes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _common import arguments, ratio, spread, write

CELLS = ["method=learning/cosmos,learning/linear_scalarization", "seed=range(0,100)"]
SMALL = [
    "task=multi_digits",
    "task.sizes=[200,50,50]",
    "method=learning/cosmos",
    "training.steps=1",
    "training.rounds=1",
    "points=3",
    "logger=none",
    "runner.progress=none",
    "runner.threads=1",
]
LOOP = """
import sys
import frontrunner.run as runs
from frontrunner import config
for cell in config.expand(sys.argv[1:]):
    runs.execute(config.compose(cell), cell)
"""
FIRST_STEP = """
import os, sys, time
from frontrunner.runner import training
from frontrunner.sweeps import cell

def stop(self, batch, batch_idx):
    print("first step", time.monotonic(), flush=True)
    os._exit(0)

training.TrainingModule.training_step = stop
sys.exit(cell.main(sys.argv[1:]))
"""


def planning(folder: Path, repeats: int) -> dict[str, Any]:
    """Seconds of planning 200 cells, and of Hydra composing them one by one."""
    from frontrunner import config
    from frontrunner.sweeps import plan

    words = ["launcher=local", "task=multi_digits", f"output={folder}", *CELLS]
    plan.plan(words[:-1])  # imports, once
    ours, hydra = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        cells = plan.plan(words).cells
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        for cell in cells[:20]:
            config.compose(cell.overrides)
        hydra.append((time.perf_counter() - start) * len(cells) / 20)
    return {"cells": len(cells), "seconds": min(ours), "of_hydra_composing": ratio(ours, hydra)}


def state(folder: Path, repeats: int) -> dict[str, Any]:
    """Seconds of ``status`` on 1,000 cells, all but ten of them done."""
    from frontrunner.sweeps import plan
    from frontrunner.sweeps.status import statuses
    from frontrunner.tracking import manifest

    words = ["launcher=local", "task=multi_digits", f"output={folder / 'thousand'}"]
    sweep = plan.write(plan.plan([*words, CELLS[0].split(",")[0], "seed=range(0,1000)"]))
    for number, cell in enumerate(sweep.cells):
        directory = sweep.directory(cell)
        directory.mkdir(parents=True)
        record = manifest.RunRecord.open(directory, **manifest.environment())
        if number % 100:
            record.done(timings={"total": 1.0})
        else:
            record.fail(ValueError("planted"))
    inside = []
    for _ in range(repeats):
        start = time.perf_counter()
        found = statuses(type(sweep).read(sweep.folder))
        inside.append(time.perf_counter() - start)
    command = [sys.executable, "-m", "frontrunner.cli", "status", str(sweep.folder)]
    whole = [timed(command, folder) for _ in range(repeats)]
    return {"cells": len(found), "seconds": min(inside), "seconds_of_the_command": min(whole)}


def small_cells(folder: Path, count: int, repeats: int) -> dict[str, Any]:
    """Wall-clock seconds of the same small cells, by whoever runs them."""
    run = [sys.executable, "-m", "frontrunner.cli", "run", "-m"]
    variants = {
        "bare loop": [sys.executable, "-c", LOOP],
        "Hydra, basic": run,
        "Hydra, joblib": [*run, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
        "launcher=local": [*run, "launcher=local", "launcher.per_device=2"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for repeat in range(repeats):
        for name, command in list(variants.items())[:: 1 if repeat % 2 == 0 else -1]:
            output = folder / f"small-{repeat}-{list(variants).index(name)}"
            words = [*SMALL, f"seed=range(0,{count})", f"output={output}"]
            seconds[name].append(timed([*command, *words], folder))
            done = len(list(output.glob("*/*/front.json")))
            assert done == count, f"{name}: {done} of {count} cells"
    loop = seconds["bare loop"]
    results: dict[str, Any] = {"cells": count}
    for name, spent in seconds.items():
        over = [(a - b) / count for a, b in zip(spent, loop, strict=True)]
        results[name] = {
            "seconds": [round(s, 2) for s in spent],
            "of_the_loop": ratio(spent, loop),
            "seconds_per_cell_beyond_the_loop": round(sorted(over)[len(over) // 2], 3),
        }
    return results


def job(folder: Path, repeats: int) -> dict[str, Any]:
    """Seconds from a job's start to its first training step, beside importing Lightning."""
    from frontrunner.sweeps import plan

    words = ["launcher=local", *SMALL, f"output={folder / 'job'}", "seed=range(0,99)"]
    sweep = plan.write(plan.plan(words))
    ours, floor = [], []
    for number in range(repeats):
        words = [str(sweep.folder), sweep.cells[number].identity]
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", FIRST_STEP, *words], capture_output=True, text=True, check=True
        )
        ours.append(float(done.stdout.split()[-1]) - started)
        floor.append(timed([sys.executable, "-c", "import lightning.pytorch"], folder))
    return {"seconds": min(ours), "of_importing_lightning": ratio(ours, floor)}


def timed(command: list[str], folder: Path) -> float:
    """Wall-clock seconds of a command, which must succeed."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ)
    if done.returncode:
        raise SystemExit(f"{command}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return time.perf_counter() - start


def main() -> None:
    parser = arguments(__doc__, device=False)
    parser.add_argument("--cells", type=int, default=50, help="small cells")
    options = parser.parse_args()
    repeats = options.repeats or 3
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        steps: dict[str, Callable[[], dict[str, Any]]] = {
            "plan": lambda: planning(folder, repeats),
            "status": lambda: state(folder, repeats),
            "job": lambda: job(folder, repeats),
            "small cells": lambda: small_cells(folder, options.cells, repeats),
        }
        for what, measure in steps.items():
            results[what] = measure()
            print(f"{what}:")
            for key, value in results[what].items():
                if isinstance(value, dict) and "of_the_loop" in value:
                    beyond = value["seconds_per_cell_beyond_the_loop"]
                    value = f"{min(value['seconds']):.1f} s, of the loop " + (
                        f"{spread(value['of_the_loop'])}, {beyond:+.2f} s a cell"
                    )
                elif isinstance(value, dict):
                    value = spread(value)
                elif isinstance(value, float):
                    value = f"{value:.3g}"
                print(f"  {key:28}{value}")
    write("sweeps", options.out, {"cells": CELLS, "small": SMALL, "repeats": repeats}, results)


if __name__ == "__main__":
    main()
