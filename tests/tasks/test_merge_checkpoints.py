"""Merging language models: tiny embedded ones, own checkpoints, and what does not fit together."""

from __future__ import annotations

import copy
import json
import math
import re
import shutil

import numpy as np
import pytest
import torch

from frontrunner import config as configuration
from frontrunner import run as runs
from frontrunner.errors import ConfigError, DataError, SplitError
from frontrunner.evaluators.distances import Distances
from frontrunner.evaluators.objectives import Objectives
from frontrunner.methods.merging.average import Averaging
from frontrunner.pareto_sets.merged import MergedSet
from frontrunner.tasks import causal_lm, tiny_llama
from frontrunner.tasks.merge_checkpoints import MergeCheckpoints
from frontrunner.weights.networks import named_state

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
from safetensors.torch import load_file, save_file  # noqa: E402

TINY = {
    "vocabulary": 512,
    "layers": 1,
    "width": 16,
    "heads": 2,
    "base_steps": 25,
    "expert_steps": 25,
    "batch_size": 8,
}
OPTIONS = {
    "window": 16,
    "windows": {"train": 8, "validation": 8, "test": 12},
    "batch_windows": 5,
    "llama": TINY,
}


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRONTRUNNER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def embedded():
    """Base and experts on prose and code; trained once, in about two seconds."""
    task = MergeCheckpoints(texts=["prose", "code"], **OPTIONS)
    task.parents()
    return task


@pytest.fixture
def folders(embedded, tmp_path):
    """Copies of them, to be damaged."""
    for path in embedded.paths():
        shutil.copytree(path, tmp_path / path.name)
    return tmp_path


def own(folders, experts=("prose", "code"), **options):
    return MergeCheckpoints(
        str(folders / "base"), [str(folders / e) for e in experts], **{**OPTIONS, **options}
    )


def change(folder, edit):
    """Rewrite a checkpoint's tensors after ``edit`` changed them in place."""
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def change_json(path, **entries):
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def refused(task):
    with pytest.raises((ConfigError, DataError)) as caught:
        task.check()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------------- embedded models


def test_embedded_models_are_checkpoints_that_transformers_loads(embedded):
    ids = embedded.data("test")[[0, 1]][0][0]
    for path, weights in zip(
        embedded.paths(), [embedded.parents().base, *embedded.parents().experts], strict=True
    ):
        model = transformers.AutoModelForCausalLM.from_pretrained(path)
        assert model.dtype == torch.float32
        assert set(model.state_dict()) == set(weights.shapes())
        for key, tensor in model.state_dict().items():
            assert torch.equal(tensor, weights.read(key))
        tokenizer = transformers.AutoTokenizer.from_pretrained(path)
        assert len(tokenizer) == model.config.vocab_size == 512
        text = "def f(x):\n    return 12 + x  # é €\n"
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    with torch.no_grad():
        base = transformers.AutoModelForCausalLM.from_pretrained(embedded.template)
        torch.testing.assert_close(embedded.network()(ids, 1), base(ids).logits)


def test_each_expert_is_best_in_its_own_domain(embedded):
    models = MergedSet(embedded, Averaging(), np.eye(2), 1.0)
    losses = [embedded.measure(models.materialize(p), "validation") for p in np.eye(2)]
    base = embedded.measure(embedded.network(), "validation")
    for k in range(2):
        assert losses[k][k] < losses[1 - k][k]
        assert losses[k][k] < base[k]
    assert (base < math.log(512)).all()


def test_what_was_trained_is_found_again_and_what_is_damaged_is_repaired(embedded, monkeypatch):
    again = MergeCheckpoints(texts=["prose", "code"], **OPTIONS)
    monkeypatch.setattr(tiny_llama, "train", pytest.fail)
    assert again.paths() == embedded.paths()
    monkeypatch.undo()
    before = embedded.parents().experts[1].digest()
    (embedded.paths()[2] / "model.safetensors").unlink()
    repaired = MergeCheckpoints(texts=["prose", "code"], **OPTIONS)
    assert repaired.parents().experts[1].digest() == before
    assert sorted(p.name for p in embedded.paths()[0].parent.iterdir()) == ["base", "code", "prose"]


@pytest.mark.parametrize(
    "options",
    [
        {"expert_seed": 1},
        {"texts": ["code", "prose"]},
        {"llama": {**TINY, "expert_steps": 2}},
        {"window": 17},
        {"windows": {"train": 9}},
    ],
)
def test_other_settings_are_other_folders(options, embedded, monkeypatch):
    monkeypatch.setattr(tiny_llama, "_train_missing", lambda *a: None)
    task = MergeCheckpoints(**{"texts": ["prose", "code"], **OPTIONS, **options})
    assert task.paths()[0].parent != embedded.paths()[0].parent


def test_the_experts_do_not_learn_from_what_merging_methods_learn_from(embedded, monkeypatch):
    seen = []
    monkeypatch.setattr(tiny_llama, "train", lambda n, data, *rest: seen.extend(data))
    MergeCheckpoints(texts=["prose", "code"], **{**OPTIONS, "expert_seed": 5}).paths()
    held = embedded.data("train")
    assert len(seen) == 4  # two of the base, one of each expert
    for windows, _, k in seen:
        learned = {tuple(row) for row in windows.tolist()}
        assert len(learned) > 1000
        own_part = held.parts[k][:][0]
        assert len(own_part) == 8
        assert not learned & {tuple(row) for row in own_part.tolist()}


# ---------------------------------------------------------------------- the network


def test_the_networks_names_are_the_checkpoints(embedded):
    network = embedded.network()
    kept = {name for name, _ in network.named_parameters()}
    assert kept == set(embedded.parents().base.shapes())
    ids = embedded.data("train")[[0, 1, 2]][1][0]
    with torch.no_grad():
        logits = network(ids, 0)
        assert logits.shape == (3, 16, 512)
        assert torch.equal(logits, network(ids, 1))
        assert torch.equal(copy.deepcopy(network)(ids, 0), logits)
        zero = {n: torch.zeros_like(t) for n, t in named_state(network).items() if n in kept}
        assert not torch.func.functional_call(network, zero, (ids, 0)).any()


def test_measure_is_the_mean_over_windows_whatever_the_batch(embedded):
    network = embedded.network()
    losses = embedded.measure(network, "test")
    for k, part in enumerate(embedded.data("test").parts):
        ids = part[:][0]
        assert ids.shape == (12, 16)
        with torch.no_grad():
            log_p = network(ids, k)[:, :-1].double().log_softmax(-1)
        nll = -log_p.gather(-1, ids[:, 1:, None])
        assert losses[k] == pytest.approx(float(nll.mean()), rel=1e-5)
    np.testing.assert_allclose(
        embedded.measure(network, "test", what="perplexities"), np.exp(losses)
    )
    assert embedded.measures() == ("losses", "perplexities", "accuracies")
    with pytest.raises(SplitError):
        embedded.sealed().data("test")


def built(folder, shapes):
    return causal_lm.build(folder, shapes, "causal_lm")


def test_tied_embeddings_are_one_tensor(folders):
    base = folders / "base"
    change_json(base / "config.json", tie_word_embeddings=True)
    change(base, lambda t: t.pop("lm_head.weight"))
    shapes = {k: tuple(t.shape) for k, t in load_file(base / "model.safetensors").items()}
    network = built(base, shapes)
    assert network.lm_head.weight is network.model.embed_tokens.weight
    built(base, {**shapes, "lm_head.weight": shapes["model.embed_tokens.weight"]})


def test_a_tensor_that_is_missing_or_not_of_the_network_is_named(folders):
    base = folders / "base"
    shapes = {k: tuple(t.shape) for k, t in load_file(base / "model.safetensors").items()}
    with pytest.raises(DataError, match=r"has no tensor 'lm_head\.weight', which LlamaForCausalLM"):
        built(base, {k: s for k, s in shapes.items() if k != "lm_head.weight"})
    with pytest.raises(DataError, match=r"LlamaForCausalLM has no tensor 'visual\.proj'"):
        built(base, {**shapes, "visual.proj": (3,)})
    with pytest.raises(DataError, match=r"'model\.norm\.weight' has shape \(3,\), and \(16,\)"):
        built(base, {**shapes, "model.norm.weight": (3,)})
    change_json(base / "config.json", model_type="nothing_known")
    with pytest.raises(ConfigError, match="no such network") as caught:
        built(base, shapes)
    assert "\n" not in str(caught.value)


def test_buffers_of_older_checkpoints_have_a_place(folders):
    key = "model.layers.0.self_attn.rotary_emb.inv_freq"
    for name in ("base", "prose", "code"):
        change(folders / name, lambda t: t.update({key: torch.ones(4)}))
    task = own(folders, texts=["prose", "code"])
    merged = MergedSet(task, Averaging(), [[0.5, 0.5]], 1.0)
    assert torch.equal(named_state(merged.materialize([0.5, 0.5]))[key], torch.ones(4))


# ---------------------------------------------------------------------- own checkpoints


def test_own_checkpoints_give_what_the_embedded_ones_do(folders, embedded):
    task = own(folders, texts=["prose", "code"])
    task.check()
    merged = [MergedSet(t, Averaging(), [[0.3, 0.7]], 1.0) for t in (task, embedded)]
    one, other = (Objectives().score(m, m.task, np.array([0.3, 0.7]), "cpu") for m in merged)
    np.testing.assert_array_equal(one, other)
    assert task.template == folders / "base"


def test_without_texts_there_is_no_network_and_no_data(folders, monkeypatch):
    monkeypatch.setattr(MergeCheckpoints, "network", pytest.fail)
    task = own(folders, texts=None)
    task.check()
    assert [o.name for o in task.objectives] == ["prose", "code"]
    assert {o.unit for o in task.objectives} == {"relative distance"}
    assert task.reference_point == (1.1, 1.1)
    assert not task.has_data
    merged = MergedSet(task.sealed(), Averaging(), np.eye(2), 1.0)
    values = [Distances().score(merged, task, p, "cpu") for p in np.eye(2)]
    assert values[0][0] == values[1][1] == 0.0
    with pytest.raises(ConfigError, match=r"needs task\.texts"):
        task.data("train")


def test_an_adapter_can_be_an_expert(folders):
    lora = folders / "lora"
    lora.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    (lora / "adapter_config.json").write_text(json.dumps(config))
    name, stream = "model.layers.0.self_attn.q_proj", torch.Generator().manual_seed(0)
    down, up = (torch.randn(s, generator=stream) for s in ((2, 16), (16, 2)))
    factors = {"lora_A.weight": down, "lora_B.weight": up}
    save_file(
        {f"base_model.model.{name}.{k}": t for k, t in factors.items()},
        lora / "adapter_model.safetensors",
    )
    task = own(folders, ["prose", "lora"], texts=["prose", "code"])
    task.check()
    expert = dict(MergedSet(task, Averaging(), np.eye(2), 1.0).state([0.0, 1.0]))
    base = load_file(folders / "base" / "model.safetensors")
    for key, tensor in base.items():
        change_by = 2 * up @ down if key == f"{name}.weight" else 0
        torch.testing.assert_close(expert[key], tensor + change_by)


def test_experts_of_equal_folder_names_are_told_apart(folders):
    for name in ("prose", "code"):
        shutil.copytree(folders / name, folders / "runs" / name / "final")
    task = own(folders, ["runs/prose/final/", "runs/code/final"], texts=None)
    assert len({o.name for o in task.objectives}) == 2


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (
            lambda f: change_json(f / "code" / "config.json", model_type="mistral"),
            ["code/config.json", "model_type=mistral", "not one architecture"],
        ),
        (
            lambda f: change_json(f / "code" / "config.json", num_attention_heads=4),
            ["code/config.json", "num_attention_heads=4"],
        ),
        (
            lambda f: (f / "code" / "config.json").write_text("{"),
            ["code/config.json", "not readable as JSON"],
        ),
        (
            lambda f: change(f / "code", lambda t: t.pop("model.norm.weight")),
            ["code has no tensor 'model.norm.weight'"],
        ),
        (
            lambda f: change(f / "code", lambda t: t.update({"extra": torch.ones(2)})),
            ["code has a tensor 'extra'"],
        ),
        (
            lambda f: change(f / "code", lambda t: t.update({"lm_head.weight": torch.ones(9, 2)})),
            ["'lm_head.weight' has shape (9, 2)", "code"],
        ),
        (lambda f: shutil.rmtree(f / "code"), ["code does not exist"]),
        (
            lambda f: (f / "code" / "model.safetensors").write_bytes(
                (f / "code" / "model.safetensors").read_bytes()[:-9]
            ),
            ["code/model.safetensors ends before"],
        ),
    ],
    ids=["type", "heads", "json", "missing", "extra", "shape", "path", "truncated"],
)
def test_parents_that_do_not_fit_are_refused_before_anything_is_read(edit, words, folders):
    edit(folders)
    message = refused(own(folders, texts=None))
    for word in words:
        assert word in message


def test_another_vocabulary_is_refused_by_its_first_difference(folders):
    path = folders / "code" / "tokenizer.json"
    content = json.loads(path.read_text())
    content["truncation"] = {"max_length": 7}
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    path.write_text(json.dumps(content))
    own(folders, texts=None).check()  # the same vocabulary, written otherwise
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(content))
    message = refused(own(folders, texts=None))
    assert "code/tokenizer.json" in message
    assert f"model: vocab: a: {vocabulary['a']} and {vocabulary['b']}" in message


def test_nan_weights_are_named(folders):
    change(folders / "code", lambda t: t["model.norm.weight"].fill_(float("nan")))
    task = own(folders, texts=None)
    merged = MergedSet(task, Averaging(), np.eye(2), 1.0)
    with pytest.raises(DataError, match=r"'model\.norm\.weight' in \S*code"):
        Distances().evaluate(merged, task)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"texts": ["prose", "cod"]}, "no embedded text 'cod'; did you mean 'code'"),
        ({"texts": ["prose"]}, "at least two domains"),
        ({"texts": ["prose", "prose"]}, "names a domain twice"),
        ({"texts": None}, "give task.base and task.experts"),
        ({"experts": ["a", "b"]}, "needs task.base"),
        ({"base": "x", "experts": ["a"]}, "at least two models"),
        ({"base": "x", "experts": "abc"}, "task.experts=abc is one model"),
        ({"base": "x", "experts": ["a", "b"]}, "3 domains (prose, code, arithmetic) for 2"),
        ({"base": "x", "experts": ["a", "a"], "texts": None}, "names a model twice"),
        ({"window": 1}, "at least 2"),
        ({"windows": {"tset": 1}}, "did you mean 'test'"),
        ({"windows": {"test": 0}}, "task.windows.test=0"),
        ({"windows": {"train": None}}, "nothing to learn"),
        ({"architecture": "causal"}, "did you mean 'causal_lm'"),
        ({"llama": {"vocabulary": 100}}, "vocabulary=100"),
        ({"llama": {"width": 30}}, "width=30"),
        ({"llama": {"base_steps": 0}}, "needs positive numbers"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        MergeCheckpoints(**options)


@pytest.mark.parametrize(
    ("lines", "train", "message"),
    [(1, 8, "the validation text of 'mine' has"), (200, 10_000, "10000 are held out")],
)
def test_a_text_that_is_too_short_is_found_before_training(
    lines, train, message, tmp_path, monkeypatch
):
    monkeypatch.setattr(tiny_llama, "train", pytest.fail)
    splits = {split: tmp_path / f"{split}.txt" for split in ("train", "validation", "test")}
    for split, path in splits.items():
        path.write_text("Some words of a text.\n" * (200 if split == "train" else lines))
    texts = {"prose": "embedded", "mine": splits}
    task = MergeCheckpoints(texts=texts, **{**OPTIONS, "windows": {"train": train}})
    task.check()
    with pytest.raises(DataError, match=message):
        task.parents()


def test_building_networks_does_not_touch_the_global_stream(embedded):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    embedded.network()
    assert torch.equal(torch.rand(1), expected)


# ---------------------------------------------------------------------- configurations and runs

RUN = ["task=merge_checkpoints", "method=merging/rewarded_soup", "points=3"]


def evaluator_of(*words):
    return configuration.build(configuration.compose([*RUN, *words]).evaluator)


def test_the_task_chooses_the_evaluator_and_the_command_line_overrules_it():
    losses, words = evaluator_of(), ["task.base=a", "task.experts=[b,c]"]
    assert isinstance(losses, Objectives)
    assert losses.what == "losses"
    assert isinstance(evaluator_of("task.texts=null", *words), Distances)
    assert evaluator_of("evaluator=perplexity").what == "perplexities"
    assert isinstance(evaluator_of("evaluator=distances"), Distances)
    assert evaluator_of("task.texts=null", "evaluator.points=7", *words).points == 7


def test_a_run_without_data(folders, work, quiet):
    run = runs.run(
        [
            *RUN,
            *quiet,
            f"task.base={folders / 'base'}",
            f"task.experts=[{folders / 'prose'},{folders / 'code'}]",
            "task.texts=null",
        ]
    )
    front = run.front
    assert front.values[0][0] == front.values[2][1] == 0.0
    assert front.info["evaluator"] == "distances"
    assert [o.unit for o in front.objectives] == ["relative distance"] * 2
    # With τ_1 and τ_2 at any angle, the average is as far from each as they are apart, halved.
    base, one, two = (
        load_file(folders / n / "model.safetensors") for n in ("base", "prose", "code")
    )
    squares = [
        sum(float((a[k].double() - b[k].double()).square().sum()) for k in base)
        for a, b in ((one, two), (base, one), (base, two))
    ]
    apart, first, second = np.sqrt(squares)
    middle = front.values[1]
    np.testing.assert_allclose(middle, [apart / 2 / first, apart / 2 / second], rtol=1e-5)


def test_a_run_on_embedded_texts(work, quiet, embedded):
    settings = [f"task.llama.{k}={v}" for k, v in TINY.items()]
    run = runs.run(
        [
            *RUN,
            *quiet,
            "task.texts=[prose,code]",
            "task.window=16",
            "task.windows.train=8",
            "task.windows.test=12",
            "evaluator=perplexity",
            *settings,
        ]
    )
    values = run.front.values
    assert values[0][0] < values[2][0]
    assert values[2][1] < values[0][1]
    assert run.front.reference_point == pytest.approx([math.exp(6.0)] * 2)
    models = MergedSet(embedded, Averaging(), np.eye(2), 1.0)
    ends = [embedded.measure(models.materialize(p), "test", what="perplexities") for p in np.eye(2)]
    np.testing.assert_allclose(values[[0, 2]], ends, rtol=1e-5)
