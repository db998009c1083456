import pytest
import torch

from frontrunner.errors import ConfigError
from frontrunner.methods.pruning.blockwise import Group
from frontrunner.methods.pruning.wanda import Wanda

# Norms of the inputs: 1, 2, 3 and 0.
GRAM = torch.diag(torch.tensor([1.0, 4.0, 9.0, 0.0]))
DENSE = torch.tensor([[4.0, 3.0, -1.0, 100.0], [-1.0, 0.1, 0.1, 5.0]])


def solved(gram=GRAM, dense=DENSE, **settings) -> list[list[float]]:
    method = Wanda(points=3, **settings)
    (pattern,) = method.patterns({"up.weight": tuple(dense.shape)}).values()
    group = Group("up", [], {"up.weight": dense}, {"up.weight": pattern}, [gram])
    found = method.solve(group, gram, "cpu")["up.weight"]
    assert torch.equal(found.weights[0], dense * found.supports[0])
    return found.supports[0].int().tolist()


def test_magnitude_times_norm_decides_within_each_output() -> None:
    # Scores: 4, 6, 3, 0 and 1, 0.2, 0.3, 0: the second row keeps two although all are smaller.
    assert solved(sparsity=0.5) == [[1, 1, 0, 0], [1, 0, 1, 0]]
    assert solved(pattern="2:4") == [[1, 1, 0, 0], [1, 0, 1, 0]]
    assert solved(pattern="1:4") == [[0, 1, 0, 0], [1, 0, 0, 0]]


def test_the_scale_of_the_gram_matrix_does_not_matter() -> None:
    assert solved(1e-6 * GRAM, sparsity=0.5) == solved(sparsity=0.5)


def test_correlations_of_inputs_do_not_matter() -> None:
    assert solved(GRAM + 0.5 * (1 - torch.eye(4)), sparsity=0.5) == solved(sparsity=0.5)


def test_rounding() -> None:
    # Of 5 inputs 3.5 should go: 3 of each row as published, or 7 of both rows together.
    dense = torch.tensor([[1.0, 2, 3, 4, 5], [5.0, 4, 3, 2, 1]])
    exact = solved(torch.eye(5), dense, sparsity=0.7)
    assert exact == [[0, 0, 0, 0, 1], [1, 1, 0, 0, 0]]
    truncated = solved(torch.eye(5), dense, sparsity=0.7, rounding="truncate")
    assert truncated == [[0, 0, 0, 1, 1], [1, 1, 0, 0, 0]]


def test_an_unknown_rounding_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"method.rounding"):
        Wanda(points=3, rounding="up")  # type: ignore[arg-type]
    assert Wanda(points=3).switches()["rounding"] == "exact"


def test_weights_of_a_layer_compete_where_it_is_asked_for() -> None:
    dense = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
    settings = {"gram": torch.eye(4), "dense": dense, "sparsity": 0.5}
    assert solved(**settings, among="layer") == [[0, 0, 0, 0], [1, 1, 1, 1]]
    assert solved(**settings) == [[0, 0, 1, 1], [0, 0, 1, 1]]
    with pytest.raises(ConfigError, match=r"method\.among=output"):
        solved(**settings, among="layer", rounding="truncate")
