"""Parents: models that do not correspond are refused by name; pieces are what `read` gives."""

from __future__ import annotations

import pytest
import torch

from frontrunner.errors import DataError
from frontrunner.weights import parents as module
from frontrunner.weights.parents import Parents
from frontrunner.weights.source import InMemory


def models(**tensors):
    """A base and two experts with these tensors; those of the experts are larger by 1 and 2."""
    base = InMemory("base", tensors)
    experts = [
        InMemory(f"expert-{k}", {n: t + k if t.dtype != torch.bool else t for n, t in
                                 tensors.items()})
        for k in (1, 2)
    ]  # fmt: skip
    return base, experts


def weights(dtype=torch.float32):
    return torch.arange(12, dtype=dtype).reshape(3, 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_reading_accumulates_in_float32_or_better(dtype):
    base, experts = Parents(*models(w=weights(dtype))).read("w")
    wanted = torch.float64 if dtype == torch.float64 else torch.float32
    for k, tensor in enumerate([base, *experts]):
        torch.testing.assert_close(tensor, weights(wanted) + k)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 5, 12, 100])
def test_pieces_are_the_flat_tensor(monkeypatch, size, dtype):
    monkeypatch.setattr(module, "PIECE", size)
    parents = Parents(*models(w=weights(dtype).T))
    pieces = list(parents.pieces("w"))
    assert [start for start, _, _ in pieces] == list(range(0, 12, size))
    base, experts = parents.read("w")
    torch.testing.assert_close(torch.cat([p for _, p, _ in pieces]), base.reshape(-1))
    for k in range(2):
        found = torch.cat([e[k] for _, _, e in pieces])
        torch.testing.assert_close(found, experts[k].reshape(-1))


def test_empty_tensors_have_no_pieces():
    parents = Parents(*models(w=torch.empty(0, 3)))
    assert list(parents.pieces("w")) == []
    assert parents.read("w")[0].shape == (0, 3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_numbers_that_are_not_finite_are_refused_by_name(bad, dtype):
    base, experts = models(w=weights(dtype), other=weights(dtype))
    experts[1].tensors["w"][1, 2] = bad
    parents = Parents(base, experts)
    parents.read("other")
    for read in (parents.read, lambda key: list(parents.pieces(key))):
        with pytest.raises(DataError, match="'w' in expert-2 holds NaN or infinity"):
            read("w")


def test_the_largest_numbers_are_finite():
    largest = torch.full((4, 4), torch.finfo(torch.float32).max)
    base, _ = Parents(InMemory("base", {"w": largest}), [InMemory("e", {"w": -largest})]).read("w")
    assert torch.equal(base, largest)


def change(experts, key, tensor):
    if tensor is None:
        del experts[1].tensors[key]
    else:
        experts[1].tensors[key] = tensor


@pytest.mark.parametrize(
    ("key", "tensor", "message"),
    [
        ("w", None, "expert-2 has no tensor 'w', which base has"),
        ("w", torch.zeros(4, 3), r"'w' has shape \(4, 3\) in expert-2 and \(3, 4\) in base"),
        ("w", torch.zeros(3, 4, dtype=torch.int8), "'w' is torch.float32 in base and torch.int8"),
        ("new", torch.zeros(1), "expert-2 has a tensor 'new' that the base has not"),
    ],
)
def test_models_that_do_not_correspond_are_refused(key, tensor, message):
    base, experts = models(w=weights())
    change(experts, key, tensor)
    with pytest.raises(DataError, match=message):
        Parents(base, experts)


def test_no_experts_are_refused():
    with pytest.raises(DataError, match="at least one expert"):
        Parents(InMemory("base", {}), [])


def test_the_digest_changes_with_any_parent():
    base, experts = models(w=weights())
    before = Parents(base, experts).digest()
    experts[1].tensors["w"][0, 0] += 1
    assert Parents(base, experts).digest() != before
    assert Parents(base, experts[::-1]).digest() != Parents(base, experts).digest()


def test_counters_are_not_mergeable_but_count_as_parameters():
    parents = Parents(*models(w=weights(), steps=torch.tensor(3)))
    assert parents.mergeable("w")
    assert not parents.mergeable("steps")
    assert parents.parameters == 13
