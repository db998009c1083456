"""Runs from beginning to end: the same front however often they are killed, and honest records."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import frontrunner
from frontrunner import config as configuration
from frontrunner import run as runs
from frontrunner.errors import ConfigError, DivergenceError, FrontError, RunError, SplitError
from frontrunner.front.front import Front
from frontrunner.methods.base import Method
from frontrunner.pareto_sets.base import ParetoSet
from frontrunner.pareto_sets.conditioned import ConditionedNetwork

METHODS = ("learning/cosmos", "learning/linear_scalarization", "learning/gmooar")


def words(method, quiet, **more):
    budget = {"training.steps": 200, "training.rounds": 10, "training.batch_size": 32, "points": 4}
    budget |= {"task": "multi_digits", "task.sizes": "[200,50,50]"} | more
    return [f"method={method}", *(f"{k}={v}" for k, v in budget.items()), *quiet]


def only_run(directory):
    (record,) = directory.glob("runs/*/*/run.json")
    return record.parent, json.loads(record.read_text())


def result(directory):
    """All that has to be equal, bit for bit."""
    front = Front.load(directory / "front.json")
    weights = (directory / "pareto_set" / "weights.safetensors").read_bytes()
    return front.values.tobytes(), front.preferences.tobytes(), weights


@pytest.fixture(scope="module")
def whole(tmp_path_factory, quiet, command):
    """The results of uninterrupted runs, each made once."""
    found = {}

    def of(method):
        if method not in found:
            directory = tmp_path_factory.mktemp("whole")
            assert command(["run", *words(method, quiet)], directory) == 0
            found[method] = result(only_run(directory)[0])
        return found[method]

    return of


EVERYWHERE = [
    ("step", 1),
    ("step", 137),
    ("last.ckpt", 7),
    ("last.ckpt", 10),
    ("fit.json", 1),
    ("pareto_set.json", 1),
    ("point", 2),
    ("front.json", 1),
]
MOMENTS = [
    *(("learning/gmooar", *moment) for moment in EVERYWHERE),
    *((method, "step", 95) for method in METHODS[:2]),
    *((method, "point", 1) for method in METHODS[:2]),
]


@pytest.mark.parametrize(("method", "where", "n"), MOMENTS)
def test_a_killed_run_continues_to_the_same_front(method, where, n, quiet, command, whole, work):
    arguments = ["run", *words(method, quiet)]
    assert command(arguments, work, ("kill", where, n)) == -9
    assert only_run(work)[1]["status"] == "running"
    assert command(arguments, work) == 0
    directory, record = only_run(work)
    assert result(directory) == whole(method)
    assert (record["status"], record["attempt"]) == ("done", 2)


def test_a_run_killed_again_and_again_arrives_at_the_same_front(quiet, command, whole, work):
    arguments = ["run", *words("learning/gmooar", quiet)]
    for moment in [("step", 45), ("step", 61), ("last.ckpt", 2), ("point", 1), ("front.json", 1)]:
        assert command(arguments, work, ("kill", *moment)) == -9
    assert command(arguments, work) == 0
    directory, record = only_run(work)
    assert result(directory) == whole("learning/gmooar")
    assert record["attempt"] == 6


def test_ctrl_c_is_recorded_and_the_same_command_continues(quiet, command, whole, work):
    arguments = ["run", *words("learning/cosmos", quiet)]
    assert command(arguments, work, ("interrupt", "step", 75)) == 130
    assert "interrupted; the same command continues" in (work / "stderr.txt").read_text()
    record = only_run(work)[1]
    assert record["status"] == "failed"
    assert record["error"]["type"] == "KeyboardInterrupt"
    assert command(arguments, work, ("interrupt", "point", 2)) == 130
    assert command(arguments, work) == 0
    assert result(only_run(work)[0]) == whole("learning/cosmos")


@pytest.mark.parametrize(("where", "n"), [("step", 75), ("point", 2), ("pareto_set.json", 1)])
def test_a_full_disk_is_one_line_and_the_run_continues(where, n, quiet, command, whole, work):
    arguments = ["run", *words("learning/cosmos", quiet)]
    assert command(arguments, work, ("full", where, n)) == 1
    said = [x for x in (work / "stderr.txt").read_text().splitlines() if "frontrunner:" in x]
    # Beside the error there may be the warning that run.json could not be written either.
    said = [x for x in said if "the failure could not be recorded" not in x]
    assert len(said) == 1
    assert "File too large" in said[0] or "could not be written" in said[0]
    directory = only_run(work)[0]
    assert not [p for p in directory.rglob("*") if ".tmp" in p.name]
    assert not (directory / "front.json").exists()
    assert command(arguments, work) == 0
    assert result(directory) == whole("learning/cosmos")


# ---------------------------------------------------------------------- in this process


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny):
    """A finished tiny run of COSMOS, to be read only."""
    directory = tmp_path_factory.mktemp("finished")
    return frontrunner.run(["method=learning/cosmos", f"output={directory}", *tiny])


def test_a_run_has_its_front_its_set_and_its_configuration(finished):
    assert finished.config.points == 3
    assert len(finished.front) == 3
    assert finished.front.info["label"] == "cosmos"
    assert isinstance(finished.pareto_set, ParetoSet)
    np.testing.assert_array_equal(finished.pareto_set.preferences, finished.front.preferences)
    network = finished.pareto_set.materialize([0.5, 0.5])
    again = finished.task.measure(network, "test")
    np.testing.assert_array_equal(again, finished.front.values[1])


def test_a_finished_run_is_loaded_from_its_directory(finished):
    loaded = frontrunner.load(finished.directory)
    assert loaded.config == finished.config
    assert result(loaded.directory) == result(finished.directory)
    assert loaded.pareto_set.digest() == finished.pareto_set.digest()


def test_the_module_run_is_the_function_run(work, tiny):
    import importlib

    module = importlib.import_module("frontrunner.run")
    assert frontrunner.run is module
    assert callable(frontrunner.run)
    text = " ".join(["method=learning/cosmos", *tiny])
    assert module(text).directory == frontrunner.run(text.split()).directory


def test_the_record_of_a_run_says_what_it_cost_and_where(finished):
    record = finished.record
    assert record["status"] == "done"
    assert record["error"] is None
    assert record["device"] == "1 x cpu"
    assert record["config_hash"].startswith(finished.directory.name.rpartition("-")[2])
    assert {"seconds", "forward_passes", "steps", "stored_parameters"} <= set(record["cost"])
    assert record["cost"]["steps"] == 20
    assert record["timings"]["total"] >= record["timings"]["fit"]
    network = finished.task.conditioned_network()
    assert record["cost"]["stored_parameters"] == sum(p.numel() for p in network.parameters())


def test_the_same_configuration_and_seed_give_the_same_front_and_others_do_not(finished, tiny):
    output = f"output={finished.directory.parents[1]}/again"
    same = frontrunner.run(["method=learning/cosmos", output, *tiny])
    other = frontrunner.run(["method=learning/cosmos", output, *tiny, "seed=1"])
    assert result(same.directory) == result(finished.directory)
    assert not np.array_equal(other.front.values, same.front.values)


def untouched(directory):
    return {p: p.stat().st_mtime_ns for p in directory.rglob("*")}


def test_a_finished_run_is_not_run_again_unless_asked(work, tiny, monkeypatch):
    arguments = ["method=learning/cosmos", *tiny]
    first = frontrunner.run(arguments)
    before = untouched(first.directory)
    with monkeypatch.context() as patched:
        patched.setattr(runs, "build", lambda config: pytest.fail("it was run again"))
        frontrunner.run(arguments)
    (first.directory / ".lock").touch()
    before.pop(first.directory / ".lock")
    assert {p: t for p, t in untouched(first.directory).items() if p in before} == before
    (first.directory / "stray").mkdir()
    again = frontrunner.run([*arguments, "fresh=true"])
    assert again.directory == first.directory
    assert not (first.directory / "stray").exists()
    assert again.record["attempt"] == 1
    assert result(again.directory) == result(first.directory)


def test_divergence_is_recorded_with_its_step_and_the_checkpoint_is_kept(work, tiny, monkeypatch):
    from frontrunner.tasks.multi_digits import MultiDigits

    calls, original = [], MultiDigits.losses

    def losses(self, outputs, batch):
        training = torch.is_grad_enabled()
        calls.extend([1] if training else [])
        broken = float("nan") if training and len(calls) == 16 else 1.0
        return broken * original(self, outputs, batch)

    monkeypatch.setattr(MultiDigits, "losses", losses)
    with pytest.raises(DivergenceError) as caught:
        frontrunner.run(["method=learning/cosmos", *tiny])
    assert caught.value.step == 15
    directory, record = only_run(work)
    assert record["status"] == "failed"
    assert record["error"]["type"] == "DivergenceError"
    assert record["error"]["step"] == 15
    kept = torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True)
    assert kept["frontrunner"]["step"] == 10
    with pytest.raises(RunError, match="the run is failed, not done"):
        frontrunner.load(directory)
    monkeypatch.undo()
    os.chdir(work)
    whole = frontrunner.run(["method=learning/cosmos", *tiny, "output=whole"])
    assert result(frontrunner.run(["method=learning/cosmos", *tiny]).directory) == result(
        whole.directory
    )


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
@pytest.mark.parametrize("method", METHODS)
def test_other_precisions_give_a_front_near_that_of_single_precision(
    method, precision, tiny, tmp_path
):
    plain = [f"method={method}", f"output={tmp_path}", *tiny, "training.steps=8"]
    single = frontrunner.run(plain)
    other = frontrunner.run([*plain, f"runner.precision={precision}"])
    np.testing.assert_allclose(other.front.values, single.front.values, rtol=0.05)
    again = frontrunner.load(other.directory).pareto_set
    network = again.materialize(again.preferences[0])
    expected = torch.float64 if precision == "64-true" else torch.float32
    assert next(network.parameters()).dtype == expected


def test_a_full_disk_at_the_front_leaves_no_front(work, tiny, monkeypatch):
    import errno

    original = Front.save

    def full(self, path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Front, "save", full)
    with pytest.raises(OSError, match="No space left"):
        frontrunner.run(["method=learning/cosmos", *tiny])
    directory, record = only_run(work)
    assert record["status"] == "failed"
    assert not (directory / "front.json").exists()
    monkeypatch.setattr(Front, "save", original)
    assert len(frontrunner.run(["method=learning/cosmos", *tiny]).front) == 3


def test_a_run_held_by_another_process_is_refused(finished, tiny):
    import fcntl

    with open(finished.directory / ".lock", "r+") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert (
            runs.execute(finished.config).directory == finished.directory
        )  # reading needs no lock
        again = finished.config.copy()
        again.fresh = True
        with pytest.raises(RunError, match="another process"):
            runs.execute(again)
    assert (finished.directory / "front.json").is_file()


def test_what_is_not_a_run_directory_is_refused(tmp_path):
    with pytest.raises(RunError, match="not a run directory"):
        frontrunner.load(tmp_path)


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("seed=-1", ConfigError, "seed=-1"),
        ("seed=1.5", ConfigError, "seed=1.5"),
        ("evaluator.reference_point=[1,2,3]", ConfigError, "needs 2 finite numbers"),
        ("evaluator.points=1", FrontError, "no simplex lattice"),
        ("points=1", FrontError, "at least two rays"),
        ("method.sampling=fixd", ConfigError, "'fixed'"),
        ("training.steps=0", ConfigError, "training.steps=0"),
        ("model.conditioning=null", ConfigError, "conditioning"),
        ("evaluator.what=loss", ConfigError, "losses"),
        ("runner.progress=loud", ConfigError, "auto, bar, plain, none"),
        ("model.conditioning.hiden=3", ConfigError, "hidden"),
        ("task._target_=builtins.dict", ConfigError, "not a Task"),
    ],
)
def test_check_refuses_before_anything_is_written(override, error, message, work, tiny):
    with pytest.raises(error, match=message):
        runs.check(configuration.compose(["method=learning/cosmos", *tiny, override]))
    assert list(work.iterdir()) == []


class Spy(Method):
    """Tries to read the test split wherever a method could."""

    def fit(self, task, runner):
        for attempt in (
            lambda: task.data("test"),
            lambda: task.sealed().data("test"),
            lambda: task.measure(task.network(), "test"),
        ):
            with pytest.raises(SplitError):
                attempt()
        assert "test" not in task._splits
        self.sizes = [len(task.data(split)) for split in ("train", "validation")]
        return ConditionedNetwork(task.conditioned_network(), [[1, 0], [0.5, 0.5], [0, 1]], "ray")


def test_a_method_cannot_read_the_test_split_and_the_evaluator_can(work, tiny, monkeypatch):
    spy = Spy()
    original = runs.build

    def build(config):
        task, _, evaluator = original(config)
        return task, spy, evaluator

    monkeypatch.setattr(runs, "build", build)
    monkeypatch.setattr("frontrunner.runner.runner.Runner.cost", {}, raising=False)
    done = frontrunner.run(["method=learning/cosmos", *tiny])
    assert spy.sizes == [200, 50]
    assert done.front.info["split"] == "test"
    expected = done.task.measure(done.pareto_set.materialize([1, 0]), "test")
    np.testing.assert_array_equal(done.front.values[0], expected)


# ---------------------------------------------------------------------- several processes


def test_two_processes_train_one_run(work, tiny, environment):
    arguments = ["method=learning/gmooar", *tiny, "runner=ddp", "runner.devices=2"]
    done = subprocess.run(
        [sys.executable, "-m", "frontrunner.cli", "run", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    directory, record = only_run(work)
    assert (record["status"], record["attempt"]) == ("done", 1)
    assert record["device"] == "2 x cpu"
    assert len(Front.load(directory / "front.json")) == 3
    assert [p.name for p in work.iterdir()] == ["runs"]
    names = {p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file()}
    assert names == {
        ".lock", "run.json", "config.yaml", "progress.json", "points.jsonl", "points.1.jsonl",
        "front.json", "front.png", "front.html", "checkpoints/last.ckpt",
        "pareto_set/weights.safetensors", "pareto_set/pareto_set.json", "pareto_set/fit.json",
    }  # fmt: skip


@pytest.mark.parametrize(
    "wrong", ["method.sampling=x", "runner.progress=x", "points=1", "evaluator.split=x"]
)
def test_what_cannot_run_leaves_nothing_on_disk(work, tiny, wrong):
    from frontrunner.errors import FrontrunnerError

    with pytest.raises(FrontrunnerError):
        frontrunner.run(["method=learning/cosmos", *tiny, wrong])
    assert list(work.iterdir()) == []
