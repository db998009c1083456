"""Seconds until the command answers, and until ``frontrunner run`` takes its first training step.

Every measurement is a fresh process, started in turn with the others, several times over. The floors
beside them are what Python, torch and Lightning take to import on the same machine in the same
minute. Disk caches are warm: the first round is not counted.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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
FIRST_ADAM_STEP = (
    "import torch; w = torch.nn.Parameter(torch.ones(1)); o = torch.optim.Adam([w]); "
    "w.sum().backward(); o.step()"
)


def commands(folder: Path) -> dict[str, list[str]]:
    """What is timed: name -> arguments of the Python interpreter."""
    cli = ["-m", "frontrunner.cli"]
    places = [*CONFIGURATION, f"output={folder}", "fresh=true", "runner.progress=none"]
    return {
        "python -c pass": ["-c", "pass"],
        "import torch": ["-c", "import torch"],
        "torch, one Adam step": ["-c", FIRST_ADAM_STEP],
        "import lightning.pytorch": ["-c", "import lightning.pytorch"],
        "frontrunner --help": [*cli, "--help"],
        "frontrunner list": [*cli, "list"],
        "frontrunner check": [*cli, "check", *CONFIGURATION],
        "frontrunner run, to the first step": ["-c", FIRST_STEP, "run", *places],
    }


def seconds(words: list[str], folder: Path) -> float:
    """Wall-clock seconds of a fresh process, to its end or to its first training step."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, capture_output=True, text=True, env=os.environ
    )
    ended = time.monotonic()
    if done.returncode:
        raise SystemExit(f"{words}: exit code {done.returncode}\n{done.stderr}")
    marks = [x for x in done.stdout.splitlines() if x.startswith("first step")]
    if "run" in words and not marks:
        raise SystemExit(f"{words}: no training step was taken\n{done.stdout}{done.stderr}")
    return (float(marks[0].split()[-1]) if marks else ended) - started


def main() -> None:
    options = arguments(__doc__, device=False).parse_args()
    repeats = options.repeats or 3
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        timed = commands(folder / "runs")
        times: dict[str, list[float]] = {label: [] for label in timed}
        for repeat in range(-1, repeats):
            for label, words in timed.items():
                taken = seconds(words, folder)
                if repeat >= 0:
                    times[label].append(taken)
    results = {}
    print(f"{'':36}{'seconds':>8}   times `import torch`")
    for label, taken in times.items():
        against = ratio(taken, times["import torch"])
        median = statistics.median(taken)
        results[label] = {
            "seconds": round(median, 3),
            "fastest": round(min(taken), 3),
            "slowest": round(max(taken), 3),
            "of_import_torch": against,
        }
        print(f"{label:36}{median:8.2f}   {spread(against)}")
    run, floor = times["frontrunner run, to the first step"], times["import lightning.pytorch"]
    results["run_of_import_lightning"] = ratio(run, floor)
    print(f"\nrun, times `import lightning.pytorch`: {spread(results['run_of_import_lightning'])}")
    write("startup", options.out, {"configuration": CONFIGURATION, "repeats": repeats}, results)


if __name__ == "__main__":
    main()
