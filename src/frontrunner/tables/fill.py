"""From runs to a filled table: numbers, statistics, marks, and why a cell is empty."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from frontrunner.errors import FrontrunnerError
from frontrunner.front import statistics, text
from frontrunner.front.statistics import Statistic
from frontrunner.sweeps.launcher import State
from frontrunner.tables.grid import Grid, Slot
from frontrunner.tables.table import Claim, Column, Reported, Row, Table
from frontrunner.tables.values import Result

MARKED = 2.0
"""Differences beyond so many of the larger deviation are marked."""


Key = tuple[str, str, str]
"""Block, row and column."""


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        values: by panel and seed, of those that have one.
        missing: why the others have none.
        text: the values in words, without what is missing; empty where nothing belongs.
        statistic: of the values; None without any.
        reported: what the paper prints, if anything.
        marked: whether the difference from it exceeds two of the larger deviation; None where that
            cannot be said.
    """

    values: Mapping[tuple[str, int], float]
    missing: Mapping[tuple[str, int], str]
    text: str
    statistic: Statistic | None = None
    reported: Reported | None = None
    marked: bool | None = None

    @property
    def whole(self) -> bool:
        """Whether no seed is missing."""
        return not self.missing


@dataclass(frozen=True)
class Held:
    """How often a claim held, over panels, columns and seeds that have all its rows."""

    claim: Claim
    held: int
    of: int


@dataclass(frozen=True)
class Filled:
    """A table with its numbers.

    Attributes:
        cells: by (block, row, column), in the table's order; a block is a panel, or all of them.
        claims: what came of the paper's.
        references: reference points of hypervolumes, by column, where the runs agree on one.
        facts: the commits and devices of its runs.
    """

    table: Table
    cells: Mapping[Key, Cell]
    claims: Sequence[Held] = ()
    references: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether every cell has all its seeds."""
        return all(cell.whole for cell in self.cells.values())

    def reasons(self) -> dict[str, list[Key]]:
        """Why numbers are missing, each reason with the cells it is of."""
        found: dict[str, list[Key]] = {}
        for key, cell in self.cells.items():
            for reason in dict.fromkeys(cell.missing.values()):
                found.setdefault(reason, []).append(key)
        return found


def fill(grid: Grid, problems: Mapping[tuple[str, ...], str] | None = None) -> Filled:
    """Compute every cell.

    Args:
        problems: why runs could not be started or failed, by their overrides.
    """
    table = grid.table
    reader = _Reader(grid, problems or {})
    cells: dict[Key, Cell] = {}
    for block in table.blocks:
        for row in table.shown:
            for column in table.columns:
                key = (block, row.name, column.name)
                cells[key] = _cell(table, reader, block, row, column)
        for column in table.columns:
            if column.show == "holm":
                cells |= _adjusted(
                    {k: c for k, c in cells.items() if k[::2] == (block, column.name)}
                )
    claims = [_held(c, table, reader) for c in table.claims]
    return Filled(
        table,
        cells,
        [c for c in claims if c is not None],
        _references(grid),
        _facts(grid),
    )


class _Reader:
    """Numbers of runs, each read once."""

    def __init__(self, grid: Grid, problems: Mapping[tuple[str, ...], str]) -> None:
        self._grid, self._problems = grid, problems
        self._known: dict[tuple[str, str, str, int], float | str] = {}

    def value(self, panel: str, row: str, column: Column, seed: int) -> float | str:
        """The number of a run times the column's factor, or why there is none."""
        key = (panel, row, column.name, seed)
        if key not in self._known:
            self._known[key] = self._read(panel, row, column, seed)
        return self._known[key]

    def _read(self, panel: str, row: str, column: Column, seed: int) -> float | str:
        def run(name: str) -> Result | str:
            entry = self._grid.entry(Slot(panel, name, column.name, seed))
            if entry.state == State.DONE:
                return entry.result
            reason = self._problems.get(entry.words) or entry.reason
            able = entry.state is not None and not (entry.state == State.PLANNED and reason)
            state = str(entry.state).lower().replace("_", " ") if able else "cannot run"
            return f"{state}: {reason}" if reason else state

        def peers(name: str) -> Result:
            found = run(name)
            if isinstance(found, str):
                raise FrontrunnerError(f"'{name}' is {found}")
            return found

        own = run(row)
        if isinstance(own, str):
            return own
        table = self._grid.table
        here = next(p.value for p in table.panels if p.name == panel)
        value = column.value.instead(here).instead(table.row(row).value)
        try:
            return column.factor * value(own, peers)
        except Exception as error:  # a function may be the user's own: the rest of the table stands
            told = " ".join(str(error).split())
            known = isinstance(error, FrontrunnerError | OSError)
            return told if known else f"{type(error).__name__}: {told}"

    def shown(self, panel: str, row: str, column: Column, seed: int) -> float | str:
        """The number that the column shows: compared with other rows, if it compares."""
        ours = self.value(panel, row, column, seed)
        beside = self._grid.table.row(row).beside
        rivals = [beside.get(rival, rival) for rival in column.rivals]
        others = [self.value(panel, rival, column, seed) for rival in rivals]
        for name, other in zip(rivals, others, strict=True):
            if isinstance(other, str):
                return other if isinstance(ours, str) else f"'{name}' is {other}"
        if isinstance(ours, str):
            return ours
        numbers = [float(x) for x in others]
        if column.minus:
            return ours - numbers[0]
        if column.over:
            return 100.0 * (ours / numbers[0] - 1.0) if numbers[0] else "division by 0"
        if column.between:
            low, high = numbers
            return 100.0 * (ours - low) / (high - low) if high != low else "division by 0"
        return ours


def _cell(table: Table, reader: _Reader, block: str, row: Row, column: Column) -> Cell:
    names = {r.name for r in table.rows}
    for rival in filter(None, (column.minus, column.over)):
        # A row is not compared with itself, nor with a role that it has nobody in.
        if rival == row.name or rival not in names | set(row.beside):
            return Cell({}, {}, "")
    found = {
        (panel, seed): reader.shown(panel, row.name, column, seed)
        for panel, seed in table.blocks[block]
    }
    values = {key: x for key, x in found.items() if not isinstance(x, str)}
    missing = {key: x for key, x in found.items() if isinstance(x, str)}
    statistic = statistics.describe(list(values.values()))
    reported = table.reported.get((block, row.name, column.name))
    return Cell(
        values,
        missing,
        _text(list(values.values()), statistic, column),
        statistic,
        reported,
        _marked(statistic, reported) if table.comparable else None,
    )


def _adjusted(cells: Mapping[Key, Cell]) -> dict[Key, Cell]:
    """The cells of a column of one block, with their p-values by Holm over its rows."""
    p = {k: statistics.paired_test(list(c.values.values())).p for k, c in cells.items() if c.values}
    told = {key: value for key, value in p.items() if value is not None}
    held = zip(told, statistics.holm(list(told.values())), strict=True)
    return {key: replace(cells[key], text=f"{value:.3f}") for key, value in held}


def _marked(ours: Statistic | None, reported: Reported | None) -> bool | None:
    if ours is None or reported is None:
        return None
    known = [x for x in (ours.std, reported.deviation) if x is not None]
    if not known:
        return None
    # Means that are printed alike do not differ, whatever their last digits.
    return abs(ours.mean - reported.mean) > MARKED * max(known) + 1e-12


# ---------------------------------------------------------------------- words


def _text(values: Sequence[float], over: Statistic | None, column: Column) -> str:
    if over is None:
        return ""
    if column.show == "each":
        return ", ".join(_number(x, column) for x in values)
    if column.show in ("smallest", "largest", "sum"):
        found = {"smallest": min(values), "largest": max(values), "sum": math.fsum(values)}
        return _number(found[column.show], column)
    if column.show == "wins":
        return f"{sum(x > 0 for x in values)} of {len(values)}"
    if column.show in ("p", "holm"):
        p = statistics.paired_test(values).p
        return "" if p is None else f"{p:.3f}"
    signed = column.show == "difference" or column.over is not None
    unit = " %" if column.over or column.between else ""
    if column.show == "difference":
        mean = _number(over.mean, column, signed=True)
        if over.low is None or over.high is None:
            return mean
        low, high = (_number(x, column, signed=True) for x in (over.low, over.high))
        return f"{mean} ({low} to {high})"
    if column.digits is None and not signed:
        return text.spread(over) + unit
    mean = _number(over.mean, column, signed=signed)
    if over.std is None:
        return mean + unit
    return f"{mean} ± {_number(over.std, column)}{unit}"


def _number(value: float, column: Column, signed: bool = False) -> str:
    if column.digits is None:
        return text.signed(value) if signed else text.number(value)
    return f"{value:{'+' if signed else ''},.{column.digits}f}"


def _held(claim: Claim, table: Table, reader: _Reader) -> Held | None:
    """How often the order held; None where the scale lacks its rows or columns."""
    rows = {r.name for r in table.rows}
    columns = [c for c in table.columns if c.name in claim.columns]
    if not set(claim.order) <= rows or not columns:
        return None
    held = total = 0
    for panel in table.panels:
        if claim.panels and panel.name not in claim.panels:
            continue
        for column in columns:
            for seed in table.seeds:
                values = [reader.value(panel.name, row, column, seed) for row in claim.order]
                numbers = [x for x in values if not isinstance(x, str)]
                if len(numbers) == len(values):
                    total += 1
                    held += bool((np.diff(numbers) < 0).all())
    return Held(claim, held, total)


def _references(grid: Grid) -> dict[str, str]:
    """Reference points of the columns that show hypervolumes by the fronts' own."""
    table, found = grid.table, {}
    for column in table.columns:
        reference = column.value.arguments.get("reference")
        if column.value.name not in ("hypervolume", "hypervolume_share"):
            continue
        if isinstance(reference, Mapping):
            factor = float(reference.get("factor", 1.0))
            found[column.name] = f"{factor:g} times '{reference['row']}' at equal preferences"
            continue
        if reference is not None:
            found[column.name] = _point(reference)
            continue
        points = set()
        for panel in table.panels:
            for row in table.rows:
                entry = grid.entry(Slot(panel.name, row.name, column.name, table.seeds[0]))
                if entry.state == State.DONE and entry.result.front.reference_point is not None:
                    points.add(_point(entry.result.front.reference_point))
        if points:
            found[column.name] = " or ".join(sorted(points))
    return found


def _point(values: Sequence[float] | np.ndarray) -> str:
    return f"({', '.join(text.number(float(x), 6) for x in values)})"


def _facts(grid: Grid) -> dict[str, list[str]]:
    """What made the numbers: commits, devices, splits."""
    found: dict[str, dict[str, None]] = {"commit": {}, "device": {}, "split": {}}
    for entry in grid.runs().values():
        if entry.state != State.DONE:
            continue
        record, info = entry.result.record, entry.result.front.info
        git = record.get("git") or {}
        if git.get("commit"):
            found["commit"][git["commit"][:12] + ("+" if git.get("dirty") else "")] = None
        found["device"] |= {str(d): None for d in record.get("devices") or ()}
        if info.get("split"):
            found["split"][str(info["split"])] = None
    return {key: list(values) for key, values in found.items()}
