"""A comparison as a W&B run, checked against what lies on disk afterwards."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from frontrunner.cli import main
from frontrunner.errors import ConfigError, RunError
from frontrunner.front import Front, Objective, attainment
from frontrunner.front.collect import Entries, collect
from frontrunner.front.compare import compare
from frontrunner.front.comparison import Comparison
from frontrunner.front.report import save
from frontrunner.tracking import offline, report

pytest.importorskip("wandb")


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No ranks, no keys, no server and no home directory but those a test sets."""
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))


def write(root: Path, m: int = 2, project: str | None = None) -> Path:
    """Two methods with three seeds each, one of them with dominated points."""
    objectives = tuple(Objective(f"f{j}", "max" if j == 1 else "min", "nats") for j in range(m))
    for k, label in enumerate(("plain", "better")):
        for seed in range(3):
            rng = np.random.default_rng([k, seed])
            p = rng.dirichlet(np.ones(m), size=6)
            values = 1.0 - 0.1 * k - np.sqrt(p) + rng.normal(0, 0.05 * (1 - k), p.shape)
            values[:, 1] *= -1
            info = {"label": label, "seed": seed, "cost": {"forward_passes": 100 + 900 * k}}
            run = root / "runs" / f"{label}-{seed}"
            Front(objectives, values, p, "weight", info=info).save(run / "front.json")
            record = {"status": "done", "config_hash": f"{k}{seed}" * 8}
            (run / "run.json").write_text(json.dumps(record))
            if project:
                (run / "config.yaml").write_text(f"logger: {{project: {project}, entity: null}}\n")
    return root / "runs"


def written(root: Path, runs: Path) -> tuple[Comparison, Entries, list[Path]]:
    entries = collect([runs])
    comparison = compare(entries)
    return comparison, entries, save(comparison, entries, root / "out")


def only(root: Path) -> tuple[Path, offline.Record]:
    (path,) = offline.records(root / "out")
    return path, offline.read(path, wait=5)


@pytest.mark.parametrize("m", [2, 3])
def test_the_offline_record_overlays_every_point_of_every_front(tmp_path: Path, m: int) -> None:
    c, entries, paths = written(tmp_path, write(tmp_path, m))
    report.report(c, entries, paths, directory=tmp_path / "out")
    path, record = only(tmp_path)
    assert (record["exit"], record["job_type"]) == (0, "report")
    columns, rows = offline.table(record, path, "comparison/points")
    at = {name: i for i, name in enumerate(columns)}
    logged = iter(rows)
    for e in entries:
        for i, values in enumerate(e.front.values):
            row = next(logged)
            assert [row[at["method"]], row[at["seed"]]] == [e.label, e.seed]
            assert [row[at[f"f{j}"]] for j in range(m)] == values.tolist()
            asked = [row[at[f"preference f{j}"]] for j in range(m)]
            assert asked == e.front.preferences[i].tolist()
            assert row[at["dominated"]] != e.front.nondominated()[i]
    assert next(logged, None) is None
    assert any(row[at["dominated"]] for row in rows) or m > 2


def test_the_plot_has_a_line_for_each_method(tmp_path: Path) -> None:
    c, entries, paths = written(tmp_path, write(tmp_path))
    report.report(c, entries, paths, directory=tmp_path / "out")
    path, record = only(tmp_path)
    shown = str({k: v for k, v in record["config"].items() if k.startswith("_wandb")})
    assert "comparison/fronts" in shown
    assert "comparison/scatter" in shown
    columns, rows = offline.table(record, path, "comparison/fronts_table")
    at = {name: i for i, name in enumerate(columns)}
    for label in ("plain", "better"):
        line = [[r[at["step"]], r[at["lineVal"]]] for r in rows if r[at["lineKey"]] == label]
        half = attainment.surface([e.front.minimised for e in entries if e.label == label]).points
        np.testing.assert_allclose(line, attainment.staircase(half) * [1, -1])


def test_indicators_tests_runs_and_words_are_those_of_the_comparison(tmp_path: Path) -> None:
    c, entries, paths = written(tmp_path, write(tmp_path))
    report.report(c, entries, paths, directory=tmp_path / "out")
    path, record = only(tmp_path)

    def rows(name: str) -> list[dict[str, object]]:
        columns, found = offline.table(record, path, f"comparison/{name}")
        return [dict(zip(columns, row, strict=True)) for row in found]

    for row in rows("indicators"):
        key = next(i.key for i in c.indicators if i.title == row["indicator"])
        s = c.group(str(row["method"])).statistics[key]
        assert [row["mean"], row["std"], row["95 % low"]] == [s.mean, s.std, s.low]
        assert row["best mean"] == (row["method"] in c.best(key))
    (test,), (pair,) = rows("tests"), c.pairs
    assert [test["a"], test["b"], test["p"]] == [pair.a, pair.b, pair.test.p]
    assert test["mean a - b"] == pair.difference.mean
    assert (test["verdict"], test["forward passes a : b"]) == ("too few seeds", "10 : 1")
    runs = rows("runs")
    assert [r["method"] for r in runs] == ["better"] * 3 + ["plain"] * 3  # grouped by method
    assert {r["W&B id"] for r in runs} == {f"{k}{s}" * 8 for k in (0, 1) for s in range(3)}
    assert [r["sentence"] for r in rows("words")] == [*c.conclusions, *c.warnings]
    for g in c.groups:
        assert record["summary"][f"hypervolume/{g.label}"] == g.statistics["hypervolume"].mean
    assert record["summary"]["comparison/reference_point"] == c.reference_point.tolist()


def test_the_page_and_its_files_are_in_the_record(tmp_path: Path) -> None:
    c, entries, paths = written(tmp_path, write(tmp_path))
    run_id = report.report(c, entries, paths, directory=tmp_path / "out")
    path, record = only(tmp_path)
    page = path.parent / "files" / record["summary"]["comparison/report.path"]
    assert page.read_bytes() == paths[-1].read_bytes()
    raw = path.read_bytes()
    assert f"comparison-{run_id}".encode() in raw
    for name in ("comparison.json", "comparison.md", "comparison.png", "report.html"):
        assert name.encode() in raw


def test_the_same_comparison_is_the_same_run_and_another_is_another(tmp_path: Path) -> None:
    runs = write(tmp_path)
    c, entries, paths = written(tmp_path, runs)
    ids = [report.report(c, entries, paths, directory=tmp_path / "out") for _ in range(2)]
    other = compare(entries, reference_point=[2.0, -2.0])
    ids.append(report.report(other, entries, paths, directory=tmp_path / "out"))
    assert ids[0] == ids[1] != ids[2]


def test_the_runs_own_project_is_taken_where_they_agree(tmp_path: Path) -> None:
    agreed = collect([write(tmp_path / "a", project="ours")])
    assert report.logger_of(agreed) == {"project": "ours"}
    mixed = collect([tmp_path / "a" / "runs", write(tmp_path / "b", project="theirs")])
    assert report.logger_of(mixed) == {}
    assert report.logger_of(collect([write(tmp_path / "c")])) == {}


def test_the_command_writes_offline_and_says_how_to_upload(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = write(tmp_path)
    words = ["--name", "mine", "--project", "p", "--baseline", "plain", "--out"]
    assert main(["report", str(runs), *words, str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    path, record = only(tmp_path)
    assert f"wandb sync {path.parent}" in said
    assert record["config"]["baseline"] == "plain"
    assert b"mine" in path.read_bytes()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("offline", "WANDB_MODE=offline is set: unset it, or leave out --online"),
        (None, "wandb login"),
    ],
)
def test_online_without_what_it_needs_is_one_line_before_any_work(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    setting: str | None,
    said: str,
) -> None:
    if setting is None:
        monkeypatch.delenv("WANDB_MODE")
    began = time.perf_counter()
    runs = write(tmp_path)
    assert main(["report", str(runs), "--online", "--out", str(tmp_path / "out")]) == 1
    assert time.perf_counter() - began < 20
    # wandb itself may add a line, where other tests of this process have set it up offline.
    error = capsys.readouterr().err
    (line,) = [x for x in error.splitlines() if not x.startswith("wandb:")]
    assert said in line
    assert "logger=" not in line
    assert not (tmp_path / "out").exists()


def test_a_directory_without_runs_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "no finished run" in error
    assert error.count("\n") == 1


def test_trouble_in_wandb_ends_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    def broken(*_: object, **__: object) -> None:
        raise OSError("no space\nleft")

    c, entries, paths = written(tmp_path, write(tmp_path))
    monkeypatch.setattr(wandb, "Table", broken)
    with pytest.raises(RunError, match="no space left; use `frontrunner compare`"):
        report.report(c, entries, paths, directory=tmp_path / "out")
    assert only(tmp_path)[1]["exit"] == 1


def test_other_ranks_are_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    c, entries, paths = written(tmp_path, write(tmp_path))
    monkeypatch.setenv("RANK", "1")
    assert report.report(c, entries, paths, directory=tmp_path / "out") is None
    assert offline.records(tmp_path / "out") == []


def test_missing_wandb_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="install wandb, or use `frontrunner compare`"):
        report.check()
