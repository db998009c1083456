import pytest
import torch

from frontrunner.errors import ConfigError
from frontrunner.methods.pruning.blockwise import Group
from frontrunner.methods.pruning.magnitude import Magnitude
from frontrunner.sparse.patterns import NM, Unstructured

DENSE = torch.tensor([[0.1, -5.0, 0.3, 2.0], [-0.2, 0.4, -3.0, 0.0]])


def solved(pattern) -> list[list[float]]:
    group = Group("up", [], {"up.weight": DENSE}, {"up.weight": pattern}, [])
    found = Magnitude(points=3).solve(group, None, "cpu")["up.weight"]
    assert torch.equal(found.weights[0] != 0, found.supports[0])
    assert found.core is None
    return found.weights[0].tolist()


def test_the_largest_of_the_whole_layer_stay_as_they_are() -> None:
    wanted = torch.tensor([[0.0, -5.0, 0.0, 2.0], [0.0, 0.4, -3.0, 0.0]])
    assert solved(Unstructured(0.5)) == wanted.tolist()


def test_two_of_four() -> None:
    wanted = torch.tensor([[0.0, -5.0, 0.0, 2.0], [0.0, 0.4, -3.0, 0.0]])
    assert solved(NM(2, 4)) == wanted.tolist()
    assert solved(NM(1, 4)) == [[0, -5, 0, 0], [0, 0, -3, 0]]


def test_it_needs_no_data_and_makes_one_model() -> None:
    method = Magnitude(points=3)
    assert not method.data
    assert method.anchors(3).tolist() == [[1 / 3, 1 / 3, 1 / 3]]


@pytest.mark.parametrize("settings", [{"sparsity": 0}, {"sparsity": 1.0}, {"pattern": "4:2"}])
def test_bad_settings_name_their_keys(settings) -> None:
    with pytest.raises(ConfigError, match=r"method.sparsity and method.pattern: "):
        Magnitude(points=3, **settings)


def test_layers_may_have_their_own_sparsity() -> None:
    method = Magnitude(points=3, sparsity=0.5, allocation={"*.up": 0.7, "1.*": 0.8})
    found = method.patterns({"0.up": (10, 10), "0.down": (10, 10), "1.up": (10, 10)})
    assert {name: p.kept((10, 10)) for name, p in found.items()} == {
        "0.up": 30,
        "0.down": 50,
        "1.up": 20,
    }
    with pytest.raises(ConfigError, match="no layer is called 'upp'"):
        Magnitude(points=3, allocation={"upp": 0.5}).patterns({"up": (10, 10)})


def test_layers_may_have_their_own_pattern_whatever_the_others_have() -> None:
    method = Magnitude(points=3, pattern="2:4", allocation={"up": 0.6, "down": "1:4"})
    shape = (8, 8)
    found = method.patterns({"up": shape, "down": shape, "gate": shape})
    assert found == {"up": Unstructured(0.6), "down": NM(1, 4), "gate": NM(2, 4)}


@pytest.mark.parametrize("own", [1.5, 124, "4:2", "most"])
def test_a_bad_allocation_names_its_layer(own) -> None:
    with pytest.raises(ConfigError, match=r"method.allocation of '\*.up': "):
        Magnitude(points=3, allocation={"*.up": own})


@pytest.mark.parametrize("allocation", [0.5, [0.5, 0.6]])
def test_an_allocation_that_is_no_table_is_refused(allocation) -> None:
    with pytest.raises(ConfigError, match=r"method\.allocation=.* is no table"):
        Magnitude(points=3, allocation=allocation)


def test_without_data_there_is_nothing_to_say_of_calibration() -> None:
    assert Magnitude(points=3).switches() == {"among": "layer"}


def test_weights_compete_within_an_output_where_it_is_asked_for() -> None:
    wanted = torch.tensor([[0.0, -5.0, 0.0, 2.0], [0.0, 0.4, -3.0, 0.0]])
    assert solved(Magnitude(points=3, sparsity=0.5, among="output").pattern) == wanted.tolist()
    alone = Magnitude(points=3, sparsity=0.75, among="output").pattern
    assert solved(alone) == [[0, -5, 0, 0], [0, 0, -3, 0]]
    with pytest.raises(ConfigError, match=r"method\.among"):
        Magnitude(points=3, among="row")  # type: ignore[arg-type]
