"""The worked example of CONTRIBUTING.md does what the page says, as it is printed there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import frontrunner
from frontrunner.cli import main

PAGE = Path(__file__).parents[1] / "CONTRIBUTING.md"
SMALL = ["training.steps=20", "training.rounds=2", "points=5", "logger=none"]


def blocks() -> dict[str, str]:
    """The page's code blocks that carry a name: name -> text."""
    found = re.findall(r"^```\w+ (\S+)\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return dict(found)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with the page's files in it, as the working directory."""
    for name, text in blocks().items():
        if "." in name:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "p_norm", raising=False)
    return tmp_path


def test_the_commands_of_the_page_list_check_and_run_the_method(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = [shlex.split(line) for line in blocks()["try"].splitlines()]
    assert [words[:2] for words in commands] == [["PYTHONPATH=.", "frontrunner"]] * 3
    listing, checking, running = (words[2:] for words in commands)

    assert main(listing) == 0
    assert "Weighted p-norm scalarisation" in " ".join(capsys.readouterr().out.split())
    assert main(checking) == 0
    assert main([*running, *SMALL, "output=here"]) == 0

    (record,) = project.glob("here/*/*/run.json")
    done = frontrunner.load(record.parent)
    assert record.parent.name.startswith("p-norm-8-s1")
    assert len(done.front) == 5
    assert np.isfinite(done.front.values).all()
    assert done.front.hypervolume() > 0
    assert done.record["switches"] == {"ideal": "fixed, not updated in training"}


def test_the_test_of_the_page_passes(project: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_p_norm.py"],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(PAGE.parent / "src")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


def test_the_files_of_the_page_are_in_the_projects_style(project: Path) -> None:
    settings = ["--no-cache", "--config", str(PAGE.parent / "pyproject.toml")]
    for words in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *words, *settings, "p_norm.py", "test_p_norm.py"],
            cwd=project,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout
