"""Sweeps in words: the plan, the table of cells, and the table while it changes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from frontrunner.front.text import duration
from frontrunner.sweeps.launcher import LOST, WAITING, State
from frontrunner.sweeps.plan import Plan, seconds
from frontrunner.sweeps.status import Standing
from frontrunner.sweeps.sweep import Sweep
from frontrunner.sweeps.verbs import Weighed

COLOURS = {State.DONE: "green", State.RUNNING: "cyan"} | dict.fromkeys(LOST, "red")
HEAD = ("", "state", "cell", "attempts", "progress", "")


def plan(plan: Plan, weighed: Weighed, shown: int = 20) -> str:
    """The cells a submit would start, what there is of the others, time and resources."""
    lines = [f"sweep {plan.folder}", f"  {counted(len(plan.cells), 'cell')}: {_parts(weighed)}"]
    shared = set.intersection(*(set(cell.overrides) for cell in plan.cells))
    if len(plan.cells) > 1 and shared:
        lines.append(f"  all with {' '.join(w for w in plan.cells[0].overrides if w in shared)}")
    for cell in weighed.start[:shown]:
        own_words = [w for w in cell.overrides if len(plan.cells) == 1 or w not in shared]
        lines.append(f"    {' '.join(own_words) or cell.name}")
    if len(weighed.start) > shown:
        lines.append(f"    and {len(weighed.start) - shown} more")
    if weighed.start:
        told, unknown = seconds(plan, weighed.start)
        lines.append(f"  time: {_estimate(told, len(weighed.start), unknown)}")
        lines += [f"  resources: {line}" for line in plan.launcher.resources(weighed.start)]
    if weighed.lost:
        lines.append(f"  {counted(len(weighed.lost), 'cell')} ended otherwise: frontrunner retry")
    return "\n".join(lines)


def counted(count: int, what: str) -> str:
    """``1 cell``, ``2 cells``."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def summary(found: Sequence[Standing]) -> str:
    """``200 cells: 191 DONE, 6 FAILED, 3 KILLED``."""
    counts = Counter(s.state for s in found)
    parts = ", ".join(f"{counts[state]} {state}" for state in State if counts[state])
    return f"{counted(len(found), 'cell')}: {parts}"


def table(sweep: Sweep, found: Sequence[Standing], lines: int = 3) -> str:
    """A row for every cell; under those that ended otherwise, the last lines of their logs."""
    number = {cell.identity: str(i) for i, cell in enumerate(sweep.cells)}
    rows = [_row(number[s.cell.identity], s) for s in found]
    widths = [max(map(len, column)) for column in zip(HEAD, *rows, strict=True)]
    text = [_line(HEAD, widths)]
    for row, one in zip(rows, found, strict=True):
        text.append(_line(row, widths))
        if one.state in LOST:
            text += [f"    | {line[:160]}" for line in one.lines(lines)]
    return "\n".join([*text, summary(found)])


def facts(sweep: Sweep, found: Sequence[Standing]) -> dict[str, Any]:
    """All of it as JSON values."""
    return {
        "sweep": str(sweep.folder),
        "cells": [
            {
                "name": s.cell.name,
                "identity": s.cell.identity,
                "directory": str(sweep.directory(s.cell)),
                "overrides": list(s.cell.overrides),
                "state": s.state.value,
                "reason": s.reason,
                "attempts": s.attempts,
                "progress": s.progress,
                "seconds": s.seconds,
                "job": dict(s.job) if s.job else None,
                "log": str(s.log) if s.log else None,
                "lines": s.lines() if s.state in LOST else [],
            }
            for s in found
        ],
    }


def watch(sweep: Sweep, look: Callable[[], list[Standing]], every: float = 2.0) -> list[Standing]:
    """Show the cells until none waits or runs; returns how they stand then. On a terminal the
    table is drawn anew each time; elsewhere a line is printed where the counts have changed."""
    with _display() as show:
        while True:
            found = look()
            show(sweep, found)
            if not any(s.state in WAITING for s in found):
                return found
            time.sleep(every)


# ---------------------------------------------------------------------- details


def _parts(weighed: Weighed) -> str:
    parts = [f"{len(weighed.start)} to start"]
    parts += [f"{len(weighed.waiting)} queued or running"] if weighed.waiting else []
    parts += [f"{len(weighed.done)} done"] if weighed.done else []
    parts += [f"{len(weighed.lost)} lost"] if weighed.lost else []
    return ", ".join(parts)


def _estimate(told: float, cells: int, unknown: int) -> str:
    if unknown == cells:
        return "no earlier run tells"
    text = f"about {duration(told)} of one device, by earlier runs"
    return text if not unknown else f"{text}, and {counted(unknown, 'cell')} none tells of"


def _row(number: str, one: Standing) -> tuple[str, ...]:
    progress = one.progress if one.seconds is None else duration(one.seconds)
    attempts = str(one.attempts) if one.attempts else ""
    return (number, str(one.state), one.cell.name, attempts, progress, one.reason[:400])


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip()


@contextmanager
def _display() -> Iterator[Callable[[Sweep, list[Standing]], None]]:
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    if not console.is_terminal:
        last = ""

        def changed(sweep: Sweep, found: list[Standing]) -> None:
            nonlocal last
            if (text := summary(found)) != last:
                console.print(text, highlight=False, soft_wrap=True)
            last = text

        yield changed
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def draw(sweep: Sweep, found: list[Standing]) -> None:
            live.update(_rich(sweep, found, max(5, console.height - 4)), refresh=True)

        yield draw


def _rich(sweep: Sweep, found: Sequence[Standing], room: int) -> Any:
    """As many rows as fit: what runs and what was lost first."""
    from rich.table import Table

    number = {cell.identity: str(i) for i, cell in enumerate(sweep.cells)}
    order = {State.RUNNING: 0} | dict.fromkeys(LOST, 1) | {State.QUEUED: 2, State.DONE: 3}
    drawn = Table(box=None, caption=summary(found), caption_justify="left")
    for name in HEAD:
        drawn.add_column(name, no_wrap=True, overflow="ellipsis")
    for one in sorted(found, key=lambda s: order.get(s.state, 4))[:room]:
        drawn.add_row(*_row(number[one.cell.identity], one), style=COLOURS.get(one.state))
    return drawn
