"""Reproduce what docs/methods/coresets.md claims; every table of that page is printed here.

    python experiments/eracs/reproduce.py [TABLES] [--setting S] [--seeds N] [--again]

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
ALL = "all data"
TIMES = ("even", "random")
RULES = dict(zip(ERACS, ("SNR fell by more than τ", "SNR below τ", "SNR above τ"), strict=False))
INTERVALS = (
    "In brackets the 95 % bootstrap interval of the mean; p of the sign-flip test, or Wilcoxon's."
)
COUNTED = ("seconds", "select_seconds", "check_seconds", "train_seconds", "updates", "checks")


def main() -> int:
    """Print the tables asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", choices=[[], *TABLES], default=[])
    parser.add_argument("--setting", choices=SETTINGS, default="digits")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("runs/experiments/eracs"))
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument(
        "--again", action="store_true", help="print stored figures again, run nothing"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    study = Study(options.setting, SETTINGS[options.setting], options.seeds, options.output)
    options.results.mkdir(parents=True, exist_ok=True)
    for name in options.tables or TABLES:
        start = time.perf_counter()
        path = options.results / f"{name}-{study.name}"
        gather, show = TABLES[name]
        try:
            if options.again:
                facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            else:
                facts = _facts(name, study, gather(study))
            table = show(facts["rows"])
        except (FrontrunnerError, OSError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
        seeds = len({row["seed"] for row in facts["rows"]})
        setting = f"`{' '.join(study.setting.words)}`, seeds 0-{seeds - 1}."
        table = f"<!-- {facts['command']} -->\n\n{setting}\n\n{table}\n"
        path.with_suffix(".md").write_text(table, encoding="utf-8")
        path.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        print(table, flush=True)
        print(f"({name}: {time.perf_counter() - start:.0f} s)", file=sys.stderr)
    return 0


def _facts(name: str, study: Study, rows: Rows) -> dict[str, Any]:
    words = f"{name} --setting {study.name} --seeds {study.seeds}"
    lean = [{k: v for k, v in row.items() if k != "history"} for row in rows]
    return {"command": f"python experiments/eracs/reproduce.py {words}", "rows": lean}


# ---------------------------------------------------------------------- tables


def methods(study: Study) -> Rows:
    """Every method at every budget, and training on all data."""
    seeds = min(study.seeds, study.setting.full_seeds)
    rows = [{"method": ALL, **study.one(FULL, 1.0, seed)} for seed in range(seeds)]
    for label, words in study.setting.methods.items():
        rows += [{"method": label, **row} for row in study.paired(words)]
    return rows


def show_methods(rows: Rows) -> str:
    """Accuracy and cost, and below them seconds and updates."""
    budgets = sorted({row["budget"] for row in rows if row["method"] != ALL})
    above, below = [], []
    for label in dict.fromkeys(row["method"] for row in rows):
        cells, details = [label], []
        for budget in budgets:
            found = _of(rows, label, 1.0 if label == ALL else budget)
            cells += [
                _spread([100 - row["error"] for row in found], 1),
                f"{np.mean([row['cost'] for row in found]):.3f}",
            ]
            details.append([f"{100 * budget:g} %", label, *_details(found)])
        above.append(cells)
        below += [["100 %", *details[0][1:]]] if label == ALL else details
    head = ["method", *(f"{100 * b:g} %{what}" for b in budgets for what in ("", ": cost"))]
    intro = (
        "Accuracy on the test split by budget. Cost is the share of training on all data, in "
        "passes over samples, with selections and checks in it."
    )
    more = (
        "Seconds have selections and checks in them. Updates are selections after the first. A "
        "model failed if neither its loss nor its error on validation data is a tenth below that "
        "of the best constant answer; it is counted in the mean all the same."
    )
    sizes = ["budget", "method", "s", "of them selecting", "updates", "failed"]
    return f"{_table(intro, head, above)}\n\n{_table(more, sizes, below)}"


def timing(study: Study) -> Rows:
    """Triggers, and GradMatch with the same number of updates, at even and at random times."""
    rows = []
    for label in study.setting.triggers:
        for ours in study.paired(study.setting.methods[label]):
            rows.append({"method": label, **ours, "correlation": _correlation(ours["history"])})
            for kind in TIMES:
                matched = _matched(kind, int(ours["updates"]))
                other = study.one(matched, ours["budget"], ours["seed"])
                rows.append({"method": f"{label}: {kind}", **other})
    return rows


def show_timing(rows: Rows) -> str:
    """Whether it helps to know when."""
    lines = []
    for label in _alone(rows):
        found = _of(rows, label)
        line = [label, f"{np.mean([row['updates'] for row in found]):.1f}"]
        for kind in TIMES:
            line += _against(found, _of(rows, f"{label}: {kind}"))
        known = [row["correlation"] for row in found if row["correlation"] is not None]
        mean = f"{np.mean(known):+.2f} ± {np.std(known, ddof=1):.2f}" if len(known) > 1 else "-"
        lines.append([*line, mean])
    intro = (
        "What the moments of selection are worth: accuracy gained, in points, over GradMatch with "
        "the same number of updates, at even and at random times, paired over seeds and budgets "
        f"({_budgets(rows)}). {INTERVALS} The last column is Spearman's correlation, within a run, "
        "of the SNR with the true gradient gap 1 − cos."
    )
    head = ["trigger", "updates", "over even times", "p", "over random times", "p (random)"]
    return _table(intro, [*head, "SNR and gap"], lines)


def equal_cost(study: Study) -> Rows:
    """Methods, and random samples drawn anew in each epoch, as many as the same cost buys."""
    rows = []
    for label in study.setting.bought:
        for ours in study.paired(study.setting.methods[label]):
            share = round(min(1.0, ours["cost"]), 3)
            other = study.one(FIXED["random, drawn every epoch"], share, ours["seed"])
            rows += [{"method": label, **ours}, {"method": f"{label}: random", **other}]
    return rows


def show_equal_cost(rows: Rows) -> str:
    """Whether it pays."""
    lines = []
    for label in _alone(rows):
        found = _of(rows, label)
        costs = f"{np.mean([row['cost'] / row['budget'] for row in found]):.2f}"
        lines.append([label, costs, *_against(found, _of(rows, f"{label}: random"))])
    intro = (
        "What selection is worth at equal cost: accuracy gained, in points, over random samples "
        "that are drawn anew in every epoch, as many as the cost of selecting buys. Paired over "
        f"seeds and budgets ({_budgets(rows)}). {INTERVALS}"
    )
    return _table(intro, ["method", "cost / budget", "over random", "p"], lines)


def grid(study: Study) -> Rows:
    """The paper's Table 3: intervals of checks and thresholds, at 10 %."""
    return [
        {"method": label, "every": every, "threshold": threshold, **study.one(words, 0.1, seed)}
        for label in RULES
        for every in (1, 3, 10)
        for threshold in (0.1, 0.2, 0.3, 0.4, 0.5)
        for words in [[*ERACS[label], f"method.threshold={threshold}", f"method.every={every}"]]
        for seed in range(study.seeds)
    ]


def show_grid(rows: Rows) -> str:
    """Accuracy and updates."""
    tables = []
    thresholds = sorted({row["threshold"] for row in rows})
    for label, rule in RULES.items():
        lines = []
        for every in sorted({row["every"] for row in rows}):
            line = [str(every)]
            for threshold in thresholds:
                cell = (label, every, threshold)
                found = [r for r in rows if (r["method"], r["every"], r["threshold"]) == cell]
                accuracy = np.mean([100 - r["error"] for r in found])
                line.append(f"{accuracy:.1f} / {np.mean([r['updates'] for r in found]):.1f}")
            lines.append(line)
        intro = f"{rule}: accuracy % / updates at a budget of 10 %."
        tables.append(_table(intro, ["C \\ τ", *(f"{x:g}" for x in thresholds)], lines))
    return "\n\n".join(tables)


def sources(study: Study) -> Rows:
    """The SNR of a pass over the coreset, and that of the gradients of training itself."""
    words = ["method=coresets/eracs", "method.every=3"]
    rows = [{"method": "pass", **row} for row in study.paired(words)]
    for row in study.paired([*words, "method.snr_from=training", *AUDIT]):
        pairs = [(h["snr"][0], h["snr_pass"][0]) for h in row["history"] if "snr_pass" in h]
        rows.append({"method": "training", **row, "pairs": pairs})
    return rows


def show_sources(rows: Rows) -> str:
    """What checking costs, and how the two SNRs stand to each other."""
    lines = []
    for budget in sorted({row["budget"] for row in rows}):
        cells = [f"{100 * budget:g} %"]
        for source in ("pass", "training"):
            own = _of(rows, source, budget)
            shares = [100 * row["check_seconds"] / row["train_seconds"] for row in own]
            accuracy = _spread([100 - row["error"] for row in own], 1)
            updates = f"{np.mean([row['updates'] for row in own]):.1f}"
            cells += [accuracy, updates, f"{np.median(shares):.1f} %"]
        pairs = [pair for row in _of(rows, "training", budget) for pair in row["pairs"]]
        seen, passed = np.array(pairs).T
        correlation = float(spearmanr(seen, passed).statistic)
        lines.append([*cells, f"{correlation:.2f}", f"{np.median(seen / passed):.2f}"])
    intro = (
        "Checks every 3 epochs by a pass over the coreset, and by the gradients of the epoch of "
        "training before: accuracy, updates and, of the seconds of training, the median share of "
        "checks. Then Spearman's correlation of the two SNRs, measured at the same moments of the "
        "same runs, and the median of their ratio, training over pass."
    )
    head = ["budget"]
    for source in ("pass", "training"):
        head += [f"{source}: accuracy %", f"{source}: updates", f"{source}: checks"]
    return _table(intro, [*head, "correlation", "ratio"], lines)


TABLES: dict[str, tuple[Callable[[Study], Rows], Callable[[Rows], str]]] = {
    "methods": (methods, show_methods),
    "timing": (timing, show_timing),
    "equal_cost": (equal_cost, show_equal_cost),
    "grid": (grid, show_grid),
    "sources": (sources, show_sources),
}


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


def _of(rows: Rows, method: str, budget: float | None = None) -> Rows:
    return [r for r in rows if r["method"] == method and budget in (None, r["budget"])]


def _alone(rows: Rows) -> list[str]:
    """Methods that others are compared with, without those others."""
    return list(dict.fromkeys(r["method"] for r in rows if ": " not in r["method"]))


def _budgets(rows: Rows) -> str:
    return ", ".join(
        f"{100 * b:g} %" for b in sorted({r["budget"] for r in rows if ": " not in r["method"]})
    )


def _spread(values: Sequence[float], digits: int) -> str:
    deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{deviation}"


def _details(found: Rows) -> list[str]:
    return [
        _spread([r["seconds"] for r in found], 1),
        f"{100 * np.mean([r['select_seconds'] / r['seconds'] for r in found]):.0f} %",
        f"{np.mean([r['updates'] for r in found]):.1f}",
        f"{sum(r['collapsed'] for r in found)} of {len(found)}",
    ]


def _against(ours: Rows, others: Rows) -> list[str]:
    """Accuracy gained, with its interval, and p; pairs stand in the same order."""
    gains = [other["error"] - own["error"] for own, other in zip(ours, others, strict=True)]
    low, high = statistics.bootstrap(gains)
    p = statistics.paired_test(gains).p
    return [f"{np.mean(gains):+.2f} ({low:+.2f} to {high:+.2f})", f"{p:.3f}"]


def _table(intro: str, head: list[str], lines: list[list[str]]) -> str:
    return f"{intro}\n\n{text.grid(head, lines, markdown=True)}"


if __name__ == "__main__":
    sys.exit(main())
