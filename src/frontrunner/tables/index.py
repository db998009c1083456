"""Where runs are that a table needs, without composing each of their configurations again.

Composing takes tens of milliseconds a run, and a table that only reads runs asks for hundreds. What
a list of overrides stands for depends on nothing but the configuration tree and this package, so it
is remembered under a digest of both.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from frontrunner import config as configuration
from frontrunner import files
from frontrunner.errors import FrontrunnerError, RunError

KEPT = 20  # indices of earlier trees


@dataclass(frozen=True)
class Place:
    """Where a run is, or why it cannot be composed.

    Attributes:
        directory: of the run.
        identity: of its configuration.
        problem: empty where there is none.
    """

    directory: Path = Path()
    identity: str = ""
    problem: str = ""


def places(cells: Sequence[Sequence[str]]) -> list[Place]:
    """Where each list of overrides runs."""
    path = files.cache_dir() / "tables" / f"{_digest()}.json"
    known = _read(path)
    keys = [json.dumps(list(cell)) for cell in cells]
    new = {key: cell for key, cell in zip(keys, cells, strict=True) if key not in known}
    failed: dict[str, str] = {}
    for key, place in zip(new, _locate(list(new.values())), strict=True):
        if place.problem:
            failed[key] = place.problem  # not remembered: a file may be there next time
        else:
            known[key] = [str(place.directory), place.identity]
    if len(new) > len(failed):
        _write(path, known)
    return [
        Place(problem=failed[key]) if key in failed else Place(Path(known[key][0]), known[key][1])
        for key in keys
    ]


def _locate(cells: Sequence[Sequence[str]]) -> list[Place]:
    if not cells:
        return []
    import frontrunner.run as runs
    from frontrunner.sweeps.compose import compose_all

    try:
        return [Place(*runs.locate(config)) for config in compose_all(cells)]
    except FrontrunnerError:
        pass
    found = []  # one of them cannot be composed: each by itself says which, and why
    for cell in cells:
        try:
            found.append(Place(*runs.locate(configuration.compose(cell))))
        except FrontrunnerError as error:
            found.append(Place(problem=str(error)))
    return found


def _digest() -> str:
    """Of every file that decides what overrides stand for."""
    package = Path(configuration.__file__)
    roots = [configuration.conf_dir(), Path.cwd() / "conf", Path.cwd() / "slurm"]
    whole = hashlib.sha256(package.read_bytes())
    for root in roots:
        for path in _yaml(root):
            whole.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return whole.hexdigest()[:16]


def _yaml(root: Path) -> Iterable[Path]:
    return sorted(root.rglob("*.yaml")) if root.is_dir() else ()


def _read(path: Path) -> dict[str, list[str]]:
    try:
        found = files.read_json(path)
    except (RunError, OSError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(path: Path, known: dict[str, list[str]]) -> None:
    """Best effort: without it the next table only takes longer."""
    try:
        files.write_json(path, known)
        earlier = sorted(path.parent.glob("*.json"), key=lambda p: p.stat().st_mtime)
        for old in earlier[:-KEPT]:
            old.unlink(missing_ok=True)
    except OSError:
        pass
