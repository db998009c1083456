"""The package as a whole: its floors, its configuration tree, its metadata, what it imports."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hydra.utils import get_object
from packaging.requirements import Requirement

import frontrunner
from frontrunner import config
from frontrunner.front.front import Front
from frontrunner.front.objective import Objective

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"

# The floors of the design: imports go down, or stay on a floor. A new room is entered here.
FLOORS = {
    "__main__": 6,
    "cli": 6,
    "cli_compare": 6,
    "cli_sweeps": 6,
    "cli_tables": 6,
    "sweeps": 5,
    "tables": 5,
    "run": 4,
    "methods": 3,
    "evaluators": 3,
    "tasks": 2,
    "models": 2,
    "pareto_sets": 2,
    "runner": 2,
    "tracking": 2,
    "weights": 1,
    "sparse": 1,
    "coresets": 1,
    "front": 1,
    "preferences": 1,
    "config": 1,
    "files": 1,
    "seeds": 1,
    "errors": 1,
}


# ---------------------------------------------------------------------- floors


@dataclass(frozen=True)
class Import:
    """``source`` imports ``name`` from ``target``; ``eager`` when importing ``source`` does it."""

    source: str
    target: str
    name: str | None
    eager: bool


def modules() -> dict[str, Path]:
    """Dotted name -> file, of every module of the package."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(source: str, text: str, known: Mapping[str, object]) -> Iterator[Import]:
    """Every import of the package's own modules in ``text``, wherever it stands."""

    def visit(node: ast.AST, eager: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "frontrunner":
                    yield Import(source, alias.name, None, eager)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}: imports are absolute"
            module = node.module or ""
            if module.split(".")[0] == "frontrunner":
                for alias in node.names:
                    whole = f"{module}.{alias.name}"
                    if whole in known:
                        yield Import(source, whole, None, eager)
                    else:
                        yield Import(source, module, alias.name, eager)
        typing = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        lazy = typing or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, eager and not lazy)

    yield from visit(ast.parse(text), True)


def room(module: str) -> str:
    """``methods`` for ``frontrunner.methods.learning.cosmos``; the package itself has none."""
    return module.split(".")[1] if "." in module else ""


def upward(found: Iterator[Import] | list[Import]) -> list[str]:
    """The imports that go up a floor, and those of another file's private names."""
    wrong = []
    for item in found:
        here, there = room(item.source), room(item.target)
        if not here:  # the package's own names are a façade over all floors
            continue
        if not there or FLOORS[there] > FLOORS[here]:
            wrong.append(f"{item.source} imports {item.target}, which is on a floor above")
        if item.name and item.name.startswith("_") and not item.name.startswith("__"):
            wrong.append(f"{item.source} imports {item.target}.{item.name}, which is private")
    return wrong


def circle(graph: Mapping[str, set[str]]) -> list[str] | None:
    """A closed path of the graph, or None."""
    done: set[str] = set()

    def walk(node: str, path: list[str]) -> list[str] | None:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return None
        for after in sorted(graph.get(node, ())):
            if found := walk(after, [*path, node]):
                return found
        done.add(node)
        return None

    return next((found for node in sorted(graph) if (found := walk(node, []))), None)


@pytest.fixture(scope="module")
def package() -> list[Import]:
    known = modules()
    return [i for name, path in known.items() for i in imports(name, path.read_text(), known)]


def test_every_room_has_a_floor() -> None:
    rooms = {room(name) for name in modules()} - {""}
    assert rooms <= set(FLOORS), f"no floor for {sorted(rooms - set(FLOORS))}"


def test_imports_only_go_down_the_floors(package: list[Import]) -> None:
    assert len(package) > 100
    assert upward(package) == []


def test_no_room_imports_one_that_imports_it(package: list[Import]) -> None:
    graph: dict[str, set[str]] = {}
    for item in package:
        here, there = room(item.source), room(item.target)
        if here and here != there:
            graph.setdefault(here, set()).add(there)
    assert circle(graph) is None


def test_no_file_is_imported_while_it_is_being_imported(package: list[Import]) -> None:
    graph: dict[str, set[str]] = {}
    for item in package:
        if item.eager:
            graph.setdefault(item.source, set()).add(item.target)
    assert circle(graph) is None


@pytest.mark.parametrize(
    ("source", "text", "complaint"),
    [
        ("frontrunner.front.x", "from frontrunner.run import load", "a floor above"),
        ("frontrunner.front.x", "def f():\n    import frontrunner.tasks.base", "a floor above"),
        ("frontrunner.tasks.x", "from frontrunner import Front", "a floor above"),
        ("frontrunner.run", "from frontrunner.front.front import _check", "private"),
    ],
)
def test_a_planted_import_is_found(source: str, text: str, complaint: str) -> None:
    found = upward(list(imports(source, text, modules())))
    assert len(found) == 1
    assert complaint in found[0]


def test_a_planted_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}}) is None


# ---------------------------------------------------------------------- light commands

HEAVY = ("torch", "lightning", "pytorch_lightning", "transformers", "wandb", "sklearn", "datasets")


def heavy_after(program: str, where: Path) -> list[str]:
    """Which heavy packages a fresh interpreter has loaded after ``program``."""
    ending = f"\nimport json, sys\nprint(json.dumps([h for h in {HEAVY!r} if h in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", program + ending],
        cwd=where,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout.splitlines()[-1]))


def small_front(path: Path, seed: int) -> None:
    front = Front(
        objectives=(Objective("left"), Objective("right")),
        values=np.array([[0.1, 0.9 - seed / 20], [0.5, 0.4], [0.9, 0.1]]),
        reference_point=np.array([1.0, 1.0]),
        info={"label": "small", "seed": seed},
    )
    front.save(path)


@pytest.mark.parametrize(
    "program",
    [
        "import frontrunner",
        "from frontrunner.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit: pass",
        "from frontrunner.cli import main\nassert main(['list']) == 0",
        "from frontrunner.cli import main\n"
        "assert main(['compare', 'a/front.json', 'b/front.json', '--out', 'out']) == 0",
    ],
    ids=["import", "help", "list", "compare"],
)
def test_light_commands_import_nothing_heavy(program: str, tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        small_front(tmp_path / name / "front.json", seed)
    assert heavy_after(program, tmp_path) == []


def test_a_heavy_import_would_be_noticed(tmp_path: Path) -> None:
    (tmp_path / "wandb.py").write_text("")
    assert heavy_after("import sys\nsys.path.insert(0, '.')\nimport wandb", tmp_path) == ["wandb"]


# ---------------------------------------------------------------------- configuration tree


def yaml_files() -> list[Path]:
    return sorted(config.conf_dir().rglob("*.yaml"))


def targets(node: Any) -> Iterator[str]:
    """Every ``_target_`` of a configuration."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield str(node["_target_"])
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from targets(child)


def test_the_configuration_tree_is_the_checkouts() -> None:
    assert config.conf_dir() == ROOT / "conf"


@pytest.mark.parametrize("group", config.groups())
def test_every_option_has_a_line_that_describes_it(group: str) -> None:
    described = config.describe(group)
    assert described
    for option, text in described.items():
        assert text, f"conf/{group}/{option}.yaml begins with no comment"
        # Run in the checkout, the examples for clusters are options too.
        places = [root / group / f"{option}.yaml" for root in (config.conf_dir(), ROOT / "slurm")]
        first = next(p for p in places if p.is_file()).read_text().splitlines()
        opening = next(line for line in first if "@package" not in line)
        assert opening == f"# {text}", f"conf/{group}/{option}.yaml: the comment is not first"


def test_every_target_of_the_configuration_exists() -> None:
    found = {t for path in yaml_files() for t in targets(yaml.safe_load(path.read_text()))}
    assert len(found) > 10
    for target in sorted(found):
        assert callable(get_object(target)), target


# ---------------------------------------------------------------------- metadata


def project() -> dict[str, Any]:
    with open(ROOT / "pyproject.toml", "rb") as handle:
        return tomllib.load(handle)["project"]


def locked() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonical(name): pin for name, pin in pairs}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_one_version_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    changes = (ROOT / "CHANGELOG.md").read_text()
    released = re.findall(r"^## \[(\d[^\]]*)\]", changes, re.MULTILINE)
    assert frontrunner.__version__ == project()["version"] == citation["version"] == released[0]


def test_the_lock_pins_every_requirement_inside_its_range() -> None:
    extras = project()["optional-dependencies"].values()
    wanted = [*project()["dependencies"], *(r for extra in extras for r in extra)]
    pins = locked()
    for text in wanted:
        requirement = Requirement(text)
        pin = pins.get(canonical(requirement.name))
        assert pin, f"requirements.lock has no pin for {requirement.name}"
        assert requirement.specifier.contains(pin), f"{text}, but the lock says {pin}"


def test_the_lock_serves_every_machine() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"://|@|\+|(^|\s)/", text)
