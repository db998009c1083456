from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import frontrunner
from frontrunner.errors import ConfigError
from frontrunner.front.indicators import hypervolume
from frontrunner.methods.pruning.alps import ALPS
from frontrunner.methods.pruning.base import weighted
from frontrunner.methods.pruning.blockwise import Devices, Group
from frontrunner.methods.pruning.mosp import MOSP
from frontrunner.pareto_sets.sparse import Interpolation, SparseSet
from frontrunner.sparse.patterns import NM, Unstructured, pattern_of
from frontrunner.sparse.quadratic import Quadratic
from frontrunner.sparse.store import Block, Models, Pruned

CPU = Devices(["cpu"])
PATTERNS = [Unstructured(0.7), Unstructured(0.5), NM(2, 4)]
BETWEEN = [[0.7, 0.3], [0.5001, 0.4999], [0.05, 0.95], [0.999, 0.001]]


def solved(given: Group, **settings) -> dict[str, Models]:
    found = MOSP(points=3, **settings).solve_block([given], CPU, len(given.grams))
    return dict(found)


# ---------------------------------------------------------------------- the paper's figures


@pytest.mark.parametrize(
    ("preference", "factor"),
    [
        ((0.72, 0.14, 0.14), 0.7616),
        ((0.5, 0.5, 0.0), 0.7071),
        ((0.7, 0.3), 0.6325),
        ((1.0, 0.0, 0.0), 1.0),
        ((0.25, 0.25, 0.25, 0.25), 0.0),
        ((1 / 3, 1 / 3, 1 / 3), 0.0),
    ],
)
def test_shares_of_specialists(preference, factor) -> None:
    found = Interpolation().coefficients(preference)
    np.testing.assert_allclose(found, factor * np.array(preference), atol=5e-5)
    if factor in (0, 1):
        assert found.tolist() == [factor * p for p in preference]  # to the last bit


def test_the_power_of_the_map() -> None:
    s = (0.7 - 0.5) + (0.5 - 0.3)  # over 2 (1 - 1/2) = 1
    for power in (0.25, 1.0, 2.0):
        found = Interpolation(power=power).coefficients((0.7, 0.3))
        np.testing.assert_allclose(found, s**power * np.array([0.7, 0.3]))


def test_hypervolumes_of_table_4() -> None:
    """Llama-2-7B at 70 %: C4, GSM8K, Code; the reference is 1.1 times SparseGPT's perplexities."""
    sparsegpt, alps = [30.91, 3.53, 3.07], [20.44, 3.12, 2.63]
    mosp = [
        alps,  # the model of equal preferences
        [18.80, 3.37, 3.20],
        [24.33, 3.05, 3.06],
        [25.82, 3.43, 2.53],
        [19.30, 3.20, 2.79],
    ]
    reference = 1.1 * np.array(sparsegpt)
    assert hypervolume([sparsegpt], reference) == pytest.approx(0.335, abs=5e-4)
    assert hypervolume([alps], reference) == pytest.approx(7.729, abs=5e-4)
    assert hypervolume(mosp, reference) == pytest.approx(8.817, abs=5e-4)


# ---------------------------------------------------------------------- one input's layers


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("core", ["admm", "magnitude"])
def test_every_model_has_k_weights_and_the_core(group, pattern, core) -> None:
    given = group(pattern, m=3)
    for name, models in solved(given, core=core).items():
        shape = tuple(given.dense[name].shape)
        assert len(models.weights) == len(models.supports) == 4
        assert models.core is not None
        for weight, support in zip(models.weights, models.supports, strict=True):
            assert int(support.sum()) == pattern.kept(shape)
            assert not weight[~support].any()
            assert not (models.core & ~support).any()
            if isinstance(pattern, NM):
                assert (support.view(-1, 4).sum(1) == 2).all()
        if isinstance(pattern, NM):  # whole groups
            sizes = models.core.view(-1, 4).sum(1)
            assert set(sizes.tolist()) == {0, 2}
            assert int((sizes > 0).sum()) == round(0.5 * len(sizes))
        else:
            assert int(models.core.sum()) == round(0.5 * pattern.kept(shape))
        # Specialists use the freedom they have.
        assert all(not torch.equal(s, models.supports[0]) for s in models.supports[1:])


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_specialist_is_better_at_its_objective_than_the_primary(group, pattern, seed) -> None:
    given = group(pattern, m=2, seed=seed)
    for name, models in solved(given).items():
        for j, gram in enumerate(given.grams):
            problem = Quadratic(gram)
            values = [problem.error(w, given.dense[name]) for w in models.weights]
            assert values[1 + j] == min(values)
            assert values[1 + j] < values[0]


def test_the_primary_is_alps_on_all_data(group) -> None:
    given = group(Unstructured(0.7), m=3)
    gram = weighted(given.grams, np.full(3, 1 / 3), "cpu")
    alps = ALPS(points=3).solve(given, gram, "cpu")
    for name, models in solved(given).items():
        assert torch.equal(models.supports[0], alps[name].supports[0])
        torch.testing.assert_close(models.weights[0], alps[name].weights[0], rtol=1e-3, atol=1e-4)


def test_without_a_core_and_with_nothing_but_the_core(group) -> None:
    given = group(Unstructured(0.7), m=2)
    free, bound = solved(given, alpha=0), solved(given, alpha=1)
    for name in given.dense:
        assert free[name].core is None
        core = bound[name].core
        assert core is not None
        assert all(torch.equal(core, support) for support in bound[name].supports)
        for j, gram in enumerate(given.grams, start=1):
            problem, dense = Quadratic(gram), given.dense[name]
            most, least = (problem.error(x[name].weights[j], dense) for x in (free, bound))
            assert most < least < problem.error(bound[name].weights[0], dense)


def test_a_core_of_magnitudes_is_the_largest_of_the_primary(group) -> None:
    given = group(Unstructured(0.7), m=2)
    problem = Quadratic(weighted(given.grams, np.ones(2), "cpu"))
    for models in solved(given, core="magnitude", alpha=0.3).values():
        scores = problem.scaled(models.weights[0]).abs()
        assert models.core is not None
        assert scores[models.core].min() >= scores[models.supports[0] & ~models.core].max()
        assert int(models.core.sum()) == round(0.3 * int(models.supports[0].sum()))


def test_the_way_a_core_is_found_leaves_the_primary_alone(group) -> None:
    given = group(Unstructured(0.7), m=2)
    nested, plain = solved(given), solved(given, core="magnitude")
    for name in given.dense:
        assert torch.equal(nested[name].supports[0], plain[name].supports[0])
        assert not torch.equal(nested[name].core, plain[name].core)


def test_without_iterations_specialists_are_refined_primaries(group) -> None:
    given = group(Unstructured(0.7), m=2)
    for name, models in solved(given, task_steps=0).items():
        for j, gram in enumerate(given.grams, start=1):
            assert torch.equal(models.supports[j], models.supports[0])
            problem = Quadratic(gram)
            before, after = (problem.error(models.weights[i], given.dense[name]) for i in (0, j))
            assert after < before


# ---------------------------------------------------------------------- whole models


@pytest.fixture(scope="module")
def fit(pruning, small_llama, tmp_path_factory) -> Callable[..., SparseSet]:
    """``fit(*overrides)``: MOSP's set of a small Llama for two domains, each run once."""
    folder, made = tmp_path_factory.mktemp("runs"), {}

    def fitted(*words: str) -> SparseSet:
        if words not in made:
            asked = pruning(small_llama, "method=pruning/mosp", f"output={folder}", *words)
            made[words] = frontrunner.run(asked).pareto_set
        return made[words]

    return fitted


def by(chosen: SparseSet, **changes) -> SparseSet:
    """The same stored models, answered by another rule."""
    assert chosen.interpolation is not None
    rule = replace(chosen.interpolation, **changes)
    return SparseSet(chosen.task, chosen.store, chosen.anchors, chosen.preferences, rule)


def stored(chosen: SparseSet) -> Iterator[tuple[Block, Pruned, list[Tensor]]]:
    """Of every layer: where it is stored, and its weights in the primary and the specialists."""
    for block in chosen.store.blocks:
        for layer in block.layers:
            yield block, layer, [block.weight(layer, a) for a in block.anchors]


@pytest.mark.parametrize("refit", ["none", "pcg"])
def test_equal_preferences_give_the_primary_and_one_hot_ones_specialists(fit, refit) -> None:
    chosen = by(fit("method.refit=pcg"), refit=refit)
    for anchor, preference in enumerate(([0.5, 0.5], [1.0, 0.0], [0.0, 1.0])):
        found = [weight for _, weight in chosen.pruned(preference)]
        wanted = [weights[anchor] for _, _, weights in stored(chosen)]
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
        network = chosen.materialize(preference)
        state = network.state_dict()
        for (_, layer, _), weight in zip(stored(chosen), wanted, strict=True):
            (key,) = [k for k in state if k.endswith(layer.name)]
            assert torch.equal(state[key], weight)


@pytest.mark.parametrize("words", [(), ("method.pattern=2:4",)], ids=["0.7", "2:4"])
@pytest.mark.parametrize("preference", BETWEEN, ids=str)
def test_between_them_models_are_what_the_paper_says(fit, words, preference) -> None:
    chosen = fit("method.refit=pcg", *words)
    plain = by(chosen, refit="none")
    shares = Interpolation().coefficients(preference)
    for (layer, weight), (block, same, models) in zip(
        plain.pruned(preference), stored(chosen), strict=True
    ):
        assert layer == same
        primary, *own = (w.double().numpy() for w in models)
        mixed = primary + sum(s * (w - primary) for s, w in zip(shares, own, strict=True))
        core = block.core(layer)
        assert core is not None
        scores = np.where(core.numpy(), np.inf, np.abs(mixed))
        support, _ = pattern_of(layer.pattern).select(torch.from_numpy(scores))
        np.testing.assert_allclose(weight.numpy(), mixed * support.numpy(), atol=1e-6)
        assert int(support.sum()) == pattern_of(layer.pattern).kept(layer.shape)
        assert int(weight.count_nonzero()) == int(support.sum())
        assert not (core & (weight == 0)).any()


def objective(chosen: SparseSet, preference: list[float]) -> list[float]:
    """Σ_j λ_j f_j with its ridge, of every layer on the stored Gram matrices."""
    dense = chosen.task.weights()
    values = []
    for (layer, weight), (block, _, _) in zip(
        chosen.pruned(preference), stored(chosen), strict=True
    ):
        grams = [block.gram(layer.group, j) for j in range(2)]
        problem = Quadratic(weighted(grams, preference, "cpu"))
        values.append(problem.error(weight, dense.read(layer.name)))
    return values


@pytest.mark.parametrize("preference", BETWEEN, ids=str)
def test_refits_lower_the_objective_away_from_equal_preferences(fit, preference) -> None:
    chosen = fit("method.refit=pcg")
    none, pcg, admm = (
        objective(by(chosen, refit=refit), preference) for refit in ("none", "pcg", "admm")
    )
    assert all(b < a for a, b in zip(none, pcg, strict=True))
    assert sum(pcg) < sum(none)
    if max(preference) < 0.6:
        # Next to equal preferences, the primary has had more iterations than a refit has.
        assert sum(admm) < 1.05 * sum(none)
    else:
        assert sum(admm) < sum(pcg)
    for refit in ("pcg", "admm"):
        models = by(chosen, refit=refit).pruned(preference)
        for (layer, weight), (block, _, _) in zip(models, stored(chosen), strict=True):
            assert int(weight.count_nonzero()) == pattern_of(layer.pattern).kept(layer.shape)
            core = block.core(layer)
            assert core is not None
            assert not (core & (weight == 0)).any()


def test_a_refit_by_admm_answers_one_hot_preferences_anew_and_equal_ones_by_the_primary(fit):
    stays = fit("method.refit=pcg")
    anew = by(stays, refit="admm")
    for preference in ([1.0, 0.0], [0.0, 1.0]):
        assert sum(objective(anew, preference)) < sum(objective(stays, preference))
    for (_, a), (_, b) in zip(anew.pruned([0.5, 0.5]), stays.pruned([0.5, 0.5]), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("keep_core", [True, False])
def test_a_refit_by_admm_makes_what_it_uses_alone(fit, keep_core) -> None:
    whole = by(fit("method.refit=pcg"), refit="admm", keep_core=keep_core)
    lean = fit("method.refit=admm", f"method.keep_core={keep_core}")
    assert lean.anchors.tolist() == [[0.5, 0.5]]
    for block, layer, models in stored(lean):
        assert len(models) == 1
        assert (block.core(layer) is not None) == keep_core
    assert lean.stored_parameters < whole.stored_parameters
    for preference in ([0.5, 0.5], [1.0, 0.0], *BETWEEN):
        for (_, a), (_, b) in zip(lean.pruned(preference), whole.pruned(preference), strict=True):
            assert torch.equal(a, b)


def test_specialists_are_better_on_their_own_data(fit) -> None:
    chosen = fit("method.refit=pcg")
    dense = chosen.task.weights()
    for block, layer, models in stored(chosen):
        for j in range(2):
            problem = Quadratic(block.gram(layer.group, j))
            values = [problem.error(w, dense.read(layer.name)) for w in models]
            assert values[1 + j] == min(values)


def test_a_prefix_of_its_own_changes_later_blocks_of_specialists_alone(fit) -> None:
    same, own = fit("method.refit=pcg"), fit("method.prefix=task")
    for (block, layer, ours), (_, _, theirs) in zip(stored(same), stored(own), strict=True):
        first = block.path.name.endswith("block-000.safetensors")
        assert torch.equal(ours[0], theirs[0]), layer.name
        for j in (1, 2):
            assert torch.equal(ours[j], theirs[j]) == first, layer.name


@pytest.mark.parametrize("prefix", ["primary", "task"])
def test_a_prefix_is_the_blocks_before_as_that_model_has_them(fit, prefix) -> None:
    chosen = fit("method.refit=pcg") if prefix == "primary" else fit("method.prefix=task")
    later = [x for x in stored(chosen) if "layers.2" in x[1].name and "q_proj" in x[1].name]
    ((block, layer, models),) = later
    for j, preference in enumerate(([1.0, 0.0], [0.0, 1.0])):
        network = chosen.materialize([0.5, 0.5] if prefix == "primary" else preference)
        seen: list[Tensor] = []
        inputs = {f"{n}.weight": x for n, x in network.named_modules()}
        (module,) = [x for n, x in inputs.items() if n.endswith(layer.name)]
        handle = module.register_forward_pre_hook(lambda _, args, to=seen: to.append(args[0]))
        with torch.no_grad():
            network(chosen.task.calibration(j))
        handle.remove()
        x = seen[0].flatten(0, 1)
        dense = {layer.name: chosen.task.weights().read(layer.name)}
        pattern = {layer.name: pattern_of(layer.pattern)}
        primary = {layer.name: Models([models[0]], [models[0] != 0], block.core(layer))}
        given = Group("q", [], dense, pattern, [])
        own = MOSP(points=3).specialists(given, x.mT @ x, primary, "cpu")[layer.name]
        assert torch.equal(own.weights[0] != 0, models[1 + j] != 0)
        torch.testing.assert_close(own.weights[0], models[1 + j], rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("alpha", [0, 1])
def test_extreme_cores_run(fit, alpha) -> None:
    chosen = fit(f"method.alpha={alpha}")
    for layer, weight in chosen.pruned([0.7, 0.3]):
        assert int(weight.count_nonzero()) == pattern_of(layer.pattern).kept(layer.shape)
    for block, layer, models in stored(chosen):
        core = block.core(layer)
        if alpha:
            assert core is not None
            assert all(torch.equal(core, w != 0) for w in models)
        else:
            assert core is None


def test_scaled_scores_choose_other_entries(fit) -> None:
    chosen = fit("method.refit=pcg")
    raw, scaled = (
        by(chosen, refit="none", scores=scores).pruned([0.7, 0.3]) for scores in ("raw", "scaled")
    )
    differ = 0
    for (layer, a), (_, b) in zip(raw, scaled, strict=True):
        assert int(b.count_nonzero()) == pattern_of(layer.pattern).kept(layer.shape)
        both = (a != 0) & (b != 0)
        assert torch.equal(a[both], b[both])
        differ += int(((a != 0) != (b != 0)).sum())
    assert differ > 0


@pytest.mark.parametrize(
    "settings",
    [
        {"alpha": 1.5},
        {"alpha": -0.1},
        {"core": "none"},
        {"power": 0},
        {"scores": "both"},
        {"refit": "cg"},
        {"prefix": "dense"},
        {"prefix": "task", "refit": "admm"},
        {"task_rho": 0},
        {"task_steps": -1},
        {"refit_steps": 0},
    ],
    ids=str,
)
def test_bad_settings_name_their_key(settings) -> None:
    with pytest.raises(ConfigError, match=f"method.{next(iter(settings))}"):
        MOSP(points=3, **settings)


def test_only_refits_keep_gram_matrices(fit) -> None:
    def kept(chosen: SparseSet) -> list[Path]:
        return [block.grams for block in chosen.store.blocks if block.grams.is_file()]

    assert len(kept(fit("method.refit=pcg"))) == 3
    assert not kept(fit("method.alpha=0"))
