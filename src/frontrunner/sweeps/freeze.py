"""The source that cells will run, copied when they are submitted: later edits are not run."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from frontrunner import files
from frontrunner.config import conf_dir
from frontrunner.errors import ConfigError
from frontrunner.tracking import manifest

LARGEST = 5_000_000  # bytes of a file that still counts as source


def freeze(folder: Path, configs: Iterable[Mapping[str, Any]]) -> tuple[str, dict[str, Any]]:
    """Copy this package, its configurations, and the users' modules that configurations name as a
    ``_target_``, to ``<folder>/<digest>/``.

    A user's module is taken with its whole package and with all modules and packages beside it,
    which it may import, unless it is installed among the packages of the environment: these are
    recorded and not copied.

    Returns:
        The digest of what was copied, and facts: ``commit`` and ``dirty`` of the repository around
        the source, ``patch`` (what was not committed, a file under ``folder``, or None).

    Raises:
        ConfigError: a target whose module does not exist.
    """
    sources = {"frontrunner": Path(__file__).resolve().parents[1]}
    for name in sorted({t.split(".")[0] for c in configs for t in _targets(c)} - set(sources)):
        sources |= {path.name: path for path in _own(name) if path.name not in sources}
    contents = [
        (Path(name) / path.relative_to(root) if root.is_dir() else Path(name), path)
        for name, root in sources.items()
        for path in _files(root)
    ]
    conf = conf_dir()
    if not conf.is_relative_to(sources["frontrunner"]):  # a checkout; lies inside when installed
        contents += [(Path("frontrunner/conf") / p.relative_to(conf), p) for p in _files(conf)]
    digest = _digest(contents)
    place, git = manifest.repository()
    facts: dict[str, Any] = {"commit": None, "dirty": None, **(git or {}), "patch": None}
    if not (folder / digest).is_dir():
        temporary = folder / f".{digest}.{os.getpid()}.tmp"
        try:
            for inside, path in contents:
                (temporary / inside).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, temporary / inside)
            os.replace(temporary, folder / digest)
        except OSError as error:  # of a full disk it names the file that is copied
            shutil.rmtree(temporary, ignore_errors=True)
            raise type(error)(error.errno, error.strerror, str(folder / digest)) from error
    if facts["dirty"]:
        facts["patch"] = f"{digest}.patch"
        files.write_text(folder / facts["patch"], manifest.patch(place) or "")
    return digest, facts


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        if isinstance(node.get("_target_"), str):
            yield node["_target_"]
        node = list(node.values())
    if isinstance(node, list):
        for value in node:
            yield from _targets(value)


def _own(name: str) -> list[Path]:
    """Files and folders of the modules beside a top-level module, itself included; none where it is
    installed."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise ConfigError(f"_target_: there is no module '{name}'; is its folder on PYTHONPATH?")
    if spec.submodule_search_locations:
        path = Path(next(iter(spec.submodule_search_locations))).resolve()
    elif spec.origin and os.path.isfile(spec.origin):
        path = Path(spec.origin).resolve()
    else:
        return []  # built in
    places = [sysconfig.get_path(k) for k in ("stdlib", "platstdlib", "purelib", "platlib")]
    if any(path.is_relative_to(Path(place).resolve()) for place in places):
        return []
    beside = path.parent.glob("*.py"), path.parent.glob("*/__init__.py")
    found = {*beside[0], *(init.parent for init in beside[1]), path}
    return sorted(p for p in found if not p.name.startswith("."))


def _files(root: Path) -> list[Path]:
    """Source files under a folder, or the file itself."""
    if root.is_file():
        return [root]
    return sorted(
        path
        for path in root.rglob("*")
        if path.is_file()
        and path.suffix not in (".pyc", ".pyo")
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
        and path.stat().st_size <= LARGEST
    )


def _digest(contents: Iterable[tuple[Path, Path]]) -> str:
    total = hashlib.sha256()
    for name, path in sorted(contents):
        total.update(f"{name.as_posix()}\0".encode())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:16]
