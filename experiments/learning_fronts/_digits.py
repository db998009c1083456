"""LORPMAN's parts apart, and what had to be chosen, on the embedded digits; see reproduce.py."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import frontrunner
from frontrunner.evaluators.objectives import Objectives
from frontrunner.front import statistics, text
from frontrunner.models.weights import LowRankUpdates

Rows = list[dict[str, Any]]

QUIET = ["logger=none", "runner.progress=none", "runner.threads=1"]
TASKS = ("multi_digits", "ten_digits")
ROUNDS = 5  # validations; a hypervolume of ten objectives takes longer than a hundred steps
SCHEDULE = "training.schedule=cosine"  # both tasks' own: the rate decays in all arms alike

# Not tuned.
COSINE, PLAIN = 0.1, 0.1

RESTS, LEARNS = "method.freeze=0.8", "method.freeze=1"
LORPMAN = ["method=learning/lorpman"]
OVERLAP = {
    "": ["method.orthogonality=0"],
    "cosine": [f"method.orthogonality={COSINE}", "method.overlap=cosine"],
    "plain": [f"method.orthogonality={PLAIN}", "method.overlap=plain"],
}
ARMS = {
    "LORPMAN: freezing and cosine": [*LORPMAN, RESTS, *OVERLAP["cosine"]],
    "LORPMAN: freezing and plain": [*LORPMAN, RESTS, *OVERLAP["plain"]],
    "LORPMAN: freezing": [*LORPMAN, RESTS, *OVERLAP[""]],
    "LORPMAN: cosine": [*LORPMAN, LEARNS, *OVERLAP["cosine"]],
    "LORPMAN: neither": [*LORPMAN, LEARNS, *OVERLAP[""]],
    "PaMaL": ["method=learning/pamal"],
    "COSMOS": ["method=learning/cosmos"],
}
WHOLE = "LORPMAN: freezing and cosine"
CONTRASTS = [
    ("LORPMAN − PaMaL", WHOLE, "PaMaL"),
    ("LORPMAN − COSMOS", WHOLE, "COSMOS"),
    ("freezing, without orthogonality", "LORPMAN: freezing", "LORPMAN: neither"),
    ("freezing, with it", WHOLE, "LORPMAN: cosine"),
    ("orthogonality, with freezing", WHOLE, "LORPMAN: freezing"),
    ("orthogonality, without it", "LORPMAN: cosine", "LORPMAN: neither"),
    ("cosine − plain", WHOLE, "LORPMAN: freezing and plain"),
]

CHOICE_SEEDS = (100, 101)  # of no other table
PHN = [
    ["method=learning/phn", f"training.learning_rate={rate}", f"conditioning.start={start}"]
    for start, rates in (("published", (5e-3, 1e-3, 3e-4, 1e-4)), ("network", (5e-3, 1e-3)))
    for rate in rates
]


@dataclass(frozen=True)
class DigitStudy:
    """Attributes: the tasks, the numbers of steps and seeds, and the folder of runs."""

    tasks: Sequence[str]
    steps: int
    seeds: int
    output: Path

    def run(self, task: str, words: Sequence[str], seed: int) -> frontrunner.Run:
        """A run of the common budget; a finished one is read."""
        print(f"  {task}, seed {seed}: {' '.join(words)}", file=sys.stderr, flush=True)
        budget = [f"training.steps={self.steps}", f"training.rounds={ROUNDS}", SCHEDULE]
        chosen = [f"task={task}", *words, *budget, *QUIET]
        return frontrunner.run([*chosen, f"seed={seed}", f"output={self.output}"])


def lorpman(study: DigitStudy) -> tuple[str, Rows]:
    """LORPMAN with and without its parts, PaMaL and COSMOS: fronts, and paired differences."""
    tables, rows = [], []
    for task in study.tasks:
        # Seed by seed, so that what there is when time is up can be compared.
        found: dict[str, Rows] = {arm: [] for arm in ARMS}
        for seed in range(study.seeds):
            for arm, words in ARMS.items():
                found[arm].append(_measured(task, arm, study.run(task, words, seed)))
        rows += [row for arm in ARMS for row in found[arm]]
        tables += [f"**{task}**", _arms(found), _contrasts(found)]
    intro = (
        f"Mean ± standard deviation over seeds 0-{study.seeds - 1}, {study.steps} steps each with "
        f"cosine decay, one preference a step; overlap weighted {COSINE} (cosine) or {PLAIN} "
        "(plain). Hypervolume of test losses at the task's reference point (of ten objectives "
        "approximated, in millionths), and of test accuracies at 0; accuracy and loss are means "
        "over objectives and the front's points, or at equal preferences. Overlap: mean squared "
        "cosine between updates. Differences are paired by seed: mean, 95 % bootstrap interval, p "
        "of the sign-flip test, and Holm's p over the rows."
    )
    return "\n\n".join([intro, *tables]), rows


def choices(study: DigitStudy) -> tuple[str, Rows]:
    """PHN's learning rate and start, by validation hypervolume."""
    lines, rows = [], []
    for task in study.tasks:
        for words in PHN:
            runs = [study.run(task, words, seed) for seed in CHOICE_SEEDS]
            scores = [run.front.info["validation_hypervolume"] for run in runs]
            shown = [w.partition("=")[2] for w in words[1:]]
            lines.append([task, *shown, *(f"{score:.4g}" for score in scores)])
            rows.append({"task": task, "words": words, "scores": scores})
    head = ["task", "rate", "start", *(f"seed {seed}" for seed in CHOICE_SEEDS)]
    intro = f"PHN's validation hypervolume, {study.steps} steps with cosine decay each."
    return f"{intro}\n\n{text.grid(head, lines, markdown=True)}", rows


# ---------------------------------------------------------------------- pieces

MEASURES: dict[str, tuple[str, Callable[[float], str]]] = {
    "hypervolume": ("hypervolume", lambda x: f"{x:.4g}"),
    "accuracy_hypervolume": ("of accuracies", lambda x: f"{x:.3g}"),
    "accuracy": ("mean accuracy", lambda x: f"{x:.4f}"),
    "loss": ("mean loss", lambda x: f"{x:.4f}"),
    "equal_accuracy": ("accuracy, equal", lambda x: f"{x:.4f}"),
    "overlap": ("overlap", lambda x: f"{x:.3f}"),
}


def _measured(task: str, arm: str, run: frontrunner.Run) -> dict[str, Any]:
    found, front = run.pareto_set, run.front
    accuracies = Objectives(what="accuracies").evaluate(found, run.task)
    equal = np.full(found.m, 1 / found.m)
    network = found.network
    millionths = 1e6 if run.task.m > 3 else 1.0
    return {
        "task": task,
        "arm": arm,
        "seed": run.record["seed"],
        "hypervolume": millionths * front.hypervolume(),
        "accuracy_hypervolume": accuracies.hypervolume(),
        "accuracy": float(accuracies.values.mean()),
        "loss": float(front.values.mean()),
        "equal_accuracy": float(
            run.task.measure(found.materialize(equal), "test", what="accuracies").mean()
        ),
        "overlap": float(network.overlap()) if isinstance(network, LowRankUpdates) else None,
        "stored_parameters": run.record["cost"]["stored_parameters"],
        "seconds": run.record["cost"]["seconds"],
    }


def _arms(found: dict[str, Rows]) -> str:
    lines = []
    for arm, rows in found.items():
        cells = []
        for name, (_, shown) in MEASURES.items():
            values = [row[name] for row in rows]
            if values[0] is None:
                cells.append("")
                continue
            spread = f" ± {shown(float(np.std(values, ddof=1)))}" if len(values) > 1 else ""
            cells.append(shown(float(np.mean(values))) + spread)
        lines.append([arm, *cells, f"{rows[0]['stored_parameters']:,}"])
    head = ["arm", *(title for title, _ in MEASURES.values()), "stored parameters"]
    return text.grid(head, lines, markdown=True)


def _contrasts(found: dict[str, Rows]) -> str:
    measures = ("hypervolume", "accuracy")
    cells: dict[str, list[list[str]]] = {}
    for name in measures:
        each = [
            np.array([a[name] - b[name] for a, b in zip(found[one], found[other], strict=True)])
            for _, one, other in CONTRASTS
        ]
        if len(each[0]) < 2:
            return "One seed: no differences to test."
        p = [float(statistics.paired_test(d).p or 0) for d in each]
        adjusted = statistics.holm(p)
        cells[name] = []
        for d, raw, holm in zip(each, p, adjusted, strict=True):
            low, high = statistics.bootstrap(d)
            digits = ".4f" if name == "accuracy" else ".3f"
            interval = f"{d.mean():+{digits}} ({low:+{digits}} to {high:+{digits}})"
            cells[name].append([interval, f"{raw:.3f}", f"{holm:.3f}"])
    lines = [
        [title, *cells["hypervolume"][i], *cells["accuracy"][i]]
        for i, (title, _, _) in enumerate(CONTRASTS)
    ]
    head = ["difference", "hypervolume", "p", "Holm", "mean accuracy", "p", "Holm"]
    return text.grid(head, lines, markdown=True)
