"""Plans: composed as Hydra would, validated before anything is written, frozen as they were."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from frontrunner import config
from frontrunner.errors import ConfigError, RunError
from frontrunner.sweeps import plan as plans
from frontrunner.sweeps import show, verbs
from frontrunner.sweeps.compose import compose_all
from frontrunner.sweeps.freeze import freeze
from frontrunner.sweeps.sweep import FILE, MANIFEST, Sweep
from frontrunner.tracking import manifest

Words = Callable[..., list[str]]

CELLS = [
    ["method=learning/cosmos,learning/linear_scalarization", "seed=1,2", "training.steps=5"],
    ["task=synthetic", "task.problem=zdt1,zdt2", "points=7", "method=learning/gmooar"],
    ["experiment=demo", "runner=double", "seed=2"],
    ["method=learning/gmooar", "method.region=[18,54]", "training.learning_rate=1e-2"],
    ["task=synthetic", "model.network.hidden=[8,8]", "~logger", "seed=3"],
    ["method=learning/gmooar", "++method.mu=0.2", "label='a name'"],
]


@pytest.mark.parametrize("overrides", CELLS, ids=lambda words: words[0])
def test_cells_are_composed_as_hydra_composes_them(overrides: list[str]) -> None:
    cells = config.expand(overrides)
    assert compose_all(cells) == [config.compose(cell) for cell in cells]


@pytest.mark.parametrize(
    "wrong", ["method.muu=1", "method=learning/cosmo", "seeed=1", "training.steps=[1", "x=1"]
)
def test_mistakes_are_told_as_for_one_run(wrong: str) -> None:
    with pytest.raises(ConfigError) as one:
        config.compose(["method=learning/gmooar", wrong])
    with pytest.raises(ConfigError) as all_of_them:
        compose_all([["method=learning/gmooar"], ["method=learning/gmooar", wrong]])
    assert str(all_of_them.value) == str(one.value)


def test_hydra_composes_once_for_each_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    compose = config.unresolved
    monkeypatch.setattr(config, "unresolved", lambda words: calls.append(words) or compose(words))
    cells = config.expand(["method=learning/cosmos,learning/gmooar", "seed=range(0,20)"])
    assert len(compose_all(cells)) == 40
    assert len(calls) == 2


def test_equal_cells_are_one(project: Path, words: Words) -> None:
    plan = plans.plan(["launcher=local", *words("none", "points=3,3")])
    assert len(plan.cells) == 1


def test_a_cell_that_cannot_run_is_named(project: Path, words: Words) -> None:
    with pytest.raises(ConfigError, match=r"runner\.threads=0 .*\(in .*runner\.threads=0"):
        plans.plan(["launcher=local", *words("none"), "runner.threads=1,0"])


def test_cells_that_differ_by_seed_are_validated_once(
    project: Path, words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []
    build = plans.runs.build
    monkeypatch.setattr(plans.runs, "build", lambda c: built.append(c.seed) or build(c))
    plans.plan(["launcher=local", *words("none,error", "seed=range(11,41)")])
    assert len(built) == 2
    built.clear()
    plans.plan(["launcher=local", *words("none", "label=of${seed}", "seed=range(11,41)")])
    assert len(built) == 30  # a seed in a text may be part of a file's name


def test_a_sweep_has_one_launcher(project: Path, words: Words) -> None:
    with pytest.raises(ConfigError, match="'launcher' must be the same"):
        plans.plan([*words("none"), "launcher=local", "launcher.per_device=1,2"])


def test_a_dry_run_writes_nothing(project: Path, words: Words) -> None:
    plan = plans.plan(["launcher=local", *words("none", "seed=0,1")])
    text = show.plan(plan, verbs.weigh(plan))
    assert "2 cells: 2 to start" in text
    assert "no earlier run tells" in text
    assert not (project / "runs").exists()


def test_time_is_estimated_from_earlier_runs(project: Path, words: Words) -> None:
    plan = plans.plan(["launcher=local", *words("none,error", "seed=range(0,4)")])
    for cell in plan.cells[:2]:
        directory = Path(plan.folder / cell.directory).resolve()
        directory.mkdir(parents=True)
        record = manifest.RunRecord.open(directory)
        record.done(timings={"total": 100.0 + 20 * cell.config["seed"]})
    assert plans.seconds(plan, plan.cells) == (4 * 110.0, 4)
    assert "about 4 min of one device, by earlier runs, and 4 cells none tells of" in show.plan(
        plan, verbs.weigh(plan)
    )


# ---------------------------------------------------------------------- frozen


def test_what_is_frozen_can_be_read_again(project: Path, words: Words) -> None:
    plan = plans.plan(["launcher=local", *words("none", "seed=0,1")])
    sweep = Sweep.read(plans.write(plan).folder)
    assert [c.identity for c in sweep.cells] == [c.identity for c in plan.cells]
    assert sweep.cells[1].config == config.plain(plan.configs[1])
    assert sweep.directory(sweep.cells[0]).parent == project / "runs" / "multi_digits"
    assert Sweep.read_cell(sweep.folder, sweep.cells[1].identity)[1] == sweep.cells[1]
    assert sweep.facts["packages"]["torch"]
    code = sweep.sources / sweep.cells[0].code
    assert (code / "frontrunner" / "conf" / "config.yaml").is_file()
    assert (code / "troubles_words.py").is_file()
    assert not list(code.rglob("*.pyc"))


def test_the_same_source_is_frozen_once(project: Path) -> None:
    first, _ = freeze(project / "code", [])
    second, _ = freeze(project / "code", [])
    assert first == second
    assert [p.name for p in (project / "code").iterdir() if p.is_dir()] == [first]


def test_what_was_not_committed_is_kept_as_a_patch(project: Path) -> None:
    def git(*words: str) -> None:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words]
        subprocess.run(command, check=True, capture_output=True)

    git("init")
    git("add", "lib")
    git("commit", "-m", "first")
    (project / "lib" / "troubles_words.py").write_text("WORD = 'changed'\n")
    digest, facts = freeze(project / "code", [{"_target_": "troubles.Troubles"}])
    assert (facts["dirty"], len(facts["commit"])) == (True, 40)
    assert "+WORD = 'changed'" in (project / "code" / facts["patch"]).read_text()
    assert (project / "code" / digest / "troubles_words.py").read_text() == "WORD = 'changed'\n"


def test_a_target_without_a_module_is_named(project: Path) -> None:
    with pytest.raises(ConfigError, match="no module 'nowhere'"):
        freeze(project / "code", [{"method": {"_target_": "nowhere.Method"}}])


def test_installed_packages_are_not_copied(project: Path) -> None:
    digest, _ = freeze(project / "code", [{"_target_": "torch.nn.Linear"}])
    assert [p.name for p in (project / "code" / digest).iterdir()] == ["frontrunner"]


# ---------------------------------------------------------------------- damaged


@pytest.fixture
def written(project: Path, words: Words) -> Sweep:
    return plans.write(plans.plan(["launcher=local", *words("none")]))


def test_a_newer_sweep_is_refused(written: Sweep) -> None:
    facts = json.loads((written.folder / FILE).read_text())
    (written.folder / FILE).write_text(json.dumps({**facts, "schema_version": 2}))
    with pytest.raises(RunError, match="a newer version wrote it"):
        Sweep.read(written.folder)


def test_a_damaged_manifest_is_named_by_line(written: Sweep) -> None:
    path = written.folder / MANIFEST
    path.write_text(path.read_text()[:100] + "\n")
    with pytest.raises(RunError, match=r"manifest\.jsonl, line 1 is damaged"):
        Sweep.read(written.folder)


def test_a_moved_tree_keeps_its_cells(written: Sweep, project: Path) -> None:
    (project / "runs").rename(project / "elsewhere")
    moved = Sweep.read(project / "elsewhere" / "sweeps" / written.name)
    assert moved.directory(moved.cells[0]).parent == project / "elsewhere" / "multi_digits"
