"""How the embedded task of merging was designed: what base, experts and averages reach.

    python experiments/merge_digits/design.py [--seeds 3]

Trains every design anew, prints one row for each, and writes results/design.md: test accuracies,
means over the objectives. A design trades something off if experts beat base and averages on their
own objective ("own") and lose on the others ("elsewhere").
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from torch import Tensor

from frontrunner import config
from frontrunner.run import build_task
from frontrunner.tasks.merging import MergingTask
from frontrunner.weights.networks import place

HERE = Path(__file__).parent
VIT = [
    "model=small_vit",
    "task.base_steps=500",
    "task.expert_steps=500",
    "task.learning_rate=2e-3",
]
COLUMNS = ["base", "own", "elsewhere", "average", "sum", "worst own − sum", "training, CPU s"]


def main() -> int:
    """Print the table and write it to results/design.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    lines = [
        f"<!-- python experiments/merge_digits/design.py --seeds {options.seeds} -->",
        "",
        "Test accuracy on merge_digits, mean over objectives, ± deviation over seeds "
        f"0–{options.seeds - 1}.",
        "Own and elsewhere: an expert on its own objective and on the others. Average: of the "
        "experts. Sum: task arithmetic with equal weights, its λ chosen on validation data. Worst "
        "own − sum: the least that an expert gains over it on its own objective. Training: base "
        "and experts, one thread.",
        "",
        f"| network | conflict | experts | heads | {' | '.join(COLUMNS)} |",
        "|---" * (4 + len(COLUMNS)) + "|",
    ]
    designs = [
        ("small_conv", conflict, k, heads, [])
        for heads in ("shared", "separate")
        for conflict in ("orientation", "relabel", "classes")
        for k in (2, 3, 5)
    ]
    designs.append(("small_vit", "orientation", 3, "shared", VIT))
    for network, conflict, k, heads, more in designs:
        words = [f"task.conflict={conflict}", f"task.experts={k}", f"task.heads={heads}", *more]
        values = np.array([measured([*words, f"seed={s}"]) for s in range(options.seeds)])
        cells = [f"{m:.3f} ± {d:.3f}" for m, d in zip(*spread(values[:, :-1]), strict=True)]
        cells.append(f"{values[:, -1].mean():.0f}")
        lines.append(f"| {network} | {conflict} | {k} | {heads} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "design.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


def spread(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation over seeds; (seeds, columns) -> two of (columns,)."""
    deviation = values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1])
    return values.mean(axis=0), deviation


def measured(words: list[str]) -> list[float]:
    """One row's numbers, in the order of `COLUMNS`, for one seed."""
    task = build_task(config.compose(["task=merge_digits", "method=merging/average", *words]))
    assert isinstance(task, MergingTask)
    started = time.process_time()
    parents = task.parents()
    seconds = time.process_time() - started
    network = task.network().eval()
    keys = list(parents.base.shapes())

    def accuracies(state: dict[str, Tensor], split: str = "test") -> np.ndarray:
        place(network, state.items())
        return task.measure(network, split, what="accuracies")  # type: ignore[arg-type]

    base = {key: parents.base.read(key) for key in keys}
    experts = [{key: expert.read(key) for key in keys} for expert in parents.experts]
    total = {key: sum(e[key] - base[key] for e in experts) for key in keys}

    def moved(scale: float) -> dict[str, Tensor]:
        return {key: base[key] + scale * total[key] for key in keys}

    table = np.array([accuracies(expert) for expert in experts])
    own, k = table.diagonal(), len(experts)
    scales = np.arange(11) / 10
    best = max(scales, key=lambda scale: accuracies(moved(scale), "validation").mean())
    tuned = accuracies(moved(best))
    return [
        accuracies(base).mean(),
        own.mean(),
        (table.sum() - own.sum()) / (k * (k - 1)),
        accuracies(moved(1 / k)).mean(),
        tuned.mean(),
        (own - tuned).min(),
        seconds,
    ]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FRONTRUNNER_CACHE"] = folder
        sys.exit(main())
