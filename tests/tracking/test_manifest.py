"""run.json, configuration hashes, facts of the environment, and the directory lock."""

from __future__ import annotations

import fcntl
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from frontrunner import files
from frontrunner.errors import ConfigError, DivergenceError, RunError
from frontrunner.tracking import lock, manifest
from frontrunner.tracking.manifest import RunRecord, claim, config_hash

HOLD = """
import os, sys, time
from frontrunner.tracking.manifest import claim
with claim(sys.argv[1]):
    if sys.argv[2] == "fork" and (child := os.fork()) == 0:
        time.sleep(60)
        os._exit(0)
    print(child if sys.argv[2] == "fork" else "held", flush=True)
    time.sleep(60)
"""


def shuffled(value: Any, rng: np.random.Generator) -> Any:
    if isinstance(value, dict):
        keys = list(value)
        rng.shuffle(keys)
        return {key: shuffled(value[key], rng) for key in keys}
    return value


# ---------------------------------------------------------------------- hash

CONFIG = {
    "method": {"lr": 0.1, "name": "éa"},
    "runner": {"device": "cpu", "precision": 32},
    "seeds": [1, 2],
    "none": None,
}


def test_hash_ignores_the_order_of_keys() -> None:
    rng = np.random.default_rng(0)
    hashes = {config_hash(shuffled(CONFIG, rng)) for _ in range(10)}
    assert len(hashes) == 1
    assert len(hashes.pop()) == 16


def test_hash_ignores_ignored_keys_and_nothing_else() -> None:
    other = {**CONFIG, "runner": {"device": "cuda", "precision": 32}}
    ignore = ["runner.device", "logger", "method.absent.key"]
    assert config_hash(CONFIG) != config_hash(other)
    assert config_hash(CONFIG, ignore) == config_hash(other, ignore)
    third = {**CONFIG, "runner": {"device": "cpu", "precision": 16}}
    assert config_hash(CONFIG, ignore) != config_hash(third, ignore)


def test_hash_leaves_the_configuration_as_it_was() -> None:
    before = json.dumps(CONFIG)
    config_hash(CONFIG, ["runner.device", "seeds"])
    assert json.dumps(CONFIG) == before


def test_hash_depends_on_the_order_of_lists() -> None:
    assert config_hash({"seeds": [1, 2]}) != config_hash({"seeds": [2, 1]})


def test_hash_is_the_same_in_another_process() -> None:
    program = (
        "import json, sys; from frontrunner.tracking.manifest import config_hash;"
        "print(config_hash(json.loads(sys.argv[1])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(CONFIG)], capture_output=True, text=True
    )
    assert done.stdout.strip() == config_hash(CONFIG)


def test_hash_refuses_objects() -> None:
    with pytest.raises(ConfigError, match="plain data"):
        config_hash({"path": Path("x")})


# ---------------------------------------------------------------------- facts


def test_environment_is_json_and_imports_nothing_heavy() -> None:
    program = (
        "import json, sys; from frontrunner.tracking import manifest, offline, tracker;"
        "json.dumps(manifest.environment());"
        "print({'torch', 'lightning', 'wandb', 'hydra', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


def test_environment_names_the_installed_versions() -> None:
    packages = manifest.environment()["packages"]
    assert packages["numpy"] == np.__version__
    assert set(packages) == set(manifest.PACKAGES)


def test_git_tells_commit_and_dirt(tmp_path: Path) -> None:
    assert manifest.git(tmp_path) is None

    def run(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        command = ["git", *identity, *arguments]
        done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    run("init", "-q")
    assert manifest.git(tmp_path) == {"commit": None, "dirty": False}
    (tmp_path / "a.txt").write_text("1")
    run("add", "a.txt")
    run("commit", "-q", "-m", "first")
    (tmp_path / "untracked.txt").write_text("results")
    assert manifest.git(tmp_path) == {"commit": run("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "a.txt").write_text("2")
    assert manifest.git(tmp_path) == {"commit": run("rev-parse", "HEAD"), "dirty": True}


def test_git_is_none_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert manifest.git(Path(__file__).parent) is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RAM can be reset on Linux only")
def test_peak_memory_shows_what_was_allocated_since_the_reset_and_does_not_fall() -> None:
    slack = 8 << 20  # the kernel counts pages in batches
    manifest.reset_peak_memory()
    before = manifest.peak_memory_bytes()
    block = np.ones(128 << 20, dtype=np.uint8)
    peak = manifest.peak_memory_bytes()
    assert abs(peak - before - block.size) < slack
    del block
    assert manifest.peak_memory_bytes() >= peak - slack
    manifest.reset_peak_memory()
    assert abs(manifest.peak_memory_bytes() - before) < slack


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere it may be inherited")
def test_peak_memory_is_not_inherited_from_the_parent() -> None:
    block = np.ones(256 << 20, dtype=np.uint8)
    program = "from frontrunner.tracking import manifest; print(manifest.peak_memory_bytes())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert 1 << 20 < int(done.stdout) < block.size


# ---------------------------------------------------------------------- run.json


def stored(directory: Path) -> dict[str, Any]:
    return files.read_json(directory / "run.json")


def test_record_goes_from_running_to_done(tmp_path: Path) -> None:
    record = RunRecord.open(tmp_path, config_hash="abc", seed=3, **manifest.environment())
    assert stored(tmp_path)["status"] == "running"
    assert stored(tmp_path)["finished"] is None
    record.update(timings={"fit": 1.5}, cost={"forward_passes": np.int64(7)})
    record.done(timings={"total": np.float32(2.5)})
    data = stored(tmp_path)
    assert (data["status"], data["attempt"], data["seed"]) == ("done", 1, 3)
    assert data["timings"] == {"fit": 1.5, "total": 2.5}
    assert data["cost"] == {"forward_passes": 7}
    assert data["started"] <= data["finished"]
    assert list(data) == list(manifest.FIELDS)


def test_failure_keeps_type_message_and_step(tmp_path: Path) -> None:
    record = RunRecord.open(tmp_path)
    error = DivergenceError("loss is nan")
    error.step = 12  # type: ignore[attr-defined]
    record.fail(error)
    data = stored(tmp_path)
    assert data["status"] == "failed"
    expected = {"type": "DivergenceError", "message": "loss is nan", "step": 12}
    assert data["error"] == expected


def test_next_attempt_counts_up_keeps_the_first_start_and_clears_the_error(tmp_path: Path) -> None:
    RunRecord.open(tmp_path).fail(ValueError("x"))
    first = {**stored(tmp_path), "started": "2020-01-01T00:00:00+00:00"}
    files.write_json(tmp_path / "run.json", first)
    RunRecord.open(tmp_path)
    data = stored(tmp_path)
    assert (data["attempt"], data["status"], data["error"]) == (2, "running", None)
    assert data["started"] == "2020-01-01T00:00:00+00:00" < data["resumed"]
    RunRecord.open(tmp_path).done()
    assert stored(tmp_path)["attempt"] == 3


@pytest.mark.parametrize("content", ['{"attempt": ', "[]", "{}", "\x00\x01"])
def test_damaged_record_is_named_with_a_remedy(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(RunError, match=r"run\.json.*delete .*run\.json"):
        RunRecord.open(tmp_path)
    assert (tmp_path / "run.json").read_text() == content


def test_record_of_another_version_is_refused(tmp_path: Path) -> None:
    RunRecord.open(tmp_path)
    files.write_json(tmp_path / "run.json", {**stored(tmp_path), "schema_version": 99})
    with pytest.raises(RunError, match="schema_version 99"):
        RunRecord.open(tmp_path)


def test_missing_record_is_not_a_run_directory(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run directory"):
        RunRecord.read(tmp_path)


def test_unknown_field_is_refused_with_the_nearest(tmp_path: Path) -> None:
    record = RunRecord.open(tmp_path)
    with pytest.raises(TypeError, match="did you mean 'timings'"):
        record.update(timing={"fit": 1})


def test_non_finite_numbers_become_null(tmp_path: Path) -> None:
    RunRecord.open(tmp_path).update(cost={"seconds": math.inf, "forward_passes": np.float64("nan")})
    assert stored(tmp_path)["cost"] == {"seconds": None, "forward_passes": None}


def test_failure_that_cannot_be_written_does_not_hide_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = RunRecord.open(tmp_path)

    def full_disk(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_json", full_disk)
    with pytest.warns(UserWarning, match="No space left"):
        record.fail(ValueError("the real reason"))


# ---------------------------------------------------------------------- lock


def hold(directory: Path, how: str = "alone") -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(directory), how], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_second_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    process, _ = hold(tmp_path)
    try:
        with pytest.raises(RunError, match=rf"pid {process.pid} on host \S+"), claim(tmp_path):
            pass
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert (tmp_path / ".lock").exists()
    with claim(tmp_path):
        pass


def test_forked_worker_that_outlives_a_killed_run_does_not_hold_the_lock(tmp_path: Path) -> None:
    process, child = hold(tmp_path, "fork")
    try:
        time.sleep(0.2)  # the child has run its own start by now
        with pytest.raises(RunError, match=f"pid {process.pid}"), claim(tmp_path):
            pass
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        os.kill(int(child), 0)  # still alive
        with claim(tmp_path):
            pass
    finally:
        process.kill()
        os.kill(int(child), signal.SIGKILL)


def test_same_process_is_refused_too_and_leaving_releases(tmp_path: Path) -> None:
    with pytest.raises(KeyError), claim(tmp_path):  # noqa: PT012
        with pytest.raises(RunError, match=f"pid {os.getpid()}"), claim(tmp_path):
            pass
        raise KeyError
    with claim(tmp_path):
        pass


def test_different_directories_do_not_exclude_one_another(tmp_path: Path) -> None:
    with claim(tmp_path / "a"), claim(tmp_path / "b"):
        assert (tmp_path / "a" / ".lock").read_text().startswith(f"pid {os.getpid()}")


# ---------------------------------------------------------------------- lease

ELSEWHERE = """
import fcntl, sys, time
from frontrunner.tracking import lock
lock.BEAT = 0.2
if sys.argv[2] == "elsewhere":
    lock._machine = lambda: "another kernel"
    lock.socket.gethostname = lambda: "faraway"
    fcntl.flock = lambda *options: None  # a lock that other machines do not see
with lock.claim(sys.argv[1]):
    print("held", flush=True)
    time.sleep(float(sys.argv[3]))
"""


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT", 0.2)


def elsewhere(
    directory: Path, where: str = "elsewhere", seconds: float = 60
) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", ELSEWHERE, str(directory), where, str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@contextmanager
def taken_over(directory: Path) -> Iterator[None]:
    """`claim` where it says that it watches a holder elsewhere first."""
    with ExitStack() as stack:
        with pytest.warns(UserWarning, match="on host faraway: watching"):
            stack.enter_context(claim(directory))
        yield


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_holder_on_another_machine_is_respected_as_long_as_it_lives(
    tmp_path: Path, fast: None
) -> None:
    process = elsewhere(tmp_path)
    try:
        assert manifest.is_held(tmp_path)
        refused = pytest.raises(RunError, match=f"pid {process.pid} on host faraway")
        with refused, taken_over(tmp_path):
            pass
        assert process.poll() is None
    finally:
        end(process)


def test_dead_holder_on_another_machine_is_replaced_after_three_beats(
    tmp_path: Path, fast: None
) -> None:
    end(elsewhere(tmp_path))
    found = manifest.holder(tmp_path)
    assert found is not None
    assert (found.host, found.quiet is not None) == ("faraway", True)
    start = time.monotonic()
    with taken_over(tmp_path):
        assert time.monotonic() - start >= 4 * lock.BEAT
        assert manifest.holder(tmp_path) == lock.Holder(lock.socket.gethostname(), os.getpid())
    assert manifest.holder(tmp_path) is None


def test_a_clock_that_jumps_neither_frees_nor_keeps(
    tmp_path: Path, fast: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 4e9)
    process = elsewhere(tmp_path)
    os.utime(tmp_path / ".lock", (1, 1))
    try:
        with pytest.raises(RunError), taken_over(tmp_path):
            pass
    finally:
        end(process)
    os.utime(tmp_path / ".lock", (5e9, 5e9))
    with taken_over(tmp_path):
        pass


def test_released_or_killed_on_this_machine_is_free_at_once(tmp_path: Path, fast: None) -> None:
    elsewhere(tmp_path, seconds=0).communicate(timeout=10)  # ended, and released
    assert not manifest.is_held(tmp_path)
    end(elsewhere(tmp_path, "here"))
    assert not manifest.is_held(tmp_path)
    start = time.monotonic()
    with claim(tmp_path):
        assert time.monotonic() - start < lock.BEAT


def test_holder_that_was_replaced_while_it_was_suspended_stops_at_once(
    tmp_path: Path, fast: None
) -> None:
    process = elsewhere(tmp_path)
    os.kill(process.pid, signal.SIGSTOP)
    try:
        with taken_over(tmp_path):
            os.kill(process.pid, signal.SIGCONT)
            _, said = process.communicate(timeout=10)
            assert process.returncode == 75
            assert said.count("\n") == 1
            assert "held by another process now" in said
            time.sleep(2 * lock.BEAT)  # this one goes on
    finally:
        end(process)


def test_of_two_that_start_at_once_unseen_one_remains(tmp_path: Path, fast: None) -> None:
    first = elsewhere(tmp_path)
    before = (tmp_path / ".lock").read_bytes()
    end(first)
    (tmp_path / ".lock").write_bytes(b"")
    second = elsewhere(tmp_path)
    (tmp_path / ".lock").write_bytes(before)  # written after it had looked
    try:
        assert second.wait(timeout=10) == 75
    finally:
        end(second)


def test_nobody_can_tell_who_held_a_file_that_says_nothing(tmp_path: Path) -> None:
    for content in (b"", b"pid 1 on host x\n", b"pid 1\n[]\n", b"pid 1\n{}\n", b"\xff\n\xff"):
        (tmp_path / ".lock").write_bytes(content)
        assert manifest.holder(tmp_path) is None
        with claim(tmp_path):
            pass


def test_looking_who_holds_it_does_not_keep_anybody_out(tmp_path: Path) -> None:
    with claim(tmp_path):
        pass
    with open(tmp_path / ".lock") as handle:  # what `is_held` does for an instant
        fcntl.flock(handle, fcntl.LOCK_SH)
        threading.Timer(0.05, fcntl.flock, (handle, fcntl.LOCK_UN)).start()
        with claim(tmp_path):
            pass
