"""Find fronts on disk: files, run directories, and trees of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frontrunner import files
from frontrunner.errors import FrontError, RunError
from frontrunner.front.front import Front

FRONT, RUN = "front.json", "run.json"


@dataclass(frozen=True)
class Entry:
    """One run's front.

    Attributes:
        front: the front.
        label: what the run is a repetition of; runs with one label form a group.
        seed: the run's seed, or None when its writer did not say.
        path: the file it was read from.
    """

    front: Front
    label: str
    seed: int | None
    path: Path


@dataclass(frozen=True)
class Skipped:
    """A path that was looked at and left out, and why."""

    path: Path
    reason: str


class Entries(list[Entry]):
    """The entries found, with those left out in ``skipped``."""

    skipped: tuple[Skipped, ...] = ()


def collect(paths: Iterable[str | os.PathLike[str]]) -> Entries:
    """Read the fronts at ``paths``: front files, run directories, or trees of run directories.

    A directory that holds a ``front.json`` or a ``run.json`` is a run and is not searched further,
    so that copies kept by a tracker are not counted twice. Hidden directories are passed over. A
    run whose ``run.json`` does not say ``done`` goes to ``skipped``; so does an unreadable front
    found in a tree. A front reached by several paths is read once.

    Raises:
        FrontError: a path does not exist, a front named explicitly cannot be read, or there is no
            front at all.
    """
    found: dict[Path, Entry] = {}
    skipped: dict[Path, Skipped] = {}
    named = [Path(p) for p in paths]
    for path in named:
        if not path.exists():
            raise FrontError(f"{path} does not exist; name a front.json or a run directory")
        if path.is_dir() and not _is_run(path):
            candidates: Iterable[Path] = _runs(path)
            explicit = False
        else:
            candidates, explicit = [path / FRONT if path.is_dir() else path], True
        for candidate in candidates:
            key = candidate.resolve()
            if key in found or key in skipped:
                continue
            try:
                reason = _unfinished(candidate)
                if reason:
                    skipped[key] = Skipped(candidate, reason)
                else:
                    found[key] = _entry(candidate)
            except (FrontError, RunError) as error:
                if explicit:
                    raise FrontError(str(error)) from None
                skipped[key] = Skipped(candidate, str(error))
    if not found:
        why = "; ".join(f"{s.path}: {s.reason}" for s in list(skipped.values())[:3])
        raise FrontError(
            f"no finished run in {', '.join(map(str, named)) or 'an empty list of paths'}"
            + (f" ({why})" if why else "")
            + "; name directories that hold a front.json, as `frontrunner run` writes them"
        )
    entries = Entries(found.values())
    entries.skipped = tuple(skipped.values())
    return entries


def _is_run(directory: Path) -> bool:
    return (directory / FRONT).is_file() or (directory / RUN).is_file()


def _runs(root: Path) -> Iterator[Path]:
    """The front file, present or not, of every run directory under ``root``, in sorted order."""
    seen = {root.resolve()}
    for folder, subfolders, _ in os.walk(root, followlinks=True):
        here = Path(folder)
        if _is_run(here):
            subfolders.clear()
            yield here / FRONT
            continue
        keep = []
        for name in sorted(subfolders):
            real = (here / name).resolve()
            if not name.startswith(".") and real not in seen:  # a link may lead back up
                seen.add(real)
                keep.append(name)
        subfolders[:] = keep


def _unfinished(path: Path) -> str:
    """Why the run that wrote ``path`` is not finished; empty when it is."""
    record = _record(path)
    status = record.get("status", "done")
    if status != "done":
        error = record.get("error")
        if isinstance(error, dict):
            error = error.get("message") or error.get("type")
        return f"its status is '{status}'" + (f": {str(error).splitlines()[0]}" if error else "")
    return "" if path.is_file() else f"it has no {FRONT}"


def _record(path: Path) -> dict[str, Any]:
    """The ``run.json`` beside a front file, or an empty mapping."""
    beside = path.parent / RUN
    if path.name != FRONT or not beside.is_file():
        return {}
    record = files.read_json(beside)
    if not isinstance(record, dict):
        raise RunError(f"{beside} is not a run record")
    return record


def _entry(path: Path) -> Entry:
    front = Front.load(path)
    seed = front.info.get("seed", _record(path).get("seed"))
    return Entry(
        front=front,
        label=label_of(front, path.resolve().parent.name or str(path)),
        seed=seed if isinstance(seed, int) and not isinstance(seed, bool) else None,
        path=path,
    )


def label_of(front: Front, fallback: str) -> str:
    """The front's own label, else its method, else ``fallback``."""
    return str(front.info.get("label") or front.info.get("method") or fallback)
