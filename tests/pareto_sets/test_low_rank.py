"""Low-rank sets: paths beside layers against folded weights, storage, and what they export."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from frontrunner.errors import ConfigError, RunError
from frontrunner.pareto_sets import base as pareto_sets
from frontrunner.pareto_sets.export import export, formats
from frontrunner.pareto_sets.low_rank import LowRank, LowRankSet
from frontrunner.preferences import grid
from frontrunner.weights.networks import named_state, place, target_layers

K = 3


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.out = nn.Linear(6 * 4 * 4, 5)

    def forward(self, x, k=0):
        return self.out(torch.relu(self.norm(self.conv(x))).flatten(1))


class Only:
    """As much of a task as restoring a set needs."""

    name = "only"

    def network(self):
        return Net()


def make(seed=0, rank=4, cores=K, vectors=("conv.bias", "out.bias")):
    torch.manual_seed(seed)
    network = Net()
    state = named_state(network)
    shapes = target_layers(network, ["*"])
    change = LowRank(shapes, rank, cores, {n: state[n].shape for n in vectors})
    with torch.no_grad():
        for p in change.parameters():
            p.normal_(std=0.3)
    preferences = grid(K, 6) if cores > 1 else np.full((1, K), 1 / K)
    return LowRankSet(network, list(state), change, preferences)


@pytest.fixture
def inputs():
    return torch.randn(7, 2, 8, 8, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("preference", [[1, 0, 0], [0.2, 0.3, 0.5], [1 / 3, 1 / 3, 1 / 3]])
def test_paths_beside_layers_equal_folded_weights(preference, inputs):
    pareto_set = make()
    beside = pareto_set.materialize(preference)(inputs)
    folded = Net().eval()
    place(folded, pareto_set.state(preference))
    assert torch.allclose(beside, folded(inputs), atol=1e-5)


def test_the_change_is_the_tensor_contracted_with_the_preference():
    pareto_set = make()
    gamma = np.array([0.2, 0.3, 0.5])
    change = pareto_set.change
    i = change.layers.index("out")
    core = np.einsum("k,krs->rs", gamma, change.core[i].detach().numpy())
    wanted = change.left[i].detach().numpy() @ core @ change.right[i].detach().numpy().T
    base = dict(pareto_set.base())["out.weight"]
    found = dict(pareto_set.state(gamma))["out.weight"] - base
    assert np.allclose(found, wanted, atol=1e-5)


def test_changing_the_preference_leaves_the_weights_alone(inputs):
    pareto_set = make()
    weight = pareto_set.network.out.weight
    before, place_in_memory = weight.detach().clone(), weight.data_ptr()
    outputs = [pareto_set.materialize(p)(inputs) for p in np.eye(K)]
    assert not torch.allclose(outputs[0], outputs[1])
    assert torch.equal(weight, before)
    assert weight.data_ptr() == place_in_memory


def test_the_order_of_preferences_does_not_matter(inputs):
    pareto_set = make()
    first = pareto_set.materialize([1, 0, 0])(inputs)
    pareto_set.materialize([0, 0.5, 0.5])(inputs)
    assert torch.equal(pareto_set.materialize([1, 0, 0])(inputs), first)


@pytest.mark.parametrize("cores", [K, 1])
def test_a_set_is_saved_and_read(tmp_path, inputs, cores):
    pareto_set = make(cores=cores)
    pareto_set.materialize(pareto_set.preferences[0])  # what was asked for last is not stored
    pareto_set.save(tmp_path)
    again = pareto_sets.load(tmp_path, Only())
    assert again.digest() == pareto_set.digest()
    p = pareto_set.preferences[-1]
    assert torch.equal(again.materialize(p)(inputs), pareto_set.materialize(p)(inputs))
    factors = sum(p.numel() for p in pareto_set.change.parameters())
    state = sum(t.numel() for t in named_state(Net()).values())
    assert pareto_set.stored_parameters == state + factors


def test_weights_of_another_network_are_refused(tmp_path):
    make().save(tmp_path)

    class Other(Only):
        def network(self):
            return nn.Linear(3, 3)

    with pytest.raises(RunError, match="the network has no tensor"):
        pareto_sets.load(tmp_path, Other())


def test_other_base_weights_are_put_in_place():
    pareto_set = make()
    pareto_set.materialize([1, 0, 0])
    ones = {n: torch.ones_like(t) for n, t in pareto_set.base() if n in ("out.bias", "out.weight")}
    pareto_set.rebase(ones)
    base = dict(pareto_set.base())
    assert all(torch.equal(base[n], t) for n, t in ones.items())
    assert torch.equal(base["conv.bias"], make().network.conv.bias)


def test_layers_are_chosen_by_pattern():
    assert set(target_layers(Net(), ["*"])) == {"conv", "out"}
    assert target_layers(Net(), ["c*"]) == {"conv": (6, 18)}
    with pytest.raises(ConfigError, match=r"method\.layers: .* 'attention\*'; there are conv, out"):
        target_layers(Net(), ["attention*"])


def test_grouped_convolutions_are_left_alone():
    assert target_layers(nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Linear(2, 2)), ["*"]) == {
        "1": (2, 2)
    }


# ---------------------------------------------------------------------- exports


def test_it_has_three_formats():
    assert formats(make()) == ["full", "lora", "factors"]


def test_factors_rebuild_any_preference(tmp_path):
    pareto_set = make()
    export(pareto_set, [1, 0, 0], tmp_path / "out", format="factors")
    base, factors = (load_file(tmp_path / "out" / f"{n}.safetensors") for n in ("base", "factors"))
    gamma = torch.tensor([0.2, 0.3, 0.5])
    core = torch.einsum("k,krs->rs", gamma, factors["out.core"])
    rebuilt = base["out.weight"] + factors["out.left"] @ core @ factors["out.right"].T
    wanted = dict(pareto_set.state(gamma.numpy().astype(float) / gamma.sum().item()))
    assert torch.allclose(rebuilt, wanted["out.weight"], atol=1e-5)
    shifted = base["out.bias"] + torch.einsum("k,kc->c", gamma, factors["out.bias.shift"])
    assert torch.allclose(shifted, wanted["out.bias"], atol=1e-5)


def test_peft_loads_the_adapter(tmp_path, inputs):
    peft = pytest.importorskip("peft")
    pareto_set, p = make(), [0.2, 0.3, 0.5]
    export(pareto_set, p, tmp_path / "out", format="lora")
    network = Net().eval()
    network.load_state_dict(load_file(tmp_path / "out" / "base" / "model.safetensors"))
    adapted = peft.PeftModel.from_pretrained(network, tmp_path / "out").eval()
    assert torch.allclose(adapted(inputs), pareto_set.materialize(p)(inputs), atol=1e-5)
    facts = json.loads((tmp_path / "out" / "frontrunner_export.json").read_text())
    assert facts["format"] == "lora"
