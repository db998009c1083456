"""Pareto sets: exact storage, models without copies, and files that are refused with a reason."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, load_model, save_file
from torch import nn

from frontrunner.errors import FrontError, RunError
from frontrunner.models.conditioning import FiLM
from frontrunner.models.networks import MLP
from frontrunner.models.weights import Ensemble, HyperNetwork, LowRankUpdates
from frontrunner.pareto_sets import base
from frontrunner.pareto_sets.conditioned import ConditionedNetwork
from frontrunner.pareto_sets.export import export
from frontrunner.pareto_sets.finite import FiniteSet
from frontrunner.tasks.base import Model
from frontrunner.tasks.multi_digits import MultiDigits


class Tied(nn.Module):
    """Two layers with one weight, and normalisation with its running statistics."""

    def __init__(self, input_shape, output_sizes):
        super().__init__()
        self.norm = nn.BatchNorm1d(input_shape[1] * input_shape[2])
        self.first = nn.Linear(input_shape[1] * input_shape[2], 8)
        self.second = nn.Linear(8, 8)
        self.third = nn.Linear(8, 8)
        self.third.weight = self.second.weight
        self.heads = nn.ModuleList(nn.Linear(8, c) for c in output_sizes)
        self.film_layers = ["first"]

    def forward(self, x):
        x = torch.relu(self.first(self.norm(x.flatten(1))))
        x = torch.relu(self.third(torch.relu(self.second(x))))
        return tuple(head(x) for head in self.heads)


def small(**shapes):
    return MLP(**shapes, hidden=[6, 5])


def task(network=small, conditioning=FiLM):
    return MultiDigits(sizes=(40, 20, 20), model=Model(network, conditioning))


def finite(network=small, seed=0):
    torch.manual_seed(seed)
    models = [task(network).network() for _ in range(3)]
    states = [base.named_state(m) for m in models]
    stacked = {k: torch.stack([s[k].detach() for s in states]) for k in states[0]}
    return FiniteSet(task(network).network(), stacked, [[1, 0], [0.5, 0.5], [0, 1]], "weight")


def conditioned(network=small, seed=0):
    torch.manual_seed(seed)
    rays = [[1, 0], [0.5, 0.5], [0, 1]]
    return ConditionedNetwork(task(network).conditioned_network(), rays, "ray", scale="sphere")


KINDS = pytest.mark.parametrize("make", [finite, conditioned])
NETWORKS = pytest.mark.parametrize("network", [small, Tied])
X = torch.randn(7, 1, 8, 12, generator=torch.Generator().manual_seed(4))


def outputs(pareto_set, preference):
    with torch.no_grad():
        return torch.cat([o.clone() for o in pareto_set.materialize(preference)(X)], dim=1)


@KINDS
def test_materialize_returns_the_same_storage_every_time(make):
    pareto_set = make()
    stored = pareto_set.network
    addresses = [p.data_ptr() for p in stored.parameters()]
    for preference in pareto_set.preferences:
        module = pareto_set.materialize(preference)
        assert {p.data_ptr() for p in module.parameters()} == set(addresses)
        assert not module.training


def test_a_finite_set_answers_with_the_model_of_each_preference():
    torch.manual_seed(0)
    models = [task().network() for _ in range(3)]
    pareto_set = finite(seed=0)
    for model, preference in zip(models, pareto_set.preferences, strict=True):
        expected = torch.cat(model(X), dim=1)
        torch.testing.assert_close(outputs(pareto_set, preference), expected)


@pytest.mark.parametrize("scale", ["simplex", "sphere"])
def test_a_conditioned_network_is_fed_the_preference_at_its_scale(scale):
    network = task().conditioned_network()
    pareto_set = ConditionedNetwork(network, [[0.5, 0.5]], "ray", scale=scale)
    fed = torch.tensor([0.2, 0.8])
    expected = network(X, fed / fed.norm() if scale == "sphere" else fed)
    torch.testing.assert_close(outputs(pareto_set, [0.2, 0.8]), torch.cat(expected, dim=1))


@KINDS
@pytest.mark.parametrize(
    "preference", [[0.5, 0.6], [1.5, -0.5], [1.0], [0.2, 0.3, 0.5], [np.nan, 1.0], [[0.5, 0.5]]]
)
def test_what_is_not_a_preference_is_refused(make, preference):
    with pytest.raises(FrontError, match="preference"):
        make().materialize(preference)


def test_a_finite_set_names_the_nearest_preference_it_has():
    with pytest.raises(FrontError, match=r"3 models and none for \[0\.6, 0\.4\].*\[0\.5, 0\.5\]"):
        finite().materialize([0.6, 0.4])


@KINDS
@NETWORKS
def test_saving_and_loading_changes_no_bit(make, network, tmp_path):
    before = make(network)
    before.save(tmp_path)
    assert base.is_complete(tmp_path)
    torch.manual_seed(99)
    after = base.load(tmp_path, task(network))
    assert type(after) is type(before)
    assert after.digest() == before.digest()
    assert after.preference_kind == before.preference_kind
    np.testing.assert_array_equal(after.preferences, before.preferences)
    for preference in before.preferences:
        assert torch.equal(outputs(after, preference), outputs(before, preference))


def test_tied_weights_are_stored_once():
    network = task(Tied).conditioned_network()
    stored = conditioned(Tied).stored_parameters
    buffers = sum(b.numel() for b in network.buffers())
    assert stored == sum(p.numel() for p in network.parameters()) + buffers


@KINDS
def test_the_digest_changes_with_any_weight_and_any_preference(make):
    pareto_set = make()
    digests = {pareto_set.digest(), make(seed=1).digest()}
    for tensor in pareto_set.tensors().values():
        with torch.no_grad():
            tensor.view(-1)[-1] += 1e-6
        digests.add(pareto_set.digest())
    pareto_set.preferences = pareto_set.preferences[::-1].copy()
    digests.add(pareto_set.digest())
    assert len(digests) == 3 + len(pareto_set.tensors())


def test_a_digest_of_weights_without_columns_exists(tmp_path):
    network = MLP((0,), (2,), hidden=[3])
    pareto_set = ConditionedNetwork(network, [[0.5, 0.5]], "ray")
    assert len(pareto_set.digest()) == 16


@KINDS
def test_a_set_in_double_precision_takes_single_precision_inputs(make, tmp_path):
    single, double = make(), make()
    double.network.double()
    if isinstance(double, FiniteSet):
        double.stacked = {k: t.double() for k, t in double.stacked.items()}
    double.save(tmp_path)
    again = base.load(tmp_path, task())
    out = outputs(again, [0.5, 0.5])
    assert out.dtype == torch.float64
    torch.testing.assert_close(out.float(), outputs(single, [0.5, 0.5]))


def test_a_finite_set_needs_a_model_for_every_preference():
    with pytest.raises(FrontError, match="2 preferences"):
        FiniteSet(nn.Linear(1, 1), {"weight": torch.zeros(3, 1, 1)}, [[1, 0], [0, 1]], "weight")


# ---------------------------------------------------------------------- weights of a preference


@pytest.fixture(params=[Ensemble, LowRankUpdates, HyperNetwork])
def weighted(request):
    """``weighted(network, scale)``: a set whose weights depend on the preference, and its task."""

    def make(network=Tied, scale="simplex"):
        torch.manual_seed(3)
        its_task = task(network, request.param)
        conditioned = its_task.conditioned_network()
        with torch.no_grad():
            for parameter in conditioned.parameters():
                parameter += 0.1 * torch.randn_like(parameter)  # also B of low-rank updates
        conditioned(X, torch.tensor([0.5, 0.5]))  # moves the statistics of normalisation
        rays = [[1, 0], [0.5, 0.5], [0, 1]]
        return ConditionedNetwork(conditioned, rays, "weight", scale=scale), its_task

    return make


@pytest.mark.parametrize("scale", ["simplex", "sphere"])
@NETWORKS
def test_the_model_of_a_weight_conditioned_set_is_the_plain_network(weighted, network, scale):
    pareto_set, its_task = weighted(network, scale)
    model = pareto_set.materialize([0.2, 0.8])
    assert type(model) is type(its_task.network())
    assert list(model.state_dict()) == list(its_task.network().state_dict())
    fed = torch.tensor([0.2, 0.8])
    fed = fed / fed.norm() if scale == "sphere" else fed
    expected = torch.cat(pareto_set.network.eval()(X, fed), dim=1)
    torch.testing.assert_close(outputs(pareto_set, [0.2, 0.8]), expected)
    digest = pareto_set.digest()
    model.train()(X)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert pareto_set.digest() == digest


@NETWORKS
def test_a_weight_conditioned_set_is_stored_and_read_bit_for_bit(weighted, network, tmp_path):
    before, its_task = weighted(network)
    before.save(tmp_path)
    stored = sum(t.numel() for t in before.network.state_dict().values())
    assert before.stored_parameters == stored
    torch.manual_seed(99)
    after = base.load(tmp_path, its_task)
    assert after.digest() == before.digest()
    for preference in ([0.3, 0.7], *before.preferences):
        assert torch.equal(outputs(after, preference), outputs(before, preference))
    assert "shape" in refused(tmp_path, network)  # FiLM in its place


def test_a_weight_conditioned_set_in_double_precision_takes_single_precision_inputs(weighted):
    pareto_set, _ = weighted()
    single = outputs(pareto_set, [0.3, 0.7])
    pareto_set.network.double()
    out = outputs(pareto_set, [0.3, 0.7])
    assert out.dtype == torch.float64
    torch.testing.assert_close(out.float(), single, rtol=1e-4, atol=1e-5)


@NETWORKS
def test_a_model_of_a_weight_conditioned_set_is_exported_for_the_plain_network(
    weighted, network, tmp_path
):
    pareto_set, its_task = weighted(network)
    done = export(pareto_set, [0.3, 0.7], tmp_path)
    plain = its_task.network()
    assert done.parameters == sum(p.numel() for p in plain.parameters())
    load_model(plain, str(tmp_path / "model.safetensors"))
    with torch.no_grad():
        found = torch.cat(plain.eval()(X), dim=1)
    assert torch.equal(found, outputs(pareto_set, [0.3, 0.7]))


# ---------------------------------------------------------------------- files


@pytest.fixture
def saved(tmp_path):
    finite().save(tmp_path / "set")
    return tmp_path / "set"


def refused(folder, network=small):
    with pytest.raises(RunError) as caught:
        base.load(folder, task(network))
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


def test_truncated_weights_are_refused(saved):
    path = saved / "weights.safetensors"
    for keep in (0, 5, 100, path.stat().st_size - 1):
        path.write_bytes(path.read_bytes()[:keep])
        assert "not readable" in refused(saved)


def test_missing_weights_are_refused(saved):
    (saved / "weights.safetensors").unlink()
    assert "weights.safetensors" in refused(saved)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "{}", '{"schema_version": 1}', '{"schema_version": 1, "type": 3}']
)
def test_foreign_json_is_refused(saved, text):
    (saved / "pareto_set.json").write_text(text)
    refused(saved)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("schema_version", 99, "another version"),
        ("type", "nowhere.Nothing", "nowhere"),
        ("type", "json.JSONDecoder", "not a Pareto set"),
        ("type", "frontrunner.pareto_sets.conditioned.ConditionedNetwork", "shape"),
        ("digest", "0" * 16, "do not belong together"),
        ("preferences", [[1, 0], [0.5, 0.5]], "2 preferences"),
        ("preferences", [[2, 0], [0.5, 0.5], [0, 1]], "sum to 1"),
        ("preferences", "none", "Pareto set"),
        ("options", None, "together"),
    ],
)
def test_altered_json_is_refused(saved, key, value, message):
    path = saved / "pareto_set.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, key: value}))
    if key == "options":
        assert len(base.load(saved, task()).preferences) == 3  # a finite set has none
    else:
        assert message in refused(saved)


@KINDS
def test_another_model_is_refused_naming_the_layer_that_differs(make, tmp_path):
    make().save(tmp_path)
    message = refused(tmp_path, network=lambda **s: MLP(**s, hidden=[6, 4]))
    assert re.search(
        r"'(heads|generator|network|linears)\S+' has shape \(\d.* in the file", message
    )


def test_weights_of_another_run_are_refused(saved, tmp_path):
    finite(seed=5).save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "weights.safetensors", saved)
    assert "do not belong together" in refused(saved)


def test_an_empty_weights_file_is_refused(tmp_path):
    conditioned().save(tmp_path)
    save_file({}, tmp_path / "weights.safetensors")
    refused(tmp_path)


def test_a_disk_that_fills_up_leaves_the_earlier_set_readable(saved, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = {p.name: p.read_bytes() for p in saved.iterdir()}
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(RunError, match=r"weights\.safetensors.*No space left"):
            finite(seed=1).save(saved)
    assert {p.name: p.read_bytes() for p in saved.iterdir()} == before
    base.load(saved, task())


# ---------------------------------------------------------------------- export


@KINDS
@NETWORKS
def test_an_exported_model_reloads_into_the_same_outputs(make, network, tmp_path):
    pareto_set = make(network)
    done = export(pareto_set, [0.5, 0.5], tmp_path)
    expected = outputs(pareto_set, [0.5, 0.5])
    torch.manual_seed(7)
    fresh = make(network, seed=7).materialize([0, 1])
    load_model(fresh, str(tmp_path / "model.safetensors"))
    assert torch.equal(torch.cat(fresh(X), dim=1), expected)
    described = json.loads((tmp_path / "model.json").read_text())
    assert described["preference"] == [0.5, 0.5]
    parameters = sum(p.numel() for p in pareto_set.materialize([0.5, 0.5]).parameters())
    assert described["parameters"] == done.parameters == parameters
    assert set(load_file(tmp_path / "model.safetensors")) <= set(described["tensors"])


def test_an_exported_member_of_a_finite_set_is_a_checkpoint_of_the_plain_network(tmp_path):
    pareto_set = finite()
    export(pareto_set, [0, 1], tmp_path)
    plain = task().network()
    plain.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(torch.cat(plain(X), dim=1), outputs(pareto_set, [0, 1]))


@KINDS
def test_export_refuses_what_is_not_a_preference_and_writes_nothing(make, tmp_path):
    with pytest.raises(FrontError):
        export(make(), [0.5, 0.6], tmp_path / "out")
    assert not (tmp_path / "out").exists()
