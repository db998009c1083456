"""Pruned blocks on disk: read as written, named when damaged or missing, whole or absent."""

from __future__ import annotations

import errno
import os

import pytest
import torch

from frontrunner.errors import DataError, RunError
from frontrunner.sparse.store import Models, Pruned, Store

LAYERS = [
    Pruned("b.0.up.weight", "b.0.up", (5, 7), "0.5"),
    Pruned("b.0.down.weight", "b.0.down", (7, 5), "0.5", transposed=True),
]


def models(seed: int, count: int = 3) -> dict[str, Models]:
    stream = torch.Generator().manual_seed(seed)
    made = {}
    for layer in LAYERS:
        core = torch.rand(layer.shape, generator=stream) < 0.2
        supports = [core | (torch.rand(layer.shape, generator=stream) < 0.3) for _ in range(count)]
        weights = [torch.randn(layer.shape, generator=stream) * s for s in supports]
        made[layer.name] = Models(weights, supports, core)
    return made


def grams(seed: int) -> dict[str, list[torch.Tensor]]:
    stream = torch.Generator().manual_seed(seed)
    sizes = {"b.0.up": 7, "b.0.down": 5}
    return {g: [torch.rand(c, c, generator=stream) for _ in range(2)] for g, c in sizes.items()}


def fill(store: Store, blocks: int = 2, keep: bool = True, dtype: torch.dtype = torch.float32):
    for b in range(blocks):
        dtypes = {layer.name: dtype for layer in LAYERS}
        store.add(0, b, [0, 1, 2], LAYERS, models(b), dtypes, grams(b), keep, blocks)


def names(folder) -> list[str]:
    return sorted(os.listdir(folder))


def test_values_that_a_precision_does_not_hold_are_named(tmp_path):
    large = models(0)
    large["b.0.up.weight"].weights[1] *= 1e6
    dtypes = {layer.name: torch.float16 for layer in LAYERS}
    with pytest.raises(DataError, match=r"'b.0.up.weight' has values beyond torch.float16"):
        Store(tmp_path).add(0, 0, [0, 1, 2], LAYERS, large, dtypes, grams(0), False, 1)
    assert not names(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_block_is_read_as_it_was_written(dtype, tmp_path):
    fill(Store(tmp_path), dtype=dtype)
    for b, block in enumerate(Store(tmp_path).blocks):
        assert (block.anchors, list(block.layers)) == ((0, 1, 2), LAYERS)
        for layer in block.layers:
            written = models(b)[layer.name]
            assert torch.equal(block.core(layer), written.core)
            for anchor in block.anchors:
                assert torch.equal(block.values(layer, anchor)[1], written.supports[anchor])
                assert torch.equal(block.weight(layer, anchor), written.weights[anchor].to(dtype))
        for group, matrices in grams(b).items():
            assert torch.equal(block.gram(group, 1), matrices[1])
            assert torch.equal(
                block.diagonals(group), torch.stack([h.diagonal() for h in matrices])
            )


def test_a_block_is_there_only_with_its_gram_matrices(tmp_path):
    store = Store(tmp_path)
    fill(store)
    assert store.has(0, 1)
    assert not store.has(0, 2)
    assert not store.has(1, 1)
    store.path(0, 1, "grams").unlink()
    assert not store.has(0, 1)


@pytest.mark.parametrize("what", ["block", "grams"])
def test_a_truncated_file_is_named_with_what_to_do(what, tmp_path):
    store = Store(tmp_path)
    fill(store)
    path = store.path(0, 1, what)
    os.truncate(path, path.stat().st_size - 3)
    with pytest.raises(RunError, match=rf"{path.name} is damaged \(.*delete it and run the same"):
        store.has(0, 1)


def test_a_file_of_something_else_is_not_a_block(tmp_path):
    from safetensors.torch import save_file

    store = Store(tmp_path)
    save_file({"x": torch.zeros(1)}, store.path(0, 0))
    with pytest.raises(RunError, match=r"block-000\.safetensors does not hold a pruned block"):
        store.has(0, 0)


def test_blocks_of_another_source_are_refused(tmp_path):
    fill(Store(tmp_path, "one"))
    assert Store(tmp_path, "one").has(0, 0)
    with pytest.raises(RunError, match=r"block-000.* from another model .* fresh=true"):
        Store(tmp_path, "other").has(0, 0)


@pytest.mark.parametrize("what", ["block", "grams"])
@pytest.mark.parametrize("b", [0, 2])
def test_a_missing_file_is_named(what, b, tmp_path):
    fill(Store(tmp_path), blocks=3)
    assert len(Store(tmp_path).files()) == 6
    path = Store(tmp_path).path(0, b, what)
    path.unlink()
    with pytest.raises(RunError, match=rf"{path.name} is missing.*; restore it"):
        Store(tmp_path).files()
    if what == "grams":
        assert len(Store(tmp_path).files(grams=False)) == 3
        with pytest.raises(RunError, match=f"{path.name} is missing"):
            Store(tmp_path).blocks[b].gram("b.0.up", 0)


def test_gram_matrices_that_were_never_kept_are_said_to_be_so(tmp_path):
    store = Store(tmp_path)
    fill(store, keep=False)
    assert store.bytes()["grams"] == 0
    with pytest.raises(RunError, match=r"block-000.* was made without the Gram matrices"):
        store.blocks[0].gram("b.0.up", 0)


def test_bytes_are_those_of_the_files(tmp_path):
    store = Store(tmp_path)
    fill(store)
    sizes = {what: 0 for what in ("block", "grams")}
    for path in tmp_path.iterdir():
        sizes["grams" if "grams" in path.name else "block"] += path.stat().st_size
    assert store.bytes() == {"models": sizes["block"], "grams": sizes["grams"]}


@pytest.mark.parametrize("failing", ["block", "grams"])
def test_a_full_disk_is_named_and_leaves_no_half_block(failing, tmp_path, monkeypatch):
    store, replace = Store(tmp_path), os.replace
    fill(store, blocks=1)

    def full(source, target):
        if failing in os.path.basename(target):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    dtypes = {layer.name: torch.float32 for layer in LAYERS}
    with pytest.raises(RunError, match=f"{failing}-001.*No space left on device.; make room"):
        store.add(0, 1, [0, 1, 2], LAYERS, models(1), dtypes, grams(1), True, 2)
    assert not store.has(0, 1)
    assert not [name for name in names(tmp_path) if "tmp" in name]


def test_what_a_killed_process_was_writing_is_removed(tmp_path):
    store = Store(tmp_path)
    fill(store)
    before = names(tmp_path)
    (tmp_path / ".pass-000-block-001.4711.tmp.safetensors").write_bytes(b"half")
    store.tidy()
    assert names(tmp_path) == before


@pytest.mark.parametrize("links", [True, False])
def test_moving_keeps_every_file_and_the_original(links, tmp_path, monkeypatch):
    store = Store(tmp_path / "here")
    fill(store)
    if not links:

        def refuse(*arguments):
            raise OSError(errno.EPERM, "no links")

        monkeypatch.setattr(os, "link", refuse)
    store.move(tmp_path / "here")
    assert len(store.files()) == 4
    store.move(tmp_path / "there")
    assert store.folder == tmp_path / "there"
    for name in names(tmp_path / "here"):
        one, other = tmp_path / "here" / name, tmp_path / "there" / name
        assert one.read_bytes() == other.read_bytes()
        assert one.samefile(other) == links
