"""Reproduce what docs/methods/pruning.md claims; every table of that page is printed here.

    python experiments/mosp/reproduce.py [order wanda fronts refit ablation] [--task T] [--seeds N]

Tasks are text_domains (embedded texts) and text_domains_local (WikiText-2, GSM8K and Code Alpaca
under $FRONTRUNNER_DATA). Runs that exist are not run again. Tables go to standard output, and with
every figure behind them to experiments/mosp/results/. Seconds are of the processor, on one thread.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _study import (
    LEVELS,
    REFERENCE,
    TASKS,
    Study,
    equal,
    materialize_seconds,
    specialists,
    spread,
    volume,
)

from frontrunner.errors import FrontrunnerError
from frontrunner.front import text

HERE = Path(__file__).parent
Rows = list[dict[str, Any]]

SINGLE = {
    "magnitude": ["method=pruning/magnitude"],
    "Wanda": ["method=pruning/wanda"],
    "SparseGPT": ["method=pruning/sparsegpt"],
    "ALPS": ["method=pruning/alps"],
}
MOSP = ["method=pruning/mosp"]
ALONE = ["method=pruning/alps", "method.calibration=per_objective"]
BOUND = ["method=pruning/alps", "method.calibration=weighted"]
PRINTED = "MOSP as printed"
AGAIN = "re-pruning for every preference"

GROUPS = {
    "magnitude, by layer": SINGLE["magnitude"],
    "magnitude, by output": [*SINGLE["magnitude"], "+method.among=output"],
    "Wanda, by layer": [*SINGLE["Wanda"], "method.among=layer"],
    "Wanda, by output": SINGLE["Wanda"],
}

FRONTS = {
    "SparseGPT": SINGLE["SparseGPT"],
    "ALPS": SINGLE["ALPS"],
    "ALPS, each objective alone": ALONE,
    PRINTED: MOSP,
    AGAIN: BOUND,
}
REFITS = {
    PRINTED: MOSP,
    "scaled scores": [*MOSP, "method.scores=scaled"],
    "PCG": [*MOSP, "method.refit=pcg"],
    "scaled scores, PCG": [*MOSP, "method.scores=scaled", "method.refit=pcg"],
    "scaled scores, PCG, core not kept": [
        *MOSP,
        "method.scores=scaled",
        "method.refit=pcg",
        "method.keep_core=false",
    ],
    "ADMM": [*MOSP, "method.refit=admm"],
    "ADMM, core not kept": [*MOSP, "method.refit=admm", "method.keep_core=false"],
    "ADMM, core not kept, 25 iterations": [
        *MOSP,
        "method.refit=admm",
        "method.keep_core=false",
        "method.refit_iterations=25",
    ],
}
ABLATIONS = {
    PRINTED: [],
    "α = 0": ["method.alpha=0"],
    "α = 1": ["method.alpha=1"],
    "core by magnitude": ["method.core=magnitude"],
    "p = 0.25": ["method.power=0.25"],
    "p = 1": ["method.power=1"],
    "own prefix of specialists": ["method.prefix=task"],
    "Gram matrices / tokens": ["method.norm=tokens"],
    "Gram matrices / trace": ["method.norm=trace"],
    "ridge of the trace": ["method.ridge=trace"],
    "stopping as in ALPS's code": ["method.stopping=code"],
    "columns not scaled": ["method.scaled=false"],
}


def main() -> int:
    """Print the tables asked for."""
    tables: dict[str, Callable[[Study], tuple[str, Rows]]] = {
        "order": order,
        "wanda": wanda,
        "fronts": fronts,
        "refit": refit,
        "ablation": ablation,
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", choices=[[], *tables], default=[])
    parser.add_argument("--task", choices=TASKS, default="text_domains")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--levels", nargs="+", choices=LEVELS, default=list(LEVELS))
    parser.add_argument("--points", type=int, default=36)
    parser.add_argument("--windows", type=int, default=64, help="of test text per domain")
    parser.add_argument("--output", type=Path, default=Path("runs/experiments/mosp"))
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    study = Study(
        options.task,
        options.seeds,
        options.levels,
        options.points,
        options.windows,
        options.output,
    )
    for name in options.tables or tables:
        start = time.perf_counter()
        try:
            table, rows = tables[name](study)
        except FrontrunnerError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
        words = f"{name} --task {study.task} --seeds {study.seeds}"
        words += f" --levels {' '.join(study.levels)} --points {study.points}"
        command = f"python experiments/mosp/reproduce.py {words} --windows {study.windows}"
        table = f"<!-- {command} -->\n\n{table}\n"
        options.results.mkdir(parents=True, exist_ok=True)
        path = options.results / f"{name}-{study.task}"
        path.with_suffix(".md").write_text(table, encoding="utf-8")
        facts = {"command": command, "rows": rows}
        path.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        print(table, flush=True)
        print(f"({name}: {time.perf_counter() - start:.0f} s)", file=sys.stderr)
    return 0


# ---------------------------------------------------------------------- tables


def order(study: Study) -> tuple[str, Rows]:
    """Perplexities at equal preferences, method by method."""
    lines, rows = [["dense", "", *(spread([x]) for x in study.dense), ""]], []
    for level in study.levels:
        values: dict[str, np.ndarray] = {}
        for label, words in SINGLE.items():
            runs = study.sweep(label, words, level)
            values[label] = np.array([equal(run) for run in runs])
            rows += [
                {"level": level, "method": label, "seed": s, "perplexities": v.tolist()}
                for s, v in enumerate(values[label])
            ]
            lines.append([LEVELS[level][0], label, *(spread(v) for v in values[label].T), ""])
        stacked = np.stack(list(values.values()))  # method, seed, domain
        held = (np.diff(stacked, axis=0) < 0).all(axis=0)
        lines[-1][-1] = f"{held.sum()} of {held.size}"
    head = ["sparsity", "method", *study.domains, "falls from each to the next"]
    intro = (
        f"Test perplexities at equal preferences, calibrated on all domains. {_setting(study)} The "
        "last column counts pairs of seed and domain in which magnitude > Wanda > SparseGPT > ALPS."
    )
    return _table(intro, head, lines), rows


def wanda(study: Study) -> tuple[str, Rows]:
    """What Wanda's two ideas do by themselves: input norms, and competition within an output."""
    lines, rows = [], []
    for level in study.levels:
        for label, words in GROUPS.items():
            values = np.array([equal(run) for run in study.sweep(label, words, level)])
            lines.append([LEVELS[level][0], label, *(spread(v) for v in values.T)])
            rows += [
                {"level": level, "method": label, "seed": s, "perplexities": v.tolist()}
                for s, v in enumerate(values)
            ]
    intro = f"Test perplexities by what weights compete with. {_setting(study)}"
    return _table(intro, ["sparsity", "method", *study.domains], lines), rows


def fronts(study: Study) -> tuple[str, Rows]:
    """Hypervolumes, and specialists between ALPS on all data and on their own."""
    lines, special, rows = [], [], []
    for level in study.levels:
        found = {label: study.sweep(label, words, level) for label, words in FRONTS.items()}
        volumes = {
            label: [volume(run, gpt) for run, gpt in zip(runs, found["SparseGPT"], strict=True)]
            for label, runs in found.items()
        }
        ahead = np.asarray(volumes[PRINTED]) > np.asarray(volumes["ALPS"])
        ahead &= np.asarray(volumes[PRINTED]) > np.asarray(volumes["SparseGPT"])
        lines.append(
            [
                LEVELS[level][0],
                *(spread(volumes[label]) for label in FRONTS),
                f"{ahead.sum()} of {len(ahead)}",
            ]
        )
        rows += [
            {"level": level, "method": label, "seed": s, "hypervolume": v}
            for label, values in volumes.items()
            for s, v in enumerate(values)
        ]
        shared = np.array([equal(run) for run in found["ALPS"]])
        ours = np.array([specialists(run) for run in found[PRINTED]])
        alone = np.array([specialists(run) for run in found["ALPS, each objective alone"]])
        between = (alone <= ours) & (ours <= shared)
        for label, values in (("ALPS", shared), (PRINTED, ours), ("ALPS alone", alone)):
            special.append([LEVELS[level][0], label, *(spread(v) for v in values.T), ""])
            rows += [
                {"level": level, "method": label, "seed": s, "specialists": v.tolist()}
                for s, v in enumerate(values)
            ]
        special[-1][-1] = f"{between.sum()} of {between.size}"
    intro = f"{_volume(study)} The last column counts seeds in which MOSP is above both."
    first = _table(intro, ["sparsity", *FRONTS, "MOSP ahead"], lines)
    intro = (
        "Each domain's perplexity of the model that is for it alone, and of ALPS on all data; "
        "the last column counts pairs of seed and domain in which the specialist lies between."
    )
    second = _table(intro, ["sparsity", "model", *study.domains, "between"], special)
    return f"{first}\n\n{second}", rows


def refit(study: Study) -> tuple[str, Rows]:
    """Hypervolume against cost, for all ways to answer a preference."""
    lines, rows = [], []
    for level in study.levels:
        gpt = study.sweep("SparseGPT", SINGLE["SparseGPT"], level)

        def volumes(label: str, words: list[str], level: str = level, gpt: Any = gpt) -> np.ndarray:
            runs = study.sweep(label, words, level)
            return np.array([volume(run, g) for run, g in zip(runs, gpt, strict=True)])

        least, most = volumes("ALPS", SINGLE["ALPS"]), volumes(AGAIN, BOUND)
        count = len(study.run(AGAIN, BOUND, level, 0).front.values)
        once = study.fit_seconds(SINGLE["ALPS"], level)
        again = once * count
        lines.append([LEVELS[level][0], "ALPS", spread(least), "0 %", f"{once:.1f}", "", ""])
        for label, words in REFITS.items():
            found = volumes(label, words)
            shares = 100 * (found - least) / (most - least)
            run = study.run(label, words, level, 0)
            preferences = run.front.preferences
            assert preferences is not None
            fit, make = (
                study.fit_seconds(words, level),
                materialize_seconds(run.pareto_set, preferences),
            )
            line = [LEVELS[level][0], label, spread(found), f"{spread(shares, 3)} %"]
            line += [f"{fit:.1f}", f"{make:.1f}", f"{100 * make / again:.1f} %"]
            lines.append(line)
            rows += [
                {
                    "level": level,
                    "method": label,
                    "seed": s,
                    "hypervolume": v,
                    "share": share,
                    "fit_seconds": fit,
                    "materialize_seconds": make,
                    "again_seconds": again,
                }
                for s, (v, share) in enumerate(zip(found.tolist(), shares.tolist(), strict=True))
            ]
        lines.append([LEVELS[level][0], AGAIN, spread(most), "100 %", f"{again:.1f}", "", "100 %"])
        for label, values in (("ALPS", least), (AGAIN, most)):
            rows += [
                {"level": level, "method": label, "seed": s, "hypervolume": v}
                for s, v in enumerate(values.tolist())
            ]
    head = ["sparsity", "method", "hypervolume", "share of the gain", "fit s", "make s", "make/fit"]
    head[-1] = "of re-pruning's time"
    intro = (
        f"{_volume(study)} The share is that of the hypervolume that re-pruning gains over ALPS. "
        "Seconds are of the processor, on one thread and at seed 0: of the fit, and of making the "
        "models of all preferences without scoring them, also as a share of re-pruning's time, "
        "which is that of ALPS once for each preference."
    )
    return _table(intro, head, lines), rows


def ablation(study: Study) -> tuple[str, Rows]:
    """MOSP with one switch changed at a time."""
    lines, rows = [[label] for label in ABLATIONS], []
    head = ["MOSP"]
    for level in study.levels:
        gpt = study.sweep("SparseGPT", SINGLE["SparseGPT"], level)
        base: np.ndarray | None = None
        for line, (label, words) in zip(lines, ABLATIONS.items(), strict=True):
            runs = study.sweep(label, [*MOSP, *words], level)
            found = np.array([volume(run, g) for run, g in zip(runs, gpt, strict=True)])
            base = found if base is None else base
            change = 100 * (found / base - 1)
            line += [spread(found), "" if label == PRINTED else f"{change.mean():+.1f} %"]
            rows += [
                {"level": level, "method": label, "seed": s, "hypervolume": v}
                for s, v in enumerate(found.tolist())
            ]
        head += [LEVELS[level][0], "change"]
    return _table(_volume(study), head, lines), rows


def _setting(study: Study) -> str:
    windows = f"{study.windows} windows of test text for each domain"
    return (
        f"{windows}; seeds 0-{study.seeds - 1} of the calibration data; mean ± standard deviation."
    )


def _volume(study: Study) -> str:
    return (
        f"Hypervolume of test perplexities at {study.points} preferences and the equal one; the "
        f"reference point is {REFERENCE} times SparseGPT's perplexities of the same seed and "
        f"sparsity. {_setting(study)}"
    )


def _table(intro: str, head: list[str], lines: list[list[str]]) -> str:
    return f"{intro}\n\n{text.grid(head, lines, markdown=True)}"


if __name__ == "__main__":
    sys.exit(main())
