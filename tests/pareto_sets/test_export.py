"""Exports: checkpoints that other tools load, their cards, and what a failure leaves."""

from __future__ import annotations

import errno
import json
import os
import types
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

from frontrunner import cli
from frontrunner.errors import ConfigError, DataError, RunError
from frontrunner.front.front import Front
from frontrunner.front.objective import Objective
from frontrunner.pareto_sets import beside, card
from frontrunner.pareto_sets.export import MARK, Origin, export, origin_of
from frontrunner.pareto_sets.merged import MergedSet, Rule
from frontrunner.tasks.merging import MergingTask
from frontrunner.weights import hub
from frontrunner.weights.files import INDEX, Safetensors
from frontrunner.weights.parents import Parents

P = [0.25, 0.75]
NAMES = ("base", "left", "right")


class Mean(Rule):
    """Σ p_k θ_k, the weights of a soup, written down once more."""

    scaled = False

    def merge(self, key, base, experts, weights, scale, prepared):
        parts = weights / weights.sum()
        return sum(float(p) * t for p, t in zip(parts, experts, strict=True))


class Scaled(Mean):
    scaled = True


class Checkpoints(MergingTask):
    name = "two_checkpoints"
    objectives = (Objective("left"), Objective("right"))
    reference_point = (1.0, 1.0)
    input_shape = ()
    output_sizes = ()
    has_data = False

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        super().__init__(None)
        self.template = folder / "base"
        self.folder, self.dtype = folder, dtype

    def make_parents(self):
        base, *experts = (Safetensors(self.folder / name) for name in NAMES)
        return Parents(base, experts)

    def network(self):
        raise AssertionError("an export of a merged set needs no network")

    def load(self):
        raise AssertionError("an export needs no data")

    def loss(self, outputs, batch, k):
        raise AssertionError("an export needs no data")


def merged(folder: Path, dtype: torch.dtype = torch.float32) -> MergedSet:
    """Three small checkpoints in hub format, as plain files, and their preference-weighted mean."""
    for seed, name in enumerate(NAMES):
        (folder / name).mkdir(parents=True)
        stream = torch.Generator().manual_seed(seed)
        tensors = {f"l{i}.weight": torch.randn(4, 5, generator=stream).to(dtype) for i in range(6)}
        save_file({**tensors, "count": torch.tensor(3)}, folder / name / "model.safetensors")
        says = {"model_type": "toy", "dtype": "float32", "text_config": {"torch_dtype": "float16"}}
        (folder / name / "config.json").write_text(json.dumps(says))
    beside = ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "merges.txt"]
    beside += ["special_tokens_map.json", "tokenizer.model", "chat_template.jinja", "LICENSE.txt"]
    for name in [*beside, "preprocessor_config.json", "train.py", "optimizer.pt", "README.md"]:
        (folder / "base" / name).write_text(f"the base's {name}")
    task = Checkpoints(folder, dtype)
    return MergedSet(task, Mean(), [[1, 0], P, [0, 1]], 1.0)


def origin(pareto_set: MergedSet, **facts) -> Origin:
    task = pareto_set.task
    known = {"base": "base", "experts": list(NAMES[1:]), "objectives": ["left", "right"], **facts}
    return Origin(known, task.parents().base, task.template)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


# ---------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shard_size", [10**9, 200])
def test_a_checkpoint_holds_the_merged_tensors_in_the_dtype_of_the_base(
    shard_size, dtype, tmp_path
):
    pareto_set = merged(tmp_path, dtype)
    done = export(pareto_set, P, tmp_path / "out", shard_size=shard_size, origin=origin(pareto_set))
    written = Safetensors(tmp_path / "out")
    left, right = (load_file(tmp_path / name / "model.safetensors") for name in NAMES[1:])
    for key in written.shapes():
        expected = left[key]
        if key != "count":
            expected = (P[0] * left[key].double() + P[1] * right[key].double()).to(dtype)
        assert written.dtype(key) == expected.dtype
        torch.testing.assert_close(written.read(key), expected)
    assert (tmp_path / "out" / INDEX).exists() == (shard_size == 200)
    assert (done.kind, done.parameters) == ("checkpoint", 6 * 20 + 1)
    assert set(done.files) == set(contents(tmp_path / "out"))


def test_configuration_and_tokenizer_come_along_and_nothing_else(tmp_path):
    pareto_set = merged(tmp_path, torch.bfloat16)
    export(pareto_set, P, tmp_path / "out", origin=origin(pareto_set))
    found = contents(tmp_path / "out")
    config = json.loads(found.pop("config.json"))
    assert (config["dtype"], config["text_config"]["torch_dtype"]) == ("bfloat16", "bfloat16")
    own = {"model.safetensors", "README.md", MARK.name}
    assert set(found) - own == {
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "generation_config.json",
        "tokenizer.model",
        "merges.txt",
        "chat_template.jinja",
        "preprocessor_config.json",
        "LICENSE.txt",
    }
    for name in set(found) - own:
        assert found[name] == f"the base's {name}".encode()


def test_what_the_base_has_and_the_set_has_not_is_the_bases(tmp_path, monkeypatch):
    pareto_set = merged(tmp_path)
    partly = types.SimpleNamespace(
        one=pareto_set.one,
        preference_kind="weight",
        state=lambda p: ((k, t.double()) for k, t in pareto_set.state(p) if k != "l2.weight"),
    )
    export(partly, P, tmp_path / "out", origin=origin(pareto_set))
    export(pareto_set, P, tmp_path / "whole", origin=origin(pareto_set))
    found, whole = (load_file(tmp_path / n / "model.safetensors") for n in ("out", "whole"))
    base = load_file(tmp_path / "base" / "model.safetensors")
    for key in base:
        assert torch.equal(found[key], (base if key == "l2.weight" else whole)[key])
        assert found[key].dtype == base[key].dtype


def test_a_set_with_names_of_its_own_is_exported_as_its_network(tmp_path):
    pareto_set = merged(tmp_path)
    network = nn.Linear(2, 2)
    own = types.SimpleNamespace(
        one=pareto_set.one,
        preference_kind="weight",
        state=lambda p: iter(network.state_dict().items()),
        materialize=lambda p: network,
    )
    assert export(own, P, tmp_path / "out", origin=origin(pareto_set)).kind == "network"
    assert set(load_file(tmp_path / "out" / "model.safetensors")) == {"weight", "bias"}
    assert json.loads((tmp_path / "out" / "model.json").read_text())["parameters"] == 6


# ---------------------------------------------------------------------- the card


def test_the_card_and_the_record_say_how_it_was_made(tmp_path):
    pareto_set = merged(tmp_path)
    facts = {
        "base": "some-one/base@main",
        "experts": [str(tmp_path / "left"), "expert 'in memory'"],
        "method": "Mean",
        "settings": {"depth": 3},
        "commands": ["frontrunner run seed=1"],
        "measured": {"evaluator": "accuracies", "split": "test", "values": [0.75, 0.5]},
    }
    export(pareto_set, P, tmp_path / "out", origin=origin(pareto_set, **facts))
    _, front, text = (tmp_path / "out" / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front) == {
        "base_model": ["some-one/base", "left"],
        "base_model_relation": "merge",
        "library_name": "transformers",
        "tags": ["merge", "frontrunner"],
    }
    for phrase in ("| left | 0.25 | 0.75 |", "| right | 0.75 | 0.5 |", "method: `Mean`",
                   '"depth": 3', "frontrunner run seed=1", "accuracies, test split"):  # fmt: skip
        assert phrase in text
    record = json.loads((tmp_path / "out" / MARK.name).read_text())
    assert record["preference"] == P
    assert {k: record[k] for k in facts} == facts


def test_a_runs_origin_is_its_configuration_record_and_measurement(tmp_path):
    task = merged(tmp_path).task
    front = Front(
        objectives=(Objective("left", unit="nats"), Objective("right", unit="nats")),
        values=np.array([[1.0, 2.0], [1.25, 1.5]]),
        preferences=np.array([[1.0, 0.0], P]),
        preference_kind="weight",
        info={"evaluator": "losses", "split": "test"},
    )
    config = {"method": {"_target_": "a.b.Mean", "x": 1}, "label": "mean", "seed": 4}
    record = {"packages": {"frontrunner": "9"}, "switches": {"s": "t"}, "config_hash": "0f",
              "overrides": ["task=two", "task.experts=[a,b]"]}  # fmt: skip
    made = origin_of(task, P, config, record, front, ["runs/x", "--preference", "0.25,0.75"])
    assert made.base is task.parents().base
    assert made.template == tmp_path / "base"
    assert made.facts["experts"] == [str(tmp_path / "left"), str(tmp_path / "right")]
    assert made.facts["settings"] == {"x": 1}
    assert made.facts["measured"] == {
        "evaluator": "losses", "split": "test", "values": [1.25, 1.5]
    }  # fmt: skip
    assert made.facts["commands"] == [
        "frontrunner run task=two 'task.experts=[a,b]'",
        "frontrunner export runs/x --preference 0.25,0.75",
    ]
    elsewhere = origin_of(task, [0.5, 0.5], config, record, front, [])
    assert "measured" not in elsewhere.facts


def test_the_coefficient_of_a_scaled_rule_is_on_the_card(tmp_path):
    task = merged(tmp_path).task
    pareto_set = MergedSet(task, Scaled(), [[1, 0], [0, 1]], [0.3, 0.7])
    export(pareto_set, P, tmp_path / "out", origin=origin(pareto_set))
    assert "coefficient λ at this preference: `0.7`" in (tmp_path / "out/README.md").read_text()


def test_the_card_of_an_adapter_says_what_it_is_added_to():
    text = card.text("x", "lora", {"preference": [1.0, 0.0], "base": "some-one/base"})
    assert "adapter of the model in `base/`" in text
    assert "base_model_relation: merge" in text  # an adapter of a parent it is not


# ---------------------------------------------------------------------- other formats


def test_a_format_that_a_set_has_not_is_refused_with_those_it_has(tmp_path):
    with pytest.raises(ConfigError, match=r"--format lora: a MergedSet has full$"):
        export(merged(tmp_path), P, tmp_path / "out", format="lora")
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------- the command


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run whose export is that of `merged`, in place of ``frontrunner.load``."""
    import frontrunner.run as runs

    pareto_set = merged(tmp_path)

    class Run:
        def export(self, preference, directory, **options):
            return export(pareto_set, preference, directory, origin=origin(pareto_set), **options)

    monkeypatch.setattr(runs, "load", lambda directory: Run())
    return [str(tmp_path / "run"), "--preference", "0.25,0.75", "--out", str(tmp_path / "out")]


def test_the_command_writes_shards_and_pushes_only_when_asked(run, tmp_path, monkeypatch, capsys):
    pushed = []
    monkeypatch.setattr(hub, "push", lambda *words: pushed.append(words) or "https://there/me/x")
    assert cli.main(["export", *run, "--shard-size", "200"]) == 0
    assert (tmp_path / "out" / INDEX).exists()
    assert pushed == []
    assert cli.main(["export", *run, "--push", "me/x"]) == 0
    assert not (tmp_path / "out" / INDEX).exists()
    assert pushed == [(tmp_path / "out", "me/x")]
    assert capsys.readouterr().out.splitlines()[-1] == "https://there/me/x"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "lora"], "--format lora: a MergedSet has full"),
        (["--shard-size", "much"], "--shard-size much: give a size such as 2GB"),
    ],
)
def test_the_command_refuses_in_one_line(words, message, run, tmp_path, capsys):
    assert cli.main(["export", *run, *words]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------- failures


def spoil_expert(folder: Path, monkeypatch) -> None:
    tensors = load_file(folder / "right" / "model.safetensors")
    tensors["l4.weight"][1, 1] = torch.nan
    save_file(tensors, folder / "right" / "model.safetensors")


def cut_expert(folder: Path, monkeypatch) -> None:
    file = folder / "right" / "model.safetensors"
    os.truncate(file, file.stat().st_size - 30)


def fill_disk(folder: Path, monkeypatch) -> None:
    def full(source, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(beside.shutil, "copyfile", full)


@pytest.mark.parametrize(
    ("befalls", "error", "message"),
    [
        (spoil_expert, DataError, r"'l4\.weight' in .*right holds NaN"),
        (cut_expert, DataError, r"right/model\.safetensors ends within 'l\d\.weight'"),
        (fill_disk, RunError, "could not be written .No space left on device.; make room"),
    ],
)
@pytest.mark.parametrize("earlier", [False, True])
def test_a_failure_leaves_the_folder_as_it_was(
    befalls, error, message, earlier, tmp_path, monkeypatch
):
    pareto_set = merged(tmp_path)
    if earlier:
        export(pareto_set, [1, 0], tmp_path / "out", origin=origin(pareto_set))
    before = contents(tmp_path / "out") if earlier else None
    befalls(tmp_path, monkeypatch)
    with pytest.raises(error, match=message):
        export(pareto_set, P, tmp_path / "out", origin=origin(pareto_set))
    assert sorted(os.listdir(tmp_path)) == sorted([*NAMES, *(["out"] if earlier else [])])
    if earlier:
        assert contents(tmp_path / "out") == before


def test_an_earlier_export_is_replaced_and_other_files_are_not(tmp_path):
    pareto_set = merged(tmp_path)
    for preference in ([1, 0], P):
        export(pareto_set, preference, tmp_path / "out", origin=origin(pareto_set))
    assert json.loads((tmp_path / "out" / MARK.name).read_text())["preference"] == P
    (tmp_path / "out" / "scores.json").write_text("mine")
    before = contents(tmp_path / "out")
    with pytest.raises(RunError, match="out holds other files; give a new folder"):
        export(pareto_set, P, tmp_path / "out", origin=origin(pareto_set))
    assert contents(tmp_path / "out") == before


# ---------------------------------------------------------------------- transformers


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_loads_an_export_in_shards(tied, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=tied,
    )  # fmt: skip
    for seed, name in enumerate(NAMES):
        torch.manual_seed(seed)
        model = transformers.LlamaForCausalLM(config).bfloat16()
        model.save_pretrained(tmp_path / name)
    task = Checkpoints(tmp_path, torch.bfloat16)
    pareto_set = MergedSet(task, Mean(), [P], 1.0)
    export(pareto_set, P, tmp_path / "out", shard_size=3000, origin=origin(pareto_set))
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    state = loaded.state_dict()
    assert loaded.dtype == torch.bfloat16
    for key, tensor in pareto_set.state(P):
        assert torch.equal(state[key], tensor)
    assert torch.equal(loaded.lm_head.weight, loaded.model.embed_tokens.weight) == tied
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 3
