"""Table files and finished runs that are written by hand, so that nothing is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from frontrunner.front.front import Front
from frontrunner.front.objective import Objective
from frontrunner.tables.grid import Entry, Grid, Slot
from frontrunner.tables.reading import load
from frontrunner.tables.table import Table
from frontrunner.tracking.manifest import RunRecord

PLAIN: dict[str, Any] = {
    "title": "A table",
    "overrides": ["task=multi_digits", "points=3"],
    "rows": {
        "COSMOS": ["method=learning/cosmos"],
        "linear": ["method=learning/linear_scalarization"],
    },
    "columns": {"hypervolume": {"digits": 2}},
    "scales": {"smoke": {"seeds": 3}},
}


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch) -> None:
    monkeypatch.setenv("FRONTRUNNER_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def written(work) -> Callable[..., Path]:
    """``written(**changes)``: a table file in experiments/paper/, PLAIN but for these keys."""

    def write(name: str = "table", **changes: Any) -> Path:
        path = work / "experiments" / "paper" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = {k: v for k, v in {**PLAIN, **changes}.items() if v is not None}
        path.write_text(yaml.safe_dump(data, sort_keys=False, allow_unicode=True))
        return path

    return write


@pytest.fixture
def table(written) -> Callable[..., Table]:
    """``table(**changes)``: the table of such a file at scale smoke."""
    return lambda **changes: load(written(**changes), "smoke")


@pytest.fixture
def grid(table, work) -> Callable[..., Grid]:
    """``grid(**changes)``: the runs of such a table in runs/."""
    return lambda **changes: Grid(table(**changes), Path("runs"))


class Runs:
    """What runs leave, as far as a table reads it."""

    @staticmethod
    def finish(
        entry: Entry,
        values: Sequence[Sequence[float]],
        *,
        preferences: Sequence[Sequence[float]] | None = None,
        reference: Sequence[float] | None = (1.0, 1.0),
        names: Sequence[str] = ("first", "second"),
        cost: dict[str, float] | None = None,
        point_costs: Sequence[dict[str, float]] = (),
        **info: Any,
    ) -> None:
        """Write a finished run where the entry's is looked for."""
        directory = entry.place.directory
        directory.mkdir(parents=True, exist_ok=True)
        front = Front(
            tuple(Objective(name) for name in names),
            np.asarray(values, dtype=float),
            preferences=None if preferences is None else np.asarray(preferences, dtype=float),
            preference_kind=None if preferences is None else "weight",
            reference_point=None if reference is None else np.asarray(reference, dtype=float),
            costs=tuple(point_costs),
            info={"split": "test", **info},
        )
        front.save(directory / "front.json")
        identity = entry.place.identity
        record = RunRecord.open(directory, cost=cost or {}, config_hash=identity)
        record.done(timings={"total": 12.0})

    @staticmethod
    def fail(entry: Entry, message: str) -> None:
        """Write a run that failed."""
        entry.place.directory.mkdir(parents=True, exist_ok=True)
        RunRecord.open(entry.place.directory).fail(RuntimeError(message))

    @staticmethod
    def square(side: float) -> list[list[float]]:
        """A front of one point whose hypervolume at (1, 1) is side²."""
        return [[1.0 - side, 1.0 - side]]

    @staticmethod
    def of(grid: Grid, row: str, column: int = 0) -> list[Entry]:
        """The entries of a row in one column, by panel and seed."""
        t = grid.table
        name = t.columns[column].name
        slots = [Slot(p.name, row, name, seed) for p in t.panels for seed in t.seeds]
        return [grid.entry(slot) for slot in slots]

    @staticmethod
    def squares(grid: Grid, row: str, sides: Sequence[float]) -> None:
        """Finish a row's runs with hypervolumes side²."""
        for entry, side in zip(Runs.of(grid, row), sides, strict=True):
            Runs.finish(entry, Runs.square(side))

    @staticmethod
    def again(grid: Grid) -> Grid:
        """The grid as it stands now."""
        return Grid(grid.table, grid.output)


@pytest.fixture
def runs() -> type[Runs]:
    """Writes runs by hand."""
    return Runs
