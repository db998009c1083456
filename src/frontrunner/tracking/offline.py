"""Read a W&B offline record back, to check what was logged and whether the run ended properly.

A ``.wandb`` file is a log of 32 KiB blocks (the LevelDB log layout): a 7-byte file header, then
chunks of ``crc32 (4 bytes), length (2), type (1), data``, little-endian. A record is one chunk
(type 1) or a first, any number of middle, and a last chunk (2, 3, 4); its data is a protobuf
message. wandb itself no longer ships a Python reader.
"""

from __future__ import annotations

import json
import os
import struct
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypedDict

from frontrunner.errors import RunError

BLOCK = 32 * 1024
HEADER = 7
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


class Record(TypedDict):
    """What an offline record holds.

    Attributes:
        summary: last value per key; parts of a nested key are joined by dots.
        config: configuration, joined likewise.
        group: sweep the run belongs to, if any.
        job_type: kind of run, if it says.
        history: one mapping per logged row, in order.
        exit: exit code, or None if the run never finished (killed, or still going).
    """

    summary: dict[str, Any]
    config: dict[str, Any]
    group: str | None
    job_type: str | None
    history: list[dict[str, Any]]
    exit: int | None


def records(directory: str | os.PathLike[str]) -> list[Path]:
    """The ``.wandb`` files of a run directory, one per attempt, oldest first."""
    return sorted(
        Path(directory).glob("wandb/*run-*/run-*.wandb"),
        key=lambda path: (path.parent.name.split("-")[-2:], path.stat().st_mtime_ns),
    )


def read(path: str | os.PathLike[str], *, wait: float = 0.0) -> Record:
    """Read one ``.wandb`` file, up to where it was torn if it was.

    Args:
        path: the file.
        wait: seconds to wait for the exit code. W&B's service process writes the last part of the
            file some milliseconds after the run was closed, so a reader in that same moment
            should allow a few seconds.

    Raises:
        RunError: the file is missing or is not a W&B record.
    """
    deadline = time.monotonic() + wait
    while (record := _read(Path(path)))["exit"] is None and time.monotonic() < deadline:
        time.sleep(0.01)
    return record


def _read(path: Path) -> Record:
    # Chosen at import by the installed protobuf version, which type checkers cannot follow.
    from wandb.proto import wandb_internal_pb2

    parse: Any = wandb_internal_pb2.Record.FromString  # type: ignore[attr-defined]

    found = Record(summary={}, config={}, group=None, job_type=None, history=[], exit=None)
    for data in _messages(path):
        message = parse(data)
        kind = message.WhichOneof("record_type")
        if kind == "run":
            found["config"].update(_items(message.run.config.update))
            found["group"] = message.run.run_group or None
            found["job_type"] = message.run.job_type or None
            found["summary"].update(_items(message.run.summary.update))
        elif kind == "config":
            found["config"].update(_items(message.config.update))
        elif kind == "summary":
            found["summary"].update(_items(message.summary.update))
        elif kind == "history":
            found["history"].append(_items(message.history.item))
        elif kind == "exit":
            found["exit"] = int(message.exit.exit_code)
    return found


def table(record: Record, path: str | os.PathLike[str], key: str) -> tuple[list[str], list[Any]]:
    """Columns and rows of the table last logged under ``key``; ``path`` is the ``.wandb`` file.

    Raises:
        RunError: no table was logged under this key, or its file is missing.
    """
    summary = record["summary"]
    if summary.get(f"{key}._type") != "table-file":
        raise RunError(f"{path} has no table '{key}'")
    file = Path(path).parent / "files" / summary[f"{key}.path"]
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"table '{key}' cannot be read: {error}") from None
    return content["columns"], content["data"]


def _messages(path: Path) -> Iterator[bytes]:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from None
    if raw and raw[:4] != b":W&B":
        raise RunError(f"{path} is not a W&B record")
    at, parts = HEADER, b""
    while True:
        room = BLOCK - at % BLOCK
        if room < HEADER:  # too small for a chunk header: the writer skipped to the next block
            at += room
        if at + HEADER > len(raw):
            return
        checksum, length, kind = struct.unpack_from("<IHB", raw, at)
        data = raw[at + HEADER : at + HEADER + length]
        intact = len(data) == length and zlib.crc32(bytes([kind]) + data) == checksum
        if kind not in (WHOLE, FIRST, MIDDLE, LAST) or not intact:
            return  # what a killed run left unfinished
        at += HEADER + length
        parts = data if kind in (WHOLE, FIRST) else parts + data
        if kind in (WHOLE, LAST):
            yield parts


def _items(items: Iterable[Any]) -> dict[str, Any]:
    return {
        item.key or ".".join(item.nested_key): json.loads(item.value_json)
        for item in items
        if item.value_json
    }
