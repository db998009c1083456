"""Run what a table lacks: here one after another, or through a launcher."""

from __future__ import annotations

import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from frontrunner import config as configuration
from frontrunner.errors import FrontrunnerError
from frontrunner.front.text import duration
from frontrunner.sweeps import plan as plans
from frontrunner.sweeps import show, verbs
from frontrunner.sweeps.compose import compose_all
from frontrunner.sweeps.foreground import run_through
from frontrunner.sweeps.launcher import State
from frontrunner.sweeps.sweep import Cell
from frontrunner.tables.grid import Entry, Grid, Words
from frontrunner.tables.table import Table


@dataclass(frozen=True)
class Outcome:
    """What became of the runs that were missing.

    Attributes:
        grid: of the table as it stands now.
        problems: why runs could not be started or failed, by their overrides.
        submitted: handed to a launcher that is still at work.
    """

    grid: Grid
    problems: dict[Words, str]
    submitted: int = 0


def complete(
    table: Table,
    output: Path,
    launcher: Sequence[str] = (),
    wait: bool = True,
    tell: Callable[[str], None] | None = None,
) -> Outcome:
    """Run what is missing, and then what follows it.

    Every configuration is validated before the first one runs; one that cannot run, or fails, does
    not keep the others from running. What failed earlier is tried again.

    Args:
        launcher: overrides such as ``launcher=local``; without any, runs are done in this process.
        wait: for a launcher to be through.
        tell: is given a line for each step; None prints to standard error.
    """
    say = tell or _say
    problems: dict[Words, str] = {}
    tried: set[Words] = set()
    while True:
        grid = Grid(table, output)
        missing = {w: e for w, e in grid.runs().items() if e.open and w not in tried}
        if not missing:
            return Outcome(grid, problems)
        tried |= set(missing)
        configs = dict(zip(missing, compose_all(list(missing)), strict=True))
        problems |= refused(configs)
        able = {w: config for w, config in configs.items() if w not in problems}
        if not able:
            continue
        if launcher:
            handed = _hand_over(table, list(able), launcher, wait)
            if not wait:
                return Outcome(Grid(table, output), problems, handed)
        else:
            problems |= _here(able, say)


def refused(configs: Mapping[Words, DictConfig]) -> dict[Words, str]:
    """Why runs cannot run, of those that cannot; of runs that differ in their seed one is built."""
    import frontrunner.run as run_module

    why: dict[Words, str | None] = {}
    problems = {}
    for words, config in configs.items():
        kind = tuple(w for w in words if not w.startswith("seed="))
        if kind not in why:
            try:
                run_module.check(config)
                why[kind] = None
            except (FrontrunnerError, OSError) as error:
                why[kind] = " ".join(str(error).split())
        if (reason := why[kind]) is not None:
            problems[words] = reason
    return problems


def _here(runs: Mapping[Words, DictConfig], say: Callable[[str], None]) -> dict[Words, str]:
    import frontrunner.run as run_module

    problems = {}
    began = time.perf_counter()
    for number, (words, config) in enumerate(runs.items(), start=1):
        say(f"[{number}/{len(runs)}] {run_module.locate(config)[0]}")
        try:
            run_module.execute(config, words)
        except Exception as error:
            if not isinstance(error, FrontrunnerError | OSError):
                traceback.print_exc()
            problems[words] = " ".join(str(error).split()) or type(error).__name__
            say(f"  failed: {problems[words]}")
    say(f"{len(runs) - len(problems)} of {len(runs)} runs done, {_since(began)}")
    return problems


def _hand_over(table: Table, runs: Sequence[Words], launcher: Sequence[str], wait: bool) -> int:
    name = f"{table.path.parent.name}-{table.path.stem}-{table.scale}"
    plan = plans.plan_cells([[*words, *launcher] for words in runs], [*launcher], name)
    if wait:
        run_through(plan)
        return 0
    sweep, weighed = verbs.submit(plan)
    again = verbs.retry(sweep, names=[c.name for c in weighed.lost]) if weighed.lost else ()
    return len(weighed.start) + len(again) + len(weighed.waiting)


# ---------------------------------------------------------------------- dry run


def preview(grid: Grid) -> str:
    """The runs that a table would do, with an estimate of their time by earlier runs."""
    runs = grid.runs()
    missing = [w for w, e in runs.items() if e.open]
    configs = dict(zip(missing, compose_all(missing), strict=True))
    problems = refused(configs)
    able = {w: config for w, config in configs.items() if w not in problems}
    times = dict(zip(able, _times(able, runs), strict=True))
    lines = [f"{grid.table.name} at scale {grid.table.scale}, runs in {grid.output}"]
    counts: Counter[str] = Counter()
    for words, entry in runs.items():
        text = problems.get(words, entry.reason)
        if entry.state == State.DONE:
            state = "done"
        elif words in times:
            state, seconds = "to run", times[words]
            text = "time unknown" if seconds is None else f"about {duration(seconds)}"
        else:
            state = "refused" if words in problems or entry.state is None else "running"
        counts[state] += 1
        if state != "done":
            lines.append(f"  {state:8}  {entry.place.directory.name or ' '.join(words)}  ({text})")
    parts = [f"{n} {state}" for state, n in counts.items()]
    if waiting := grid.waiting():
        parts.append(f"{waiting} that follow others")
    lines.append(f"{show.counted(len(runs), 'run')}: {', '.join(parts)}")
    if times:
        lines.append(_whole([s for s in times.values() if s is not None], len(times)))
    return "\n".join(lines)


def _times(runs: Mapping[Words, DictConfig], entries: Mapping[Words, Entry]) -> list[float | None]:
    cells = []
    for words, config in runs.items():
        place = entries[words].place
        plain = configuration.plain(config)
        cells.append(Cell(place.identity, str(place.directory.resolve()), words, plain))
    return plans.expected(Path.cwd(), cells)


def _whole(told: Sequence[float], runs: int) -> str:
    if not told:
        return "no earlier run tells how long"
    text = f"about {duration(sum(told))} one after another, by earlier runs"
    unknown = runs - len(told)
    return text if not unknown else f"{text}, and {show.counted(unknown, 'run')} none tells of"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _since(began: float) -> str:
    return duration(time.perf_counter() - began)
