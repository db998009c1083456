"""Every table of the project, at its smallest scale, and composed at the others."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from frontrunner.sweeps.launcher import State
from frontrunner.tables.carry_out import complete
from frontrunner.tables.fill import fill
from frontrunner.tables.grid import Grid
from frontrunner.tables.reading import described, load
from frontrunner.tables.show import FORMATS, render

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "experiments").glob("*/*.yaml"))
NAMES = [path.relative_to(ROOT / "experiments").with_suffix("").as_posix() for path in FILES]


@pytest.fixture(scope="module")
def output(tmp_path_factory) -> Path:
    """Runs of all tables, which share what they have in common."""
    return tmp_path_factory.mktemp("tables")


@pytest.fixture(scope="module", autouse=True)
def _trained_once(tmp_path_factory):
    """What tasks train for themselves is kept for the module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRONTRUNNER_CACHE", str(tmp_path_factory.mktemp("trained")))
        yield


@pytest.fixture(autouse=True)
def _cache() -> None:
    """In place of a cache for each test."""


def test_there_are_tables() -> None:
    assert len(FILES) > 10


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_the_smoke_scale_fills_every_cell(path, output) -> None:
    table = load(path, "smoke")
    if table.needs and not os.environ.get("FRONTRUNNER_DATA"):
        pytest.skip(f"needs {table.needs}")
    said: list[str] = []
    done = complete(table, output, tell=said.append)
    filled = fill(done.grid, done.problems)
    assert filled.whole, filled.reasons()
    shown = {row.name for row in table.shown}
    for form in FORMATS:
        text = render(filled, form)
        assert form == "latex" or all(name in text for name in shown), form


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_every_other_scale_composes(path, tmp_path) -> None:
    for scale in described(path)[1]:
        if scale == "smoke":
            continue
        table = load(path, scale)
        grid = Grid(replace(table, seeds=table.seeds[:1]), tmp_path)
        refused = {e.reason for e in grid.runs().values() if e.state != State.PLANNED}
        assert not refused, (scale, refused)
        assert grid.runs()
