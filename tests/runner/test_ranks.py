"""Several processes of one run: they divide the work, and end together."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from frontrunner import files
from frontrunner.errors import ConfigError, RunError
from frontrunner.front.front import Front
from frontrunner.runner import ranks as processes
from frontrunner.runner.place import Place
from frontrunner.runner.runner import Runner

COSMOS = "method=learning/cosmos"
LINEAR = "method=learning/linear_scalarization"
TWO = ("runner=ddp", "runner.devices=2")


@pytest.fixture(scope="session")
def ranked(environment):
    """``ranked(words, cwd, world, moments={}, kind="torchrun")``: exit codes of ``world`` processes
    of the command, see `together.py`."""
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("together.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    )

    def run(words, cwd, world, moments=None, kind="torchrun"):
        cwd.mkdir(parents=True, exist_ok=True)
        job = {"words": ["run", *words], "cwd": str(cwd), "world": world}
        job |= {"moments": moments or {}, "kind": kind}
        server.stdin.write(json.dumps(job) + "\n")
        server.stdin.flush()
        return json.loads(server.stdout.readline())

    yield run
    server.stdin.close()
    server.wait(timeout=20)


def only_run(folder):
    (directory,) = (folder / "runs").glob("*/*")
    return directory


def record(folder):
    return files.read_json(only_run(folder) / "run.json")


def result(folder):
    """All of ``front.json`` that is not cost."""
    front = files.read_json(only_run(folder) / "front.json")
    for point in front["points"]:
        del point["cost"]
    del front["info"]["cost"]
    return front


def said(folder, rank):
    return (folder / f"stderr.{rank}.txt").read_text()


def indices(path):
    return [json.loads(line)["index"] for line in path.read_text().splitlines()[1:]]


@pytest.fixture(scope="module")
def pruned(ranked, pruning, small_llama, tmp_path_factory):
    """Overrides of a run that prunes at five preferences, and the folder of it in one process."""
    words = pruning(small_llama, "method=pruning/wanda", "method.calibration=weighted", "points=5")
    folder = tmp_path_factory.mktemp("one")
    assert ranked(words, folder, 1) == [0], said(folder, 0)
    return words, folder


# ---------------------------------------------------------------------- dividing the points


@pytest.mark.parametrize(("world", "kind"), [(2, "srun"), (3, "torchrun")])
def test_points_are_divided_and_the_front_is_that_of_one_process(
    ranked, pruned, tmp_path, world, kind
):
    words, one = pruned
    assert ranked(words, tmp_path, world, kind=kind) == [0] * world, said(tmp_path, 0)
    assert result(tmp_path) == result(one)
    directory = only_run(tmp_path)
    assert directory.name == only_run(one).name
    assert indices(directory / "points.jsonl") == list(range(0, 5, world))
    for rank in range(1, world):
        assert indices(directory / f"points.{rank}.jsonl") == list(range(rank, 5, world))
    assert record(tmp_path)["attempt"] == 1
    # torch may log that the store is gone.
    assert "frontrunner" not in said(tmp_path, 1).replace("/frontrunner", "")
    assert "Traceback" not in said(tmp_path, 1)


def test_trained_in_two_processes_killed_while_scoring_and_continued_by_three(
    ranked, tiny, tmp_path
):
    words = [COSMOS, *tiny, "points=7", *TWO]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert ranked(words, whole, 2) == [0, 0], said(whole, 0)
    assert record(whole)["device"] == "2 x cpu"
    codes = ranked(words, killed, 2, {"1": ["kill", "point", 2]})
    assert codes[0] not in (0, -9), said(killed, 0)
    assert codes[1] == -9
    assert record(killed)["status"] == "failed"
    assert "process 1 of 2 gives no sign of life" in record(killed)["error"]["message"]
    before = indices(only_run(killed) / "points.1.jsonl")
    assert before == [1, 3]
    # The fit is on disk; another number of processes only divides what is left to score.
    assert ranked(words, killed, 3) == [0, 0, 0], said(killed, 0)
    assert result(killed) == result(whole)
    logs = only_run(killed).glob("points*.jsonl")
    assert sorted(i for log in logs for i in indices(log)) == list(range(7))


def test_one_process_continues_from_the_points_of_several(ranked, pruned, tmp_path):
    words, one = pruned
    codes = ranked(words, tmp_path, 3, {"2": ["full", "point", 1], "0": ["kill", "front.json", 1]})
    assert codes[0] == -9
    scored = [indices(path) for path in only_run(tmp_path).glob("points*.jsonl")]
    assert sorted(i for one_log in scored for i in one_log) == list(range(5))
    assert ranked(words, tmp_path, 1) == [0], said(tmp_path, 0)
    assert result(tmp_path) == result(one)
    assert [indices(path) for path in only_run(tmp_path).glob("points*.jsonl")] == scored


# ---------------------------------------------------------------------- dividing the training


def test_members_of_a_population_are_divided(ranked, tiny, tmp_path):
    words = [LINEAR, *tiny, "points=5"]
    one, several = tmp_path / "one", tmp_path / "several"
    assert ranked(words, one, 1) == [0], said(one, 0)
    assert ranked([*words, *TWO, "runner.shard=members"], several, 2) == [0, 0], said(several, 0)
    expected = Front.load(only_run(one) / "front.json").values
    found = Front.load(only_run(several) / "front.json").values
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert record(several)["cost"]["forward_passes"] == record(one)["cost"]["forward_passes"]


def test_what_has_no_members_cannot_divide_them(ranked, tiny, tmp_path):
    codes = ranked([COSMOS, *tiny, *TWO, "runner.shard=members"], tmp_path, 2)
    assert 0 not in codes
    assert "linear_scalarization" in record(tmp_path)["error"]["message"]


def test_more_processes_than_devices_do_not_train(ranked, tiny, tmp_path):
    assert 0 not in ranked([COSMOS, *tiny], tmp_path, 2)
    assert "runner=ddp" in record(tmp_path)["error"]["message"]


# ---------------------------------------------------------------------- ending together


def test_an_error_of_another_process_is_the_error_of_the_run(ranked, pruned, tmp_path):
    words = [*pruned[0], "points=41"]  # a log of twenty points is too long for such a disk
    start = time.monotonic()
    assert ranked(words, tmp_path, 2, {"1": ["full", "point", 1]}) == [1, 1]
    assert time.monotonic() - start < 80  # and not after those 100 s that they may take to meet
    error = record(tmp_path)["error"]
    assert error["type"] == "RunError"
    assert "process 1 of 2 failed: RunError: point " in error["message"]


def test_ctrl_c_of_the_first_process_ends_the_others(ranked, pruned, tmp_path):
    words, _ = pruned
    assert ranked(words, tmp_path, 2, {"0": ["interrupt", "point", 1]}) == [130, 1]
    assert record(tmp_path)["error"]["type"] == "KeyboardInterrupt"
    # torch may log that the store is gone.
    assert "frontrunner" not in said(tmp_path, 1).replace("/frontrunner", "")
    assert "Traceback" not in said(tmp_path, 1)


def test_diverged_training_is_recorded_as_such(ranked, tiny, tmp_path):
    words = [COSMOS, *tiny, *TWO, "training.learning_rate=1e30"]
    assert 0 not in ranked(words, tmp_path, 2)
    assert "not finite" in record(tmp_path)["error"]["message"]


def test_a_finished_run_is_left_alone_by_all(ranked, pruned, tmp_path):
    words, one = pruned
    shutil.copytree(one / "runs", tmp_path / "runs")
    before = (only_run(tmp_path) / "run.json").read_bytes()
    assert ranked(words, tmp_path, 2) == [0, 0]
    assert (only_run(tmp_path) / "run.json").read_bytes() == before


ALONE = """
import os, signal, sys, time
from frontrunner.errors import ConfigError
from frontrunner.runner import ranks as processes
processes.GRACE = 2.0
def failed(error):
    print("recorded", error, flush=True)
with processes.together(2, "test", failed) as ranks:
    print("child", ranks.gather(os.getpid())[1], flush=True)
    if ranks.rank == 1:
        {what}
    while True:
        {waits}
"""


def started(environment, what="pass", waits="time.sleep(0.1)"):
    """A script that starts a second process by itself, and the number of that process."""
    script = subprocess.Popen(
        [sys.executable, "-c", ALONE.format(what=what, waits=waits)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Whoever started these tests may ignore Ctrl-C, as what a shell script starts with & does.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    return script, int(script.stdout.readline().split()[1])


def is_gone(pid, within=20.0):
    end = time.monotonic() + within
    while time.monotonic() < end:
        try:
            if "Z" in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]:
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "process 1 of 2 was ended by signal 9"),
        ("os._exit(3)", "process 1 of 2 ended with exit code 3"),
        ("raise ConfigError('wrong')", "process 1 of 2 failed: ConfigError: wrong"),
    ],
)
def test_first_process_says_how_one_that_it_started_ended(environment, what, message):
    script, _ = started(environment, what)
    out, err = script.communicate(timeout=120)
    assert script.returncode == 1
    assert f"recorded {message}" in out
    assert f"RunError: {message}" in err


def test_a_process_that_cannot_be_interrupted_is_ended(environment):
    # Held in native code, as by a collective that its partner has left.
    forever = "__import__('ctypes').PyDLL(None).usleep(10**6); signal.pause()"
    blocked = f"signal.signal(signal.SIGINT, signal.SIG_IGN); {forever}"
    script, _ = started(environment, "os._exit(3)", blocked)
    out, err = script.communicate(timeout=120)
    assert script.returncode == 1
    assert "recorded process 1 of 2 ended with exit code 3" in out
    assert "frontrunner: process 1 of 2 ended" in err


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_outlives_the_first_process(environment, number):
    script, child = started(environment)
    os.kill(script.pid, number)
    script.communicate(timeout=120)
    assert is_gone(child)


# ---------------------------------------------------------------------- who is who

TORCHRUN = {"RANK": "3", "LOCAL_RANK": "1", "GROUP_RANK": "1", "WORLD_SIZE": "4"}
TORCHRUN |= {"MASTER_ADDR": "a", "MASTER_PORT": "5", "TORCHELASTIC_USE_AGENT_STORE": "True"}
SRUN = {"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_JOB_ID": "20007"}
SRUN |= {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_ID": "1"}
SRUN |= {"SLURM_STEP_NODELIST": "n[3-4]"}


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, None),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None),
        (TORCHRUN, Place(3, 4, 1, 1, "a", 5, served=True)),
        (SRUN, Place(3, 4, 1, 1, "n3", 15108)),
        (SRUN | {"MASTER_ADDR": "b", "MASTER_PORT": "6"}, Place(3, 4, 1, 1, "b", 6)),
        (SRUN | {"SLURM_STEP_NUM_NODES": "1"}, Place(3, 4, 1, 1, "127.0.0.1", 15108)),
        # A batch script is no task, and a step may have one task alone.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "1"}, None),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, None),
    ],
)
def test_place_is_what_the_environment_says(monkeypatch, environment, place):
    for name in list(os.environ):
        if name in TORCHRUN or name.startswith("SLURM_"):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Place.here() == place


def test_a_number_that_is_none_is_named(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "many")
    with pytest.raises(RunError, match="WORLD_SIZE=many"):
        Place.here()


def test_an_interactive_session_cannot_be_repeated(monkeypatch):
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    monkeypatch.setattr(sys, "orig_argv", ["python"])
    with pytest.raises(ConfigError, match="script"), processes.together(2, "x"):
        pass


def test_several_nodes_need_somebody_who_starts_processes_there():
    runner = Runner(num_nodes=2, strategy="ddp", accelerator="cpu")
    with pytest.raises(ConfigError, match="srun or torchrun"), runner.together("x", True):
        pass


def test_nobody_there_is_an_error_in_time(monkeypatch):
    monkeypatch.setattr(processes, "MEET", 0.5)
    for name, value in {**TORCHRUN, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RunError, match=r"not found at 127\.0\.0\.1:1"), processes.together(1, "x"):
        pass
