"""Reproduce what the pages of the learning methods claim; every table is printed here.

    python experiments/learning_fronts/reproduce.py [known] [lorpman] [choices] [parameters]
        [--steps N] [--seeds N] [--problems …] [--methods …] [--tasks …]

``known`` holds every method of conf/method/learning against fronts in closed form. ``lorpman``
takes LORPMAN apart, beside PaMaL and COSMOS, on the embedded digits; ``choices`` is the grid behind
the rate recommended for PHN; ``parameters`` counts what each method stores, with the papers'
networks and on one. In each table of fronts all
methods take the same number of steps, by default fewer than the task's own. Runs that exist are not
run again. Tables go to standard output, and with every figure behind them to
experiments/learning_fronts/results/.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import _digits
import numpy as np
import torch

import frontrunner
from frontrunner import config
from frontrunner.errors import FrontrunnerError
from frontrunner.front import indicators, text
from frontrunner.front.front import Front

HERE = Path(__file__).parent
Rows = list[dict[str, Any]]

PROBLEMS = {"zdt1": 15, "zdt2": 15, "zdt3": 15, "vlmop2": 15, "dtlz2": 15, "maf1": 15}  # points
# Of the 4,000 of training=synthetic and the 3,000 of training=multi_digits, which take hours.
STEPS = {"known": 600, "lorpman": 1500, "choices": 1500}
SEEDS = {"known": 5, "lorpman": 10, "choices": 2}
TABLES = (*STEPS, "parameters")
INNER = 0.02
TRUTH = 2000  # points of the true front that IGD+ is measured to

# What a method is run with where that is not its configuration alone.
OWN = {"gmooar": ["experiment=gmooar_synthetic"]}
# ZDT3 has negative values: rays, cones and weighted maxima start at a lower bound.
FROM_BELOW = ("chebyshev", "epo", "pareto_mtl", "psl", "smooth_chebyshev")


@dataclass(frozen=True)
class Study:
    """Attributes: the problems, the methods, the numbers of steps and seeds, the folder of runs."""

    problems: Sequence[str]
    methods: Sequence[str]
    steps: int
    seeds: int
    output: Path

    def run(self, problem: str, method: str, seed: int) -> frontrunner.Run:
        """A run of the common budget; a finished one is read."""
        print(f"  {problem}, seed {seed}: {method}", file=sys.stderr, flush=True)
        words = [*OWN.get(method, ["task=synthetic"]), f"method=learning/{method}"]
        words += [f"task.problem={problem}", f"points={PROBLEMS[problem]}"]
        words.append(f"training.steps={self.steps}")
        if problem == "zdt3" and method in FROM_BELOW:
            words.append("method.ideal=[0,-0.8]")
        return frontrunner.run([*words, *_digits.QUIET, f"seed={seed}", f"output={self.output}"])


def main() -> int:
    """Print the tables asked for."""
    there = methods()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", choices=[[], *TABLES], default=[])
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--methods", nargs="+", choices=there, default=there)
    parser.add_argument("--tasks", nargs="+", choices=_digits.TASKS, default=list(_digits.TASKS))
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--output", type=Path, default=Path("runs/experiments/learning_fronts"))
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.tables or TABLES:
        start = time.perf_counter()
        steps, seeds = options.steps or STEPS.get(name, 0), options.seeds or SEEDS.get(name, 0)
        words = [name]
        if name in STEPS:
            words += ["--steps", str(steps)]
        if name in ("known", "lorpman"):
            words += ["--seeds", str(seeds)]
        given = {"known": ("problems", "methods"), "parameters": ()}.get(name, ("tasks",))
        for option in given:
            if getattr(options, option) != parser.get_default(option):
                words += [f"--{option}", *getattr(options, option)]
        try:
            if name == "known":
                study = Study(options.problems, options.methods, steps, seeds, options.output)
                table, rows = known(study)
            elif name == "parameters":
                table, rows = parameters()
            else:
                digits = _digits.DigitStudy(options.tasks, steps, seeds, options.output)
                table, rows = getattr(_digits, name)(digits)
        except FrontrunnerError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
        command = f"python experiments/learning_fronts/reproduce.py {' '.join(words)}"
        table = f"<!-- {command} -->\n\n{table}\n"
        options.results.mkdir(parents=True, exist_ok=True)
        part = [] if options.tasks == list(_digits.TASKS) or name == "known" else options.tasks
        path = options.results / "_".join([name, *part])
        path.with_suffix(".md").write_text(table, encoding="utf-8")
        facts = json.dumps({"command": command, "rows": rows}, indent=1)
        path.with_suffix(".json").write_text(facts + "\n", encoding="utf-8")
        print(table, flush=True)
        print(f"({name}: {time.perf_counter() - start:.0f} s)", file=sys.stderr)
    return 0


def methods() -> list[str]:
    """The methods that learn fronts, by name."""
    return sorted(path.stem for path in (config.conf_dir() / "method" / "learning").glob("*.yaml"))


def known(study: Study) -> tuple[str, Rows]:
    """IGD+ and hypervolume relative to the true front, problem by problem."""
    tables, rows = [], []
    for problem in study.problems:
        lines = []
        for method in study.methods:
            runs = [study.run(problem, method, seed) for seed in range(study.seeds)]
            found = [_measured(problem, method, run) for run in runs]
            rows += found
            lines.append([method, *_cells(found)])
        head = ["method", "hypervolume %", "IGD+", "non-dominated", "inner", "reach %", "angle °"]
        head += ["s", "made do"]
        tables.append(f"{_intro(problem)}\n\n{text.grid(head, lines, markdown=True)}")
    intro = (
        f"Mean ± standard deviation over seeds 0-{study.seeds - 1}, {study.steps} steps each, all "
        "else as in `training=synthetic`. Hypervolume at 1.1 per objective, in % of that of the "
        f"whole true front; IGD+ to {TRUTH} points of it. Inner: points of two objectives at least "
        f"{100 * INNER:.0f} % of the true front's extent away from both of its ends. Reach: the "
        "smaller share of the true front's extent, by objective, that the points span. Angle: "
        "between points and rays, for methods of rays, where these are on no axis. Made do: how "
        "often, in a thousand, a network's step was not what its method asks for (no gradient, or "
        "no solution of its program)."
    )
    return "\n\n".join([intro, _hypervolumes(study, rows), *tables]), rows


# What the papers' tables have, by which kernels of the LeNet: Chen & Kwok (NeurIPS 2022).
PUBLISHED = {
    "EPO, MOO-SVGD: 15 networks": (478_650, (9, 5)),
    "COSMOS (channels)": (43_058, (5, 5)),
    "PHN (hypernetwork)": (3_243_410, (9, 5)),
    "GMOOAR (FiLM, 15 angles)": (43_685, (5, 5)),
}


def parameters() -> tuple[str, Rows]:
    """Numbers that two digits' front of 15 points stores, by the network that is conditioned."""
    from frontrunner.models import conditioning, weights
    from frontrunner.models.networks import LeNet

    kinds: dict[str, tuple[Any, int]] = {
        "COSMOS (channels)": (conditioning.ChannelConditioning, 0),
        "COSMOS, PSL (FiLM)": (conditioning.FiLM, 0),
        "GMOOAR (FiLM, 15 angles)": (conditioning.FiLM, 15),
        "PHN (hypernetwork)": (weights.HyperNetwork, 0),
        "PaMaL (ensemble)": (weights.Ensemble, 0),
        "LORPMAN (low rank, 4)": (weights.LowRankUpdates, 0),
    }
    shapes = {"input_shape": (1, 36, 36), "output_sizes": (10, 10)}

    def size(network: torch.nn.Module) -> int:
        return sum(p.numel() for p in network.parameters())

    rows: Rows = []
    for name in ["EPO, MOO-SVGD: 15 networks", *kinds]:
        row: dict[str, Any] = {"method": name}
        for kernels in ((9, 5), (5, 5)):
            factory = partial(LeNet, kernel=list(kernels))
            if name in kinds:
                kind, more = kinds[name]
                row[str(kernels)] = size(kind(factory, **shapes, m=2)) + more
            else:
                row[str(kernels)] = 15 * size(factory(**shapes))
        published, kernels = PUBLISHED.get(name, (None, (0, 0)))
        row["published"] = published
        if published not in (None, row.get(str(kernels))):
            raise FrontrunnerError(f"{name}: {row}, but the paper has {published}")
        rows.append(row)
    lines = [
        [
            row["method"],
            "" if row["published"] is None else f"{row['published']:,}",
            *(f"{row[str(kernels)]:,}" for kernels in ((9, 5), (5, 5))),
        ]
        for row in rows
    ]
    head = ["method", "published", "LeNet, kernels 9 and 5 (31,910)", "kernels 5 (42,350)"]
    intro = (
        "Stored numbers for two objectives and 15 points. Published: on one of the two networks."
    )
    return f"{intro}\n\n{text.grid(head, lines, markdown=True)}", rows


# ---------------------------------------------------------------------- pieces


def _hypervolumes(study: Study, rows: Rows) -> str:
    """One line for each method: hypervolumes by problem."""
    lines = [
        [
            method,
            *(
                _spread([r for r in rows if (r["method"], r["problem"]) == (method, p)])
                for p in study.problems
            ),
        ]
        for method in study.methods
    ]
    return text.grid(["hypervolume %", *study.problems], lines, markdown=True)


def _intro(problem: str) -> str:
    from frontrunner.tasks.problems import problem as build

    analytic, points = build(problem), PROBLEMS[problem]
    line = f"**{problem}**, {points} points"
    if analytic.m > 2:
        return f"{line}."
    z = analytic.reference_point
    best = 100 * analytic.best_hypervolume(points, z) / analytic.hypervolume(z)
    return f"{line}; the best that as many can have is {best:.2f} %."


def _measured(problem: str, method: str, run: frontrunner.Run) -> dict[str, Any]:
    analytic, front = run.task.problem, run.front  # type: ignore[attr-defined]
    z = analytic.reference_point
    counted = run.record["switches"].get("fallbacks", {})
    steps = run.record["cost"]["steps"] * len(front.values)
    truth = analytic.front(TRUTH)
    low, span = truth.min(axis=0), indicators.extent(truth)
    from_ends = ((front.minimised - low) / span).min(axis=1)
    return {
        "problem": problem,
        "method": method,
        "seed": run.record["seed"],
        "hypervolume": 100 * front.hypervolume(z) / analytic.hypervolume(z),
        "igd_plus": indicators.igd_plus(front.minimised, truth),
        "nondominated": int(front.nondominated().sum()),
        "points": len(front.values),
        "inner": int((from_ends >= INNER).sum()) if len(span) == 2 else None,
        "reach": 100 * float((indicators.extent(front.minimised) / span).min()),
        "angle": _angle(front),
        "seconds": run.record["cost"]["seconds"],
        "fallbacks": counted,
        "made_do": 1000 * sum(counted.values()) / steps,
    }


def _angle(front: Front) -> float | None:
    """Degrees between points and rays that are not on an axis, where rays start at 0."""
    inside = (front.preferences > 0).all(axis=1)
    if front.preference_kind != "ray" or (front.minimised < 0).any() or not inside.any():
        return None
    return indicators.ray_angle(front.preferences[inside], front.minimised[inside])


def _spread(found: Rows, name: str = "hypervolume", digits: int = 1) -> str:
    values = [row[name] for row in found]
    if None in values:
        return ""
    deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{deviation}"


def _cells(found: Rows) -> list[str]:
    alive = np.mean([row["nondominated"] for row in found])
    return [
        _spread(found, "hypervolume", 2),
        _spread(found, "igd_plus", 4),
        f"{alive:.1f} of {found[0]['points']}",
        _spread(found, "inner", 1),
        _spread(found, "reach", 0),
        _spread(found, "angle", 1),
        f"{np.mean([row['seconds'] for row in found]):.0f}",
        f"{np.mean([row['made_do'] for row in found]):.0f}",
    ]


if __name__ == "__main__":
    sys.exit(main())
