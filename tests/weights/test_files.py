"""Checkpoints on disk: what is read, in which order, and what damaged ones get."""

from __future__ import annotations

import json
import os

import pytest
import torch
from safetensors.torch import save_file

from frontrunner.errors import DataError
from frontrunner.weights.files import INDEX, Safetensors
from frontrunner.weights.source import Weights


def tensors(seed: int = 0, size: int = 8) -> dict[str, torch.Tensor]:
    stream = torch.Generator().manual_seed(seed)
    return {
        "b.weight": torch.randn(size, 3, generator=stream).bfloat16(),
        "a.weight": torch.randn(size, 5, generator=stream),
        "a.bias": torch.randn(size, generator=stream).half(),
        "steps": torch.tensor(7),
        "none": torch.empty(0, 4),
    }


@pytest.fixture
def single(tmp_path):
    save_file(tensors(), tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path


@pytest.fixture
def sharded(tmp_path):
    every = tensors()
    shards = {"model-00001-of-00002.safetensors": ["b.weight", "steps"]}
    shards["model-00002-of-00002.safetensors"] = ["a.weight", "a.bias", "none"]
    for name, keys in shards.items():
        save_file({k: every[k] for k in keys}, tmp_path / name)
    where = {k: name for name, keys in shards.items() for k in keys}
    (tmp_path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return tmp_path


# ---------------------------------------------------------------------- what is read


@pytest.mark.parametrize("kind", ["single", "sharded"])
def test_every_tensor_is_read_as_it_was_saved(kind, request):
    folder = request.getfixturevalue(kind)
    weights, expected = Safetensors(folder), tensors()
    assert weights.folder == folder
    assert dict(weights.shapes()) == {k: tuple(t.shape) for k, t in expected.items()}
    for key, tensor in expected.items():
        assert weights.dtype(key) == tensor.dtype
        torch.testing.assert_close(weights.read(key), tensor, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["single", "sharded"])
def test_keys_follow_the_order_of_the_data(kind, request):
    entries = Safetensors(request.getfixturevalue(kind)).entries.values()
    places = [(entry.file.name, entry.start) for entry in entries]
    assert places == sorted(places)


def test_a_file_alone_is_a_checkpoint_without_a_folder(single):
    weights = Safetensors(single / "model.safetensors", "mine")
    assert (weights.name, weights.folder) == ("mine", None)
    (single / "config.json").write_text("{}")
    assert Safetensors(single / "model.safetensors").folder == single


def test_pieces_are_the_tensor_in_order(single):
    weights = Safetensors(single)
    for key, tensor in tensors().items():
        pieces = list(weights.pieces(key, 7))
        assert all(len(piece) == 7 for piece in pieces[:-1])
        joined = torch.cat(pieces) if pieces else torch.empty(0)
        torch.testing.assert_close(joined, tensor.reshape(-1), rtol=0, atol=0)
        assert len(pieces) == len(list(Weights.pieces(weights, key, 7)))


def test_a_name_that_is_not_there_is_named(single):
    with pytest.raises(DataError, match="has no tensor 'c'"):
        Safetensors(single).read("c")


# ---------------------------------------------------------------------- digests


def test_the_digest_is_of_the_contents(single, tmp_path):
    before = Safetensors(single).digest()
    assert Safetensors(single).digest() == before
    changed = tensors()
    changed["a.bias"][3] += 1
    save_file(changed, single / "model.safetensors", metadata={"format": "pt"})
    assert Safetensors(single).digest() != before


def test_the_digest_is_read_once(single):
    opened = Safetensors(single)
    before = opened.digest()
    (single / "model.safetensors").unlink()
    assert opened.digest() == before


def test_of_a_large_file_every_tensor_is_sampled(tmp_path):
    file = tmp_path / "model.safetensors"
    large = {"large": torch.zeros(5_000_000), "norm": torch.zeros(64), "last": torch.zeros(200_000)}
    digests = set()
    for change in (None, ("norm", 5), ("large", 0), ("last", -1), ("large", 2_500_000)):
        changed = {k: t.clone() for k, t in large.items()}
        if change:
            changed[change[0]][change[1]] = 1
        save_file(changed, file)
        digests.add(Safetensors(file).digest())
    # The last change lies between the blocks that are read, as the docstring says.
    assert len(digests) == 4


# ---------------------------------------------------------------------- damage


def test_a_truncated_file_names_the_first_tensor_that_is_cut(single):
    file = single / "model.safetensors"
    last = list(Safetensors(single).shapes())[-1]
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(DataError, match=rf"model\.safetensors ends before '{last}'"):
        Safetensors(single)


def test_a_file_cut_short_later_names_file_and_tensor(single):
    weights = Safetensors(single)
    os.truncate(single / "model.safetensors", weights.entries["a.weight"].start + 9)
    with pytest.raises(DataError, match=r"model\.safetensors ends within 'a\.weight'"):
        weights.read("a.weight")


@pytest.mark.parametrize(
    "content",
    [b"", b"short", b"\xff" * 64, (20).to_bytes(8, "little") + b"{" * 20],
    ids=["empty", "short", "length", "json"],
)
def test_what_is_no_safetensors_file_is_refused(content, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(DataError, match=r"model\.safetensors is not a whole safetensors file"):
        Safetensors(tmp_path)


@pytest.mark.parametrize(
    "described",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 9]},
        {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]},
        {"dtype": "F32", "shape": [2]},
        "F32",
    ],
)
def test_a_header_that_makes_no_sense_is_refused(described, tmp_path):
    header = json.dumps({"w": described}).encode()
    data = len(header).to_bytes(8, "little") + header + bytes(16)
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(DataError, match=r"model\.safetensors"):
        Safetensors(tmp_path)


def test_a_missing_shard_is_named(sharded):
    (sharded / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(DataError, match=r"model-00002-of-00002\.safetensors is missing"):
        Safetensors(sharded)


def test_a_tensor_the_index_promises_is_named(sharded):
    every = tensors()
    shard = "model-00002-of-00002.safetensors"
    save_file({k: every[k] for k in ("a.weight", "none")}, sharded / shard)
    with pytest.raises(DataError, match=rf"{shard} has no tensor 'a\.bias'"):
        Safetensors(sharded)


def test_an_index_that_is_none_is_refused(sharded):
    (sharded / INDEX).write_text('{"weight_map": 3}')
    with pytest.raises(DataError, match="not an index"):
        Safetensors(sharded)


def test_pickled_weights_are_not_opened(tmp_path):
    torch.save(tensors(), tmp_path / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"pytorch_model\.bin.*convert them to safetensors"):
        Safetensors(tmp_path)


# ---------------------------------------------------------------------- quantised


@pytest.mark.parametrize("inside", [False, True])
def test_a_quantised_configuration_is_refused(inside, single):
    config = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    (single / "config.json").write_text(json.dumps({"text_config": config} if inside else config))
    with pytest.raises(DataError, match=r"config\.json says the weights are quantised \(gptq\)"):
        Safetensors(single)


@pytest.mark.parametrize(
    ("packed", "scale"), [("weight", "SCB"), ("weight", "weight_scale"), ("qweight", "scales")]
)
def test_packed_weights_with_scales_are_refused(packed, scale, tmp_path):
    weights = {f"q.{packed}": torch.ones(4, 4, dtype=torch.int8), f"q.{scale}": torch.ones(4)}
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(
        DataError, match=rf"'q\.{packed}' in .* is quantised \(I8, with 'q\.{scale}"
    ):
        Safetensors(tmp_path)


def test_integers_without_scales_are_read(tmp_path):
    save_file({"table.weight": torch.arange(6, dtype=torch.uint8)}, tmp_path / "model.safetensors")
    assert Safetensors(tmp_path).read("table.weight").tolist() == list(range(6))
