"""What every benchmark shares: interleaved timing, ratios, and a result file that says where."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def arguments(description: str | None, *, device: bool = True) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    if device:
        parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder for the JSON")
    parser.add_argument("--repeats", type=int, default=0, help="0: the benchmark's own number")
    return parser


def clock(device: str) -> float:
    """Seconds of processor time on a CPU, which neighbours on a shared machine disturb least (one
    thread: on an idle machine that is the wall-clock time); on a GPU wall-clock, its work done."""
    if device == "cpu":
        return time.process_time()
    import torch

    torch.cuda.synchronize()
    return time.perf_counter()


def one_thread(device: str) -> None:
    """On a CPU use one thread, so that processor time is what a step takes."""
    import torch

    if device == "cpu":
        torch.set_num_threads(1)


def interleave(
    variants: dict[str, Callable[[], Any]], repeats: int, device: str = "cpu"
) -> dict[str, list[float]]:
    """Seconds of each call, by variant. One untimed pass, then every variant in turn, again and
    again, every second pass backwards: what slows the machine for a while slows all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for repeat in range(-1, repeats):
        for name in list(variants) if repeat % 2 == 0 else list(variants)[::-1]:
            start = clock(device)
            variants[name]()
            if repeat >= 0:
                seconds[name].append(clock(device) - start)
    return seconds


def ratio(slow: Sequence[float], fast: Sequence[float]) -> dict[str, Any]:
    """The ratios of paired repetitions: median, smallest, largest and how many."""
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    return {
        "median": round(statistics.median(ratios), 3),
        "min": round(min(ratios), 3),
        "max": round(max(ratios), 3),
        "repeats": len(ratios),
    }


def spread(value: dict[str, Any]) -> str:
    """A ratio as text: ``3.1 (2.9 to 3.4)``."""
    return f"{value['median']:.3g} ({value['min']:.3g} to {value['max']:.3g})"


def write(name: str, out: Path, settings: dict[str, Any], results: dict[str, Any]) -> Path:
    """Write ``<name>.json`` with the machine, the commit, the versions and the date."""
    from frontrunner import files

    path = out / f"{name}.json"
    facts = {
        "benchmark": name,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": _commit(),
        "machine": machine(),
        "versions": {
            "python": platform.python_version(),
            **{p: metadata.version(p) for p in ("torch", "lightning", "numpy")},
        },
        "settings": settings,
        "results": results,
    }
    files.write_text(path, json.dumps(facts, indent=1) + "\n")
    print(f"\n{path}")
    return path


def machine() -> dict[str, Any]:
    """Processor, cores this process may use, threads of torch, and the GPU if there is one."""
    import torch

    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text(encoding="utf-8").splitlines()
        model = next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model n")), model)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {"cpu": model, "cores": cores, "threads": torch.get_num_threads(), "gpu": gpu}


def _commit() -> str | None:
    """The checkout's commit; a ``+`` says that ``src/`` or ``conf/`` differ from it."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=HERE, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "../src", "../conf")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
