"""Data-free merging rules against naive versions that hold and sort everything, limits that are
known, and mergekit's numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from frontrunner import config
from frontrunner.errors import ConfigError
from frontrunner.methods.merging import pcb, slerp
from frontrunner.methods.merging.average import Averaging
from frontrunner.methods.merging.dare import DARE, Dare
from frontrunner.methods.merging.pcb import PCB, ParameterCompetition
from frontrunner.methods.merging.slerp import Slerp
from frontrunner.methods.merging.task_arithmetic import TaskVectors
from frontrunner.methods.merging.ties import TIES, Ties
from frontrunner.methods.merging.tsv_merge import TaskSingularVectors, nearest_orthonormal
from frontrunner.pareto_sets.merged import MergedSet
from frontrunner.tasks.merge_digits import MergeDigits
from frontrunner.weights import parents as parents_module
from frontrunner.weights.parents import Parents
from frontrunner.weights.source import InMemory

SHAPES = {"embed": (40, 12), "kernel": (6, 4, 3, 3), "norm": (12,), "scalar": (), "wide": (5, 30)}
RULES = {
    "average": Averaging(),
    "task arithmetic": TaskVectors(),
    "ties": Ties(0.3, "tensor"),
    "global ties": Ties(0.3, "global"),
    "dare": Dare(0.5, "none", 0),
    "dare ties": Dare(0.5, "ties", 0),
    "tsv": TaskSingularVectors(),
    **{f"pcb {inter}": ParameterCompetition(0.2, 0.01, inter) for inter in pcb.INTER},
}


class Stub:
    """As much of a task as a merged set needs."""

    def __init__(self, parents: Parents) -> None:
        self.parents = lambda: parents


def family(experts=3, dtype=torch.float32, seed=0):
    """A base and experts whose task vectors have layers of different size and one shared tensor."""
    stream = torch.Generator().manual_seed(seed)

    def draw(sizes):
        return {
            name: (torch.randn(shape, generator=stream) * size).to(dtype)
            for (name, shape), size in zip(SHAPES.items(), sizes, strict=True)
        }

    base = draw([1, 0.3, 1, 1, 0.5]) | {"steps": torch.tensor(7)}
    deltas = [draw([0.1, 0.02, 0, 0.3, 0.05]) for _ in range(experts)]
    models = [
        InMemory(f"expert-{k}", {n: t + d[n] if n in d else t for n, t in base.items()})
        for k, d in enumerate(deltas)
    ]
    return Parents(InMemory("base", base), models)


def merge(rule, parents, preference, scale=1.0) -> dict[str, Any]:
    return dict(MergedSet(Stub(parents), rule, [preference], scale).state(preference))


def flat(parents, model):
    """All mergeable tensors of one model as one float64 vector."""
    return torch.cat([model.read(n).double().reshape(-1) for n in SHAPES])


def task_vectors(parents):
    base = flat(parents, parents.base)
    return torch.stack([flat(parents, e) - base for e in parents.experts])


def joined(state):
    return torch.cat([state[n].double().reshape(-1) for n in SHAPES])


def of(parents, k):
    return {n: parents.experts[k].read(n) for n in (*SHAPES, "steps")}


def assert_states(found, expected, **tolerances):
    assert list(found) == list(expected)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], **tolerances)


# ---------------------------------------------------------------------- all rules


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_names_shapes_dtypes_and_counters_are_the_bases(name, dtype):
    parents = family(dtype=dtype)
    state = merge(RULES[name], parents, [0.2, 0.3, 0.5])
    assert list(state) == list(parents.base.shapes())
    for key, tensor in state.items():
        assert tuple(tensor.shape) == parents.base.shapes()[key]
        assert tensor.dtype == parents.base.dtype(key)
        assert torch.isfinite(tensor).all()
    assert state["steps"] == 7


@pytest.mark.parametrize("rule", [*RULES.values(), Slerp()], ids=str)
def test_models_may_be_stored_in_different_dtypes(rule):
    models = family(experts=2, dtype=torch.bfloat16)

    def stored(model, dtype):
        tensors = {n: t if n == "steps" else t.to(dtype) for n, t in model.tensors.items()}
        return InMemory(model.name, tensors)

    base, first = stored(models.base, torch.float32), models.experts[0]
    mixed = Parents(base, [first, stored(models.experts[1], torch.float64)])
    plain = Parents(base, [stored(e, torch.float32) for e in models.experts])
    for (_, a), (_, b) in zip(
        merge(rule, mixed, [0.4, 0.6]).items(), merge(rule, plain, [0.4, 0.6]).items(), strict=True
    ):
        # Rounding may move single numbers across a threshold.
        assert a.dtype == b.dtype
        assert (a - b).abs().double().mean() < 1e-3


@pytest.mark.parametrize("name", RULES)
def test_parents_are_left_as_they_were(name):
    parents = family()
    before = parents.digest()
    merge(RULES[name], parents, [0.2, 0.3, 0.5], 0.7)
    assert parents.digest() == before


@pytest.mark.parametrize("name", RULES)
def test_experts_equal_to_the_base_merge_to_the_base(name):
    base = family().base
    state = merge(RULES[name], Parents(base, [base] * 3), [0.2, 0.3, 0.5])
    assert_states(state, {n: base.read(n) for n in base.shapes()}, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", [n for n in RULES if RULES[n].elementwise])
def test_the_size_of_pieces_does_not_matter(name, monkeypatch):
    parents = family()
    whole = merge(RULES[name], parents, [0.5, 0.3, 0.2], 0.8)
    monkeypatch.setattr(parents_module, "PIECE", 13)
    assert_states(merge(RULES[name], parents, [0.5, 0.3, 0.2], 0.8), whole, rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", [n for n in RULES if not n.startswith("dare")])
def test_the_order_of_experts_does_not_matter(name):
    parents = family()
    turned = Parents(parents.base, parents.experts[::-1])
    a = merge(RULES[name], parents, [0.5, 0.3, 0.2], 0.8)
    b = merge(RULES[name], turned, [0.2, 0.3, 0.5], 0.8)
    assert_states(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rule", [Ties(1.0, "tensor"), Ties(1.0, "global"), Dare(1.0, "none", 0),
                                  Dare(1.0, "ties", 0), TaskSingularVectors()])  # fmt: skip
def test_one_expert_at_full_density_is_the_expert(rule):
    parents = family(experts=1)
    assert_states(merge(rule, parents, [1.0]), of(parents, 0), rtol=0, atol=2e-6)


@pytest.mark.parametrize("rule", [Ties(1.0, "global"), Dare(1.0, "none", 0)])
def test_a_one_hot_preference_at_full_density_is_that_expert(rule):
    parents = family()
    assert_states(merge(rule, parents, [0, 1, 0]), of(parents, 1), rtol=0, atol=2e-7)


# ---------------------------------------------------------------------- TIES


def naive_ties(vectors, weights, density, sizes):
    """Sorting; ``sizes`` are the stretches that are trimmed by themselves."""
    trimmed = []
    for vector in vectors:
        parts = []
        for part in vector.split(sizes):
            k = max(1, int(density * len(part)))
            least = part.abs().sort(descending=True).values[k - 1]
            parts.append(torch.where(part.abs() >= least, part, 0.0))
        trimmed.append(torch.cat(parts))
    t = torch.stack(trimmed)
    w = torch.tensor(weights, dtype=t.dtype)[:, None]
    sign = torch.where((w * t).sum(0) >= 0, 1.0, -1.0)
    agrees = (t.sign() == sign) & (w > 0)
    total = (w * agrees).sum(0)
    return torch.where(total > 0, (w * t * agrees).sum(0) / total.clamp(min=1e-30), 0.0)


@pytest.mark.parametrize("preference", [[1 / 3, 1 / 3, 1 / 3], [0.6, 0.3, 0.1], [0.5, 0.5, 0.0]])
@pytest.mark.parametrize("density", [1.0, 0.4, 0.05, 1e-4])
@pytest.mark.parametrize("trim", ["tensor", "global"])
def test_ties_equals_sorting(trim, density, preference):
    parents = family()
    tensors = [parents.base.read(n).numel() for n in SHAPES]
    sizes = tensors if trim == "tensor" else [sum(tensors)]
    vectors = task_vectors(parents).float().double()  # deltas are taken in float32
    expected = flat(parents, parents.base) + 0.7 * naive_ties(vectors, preference, density, sizes)
    found = joined(merge(Ties(density, trim), parents, preference, 0.7))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_the_two_trims_differ_where_layers_differ_in_size():
    parents = family()
    by_tensor = merge(Ties(0.3, "tensor"), parents, [0.2, 0.3, 0.5])
    over_all = merge(Ties(0.3, "global"), parents, [0.2, 0.3, 0.5])
    base = parents.base.read("kernel")
    assert (by_tensor["kernel"] != base).float().mean() > 0.3
    assert (over_all["kernel"] != base).float().mean() < 0.05


def plain(*tensors):
    base, *experts = (InMemory(str(i), {"w": torch.tensor(t)}) for i, t in enumerate(tensors))
    return Parents(base, experts)


def test_ties_keeps_all_that_equal_the_threshold():
    parents = plain([0.0] * 6, [1.0, -1.0, 1.0, 0.5, 0.25, 2.0])
    found = merge(Ties(0.4, "tensor"), parents, [1.0])["w"]
    assert found.tolist() == [1.0, -1.0, 1.0, 0.0, 0.0, 2.0]


def test_a_tied_vote_elects_the_positive_sign():
    parents = plain([0.0, 0.0], [1.0, -2.0], [-1.0, 2.0])
    assert merge(Ties(1.0, "tensor"), parents, [0.5, 0.5])["w"].tolist() == [1.0, 2.0]


# Two experts of one 2 x 4 tensor, by functions of mergekit 0.1.5: sparsify.magnitude,
# get_mask and the disjoint mean of "ties" at density 0.5, and slerp, for weights 1, 1 and .75, .25.
BASE = [[0.5, -1.0, 0.25, 2.0], [0.0, 1.5, -0.75, 1.0]]
EXPERTS = (
    [[1.0, -1.25, 0.375, 1.0], [0.0, 2.25, -0.8125, 1.375]],
    [[-0.25, -1.5, 0.3125, 2.25], [0.0, 2.375, -0.625, 0.0]],
)
MERGEKIT = {
    ("ties", 0.5): [[-0.25, -1.5, 0.25, 1.0], [0.0, 2.3125, -0.75, 0.0]],
    ("ties", 0.25): [[1.0, -1.5, 0.25, 1.0], [0.0, 2.28125, -0.75, 1.375]],
    ("slerp", 0.5): [
        [0.3956916332244873, -1.4508693218231201, 0.36271733045578003, 1.7146637439727783],
        [0.0, 2.440098285675049, -0.7584089636802673, 0.7254346609115601],
    ],
    ("slerp", 0.25): [
        [0.7071517705917358, -1.3684430122375488, 0.37377747893333435, 1.3754321336746216],
        [0.0, 2.3763208389282227, -0.7959286570549011, 1.0642222166061401],
    ],
}


@pytest.mark.parametrize(("method", "second"), MERGEKIT)
def test_small_example_equals_mergekit(method, second):
    rule = {"ties": Ties(0.5, "tensor"), "slerp": Slerp()}[method]
    found = merge(rule, plain(BASE, *EXPERTS), [1 - second, second])["w"]
    expected = torch.tensor(MERGEKIT[method, second])
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-7)


# ---------------------------------------------------------------------- DARE


def test_dare_keeps_its_share_and_rescales_it():
    stream = torch.Generator().manual_seed(1)
    base, delta = torch.zeros(300, 400), torch.randn(300, 400, generator=stream)
    parents = Parents(InMemory("base", {"w": base}), [InMemory("e", {"w": delta})])
    found = merge(Dare(0.25, "none", 3), parents, [1.0])["w"]
    kept = found != 0
    # Four standard errors of a binomial share.
    assert abs(kept.float().mean().item() - 0.25) < 4 * (0.25 * 0.75 / base.numel()) ** 0.5
    torch.testing.assert_close(found[kept], 4 * delta[kept])


def test_dare_depends_on_seed_expert_and_tensor_only():
    parents = family()
    turned = Parents(
        InMemory("base", dict(reversed(parents.base.tensors.items()))),
        [InMemory(e.name, e.tensors) for e in parents.experts],
    )
    rule = Dare(0.5, "none", 0)
    first = merge(rule, parents, [0.2, 0.3, 0.5])
    again = merge(rule, turned, [0.2, 0.3, 0.5])
    assert_states({n: again[n] for n in first}, first, rtol=0, atol=0)
    other = merge(Dare(0.5, "none", 1), parents, [0.2, 0.3, 0.5])
    assert not torch.equal(other["embed"], first["embed"])
    vectors = [merge(rule, parents, p)["embed"] - parents.base.read("embed") for p in np.eye(3)]
    masks = [v != 0 for v in vectors]
    assert not torch.equal(masks[0], masks[1])


def test_all_preferences_share_the_masks():
    parents = family()
    rule, base = Dare(0.5, "none", 0), parents.base.read("embed")
    ends = [merge(rule, parents, p)["embed"] - base for p in np.eye(3)]
    middle = merge(rule, parents, [0.2, 0.3, 0.5])["embed"] - base
    mixed = 0.2 * ends[0] + 0.3 * ends[1] + 0.5 * ends[2]
    torch.testing.assert_close(middle, mixed, rtol=0, atol=1e-6)


def test_dare_at_full_density_is_task_arithmetic_or_ties():
    parents, p = family(), [0.2, 0.3, 0.5]
    for elect, rule in (("none", TaskVectors()), ("ties", Ties(1.0, "tensor"))):
        found = merge(Dare(1.0, elect, 0), parents, p, 0.4)
        assert_states(found, merge(rule, parents, p, 0.4), rtol=0, atol=1e-6)


# ---------------------------------------------------------------------- SLERP


def test_slerp_keeps_to_the_sphere_and_goes_at_even_pace():
    parents = plain([0.0, 0.0], [3.0, 0.0], [0.0, 3.0])
    for t in (0.0, 0.2, 0.5, 1.0):
        found = merge(Slerp(), parents, [1 - t, t])["w"]
        angle = t * np.pi / 2
        expected = torch.tensor([3 * np.cos(angle), 3 * np.sin(angle)], dtype=torch.float32)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("second", [[2.0, 0.01], [-2.0, 0.01]])
def test_slerp_is_linear_where_experts_are_nearly_collinear(second):
    parents = plain([9.0, 9.0], [1.0, 0.0], second)
    found = merge(Slerp(), parents, [0.25, 0.75])["w"]
    torch.testing.assert_close(found, torch.tensor([0.25 + 0.75 * second[0], 0.0075]))


def test_slerp_of_a_zero_tensor_is_finite():
    parents = plain([1.0, 1.0], [0.0, 0.0], [1.0, 2.0])
    assert torch.isfinite(merge(Slerp(), parents, [0.5, 0.5])["w"]).all()


def test_slerp_takes_two_experts():
    with pytest.raises(ConfigError, match="two experts, and the task has 3"):
        Slerp().check(family(3))
    with pytest.raises(ConfigError, match="two experts, and the task has 3"):
        slerp.SLERP(points=3).check(MergeDigits(experts=3))


# ---------------------------------------------------------------------- TSV-Merge


def blocks(rank, columns=(0, 6)):
    """Task vectors (12, 12) of a rank, on separate rows and columns."""
    deltas = []
    for k, start in enumerate(columns):
        stream = torch.Generator().manual_seed(k)
        left, right = torch.randn(2, 6, rank, generator=stream)
        delta = torch.zeros(12, 12)
        delta[start : start + 6, start : start + 6] = left @ right.T
        deltas.append(delta)
    return deltas


def with_base(deltas):
    base = torch.ones_like(deltas[0])
    return Parents(
        InMemory("b", {"w": base}),
        [InMemory(str(k), {"w": base + d}) for k, d in enumerate(deltas)],
    )


def test_tsv_adds_task_vectors_that_do_not_meet():
    deltas = blocks(rank=6)
    for preference, second in (([0.5, 0.5], 1.0), ([0.8, 0.2], 0.25)):
        found = merge(TaskSingularVectors(), with_base(deltas), preference, 0.8)["w"]
        expected = 1 + 0.8 * (deltas[0] + second * deltas[1])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 6])
def test_tsv_merges_equal_experts_to_their_sum(rank):
    """The singular vectors coincide, and orthogonality must not add directions of its own."""
    delta = blocks(rank)[0]
    found = merge(TaskSingularVectors(), with_base([delta, delta]), [0.5, 0.5])["w"]
    torch.testing.assert_close(found, 1 + delta, rtol=0, atol=1e-5)


def test_tsv_drops_interference_and_keeps_singular_values():
    """Û and V̂ are orthonormal, so that the change has all the singular values that were kept."""
    stream = torch.Generator().manual_seed(0)
    deltas = list(torch.randn(2, 10, 12, generator=stream))
    change = merge(TaskSingularVectors(), with_base(deltas), [0.5, 0.5])["w"] - 1
    kept = torch.cat([torch.linalg.svdvals(d)[:5] for d in deltas]).sort(descending=True).values
    torch.testing.assert_close(torch.linalg.svdvals(change), kept, rtol=1e-4, atol=1e-4)


def test_tsv_treats_kernels_as_matrices():
    stream = torch.Generator().manual_seed(0)
    deltas = list(torch.randn(2, 8, 3, 3, 3, generator=stream))
    kernels = merge(TaskSingularVectors(), with_base(deltas), [0.3, 0.7])["w"]
    matrices = merge(TaskSingularVectors(), with_base([d.flatten(1) for d in deltas]), [0.3, 0.7])
    torch.testing.assert_close(kernels.flatten(1), matrices["w"])


@pytest.mark.parametrize("shape", [(5,), (), (2, 9), (9, 2)])
def test_tsv_averages_what_has_no_room_for_a_direction_of_each(shape):
    deltas = [torch.full(shape, v) for v in (1.0, 2.0, 6.0)]
    found = merge(TaskSingularVectors(), with_base(deltas), [0.5, 0.25, 0.25], 0.8)["w"]
    torch.testing.assert_close(found, torch.full(shape, 1 + 0.8 * 2.5))


def test_the_nearest_orthonormal_columns_are_nearest():
    stream = torch.Generator().manual_seed(0)
    matrix = torch.randn(7, 4, generator=stream, dtype=torch.float64)
    found = nearest_orthonormal(matrix)
    torch.testing.assert_close(found.T @ found, torch.eye(4, dtype=torch.float64))
    for _ in range(50):
        nudge = torch.randn(7, 4, generator=stream, dtype=torch.float64)
        other, _ = torch.linalg.qr(found + 0.1 * nudge)
        other = other * (other * found).sum(0).sign()
        assert (other - matrix).norm() > (found - matrix).norm()


# ---------------------------------------------------------------------- PCB


def naive_pcb(t, ratio, quantile, inter):
    """(n, d) -> (C, S), with sorted rows."""

    def clamp(x, low, high):
        ordered = x.sort(dim=1).values
        d = x.shape[1]
        return x.clamp(ordered[:, [int(d * low)]], ordered[:, [int(d * (1 - high) - 1)]])

    def minmax(x):
        low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
        return (x - low) / (high - low)

    n = len(t)
    size = clamp(t.abs(), quantile, quantile)
    normal = minmax(size)
    signed = t.sign() * normal
    agreement = {
        "products": lambda: torch.tanh(t * t.sum(0)),
        "signed_minmax": lambda: torch.tanh(t * signed.sum(0)),
        "elementwise": lambda: torch.tanh(signed[:, None] * signed[None]).sum(1),
    }[inter]()
    scores = torch.exp(n * normal**2) * agreement
    return t.sign() * size, minmax(clamp(scores, 1 - ratio, 0))


@pytest.mark.parametrize("inter", pcb.INTER)
@pytest.mark.parametrize("ratio", [1.0, 0.2, 0.05])
def test_pcb_equals_sorting(inter, ratio):
    parents, p = family(), [0.6, 0.3, 0.1]
    c, s = naive_pcb(task_vectors(parents).float(), ratio, 0.01, inter)
    w = torch.tensor(p)[:, None] / max(p)
    change = (w * c * s).sum(0) / s.sum(0).clamp(min=1e-12)
    expected = flat(parents, parents.base) + 1.2 * change.double()
    found = joined(merge(ParameterCompetition(ratio, 0.01, inter), parents, p, 1.2))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("inter", pcb.INTER)
def test_pcb_of_task_vectors_of_one_magnitude_is_finite(inter):
    parents = with_base([torch.full((4, 5), 0.5), torch.full((4, 5), 0.5)])
    found = merge(ParameterCompetition(0.05, 1e-4, inter), parents, [0.5, 0.5])["w"]
    assert torch.equal(found, torch.ones(4, 5))


def test_pcb_keeps_its_ratio():
    parents = family(experts=1)
    state = merge(ParameterCompetition(0.05, 0.01, "products"), parents, [1.0])
    changed = joined(state) != flat(parents, parents.base)
    assert abs(changed.double().mean().item() - 0.05) <= 2 / len(changed)


# ---------------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (TIES, {"density": 0.0}, "method.density=0.0 must be more than 0"),
        (TIES, {"trim": "layer"}, "method.trim=layer is unknown"),
        (TIES, {"scale": "one"}, "method.scale=one must be a number"),
        (TIES, {"scale": [1.0, 2.0]}, r"method.scale=\[1.0, 2.0\] must be a number"),
        (TIES, {"scale": float("nan")}, "method.scale=nan must be a number"),
        (DARE, {"seed": 0, "density": 1.5}, "method.density=1.5 must be"),
        (DARE, {"seed": 0, "elect": "tie"}, "method.elect=tie is unknown.*ties"),
        (PCB, {"ratio": -1}, "method.ratio=-1 must be"),
        (PCB, {"quantile": 0.5}, "method.quantile=0.5 must be"),
        (PCB, {"inter": "product"}, "method.inter=product is unknown.*products"),
    ],
)
def test_settings_that_do_not_exist_are_refused(method, options, message):
    with pytest.raises(ConfigError, match=message):
        method(points=3, **options)


@pytest.mark.parametrize("name", ["ties", "dare", "slerp", "tsv_merge", "pcb"])
def test_a_configuration_builds_and_names_its_switches(name):
    composed = config.compose([f"method=merging/{name}", "task=merge_digits", "task.experts=2"])
    method = config.build(composed.method)
    method.check(MergeDigits(experts=2))
    assert "scale" in method.switches()
    assert composed.label.startswith(name.partition("_")[0])
