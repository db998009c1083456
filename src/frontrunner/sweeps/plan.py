"""From a command line to cells: composed, validated, and weighed against what is there already."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

import frontrunner.run as runs
from frontrunner import config as configuration
from frontrunner import files
from frontrunner.errors import ConfigError, FrontrunnerError, RunError
from frontrunner.sweeps.compose import compose_all
from frontrunner.sweeps.freeze import freeze
from frontrunner.sweeps.launcher import Launcher
from frontrunner.sweeps.sweep import FILE, HOME, Cell, Sweep
from frontrunner.tracking import manifest


@dataclass(frozen=True)
class Plan:
    """What a command line asks for.

    Attributes:
        overrides: as given.
        cells: without ``code``, their directories relative to ``folder``.
        configs: of the cells.
        folder: of the sweep; nothing has been written to it.
        launcher: that is to take them.
        launcher_node: its configuration.
    """

    overrides: tuple[str, ...]
    cells: tuple[Cell, ...]
    configs: tuple[DictConfig, ...]
    folder: Path
    launcher: Launcher
    launcher_node: Mapping[str, Any]


def plan(overrides: Sequence[str], name: str | None = None) -> Plan:
    """Compose and validate every cell; write nothing.

    Args:
        overrides: Hydra's, sweeps included, with ``launcher=…``.
        name: of the sweep's folder under ``<output>/sweeps``; None takes the task and a hash of
            the cells, so that the same cells are the same sweep.

    Raises:
        ConfigError: a cell that cannot run; its overrides are named where there are several.
    """
    return plan_cells(configuration.expand(overrides), overrides, name)


def plan_cells(
    words: Sequence[Sequence[str]], overrides: Sequence[str], name: str | None = None
) -> Plan:
    """As `plan`, of cells that are given by their overrides, each with the same ``launcher=…``.

    Args:
        words: of each cell.
        overrides: what the sweep is said to have been asked for.
        name: see `plan`.

    Raises:
        ConfigError: see `plan`.
    """
    configs = compose_all(words)
    first = configs[0]
    for key in ("output", "launcher"):
        if any(c.get(key) != first.get(key) for c in configs):
            raise ConfigError(f"'{key}' must be the same for every cell of a sweep")
    if any(c.fresh for c in configs):
        raise ConfigError(
            "a sweep overwrites nothing: leave out fresh=true, and remove the directories of runs "
            "that are to be done again"
        )
    launcher = build_launcher(first.get("launcher"))
    places = [runs.locate(c) for c in configs]
    chosen = _distinct([identity for _, identity in places])
    if name is not None and not re.fullmatch(r"[\w+][\w.+-]*", name):
        raise ConfigError(f"--name {name}: use letters, digits and, after the first, . + - _")
    folder = Path(first.output).resolve() / HOME / (name or _name(first, places, chosen))
    cells = tuple(
        Cell(
            identity=places[i][1],
            directory=os.path.relpath(places[i][0].resolve(), folder),
            overrides=tuple(words[i]),
            config=configuration.plain(configs[i]),
        )
        for i in chosen
    )
    plan = Plan(
        tuple(overrides),
        cells,
        tuple(configs[i] for i in chosen),
        folder,
        launcher,
        configuration.plain(first.launcher),
    )
    _validate(plan)
    launcher.check(cells)
    return plan


def build_launcher(node: Any) -> Launcher:
    """The configured launcher.

    Raises:
        ConfigError: none is chosen, or it cannot be built.
    """
    if node is None:
        names = ", ".join(f"launcher={name}" for name in configuration.options("launcher"))
        raise ConfigError(f"say who runs the cells: {names}")
    launcher = configuration.build(node)
    if not isinstance(launcher, Launcher):
        raise ConfigError(f"launcher: {node['_target_']} is not a Launcher")
    return launcher


def write(plan: Plan) -> Sweep:
    """Freeze a plan in its folder. Cells that the sweep has already stay as they were frozen.

    Raises:
        RunError: the sweep that is there is damaged.
    """
    earlier: Sweep | None = None
    if (plan.folder / FILE).is_file():
        earlier = Sweep.read(plan.folder)
    known = {c.identity: c for c in earlier.cells} if earlier else {}
    new = [c for c in plan.cells if c.identity not in known]
    if earlier and not new:
        return earlier
    facts = dict(earlier.facts) if earlier else _facts(plan)
    digest, code = freeze(plan.folder / "code", [c.config for c in new])
    facts["code"] = {**facts.get("code", {}), digest: code}
    cells = [*known.values(), *(replace(c, code=digest) for c in new)]
    sweep = Sweep(plan.folder, facts, tuple(cells))
    sweep.write()
    return sweep


def thaw(sweep: Sweep, cells: Sequence[Cell]) -> Sweep:
    """The sweep with these cells' code frozen anew, from what is installed now."""
    digest, code = freeze(sweep.sources, [c.config for c in cells])
    again = {c.identity for c in cells}
    facts = {**sweep.facts, "code": {**sweep.facts["code"], digest: code}}
    mended = (replace(c, code=digest) if c.identity in again else c for c in sweep.cells)
    sweep = Sweep(sweep.folder, facts, tuple(mended))
    sweep.write()
    return sweep


def seconds(plan: Plan, cells: Sequence[Cell]) -> tuple[float, int]:
    """How long these cells will take one after another, by earlier runs, and how many of them no
    earlier run tells of: a cell takes the median of finished runs with its label, else with its
    method, on its task."""
    known = expected(plan.folder, cells)
    told = [s for s in known if s is not None]
    return sum(told), len(known) - len(told)


def expected(folder: Path, cells: Sequence[Cell]) -> list[float | None]:
    """Seconds that each cell will take, see `seconds`; ``folder`` is what their directories are
    relative to."""
    past = _History()
    return [past.seconds(folder, cell) for cell in cells]


# ---------------------------------------------------------------------- details


def _distinct(identities: Sequence[str]) -> list[int]:
    """Index of the first cell of each identity."""
    first: dict[str, int] = {}
    for index, identity in enumerate(identities):
        first.setdefault(identity, index)
    return list(first.values())


def _name(config: DictConfig, places: Sequence[tuple[Path, str]], chosen: Sequence[int]) -> str:
    text = " ".join(sorted(places[i][1] for i in chosen))
    return f"{config.task.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _validate(plan: Plan) -> None:
    """Build every cell's parts. Of cells that differ in nothing but the number of their seed, which
    nothing but generators is made of, one is built."""
    built: dict[str, Mapping[str, Any]] = {}
    for cell, config in zip(plan.cells, plan.configs, strict=True):
        key = json.dumps(sorted(w for w in cell.overrides if not w.startswith("seed=")))
        valid = type(config.seed) is int and config.seed >= 0
        if valid and key in built and _same_but_seed(built[key], cell.config):
            continue
        try:
            runs.build(config)
        except FrontrunnerError as error:
            where = f" (in {' '.join(cell.overrides)})" if len(plan.cells) > 1 else ""
            raise type(error)(f"{error}{where}") from None
        built.setdefault(key, cell.config)


def _same_but_seed(a: Any, b: Any, seeds: tuple[int, int] | None = None) -> bool:
    """Whether configurations are equal but for numbers that are their seeds."""
    seeds = seeds or (a["seed"], b["seed"])
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_same_but_seed(a[k], b[k], seeds) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        pairs = zip(a, b, strict=False)
        return len(a) == len(b) and all(_same_but_seed(x, y, seeds) for x, y in pairs)
    return bool(a == b) or (a, b) == seeds


def _facts(plan: Plan) -> dict[str, Any]:
    return {
        "name": plan.folder.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "directory": os.getcwd(),
        "overrides": list(plan.overrides),
        "launcher": dict(plan.launcher_node),
        **{k: v for k, v in manifest.environment().items() if k != "git"},
        "code": {},
    }


class _History:
    """Seconds of finished runs, read once for each task's folder."""

    def __init__(self) -> None:
        self._runs: dict[Path, dict[str, list[tuple[Path, float]]]] = {}

    def seconds(self, folder: Path, cell: Cell) -> float | None:
        tasks = Path(os.path.normpath(folder / cell.directory)).parent
        if tasks not in self._runs:
            self._runs[tasks] = self._read(tasks)
        known, label = self._runs[tasks], str(cell.config["label"])
        if label not in known:
            known[label] = self._of_method(known, str(cell.config["method"]["_target_"]))
        return statistics.median(s for _, s in known[label]) if known[label] else None

    @staticmethod
    def _read(tasks: Path) -> dict[str, list[tuple[Path, float]]]:
        known: dict[str, list[tuple[Path, float]]] = {}
        for directory in sorted(tasks.iterdir()) if tasks.is_dir() else ():
            named = re.fullmatch(r"(.+)-s\d+-[0-9a-f]{8}", directory.name)
            try:
                total = float(manifest.RunRecord.read(directory).data["timings"]["total"])
            except (RunError, OSError, KeyError, TypeError, ValueError):
                continue
            if named:
                known.setdefault(named[1], []).append((directory, total))
        return known

    @staticmethod
    def _of_method(
        known: Mapping[str, Sequence[tuple[Path, float]]], target: str
    ) -> list[tuple[Path, float]]:
        """Runs of the labels that stand for this method; one run of each label tells."""
        name = target.rpartition(".")[2]
        found: list[tuple[Path, float]] = []
        for same in known.values():
            if same:
                with contextlib.suppress(RunError, KeyError, TypeError):
                    if files.read_json(same[0][0] / "front.json")["info"]["method"] == name:
                        found += same
        return found
