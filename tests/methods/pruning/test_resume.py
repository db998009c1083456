"""A pruning run that ends early goes on from the block it had reached, and ends the same."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

import frontrunner
from frontrunner import cli
from frontrunner.errors import RunError
from frontrunner.methods.pruning.blockwise import Blockwise

MOSP = ("method=pruning/mosp", "method.refit=pcg", "method.limit=20")
# Three passes, of which the first two are whole when the third block of the last is written.
EACH = ("method=pruning/alps", "method.calibration=weighted", "method.limit=20")
LAST = "pass-002-block-002.safetensors"
CASES = {"one pass": (MOSP, "pass-000-block-001.safetensors"), "three passes": (EACH, LAST)}


def stored(directory: Path) -> dict[str, bytes]:
    found = directory / "pareto_set"
    return {p.name: p.read_bytes() for p in found.iterdir() if p.suffix == ".safetensors"}


@pytest.fixture(scope="module")
def uninterrupted(pruning, small_llama, tmp_path_factory) -> dict[str, dict[str, bytes]]:
    made = {}
    for name, (method, _) in CASES.items():
        out = f"output={tmp_path_factory.mktemp('whole')}"
        made[name] = stored(frontrunner.run(pruning(small_llama, *method, out)).directory)
    return made


def only_run(folder: Path) -> Path:
    (directory,) = (folder / "text_domains").iterdir()
    return directory


def strike(monkeypatch, where: str, error: BaseException) -> None:
    """Raise an error where a file is about to get its name."""
    replace = os.replace

    def replaced(source, target):
        if os.path.basename(target) == where:
            raise error
        replace(source, target)

    monkeypatch.setattr(os, "replace", replaced)


@pytest.fixture
def solved(monkeypatch) -> list[tuple[int, int]]:
    """Pass and block of every block that is solved from here on."""
    seen: list[tuple[int, int]] = []
    prune = Blockwise._prune

    def noted(self, number, b, *rest):
        seen.append((number, b))
        prune(self, number, b, *rest)

    monkeypatch.setattr(Blockwise, "_prune", noted)
    return seen


@pytest.mark.parametrize("case", CASES)
def test_after_an_interrupt_the_same_command_goes_on_from_that_block(
    case, pruning, small_llama, uninterrupted, solved, tmp_path, monkeypatch
):
    method, where = CASES[case]
    words = pruning(small_llama, *method, f"output={tmp_path}")
    with monkeypatch.context() as now:
        strike(now, where, KeyboardInterrupt())
        assert cli.main(["run", *words]) == 130
    done = {p.name: p.stat() for p in (only_run(tmp_path) / "pareto_set").iterdir()}
    reached = (int(where[5:8]), int(where[15:18]))
    assert solved[-1] == reached
    solved.clear()
    run = frontrunner.run(words)
    assert solved == [(reached[0], b) for b in range(reached[1], 3)]
    assert stored(run.directory) == uninterrupted[case]
    for name, before in done.items():
        if "block" in name:  # Gram matrices of the block at hand are written once more
            now_there = (run.directory / "pareto_set" / name).stat()
            assert (now_there.st_ino, now_there.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    # Each block is stored once.
    assert not list(run.directory.glob("checkpoints/**/*.safetensors"))


def test_the_cost_is_that_of_all_attempts(pruning, small_llama, tmp_path, monkeypatch):
    words = pruning(small_llama, *MOSP)
    once = frontrunner.run([*words, f"output={tmp_path / 'once'}"]).record["cost"]
    words.append(f"output={tmp_path / 'twice'}")
    with monkeypatch.context() as now:
        strike(now, "pass-000-block-002.safetensors", KeyboardInterrupt())
        assert cli.main(["run", *words]) == 130
    first = json.loads((only_run(tmp_path / "twice") / "checkpoints" / "cost.json").read_text())
    cost = frontrunner.run(words).record["cost"]
    # Gram matrices of two blocks are not made again, their outputs are.
    assert 0 < first["forward_passes"] < once["forward_passes"] < cost["forward_passes"]
    for name in ("seconds", "calibration_seconds", "solve_seconds"):
        assert 0 < first[name] < cost[name]


def test_after_a_kill_the_same_command_goes_on(
    pruning, small_llama, uninterrupted, solved, command, tmp_path
):
    method, where = CASES["one pass"]
    words = pruning(small_llama, *method, f"output={tmp_path}")
    assert command(["run", *words], tmp_path, ("kill", where, 1)) == -9
    left = only_run(tmp_path) / "pareto_set"
    assert [p.name for p in left.glob(".*")]  # what it was about to write
    run = frontrunner.run(words)
    assert solved == [(0, 1), (0, 2)]
    assert stored(run.directory) == uninterrupted["one pass"]
    assert not list(left.glob(".*"))


def test_a_full_disk_ends_the_run_in_one_line_and_room_lets_it_go_on(
    pruning, small_llama, uninterrupted, tmp_path, monkeypatch, capsys
):
    method, where = CASES["one pass"]
    words = pruning(small_llama, *method, f"output={tmp_path}")
    with monkeypatch.context() as now:
        strike(now, where, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        assert cli.main(["run", *words]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"{where} could not be written (No space left on device); make room" in last
    assert stored(frontrunner.run(words).directory) == uninterrupted["one pass"]


def test_a_damaged_block_is_named_and_made_again_once_it_is_deleted(
    pruning, small_llama, uninterrupted, solved, tmp_path, monkeypatch
):
    method, where = CASES["one pass"]
    words = pruning(small_llama, *method, f"output={tmp_path}")
    with monkeypatch.context() as now:
        strike(now, "pass-000-block-002.safetensors", KeyboardInterrupt())
        assert cli.main(["run", *words]) == 130
    path = only_run(tmp_path) / "pareto_set" / where
    os.truncate(path, path.stat().st_size // 2)
    solved.clear()
    with pytest.raises(RunError, match=rf"{where} is damaged .*delete it and run the same command"):
        frontrunner.run(words)
    assert not solved
    path.unlink()
    assert stored(frontrunner.run(words).directory) == uninterrupted["one pass"]
    assert solved == [(0, 1), (0, 2)]


def test_blocks_of_a_model_that_has_changed_since_are_refused(
    pruning, language_model, tmp_path, monkeypatch
):
    import torch
    from safetensors.torch import load_file, save_file

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    model = language_model(tmp_path / "model", num_attention_heads=2, **sizes)
    words = pruning(model, "method=pruning/magnitude", f"output={tmp_path / 'runs'}")
    with monkeypatch.context() as now:
        strike(now, "pass-000-block-001.safetensors", KeyboardInterrupt())
        assert cli.main(["run", *words]) == 130
    tensors = load_file(model / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"] += torch.eye(32, 16)
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RunError, match=r"block-000.* was pruned from another model .*fresh=true"):
        frontrunner.run(words)
    assert frontrunner.run([*words, "fresh=true"]).front.values.shape == (1, 2)


def test_other_processes_of_a_job_leave_pruning_to_the_first(
    pruning, small_llama, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) as caught:
        frontrunner.run(pruning(small_llama, "method=pruning/magnitude"))
    assert caught.value.code == 0
    assert not any(tmp_path.rglob("*.safetensors"))
