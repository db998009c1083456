"""A table: rows and columns of runs, at one scale, beside what a paper reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from frontrunner.tables.values import Value

SCALES = ("smoke", "cpu", "paper")
COMPARING = ("difference", "p", "holm", "wins")
SHOWN = ("mean", "each", "smallest", "largest", "sum", *COMPARING)
"""How the values of the seeds become a cell's text; those of `COMPARING` need another row."""


@dataclass(frozen=True)
class Reported:
    """What a paper prints in a cell; ``deviation`` is None where it prints none."""

    mean: float
    deviation: float | None
    text: str


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        overrides: of its runs.
        like: the row whose runs it reads instead of having its own.
        follows: the row whose run of the same seed, column and panel fills in ``<…>`` in overrides.
        value: what is read instead of a column's value: another function with its arguments, or
            the same with other ones.
        beside: other rows by a role, which columns then compare this row with by it.
        hidden: not shown: a row that others are compared with.
    """

    name: str
    overrides: tuple[str, ...] = ()
    like: str | None = None
    follows: str | None = None
    value: Mapping[str, Any] | None = None
    beside: Mapping[str, str] = field(default_factory=dict)
    hidden: bool = False


@dataclass(frozen=True)
class Column:
    """One column of the table.

    Attributes:
        overrides: of its runs; columns without any read the same runs.
        rows: more overrides, of single rows in this column.
        value: what is read from a run.
        digits: after the point; None shows as many as the standard deviation warrants.
        factor: on every value, such as 100 for percent.
        show: one of `SHOWN`.
        minus, over: the row, or the role of a row (`Row.beside`), whose value of the same seed is
            subtracted, or divides (in percent of change).
        between: two rows; the value is the share, in percent, of the way from the first to the
            second.
    """

    name: str
    value: Value
    overrides: tuple[str, ...] = ()
    rows: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    digits: int | None = None
    factor: float = 1.0
    show: str = "mean"
    minus: str | None = None
    over: str | None = None
    between: tuple[str, str] | None = None

    @property
    def rivals(self) -> tuple[str, ...]:
        """Rows it compares with."""
        return (*filter(None, (self.minus, self.over)), *(self.between or ()))


@dataclass(frozen=True)
class Panel:
    """A block of rows that shares overrides, such as a level of sparsity; most tables have one,
    without a name.

    Attributes:
        value: other arguments of the columns' values.
    """

    name: str = ""
    overrides: tuple[str, ...] = ()
    value: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Claim:
    """What the paper says, as an order of rows from the largest value to the smallest."""

    says: str
    order: tuple[str, ...]
    columns: tuple[str, ...]
    panels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """A table at one scale.

    Attributes:
        path: of its file.
        scale: one of `SCALES`.
        title, source, notes: as the file has them; ``notes`` with what the scale differs in.
        stub, panel: heads of the columns that name rows and panels.
        overrides: of every run; a scale's own come last, after those of rows and columns.
        last: overrides of the scale.
        reported: by (panel, row, column).
        pool: whether panels are repetitions, as seeds are, and not blocks of the table.
        comparable: whether the scale's numbers are of what the paper measured.
        says: what may be seen at this scale.
        needs: why it may not run here, such as a data set that is not embedded.
    """

    path: Path
    scale: str
    title: str
    source: str
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    panels: tuple[Panel, ...]
    seeds: tuple[int, ...]
    overrides: tuple[str, ...] = ()
    last: tuple[str, ...] = ()
    reported: Mapping[tuple[str, str, str], Reported] = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    notes: tuple[str, ...] = ()
    stub: str = "method"
    panel: str = ""
    pool: bool = False
    comparable: bool = True
    says: str = ""
    needs: str = ""

    @property
    def name(self) -> str:
        """``<paper>/<table>``."""
        return f"{self.path.parent.name}/{self.path.stem}"

    def row(self, name: str) -> Row:
        """The row of that name."""
        return next(r for r in self.rows if r.name == name)

    @property
    def shown(self) -> tuple[Row, ...]:
        """The rows that are shown."""
        return tuple(r for r in self.rows if not r.hidden)

    @property
    def blocks(self) -> dict[str, list[tuple[str, int]]]:
        """Blocks of rows by name, each with the (panel, seed) that its cells are over."""
        each = {p.name: [(p.name, seed) for seed in self.seeds] for p in self.panels}
        return {"": [x for block in each.values() for x in block]} if self.pool else each
