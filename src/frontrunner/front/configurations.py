"""Where the runs of a comparison were configured differently, and ran on different code."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from frontrunner import files
from frontrunner.errors import RunError
from frontrunner.front.collect import FRONT, RUN, Entry
from frontrunner.front.text import listed

CONFIG = "config.yaml"
ABSENT = "–"
SHOWN = 3
"""Values of one group that a cell names, if its runs do not agree."""


@dataclass(frozen=True)
class Cell:
    """What the runs of a group have for a key: a value, or several with their seeds."""

    text: str
    agrees: bool = True


@dataclass(frozen=True)
class Differences:
    """What `differences` found.

    Attributes:
        labels: the groups, in order.
        rows: dotted key -> a cell for each group. Keys outside the method come first.
        code: the same for git commits and versions, from ``run.json``.
        missing: runs without a readable ``config.yaml``.
    """

    labels: tuple[str, ...]
    rows: Mapping[str, tuple[Cell, ...]] = field(default_factory=dict)
    code: Mapping[str, tuple[Cell, ...]] = field(default_factory=dict)
    missing: tuple[Path, ...] = ()

    @property
    def beyond_method(self) -> list[str]:
        """The keys in which the groups differ and which are not the method's own."""
        return [k for k in self.rows if not k.startswith("method.")]


def differences(entries: Sequence[Entry]) -> Differences:
    """The dotted keys whose resolved values differ, between groups or within one.

    Seeds and what does not change a result (``config.NOT_IDENTITY``) are left out, and so are keys
    that repeat another, as ``method.training.steps`` repeats ``training.steps``. Runs without
    ``config.yaml`` beside their front do not count.
    """
    configs: dict[int, dict[str, Any]] = {}
    records: dict[int, dict[str, Any]] = {}
    missing = []
    for i, e in enumerate(entries):
        config = _config(e)
        if config is None:
            missing.append(e.path.parent if e.path.name == FRONT else e.path)
        else:
            configs[i] = config
        records[i] = _record(e)
    rows = _rows(entries, {i: _pruned(c) for i, c in configs.items()})
    order = sorted(rows, key=lambda key: key.startswith("method."))
    return Differences(
        labels=tuple(dict.fromkeys(e.label for e in entries)),
        rows={key: rows[key] for key in order},
        code=_rows(entries, {i: r for i, r in records.items() if r}),
        missing=tuple(missing),
    )


def _rows(
    entries: Sequence[Entry], values: Mapping[int, Mapping[str, Any]]
) -> dict[str, tuple[Cell, ...]]:
    """The keys of which not all entries that have values have the same one."""
    keys = dict.fromkeys(key for of in values.values() for key in of)
    labels = dict.fromkeys(e.label for e in entries)
    rows = {}
    for key in keys:
        said = {i: _text(of[key]) if key in of else ABSENT for i, of in values.items()}
        if len(set(said.values())) > 1:
            if key.endswith("_target_"):  # the class is enough, where it tells them apart
                short = {i: text.rpartition(".")[2] for i, text in said.items()}
                said = short if len(set(short.values())) == len(set(said.values())) else said
            groups: dict[str, list[int]] = {label: [] for label in labels}
            for i in said:
                groups[entries[i].label].append(i)
            rows[key] = tuple(
                _cell([(said[i], entries[i].seed) for i in g]) for g in groups.values()
            )
    return rows


def _cell(said: Sequence[tuple[str, int | None]]) -> Cell:
    if not said:
        return Cell("unknown")
    seeds: dict[str, list[str]] = {}
    for text, seed in said:
        seeds.setdefault(text, []).append("?" if seed is None else str(seed))
    if len(seeds) == 1:
        return Cell(next(iter(seeds)))
    parts = [f"{text} (seed{'s' * (len(s) > 1)} {listed(s)})" for text, s in seeds.items()]
    more = [f"{len(parts) - SHOWN} more values"] if len(parts) > SHOWN else []
    return Cell("; ".join([*parts[:SHOWN], *more]), agrees=False)


# ---------------------------------------------------------------------- what runs say


def _config(e: Entry) -> dict[str, Any] | None:
    """The run's resolved configuration by dotted key; None if there is none to read."""
    import yaml

    path = e.path.parent / CONFIG
    if e.path.name != FRONT or not path.is_file():
        return None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    except (yaml.YAMLError, OSError, UnicodeDecodeError):
        return None
    return dict(_dotted(content)) if isinstance(content, dict) else None


def _dotted(node: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from _dotted(value, f"{name}.")
        else:
            yield name, value


def _pruned(config: Mapping[str, Any]) -> dict[str, Any]:
    from frontrunner.config import NOT_IDENTITY

    kept = {}
    for key, value in config.items():
        ignored = any(key == name or key.startswith(f"{name}.") for name in NOT_IDENTITY)
        if ignored or key.rpartition(".")[2] == "seed":
            continue
        repeated = key.partition(".")[2]
        if repeated in config and config[repeated] == value:
            continue
        kept[key] = value
    return kept


def _record(e: Entry) -> dict[str, Any]:
    """Commit, Python, platform and packages of ``run.json``, in words."""
    path = e.path.parent / RUN
    if e.path.name != FRONT or not path.is_file():
        return {}
    try:
        record = files.read_json(path)
    except RunError:
        return {}
    if not isinstance(record, dict):
        return {}
    said: dict[str, Any] = {}
    git = record.get("git")
    if isinstance(git, dict) and git.get("commit"):
        said["git commit"] = str(git["commit"])[:12] + (" (edited)" if git.get("dirty") else "")
    for key in ("python", "platform", "device"):
        if record.get(key) is not None:
            said[key] = record[key]
    packages = record.get("packages")
    if isinstance(packages, dict):
        said |= {str(name): version or "not installed" for name, version in packages.items()}
    return said


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)
