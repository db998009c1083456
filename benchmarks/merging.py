"""Processor seconds and peak memory of merging three 349M-parameter checkpoints, against mergekit.

Three bfloat16 Llama checkpoints (a base, two experts) in four shards each, made by this script, are
merged into files. Every measurement is a fresh process from its start to its end, imports included,
on one thread; the variants take turns. mergekit writes small shards, which is where it needs least
memory.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _common import HERE, arguments, ratio, spread, write
from _mergekit import VERSIONS, Llama, environment, mergekit_command, write_family

MODEL = Llama(hidden=1024, intermediate=2832, layers=22, heads=16, vocabulary=32_000)
SMALL = Llama(hidden=128, intermediate=344, layers=2, heads=4, vocabulary=1_000)

# Name: mergekit's method, whether it has a base, its parameters; our rule and its settings.
MERGES: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "linear": ("linear", {}, "linear", {}),
    "task_arithmetic": ("task_arithmetic", {}, "task_arithmetic", {}),
    "ties": ("ties", {"density": 0.2}, "ties", {"density": 0.2, "trim": "tensor"}),
    "slerp": ("slerp", {"t": 0.5}, "slerp", {}),
}


def mergekit(name: str, models: list[Path], commands: Path, work: Path) -> list[str]:
    """mergekit's command for two experts of equal weight."""
    method, parameters, _, _ = MERGES[name]
    base, *experts = map(str, models)
    recipe: dict[str, Any] = {
        "merge_method": method,
        "models": [{"model": e, "parameters": {"weight": 0.5}} for e in experts],
        "parameters": parameters,
        "dtype": "float32",
        "out_dtype": "bfloat16",
    }
    if method == "slerp":
        recipe |= {"models": [{"model": e} for e in experts], "base_model": experts[0]}
    elif method != "linear":
        recipe["base_model"] = base
    return [*mergekit_command(commands, recipe, work), "--out-shard-size", "50M"]


def ours(name: str, models: list[Path], work: Path) -> list[str]:
    """Our command for the same."""
    _, _, rule, settings = MERGES[name]
    program = [sys.executable, str(HERE / "_merge.py"), rule, str(work / "out")]
    return [*program, *map(str, models), "--settings", json.dumps(settings)]


def measure(command: list[str]) -> dict[str, float]:
    """Run a command; its processor seconds, wall-clock seconds and peak memory in MB."""
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile() as messages:
        begun = time.perf_counter()
        child = subprocess.Popen(command, env=environ, stdout=messages, stderr=messages)
        _, status, used = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - begun
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            messages.seek(0)
            raise SystemExit(f"{command}: {messages.read()[-2000:].decode()}")
    return {
        "cpu": used.ru_utime + used.ru_stime,
        "user": used.ru_utime,
        "system": used.ru_stime,
        "wall": seconds,
        "peak_mb": used.ru_maxrss / 1024,  # kibibytes on Linux
    }


def main() -> None:
    parser = arguments(__doc__, device=False)
    parser.add_argument("--small", action="store_true", help="tiny checkpoints, to try the script")
    parser.add_argument("--methods", nargs="+", choices=MERGES, default=list(MERGES))
    options = parser.parse_args()
    model = SMALL if options.small else MODEL
    repeats = options.repeats or 2
    commands = environment()
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        # In a process of its own: a child's peak memory begins at what its parent had when it was
        # started, so this one stays small.
        family = (root, model, ["base", "a", "b"], "bfloat16", 4)
        maker = multiprocessing.get_context("spawn").Process(target=write_family, args=family)
        maker.start()
        maker.join()
        models = [root / name for name in ("base", "a", "b")]
        for repeat in range(repeats):
            variants = [(m, who) for m in options.methods for who in ("mergekit", "ours")]
            for method, who in variants if repeat % 2 == 0 else variants[::-1]:
                with tempfile.TemporaryDirectory() as folder:
                    work = Path(folder)
                    command = (
                        mergekit(method, models, commands, work)
                        if who == "mergekit"
                        else ours(method, models, work)
                    )
                    found.setdefault(f"{method}, {who}", []).append(measure(command))
    results: dict[str, Any] = {}
    print("| merge | CPU s: user + system | wall s | peak MB | CPU, mergekit : ours |")
    print("|---|---|---|---|---|")
    for name, runs in found.items():
        middle = {k: round(statistics.median(run[k] for run in runs), 2) for k in runs[0]}
        results[name] = {**middle, "repeats": len(runs)}
        against = ""
        if name.endswith("ours"):
            theirs = found[name.replace("ours", "mergekit")]
            results[name]["ratio"] = ratio([r["cpu"] for r in theirs], [r["cpu"] for r in runs])
            against = spread(results[name]["ratio"])
        print(
            f"| {name} | {middle['cpu']:.1f}: {middle['user']:.1f} + {middle['system']:.1f} | "
            f"{middle['wall']:.1f} | {middle['peak_mb']:.0f} | {against} |"
        )
    settings = {
        "parameters": model.parameters,
        "dtype": "bfloat16",
        "shards": 4,
        "experts": 2,
        "threads": 1,
        "mergekit": VERSIONS,
        "mergekit_out_shard_size": "50M parameters",
    }
    name = "merging-small" if options.small else "merging-cpu"
    write(name, options.out, settings, results)


if __name__ == "__main__":
    main()
