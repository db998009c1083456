"""Filled tables beside their files, where pages quote them."""

from __future__ import annotations

from pathlib import Path

from frontrunner import files
from frontrunner.tables import show
from frontrunner.tables.fill import Filled
from frontrunner.tables.table import Table


def place(table: Table) -> Path:
    """Where a table's results are, without suffix: ``results/<table>``, with ``-<scale>`` unless
    it is cpu."""
    scale = "" if table.scale == "cpu" else f"-{table.scale}"
    return table.path.parent / "results" / f"{table.path.stem}{scale}"


def save(filled: Filled) -> list[Path]:
    """Write the table as Markdown and, with every number behind it, as JSON; returns the paths."""
    stem = place(filled.table)
    words, numbers = Path(f"{stem}.md"), Path(f"{stem}.json")
    files.write_text(words, show.render(filled, "markdown"))
    files.write_text(numbers, show.render(filled, "json"))
    return [words, numbers]
