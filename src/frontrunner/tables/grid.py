"""The runs of a table: for each row, column, panel and seed one run, and how it stands."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from frontrunner.errors import FrontError, FrontrunnerError, RunError
from frontrunner.sweeps.launcher import LOST, State
from frontrunner.sweeps.status import standings
from frontrunner.sweeps.sweep import Cell
from frontrunner.tables import index, values
from frontrunner.tables.table import Column, Panel, Row, Table
from frontrunner.tables.values import Result
from frontrunner.tracking.manifest import FILE, RunRecord

Words = tuple[str, ...]
"""Overrides of a run."""

QUIET = ("logger=none", "runner.progress=none")
"""Of every run, unless the table says otherwise: what tells nothing about it."""


@dataclass(frozen=True)
class Slot:
    """Where a run stands in the table."""

    panel: str
    row: str
    column: str
    seed: int


@dataclass(frozen=True)
class Entry:
    """A run of the table.

    Attributes:
        words: its overrides; empty while it waits for the run it follows.
        place: where it runs.
        state: how it stands; None where it cannot run at all.
        reason: why it is not there.
    """

    words: Words
    place: index.Place
    state: State | None
    reason: str = ""

    @cached_property
    def result(self) -> Result:
        """What it left; only of one that is done."""
        return Result(self.place.directory)

    @property
    def open(self) -> bool:
        """Whether it is to be run: never started, or ended without being done."""
        return bool(self.words) and (self.state == State.PLANNED or self.state in LOST)


class Grid:
    """All runs of a table, as they stand now."""

    def __init__(self, table: Table, output: Path) -> None:
        self.table, self.output = table, output
        first = {
            slot: self._words(slot)
            for slot in self._slots()
            if not table.row(slot.row).like and not table.row(slot.row).follows
        }
        self._entries = _look(first)
        later: dict[Slot, Words] = {}
        for slot in self._slots():
            leader = table.row(slot.row).follows
            if leader is None:
                continue
            ahead = self.entry(Slot(slot.panel, leader, slot.column, slot.seed))
            if ahead.state != State.DONE:
                reason = f"it follows '{leader}', which is not done"
                self._entries[slot] = Entry((), index.Place(), None, reason)
                continue
            try:
                later[slot] = self._words(slot, ahead.result)
            except FrontrunnerError as error:
                self._entries[slot] = Entry((), index.Place(), None, str(error))
        self._entries |= _look(later)

    def entry(self, slot: Slot) -> Entry:
        """The run of a slot: that of the row it is like, if it has none of its own."""
        row = self.table.row(slot.row).like or slot.row
        return self._entries[Slot(slot.panel, row, slot.column, slot.seed)]

    def runs(self) -> dict[Words, Entry]:
        """The different runs, by their overrides, in the order of the table."""
        found: dict[Words, Entry] = {}
        for entry in self._entries.values():
            if entry.words:
                found.setdefault(entry.words, entry)
        return found

    def waiting(self) -> int:
        """How many runs cannot be named before others are done; columns that change nothing of a
        row read the same one."""
        own = {c.name: (c.overrides, tuple(c.rows.items())) for c in self.table.columns}
        asked = [slot for slot, entry in self._entries.items() if not entry.words]
        return len({(s.panel, s.row, own[s.column], s.seed) for s in asked})

    # ------------------------------------------------------------------ words

    def _slots(self) -> Iterator[Slot]:
        t = self.table
        for panel in t.panels:
            for row in t.rows:
                for column in t.columns:
                    for seed in t.seeds:
                        yield Slot(panel.name, row.name, column.name, seed)

    def _words(self, slot: Slot, leader: Result | None = None) -> Words:
        t = self.table
        row = t.row(slot.row)
        panel = next(p for p in t.panels if p.name == slot.panel)
        column = next(c for c in t.columns if c.name == slot.column)
        own = (*row.overrides, *column.rows.get(row.name, ()))
        if leader is not None:
            own = tuple(_filled(word, leader, panel, t.path.parent) for word in own)
        words = [*QUIET, *t.overrides, *panel.overrides, *column.overrides, *own, *t.last]
        if not any(word.startswith("label=") for word in words):
            words.append(f"label='{label(panel, row, column)}'")
        words += [f"seed={slot.seed}", f"output={self.output}"]
        return _last_of_each(words)


def label(panel: Panel, row: Row, column: Column) -> str:
    """What comparisons call a run: its row, with the panel and the column where the same task is
    run in several of them."""
    parts = [row.name]
    if panel.name:
        parts.append(panel.name)
    if any(not word.startswith("task=") for word in column.overrides):
        parts.append(column.name)
    return re.sub(r"[\\'\"/\x00-\x1f]", "-", ", ".join(parts))


def _last_of_each(words: Sequence[str]) -> Words:
    """Overrides without those that a later one of their key replaces or takes back (``~key``)."""
    last: dict[str, str] = {}
    for word in words:
        key = word.partition("=")[0].lstrip("+~")
        before = last.pop(key, None)
        if not (word == f"~{key}" and before is not None):
            last[key] = word
    return tuple(last.values())


def _filled(word: str, leader: Result, panel: Panel, folder: Path) -> str:
    """An override with each ``<path>``, or ``<value>``, replaced by that number of the run it
    follows."""

    def alone(row: str) -> Result:
        raise FrontError(f"{word} cannot ask for the run of another row, '{row}'")

    def number(match: re.Match[str]) -> str:
        name = match[1]
        if name in values.FUNCTIONS or ".py:" in name:
            found = values.of(name, folder).instead(panel.value)(leader, alone)
        else:
            found = values.look_up(leader, name)
        return f"{found:.12g}"

    return re.sub(r"<([\w./]+(?::\w+)?)>", number, word)


class _Labelled:
    """Finished runs by what follows their labels, in folders that are listed once."""

    def __init__(self) -> None:
        self._there: dict[Path, dict[str, Path]] = {}

    def found(self, place: index.Place) -> index.Place:
        """The same place, or that of a finished run of the same configuration."""
        folder = place.directory.parent
        if folder not in self._there:
            runs = sorted(folder.iterdir()) if folder.is_dir() else []
            self._there[folder] = {_unlabelled(run): run for run in runs}
        other = self._there[folder].get(_unlabelled(place.directory))
        if other is None or (place.directory / FILE).exists() or not _is_run_of(other, place):
            return place
        return replace(place, directory=other)


def _unlabelled(directory: Path) -> str:
    """``s<seed>-<start of the identity>``, the end of a run directory's name."""
    return "-".join(directory.name.rsplit("-", 2)[-2:])


def _is_run_of(directory: Path, place: index.Place) -> bool:
    try:
        record = RunRecord.read(directory).data
    except (RunError, OSError):
        return False
    return record["status"] == "done" and record["config_hash"] == place.identity


def _look(words: Mapping[Slot, Words]) -> dict[Slot, Entry]:
    """How the runs of these overrides stand; those that differ in their label alone are one, also
    where another table has done them under its label."""
    labelled = _Labelled()
    distinct = list(dict.fromkeys(words.values()))
    entries: dict[Words, Entry] = {}
    first: dict[str, tuple[Words, index.Place]] = {}
    same: dict[Words, str] = {}
    for own, place in zip(distinct, index.places(distinct), strict=True):
        if place.problem:
            entries[own] = Entry(own, place, None, place.problem)
        else:
            first.setdefault(place.identity, (own, labelled.found(place)))
            same[own] = place.identity
    asked = [(Cell(p.identity, str(p.directory), w, {}), p.directory) for w, p in first.values()]
    for (own, place), found in zip(first.values(), standings(asked), strict=True):
        entries[own] = Entry(own, place, found.state, found.reason)
    entries |= {own: entries[first[identity][0]] for own, identity in same.items()}
    return {slot: entries[own] for slot, own in words.items()}
