"""Sets of sparse models: read back as they were, and exported with the zeros they should have."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import frontrunner
from frontrunner import cli
from frontrunner.errors import ConfigError, DataError, FrontError, RunError
from frontrunner.pareto_sets import compact, sparsity
from frontrunner.pareto_sets.export import export
from frontrunner.pareto_sets.sparse import SparseSet
from frontrunner.sparse.patterns import pattern_of
from frontrunner.sparse.store import Pruned
from frontrunner.weights.files import INDEX, Safetensors
from frontrunner.weights.source import InMemory

BETWEEN = [0.8, 0.2]
MOSP = ("method=pruning/mosp", "method.limit=20", "method.scores=scaled")
LLAMA = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


@pytest.fixture(scope="module")
def made(pruning, small_llama, tmp_path_factory):
    """``made(*overrides)``: a finished run, the same for the same overrides."""
    out = f"output={tmp_path_factory.mktemp('runs')}"
    return lambda *words, model=small_llama: frontrunner.run(pruning(model, *words, out))


@torch.no_grad()
def pruned(pareto_set: SparseSet, preference) -> dict[str, torch.Tensor]:
    return {layer.name: weight for layer, weight in pareto_set.pruned(preference)}


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for key, tensor in left.items():
        assert tensor.dtype == right[key].dtype
        assert torch.equal(tensor, right[key]), key


def logits(folder: Path) -> torch.Tensor:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ids = AutoTokenizer.from_pretrained(folder)("a word of 12", return_tensors="pt").input_ids
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder)(ids).logits


# ---------------------------------------------------------------------- reading


@pytest.mark.parametrize("refit", ["none", "pcg"])
def test_a_set_that_was_read_makes_the_models_of_the_run(refit, made):
    run = made(*MOSP, f"method.refit={refit}")
    again = frontrunner.load(run.directory).pareto_set
    for p in ([0.5, 0.5], [1, 0], BETWEEN):
        expected = pruned(run.pareto_set, p)
        state = again.materialize(p).state_dict()
        assert_same({name: state[name] for name in expected}, expected)


def test_non_zeros_and_bytes_are_among_the_facts_of_the_front(made):
    run = made(*MOSP, "method.refit=pcg")
    info, files = run.front.info, list((run.directory / "pareto_set").glob("pass-*"))
    kept = sum(pattern_of(x.pattern).kept(x.shape) for x in run.pareto_set.layers.values())
    assert info["nonzeros"] == kept
    assert info["sparsity"] == pytest.approx(0.7, abs=1e-3)
    grams = sum(p.stat().st_size for p in files if "grams" in p.name)
    assert info["bytes"]["grams"] == grams > 0
    assert info["bytes"]["models"] == sum(p.stat().st_size for p in files) - grams
    shapes = run.task.weights().shapes()
    assert info["bytes"]["dense_models"] == 3 * 4 * sum(int(np.prod(s)) for s in shapes.values())


def test_a_missing_file_of_gram_matrices_is_named(made):
    directory = made(*MOSP, "method.refit=pcg", "seed=1").directory
    (directory / "pareto_set" / "pass-000-grams-001.safetensors").unlink()
    with pytest.raises(RunError, match=r"grams-001\.safetensors is missing: .*refits need"):
        _ = frontrunner.load(directory).pareto_set


def test_a_dense_model_that_changed_since_is_named(pruning, language_model, tmp_path):
    model = language_model(tmp_path / "dense", **LLAMA)
    words = pruning(model, "method=pruning/magnitude", f"output={tmp_path}")
    directory = frontrunner.run(words).directory
    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"] *= 2
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RunError, match=r"the dense model, .*dense, has changed since"):
        _ = frontrunner.load(directory).pareto_set


# ---------------------------------------------------------------------- dense exports


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
@pytest.mark.parametrize("method", [MOSP, ("method=pruning/wanda",)])
def test_an_exported_checkpoint_is_the_sets_model_with_exactly_its_zeros(
    method, pattern, made, tmp_path
):
    run = made(*method, f"method.pattern={pattern}")
    p = BETWEEN if method == MOSP else [0.5, 0.5]
    done = run.export(p, tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    total = 0
    for layer, weight in run.pareto_set.pruned(p):
        stored = written[layer.name]
        assert torch.equal(stored, weight)
        if pattern == "2:4":
            assert torch.equal(
                (stored != 0).view(-1, 4).sum(1), torch.full((stored.numel() // 4,), 2)
            )
        else:
            assert stored.count_nonzero() == stored.numel() - int(stored.numel() * 0.7 + 0.5)
        total += int(stored.count_nonzero())
    base = run.task.weights()
    for name in set(base.shapes()) - set(run.pareto_set.layers):
        assert torch.equal(written[name], base.read(name))
    record = json.loads((tmp_path / "out" / "frontrunner_export.json").read_text())
    assert record["nonzeros"] == done.facts["nonzeros"] == total
    assert record["bytes"] == (tmp_path / "out" / "model.safetensors").stat().st_size
    assert f"- non-zeros: {total:,} of" in (tmp_path / "out" / "README.md").read_text()
    network = run.pareto_set.materialize(p)
    ids = torch.tensor([[97, 32, 98]])
    with torch.no_grad():
        from transformers import AutoModelForCausalLM

        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
        assert torch.equal(loaded(ids).logits, network(ids))


def test_a_sharded_checkpoint_in_half_precision_stays_one(
    pruning, language_model, tmp_path, monkeypatch
):
    from transformers import AutoModelForCausalLM

    folder = language_model(tmp_path / "whole", dtype="bfloat16", **LLAMA)
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(
        tmp_path / "dense", max_shard_size="20KB"
    )
    for file in folder.glob("token*"):
        (tmp_path / "dense" / file.name).write_bytes(file.read_bytes())
    assert (tmp_path / "dense" / INDEX).exists()
    run = frontrunner.run(pruning(tmp_path / "dense", *MOSP, f"output={tmp_path / 'runs'}"))
    run.export(BETWEEN, tmp_path / "out", shard_size=20_000)
    assert (tmp_path / "out" / INDEX).exists()
    written, dense = Safetensors(tmp_path / "out"), run.task.weights()
    assert {k: written.dtype(k) for k in dense.shapes()} == dict.fromkeys(
        dense.shapes(), torch.bfloat16
    )
    for layer, weight in run.pareto_set.pruned(BETWEEN):
        assert torch.equal(written.read(layer.name), weight)
        assert weight.count_nonzero() == pattern_of(layer.pattern).kept(layer.shape)
    assert logits(tmp_path / "out").dtype == torch.bfloat16


def test_files_whose_names_lack_the_networks_prefix_keep_their_names(
    pruning, language_model, tmp_path
):
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
    folder = language_model(tmp_path / "gpt2", kind="GPT2", **sizes)
    tensors = load_file(folder / "model.safetensors")
    hub = {k.removeprefix("transformer."): t for k, t in tensors.items()}
    assert hub.keys() != tensors.keys()
    save_file(hub, folder / "model.safetensors", metadata={"format": "pt"})
    run = frontrunner.run(pruning(folder, *MOSP, "method.refit=pcg", f"output={tmp_path / 'runs'}"))
    run.export(BETWEEN, tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert written.keys() == hub.keys()
    assert all(layer.transposed for layer in run.pareto_set.layers.values())
    for name, weight in pruned(run.pareto_set, BETWEEN).items():
        assert torch.equal(written[name.removeprefix("transformer.")], weight.mT)
    network = run.pareto_set.materialize(BETWEEN)
    from transformers import AutoModelForCausalLM

    with torch.no_grad():
        ids = torch.tensor([[97, 32, 98]])
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
        torch.testing.assert_close(loaded(ids).logits, network(ids))


def test_a_set_whose_base_is_unknown_is_exported_as_its_network(made, tmp_path):
    run = made(*MOSP)
    done = export(run.pareto_set, BETWEEN, tmp_path / "out")
    assert (done.kind, done.facts["nonzeros"]) == ("network", run.pareto_set.nonzeros())
    written = load_file(tmp_path / "out" / "model.safetensors")
    expected = pruned(run.pareto_set, BETWEEN)
    assert_same({name: written[name] for name in expected}, expected)


def test_names_are_found_under_one_prefix_more_or_less_and_no_other():
    layers = [Pruned(f"model.layers.{b}.up.weight", "g", (4, 2), "0.5", b == 1) for b in range(2)]
    shapes = {"layers.0.up.weight": (4, 2), "layers.1.up.weight": (2, 4)}

    def base(prefix: str, own: dict[str, tuple[int, ...]]) -> InMemory:
        return InMemory("base", {prefix + k: torch.zeros(s) for k, s in own.items()})

    for prefix in ("", "model.", "language.model."):
        names = sparsity.file_names(layers, base(prefix, shapes))
        assert names == {x.name: x.name.replace("model.", prefix) for x in layers}
    for odd in (shapes | {"layers.1.up.weight": (4, 2)}, {"layers.0.up.weight": (4, 2)}):
        with pytest.raises(DataError, match=r"base has no tensor for 'model\.layers\.\d"):
            sparsity.file_names(layers, base("", odd))


# ---------------------------------------------------------------------- verification


def more(tensor: torch.Tensor) -> None:
    tensor[(tensor == 0).nonzero()[0].tolist()[0], :] = 1.0


def fewer(tensor: torch.Tensor) -> None:
    tensor[0] = 0.0


def infinite(tensor: torch.Tensor) -> None:
    tensor[tensor != 0] = torch.inf


@pytest.mark.parametrize(
    ("spoil", "message"),
    [(more, "was written with"), (fewer, "was written with"), (infinite, "overflows in")],
)
def test_zeros_that_are_not_as_they_should_be_leave_no_export(
    spoil, message, made, tmp_path, monkeypatch
):
    run, write = made(*MOSP), frontrunner.pareto_sets.export.write_checkpoint

    def spoiled(folder, *rest):
        write(folder, *rest)
        tensors = load_file(folder / "model.safetensors")
        spoil(tensors["model.layers.1.mlp.up_proj.weight"])
        save_file(tensors, folder / "model.safetensors")

    monkeypatch.setattr(frontrunner.pareto_sets.export, "write_checkpoint", spoiled)
    with pytest.raises(RunError, match=rf"'model\.layers\.1\.mlp\.up_proj\.weight' {message}"):
        run.export(BETWEEN, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("pattern", ["0.5", "2:4", "0.5 of each row"])
def test_a_support_obeys_its_pattern_up_to_one_entry(pattern):
    support, _ = pattern_of(pattern).select(torch.rand(6, 8))
    assert sparsity.obeys(support, pattern)
    assert sparsity.obeys(support & (torch.rand(6, 8) < 0.5), pattern)
    support.view(-1)[int((~support).view(-1).nonzero()[0])] = True
    assert not sparsity.obeys(support, pattern)


# ---------------------------------------------------------------------- the compact form


@pytest.mark.parametrize(
    "method",
    [MOSP, ("method=pruning/alps", "method.calibration=weighted", "method.limit=20"),
     ("method=pruning/magnitude", "method.pattern=2:4")],
)  # fmt: skip
def test_a_compact_folder_makes_the_models_of_the_run_by_itself(
    method, pruning, language_model, tmp_path, capsys
):
    model = language_model(tmp_path / "dense", dtype="bfloat16", **LLAMA)
    run = frontrunner.run(pruning(model, *method, f"output={tmp_path / 'runs'}"))
    expected = {tuple(p): pruned(run.pareto_set, p) for p in run.pareto_set.preferences}
    dense = {name: run.task.weights().read(name) for name in run.task.weights().shapes()}
    done = run.export(None, tmp_path / "compact", format="compact")
    p = run.pareto_set.preferences[0].tolist()
    run.export(p, tmp_path / "direct")
    for folder in (model, run.directory):  # nothing else is needed
        folder.rename(folder.with_name("moved"))

    models = compact.open_folder(tmp_path / "compact")
    assert {tuple(q) for q in models.preferences} == set(expected)
    for q, layers in expected.items():
        assert_same(pruned(models, q), layers)
        whole = dict(sparsity.state(models, q, models.task.weights()))
        assert_same(whole, {name: layers.get(name, dense[name]) for name in whole})
        assert whole.keys() == dense.keys()

    words = ["--preference", ",".join(map(str, p)), "--out", str(tmp_path / "through")]
    assert cli.main(["export", str(tmp_path / "compact"), *words]) == 0
    assert "not zero (sparsity 0." in capsys.readouterr().out
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        one, other = tmp_path / "direct" / name, tmp_path / "through" / name
        assert one.read_bytes() == other.read_bytes()

    sizes = [f.stat().st_size for f in (tmp_path / "compact").glob("*.safetensors")]
    count = len(models.anchors)
    assert done.facts["bytes"] == sum(sizes)
    assert done.facts["bytes_dense_models"] == count * sum(2 * t.numel() for t in dense.values())
    assert done.facts["models"] == count
    values = sum(t.numel() for n, t in dense.items() if n not in models.layers)
    assert done.parameters == values + count * done.facts["nonzeros"]


def test_a_compact_folder_of_a_set_with_refits_holds_its_stored_models(made, tmp_path):
    run = made(*MOSP, "method.refit=pcg")
    run.export(None, tmp_path / "out", format="compact")
    assert not list((tmp_path / "out").glob("*grams*"))
    models = compact.open_folder(tmp_path / "out")
    for p in ([0.5, 0.5], [1, 0], [0, 1]):
        assert_same(pruned(models, p), pruned(run.pareto_set, p))
    with pytest.raises(FrontError, match=r"holds 3 models and none for \[0\.8, 0\.2\]"):
        pruned(models, BETWEEN)
    plain = compact.open_folder(tmp_path / "out", refit=False)
    assert_same(pruned(plain, BETWEEN), pruned(made(*MOSP).pareto_set, BETWEEN))


def test_a_compact_folder_of_a_set_that_solves_anew_holds_its_primary(made, tmp_path):
    run = made(*MOSP, "method.refit=admm")
    run.export(None, tmp_path / "out", format="compact")
    models = compact.open_folder(tmp_path / "out")
    assert_same(pruned(models, [0.5, 0.5]), pruned(run.pareto_set, [0.5, 0.5]))
    with pytest.raises(FrontError, match=r"holds 1 models and none for \[1\.0, 0\.0\]"):
        pruned(models, [1, 0])


def test_the_command_says_which_preferences_a_folder_without_refits_has(made, tmp_path, capsys):
    made(*MOSP, "method.refit=pcg").export(None, tmp_path / "out", format="compact")
    words = ["export", str(tmp_path / "out"), "--out", str(tmp_path / "model")]
    assert cli.main([*words, "--preference", "0.8,0.2"]) == 1
    assert "export this one from the run" in capsys.readouterr().err
    assert cli.main([*words, "--preference", "0.5,0.5"]) == 0


def test_the_only_model_of_a_set_is_exported_without_a_preference(made, tmp_path, capsys):
    directory, sparse = str(made("method=pruning/magnitude").directory), tmp_path / "sparse"
    assert cli.main(["export", directory, "--out", str(sparse), "--format", "compact"]) == 0
    for source, out in ((directory, "a"), (str(sparse), "b")):
        words = ["export", source, "--out", str(tmp_path / out)]
        assert cli.main([*words, "--preference", "1,0"]) == 1
        assert cli.main(words) == 0
    a, b = ((tmp_path / x / "model.safetensors").read_bytes() for x in "ab")
    assert a == b


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "compact", "--preference", "0.5,0.5"], "leave --preference out"),
        (["--format", "full"], "--format full needs --preference"),
        (["--format", "lora", "--preference", "0.5,0.5"], "a SparseSet has full, compact"),
    ],
)
def test_formats_and_preferences_that_do_not_go_together(words, message, made, tmp_path, capsys):
    directory = str(made(*MOSP).directory)
    assert cli.main(["export", directory, "--out", str(tmp_path / "out"), *words]) == 1
    lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("frontrunner")]
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "out").exists()


def test_damage_to_a_compact_folder_is_named(made, tmp_path):
    made(*MOSP).export(None, tmp_path / "out", format="compact")
    block = tmp_path / "out" / "pass-000-block-001.safetensors"
    whole = block.read_bytes()
    block.write_bytes(whole[:-2])
    with pytest.raises(RunError, match=r"block-001\.safetensors is damaged"):
        compact.open_folder(tmp_path / "out")
    block.unlink()
    with pytest.raises(RunError, match=r"block-001\.safetensors is missing"):
        compact.open_folder(tmp_path / "out")
    block.write_bytes(whole)
    (tmp_path / "out" / "compact.json").write_text("{}")
    with pytest.raises(RunError, match=r"compact\.json is damaged"):
        compact.open_folder(tmp_path / "out")


def test_a_full_disk_leaves_no_compact_folder(made, tmp_path, monkeypatch):
    def full(source, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    run = made(*MOSP)
    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(RunError, match=r"No space left on device.; make room"):
        run.export(None, tmp_path / "out", format="compact")
    assert not list(tmp_path.iterdir())


def test_other_sets_have_no_compact_form(made, tmp_path):
    class Other:
        pass

    with pytest.raises(ConfigError, match="--format compact: a Other has full"):
        frontrunner.pareto_sets.export.export(Other(), None, tmp_path / "out", format="compact")


def test_gram_matrices_are_not_uploaded(made, tmp_path, monkeypatch):
    from types import SimpleNamespace

    from frontrunner.tracking import tracker

    uploaded = []
    artifact = SimpleNamespace(add_file=lambda path, name, policy: uploaded.append(name))
    wandb = SimpleNamespace(Artifact=lambda name, type: artifact)
    monkeypatch.setattr(tracker, "_import", lambda: wandb)
    shown = tracker.WandbTracker(directory=tmp_path, run_id="x", artifact=True)
    shown._run = SimpleNamespace(log_artifact=lambda artifact: None)
    folder = made(*MOSP, "method.refit=pcg").directory / "pareto_set"
    shown.log_pareto_set(folder)
    kept = {p.name for p in folder.iterdir()}
    assert set(uploaded) == {name for name in kept if "grams" not in name} < kept
