"""Runs of the coreset methods: a front of cost and quality, the same however often it is made."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import frontrunner
from frontrunner import cli
from frontrunner.errors import FrontError
from frontrunner.front.front import Front
from frontrunner.pareto_sets import base as pareto_sets
from frontrunner.pareto_sets.budgets import BudgetSet
from frontrunner.tracking import manifest

METHODS = ("full", "random", "gradmatch", "craig", "glister", "kcenter", "eracs")
BUDGETS = (0.1, 0.3)


@pytest.fixture(scope="module")
def runs(digits, tmp_path_factory):
    """One run of each method, to be read only; those with a budget have two."""
    folder = tmp_path_factory.mktemp("runs")

    def run(method: str) -> frontrunner.run.Run:
        more = [] if method == "full" else [f"method.budget={list(BUDGETS)}", "method.every=2"]
        return frontrunner.run(digits(method, *more, f"output={folder}"))

    return {method: run(method) for method in METHODS}


# ---------------------------------------------------------------------- fronts


@pytest.mark.parametrize("method", METHODS)
def test_a_list_of_budgets_is_a_front_of_cost_and_error(method, runs):
    front, budgets = runs[method].front, [1.0] if method == "full" else BUDGETS
    assert [(o.name, o.direction, o.unit) for o in front.objectives] == [
        ("cost", "min", "of full training"),
        ("class", "min", "error"),
    ]
    np.testing.assert_allclose(front.preferences, [[1 - b, b] for b in budgets])
    assert front.reference_point.tolist() == [1.1, 1.0]
    pareto_set, task = runs[method].pareto_set, runs[method].task
    for value, preference in zip(front.values, front.preferences, strict=True):
        network = pareto_set.materialize(preference)
        (right,) = task.measure(network, "test", what="accuracies")
        assert value[1] == pytest.approx(1 - right)
        assert value[0] == pareto_set.cost_of(preference)["share"]


def test_full_training_costs_exactly_one_and_random_samples_their_share(runs):
    assert runs["full"].front.values[0, 0] == 1.0
    np.testing.assert_allclose(runs["random"].front.values[:, 0], BUDGETS, rtol=1e-12)
    assert runs["full"].front.info["models"][0]["samples"] == 300


@pytest.mark.parametrize("method", METHODS[2:])
def test_what_looks_at_samples_pays_for_them(method, runs):
    """A sample that is only looked at counts a third: 300 of them at each selection."""
    front = runs[method].front
    for budget, point in zip(BUDGETS, front.costs, strict=True):
        epochs = 10  # 90 steps of 32 samples are 9.6 passes over 300
        looked = 300.0 * (1 + point["training_updates"])
        if method == "glister":  # and the validation samples, once for each part
            looked += 197 * 10 * (1 + point["training_updates"])
        if method == "eracs":  # the coreset, when it is checked and when it is new
            times = point["training_checks"] + 1 + point["training_updates"]
            looked += budget * 300 * times
        share = (budget * 300 * epochs + looked / 3) / (300 * epochs)
        assert point["training_share"] == pytest.approx(share)


def test_points_keep_what_was_counted(runs):
    names = {"share", "seconds", "train_seconds", "select_seconds", "check_seconds"}
    for point in runs["eracs"].front.costs:
        assert {f"training_{n}" for n in (*names, "updates", "checks")} <= set(point)
        parts = ("train_seconds", "select_seconds", "check_seconds")
        spent = math.fsum(point[f"training_{part}"] for part in parts)
        assert point["training_seconds"] == pytest.approx(spent)
        assert point["training_checks"] == 4  # epochs 2, 4, 6 and 8 of 10
    assert [p["training_updates"] for p in runs["craig"].front.costs] == [4.0, 4.0]
    assert [p["training_updates"] for p in runs["random"].front.costs] == [0.0, 0.0]


def test_the_front_says_how_each_model_was_trained(runs):
    models = runs["eracs"].front.info["models"]
    assert [m["samples"] for m in models] == [30, 90]
    for model in models:
        selected = [e for e in model["history"] if e["selected"]]
        assert len(selected) == model["updates"] + 1
        assert selected[0]["epoch"] == 0
        assert all(len(e["snr"]) == 1 for e in model["history"] if e["checked"])


def test_the_record_adds_up_all_models(runs):
    record = runs["random"].record
    # 10 epochs of 30 and of 90 samples, in batches of 32.
    assert record["cost"]["steps"] == 10 * (1 + 3)
    network = runs["random"].task.network()
    state = pareto_sets.named_state(network)
    assert record["cost"]["stored_parameters"] == 2 * sum(t.numel() for t in state.values())


@pytest.mark.parametrize("method", ["eracs", "random"])
def test_the_same_configuration_and_seed_give_the_same_front(method, runs, digits, tmp_path):
    more = [f"method.budget={list(BUDGETS)}", "method.every=2", f"output={tmp_path}"]
    again = frontrunner.run(digits(method, *more))
    assert again.front.values.tobytes() == runs[method].front.values.tobytes()
    assert again.front.info["models"] == runs[method].front.info["models"]
    assert again.pareto_set.digest() == runs[method].pareto_set.digest()
    other = frontrunner.run(digits(method, *more, "seed=1"))
    assert not np.array_equal(other.front.values, again.front.values)


def test_losses_and_seconds_can_be_asked_for(digits, tmp_path):
    more = ("method.budget=[0.1,0.2]", f"output={tmp_path}")
    losses = frontrunner.run(digits("random", *more, "evaluator.what=losses"))
    assert [o.unit for o in losses.front.objectives] == ["of full training", "nats"]
    assert losses.front.reference_point.tolist() == [1.1, 2.5]
    seconds = frontrunner.run(digits("random", *more, "evaluator.cost=seconds"))
    assert seconds.front.objectives[0].unit == "s"
    assert seconds.front.reference_point is None
    np.testing.assert_array_equal(
        seconds.front.values[:, 0], [c["training_seconds"] for c in seconds.front.costs]
    )


def test_a_ratio_of_signal_to_no_noise_is_recorded_as_null(digits, tmp_path):
    """One sample has no noise; JSON has no infinite numbers."""
    more = ("method.budget=0.003", "method.trigger=absolute_below", "method.every=3")
    run = frontrunner.run(digits("random", *more, f"output={tmp_path}"))
    (model,) = run.front.info["models"]
    assert model["samples"] == 1
    assert {str(e.get("snr")) for e in model["history"] if e["checked"]} == {"[None]"}


def test_adam_and_weights_by_sampling_train_too(digits, tmp_path):
    more = ("method.weighting=sampling", "training.optimizer=adam", "training.learning_rate=0.003")
    run = frontrunner.run(digits("gradmatch", *more, f"output={tmp_path}", "training.steps=300"))
    assert run.front.values[0, 1] < 0.5


@pytest.mark.parametrize(
    ("precision", "dtype"), [("64-true", "float64"), ("bf16-mixed", "float32")]
)
def test_other_precisions_train_too(precision, dtype, digits, tmp_path):
    more = ("method.budget=0.1", "training.steps=300", f"output={tmp_path}")
    single = frontrunner.run(digits("eracs", *more))
    other = frontrunner.run(digits("eracs", *more, f"runner.precision={precision}"))
    np.testing.assert_allclose(other.front.values, single.front.values, atol=0.15)
    (weights,) = {str(t.dtype) for t in other.pareto_set.stacked.values()}
    assert weights == f"torch.{dtype}"


# ---------------------------------------------------------------------- several objectives


@pytest.mark.parametrize("target", ["weighted", "stacked"])
@pytest.mark.parametrize(("variant", "budget"), [("per_batch", 0.3), ("per_class", 0.6)])
def test_several_objectives_have_a_model_for_each_preference(
    target, variant, budget, two_digits, tmp_path
):
    more = (f"method.target={target}", f"method.variant={variant}", f"method.budget={budget}")
    run = frontrunner.run(two_digits("eracs", *more, f"output={tmp_path}"))
    front = run.front
    assert [o.name for o in front.objectives] == ["cost", "left", "right"]
    b = budget
    expected = [[1 - b, b, 0], [1 - b, b / 2, b / 2], [1 - b, 0, b]]
    np.testing.assert_allclose(front.preferences, expected, atol=1e-12)
    assert front.preference_names == ("cost", "left", "right") or not front.preference_names
    losses = np.array([m["validation_losses"] for m in front.info["models"]])
    assert losses[0, 0] < losses[2, 0]
    assert losses[2, 1] < losses[0, 1]
    for model in front.info["models"]:
        assert all(len(e["snr"]) == 2 for e in model["history"] if e["checked"])


def test_losses_of_several_objectives_are_the_tasks(two_digits, tmp_path):
    more = ("method.budget=[0.2,0.5]", "evaluator.what=losses", f"output={tmp_path}")
    run = frontrunner.run(two_digits("random", *more))
    assert run.front.values.shape == (6, 3)
    for value, preference in zip(run.front.values, run.front.preferences, strict=True):
        network = run.pareto_set.materialize(preference)
        np.testing.assert_array_equal(value[1:], run.task.measure(network, "test"))


REAL = os.environ.get("FRONTRUNNER_DATA", "")


@pytest.mark.skipif(
    not REAL or not (Path(REAL) / "compas").is_dir(),
    reason="FRONTRUNNER_DATA names no folder with compas/",
)
def test_a_fairness_task_trains_with_weights_by_sampling(quiet, tmp_path):
    words = ("task=compas", "training.steps=300", "training.rounds=2", "points=3")
    asked = ("method.variant=joint", "method.weighting=sampling", "evaluator.what=losses")
    run = frontrunner.run(
        [*words, "method=coresets/eracs", "method.budget=0.2", *asked, *quiet, f"output={tmp_path}"]
    )
    cross_entropy, deo = run.front.values[:, 1], run.front.values[:, 2]
    assert cross_entropy[0] < cross_entropy[2]
    assert deo[0] > deo[2]


# ---------------------------------------------------------------------- what others do with it


def test_a_saved_set_keeps_its_costs(runs, tmp_path):
    done = runs["gradmatch"]
    done.pareto_set.save(tmp_path)
    loaded = pareto_sets.load(tmp_path, done.task)
    assert isinstance(loaded, BudgetSet)
    assert loaded.costs == done.pareto_set.costs
    assert loaded.facts() == done.pareto_set.facts()


def test_export_gives_the_weights_of_a_preference(runs, tmp_path):
    done = runs["gradmatch"]
    words = ["export", str(done.directory), "--preference", "0.9,0.1", "--out", str(tmp_path / "m")]
    assert cli.main(words) == 0
    (file,) = (tmp_path / "m").glob("*.safetensors")
    exported = load_file(file)
    expected = done.pareto_set.materialize([0.9, 0.1]).state_dict()
    assert set(exported) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(exported[name], tensor), name
    with pytest.raises(FrontError, match="2 models and none for"):
        done.export([0.5, 0.5], tmp_path / "none")


def test_runs_are_compared(runs, capsys, tmp_path):
    folders = [str(runs[m].directory) for m in ("full", "random", "gradmatch", "eracs")]
    assert cli.main(["compare", *folders, "--out", str(tmp_path / "report")]) == 0
    said = capsys.readouterr().out
    assert "budgets differ" not in said
    assert all(label in said for label in ("full", "random-never", "eracs-relative_drop"))


# ---------------------------------------------------------------------- killed and continued

KILLED = [
    ("step", 5),  # in the first budget
    ("step", 37),  # in the second
    ("last.ckpt", 4),  # at the start of the second
    ("fit.json", 1),
    ("point", 1),
]


def result(directory: Path) -> tuple[bytes, bytes, list[object]]:
    front = Front.load(directory / "front.json")
    weights = (directory / "pareto_set" / "weights.safetensors").read_bytes()
    return front.values.tobytes(), weights, front.info["models"]


@pytest.mark.parametrize(("where", "n"), KILLED)
def test_a_killed_run_continues_to_the_same_front(where, n, runs, digits, command, work):
    words = ["run", *digits("eracs", f"method.budget={list(BUDGETS)}", "method.every=2")]
    assert command(words, work, ("kill", where, n)) == -9
    assert command(words, work) == 0
    (record,) = work.glob("runs/*/*/run.json")
    assert manifest.RunRecord.read(record.parent).data["attempt"] == 2
    assert result(record.parent) == result(runs["eracs"].directory)
    costs = Front.load(record.parent / "front.json").costs
    assert all(c["training_train_seconds"] > 0 for c in costs)
