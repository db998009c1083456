"""Weights that depend on a preference: each formula written out, and the network as it was."""

from __future__ import annotations

import copy
import math
import warnings

import pytest
import torch
from torch import nn
from torch.func import functional_call

from frontrunner.models.networks import MLP, LeNet
from frontrunner.models.weights import Ensemble, HyperNetwork, LowRankUpdates


class Own(nn.Module):
    """A user's network: convolutions, normalisation, dropout, and two layers of one weight."""

    def __init__(self, input_shape, output_sizes):
        super().__init__()
        self.conv = nn.Conv2d(input_shape[0], 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.grouped = nn.Conv2d(4, 4, 3, groups=2)
        self.drop = nn.Dropout(0.5)
        self.first = nn.Linear(16, 6)
        self.second = nn.Linear(6, 6)
        self.third = nn.Linear(6, 6)
        self.third.weight = self.second.weight
        self.out = nn.Linear(6, output_sizes[0])
        self.register_buffer("shift", torch.full((16,), 0.25), persistent=False)

    def forward(self, x):
        x = torch.relu(self.grouped(torch.relu(self.norm(self.conv(x)))))
        x = self.drop(torch.relu(self.first(x.flatten(1) + self.shift)))
        return self.out(torch.relu(self.third(torch.relu(self.second(x)))))


def own(**shapes):
    return Own(**shapes)


def unnormalised(**shapes):
    network = Own(**shapes)
    network.norm, network.drop = nn.Identity(), nn.Identity()
    return network


def lenet(**shapes):
    return LeNet(**shapes, kernel=[9, 5])


SHAPES = {"input_shape": (1, 6, 6), "output_sizes": (3,)}
DIGITS = {"input_shape": (1, 36, 36), "output_sizes": (10, 10)}
KINDS = pytest.mark.parametrize("kind", [Ensemble, LowRankUpdates, HyperNetwork])
X = torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(1))
PREFERENCE = torch.tensor([0.2, 0.5, 0.3])


def made(kind, factory=own, m=3, seed=0, shapes=SHAPES, **options):
    """A conditioned network; of low-rank updates also B is random, as after training."""
    torch.manual_seed(seed)
    network = kind(factory, **shapes, m=m, **options)
    if isinstance(network, LowRankUpdates):
        with torch.no_grad():
            for b in network.b:
                b.normal_()
    return network


def count(network):
    return sum(p.numel() for p in network.parameters())


def moved(network):
    """A network in training whose normalisation has seen some data."""
    for _ in range(3):
        network(X * 2 + 1, PREFERENCE)
    return network


# ---------------------------------------------------------------------- sizes


def test_a_hypernetwork_of_the_benchmarks_lenet_has_3243410_weights():
    # The number in the comparison of Chen & Kwok (NeurIPS 2022).
    network = made(HyperNetwork, lenet, m=2, shapes=DIGITS)
    assert count(network) == 3_243_410
    trunk = (2 * 100 + 100) + 2 * (100 * 100 + 100)
    assert count(network) == trunk + 31_910 * (100 + 1)


@pytest.mark.parametrize("m", [2, 5])
def test_an_ensemble_has_a_network_for_each_objective(m):
    assert count(made(Ensemble, lenet, m=m, shapes=DIGITS)) == m * 31_910


@pytest.mark.parametrize(("rank", "m"), [(1, 2), (4, 3), (40, 2)])
def test_low_rank_updates_add_a_factor_pair_for_each_objective_and_layer(rank, m):
    network = made(LowRankUpdates, lenet, m=m, shapes=DIGITS, rank=rank)
    features = 20 * 5 * 5
    layers = [(10, 81), (20, 250), (50, features), (10, 50), (10, 50)]
    added = sum(m * min(rank, *shape) * sum(shape) for shape in layers)
    assert count(network) == 31_910 + added


# ---------------------------------------------------------------------- the formulas


@pytest.mark.parametrize("k", range(3))
def test_an_ensemble_at_a_corner_is_that_objectives_own_network(k):
    torch.manual_seed(0)
    alone = [Own(**SHAPES) for _ in range(3)]
    network = made(Ensemble).eval()
    expected = alone[k].eval()(X)
    assert not torch.allclose(expected, alone[k - 1].eval()(X))
    torch.testing.assert_close(network(X, torch.eye(3)[k]), expected)


def test_an_ensemble_is_the_mean_network_at_the_uniform_preference():
    torch.manual_seed(0)
    alone = [dict(Own(**SHAPES).named_parameters()) for _ in range(3)]
    found = made(Ensemble).weights(torch.full((3,), 1 / 3))
    assert set(found) == set(alone[0])
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, sum(a[name] for a in alone) / 3)


def test_members_of_an_ensemble_can_start_from_the_same_weights():
    network = made(Ensemble, apart=False)
    for stacked in network.members:
        assert torch.equal(stacked, stacked[:1].expand_as(stacked))


@pytest.mark.parametrize(
    "preference", [PREFERENCE, torch.eye(3)[1], torch.full((3,), 1 / 3)], ids=str
)
def test_low_rank_updates_are_their_formula_in_linear_and_convolution_layers(preference):
    network = made(LowRankUpdates, rank=2, scale=0.7)
    base = dict(zip(network._names, network.base, strict=True))
    found = network.weights(preference)
    # A tied weight has one update, a grouped convolution none.
    assert list(network._updated) == [f"{n}.weight" for n in ("conv", "first", "second", "out")]
    for (name, (rows, columns)), a, b in zip(
        network._updated.items(), network.a, network.b, strict=True
    ):
        assert (a.shape, b.shape) == ((3, 2, columns), (3, rows, 2))
        update = sum(p * b[i] @ a[i] for i, p in enumerate(preference))
        expected = base[name] + 0.7 * update.reshape(base[name].shape)
        torch.testing.assert_close(found[name], expected)
    for name in set(base) - set(network._updated):
        assert torch.equal(found[name], base[name])


def test_low_rank_updates_start_every_preference_from_the_network_itself():
    torch.manual_seed(0)
    plain = Own(**SHAPES).eval()
    torch.manual_seed(0)
    network = LowRankUpdates(own, **SHAPES, m=3).eval()
    for preference in (*torch.eye(3), PREFERENCE):
        assert torch.equal(network(X, preference), plain(X))


def test_low_rank_updates_touch_the_layers_that_are_named():
    network = made(LowRankUpdates, layers=["conv", "f*"])
    assert list(network._updated) == ["conv.weight", "first.weight"]
    assert list(made(LowRankUpdates, layers="third")._updated) == ["second.weight"]


def test_a_hypernetwork_makes_each_tensor_from_the_trunks_code():
    network = made(HyperNetwork, hidden=7, depth=2)
    first, _, second = network.trunk
    code = second(torch.relu(first(PREFERENCE)))
    plain = Own(**SHAPES)
    state = {
        name: (head.weight @ code + head.bias).reshape(p.shape)
        for head, (name, p) in zip(network.heads, plain.named_parameters(), strict=True)
    }
    expected = functional_call(plain.eval(), state, (X,))
    torch.testing.assert_close(network.eval()(X, PREFERENCE), expected)


def test_a_hypernetwork_can_start_near_the_network():
    torch.manual_seed(0)
    plain = dict(Own(**SHAPES).named_parameters())
    near = made(HyperNetwork, start="network").weights(PREFERENCE)
    far = made(HyperNetwork, start="published").weights(PREFERENCE)

    def distance(found):
        return math.sqrt(
            sum(float((found[n] - p).detach().square().sum()) for n, p in plain.items())
        )

    size = math.sqrt(sum(float(p.detach().square().sum()) for p in plain.values()))
    assert distance(near) < 0.3 * size < 0.8 * distance(far)


# ---------------------------------------------------------------------- overlap


@pytest.mark.parametrize("kind", ["plain", "cosine"])
@pytest.mark.parametrize("objectives", [None, [0, 2], [1, 2, 3]])
def test_overlap_is_that_of_updates_that_are_formed(kind, objectives):
    network = made(LowRankUpdates, m=4, rank=2)
    chosen = objectives or range(4)
    layers = []
    for a, b in zip(network.a, network.b, strict=True):
        updates = [(b[i] @ a[i]).detach().flatten() for i in chosen]
        if kind == "cosine":
            updates = [u / u.norm() for u in updates]
        pairs = [(i, j) for i in range(len(updates)) for j in range(i)]
        layers.append(sum(float(updates[i] @ updates[j]) ** 2 for i, j in pairs) / len(pairs))
    expected = torch.tensor(sum(layers) / len(layers))
    torch.testing.assert_close(network.overlap(objectives, kind), expected, rtol=1e-4, atol=1e-6)


def test_the_overlap_of_equal_updates_is_one_and_of_orthogonal_ones_zero():
    network = made(LowRankUpdates, m=2, rank=1)
    with torch.no_grad():
        for a, b in zip(network.a, network.b, strict=True):
            a[1], b[1] = a[0], -3 * b[0]
    torch.testing.assert_close(network.overlap(), torch.tensor(1.0))
    with torch.no_grad():
        for b in network.b:
            b.zero_()
            b[0, 0], b[1, 1] = 1.0, 1.0  # different rows of the update
    assert not network.overlap().any()
    assert not network.overlap(kind="plain").any()


def test_overlap_of_updates_of_zero_has_a_finite_gradient():
    network = LowRankUpdates(own, **SHAPES, m=3)
    network.overlap().backward()
    assert all(torch.isfinite(p.grad).all() for p in (*network.a, *network.b))


# ---------------------------------------------------------------------- the network as it was


@KINDS
def test_a_folded_network_is_the_wrapped_one_and_answers_the_same(kind):
    network = moved(made(kind))
    plain = network.folded(PREFERENCE)
    assert type(plain) is Own
    assert not plain.training
    assert plain.third.weight is plain.second.weight
    assert {p.device.type for p in plain.parameters()} == {"cpu"}
    expected = network.eval()(X, PREFERENCE)
    torch.testing.assert_close(plain(X), expected)
    # Its tensors are its own: what becomes of it does not touch the set it came from.
    plain.train()(X)
    with torch.no_grad():
        for tensor in (*plain.parameters(), plain.shift):
            tensor.zero_()
    assert torch.equal(network(X, PREFERENCE), expected)


@KINDS
def test_folding_draws_no_random_numbers(kind):
    network = made(kind)
    before = torch.get_rng_state()
    network.folded(PREFERENCE)
    assert torch.equal(torch.get_rng_state(), before)


@KINDS
def test_vectorised_over_preferences_equals_a_loop_and_so_do_the_gradients(kind):
    network = made(kind, unnormalised)
    preferences = torch.rand(4, 3, generator=torch.Generator().manual_seed(2))

    def gradients(outputs):
        network.zero_grad()
        outputs.square().sum().backward()
        return [p.grad.clone() for p in network.parameters()]

    together = torch.vmap(lambda p: network(X, p))(preferences)
    one_by_one = torch.stack([network(X, p) for p in preferences])
    torch.testing.assert_close(together, one_by_one, rtol=1e-4, atol=1e-5)
    for a, b in zip(gradients(together), gradients(one_by_one), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@KINDS
def test_gradients_reach_every_parameter_through_tied_weights_as_well(kind):
    network = made(kind)
    network(X, PREFERENCE).square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    zero = [n for n, p in network.named_parameters() if not p.grad.any()]
    # What precedes normalisation by a shift alone has none, to rounding.
    assert all("bias" in n for n in zero)


def test_a_frozen_base_gets_no_gradient_and_the_updates_all_do():
    network = made(LowRankUpdates)
    network.frozen = True
    network(X, PREFERENCE).square().sum().backward()
    assert all(p.grad is None for p in network.base)
    assert all(p.grad is not None and p.grad.any() for p in (*network.a, *network.b))


@KINDS
def test_buffers_are_shared_by_preferences_and_follow_the_data_in_training_alone(kind):
    network = made(kind)
    torch.manual_seed(0)
    plain = Own(**SHAPES)
    assert torch.equal(network.shared()["norm.running_mean"], plain.norm.running_mean)
    network(X + 1, torch.eye(3)[0])
    after_one = network.shared()["norm.running_mean"].clone()
    assert after_one.any()
    assert int(network.shared()["norm.num_batches_tracked"]) == 1
    folded = network.folded(torch.eye(3)[1])
    assert torch.equal(folded.norm.running_mean, after_one)
    network.eval()(X + 5, PREFERENCE)
    assert torch.equal(network.shared()["norm.running_mean"], after_one)


@KINDS
def test_train_and_eval_reach_the_dropout_inside(kind):
    network = made(kind)
    torch.manual_seed(3)
    assert not torch.equal(network(X, PREFERENCE), network(X, PREFERENCE))
    network.eval()
    assert torch.equal(network(X, PREFERENCE), network(X, PREFERENCE))
    nn.ModuleList([network]).train()
    assert not torch.equal(network(X, PREFERENCE), network(X, PREFERENCE))


@KINDS
def test_the_state_dict_carries_everything(kind):
    network = moved(made(kind))
    other = made(kind, seed=9).eval()
    assert not torch.allclose(other(X, PREFERENCE), network.eval()(X, PREFERENCE))
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(X, PREFERENCE), network(X, PREFERENCE))


@KINDS
def test_a_deep_copy_is_independent_and_equal(kind):
    network = moved(made(kind)).eval()
    expected = network(X, PREFERENCE)
    twin = copy.deepcopy(network)
    with torch.no_grad():
        for p in network.parameters():
            p.zero_()
    torch.testing.assert_close(twin(X, PREFERENCE), expected)


@KINDS
def test_precision_and_device_are_those_of_the_wrapper(kind):
    network = moved(made(kind)).eval()
    expected = network(X, PREFERENCE)
    network.double()
    out = network(X.double(), PREFERENCE.double())
    torch.testing.assert_close(out, expected.double(), rtol=1e-4, atol=1e-5)
    folded = network.folded(PREFERENCE.double())
    assert {p.dtype for p in folded.parameters()} == {torch.float64}
    assert folded.norm.num_batches_tracked.dtype == torch.long
    if torch.cuda.is_available():
        network.float().cuda()
        out = network(X.cuda(), PREFERENCE.cuda())
        torch.testing.assert_close(out.cpu(), expected, rtol=1e-3, atol=1e-3)
        assert network.folded(PREFERENCE.cuda()).out.weight.is_cuda


@KINDS
def test_weights_without_entries_are_no_obstacle(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.manual_seed(0)
        network = kind(lambda **s: MLP(**s, hidden=[5]), input_shape=(0,), output_sizes=(2,), m=2)
    preference = torch.tensor([0.4, 0.6])
    (out,) = network(torch.zeros(1, 0), preference)
    torch.testing.assert_close(network.folded(preference)(torch.zeros(1, 0))[0], out)
    if kind is LowRankUpdates:
        assert list(network._updated) == ["heads.layers.0.weight"]
