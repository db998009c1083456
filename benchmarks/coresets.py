"""Coresets: selection by orthogonal matching pursuit, facility location, and the SNR's overhead.

Pursuit: 10 % of 50,000 samples with 512 features and a bias, 10 classes, class by class, against a
naive pursuit that forms all gradients of a class and at every pick multiplies by all of them and
solves the least squares anew (SciPy's lstsq; nnls where a weight would be negative). The naive one
is timed on one class, up to as many picks as --picks says; its seconds for a pick, fitted by
a + b s + c s² in the number s of those chosen, give those of all picks of all classes. Peak memory
is that of processes of their own, beyond the features and residuals they are given: their anonymous
memory, looked at every millisecond, of one class for both.

Facility location: 200 of 2,000 samples with 64 features against apricot-select, on the same
similarities, by the interpreter that --apricot names.

Overhead: processor seconds of SNR checks over those of training, from the fronts of ERACS runs that
check every 3 epochs: by a pass over the coreset, by one over 128 of its samples, or from the
gradients of training itself.

Parts that are not asked for keep what the result file has of them.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from _common import arguments, interleave, one_thread, ratio, spread, write
from torch import Tensor

import frontrunner
from frontrunner.coresets.facility import facility_location
from frontrunner.coresets.gradients import Gradients
from frontrunner.coresets.omp import nonnegative_omp

CLASSES, PER_CLASS, FEATURES, PICKS = 10, 5000, 512, 500
GRADIENT_BYTES = 4 * CLASSES * (FEATURES + 1)
POINTS, WIDTH, CHOSEN = 2000, 64, 200
QUIET = ("logger=none", "runner.progress=none", "runner.threads=1", "runner.accelerator=cpu")
RUNS = {
    "digits_full": ["task=digits_full"],
    "mnist_images": ["task=mnist_images", "training.steps=2375"],  # 20 epochs
}
PARTS = ("pursuit", "location", "overhead")
WATCHED: dict[str, list[str]] = {
    "a pass": [],
    "a pass over 128": ["method.snr_samples=128"],
    "training's gradients": ["method.snr_from=training"],
}


def data(classes: int) -> list[Gradients]:
    """Last-layer gradients of some classes, as factors: features around a mean of each class, and
    the residuals of a softmax that is right about half of the time."""
    stream = torch.Generator().manual_seed(0)
    means = torch.randn(CLASSES, FEATURES, generator=stream)
    found = []
    for c in range(classes):
        h = torch.relu(means[c] + 2 * torch.randn(PER_CLASS, FEATURES, generator=stream))
        logits = torch.randn(PER_CLASS, CLASSES, generator=stream)
        logits[:, c] += 1.5
        r = logits.softmax(1)
        r[:, c] -= 1
        found.append(Gradients(((r, torch.cat([h, torch.ones(PER_CLASS, 1)], dim=1)),)))
    return found


# ---------------------------------------------------------------------- pursuit


def ours(one: Gradients, count: int) -> tuple[Tensor, Tensor]:
    return nonnegative_omp(one, one.mean() * len(one), count)


def naive(one: Gradients, count: int) -> tuple[list[int], np.ndarray[Any, Any], list[float]]:
    """Indices, weights, and processor seconds of each pick."""
    from scipy.linalg import lstsq
    from scipy.optimize import nnls

    atoms = one.dense().numpy()
    target = atoms.sum(0)
    rest, chosen, weights, seconds = target, [], np.zeros(0), []
    for _ in range(count):
        start = time.process_time()
        correlation = atoms @ rest
        correlation[chosen] = -np.inf
        chosen.append(int(correlation.argmax()))
        columns = atoms[chosen].T
        weights = lstsq(columns, target, lapack_driver="gelsy")[0]
        if (weights < 0).any():
            weights = nnls(columns.astype(np.float64), target.astype(np.float64))[0]
        rest = target - columns @ weights.astype(np.float32)
        seconds.append(time.process_time() - start)
    return chosen, weights, seconds


def select(kind: str, picks: int) -> dict[str, Any]:
    """One measurement in a fresh process: ours on all classes, or the naive one on the first."""
    one_thread("cpu")
    groups = data(CLASSES if kind == "ours" else 1)
    ours(groups[0], 2)  # loads what is loaded on first use
    result: dict[str, Any] = {}
    if kind == "ours":
        start = time.process_time()
        found = [ours(group, PICKS) for group in groups]
        result["seconds"] = time.process_time() - start
        result["chosen"] = sum(len(indices) for indices, _ in found)
        with Peak() as peak:
            ours(groups[0], PICKS)
    else:
        with Peak() as peak:
            result["each"] = naive(groups[0], picks)[2]
    return result | {"bytes": peak.bytes}


class Peak:
    """Anonymous memory of this process: the most there was, beyond what there was at first.

    The high-water mark of the resident set would count pages of libraries, which come and go.
    """

    def __enter__(self) -> Peak:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)  # what was freed is not there to be taken again
        self.bytes, self._before, self._done = 0, self._now(), threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(0.001):
            self.bytes = max(self.bytes, self._now() - self._before)

    @staticmethod
    def _now() -> int:
        with open("/proc/self/status", encoding="utf-8") as file:
            return next(1024 * int(x.split()[1]) for x in file if x.startswith("RssAnon"))


def pursuit(picks: int, repeats: int) -> dict[str, Any]:
    (one,) = data(1)
    few = min(picks, 50)
    same_index, same_weight = ours(one, few)
    index, weight, _ = naive(one, few)
    common = len(set(index) & set(same_index.tolist())) / few
    errors = [_error(one, i, w) for i, w in ((same_index.tolist(), same_weight), (index, weight))]
    seconds = interleave(
        {"naive": lambda: naive(one, few), "ours": lambda: ours(one, few)}, repeats
    )
    measured = {kind: _process(kind, picks) for kind in ("ours", "naive")}
    each = measured["naive"].pop("each")
    s = np.arange(1, picks + 1)
    fit = np.linalg.lstsq(np.stack([s**0, s, s**2], axis=1), np.asarray(each), rcond=None)[0]
    every = np.arange(1, PICKS + 1)
    whole = CLASSES * float(np.sum(fit[0] + fit[1] * every + fit[2] * every**2))
    coreset = CLASSES * PICKS * GRADIENT_BYTES
    return {
        "picks in common": common,
        "relative errors (ours, naive)": errors,
        f"naive : ours, first {few} picks of a class": ratio(seconds["naive"], seconds["ours"]),
        "seconds, all classes, ours": measured["ours"]["seconds"],
        f"seconds, all classes, naive (extrapolated from {picks} picks of one)": whole,
        "naive : ours, all (extrapolated)": whole / measured["ours"]["seconds"],
        "peak bytes, ours, one class": measured["ours"]["bytes"],
        "peak bytes, naive, one class": measured["naive"]["bytes"],
        "peak memory, naive : ours": measured["naive"]["bytes"] / measured["ours"]["bytes"],
        "peak of ours over (coreset x last-layer gradient)": measured["ours"]["bytes"] / coreset,
        "peak of naive over (coreset x last-layer gradient)": measured["naive"]["bytes"] / coreset,
    }


def _error(one: Gradients, indices: list[int], weights: Any) -> float:
    """‖Σ_i w_i g_i − Σ g‖ / ‖Σ g‖."""
    target = one.mean() * len(one)
    chosen = torch.as_tensor(weights, dtype=torch.float32) @ one[torch.tensor(indices)].dense()
    return float((chosen - target).norm() / target.norm())


def _process(kind: str, picks: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--select", kind, "--picks", str(picks)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


# ---------------------------------------------------------------------- facility location


def location(python: str, repeats: int) -> dict[str, Any]:
    points = torch.randn(POINTS, WIDTH, generator=torch.Generator().manual_seed(0))
    distance = torch.cdist(points, points)
    similarity = distance.max() - distance
    similarity.fill_diagonal_(float(distance.max()))
    mine = interleave({"ours": lambda: facility_location(similarity, CHOSEN)}, repeats)["ours"]
    chosen = facility_location(similarity, CHOSEN)[0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "similarity.npy"
        np.save(path, similarity.numpy())
        script = Path(__file__).with_name("_apricot.py")
        command = [python, str(script), str(path), str(CHOSEN), str(repeats)]
        one = {name: "1" for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS")}
        # The peer's packages, and not those of this interpreter.
        own = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | one
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=own)
    peer = json.loads(done.stdout.splitlines()[-1])
    values = [
        float(similarity[torch.as_tensor(indices)].amax(0).double().sum())
        for indices in (chosen, peer["chosen"])
    ]
    return {
        "peer": f"apricot-select {peer['version']}, lazy greedy",
        "peer : ours": ratio(peer["seconds"], mine),
        "objective, ours : peer": values[0] / values[1],
        "chosen by both": len(set(chosen.tolist()) & set(peer["chosen"])),
    }


# ---------------------------------------------------------------------- overhead


def overhead(repeats: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, words in RUNS.items():
        if name == "mnist_images" and not os.environ.get("FRONTRUNNER_DATA"):
            print(f"{name}: skipped, FRONTRUNNER_DATA names no folder with mnist/")
            continue
        costs: dict[str, list[dict[str, float]]] = {asked: [] for asked in WATCHED}
        for repeat in range(repeats):
            for asked in list(WATCHED) if repeat % 2 == 0 else list(WATCHED)[::-1]:
                costs[asked].append(_cost([*words, *WATCHED[asked], f"seed={repeat}"]))
        for asked, each in costs.items():
            training = [cost["train_seconds"] for cost in each]
            checking = ratio([cost["check_seconds"] for cost in each], training)
            selecting = ratio([cost["select_seconds"] for cost in each], training)
            found[f"{name}, {asked}"] = {
                "checks : training": checking,
                "selecting : training": selecting,
                "checks": [cost["checks"] for cost in each],
                "selections": [cost["updates"] + 1 for cost in each],
            }
            print(
                f"{name}, {asked}: checks : training {spread(checking)}, selecting : training "
                f"{spread(selecting)}",
                flush=True,
            )
    return found


def _cost(words: list[str]) -> dict[str, float]:
    """Processor seconds of a run's training, checks and selections, and how many there were."""
    asked = ["method=coresets/eracs", "method.every=3", *words, *QUIET]
    with (
        tempfile.TemporaryDirectory() as folder,
        patch("time.perf_counter", time.process_time),
    ):
        (cost,) = frontrunner.run([*asked, f"output={folder}"]).front.costs
    return {key.removeprefix("training_"): value for key, value in cost.items()}


def shown(values: dict[str, Any]) -> dict[str, Any]:
    for name, value in values.items():
        print(f"{name}: {spread(value) if isinstance(value, dict) else value}", flush=True)
    return values


def main() -> None:
    parser = arguments(__doc__, device=False)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], default=[], help="none: all")
    parser.add_argument("--picks", type=int, default=100, help="of the naive pursuit; 500 are all")
    parser.add_argument("--apricot", help="a Python that has apricot-select; without, skipped")
    parser.add_argument("--select", choices=["ours", "naive"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.select:
        print(json.dumps(select(options.select, options.picks)))
        return
    one_thread("cpu")
    repeats = options.repeats or 3
    wanted = options.parts or PARTS
    results: dict[str, Any] = {}
    if "pursuit" in wanted:
        results["pursuit"] = shown(pursuit(options.picks, repeats))
    if "location" in wanted and options.apricot:
        results["facility location"] = shown(location(options.apricot, repeats))
    elif "location" in wanted:
        print("facility location: skipped, --apricot names no interpreter with apricot-select")
    if "overhead" in wanted:
        results["overhead"] = overhead(repeats)
    settings = {
        "pursuit": f"{CLASSES} classes of {PER_CLASS} samples, {FEATURES} features and a bias",
        "facility location": f"{CHOSEN} of {POINTS} samples, {WIDTH} features",
        "overhead": "processor seconds of ERACS at a budget of 10 %, every=3; a seed each time",
    }
    path = options.out / "coresets-cpu.json"
    before = json.loads(path.read_text())["results"] if path.is_file() else {}
    write("coresets-cpu", options.out, settings, before | results)


if __name__ == "__main__":
    main()
