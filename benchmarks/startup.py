"""Seconds until the command answers, and until ``frontrunner run`` takes its first training step.

Every measurement is a fresh process, started in turn with the others, several times over. The
floors beside them are what Python, torch and Lightning take to import on the same machine in the
same minute. Ratios are of processor time, which neighbours on a shared machine disturb least; on an
idle one it is the wall-clock time. Disk caches are warm. The parts are the imports that a run makes
anyway, one after the other in one process: each counts what the ones before it left.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _common import arguments, ratio, spread, write

# Runs the command, stops it at its first training step, and says when that was. It imports the
# runner, and so torch, before Hydra instead of after it; the sum is the same.
FIRST_STEP = """
import os, sys, time
from frontrunner.runner.runner import Runner
import frontrunner.cli as cli

fit = Runner.fit

def stop(self, batch, batch_idx):
    print("first step", time.monotonic(), flush=True)
    os._exit(0)

def fit_until_stopped(self, *args, **options):
    from frontrunner.runner import training
    training.TrainingModule.training_step = stop
    return fit(self, *args, **options)

Runner.fit = fit_until_stopped
sys.exit(cli.main(sys.argv[1:]))
"""
CONFIGURATION = ["task=multi_digits", "method=learning/cosmos", "logger=none"]
# At once, as the first training step does: taking torch down is no part of starting it.
LEAVE = "import os; os._exit(0)"
FIRST_ADAM_STEP = (
    "import torch; w = torch.nn.Parameter(torch.ones(1)); o = torch.optim.Adam([w]); "
    "w.sum().backward(); o.step()"
)


# What a run imports, in an order that charges each library with what is its own: torch imports its
# compiler at the first step of any optimiser, torchmetrics imports SciPy, and the plots need
# matplotlib. Lightning imports all of these too.
PARTS = ["torch", "torch._dynamo", "matplotlib.pyplot", "scipy.signal"]
PARTS += ["lightning.pytorch", "frontrunner.run"]
TIME_PARTS = """
import sys, time
for name in sys.argv[1:]:
    before = time.process_time()
    __import__(name)
    print(name, time.process_time() - before)
"""


def parts(folder: Path) -> dict[str, float]:
    """Processor seconds of each import of ``PARTS``, in one fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", TIME_PARTS, *PARTS],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return {x.split()[0]: float(x.split()[1]) for x in done.stdout.splitlines()}


def commands(folder: Path) -> dict[str, list[str]]:
    """What is timed: name -> arguments of the Python interpreter."""
    cli = ["-m", "frontrunner.cli"]
    places = [*CONFIGURATION, f"output={folder}", "fresh=true", "runner.progress=none"]
    return {
        "python -c pass": ["-c", "pass"],
        "import torch": ["-c", f"import torch; {LEAVE}"],
        "torch, one Adam step": ["-c", f"{FIRST_ADAM_STEP}; {LEAVE}"],
        "import lightning.pytorch": ["-c", f"import lightning.pytorch; {LEAVE}"],
        "frontrunner --help": [*cli, "--help"],
        "frontrunner list": [*cli, "list"],
        "frontrunner check": [*cli, "check", *CONFIGURATION],
        "frontrunner run, to the first step": ["-c", FIRST_STEP, "run", *places],
    }


def seconds(words: list[str], folder: Path) -> tuple[float, float]:
    """Wall-clock and processor seconds of a process, to its end or to its first training step."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, capture_output=True, text=True, env=os.environ
    )
    ended = time.monotonic()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{words}: exit code {done.returncode}\n{done.stderr}")
    marks = [x for x in done.stdout.splitlines() if x.startswith("first step")]
    if "run" in words and not marks:
        raise SystemExit(f"{words}: no training step was taken\n{done.stdout}{done.stderr}")
    wall = (float(marks[0].split()[-1]) if marks else ended) - started
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    options = arguments(__doc__, device=False).parse_args()
    repeats = options.repeats or 3
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        timed = commands(folder / "runs")
        wall: dict[str, list[float]] = {label: [] for label in timed}
        work: dict[str, list[float]] = {label: [] for label in timed}
        imports = []
        for _ in range(repeats):
            for label, words in timed.items():
                elapsed, spent = seconds(words, folder)
                wall[label].append(elapsed)
                work[label].append(spent)
            imports.append(parts(folder))
    results: dict[str, Any] = {}
    print(f"{'':36}{'wall s':>8}{'CPU s':>8}   CPU time against `import torch`")
    for label in timed:
        against = ratio(work[label], work["import torch"])
        middle = statistics.median(wall[label]), statistics.median(work[label])
        results[label] = {
            "wall_seconds": round(middle[0], 3),
            "cpu_seconds": round(middle[1], 3),
            "fastest_wall_seconds": round(min(wall[label]), 3),
            "of_import_torch": against,
        }
        print(f"{label:36}{middle[0]:8.2f}{middle[1]:8.2f}   {spread(against)}")
    run, floor = work["frontrunner run, to the first step"], work["import lightning.pytorch"]
    results["run_of_import_lightning"] = ratio(run, floor)
    print(f"\nrun, times `import lightning.pytorch`: {spread(results['run_of_import_lightning'])}")
    results["parts"] = {p: round(statistics.median(i[p] for i in imports), 3) for p in PARTS}
    print("\nparts of a run's imports, CPU s:")
    for name, spent in results["parts"].items():
        print(f"  {name:34}{spent:8.2f}")
    write("startup", options.out, {"configuration": CONFIGURATION, "repeats": repeats}, results)


if __name__ == "__main__":
    main()
