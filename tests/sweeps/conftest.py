"""Projects of a user, sweeps that settle, and a simulated Slurm."""

# The fixtures for local sweeps (make_project, project, words, settle) are written anew from their
# uses: the file that had them was overwritten by mistake. Put the original ones back if at hand.

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from frontrunner.sweeps.launcher import WAITING
from frontrunner.sweeps.status import Standing, statuses
from frontrunner.sweeps.sweep import Sweep

HERE = Path(__file__).parent

CONFIG = """\
# @package _global_
# A method with planned troubles.
label: troubles-${method.what}
method:
  _target_: troubles.Troubles
  points: ${points}
  seed: ${seed}
  what: none
  seconds: 60
"""


@pytest.fixture(scope="session")
def make_project() -> Callable[[Path], AbstractContextManager[Path]]:
    """``make_project(folder)``: a working directory with a method of a user's own, in a context."""

    @contextmanager
    def make(folder: Path) -> Iterator[Path]:
        library, options = folder / "lib", folder / "conf" / "method"
        library.mkdir(parents=True)
        options.mkdir(parents=True)
        shutil.copy(HERE / "troubles.py", library)
        (library / "troubles_words.py").write_text("WORD = 'as asked'\n")
        (options / "troubles.yaml").write_text(CONFIG)
        before = Path.cwd()
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(library))
            path = [str(library), os.environ.get("PYTHONPATH", "")]
            patch.setenv("PYTHONPATH", os.pathsep.join(p for p in path if p))
            for name in ("troubles", "troubles_words"):
                sys.modules.pop(name, None)
            os.chdir(folder)
            try:
                yield folder.resolve()
            finally:
                os.chdir(before)
                for name in ("troubles", "troubles_words"):
                    sys.modules.pop(name, None)

    return make


@pytest.fixture
def project(
    make_project: Callable[[Path], AbstractContextManager[Path]], tmp_path: Path
) -> Iterator[Path]:
    """A user's working directory."""
    with make_project(tmp_path) as folder:
        yield folder


@pytest.fixture(scope="session")
def words(tiny: list[str]) -> Callable[..., list[str]]:
    """``words(what, *more)``: overrides of cells with these troubles."""

    def overrides(what: str, *more: str) -> list[str]:
        return [*tiny, "method=troubles", f"method.what={what}", *more]

    return overrides


@pytest.fixture(scope="session")
def settle() -> Callable[..., list[Standing]]:
    """``settle(sweep)``: how its cells stand once none of them waits or runs."""

    def wait(sweep: Sweep, timeout: float = 60) -> list[Standing]:
        deadline = time.monotonic() + timeout
        while True:
            found = statuses(sweep)
            if not any(s.state in WAITING for s in found):
                return found
            assert time.monotonic() < deadline, [(s.cell.name, s.state, s.reason) for s in found]
            time.sleep(0.1)

    return wait


# ---------------------------------------------------------------------- Slurm


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
        with tempfile.TemporaryDirectory(prefix="slurm") as folder:  # sockets want short names
            with simulated.Cluster(Path(folder), **options) as cluster:
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
