"""Checkpoints written as a stream: what others read back, and what a failure leaves."""

from __future__ import annotations

import errno
import json
import os
import weakref

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from frontrunner.errors import ConfigError, RunError
from frontrunner.weights import writer
from frontrunner.weights.files import INDEX, Safetensors
from frontrunner.weights.writer import Mark, layout_of, whole_folder, write_checkpoint

MARK = Mark("made.json")


def tensors(n: int = 6) -> dict[str, torch.Tensor]:
    """Odd sizes of mixed dtypes, so that an unsorted file would be misaligned."""
    stream = torch.Generator().manual_seed(0)
    kinds = [torch.bfloat16, torch.float32, torch.uint8, torch.float16, torch.float64, torch.bool]
    made = {f"t{i}": torch.randn(3, 2 * i + 1, generator=stream).mul(9) for i in range(n)}
    made = {k: t.to(kinds[i % len(kinds)]) for i, (k, t) in enumerate(made.items())}
    return made | {"scalar": torch.tensor(2.5), "empty": torch.empty(0, 3)}


def files_of(folder) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


# ---------------------------------------------------------------------- what is written


@pytest.mark.parametrize("shard_size", [10**9, 200, 1])
def test_safetensors_reads_back_what_was_written(shard_size, tmp_path):
    expected = tensors()
    names = write_checkpoint(tmp_path, expected.items(), layout_of(expected), shard_size)
    found = {}
    for name in names:
        if name.endswith(".safetensors"):
            found |= load_file(tmp_path / name)
            with safe_open(tmp_path / name, "pt") as mapped:
                assert mapped.metadata() == {"format": "pt"}
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names)
    assert set(found) == set(expected)
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, rtol=0, atol=0)
    assert (len(names) == 1) == (shard_size == 10**9)


def test_shards_keep_their_size_and_the_index_their_names(tmp_path):
    expected = {f"t{i}": torch.full((10,), float(i)) for i in range(7)}
    names = write_checkpoint(tmp_path, expected.items(), layout_of(expected), 100)
    assert names == [*(f"model-0000{i}-of-00004.safetensors" for i in (1, 2, 3, 4)), INDEX]
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"]["total_size"] == 7 * 40
    for key, name in index["weight_map"].items():
        assert key in load_file(tmp_path / name)
    weights = Safetensors(tmp_path)
    assert list(weights.shapes()) == list(expected)
    assert torch.equal(weights.read("t5"), expected["t5"])


def test_only_one_tensor_is_alive_at_a_time(tmp_path):
    alive: list[weakref.ref] = []

    def stream():
        for i in range(20):
            assert all(reference() is None for reference in alive), f"t{i - 1} is still held"
            tensor = torch.full((100,), float(i))
            alive.append(weakref.ref(tensor))
            yield f"t{i}", tensor
            del tensor

    layout = {f"t{i}": ((100,), torch.float32) for i in range(20)}
    write_checkpoint(tmp_path, stream(), layout, 1000)
    assert Safetensors(tmp_path).read("t19").tolist() == [19.0] * 100


@pytest.mark.parametrize(
    ("came", "message"),
    [
        ([("b", torch.ones(2))], "'b' came where the tensor 'a'"),
        ([("a", torch.ones(3))], r"'a' came as torch.float32 \(3,\), not torch.float32 \(2,\)"),
        ([("a", torch.ones(2).half())], "'a' came as torch.float16"),
        ([], "nothing came where the tensor 'a'"),
        ([("a", torch.ones(2)), ("c", torch.ones(2))], "'c' is not among"),
    ],
)
def test_tensors_that_were_not_announced_are_refused(came, message, tmp_path):
    with pytest.raises(RunError, match=message):
        write_checkpoint(tmp_path, came, {"a": ((2,), torch.float32)})


@pytest.mark.parametrize(
    ("text", "size"), [("2GB", 2 * 10**9), ("1.5mb", 1_500_000), ("300 KB", 300_000), ("77", 77)]
)
def test_sizes_are_read_as_the_hub_reads_them(text, size):
    assert writer.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "2GiB", "-1GB", "big"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ConfigError, match="--shard-size"):
        writer.parse_size(text)


# ---------------------------------------------------------------------- whole folders


def fill(folder, text: str = "new") -> None:
    (folder / "a.txt").write_text(text)
    (folder / MARK.name).write_text(json.dumps({"files": ["a.txt"]}))


def replace(target, error: type[BaseException] | None = None) -> None:
    with whole_folder(target, MARK) as folder:
        fill(folder)
        if error:
            raise error


def write_in_shards(target) -> None:
    expected = tensors()
    with whole_folder(target, MARK) as folder:
        write_checkpoint(folder, expected.items(), layout_of(expected), 100)


@pytest.mark.parametrize("there", [False, True], ids=["absent", "empty"])
def test_a_folder_appears_whole(there, tmp_path):
    target = tmp_path / "deep" / "out"
    if there:
        target.mkdir(parents=True)
    with whole_folder(target, MARK) as folder:
        fill(folder)
        assert not (target / "a.txt").exists()
    assert set(files_of(target)) == {"a.txt", "made.json"}
    assert os.listdir(target.parent) == ["out"]


def test_an_earlier_result_is_replaced(tmp_path):
    for text in ("one", "two"):
        with whole_folder(tmp_path / "out", MARK) as folder:
            fill(folder, text)
    assert (tmp_path / "out" / "a.txt").read_text() == "two"
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("known", [False, True], ids=["another's", "with a file of the user's"])
def test_a_folder_with_other_files_is_refused_and_kept(known, tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    if known:
        fill(target, "old")
    (target / "notes.txt").write_text("mine")
    before = files_of(target)
    with pytest.raises(RunError, match="holds other files; give a new folder"):
        replace(target)
    assert files_of(target) == before
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_leaves_what_was_there(error, earlier, tmp_path):
    if earlier:
        with whole_folder(tmp_path / "out", MARK) as folder:
            fill(folder, "old")
    with pytest.raises(error):
        replace(tmp_path / "out", error)
    assert os.listdir(tmp_path) == (["out"] if earlier else [])
    if earlier:
        assert (tmp_path / "out" / "a.txt").read_text() == "old"


@pytest.mark.parametrize("call", ["pwrite", "fsync"])
def test_a_full_disk_leaves_nothing_and_says_so(call, tmp_path, monkeypatch):
    calls = []
    real = getattr(os, call)

    def full(*arguments):
        calls.append(arguments)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*arguments)

    monkeypatch.setattr(os, call, full)
    with pytest.raises(RunError, match=r"out could not be written \(No space left.*make room"):
        write_in_shards(tmp_path / "out")
    assert len(calls) == 4
    assert os.listdir(tmp_path) == []


def test_a_rename_that_fails_puts_the_earlier_result_back(tmp_path, monkeypatch):
    with whole_folder(tmp_path / "out", MARK) as folder:
        fill(folder, "old")
    real = os.rename

    def rename(source, target):
        if str(source).endswith(".tmp"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(RunError, match="Input/output error"):
        replace(tmp_path / "out")
    assert (tmp_path / "out" / "a.txt").read_text() == "old"
    assert os.listdir(tmp_path) == ["out"]
