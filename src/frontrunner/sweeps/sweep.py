"""A sweep's folder: what is to be run, with which code, frozen when it was submitted.

``sweep.json`` says where and how the sweep was submitted, ``manifest.jsonl`` has one cell in each
line with its fully resolved configuration, ``code/<digest>/`` the source that cells run, and
``logs/`` what they print. How a cell stands is in its own run directory, which other sweeps may
share.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from frontrunner import files
from frontrunner.errors import ConfigError, RunError, nearest
from frontrunner.tracking import manifest

SCHEMA_VERSION = 1
HOME = "sweeps"  # the folder of sweeps in an output folder
FILE, MANIFEST, JOB = "sweep.json", "manifest.jsonl", "job.json"


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
        identity: 16 hexadecimal digits, the hash of all that can change the result.
        directory: of the run, relative to the sweep's folder.
        overrides: as on the command line.
        config: resolved, of plain data.
        code: digest of the source that the cell runs, a folder under ``code/``.
    """

    identity: str
    directory: str
    overrides: tuple[str, ...]
    config: Mapping[str, Any] = field(repr=False)
    code: str = ""

    @property
    def name(self) -> str:
        """Of its run directory: ``<label>-s<seed>-<start of the identity>``."""
        return Path(self.directory).name

    @property
    def family(self) -> str:
        """Of its method, such as ``pruning``, which resources are chosen by; for a user's own the
        name of its module."""
        first, _, rest = str(self.config["method"]["_target_"]).partition(".methods.")
        return (rest if first == "frontrunner" else first).split(".")[0]


@dataclass(frozen=True)
class Sweep:
    """A sweep as it is on disk.

    Attributes:
        folder: absolute.
        facts: what ``sweep.json`` says.
        cells: in the order of the command line.
    """

    folder: Path
    facts: Mapping[str, Any]
    cells: tuple[Cell, ...]

    @property
    def name(self) -> str:
        """Of the folder, and of the group in W&B."""
        return self.folder.name

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Sweep:
        """Read a sweep.

        Raises:
            RunError: no sweep, a damaged one, one that a newer version wrote, or one moved away
                from its runs.
        """
        path = Path(folder).resolve()
        facts = _facts(path)
        if path.parent.name != HOME:
            raise RunError(
                f"{path} was moved away from its runs: move it back to <output>/{HOME}/, or move "
                "the whole output folder"
            )
        cells = []
        for number, line in enumerate(_lines(path / MANIFEST), start=1):
            try:
                cells.append(_cell(json.loads(line)))
            except (ValueError, KeyError, TypeError):
                raise RunError(
                    f"{path / MANIFEST}, line {number} is damaged; {_remedy(path)}"
                ) from None
        return cls(path, facts, tuple(cells))

    @classmethod
    def read_cell(cls, folder: str | os.PathLike[str], identity: str) -> tuple[Sweep, Cell]:
        """A sweep of this cell alone: what its job needs, without reading thousands of others.

        Raises:
            RunError: as `read`, or there is no such cell.
        """
        path = Path(folder).resolve()
        start = f'{{"identity": "{identity}"'
        for line in _lines(path / MANIFEST):
            if line.startswith(start):
                cell = _cell(json.loads(line))
                return cls(path, _facts(path), (cell,)), cell
        raise RunError(f"{path / MANIFEST} has no cell {identity}")

    def write(self) -> None:
        """Write ``manifest.jsonl`` and, once it is there, ``sweep.json``."""
        text = "".join(json.dumps(asdict(cell)) + "\n" for cell in self.cells)
        files.write_text(self.folder / MANIFEST, text)
        files.write_json(self.folder / FILE, {**self.facts, "schema_version": SCHEMA_VERSION})

    # ------------------------------------------------------------------ places

    def directory(self, cell: Cell) -> Path:
        """The cell's run directory."""
        return Path(os.path.normpath(self.folder / cell.directory))

    @property
    def sources(self) -> Path:
        """Where source is frozen, a folder for each digest."""
        return self.folder / "code"

    def python_path(self, code: str) -> str:
        """PYTHONPATH for cells that run the source of this digest."""
        paths = (str(self.sources / code), os.environ.get("PYTHONPATH", ""))
        return os.pathsep.join(path for path in paths if path)

    @property
    def logs(self) -> Path:
        """Where launchers put what cells print."""
        return self.folder / "logs"

    # ------------------------------------------------------------------ cells

    def chosen(self, names: Sequence[str]) -> list[Cell]:
        """The cells that these words name: a number as in `status`, the start of a name or of an
        identity.

        Raises:
            ConfigError: a word that names none, or more than one.
        """
        return [self._chosen(name) for name in names]

    def _chosen(self, name: str) -> Cell:
        if name.isdecimal() and int(name) < len(self.cells):
            return self.cells[int(name)]
        found = [c for c in self.cells if c.name == name or c.identity == name]
        found = found or [
            c for c in self.cells if c.name.startswith(name) or c.identity.startswith(name)
        ]
        if len(found) != 1:
            words = "" if found else nearest(name, [c.name for c in self.cells])
            what = f"{len(found)} cells" if found else "no cell"
            raise ConfigError(f"--cell {name} names {what} of {self.folder}{words}")
        return found[0]


# ---------------------------------------------------------------------- jobs


def announce_job(directory: Path) -> None:
    """Note in a run directory that a job is about to be submitted for it, and how many attempts
    there were before: what a later one says is then known to be of this job."""
    files.write_json(directory / JOB, {"after": _attempts(directory)})


def write_job(directory: Path, job: Mapping[str, Any]) -> None:
    """Note in a run directory which job was submitted for it, and when.

    Args:
        directory: of the run.
        job: ``launcher`` ("slurm", "local"), ``job`` (its number there), ``sweep`` (the folder
            that submitted it), ``log`` (what it prints goes there), and what else the launcher
            wants to find again.
    """
    announced = _read(directory / JOB)
    after = announced.get("after") if "job" not in announced else None
    now = datetime.now(UTC).isoformat(timespec="seconds")
    after = _attempts(directory) if after is None else after
    files.write_json(directory / JOB, {**job, "submitted": now, "after": after})


def read_job(directory: Path) -> dict[str, Any] | None:
    """The job last submitted for a run directory; None where there is none that can be read."""
    job = _read(directory / JOB)
    return job if {"launcher", "job", "sweep", "after"} <= set(job) else None


# ---------------------------------------------------------------------- details


def _read(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one where there is none that is whole."""
    try:
        value = files.read_json(path)
    except (RunError, OSError):
        return {}
    return value if isinstance(value, dict) else {}


def _attempts(directory: Path) -> int:
    count = _read(directory / manifest.FILE).get("attempt")
    return count if isinstance(count, int) else 0


def _facts(path: Path) -> dict[str, Any]:
    if not (path / FILE).is_file():
        raise RunError(f"{path} is not a sweep: it has no {FILE}")
    try:
        facts = files.read_json(path / FILE)
    except RunError as error:
        raise RunError(f"{error}; {_remedy(path)}") from None
    version = facts.get("schema_version") if isinstance(facts, dict) else None
    if not isinstance(version, int):
        raise RunError(f"{path / FILE} is not the record of a sweep; {_remedy(path)}")
    if version > SCHEMA_VERSION:
        raise RunError(
            f"{path / FILE} has schema_version {version}, this frontrunner knows {SCHEMA_VERSION}: "
            "a newer version wrote it; use that one"
        )
    return dict(facts)


def _lines(path: Path) -> Iterable[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path} cannot be read ({error}); {_remedy(path.parent)}") from None


def _remedy(path: Path) -> str:
    return f"delete {path / FILE} and submit the same sweep again: what is done stays done"


def _cell(entry: Mapping[str, Any]) -> Cell:
    return Cell(**{**entry, "overrides": tuple(entry["overrides"])})
