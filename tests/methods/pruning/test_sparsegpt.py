"""SparseGPT against a naive version in float64: the optimal update of the weights that are left,
from an inverse that is computed anew for every input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from frontrunner.errors import ConfigError, DataError
from frontrunner.methods.pruning.blockwise import Group
from frontrunner.methods.pruning.sparsegpt import SparseGPT
from frontrunner.sparse.patterns import NM, Pattern, Unstructured


def naive(
    dense: np.ndarray, gram: np.ndarray, pattern: Pattern, block: int, truncate: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Weights and support (d, c); the score of a weight is what removing it costs, w² / [H⁻¹]_jj,
    where H is that of the inputs not yet passed."""
    weight, (rows, columns) = dense.astype(float), dense.shape
    h = gram + 0.01 * np.diag(gram).mean() * np.eye(columns)
    inverses = [np.linalg.inv(h[j:, j:]) for j in range(columns)]
    cost = np.array([inverse[0, 0] for inverse in inverses])
    mask = np.ones(dense.shape, dtype=bool)
    zeros, gone = dense.size - pattern.kept(dense.shape), 0
    for j in range(columns):
        if isinstance(pattern, NM) and j % pattern.m == 0:
            part = slice(j, j + pattern.m)
            order = np.argsort(weight[:, part] ** 2 / cost[part], axis=1)
            for row, places in enumerate(order):
                mask[row, j + places[: pattern.m - pattern.n]] = False
        elif isinstance(pattern, Unstructured) and j % block == 0:
            end = min(j + block, columns)
            scores = (weight[:, j:end] ** 2 / cost[j:end]).reshape(-1)
            count = zeros * end // columns - gone
            if truncate:
                count = int(scores.size * pattern.sparsity) + 1
            gone += count
            kept = np.ones(scores.size, dtype=bool)
            kept[np.argsort(scores, kind="stable")[:count]] = False
            mask[:, j:end] = kept.reshape(rows, end - j)
        lost = np.where(mask[:, j], 0.0, weight[:, j])
        weight[:, j:] -= np.outer(lost / cost[j], inverses[j][0])
        weight[:, j] *= mask[:, j]
    return weight, mask


@pytest.mark.parametrize("pattern", [Unstructured(0.7), Unstructured(0.45), NM(2, 4), NM(1, 4)])
@pytest.mark.parametrize("block", [8, 20, 128])
@pytest.mark.parametrize("rounding", ["exact", "truncate"])
def test_it_is_the_optimal_update_column_by_column(group, pattern, block, rounding) -> None:
    truncate = rounding == "truncate"
    given = group(pattern)
    method = SparseGPT(
        points=3,
        block=block,
        rounding=rounding,
        **{"pattern": str(pattern)} if isinstance(pattern, NM) else {"sparsity": pattern.sparsity},
    )
    given.patterns = method.patterns({n: tuple(w.shape) for n, w in given.dense.items()})
    found = method.solve(given, given.grams[0], "cpu")
    for name, dense in given.dense.items():
        wanted, mask = naive(
            dense.numpy(), given.grams[0].double().numpy(), pattern, block, truncate
        )
        support = found[name].supports[0]
        assert np.array_equal(support.numpy(), mask)
        gap = np.abs(found[name].weights[0].double().numpy() - wanted).max()
        assert gap < 1e-4 * np.abs(wanted).max()
        assert int(support.sum()) == given.patterns[name].kept(tuple(dense.shape))


def test_two_inputs_by_hand() -> None:
    # H = [[2, 1], [1, 2]] less its ridge: of w = (1, 3) the first costs 1 / [H⁻¹]_11 = 1.5, the
    # second 9 · 2 = 18. What the first loses goes to the second: 3 + 1 · H_12 / H_22 = 3.5.
    gram = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    dense = torch.tensor([[1.0, 3.0]])
    given = Group("up", [], {"up": dense}, {"up": Unstructured(0.5)}, [gram])
    found = SparseGPT(points=3, damping=0.0).solve(given, gram, "cpu")["up"]
    torch.testing.assert_close(found.weights[0], torch.tensor([[0.0, 3.5]]))


@pytest.mark.parametrize("sparsity", [0.03, 0.5, 0.7, 0.97])
@pytest.mark.parametrize("inputs", [5, 13, 48])
def test_the_count_is_exact_whatever_the_block(group, sparsity, inputs) -> None:
    pattern = Unstructured(sparsity)
    given = group(pattern, outputs=3, inputs=inputs)
    for block in (1, 2, 7, 128):
        found = SparseGPT(points=3, block=block).solve(given, given.grams[0], "cpu")
        for name, dense in given.dense.items():
            assert int(found[name].supports[0].sum()) == pattern.kept(tuple(dense.shape))


def test_inputs_that_are_always_zero_lose_their_weights(group) -> None:
    given = group(Unstructured(0.5))
    gram = given.grams[0].clone()
    gram[5], gram[:, 5] = 0, 0
    found = SparseGPT(points=3).solve(given, gram, "cpu")
    for models in found.values():
        assert models.weights[0].isfinite().all()
        assert not models.weights[0][:, 5].any()


def test_a_singular_matrix_is_named() -> None:
    x = torch.ones(10, 4)
    given = Group("up", [], {"up": torch.ones(2, 4)}, {"up": Unstructured(0.5)}, [])
    with pytest.raises(DataError, match=r"Gram matrix of up is .*singular.*method.damping"):
        SparseGPT(points=3, damping=0).solve(given, x.mT @ x, "cpu")


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"block": 0}, "method.block"),
        ({"block": 6, "pattern": "2:4"}, "method.block"),
        ({"damping": -1}, "method.damping"),
        ({"rounding": "up"}, "method.rounding"),
    ],
)
def test_bad_settings_name_their_keys(settings, key) -> None:
    with pytest.raises(ConfigError, match=key):
        SparseGPT(points=3, **settings)


@pytest.mark.parametrize("settings", [{"pattern": "2:3"}, {"allocation": {"*": "2:3"}}])
def test_blocks_hold_whole_groups(settings) -> None:
    with pytest.raises(ConfigError, match=r"method.block=128 must be a multiple of M of 2:3"):
        SparseGPT(points=3, **settings)
