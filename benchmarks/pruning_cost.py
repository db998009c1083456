"""What MOSP's fit costs beside ALPS's: forward passes and Gram matrices, and solving.

On the small Llama of task=text_domains and its three objectives, one thread, repetitions in turn.
`pruning_blocks.py` does the same with random blocks of other widths, and measures memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from _common import arguments, interleave, one_thread, ratio, spread, write

from frontrunner import config as configuration
from frontrunner.front import text
from frontrunner.run import build_task
from frontrunner.tasks.base import Task

SPARSITY = 0.7
VARIANTS = {
    "ALPS": ["method=pruning/alps"],
    "MOSP": ["method=pruning/mosp"],
    "MOSP, core by magnitude": ["method=pruning/mosp", "method.core=magnitude"],
}


def main() -> None:
    options = arguments(__doc__, device=False).parse_args()
    one_thread("cpu")
    task = build_task(configuration.compose(["task=text_domains", *VARIANTS["ALPS"]]))
    repeats = options.repeats or 3
    parts: dict[str, list[dict[str, float]]] = {label: [] for label in VARIANTS}
    calls = {label: _fit(task, words, parts[label]) for label, words in VARIANTS.items()}
    seconds = interleave(calls, repeats)
    results, lines = {}, []
    for label in VARIANTS:
        over = ratio(seconds[label], seconds["ALPS"])
        timed = parts[label][1:]
        solve = sum(p["solve_seconds"] for p in timed)
        whole = solve + sum(p["calibration_seconds"] for p in timed)
        own = [round(s, 2) for s in seconds[label]]
        results[label] = {"seconds": own, "over_alps": over, "parts": timed}
        mean = sum(seconds[label]) / repeats
        lines.append([label, f"{mean:.1f}", f"{100 * solve / whole:.0f} %", spread(over)])
    print(text.grid(["method", "fit s", "of it solving", "over ALPS"], lines))
    settings = {
        "sparsity": SPARSITY,
        "objectives": task.m,
        "seconds": "of the processor, one thread; parts are wall-clock",
    }
    write("pruning_cost", options.out, settings, results)


def _fit(task: Task, words: list[str], parts: list[dict[str, float]]) -> Callable[[], None]:
    """A fit from nothing, which notes its parts."""
    config = configuration.compose(
        ["task=text_domains", *words, f"method.sparsity={SPARSITY}", "runner.progress=none"]
    )
    method = configuration.build(config.method)
    sealed = task.sealed()

    def fit() -> None:
        with tempfile.TemporaryDirectory() as folder:
            runner = configuration.build(config.runner, directory=Path(folder), seed=0)
            method.fit(sealed, runner)
            parts.append({k: v for k, v in runner.cost.items() if k.endswith("_seconds")})

    return fit


if __name__ == "__main__":
    main()
