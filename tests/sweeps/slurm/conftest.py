"""A simulated Slurm for tests, and sweeps of cells that cost nothing."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import frontrunner
from frontrunner.sweeps.sweep import Cell, Sweep

HERE = Path(__file__).parent


def load(name: str) -> ModuleType:
    """A module beside this file: tests are no package."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def make_cluster() -> Callable[..., AbstractContextManager[Any]]:
    """``make_cluster(**options)``: a `cluster.Cluster` in a folder of its own, which goes with it.
    Skips where Slurm cannot be simulated."""

    @contextmanager
    def make(**options: Any) -> Iterator[Any]:
        simulated = load("cluster")
        lacking = simulated.missing(options.get("accounting", False))
        if lacking:
            pytest.skip(lacking)
        with (
            tempfile.TemporaryDirectory(prefix="slurm") as folder,  # sockets want short names
            simulated.Cluster(Path(folder), **options) as cluster,
        ):
            yield cluster

    return make


@pytest.fixture(scope="session")
def running_cluster(make_cluster: Callable[..., Any]) -> Iterator[Any]:
    """A cluster for the whole session; tests take `cluster`."""
    with make_cluster(nodes=2) as cluster:
        yield cluster


@pytest.fixture
def cluster(running_cluster: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A simulated Slurm of two nodes, empty before and after; this process speaks to it."""
    for name in [n for n in os.environ if n.startswith("SLURM")]:
        monkeypatch.delenv(name)
    for name in ("SLURM_CONF", "MASTER_ADDR"):
        monkeypatch.setenv(name, running_cluster.environment[name])
    running_cluster.forget()
    yield running_cluster
    running_cluster.forget()


# ---------------------------------------------------------------------- cells that cost nothing


@pytest.fixture(scope="session")
def frozen_stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This package as it is frozen for a sweep, with `stand_in.py` as its ``frontrunner.run``."""
    folder = tmp_path_factory.mktemp("frozen")
    source = Path(frontrunner.__file__).parent
    ignore = shutil.ignore_patterns("__pycache__", "methods", "tasks", "models", "evaluators")
    shutil.copytree(source, folder / "frontrunner", ignore=ignore)
    shutil.copy(HERE / "stand_in.py", folder / "frontrunner" / "run.py")
    return folder


@pytest.fixture
def stand_ins(frozen_stand_in: Path, tmp_path: Path) -> Callable[..., Sweep]:
    """``stand_ins(name, {cell: what})``: a frozen sweep of cells for `stand_in.py`, written."""

    def make(name: str, cells: Mapping[str, Mapping[str, Any]]) -> Sweep:
        folder = tmp_path / "runs" / "sweeps" / name
        shutil.copytree(frozen_stand_in, folder / "code" / "frozen")
        made = tuple(
            Cell(
                identity=hashlib.sha256(label.encode()).hexdigest()[:16],
                directory=f"../../none/{label}",
                overrides=(),
                config={
                    "label": label,
                    "output": str(tmp_path / "runs"),
                    "method": {"_target_": "frontrunner.methods.learning.none.None"},
                    "runner": {},
                    "what": dict(what),
                },
                code="frozen",
            )
            for label, what in cells.items()
        )
        sweep = Sweep(folder, {"directory": str(tmp_path)}, made)
        sweep.write()
        return sweep

    return make
