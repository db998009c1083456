"""The command: exit codes, one line per error, and nothing done twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest

from frontrunner import cli
from frontrunner.errors import ConfigError
from frontrunner.front.front import Front

COSMOS = "method=learning/cosmos"


@pytest.fixture
def call(capsys):
    """``call(*words)``: exit code, standard output and standard error of the command."""

    def run(*words):
        capsys.readouterr()
        try:
            code = cli.main(list(words))
        except SystemExit as error:
            code = error.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def one_line(err):
    (line,) = err.strip().splitlines()
    assert line.startswith("frontrunner: ")
    assert "Traceback" not in err
    return line


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny):
    """A directory with two seeds of COSMOS and one of linear scalarisation."""
    root = tmp_path_factory.mktemp("cli")
    before = os.getcwd()
    os.chdir(root)
    try:
        assert cli.main(["run", "-m", COSMOS, "seed=0,1", *tiny]) == 0
        assert cli.main(["run", "method=learning/linear_scalarization", *tiny]) == 0
    finally:
        os.chdir(before)
    return root


def of(root, label, seed=0):
    (found,) = root.glob(f"runs/*/{label}-s{seed}-*")
    return found


def times(root):
    return {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file() and p.name != ".lock"}


# ---------------------------------------------------------------------- run


def test_run_prints_where_and_how_good(finished, call, tiny, monkeypatch):
    monkeypatch.chdir(finished)
    before = times(finished)
    code, out, _ = call("run", COSMOS, *tiny)
    assert code == 0
    directory = of(finished, "cosmos")
    assert out.splitlines()[0] == str(directory.relative_to(finished))
    front = Front.load(directory / "front.json")
    assert f"{front.hypervolume():.6g}" in out
    assert "(2.5, 2.5)" in out
    assert times(finished) == before  # a second invocation does nothing


def test_a_sweep_leaves_finished_cells_alone(finished, call, tiny, monkeypatch):
    monkeypatch.chdir(finished)
    before = times(finished)
    code, _, err = call("run", "-m", COSMOS, "seed=0,1", *tiny)
    assert code == 0
    assert "2 of 2 runs done" in err
    assert {p: t for p, t in times(finished).items() if "sweeps" not in p.parts} == {
        p: t for p, t in before.items() if "sweeps" not in p.parts
    }


def test_a_sweep_over_a_glob_runs_what_it_matches(work, call, tiny):
    code, _, err = call("run", "-m", "method=glob([*/cosmos,*/linear*])", *tiny)
    assert code == 0
    assert "2 of 2 runs done" in err
    assert of(work, "cosmos")
    assert of(work, "linear")


def test_a_failing_cell_is_named_and_the_others_finish(work, call, tiny):
    rates = "training.learning_rate=1e-3,1e30"
    code, _, err = call("run", "-m", COSMOS, rates, "seed=0,1", *tiny)
    assert code == 1
    assert "2 of 4 runs done" in err
    summary = err[err.index("2 of 4 runs done") :].splitlines()[1:]
    assert len(summary) == 2
    assert all("1e+30" in line and "not finite" in line for line in summary)
    assert len(list(work.glob("runs/multi_digits/*/front.json"))) == 2


def test_an_unexpected_error_in_one_cell_does_not_stop_the_others(work, call, tiny, monkeypatch):
    from frontrunner import run as runs

    original = runs.execute

    def execute(config, overrides=(), group=None):
        if config.seed == 0:
            raise RuntimeError("out of memory")
        return original(config, overrides, group)

    monkeypatch.setattr(runs, "execute", execute)
    code, _, err = call("run", "-m", COSMOS, "seed=0,1", *tiny)
    assert code == 1
    assert "Traceback" in err  # nobody foresaw it, so it is shown
    assert "1 of 2 runs done" in err


def test_cells_of_several_processes_run_in_a_process_of_their_own(work, call, tiny, monkeypatch):
    calls = []
    monkeypatch.setattr(subprocess, "call", lambda words: calls.append(words) or len(calls) - 1)
    code, _, err = call("run", "-m", COSMOS, *tiny, "runner=ddp", "runner.devices=2", "seed=0,1")
    assert [words[:4] for words in calls] == [[sys.executable, "-m", "frontrunner.cli", "run"]] * 2
    assert [words[-1] for words in calls] == ["seed=0", "seed=1"]
    assert code == 1
    assert "1 of 2 runs done" in err
    assert "exit code 1" in err


def test_several_values_without_m_are_refused_before_anything_is_made(work, call, tiny):
    code, _, err = call("run", COSMOS, "seed=1,2", *tiny)
    assert code == 1
    assert "2 runs; add -m" in one_line(err)
    assert os.listdir(work) == []


@pytest.mark.parametrize(
    ("override", "word"),
    [("seeed=1", "'seed'"), ("method=none", "none"), ("seed=[", "seed=["), ("points=1", "ray")],
)
def test_a_run_that_cannot_be_is_one_line(override, word, work, call, tiny):
    code, _, err = call("run", COSMOS, *tiny, override)
    assert code == 1
    assert word in one_line(err)


def test_debug_shows_the_traceback(work, call, tiny):
    with pytest.raises(ConfigError, match="seeed"):
        call("--debug", "run", COSMOS, *tiny, "seeed=1")


def test_divergence_is_one_line_and_an_exit_code(work, call, tiny):
    code, _, err = call("run", COSMOS, *tiny, "training.learning_rate=1e30")
    assert code == 1
    assert "not finite at step" in one_line(err)
    (record,) = work.glob("runs/*/*/run.json")
    error = json.loads(record.read_text())["error"]
    assert error["type"] == "DivergenceError"
    assert str(error["step"]) in err


def test_a_damaged_checkpoint_is_one_line_that_names_it(finished, call, tiny, work):
    (work / "runs" / "multi_digits").mkdir(parents=True)
    directory = work / "runs" / "multi_digits" / of(finished, "cosmos").name
    (directory / "checkpoints").mkdir(parents=True)
    (directory / "checkpoints" / "last.ckpt").write_bytes(b"PK\x03\x04 and no more")
    code, _, err = call("run", COSMOS, *tiny)
    assert code == 1
    assert "checkpoints/last.ckpt is damaged" in one_line(err)
    assert call("run", COSMOS, *tiny, "fresh=true")[0] == 0


def test_the_configuration_is_printed_and_nothing_run(work, call, tiny):
    code, out, _ = call("run", "--cfg", "job", COSMOS, *tiny)
    assert code == 0
    assert "points: 3" in out
    assert os.listdir(work) == []


# ---------------------------------------------------------------------- check, list


def test_check_lists_every_cell_and_writes_nothing(work, call, tiny):
    for flag in ([], ["-m"]):
        code, out, _ = call("check", *flag, COSMOS, "seed=0,1,2", *tiny)
        assert code == 0
        assert len(out.splitlines()) == 3
        assert all(line.startswith("ok  runs") for line in out.splitlines())
    assert os.listdir(work) == []


def test_check_names_the_failing_cell_and_writes_nothing(work, call, tiny):
    code, _, err = call("check", *tiny, COSMOS, "training.steps=5,0", "seed=1")
    assert code == 1
    assert "training.steps=0 must be" in one_line(err)
    assert "(in " in err
    assert "seed=1" in err
    assert os.listdir(work) == []


def test_list_shows_every_group_with_a_line_for_each_option(work, call):
    code, out, _ = call("list")
    assert code == 0
    for word in ("method", "learning/cosmos", "multi_digits", "objectives", "wandb"):
        assert word in out
    plural, singular = (call("list", name)[1].splitlines() for name in ("methods", "method"))
    assert plural[1:] == singular[1:]
    assert "multi_digits" not in call("list", "method")[1]
    code, _, err = call("list", "methodz")
    assert code == 1
    assert "did you mean 'method'" in one_line(err)


def test_no_command_prints_the_help_and_a_wrong_one_is_refused(call):
    code, out, _ = call()
    assert code == 0
    assert "COMMAND" in out
    code, _, err = call("rnu")
    assert code == 2
    assert "rnu" in err
    code, _, err = call("list", "--nothing")
    assert code == 2
    assert "--nothing" in err


def test_what_needs_no_torch_does_not_import_it(work, environment):
    program = (
        "import sys; from frontrunner import cli; cli.main(['list']); cli.main([]);"
        "print([m for m in ('torch', 'lightning', 'matplotlib', 'wandb') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


# ---------------------------------------------------------------------- compare, export


def test_compare_prints_a_table_and_writes_a_report(finished, call, tmp_path):
    code, out, err = call("compare", str(finished / "runs"), "--out", str(tmp_path / "report"))
    assert code == 0, err
    assert "cosmos" in out
    assert "linear" in out
    report = out.strip().splitlines()[-1].removeprefix("report: ")
    assert report.startswith(str(tmp_path / "report"))
    assert os.path.getsize(report) > 1000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["RUNS", "--baseline", "cosmoz"], "cosmos"),
        (["RUNS", "--reference-point", "1,x"], "--reference-point 1,x"),
        (["RUNS", "--reference-point", "1,2,3"], "reference"),
    ],
)
def test_compare_refuses_in_one_line(words, message, finished, call, tmp_path):
    words = [str(finished / "runs") if w == "RUNS" else w for w in words]
    code, _, err = call("compare", *words, "--out", str(tmp_path / "report"))
    assert code == 1
    assert message in one_line(err)
    assert not (tmp_path / "report").exists()


def test_compare_refuses_fronts_of_different_objectives(finished, call, tmp_path):
    run = of(finished, "cosmos")
    data = json.loads((run / "front.json").read_text())
    data["objectives"][0]["name"] = "other"
    data["info"]["seed"] = 7
    (tmp_path / "front.json").write_text(json.dumps(data))
    paths = [str(run), str(tmp_path / "front.json")]
    code, _, err = call("compare", *paths, "--out", str(tmp_path / "report"))
    assert code == 1
    assert "different objectives" in one_line(err)


def test_export_writes_a_model_with_the_outputs_of_the_run(finished, call, tmp_path, monkeypatch):
    from safetensors.torch import load_file

    import frontrunner

    monkeypatch.chdir(finished)
    run = of(finished, "linear")
    out = tmp_path / "model"
    code, text, err = call("export", str(run), "--preference", "0.5,0.5", "--out", str(out))
    assert code == 0, err
    task = frontrunner.load(run).task
    network = task.network()
    network.load_state_dict(load_file(out / "model.safetensors"))
    front = Front.load(run / "front.json")
    np.testing.assert_array_equal(task.measure(network.eval(), "test"), front.values[1])
    assert f"{sum(p.numel() for p in network.parameters())} parameters" in text


@pytest.mark.parametrize(
    ("preference", "message"),
    [("0.4,0.6", "nearest"), ("0.5,0.6", "sum to 1"), ("1", "expected 2"), ("a,b", "--preference")],
)
def test_export_refuses_in_one_line_and_writes_nothing(
    preference, message, finished, call, tmp_path
):
    run = str(of(finished, "linear"))
    out = tmp_path / "model"
    code, _, err = call("export", run, "--preference", preference, "--out", str(out))
    assert code == 1
    assert message in one_line(err)
    assert not out.exists()


def test_export_of_what_is_not_a_run_is_refused(call, tmp_path):
    code, _, err = call("export", str(tmp_path), "--preference", "0.5,0.5", "--out", "x")
    assert code == 1
    assert "not a run directory" in one_line(err)


# ---------------------------------------------------------------------- around a command


def test_a_closed_pipe_ends_the_command_without_a_word(finished):
    command = [sys.executable, "-m", "frontrunner.cli", "check", COSMOS]
    source, sink = os.pipe()
    os.close(source)  # as head leaves it
    try:
        done = subprocess.run(command, cwd=finished, stdout=sink, stderr=subprocess.PIPE)
    finally:
        os.close(sink)
    assert (done.returncode, done.stderr) == (141, b"")


def test_own_warnings_are_messages_and_others_keep_their_place():
    before = warnings.formatwarning
    with cli._plain_warnings():
        own = warnings.formatwarning("a\nb", UserWarning, cli.__file__, 3)
        other = warnings.formatwarning("c", UserWarning, __file__, 3)
    assert own == "frontrunner: a b\n"
    assert f"{__file__}:3: UserWarning: c" in other
    assert warnings.formatwarning is before


def test_the_package_is_a_program(environment):
    words = [sys.executable, "-m", "frontrunner", "--version"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("frontrunner ")
