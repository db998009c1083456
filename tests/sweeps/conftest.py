"""Projects of users, with a method into which troubles can be planned."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from frontrunner.sweeps.launcher import WAITING
from frontrunner.sweeps.status import Standing, statuses
from frontrunner.sweeps.sweep import Sweep

HERE = Path(__file__).parent
METHOD = """\
# @package _global_
# Networks as they are, and whatever is planned.
label: troubles-${method.what}
method:
  _target_: troubles.Troubles
  points: ${points}
  seed: ${seed}
  what: none
  seconds: 60
"""


@pytest.fixture(scope="session")
def make_project(environment: Any) -> Callable[[Path], AbstractContextManager[Path]]:
    """``with make_project(folder)``: the folder is the working directory of a user whose own method
    is found by PYTHONPATH, as jobs find it."""

    @contextmanager
    def make(folder: Path) -> Iterator[Path]:
        (folder / "conf" / "method").mkdir(parents=True)
        (folder / "conf" / "method" / "troubles.yaml").write_text(METHOD)
        (folder / "lib").mkdir()
        shutil.copy(HERE / "troubles.py", folder / "lib")
        (folder / "lib" / "troubles_words.py").write_text("WORD = 'as asked'\n")
        path = f"{folder / 'lib'}{os.pathsep}{environment['PYTHONPATH']}"
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.setenv("PYTHONPATH", path)
            patch.syspath_prepend(str(folder / "lib"))
            yield folder
        for name in ("troubles", "troubles_words"):
            sys.modules.pop(name, None)

    return make


@pytest.fixture
def project(make_project: Any, tmp_path: Path) -> Iterator[Path]:
    """An empty project."""
    with make_project(tmp_path) as folder:
        yield folder


@pytest.fixture(scope="session")
def words(tiny: list[str]) -> Callable[..., list[str]]:
    """``words("kill,none", "seed=0,1")``: overrides of cells with these troubles."""

    def make(what: str, *more: str) -> list[str]:
        return ["method=troubles", f"method.what={what}", *tiny, *more]

    return make


@pytest.fixture(scope="session")
def settle() -> Callable[..., list[Standing]]:
    """``settle(sweep, seconds)``: how the cells stand once none waits or runs."""

    def wait(sweep: Sweep, seconds: float = 300.0) -> list[Standing]:
        deadline = time.monotonic() + seconds
        while True:
            began = time.monotonic()
            found = statuses(sweep)
            if not any(s.state in WAITING for s in found):
                return found
            now = time.monotonic()
            assert now < deadline, [(s.cell.name, s.state, s.reason) for s in found]
            time.sleep(max(0.1, now - began))  # the cells need the processor too

    return wait
