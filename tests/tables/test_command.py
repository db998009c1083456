"""The command, with runs that are really done."""

import json
import re

import pytest

from frontrunner.cli import main
from frontrunner.tables import carry_out

TINY = [
    "task=multi_digits",
    "task.sizes=[200,50,50]",
    "training.steps=6",
    "training.rounds=1",
    "training.batch_size=32",
    "points=3",
    "runner.threads=1",
    "runner.accelerator=cpu",
]


@pytest.fixture
def file(written):
    """A table of two runs that take half a second, and of changes to it."""

    def write(**changes):
        one = {"smoke": {"seeds": 1}}
        return str(written(**{"overrides": TINY, "scales": one, **changes}))

    return write


def table(*words: str) -> int:
    return main(["table", *words, "--scale", "smoke"])


def test_missing_runs_are_done_and_finished_ones_are_read(file, capsys) -> None:
    path = file()
    assert table(path) == 0
    told = capsys.readouterr()
    assert "2 of 2 runs done" in told.err
    assert "linear" in told.out
    assert "reference point (2.5, 2.5)" in told.out
    assert table("paper/table") == 0  # by name, and nothing runs again
    again = capsys.readouterr()
    assert "runs done" not in again.err
    assert again.out == told.out


def test_what_fails_is_told_in_its_cell_and_tried_again(file, capsys, work) -> None:
    rows = {
        "COSMOS": ["method=learning/cosmos"],
        "missing data": ["method=learning/cosmos", "task=compas", "task.path=none.csv"],
        "no such method": ["method=learning/cosmo"],
    }
    overrides = [word for word in TINY if not word.startswith("task.sizes")]
    path = file(rows=rows, overrides=overrides)
    assert table(path) == 1
    told = capsys.readouterr()
    assert "1 of 1 runs done" in told.err
    assert "2 of 3 cells lack a seed" in told.err
    assert re.search(r"cannot run: .*none\.csv", told.out)
    assert "did you mean 'learning/cosmos'" in told.out
    assert table(path) == 1


def test_a_dry_run_lists_runs_with_times_of_earlier_ones_and_starts_none(file, capsys) -> None:
    path = file()
    assert table(path, "--dry-run") == 0
    told = capsys.readouterr().out
    assert "2 runs: 2 to run" in told
    assert "no earlier run tells how long" in told
    assert table(path) == 0
    more = file(scales={"smoke": {"seeds": 2}})
    capsys.readouterr()
    assert table(more, "--dry-run") == 0
    told = capsys.readouterr().out
    assert "4 runs: 2 done, 2 to run" in told or "4 runs: 2 to run, 2 done" in told
    assert "about" in told
    assert "-s1-" in told


def test_no_run_prints_what_there_is_and_says_that_it_is_not_all(file, capsys) -> None:
    assert table(file(), "--no-run") == 1
    assert "planned" in capsys.readouterr().out


def test_save_writes_the_table_beside_its_file(file, capsys, work) -> None:
    assert table(file(), "--save") == 0
    folder = work / "experiments" / "paper" / "results"
    assert "| COSMOS" in (folder / "table-smoke.md").read_text()
    numbers = json.loads((folder / "table-smoke.json").read_text())
    assert numbers["cells"][0]["values"].keys() == {"0"}


def test_what_follows_runs_after_what_it_follows(file, capsys) -> None:
    rows = {
        "COSMOS": ["method=learning/cosmos"],
        "as long": {
            "follows": "COSMOS",
            "overrides": ["method=learning/linear_scalarization", "training.steps=<cost.steps>"],
        },
    }
    columns = {"steps": {"value": {"name": "fact", "path": "cost.steps"}, "digits": 0}}
    assert table(file(rows=rows, columns=columns)) == 0
    told = capsys.readouterr()
    assert told.err.count("1 of 1 runs done") == 2
    lines = [line.split() for line in told.out.splitlines()]
    assert ["as", "long", "6"] in lines


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["paper/tabel"], "no table 'paper/tabel' under experiments/; did you mean 'paper/table'"),
        (["experiments/paper/none.yaml"], "does not exist"),
        (["paper/table", "seed=3"], "seed=3: a table's runs are what its file says"),
        (["paper/table", "--format", "html"], "--format html; valid"),
        (["paper/table", "--submit"], "--submit needs a launcher"),
    ],
)
def test_wrong_words_are_one_line(file, capsys, words, message) -> None:
    file()
    assert table(*words) == 1
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


def test_tables_are_listed_with_title_and_scales(file, capsys) -> None:
    file()
    assert main(["list", "tables"]) == 0
    assert "paper/table  A table (smoke)" in capsys.readouterr().out


def test_an_unknown_scale_is_named(file, capsys) -> None:
    assert main(["table", file(), "--scale", "gpu"]) == 1
    assert "--scale gpu; did you mean 'cpu'" in capsys.readouterr().err


def test_runs_go_through_a_launcher(file, capsys) -> None:
    path = file(rows={"COSMOS": ["method=learning/cosmos"]})
    assert table(path, "launcher=local") == 0
    assert "COSMOS" in capsys.readouterr().out


def test_ctrl_c_leaves_finished_runs_and_the_same_command_goes_on(
    file, capsys, monkeypatch
) -> None:
    import frontrunner.run as run_module

    path, real = file(), run_module.execute
    calls = []

    def interrupted(config, words):
        calls.append(words)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(config, words)

    monkeypatch.setattr(run_module, "execute", interrupted)
    assert table(path) == 130
    assert "the same command continues" in capsys.readouterr().err
    assert table(path) == 0
    assert "1 of 1 runs done" in capsys.readouterr().err


def test_all_configurations_are_validated_before_the_first_run(file, monkeypatch) -> None:
    order = []
    real = carry_out.refused
    monkeypatch.setattr(
        carry_out, "refused", lambda configs: order.append(len(configs)) or real(configs)
    )
    here = carry_out._here
    monkeypatch.setattr(
        carry_out, "_here", lambda runs, say: order.append("run") or here(runs, say)
    )
    assert table(file()) == 0
    assert order == [2, "run"]


def test_200_runs_that_exist_are_printed_without_torch(
    written, runs, work, environment, tmp_path_factory
) -> None:
    import subprocess
    import sys

    from frontrunner.tables.grid import Grid
    from frontrunner.tables.reading import load

    path = written(scales={"smoke": {"seeds": 100}})
    grid = Grid(load(path, "smoke"), work / "runs")
    points = [[i / 36, 1 - i / 36] for i in range(36)]
    for row in ("COSMOS", "linear"):
        for entry in runs.of(grid, row):
            runs.finish(entry, points)
    code = (
        "import sys, time, frontrunner.cli as cli; start = time.process_time();"
        f"code = cli.main(['table', {str(path)!r}, '--scale', 'smoke', '--output', 'runs',"
        " '--format', 'csv']); print(code, 'torch' in sys.modules,"
        " time.process_time() - start, file=sys.stderr)"
    )
    grid = Grid(load(path, "smoke"), "runs")  # remembered: relative, as on the command line
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=work,
        env={**environment, **{k: v for k, v in __import__("os").environ.items()}}
        | {"PYTHONPATH": environment["PYTHONPATH"]},
        capture_output=True,
        text=True,
    )
    code_, torch, seconds = done.stderr.split()[-3:]
    assert (code_, torch) == ("0", "False"), done.stderr
    assert float(seconds) < 2.0
    rows = done.stdout.splitlines()
    assert [row.split(",")[3] for row in rows[1:]] == ["100", "100"]
