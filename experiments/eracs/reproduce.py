"""Reproduce what docs/methods/coresets.md claims; every table of that page is printed here.

    python experiments/eracs/reproduce.py [TABLES] [--setting S] [--seeds N]

Tables are ``methods``, ``timing``, ``equal_cost``, ``grid`` and ``sources``.

Settings are ``digits`` (embedded, 80 epochs), ``digits_noisy`` (20 % of training labels wrong, 40
epochs), ``digits_rare`` (the rarest class has 2 % of the images of the most frequent, 40 epochs),
``digits_short`` (20 epochs) and ``mnist`` (10,000 images under $FRONTRUNNER_DATA, a small ResNet,
20 epochs). Of the last four fewer methods are run, and of those with digits two budgets. Where
there are 20 epochs, every 2nd is checked instead of every 3rd, and what is chosen at fixed times is
chosen at every 5th instead of every 20th. Runs that exist are not run again. Tables go to standard
output, and with every figure behind them to experiments/eracs/results/.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _settings import AUDIT, ERACS, FIXED, SETTINGS, Setting
from numpy.typing import NDArray
from scipy.stats import spearmanr

import frontrunner
from frontrunner.errors import FrontrunnerError
from frontrunner.front import statistics, text

HERE = Path(__file__).parent
Array = NDArray[np.float64]
Rows = list[dict[str, Any]]

QUIET = ["logger=none", "runner.progress=none", "runner.threads=1"]


@dataclass(frozen=True)
class Study:
    """Runs of one setting.

    Attributes:
        name: of one of `SETTINGS`.
        setting: that setting.
        seeds: of weights, order and selections; the split of the data is the same for all.
        output: folder of runs.
    """

    name: str
    setting: Setting
    seeds: int
    output: Path

    def run(self, words: Sequence[str], budgets: Sequence[float], seed: int) -> Rows:
        """A row of cost, error and facts for each budget; a finished run is read."""
        label = "-".join(w.partition("=")[2].replace("/", "-") for w in words)
        print(f"  {self.name}, seed {seed}: {label} {list(budgets)}", file=sys.stderr, flush=True)
        own = [f"label='{label}'", f"output={self.output}/{self.name}", f"seed={seed}"]
        if words != FULL:
            own.append(f"method.budget=[{','.join(f'{b:g}' for b in budgets)}]")
        run = frontrunner.run([*self.setting.words, *words, *own, *QUIET])
        found = zip(run.front.values, run.front.costs, run.front.info["models"], strict=True)
        return [
            {
                "budget": budget,
                "seed": seed,
                "cost": float(cost),
                "error": 100 * float(error),
                **{k: counted[f"training_{k}"] for k in COUNTED},
                "collapsed": model["collapsed"],
                "history": model["history"],
            }
            for budget, ((cost, error), counted, model) in zip(budgets, found, strict=True)
        ]

    def one(self, words: Sequence[str], budget: float, seed: int) -> dict[str, Any]:
        """The row of a single budget."""
        return self.run(words, [budget], seed)[0]

    def paired(self, words: Sequence[str]) -> Rows:
        """Rows of all seeds and budgets."""
        return [
            row for seed in range(self.seeds) for row in self.run(words, self.setting.budgets, seed)
        ]


FULL = ["method=coresets/full"]
COUNTED = ("seconds", "select_seconds", "check_seconds", "train_seconds", "updates", "checks")


def main() -> int:
    """Print the tables asked for."""
    tables: dict[str, Callable[[Study], tuple[str, Rows]]] = {
        "methods": methods,
        "timing": timing,
        "equal_cost": equal_cost,
        "grid": grid,
        "sources": sources,
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", choices=[[], *tables], default=[])
    parser.add_argument("--setting", choices=SETTINGS, default="digits")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("runs/experiments/eracs"))
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    study = Study(options.setting, SETTINGS[options.setting], options.seeds, options.output)
    for name in options.tables or tables:
        start = time.perf_counter()
        try:
            table, rows = tables[name](study)
        except FrontrunnerError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
        words = f"{name} --setting {study.name} --seeds {study.seeds}"
        command = f"python experiments/eracs/reproduce.py {words}"
        table = f"<!-- {command} -->\n\n{table}\n"
        options.results.mkdir(parents=True, exist_ok=True)
        path = options.results / f"{name}-{study.name}"
        path.with_suffix(".md").write_text(table, encoding="utf-8")
        lean = [{k: v for k, v in row.items() if k != "history"} for row in rows]
        facts = json.dumps({"command": command, "rows": lean}, indent=1)
        path.with_suffix(".json").write_text(facts + "\n", encoding="utf-8")
        print(table, flush=True)
        print(f"({name}: {time.perf_counter() - start:.0f} s)", file=sys.stderr)
    return 0


# ---------------------------------------------------------------------- tables


def methods(study: Study) -> tuple[str, Rows]:
    """Accuracy, cost, seconds and updates of every method at every budget."""
    seeds = min(study.seeds, study.setting.full_seeds)
    full = [study.one(FULL, 1.0, seed) for seed in range(seeds)]
    found = {label: study.paired(words) for label, words in study.setting.methods.items()}
    rows = [{"method": "all data", **row} for row in full]
    rows += [{"method": label, **row} for label, own in found.items() for row in own]
    lines = [["100 %", "all data", *_cells(full)]]
    for budget in study.setting.budgets:
        for label, own in found.items():
            cells = _cells([row for row in own if row["budget"] == budget])
            lines.append([f"{100 * budget:g} %", label, *cells])
    intro = (
        f"Accuracy on the test split. {_setting(study)} Cost is the share of training on all data, "
        "in passes over samples; both it and the seconds have selections and checks in them. "
        "Updates are selections after the first. A model failed if neither its loss nor its error "
        "on validation data is a tenth below that of the best constant answer; it is counted in "
        "the mean all the same."
    )
    head = ["budget", "method", "accuracy %", "cost", "s", "of them selecting", "updates", "failed"]
    return _table(intro, head, lines), rows


def timing(study: Study) -> tuple[str, Rows]:
    """Whether it helps to know when: the same number of updates, at even and at random times."""
    lines, rows = [], []
    for label in study.setting.triggers:
        words = study.setting.methods[label]
        gains: dict[str, list[float]] = {"even": [], "random": []}
        found = study.paired(words)
        correlations = [_correlation(row["history"]) for row in found]
        rows += [
            {"method": label, **row, "correlation": c}
            for row, c in zip(found, correlations, strict=True)
        ]
        for kind, values in gains.items():
            for ours in found:
                matched = _matched(kind, int(ours["updates"]))
                other = study.one(matched, ours["budget"], ours["seed"])
                rows.append({"method": f"{label}: {kind}", **other})
                values.append(other["error"] - ours["error"])
        updates = [row["updates"] for row in found]
        known = [c for c in correlations if c is not None]
        line = [label, f"{np.mean(updates):.1f}"]
        for values in gains.values():
            line += [_interval(values), f"{statistics.paired_test(values).p:.3f}"]
        mean = f"{np.mean(known):+.2f} ± {np.std(known, ddof=1):.2f}" if len(known) > 1 else "-"
        lines.append([*line, mean])
    budgets = ", ".join(f"{100 * b:g} %" for b in study.setting.budgets)
    intro = (
        "What the moments of selection are worth: accuracy gained, in points, over GradMatch with "
        "the same number of updates, at even and at random times, paired over seeds and budgets "
        f"({budgets}). {_setting(study)} In brackets the 95 % bootstrap interval of the mean; p of "
        "the sign-flip test, or Wilcoxon's. The last column is Spearman's correlation, within a "
        "run, of the SNR with the true gradient gap 1 − cos."
    )
    head = ["trigger", "updates", "over even times", "p", "over random times", "p"]
    return _table(intro, [*head, "SNR and gap"], lines), rows


def equal_cost(study: Study) -> tuple[str, Rows]:
    """Whether it pays: random samples drawn anew in each epoch, as many as the same cost buys."""
    lines, rows = [], []
    for label in study.setting.bought:
        gains, costs = [], []
        for ours in study.paired(study.setting.methods[label]):
            share = round(min(1.0, ours["cost"]), 3)
            other = study.one(FIXED["random, drawn every epoch"], share, ours["seed"])
            rows += [{"method": label, **ours}, {"method": f"{label}: random", **other}]
            gains.append(other["error"] - ours["error"])
            costs.append(ours["cost"] / ours["budget"])
        p = statistics.paired_test(gains).p
        lines.append([label, f"{np.mean(costs):.2f}", _interval(gains), f"{p:.3f}"])
    intro = (
        "What selection is worth at equal cost: accuracy gained, in points, over random samples "
        "that are drawn anew in every epoch, as many as the cost of selecting buys. Paired over "
        f"seeds and budgets. {_setting(study)}"
    )
    return _table(intro, ["method", "cost / budget", "over random", "p"], lines), rows


def grid(study: Study) -> tuple[str, Rows]:
    """The paper's Table 3: accuracy and updates by interval of checks and threshold, at 10 %."""
    tables, rows = [], []
    rules = ("SNR fell by more than τ", "SNR below τ", "SNR above τ")
    for label, rule in zip(ERACS, rules, strict=False):
        lines = []
        for every in (1, 3, 10):
            line = [str(every)]
            for threshold in (0.1, 0.2, 0.3, 0.4, 0.5):
                words = [*ERACS[label], f"method.threshold={threshold}", f"method.every={every}"]
                found = [study.one(words, 0.1, seed) for seed in range(study.seeds)]
                rows += [
                    {"method": label, "every": every, "threshold": threshold, **r} for r in found
                ]
                accuracy = np.mean([100 - r["error"] for r in found])
                line.append(f"{accuracy:.1f} / {np.mean([r['updates'] for r in found]):.1f}")
            lines.append(line)
        intro = f"{rule}: accuracy % / updates at a budget of 10 %."
        tables.append(_table(intro, ["C \\ τ", "0.1", "0.2", "0.3", "0.4", "0.5"], lines))
    return f"{_setting(study)}\n\n" + "\n\n".join(tables), rows


def sources(study: Study) -> tuple[str, Rows]:
    """The SNR of a pass over the coreset, and that of the gradients of training itself."""
    lines, rows = [], []
    words = ["method=coresets/eracs", "method.every=3"]
    by_pass = study.paired(words)
    by_training = study.paired([*words, "method.snr_from=training", *AUDIT])
    for budget in study.setting.budgets:
        cells = [f"{100 * budget:g} %"]
        for source, found in (("a pass", by_pass), ("training", by_training)):
            own = [row for row in found if row["budget"] == budget]
            rows += [{"source": source, **row} for row in own]
            shares = [100 * row["check_seconds"] / row["train_seconds"] for row in own]
            accuracy, _, _, _, updates, _ = _cells(own)
            cells += [accuracy, updates, f"{np.median(shares):.1f} %"]
        pairs = [
            (entry["snr"][0], entry["snr_pass"][0])
            for row in by_training
            if row["budget"] == budget
            for entry in row["history"]
            if "snr_pass" in entry
        ]
        seen, passed = np.array(pairs).T
        correlation = float(spearmanr(seen, passed).statistic)
        lines.append([*cells, f"{correlation:.2f}", f"{np.median(seen / passed):.2f}"])
    intro = (
        "Checks every 3 epochs by a pass over the coreset, and by the gradients of the epoch of "
        "training before: accuracy, updates and, of the seconds of training, the median share of "
        f"checks. {_setting(study)} Then Spearman's correlation of the two SNRs, measured at the "
        "same moments of the same runs, and the median of their ratio, training over pass."
    )
    head = ["budget"]
    for source in ("pass", "training"):
        head += [f"{source}: accuracy %", "updates", "checks"]
    return _table(intro, [*head, "correlation", "ratio"], lines), rows


# ---------------------------------------------------------------------- pieces


def _matched(kind: str, updates: int) -> list[str]:
    """GradMatch with this many updates, evenly spread or at random times."""
    if updates == 0:
        return ["method=coresets/gradmatch", "method.trigger=never"]
    rule = "interval" if kind == "even" else "random"
    return ["method=coresets/gradmatch", f"method.trigger={rule}", f"method.count={updates}"]


def _correlation(history: Rows) -> float | None:
    pairs = [(h["snr"][0], h["gap"]) for h in history if "gap" in h and "snr" in h]
    if len(pairs) < 4 or not np.isfinite(pairs).all():
        return None
    value = float(spearmanr(*zip(*pairs, strict=True)).statistic)
    return value if np.isfinite(value) else None


def _cells(found: Rows) -> list[str]:
    def spread(values: Sequence[float], digits: int) -> str:
        deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
        return f"{np.mean(values):.{digits}f}{deviation}"

    return [
        spread([100 - r["error"] for r in found], 1),
        spread([r["cost"] for r in found], 3),
        spread([r["seconds"] for r in found], 1),
        f"{100 * np.mean([r['select_seconds'] / r['seconds'] for r in found]):.0f} %",
        f"{np.mean([r['updates'] for r in found]):.1f}",
        f"{sum(r['collapsed'] for r in found)} of {len(found)}",
    ]


def _interval(values: Sequence[float]) -> str:
    low, high = statistics.bootstrap(values)
    return f"{np.mean(values):+.2f} [{low:+.2f}, {high:+.2f}]"


def _setting(study: Study) -> str:
    words = " ".join(study.setting.words)
    return f"`{words}`, seeds 0-{study.seeds - 1}; mean ± standard deviation."


def _table(intro: str, head: list[str], lines: list[list[str]]) -> str:
    return f"{intro}\n\n{text.grid(head, lines, markdown=True)}"


if __name__ == "__main__":
    sys.exit(main())
