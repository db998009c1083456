"""A checkpoint of transformers on domains of text: what is refused, and whole runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import frontrunner
from frontrunner import config
from frontrunner import run as runs
from frontrunner.errors import ConfigError, DataError
from frontrunner.tasks.text import TextSource
from frontrunner.tasks.text_domains import HubModel, TextDomains

pytest.importorskip("transformers", reason="transformers is not installed")

KINDS = {
    "Llama": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 32,
    },
    "OPT": {
        "hidden_size": 16,
        "ffn_dim": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "word_embed_proj_dim": 8,
        "max_position_embeddings": 32,
    },
    "GPT2": {"n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 32},
}


@pytest.fixture(scope="module")
def checkpoint(language_model, tmp_path_factory):
    """``checkpoint(kind)``: a folder in bfloat16 and several shards."""
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            one = language_model(
                tmp_path_factory.mktemp("whole") / kind, kind, "bfloat16", **KINDS[kind]
            )
            made[kind] = sharded(one, tmp_path_factory.mktemp("shards") / kind)
        return made[kind]

    return folder


def sharded(folder: Path, to: Path) -> Path:
    from transformers import AutoModelForCausalLM

    shutil.copytree(folder, to)
    (to / "model.safetensors").unlink()
    network = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    network.save_pretrained(to, max_shard_size="10KB")
    assert len(list(to.glob("model-*.safetensors"))) > 1
    return to


@pytest.fixture
def copied(checkpoint, tmp_path) -> Path:
    """A copy of the Llama to be spoiled."""
    return Path(shutil.copytree(checkpoint("Llama"), tmp_path / "model"))


def check(words: list[str]) -> None:
    runs.check(config.compose(words))


# ---------------------------------------------------------------------- before anything is spent


def change(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def without(folder: Path, pattern: str) -> None:
    for path in folder.glob(pattern):
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (shutil.rmtree, DataError, "model does not exist"),
        (lambda f: without(f, "config.json"), DataError, "model has no config.json"),
        (lambda f: (f / "config.json").write_text("{"), DataError, "config.json cannot be read"),
        (lambda f: (f / "config.json").write_text("[]"), DataError, "not the configuration"),
        (lambda f: without(f, "tokenizer*"), DataError, "model has no tokenizer"),
        (lambda f: without(f, "*.safetensors*"), DataError, "no model.safetensors"),
        (lambda f: without(f, "*-00002-*"), DataError, "model-00002"),
        (lambda f: change(f, num_local_experts=8), ConfigError, r"8 experts .*num_local_experts"),
        (
            lambda f: change(f, text_config={"n_routed_experts": 64}),
            ConfigError,
            r"64 experts .*n_routed_experts",
        ),
        (lambda f: change(f, architectures=["BertForMaskedLM"]), ConfigError, "a BertForMaskedLM"),
        (lambda f: change(f, is_encoder_decoder=True), ConfigError, "only decoder-only"),
        (
            lambda f: change(f, max_position_embeddings=8),
            ConfigError,
            r"must be at most 8, .*\(max_position_embeddings\), not 16",
        ),
    ],
)
def test_a_folder_that_cannot_be_pruned_is_refused_without_opening_transformers(
    spoil, error, message, copied, pruning, work, monkeypatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)  # an import of it fails
    words = pruning(copied, "method=pruning/alps")
    check(words)
    spoil(copied)
    with pytest.raises(error, match=message) as caught:
        check(words)
    assert "\n" not in str(caught.value)
    assert not list(work.rglob("*.json")) or copied.is_relative_to(work)


def test_experts_that_are_none_are_no_reason(copied, pruning, work) -> None:
    change(copied, num_experts=1, num_experts_per_tok=2, n_routed_experts=None)
    check(pruning(copied, "method=pruning/alps"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.name=owner/none"], "'owner/none' is neither a file or folder here, nor among"),
        (["model.dtype=int8"], "model.dtype=int8 is not one of auto, float32"),
        (["task.segment_length=33"], "must be at most 32"),
        (["task.window=1"], "must be at least 2"),
        (["task.segment_length=0"], "must be at least 2"),
        (["evaluator.points=3"], "answers no others; leave evaluator.points out"),
        (["task.windows.test=0"], "task.windows.test=0 must be at least 1"),
    ],
)
def test_settings_that_cannot_be_are_named(words, message, checkpoint, pruning, work) -> None:
    with pytest.raises((ConfigError, DataError), match=re.escape(message)):
        check(pruning(checkpoint("Llama"), "method=pruning/alps", *words))


def test_one_domain_is_too_few() -> None:
    with pytest.raises(ConfigError, match="at least two domains"):
        TextDomains(HubModel("x"), texts="prose")


def test_code_that_comes_with_a_checkpoint_is_not_run(copied, pruning, work) -> None:
    (copied / "own.py").write_text("raise SystemExit('it was run')\n")
    auto = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    change(copied, model_type="unheard_of", auto_map=auto)
    with pytest.raises(ConfigError, match="needs code of its own"):
        runs.build_task(config.compose(pruning(copied, "method=pruning/alps"))).network()


def test_a_tokenizer_of_another_model_is_refused(copied, pruning, work) -> None:
    task = runs.build_task(config.compose(pruning(copied, "method=pruning/alps")))
    change(copied, vocab_size=100)
    with pytest.raises(DataError, match=r"gives 'words' a token \d+, and the model has 100"):
        task.calibration(0)
    with pytest.raises(DataError, match="they do not belong together"):
        task.data("test")


# ---------------------------------------------------------------------- data


def test_segments_are_those_of_the_seed_and_come_from_the_train_text(
    checkpoint, pruning, work
) -> None:
    words = pruning(checkpoint("Llama"), "method=pruning/alps", "task.segment_length=20")
    task, same = (runs.build_task(config.compose([*words, "seed=1"])) for _ in range(2))
    other = runs.build_task(config.compose([*words, "seed=2"]))
    tokenizer = task.tokenizer()

    def numbers(text: str) -> str:
        return f" {' '.join(map(str, tokenizer(text)['input_ids']))} "

    for k, source in enumerate(task.sources.values()):
        ids = task.calibration(k)
        assert ids.shape == (8, 20)
        assert torch.equal(ids, same.calibration(k))
        assert not torch.equal(ids, other.calibration(k))
        train = numbers(source.texts()["train"])
        assert all(f" {' '.join(map(str, row))} " in train for row in ids.tolist())


@pytest.mark.parametrize("dtype", ["auto", "bfloat16", "float32", "float16"])
def test_the_model_is_run_in_the_precision_that_is_asked_for(
    dtype, checkpoint, pruning, work, capfd
) -> None:
    words = pruning(checkpoint("OPT"), "method=pruning/alps", f"model.dtype={dtype}")
    capfd.readouterr()  # of making the checkpoint
    network = runs.build_task(config.compose(words)).network()
    wanted = torch.bfloat16 if dtype == "auto" else getattr(torch, dtype)
    assert {p.dtype for p in network.parameters()} == {wanted}
    assert not network.training
    assert "Loading weights" not in capfd.readouterr().err


# ---------------------------------------------------------------------- whole runs


@pytest.mark.parametrize("method", ["alps", "mosp"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_checkpoint_runs_from_end_to_end(kind, method, checkpoint, pruning, work) -> None:
    run = frontrunner.run(pruning(checkpoint(kind), f"method=pruning/{method}"))
    assert run.front.values.shape[1] == 2
    assert np.isfinite(run.front.values).all()
    network = run.pareto_set.materialize([0.5, 0.5])
    layers = [
        p for name, p in network.named_parameters() if p.dim() == 2 and re.search(r"\.\d+\.", name)
    ]
    assert len(layers) == {"Llama": 21, "OPT": 18, "GPT2": 12}[kind]
    for layer in layers:
        assert layer.dtype == torch.bfloat16
        assert int((layer == 0).sum()) == pytest.approx(0.7 * layer.numel(), abs=1)
    texts = run.task.data("test").parts
    losses = []
    with torch.no_grad():
        for k, part in enumerate(texts):
            ids = part.tensors[0]
            logits = network(ids, k)[:, :-1].float().log_softmax(-1)
            losses.append(-float(logits.gather(-1, ids[:, 1:, None]).mean()))
    row = np.abs(run.front.preferences - 0.5).sum(1).argmin()
    assert np.log(run.front.values[row]) == pytest.approx(losses, rel=1e-2)


def test_a_front_has_the_perplexities_of_the_dense_model(checkpoint, pruning, work) -> None:
    words = pruning(checkpoint("Llama"), "method=pruning/magnitude", "method.sparsity=0.005")
    run = frontrunner.run(words)
    dense = run.front.info["dense"]
    assert list(dense) == ["words", "sums"]
    # Pruned by nothing, or by next to nothing.
    np.testing.assert_allclose(run.front.values[0], list(dense.values()), rtol=1e-2)
    network = run.task.network()
    values = run.task.measure(network, "test", what="perplexities")
    assert list(dense.values()) == values.tolist()


def test_two_devices_give_the_front_of_one(checkpoint, pruning, work) -> None:
    words = pruning(
        checkpoint("Llama"), "method=pruning/wanda", "method.batch=2", "model.dtype=float32"
    )
    one = frontrunner.run(words).front
    two = [frontrunner.run([*words, "runner.devices=2", f"output={name}"]).front for name in "ab"]
    assert np.array_equal(two[0].values, two[1].values)
    np.testing.assert_allclose(two[0].values, one.values, rtol=1e-3)


# ---------------------------------------------------------------------- the paper's domains


def test_the_papers_domains_are_read_as_the_hub_has_them(
    tmp_path, monkeypatch, hub_dataset
) -> None:
    datasets = pytest.importorskip("datasets", reason="the package 'datasets' is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def pages(word: str, n: int) -> list[dict[str, str]]:
        return [{"text": f"{word} page {i}", "url": "u", "timestamp": "t"} for i in range(n)]

    folders = {
        "c4": hub_dataset(
            tmp_path / "c4",
            "en",
            {"train": pages("train", 3000), "validation": pages("held", 1500)},
        ),
        "gsm8k": hub_dataset(
            tmp_path / "gsm8k",
            "main",
            {
                split: [{"question": f"{split} {i}?", "answer": f"#### {i}"} for i in range(200)]
                for split in ("train", "test")
            },
        ),
        "code": hub_dataset(
            tmp_path / "code",
            "default",
            {
                "train": [
                    {"instruction": f"Do {i}.", "input": "", "output": f"do({i})", "prompt": "x"}
                    for i in range(300)
                ]
            },
        ),
    }
    words = [f"task.texts.{name}.hub={folder}" for name, folder in folders.items()]
    words += ["model.name=x", "task.texts.c4.rows.train=500", "method=pruning/mosp"]
    texts = config.plain(config.compose(["task=text_domains_paper", *words]).task.texts)
    found = {name: TextSource(name, source).texts() for name, source in texts.items()}
    assert list(found) == ["c4", "code", "gsm8k"]
    held = found["c4"]["test"].split("\n\n")
    assert held == [f"held page {i}" for i in range(1100)]
    learned = found["c4"]["train"] + found["c4"]["validation"]
    assert sorted(learned.split()[2::3], key=int)[-1] == "499"
    assert found["gsm8k"]["test"].startswith("test 0?\n#### 0\n\ntest 1?")
    assert "test" not in found["gsm8k"]["train"]
    assert re.search(r"Do \d+\.\ndo\(\d+\)", found["code"]["train"])


REAL = os.environ.get("FRONTRUNNER_DATA", "")


@pytest.mark.skipif(
    not (REAL and (Path(REAL) / "wikitext-2" / "test.txt").is_file()),
    reason="FRONTRUNNER_DATA names no folder with wikitext-2/",
)
def test_the_real_files_make_a_task(checkpoint, quiet, work) -> None:
    words = [
        "task=text_domains_local",
        "model=hf",
        f"model.name={checkpoint('GPT2')}",
        "method=pruning/magnitude",
        "task.window=32",
        *quiet,
    ]
    task = runs.build_task(config.compose(words))
    assert [o.name for o in task.objectives] == ["wikitext", "gsm8k", "code"]
    task.check()
    for source in task.sources.values():
        assert min(len(part) for part in source.texts().values()) > 100_000
