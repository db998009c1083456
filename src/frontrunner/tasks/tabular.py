"""Tables of text cells, from CSV files or the hub, and their conversion to numbers."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frontrunner.errors import DataError, nearest

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """Columns of text, as read.

    Attributes:
        source: the file or hub data set, for messages.
        columns: name -> cells, all of one length.
        lines: the line of the file that each row ends on (for the hub, the row's number).
    """

    source: str
    columns: dict[str, list[str]]
    lines: list[int]

    def __len__(self) -> int:
        return len(self.lines)

    def column(self, name: str) -> list[str]:
        """The cells of a column.

        Raises:
            DataError: there is no such column; the nearest names are given.
        """
        if name not in self.columns:
            raise DataError(f"{self.source} has no column '{name}'{nearest(name, self.columns)}")
        return self.columns[name]

    def numbers(self, name: str) -> Array:
        """A column as float64.

        Raises:
            DataError: a cell that is not a finite number; file, line and column are named.
        """
        values = np.empty(len(self))
        for i, cell in enumerate(self.column(name)):
            try:
                values[i] = float(cell)
            except ValueError:
                values[i] = np.nan
            if not np.isfinite(values[i]):
                raise self.error(i, name, "a number")
        return values

    def error(self, row: int, name: str, wanted: str) -> DataError:
        """The error that a cell is not what was wanted."""
        cell = self.columns[name][row]
        return DataError(
            f"{self.source}, line {self.lines[row]}, column '{name}': {cell!r} is not {wanted}"
        )

    def where(self, keep: Sequence[bool] | NDArray[np.bool_]) -> Table:
        """The rows for which ``keep`` is true.

        Raises:
            DataError: no row is left.
        """
        if not any(keep):
            raise DataError(f"{self.source}: none of its {len(self)} rows can be used")

        def kept(cells: Iterable[Any]) -> list[Any]:
            return [cell for cell, flag in zip(cells, keep, strict=True) if flag]

        columns = {name: kept(cells) for name, cells in self.columns.items()}
        return Table(self.source, columns, kept(self.lines))


def read_csv(path: str | os.PathLike[str], *, names: Sequence[str] | None = None) -> Table:
    """Read a comma-separated file; spaces after a comma are not part of the cell.

    Args:
        path: the file, UTF-8.
        names: column names of a file without a header line.

    Raises:
        DataError: the file is missing, not text, empty, or a line has another number of cells.
    """
    rows, lines = [], []
    try:
        with open(path, encoding="utf-8-sig", newline="") as handle:
            reader = csv.reader(handle, skipinitialspace=True)
            header = list(names) if names is not None else next(reader, [])
            for cells in reader:
                # Adult's own files have blank lines, and a first line that starts with a bar.
                if not cells or cells[0].startswith("|"):
                    continue
                if len(cells) != len(header):
                    raise DataError(
                        f"{path}, line {reader.line_num}: {len(cells)} cells under "
                        f"{len(header)} columns"
                    )
                rows.append(cells)
                lines.append(reader.line_num)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV file: {error}") from None
    if not rows:
        raise DataError(f"{path} has no rows")
    columns = {name: [row[j].strip() for row in rows] for j, name in enumerate(header)}
    return Table(str(path), columns, lines)


def read_hub(dataset: str) -> Table:
    """Read the ``train`` split of a data set of the Hugging Face hub, or of a local folder.

    ``HF_HUB_OFFLINE=1`` keeps to what is cached, as everywhere in that library.

    Raises:
        DataError: the package ``datasets`` is missing, or it cannot load the data set.
    """
    loaded = load_hub(dataset, "train")
    columns = {
        name: ["" if cell is None else str(cell).strip() for cell in loaded[name]]
        for name in loaded.column_names
    }
    rows = len(loaded)
    if rows == 0:
        raise DataError(f"hub data set '{dataset}' has no rows")
    return Table(f"hub data set '{dataset}'", columns, list(range(1, rows + 1)))


def load_hub(dataset: str, split: str, config: str | None = None, streaming: bool = False) -> Any:
    """``datasets.load_dataset(dataset, config, split=split)``; with ``streaming`` an iterable.

    Raises:
        DataError: the package ``datasets`` is missing, or it cannot load the data set.
    """
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"hub data set '{dataset}' needs the package 'datasets': pip install datasets"
        ) from None
    try:
        named = (dataset,) if config is None else (dataset, config)
        more = {"streaming": True} if streaming else {}
        return datasets.load_dataset(*named, split=split, **more)
    except Exception as error:  # the library raises many kinds, none of its own base
        first = (str(error).splitlines() or [""])[0]
        raise DataError(
            f"hub data set '{dataset}', split '{split}' cannot be loaded: "
            f"{type(error).__name__} {first}"
        ) from None


def data_root() -> Path | None:
    """The folder that the environment variable FRONTRUNNER_DATA names, if any."""
    root = os.environ.get("FRONTRUNNER_DATA")
    return Path(root) if root else None


def one_hot(cells: Sequence[str]) -> Array:
    """(n, k) indicator columns of the k categories in sorted order; two categories give one column.

    A single category gives no column: it says nothing.
    """
    categories, codes = np.unique(np.asarray(cells, dtype=str), return_inverse=True)
    indicators = np.eye(len(categories))[codes]
    return indicators[:, 1:] if len(categories) <= 2 else indicators


def standardise(values: Array, train: NDArray[np.intp]) -> Array:
    """Subtract the mean and divide by the deviation of the rows ``train``; (n, k) -> (n, k).

    A column that is constant over those rows becomes 0 there and keeps its unit elsewhere.
    """
    centre = values[train].mean(axis=0)
    spread = values[train].std(axis=0)
    return (values - centre) / np.where(spread > 0.0, spread, 1.0)
