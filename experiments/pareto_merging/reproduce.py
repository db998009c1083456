"""Reproduce what docs/methods/pareto_merging.md claims; every table of that page is printed here.

    python experiments/pareto_merging/reproduce.py [digits steps conflicts language] [--seeds N]

Settings were chosen on seeds 100 and 101, which no table here contains. Runs that exist are not run
again. Tables go to standard output and to experiments/pareto_merging/results/.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

import frontrunner
from frontrunner.errors import FrontrunnerError
from frontrunner.front import report, statistics, text
from frontrunner.front.collect import collect
from frontrunner.front.compare import compare

HERE = Path(__file__).parent
QUIET = ["logger=none", "runner.progress=none", "runner.threads=1"]
DIGITS = ["task=merge_digits", "evaluator=accuracy"]
DISTILLED = "pareto merging, distilled"
CONTROL = "control: only the start depends on it (ρ = 0)"

# Fronts: label -> overrides.
FRONTS = {
    "experts alone": ["method=merging/average", "method.preferences=corners"],
    "rewarded soup": ["method=merging/rewarded_soup"],
    "task arithmetic, one λ": ["method=merging/task_arithmetic", "method.preferences=grid"],
    "task arithmetic, λ per preference": [
        "method=merging/task_arithmetic",
        "method.preferences=grid",
        "method.scale_per=preference",
    ],
    "TIES": ["method=merging/ties", "method.preferences=grid"],
    "Fisher": ["method=merging/fisher", "method.preferences=grid"],
    "RegMean": ["method=merging/regmean", "method.preferences=grid"],
    "pareto merging, data-free": ["method=merging/pareto_merging_data_free"],
    "pareto merging, entropy": ["method=merging/pareto_merging"],
    DISTILLED: ["method=merging/pareto_merging_distilled"],
    "distilled, cores all their own (ρ = 1)": [
        "method=merging/pareto_merging_distilled",
        "method.preference_rate=1",
    ],
    CONTROL: ["method=merging/pareto_merging_distilled", "method.preference_rate=0"],
    "control: no preference": [
        "method=merging/pareto_merging_distilled",
        "method.conditioned=false",
    ],
}
# Single models, at equal preferences.
SINGLE = {
    "average": ["method=merging/average"],
    "task arithmetic": ["method=merging/task_arithmetic"],
    "TIES": ["method=merging/ties"],
    "DARE": ["method=merging/dare"],
    "TSV-Merge": ["method=merging/tsv_merge"],
    "PCB-Merging": ["method=merging/pcb"],
    "Fisher": ["method=merging/fisher"],
    "RegMean": ["method=merging/regmean"],
    "AdaMerging": ["method=merging/adamerging"],
    "AdaMerging++": ["method=merging/adamerging_pp"],
}


def main() -> int:
    """Print the tables asked for."""
    tables: dict[str, Callable[[int, Path], str]] = {
        "digits": digits,
        "steps": steps,
        "conflicts": conflicts,
        "language": language,
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", choices=[[], *tables], default=[])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("runs"))
    options = parser.parse_args()
    for name in options.tables or tables:
        start = time.perf_counter()
        try:
            table = tables[name](options.seeds, options.output / "experiments" / name)
        except FrontrunnerError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
        command = f"python experiments/pareto_merging/reproduce.py {name} --seeds {options.seeds}"
        table = f"<!-- {command} -->\n\n{table}\n"
        (HERE / "results").mkdir(exist_ok=True)
        (HERE / "results" / f"{name}.md").write_text(table, encoding="utf-8")
        print(table)
        print(f"({name}: {time.perf_counter() - start:.0f} s)", file=sys.stderr)
    return 0


def sweep(seeds: int, output: Path, label: str, overrides: Sequence[str]) -> list[frontrunner.Run]:
    """One configuration over seeds 0 … seeds-1."""
    runs = []
    for seed in range(seeds):
        print(f"  seed {seed}: {label}", file=sys.stderr, flush=True)
        named = f"label='{label}'"
        words = [*overrides, *QUIET, named, f"seed={seed}"]
        runs.append(frontrunner.run([*words, f"output={output}"]))
    return runs


def spread(values: Sequence[float], digits: int = 4) -> str:
    """Mean ± standard deviation; nothing where there is no value."""
    if np.isnan(values).any():
        return ""
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"


def paired(values: Sequence[float], others: Sequence[float]) -> tuple[str, str]:
    """Mean difference with its 95 % bootstrap interval over seeds, and how often it is positive."""
    differences = np.asarray(values) - np.asarray(others)
    low, high = statistics.bootstrap(differences, seed=0)
    wins = f"{(differences > 0).sum()} of {len(differences)}"
    return f"{differences.mean():+.4f} ({low:+.4f}, {high:+.4f})", wins


def equal(run: frontrunner.Run) -> float:
    """Mean accuracy at equal preferences."""
    preferences = run.front.preferences
    assert preferences is not None
    distance = np.abs(preferences - 1 / preferences.shape[1]).max(axis=1)
    return float(run.front.values[distance.argmin()].mean()) if distance.min() < 1e-6 else np.nan


# ---------------------------------------------------------------------- tables


def digits(seeds: int, output: Path) -> str:
    """Fronts on three orientations, paired against the distilled set; then single models."""
    folder = output / "fronts"
    found = {label: sweep(seeds, folder, label, [*DIGITS, *o]) for label, o in FRONTS.items()}
    volumes = {label: [r.front.hypervolume() for r in runs] for label, runs in found.items()}
    rows = []
    for label, runs in found.items():
        difference, wins = ("", "")
        if label != DISTILLED:
            difference, wins = paired(volumes[DISTILLED], volumes[label])
        alignment = [r.front.indicators().get("rank_alignment") for r in runs]
        aligned = [a for a in alignment if a is not None]
        rows.append(
            [
                label,
                spread(volumes[label]),
                difference,
                wins,
                spread([equal(r) for r in runs]),
                f"{np.mean(aligned):.3f}" if aligned else "",
                f"{np.mean([r.record['cost']['seconds'] for r in runs]):.1f}",
                f"{runs[0].record['cost']['stored_parameters']:,}",
            ]
        )
    head = [
        "front",
        "hypervolume",
        "distilled minus it (95 %)",
        "seeds",
        "accuracy at equal preferences",
        "rank alignment",
        "fit s",
        "stored",
    ]
    single = [
        [
            label,
            spread(
                [equal(r) for r in sweep(seeds, output / "single", label, [*DIGITS, *overrides])]
            ),
        ]
        for label, overrides in SINGLE.items()
    ]
    entries = collect([folder])
    comparison = compare(entries, baseline=DISTILLED)
    report.save(comparison, entries, folder / "compare")
    return "\n".join(
        [
            "Test accuracies of three orientations of digits, shared head, small convolutional "
            f"network; hypervolume at reference 0; 16 preferences; seeds 0–{seeds - 1}, base and "
            "experts trained anew for each. Mean ± standard deviation.",
            "",
            text.grid(head, rows, markdown=True),
            "",
            "Single models, accuracy at equal preferences:",
            "",
            text.grid(["method", "mean accuracy"], single, markdown=True),
        ]
    )


def steps(seeds: int, output: Path) -> str:
    """Hypervolume of the last state against steps, for three ways of training."""
    ways = {
        "entropy, cores from zero, lr 1e-3": ["method.initial=zero", "method.learning_rate=1e-3"],
        "entropy, Tucker start, lr 1e-3": ["method.learning_rate=1e-3"],
        "entropy, Tucker start, lr 3e-5": [],
        "distilled, cores from zero, lr 1e-3": [
            "method.objective=distillation",
            "method.initial=zero",
            "method.learning_rate=1e-3",
        ],
        "distilled, Tucker start, lr 1e-3": [
            "method.objective=distillation",
            "method.learning_rate=1e-3",
        ],
        "distilled, Tucker start, half the draws at corners": [
            "method.objective=distillation",
            "method.learning_rate=1e-3",
            "method.sampling=corner_stratified",
        ],
    }
    counts = (0, 30, 100, 300, 1000)
    rows = []
    for label, overrides in ways.items():
        cells = [label]
        for count in counts:
            words = [*DIGITS, "method=merging/pareto_merging", *overrides, "method.select=last"]
            words += [f"method.steps={count}"]
            runs = sweep(seeds, output, f"{label}, {count} steps", words)
            cells.append(f"{np.mean([r.front.hypervolume() for r in runs]):.3f}")
        rows.append(cells)
    return "\n".join(
        [
            f"Mean hypervolume of test accuracies after so many steps, nothing selected; seeds "
            f"0–{seeds - 1}.",
            "",
            text.grid(["training", *(f"{c}" for c in counts)], rows, markdown=True),
        ]
    )


def conflicts(seeds: int, output: Path) -> str:
    """Where it helps: other conflicts, other numbers of experts."""
    cases = {
        "2 orientations": ["task.experts=2"],
        "3 orientations": [],
        "5 orientations": ["task.experts=5"],
        "5 orientations, separate heads": ["task.experts=5", "task.heads=separate"],
        "3 relabellings": ["task.conflict=relabel"],
        "3 shares of the classes": ["task.conflict=classes"],
    }
    labels = (
        "rewarded soup",
        "RegMean",
        "pareto merging, data-free",
        "pareto merging, entropy",
        DISTILLED,
        CONTROL,
    )
    rows = []
    for case, changes in cases.items():
        volumes = {
            label: [
                r.front.hypervolume()
                for r in sweep(
                    seeds,
                    output / re.sub(r"\W+", "_", case),
                    label,
                    [*DIGITS, *FRONTS[label], *changes],
                )
            ]
            for label in labels
        }
        difference, wins = paired(volumes[DISTILLED], volumes["rewarded soup"])
        rows.append([case, *(spread(volumes[label], 3) for label in labels), difference, wins])
    head = ["experts", *labels, "distilled minus soup (95 %)", "seeds"]
    return "\n".join(
        [
            f"Hypervolume of test accuracies at reference 0, seeds 0–{seeds - 1}.",
            "",
            text.grid(head, rows, markdown=True),
        ]
    )


def language(seeds: int, output: Path) -> str:
    """Tiny Llamas on prose, code and arithmetic, in test losses."""
    training = ["method.steps=60", "method.batch_size=8", "method.rounds=3"]
    labels = ("rewarded soup", "task arithmetic, one λ", "RegMean", "pareto merging, data-free")
    cases = {label: FRONTS[label] for label in labels}
    cases |= {
        label: [*FRONTS[label], *training] for label in ("pareto merging, entropy", DISTILLED)
    }
    found = {
        label: sweep(seeds, output, label, ["task=merge_checkpoints", "points=6", *overrides])
        for label, overrides in cases.items()
    }
    volumes = {label: [r.front.hypervolume() for r in runs] for label, runs in found.items()}
    rows = []
    for label, runs in found.items():
        difference, wins = paired(volumes[label], volumes["rewarded soup"])
        losses = spread([equal(r) for r in runs], 3)
        rows.append([label, spread(volumes[label], 2), difference, wins, losses])
    head = ["front", "hypervolume", "minus soup (95 %)", "seeds", "mean loss at equal preferences"]
    return "\n".join(
        [
            "Test losses (nats) of tiny Llamas on prose, code and arithmetic; hypervolume at "
            "reference (6, 6, 6), 7 preferences; 60 steps of 8 windows where there is training; "
            f"seeds 0–{seeds - 1}.",
            "",
            text.grid(head, rows, markdown=True),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
