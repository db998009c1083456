"""Scores of lm-eval on models in memory: the same as by its command, and never those of another."""

from __future__ import annotations

import json
import logging
import math
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import frontrunner
from frontrunner import run as runs
from frontrunner.errors import ConfigError, DataError, FrontError
from frontrunner.evaluators import lm_eval_tasks
from frontrunner.evaluators.lm_eval import LmEval
from frontrunner.evaluators.lm_eval_scores import network_digest, quiet, tokenizer_digest
from frontrunner.front.collect import collect
from frontrunner.front.compare import compare
from frontrunner.front.points import PointLog
from frontrunner.methods.merging.task_arithmetic import TaskVectors
from frontrunner.pareto_sets.merged import MergedSet
from frontrunner.tasks import causal_lm
from frontrunner.tasks.merge_checkpoints import MergeCheckpoints
from frontrunner.tasks.multi_digits import MultiDigits
from frontrunner.tasks.text import embedded

pytest.importorskip("lm_eval", reason="lm-eval is not installed")

PROSE, CODE, ARITHMETIC = (f"frontrunner_{d}" for d in ("prose", "code", "arithmetic"))
CHOICE, EXACT = "frontrunner_arithmetic_choice", "frontrunner_arithmetic_exact"
LLAMA = {"vocabulary": 512, "layers": 1, "width": 16, "heads": 2, "base_steps": 25,
         "expert_steps": 25, "batch_size": 8}  # fmt: skip
WORDS = ["task=merge_checkpoints", "task.texts=[prose,code]", "task.window=16",
         "task.windows={train:8,validation:8,test:12}",
         f"task.llama={str(LLAMA).replace(chr(39), '').replace(' ', '')}",
         "method=merging/task_arithmetic", "method.scale=1", "logger=none", "runner.progress=none",
         "runner.accelerator=cpu"]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRONTRUNNER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """lm-eval asks pip for every installed package after each evaluation, for over a second."""
    monkeypatch.setattr("torch.utils.collect_env.get_pretty_env_info", lambda: "")


@pytest.fixture(scope="module")
def task():
    options = {"window": 16, "windows": {"train": 8, "validation": 8, "test": 12}, "llama": LLAMA}
    task = MergeCheckpoints(texts=["prose", "code"], **options)
    task.parents()
    return task


@pytest.fixture(scope="module")
def merged(task):
    return MergedSet(task, TaskVectors(), [[1, 0], [0.5, 0.5], [0, 1]], 1.0)


@pytest.fixture
def evaluations(monkeypatch):
    """Names of the tasks of every evaluation that lm-eval was asked for."""
    import lm_eval

    asked: list[list[str]] = []
    original = lm_eval.simple_evaluate

    def simple_evaluate(**options):
        asked.append([getattr(t, "task_name", None) or t.name for t in options["tasks"]])
        return original(**options)

    monkeypatch.setattr(lm_eval, "simple_evaluate", simple_evaluate)
    return asked


# ---------------------------------------------------------------------- scores


def network_of(merged):
    return causal_lm.original(merged.materialize([0.5, 0.5]))


def by_hand(network, tokenizer, text: str, window: int) -> float:
    """Negative log-likelihood in nats of a text with a BOS token in front: each window predicts as
    many tokens, but for the last, which has a whole window before its end to read."""
    ids, total = tokenizer(text, add_special_tokens=False)["input_ids"], 0.0
    ids = [tokenizer.bos_token_id, *ids]
    for start in range(1, len(ids), window):
        targets = ids[start : start + window]
        end = start + len(targets)
        inputs = torch.tensor([ids[max(0, end - 1 - window) : end - 1]])
        with torch.no_grad():
            logits = network(input_ids=inputs).logits[0, -len(targets) :].double().log_softmax(-1)
        total -= float(logits[torch.arange(len(targets)), targets].sum())
    return total


def test_rolling_perplexity_is_that_of_documents_with_a_token_in_front(task, merged):
    words = [PROSE, f"{PROSE}:byte_perplexity", f"{PROSE}:word_perplexity"]
    evaluator = LmEval(words, limit=3, max_length=32)
    values = evaluator.score(merged, task, np.array([0.5, 0.5]), "cpu")
    documents = lm_eval_tasks.pieces(embedded("prose")["test"])[:3]
    nats = sum(by_hand(network_of(merged), task.tokenizer(), d, 32) for d in documents)
    size = sum(len(d.encode()) for d in documents)
    words_there = sum(len(re.split(r"\s+", d)) for d in documents)
    expected = [nats / size / math.log(2), math.exp(nats / size), math.exp(nats / words_there)]
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    assert [o.name for o in evaluator.axes(task)[0]] == [f"{PROSE}:bits_per_byte", *words[1:]]
    assert [o.direction for o in evaluator.axes(task)[0]] == ["min"] * 3


def test_choices_are_scored_by_their_likelihood(task, merged):
    evaluator = LmEval([CHOICE, EXACT], limit=20)
    values, errors = evaluator.scored(merged, task, np.array([0.5, 0.5]), "cpu")
    network, tokenizer, right = network_of(merged), task.tokenizer(), []
    folder = lm_eval_tasks.local_tasks()
    for line in (folder / "questions.jsonl").read_text().splitlines()[:20]:
        q = json.loads(line)
        scores = []
        for choice in q["choices"]:
            before = tokenizer(q["question"], add_special_tokens=False)["input_ids"]
            whole = tokenizer(f"{q['question']} {choice}", add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                logits = network(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
            n = len(before)
            picked = logits[torch.arange(n - 1, len(whole) - 1), whole[n:]]
            scores.append(float(picked.sum()))
        right.append(int(np.argmax(scores)) == q["label"])
    assert values[0] == pytest.approx(np.mean(right))
    spread = np.std(right, ddof=1) / math.sqrt(20)
    assert errors[f"stderr {CHOICE}"] == pytest.approx(spread)
    assert [o.direction for o in evaluator.axes(task)[0]] == ["max", "max"]
    assert evaluator.axes(task)[1] == [0.0, 0.0]


def test_an_exact_match_is_the_first_number_of_the_answer(task, merged, monkeypatch):
    from lm_eval.models.huggingface import HFLM

    answers = [d["answer"] for d in lm_eval_tasks._questions(embedded("arithmetic")["test"], 3)]
    said = [f" {answers[0]} or so", " none", f" {answers[2]}"]
    monkeypatch.setattr(HFLM, "generate_until", lambda self, requests, **_: said[: len(requests)])
    evaluator = LmEval([EXACT, PROSE], limit=3)
    assert evaluator.score(merged, task, np.array([1.0, 0.0]), "cpu")[0] == pytest.approx(2 / 3)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_the_batch_size_reaches_the_model_and_changes_no_score(
    task, merged, monkeypatch, batch_size
):
    from lm_eval.models.huggingface import HFLM

    sizes, original = [], HFLM._model_call

    def model_call(self, inps, *args, **options):
        sizes.append(len(inps))
        return original(self, inps, *args, **options)

    expected = LmEval([PROSE, CHOICE], limit=7).score(merged, task, np.array([1.0, 0.0]), "cpu")
    monkeypatch.setattr(HFLM, "_model_call", model_call)
    evaluator = LmEval([PROSE, CHOICE], limit=7, batch_size=batch_size)
    found = evaluator.score(merged, task, np.array([1.0, 0.0]), "cpu")
    assert max(sizes) == batch_size
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_examples_go_before_questions(task, merged, monkeypatch):
    from lm_eval.models.huggingface import HFLM

    seen = []

    def generate(self, requests, **_):
        seen.append([r.args[0] for r in requests])
        return ["0"] * len(requests)

    monkeypatch.setattr(HFLM, "generate_until", generate)
    evaluator = LmEval([EXACT, PROSE], limit=2, num_fewshot=3)
    for preference in ([1.0, 0.0], [0.0, 1.0]):  # drawn alike for every model
        evaluator.score(merged, task, np.array(preference), "cpu")
    assert seen[0] == seen[1]
    shots = (lm_eval_tasks.local_tasks() / "shots.jsonl").read_text()
    lines = seen[0][0].splitlines()
    assert len(lines) == 4
    assert all(line.split(" = ")[0] in shots for line in lines[:3])


@pytest.mark.parametrize("tied", [False, True])
def test_the_view_that_lm_eval_gets_is_the_same_model(task, tied):
    from lm_eval.models.huggingface import HFLM
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=512, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=tied,
        bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    network = causal_lm.per_objective(LlamaForCausalLM(config)).eval()
    before = dict(network.named_parameters(remove_duplicate=False))
    view = causal_lm.original(network)
    HFLM(pretrained=view, tokenizer=task.tokenizer())
    assert type(view) is LlamaForCausalLM
    after = dict(network.named_parameters(remove_duplicate=False))
    assert all(after[name] is tensor for name, tensor in before.items())
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert torch.equal(network(ids, 1), view(ids).logits)
        network.get_parameter("lm_head.weight").mul_(2.0)
        assert torch.equal(network(ids, 0), view(ids).logits)
    with pytest.raises(ConfigError, match="a Linear is not a language model of transformers"):
        causal_lm.original(torch.nn.Linear(2, 2))


# ---------------------------------------------------------------------- the cache


def test_other_weights_are_scored_anew_and_the_same_are_not(task, merged, evaluations):
    evaluator = LmEval([PROSE, CODE], limit=2)
    network = network_of(merged)
    first = evaluator.results(network, task)
    assert evaluations == [[PROSE, CODE]]
    assert evaluator.results(network, task) == first
    assert LmEval([CODE, PROSE], limit=2).results(network, task) == first
    assert len(evaluations) == 1
    weight = network.get_parameter("lm_head.weight")
    kept = weight[3, 5].item()
    with torch.no_grad():
        weight[3, 5] += 1.0
    try:
        changed = evaluator.results(network, task)
    finally:
        with torch.no_grad():
            weight[3, 5] = kept
    assert len(evaluations) == 2
    assert changed[PROSE]["bits_per_byte,none"] != first[PROSE]["bits_per_byte,none"]
    assert evaluator.results(network, task) == first
    assert len(evaluations) == 2


@pytest.mark.parametrize(
    "options",
    [{"limit": 1}, {"max_length": 20}, {"num_fewshot": 1}, {"bootstrap_iters": 0}],
)
def test_other_settings_are_scored_anew(task, merged, evaluations, options):
    LmEval([PROSE, CHOICE], limit=2).results(network_of(merged), task)
    before = len(evaluations)
    LmEval([PROSE, CHOICE], **{"limit": 2, **options}).results(network_of(merged), task)
    assert len(evaluations) == before + 1


def test_only_tasks_without_a_score_are_evaluated(task, merged, evaluations):
    LmEval([PROSE, CODE], limit=2, max_length=48).results(network_of(merged), task)
    LmEval([PROSE, CHOICE], limit=2, max_length=48).results(network_of(merged), task)
    assert evaluations == [[PROSE, CODE], [CHOICE]]


def test_an_edited_document_is_another_task(tmp_path, task, merged, evaluations):
    words = [own_task(tmp_path, "mine", ["one two three", "four five"]), PROSE]
    options = {"include_path": str(tmp_path), "limit": 2}
    first = LmEval(words, **options).results(network_of(merged), task)
    own_task(tmp_path, "mine", ["one two three", "four six"])
    second = LmEval(words, **options).results(network_of(merged), task)
    assert evaluations[-1] == ["mine"]
    assert first["mine"] != second["mine"]


def test_digests_see_one_bit_and_not_where_a_model_came_from(task, merged):
    network, tokenizer = network_of(merged), task.tokenizer()
    before = network_digest(network)
    network.config._name_or_path = "elsewhere"
    assert network_digest(network) == before
    bias = network.get_parameter("model.norm.weight")
    bits = bias.data.view(torch.int32)
    bits[0] ^= 1
    assert network_digest(network) != before
    bits[0] ^= 1
    assert network_digest(network) == before
    digest = tokenizer_digest(tokenizer)
    assert tokenizer_digest(task.tokenizer()) == digest
    tokenizer.add_tokens(["<new>"])
    assert tokenizer_digest(tokenizer) != digest


def test_a_damaged_file_of_the_cache_is_replaced(task, merged, evaluations):
    evaluator = LmEval([PROSE, CODE], limit=1, max_length=40)
    first = evaluator.results(network_of(merged), task)
    folder = Path(os.environ["FRONTRUNNER_CACHE"]) / "lm_eval" / "scores"
    for path in folder.rglob("*.json"):
        path.write_text("{")
    assert evaluator.results(network_of(merged), task) == first
    assert len(evaluations) == 2


# ---------------------------------------------------------------------- tasks


def own_task(folder: Path, name: str, texts: list[str], **changes) -> str:
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    template = yaml.safe_load((lm_eval_tasks.TEMPLATES / f"{PROSE}.yaml").read_text())
    content = {**template, "task": name, "dataset_kwargs": {"data_files": {"test": str(data)}}}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({**content, **changes}))
    return name


def test_own_tasks_lie_as_yaml_with_absolute_paths_beside_their_data(tmp_path):
    folder = lm_eval_tasks.local_tasks()
    assert {path.stem for path in folder.glob("*.yaml")} == set(lm_eval_tasks.LOCAL)
    for path in folder.glob("*.yaml"):
        named = yaml.safe_load(path.read_text())["dataset_kwargs"]["data_files"].values()
        assert all(Path(p).is_absolute() and Path(p).is_file() for p in named)
    text = "".join(json.loads(x)["text"] for x in (folder / "code.jsonl").read_text().splitlines())
    assert text == embedded("code")["test"]
    for line in (folder / "questions.jsonl").read_text().splitlines():
        q = json.loads(line)
        assert f"{q['question']} {q['answer']}\n" in embedded("arithmetic")["test"]
        assert q["choices"][q["label"]] == q["answer"]
        assert len(set(q["choices"])) == 4
        left = q["question"].removesuffix(" =").replace("/", "//")
        assert eval(left) == int(q["answer"])
    test = (folder / "questions.jsonl").read_text()
    shots = [json.loads(x)["question"] for x in (folder / "shots.jsonl").read_text().splitlines()]
    assert not [q for q in shots if json.dumps(q) in test]


def test_a_group_is_one_objective_where_it_has_a_score(tmp_path, task, merged):
    for name, text in (("left", "some words here"), ("right", "and some others there")):
        own_task(tmp_path, name, [text, text[::-1]])
    group = {"group": "both", "task": ["left", "right"], "metadata": {"version": 3.0}}
    whole = {"aggregate_metric_list": [{"metric": "bits_per_byte", "weight_by_size": False}]}
    (tmp_path / "both.yaml").write_text(yaml.safe_dump({**group, **whole}))
    (tmp_path / "bare.yaml").write_text(yaml.safe_dump({**group, "group": "bare"}))
    evaluator = LmEval(["both", PROSE], str(tmp_path), limit=2)
    values = evaluator.score(merged, task, np.array([1.0, 0.0]), "cpu")
    single = LmEval(["left", "right"], str(tmp_path), limit=2)
    each = single.score(merged, task, np.array([1.0, 0.0]), "cpu")
    assert values[0] == pytest.approx(each.mean())
    assert evaluator.axes(task)[0][0].unit == "bits_per_byte"
    with pytest.raises(ConfigError, match=r"'bare' of lm-eval is 2 tasks .*\(left, right\)"):
        LmEval(["bare", PROSE], str(tmp_path)).check(task)
    with pytest.raises(ConfigError, match="Duplicate task 'left'"):
        LmEval(["both", "left"], str(tmp_path)).check(task)


def test_names_are_looked_up_before_lm_evals_own_tasks_are_indexed(monkeypatch, task):
    from lm_eval.tasks import TaskManager

    asked, original = [], TaskManager.__init__

    def init(self, **options):
        asked.append(options["include_defaults"])
        original(self, **{**options, "include_defaults": False})

    monkeypatch.setattr(TaskManager, "__init__", init)
    LmEval([PROSE, CODE]).check(task)
    assert asked == [False]
    with pytest.raises(ConfigError, match=r"no task 'frontrunner_pros'; did you mean"):
        LmEval(["frontrunner_pros", CODE]).check(task)
    assert asked == [False, False, True]


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        ([PROSE, f"{PROSE}:acc"], ConfigError, r"no metric 'acc'; valid: bits_per_byte, byte_"),
        ([PROSE, f"{EXACT}:exact_match,strict"], ConfigError, r"no filter 'strict'; valid: first_"),
        ([PROSE, "hub"], DataError, r"'hub' needs data of the hub, which is out of reach"),
        ([PROSE, "gone"], DataError, r"lm-eval cannot load its task 'gone': .*gone\.jsonl"),
        ([PROSE, "unsafe"], ConfigError, "'unsafe' runs code that models write"),
    ],
)
def test_what_cannot_be_scored_is_said_before_anything_is_spent(
    tmp_path, task, words, error, message
):
    own_task(tmp_path, "unsafe", ["x"], unsafe_code=True)
    own_task(tmp_path, "gone", ["x"])
    (tmp_path / "gone.jsonl").unlink()
    own_task(tmp_path, "hub", ["x"], dataset_path="nobody/nothing", dataset_kwargs=None)
    with pytest.raises(error, match=message) as caught:
        LmEval(words, str(tmp_path)).check(task)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": [PROSE]}, "two tasks or metrics or more"),
        ({"tasks": [PROSE, PROSE]}, "each once"),
        ({"limit": 0}, "evaluator.limit=0"),
        ({"limit": 2.5}, "evaluator.limit=2.5"),
        ({"batch_size": 0}, "evaluator.batch_size=0 must be at least 1, or auto"),
        ({"bootstrap_iters": -1}, "evaluator.bootstrap_iters=-1 must be at least 0"),
        ({"include_path": "/nowhere"}, "include_path=/nowhere is not a folder"),
        ({"reference_point": [8.0]}, "reference_point needs 2 finite numbers"),
    ],
)
def test_settings_out_of_range_are_refused(task, options, message):
    with pytest.raises(ConfigError, match=message):
        LmEval(**{"tasks": [PROSE, CODE], **options}).check(task)


def test_without_lm_eval_or_a_language_model_it_says_what_is_missing(task, monkeypatch):
    with pytest.raises(ConfigError, match="'multi_digits' builds no language model"):
        LmEval([PROSE, CODE]).check(MultiDigits())
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(ConfigError, match=r"pip install frontrunner\[eval\]"):
        LmEval([PROSE, CODE]).check(task)


def test_an_evaluation_that_fails_is_one_line(task, merged, monkeypatch):
    import lm_eval

    def fails(**_):
        raise OverflowError("math range error")

    monkeypatch.setattr(lm_eval, "simple_evaluate", fails)
    with pytest.raises(FrontError, match=r"lm-eval failed on .*: OverflowError: math range error"):
        LmEval([PROSE, CODE], limit=4).score(merged, task, np.array([1.0, 0.0]), "cpu")


# ---------------------------------------------------------------------- surroundings


def test_random_streams_and_logging_are_left_as_they_were(task, merged, capfd):
    level = logging.getLogger("lm_eval").level
    random.seed(7), np.random.seed(7), torch.manual_seed(7)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(7), np.random.seed(7), torch.manual_seed(7)
    capfd.readouterr()
    LmEval([PROSE, EXACT], limit=3).score(merged, task, np.array([0.5, 0.5]), "cpu")
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected
    assert logging.getLogger("lm_eval").level == level
    assert capfd.readouterr() == ("", "")


def test_errors_that_lm_eval_logs_are_printed(capfd):
    with quiet():
        print("a note")
        logging.getLogger("lm_eval.models").warning("a warning")
        logging.getLogger("lm_eval.models").error("an error")
    out, err = capfd.readouterr()
    assert (out, err.strip()) == ("", "an error")


# ---------------------------------------------------------------------- fronts and runs


def test_a_front_may_have_more_objectives_than_preferences_have_entries(tmp_path, task, merged):
    log = PointLog(tmp_path / "points.jsonl", "k", 3, 2)
    front = LmEval([PROSE, CODE, CHOICE], limit=2).evaluate(merged, task, log)
    assert front.values.shape == (3, 3)
    assert front.preferences.shape == (3, 2)
    assert front.preference_names == ("prose", "code")
    assert front.info["limit"] == 2
    assert front.info["lm_eval"]["tasks"][CHOICE]["metric"] == "acc"
    assert front.indicators()["rank_alignment"] is None
    assert all(f"stderr {CHOICE}" in cost for cost in front.costs)
    np.testing.assert_allclose(front.reference_point, [8, 8, 0])
    assert (tmp_path / "lm_eval" / f"{PROSE}.yaml").is_file()


def test_two_tasks_for_two_domains_are_not_taken_for_the_domains(task, merged):
    front = LmEval([PROSE, CODE], limit=2).evaluate(merged, task)
    assert front.values.shape == front.preferences.shape
    assert not front.aligned


def test_of_a_pruned_model_scores_before_pruning_are_kept_and_equal_preferences_scored(tmp_path):
    small = ["model.width=16", "model.layers=1", "model.heads=2", "model.base_steps=3"]
    small += ["task.segments=4", "task.windows={train:8,validation:2,test:2}", "points=3"]
    words = ["task=text_domains", "method=pruning/mosp", "method.sparsity=0.9", *small]
    more = [f"evaluator.tasks=[{PROSE},{CHOICE}]", "evaluator.points=3", "evaluator.limit=4"]
    more += ["logger=none", "runner.progress=none", f"output={tmp_path}"]
    front = frontrunner.run([*words, "evaluator=lm_eval", *more]).front
    assert list(front.info["dense"]) == [o.name for o in front.objectives]
    assert front.info["dense"][front.objectives[0].name] not in front.values[:, 0]
    # A lattice of three points for three objectives is the one-hot preferences alone.
    np.testing.assert_allclose(front.preferences[-1], 1 / 3)
    assert len(front.values) == 4


def test_the_same_score_as_by_the_command_on_an_exported_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tasks = f"[{PROSE},{CHOICE},{EXACT}]"
    words = [*WORDS, "evaluator=lm_eval", f"evaluator.tasks={tasks}"]
    run = frontrunner.run([*words, "evaluator.log_samples=true"])
    assert len(list((run.directory / "lm_eval/samples" / PROSE).glob("*.jsonl"))) == 1
    assert runs.load(run.directory).front.values.tolist() == run.front.values.tolist()
    run.export(run.front.preferences[0].tolist(), "export")
    assert "| frontrunner_prose" in Path("export/README.md").read_text()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    subprocess.run(
        [sys.executable, "-m", "lm_eval", "run", "--model", "hf",
         "--model_args", f"pretrained={tmp_path / 'export'},dtype=float32",
         "--tasks", f"{PROSE},{CHOICE},{EXACT}", "--include_path", str(run.directory / "lm_eval"),
         "--device", "cpu", "--batch_size", "8", "--output_path", "out"],
        check=True, capture_output=True, env=environment,
    )  # fmt: skip
    [path] = Path("out").rglob("results_*.json")
    results = json.loads(path.read_text())["results"]
    found = [results[PROSE]["bits_per_byte,none"], results[CHOICE]["acc,none"],
             results[EXACT]["exact_match,first_number"]]  # fmt: skip
    assert run.front.values[0].tolist() == found


def test_fronts_of_different_limits_are_not_compared(tmp_path, task, merged):
    options = {"a": {"limit": 1}, "b": {"limit": 2}, "c": {"limit": 1, "max_length": 40}}
    for label, chosen in options.items():
        front = LmEval([PROSE, CODE], **chosen).evaluate(merged, task)
        front.with_info({"label": label, "seed": 0}).save(tmp_path / label / "front.json")
    with pytest.raises(FrontError, match=r"different limits on documents \(evaluator\.limit\)"):
        compare(collect([tmp_path / "a", tmp_path / "b"]))
    compared = compare(collect([tmp_path / "a", tmp_path / "c"]))
    warnings = "\n".join(compared.warnings)
    assert "on its first 1 documents only (evaluator.limit)" in warnings
    assert "lm-eval did not score all fronts alike: they differ in max_length" in warnings


def test_an_interrupted_evaluation_goes_on_and_other_settings_start_anew(tmp_path, task, merged):
    evaluator = LmEval([PROSE, CODE], limit=2)
    log = PointLog(tmp_path / "points.jsonl", evaluator.key(merged), 2)
    log.append(1, [0.5, 0.5], [1.0, 1.0])
    assert evaluator.evaluate(merged, task, log).values[1].tolist() == [1.0, 1.0]
    assert LmEval([PROSE, CODE], limit=2).key(merged) == evaluator.key(merged)
    for other in (LmEval([PROSE, CODE]), LmEval([PROSE, ARITHMETIC], limit=2)):
        assert other.key(merged) != evaluator.key(merged)
