"""Evaluated points, appended to disk one by one, so that a killed evaluation continues."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from frontrunner import files
from frontrunner.errors import FrontError, RunError

SCHEMA_VERSION = 1


class PointLog:
    """A JSON Lines file: a header, then one evaluated point per line. One writer at a time.

    The header is ``{"schema_version", "key"}``, a point ``{"index", "preference", "values",
    "cost"}``. Every point is on disk before `append` returns.

    Opening a file continues it. A last line that a kill or a full disk cut short is removed. A
    file of another key or schema version is set aside as ``<name>.previous``, where it replaces
    the one before it. If an index occurs twice, the later line holds.

    Args:
        path: the file, e.g. ``points.jsonl``; its folder is made if needed.
        key: identifies what is evaluated and how, so that points are never mixed: a hash of the
            Pareto set and the evaluator, say.
        m: number of objectives.
        entries: of a preference; None takes m.
        rank: which of several processes this is. Process r > 0 writes ``points.r.jsonl`` instead;
            points in the files of the others are known as well, as far as they are there now.

    Raises:
        RunError: a malformed line (file and line are named), or a file that cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        key: str,
        m: int,
        entries: int | None = None,
        rank: int = 0,
    ) -> None:
        first = Path(path)
        self.path = first.with_suffix(f".{rank}{first.suffix}") if rank else first
        self._m, self._entries = m, m if entries is None else entries
        self._done: dict[int, dict[str, Any]] = {}
        try:
            if not self._continue(key):
                header = {"schema_version": SCHEMA_VERSION, "key": key}
                files.write_text(self.path, json.dumps(header) + "\n")
        except OSError as error:
            raise RunError(f"{self.path} cannot be opened: {error.strerror or error}") from None
        for other in sorted(first.parent.glob(f"{first.stem}*{first.suffix}")):
            if other != self.path:
                found, _ = self._points(other, key)
                self._done = (found or {}) | self._done

    def done(self) -> dict[int, dict[str, Any]]:
        """The points on disk, by index: ``{"index", "preference", "values", "cost"}``."""
        return {index: dict(record) for index, record in self._done.items()}

    def append(
        self,
        index: int,
        preference: ArrayLike | None,
        values: ArrayLike,
        cost: Mapping[str, float] | None = None,
    ) -> None:
        """Write one point and wait until it is on disk.

        Args:
            index: which point it is, 0 or more.
            preference: (entries,), or None.
            values: (m,) in the objectives' own units and directions.
            cost: what the point cost, e.g. ``{"seconds": 0.1}``.

        Raises:
            FrontError: a value, preference or cost that is not finite, or of the wrong length.
            RunError: the disk is full or the file cannot be written; the points before are kept.
        """
        record = {
            "index": int(index),
            "preference": None if preference is None else _floats(preference),
            "values": _floats(values),
            "cost": {str(k): float(v) for k, v in (cost or {}).items()},
        }
        problem = _problem(record, self._m, self._entries)
        if problem:
            raise FrontError(f"point {index}: {problem}")
        self._write(json.dumps(record) + "\n", index)
        self._done[int(index)] = record

    # ------------------------------------------------------------------ the file

    def _continue(self, key: str) -> bool:
        """Read an existing file; False if a new one has to be written."""
        if not self.path.exists():
            return False
        found, whole = self._points(self.path, key)
        if found is None:
            os.replace(self.path, self.path.with_name(self.path.name + ".previous"))
            return False
        self._done = found
        if whole < self.path.stat().st_size:
            os.truncate(self.path, whole)
        return True

    def _points(self, path: Path, key: str) -> tuple[dict[int, dict[str, Any]] | None, int]:
        """The points in a file, None if it is of another key or schema version; and its length up
        to the last line end, since bytes after it were cut short."""
        try:
            content = path.read_bytes()
        except FileNotFoundError:  # its writer is setting it aside
            return None, 0
        whole = content.rfind(b"\n") + 1
        lines = content[:whole].splitlines()
        header = self._parse(path, lines[0], 1) if lines else {}
        if header.get("key") != key or header.get("schema_version") != SCHEMA_VERSION:
            return None, whole
        found = {}
        for number, line in enumerate(lines[1:], start=2):
            record = self._parse(path, line, number)
            problem = _problem(record, self._m, self._entries)
            if problem:
                raise self._malformed(path, number, problem)
            found[record["index"]] = record
        return found, whole

    def _write(self, line: str, index: int) -> None:
        size = None
        try:
            with open(self.path, "rb+") as handle:  # not "ab": a deleted file must not come back
                size = handle.seek(0, os.SEEK_END)
                handle.write(line.encode())
                handle.flush()
                os.fsync(handle.fileno())
        except OSError as error:
            if size is not None:
                with contextlib.suppress(OSError):  # else the next opening removes the torn line
                    os.truncate(self.path, size)
            raise RunError(
                f"point {index} could not be written to {self.path}: {error.strerror or error}; "
                f"its {len(self._done)} earlier points are kept: make room and run again"
            ) from None

    def _parse(self, path: Path, line: bytes, number: int) -> dict[str, Any]:
        try:
            value = json.loads(line)
        except ValueError as error:
            raise self._malformed(path, number, f"not JSON ({error})") from None
        if not isinstance(value, dict):
            raise self._malformed(path, number, "not a JSON object")
        return value

    def _malformed(self, path: Path, number: int, problem: str) -> RunError:
        return RunError(
            f"{path}, line {number}: {problem}; repair the line, or delete the file to "
            "evaluate every point again"
        )


def _floats(numbers: ArrayLike) -> list[float]:
    try:
        array = np.asarray(numbers, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError):
        raise FrontError("values and preferences must be numbers") from None
    return [float(x) for x in array.ravel()]


def _problem(record: Mapping[str, Any], m: int, entries: int) -> str | None:
    """What is wrong with a point, or None."""
    index = record.get("index")
    if not isinstance(index, int) or isinstance(index, bool) or index < 0:
        return f"index must be a whole number of 0 or more, not {index!r}"
    if not _is_vector(record.get("values"), m):
        return f"values must be {m} finite numbers, not {record.get('values')}"
    preference = record.get("preference")
    if preference is not None and not _is_vector(preference, entries):
        return f"preference must be {entries} finite numbers, not {preference}"
    cost = record.get("cost")
    if not isinstance(cost, dict) or not _is_vector(list(cost.values()), len(cost)):
        return f"cost must be finite numbers by name, not {cost}"
    return None


def _is_vector(value: Any, length: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == length
        and all(isinstance(x, (int, float)) and math.isfinite(x) for x in value)
    )
