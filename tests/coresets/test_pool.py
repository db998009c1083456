"""Last-layer gradients against autograd, one sample at a time, and networks that have none."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, log_softmax, nll_loss

from frontrunner.coresets.pool import Pool, find_heads
from frontrunner.errors import ConfigError, DivergenceError


class Classifier(nn.Module):
    """Batch statistics, dropout, and a logarithm after the last linear layer."""

    def __init__(self, bias=True):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(6, 3, bias=bias)

    def forward(self, x):
        return log_softmax(self.head(self.body(x)), dim=1)


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(2, 5)
        self.left, self.right = nn.Linear(5, 3), nn.Linear(5, 2, bias=False)

    def forward(self, x):
        h = torch.tanh(self.body(x))
        return {"left": self.left(h), "right": self.right(h), "name": "two", "none": None}


def nll(outputs, batch):
    return nll_loss(outputs, batch[1]).reshape(1)


def two_losses(outputs, batch):
    left = cross_entropy(outputs["left"], batch[1])
    return torch.stack([left, 0.5 * left + outputs["right"].square().mean()])


def by_autograd(network, losses, data, objective, parameters):
    """Per-sample gradients, (n, D), by a backward pass for each."""
    network.eval()
    rows = []
    for i in range(len(data[0])):
        batch = tuple(t[i : i + 1] for t in data)
        loss = losses(network(batch[0]), batch)[objective]
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
        rows.append([torch.zeros_like(p) if g is None else g for g, p in zip(grads, parameters)])  # noqa: B905
    return rows


def flat(grads, heads):
    """Weight and bias of each head side by side, as the factors have them."""
    parts, position = [], 0
    for head in heads:
        weight, position = grads[position], position + 1
        if head.bias is not None:
            weight, position = torch.cat([weight, grads[position][:, None]], 1), position + 1
        parts.append(weight.flatten())
    return torch.cat(parts)


def data_of(n=11, seed=0):
    stream = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 2, generator=stream, dtype=torch.float64)
    return x, torch.randint(3, (n,), generator=stream)


def pool_of(network, losses, data, **options):
    def fetch(indices):
        return tuple(t[list(indices)] for t in data)

    return Pool(network, fetch, len(data[0]), losses, **options)


@pytest.mark.parametrize(
    ("network", "losses", "names"),
    [
        (Classifier, nll, ["head"]),
        (lambda: Classifier(bias=False), nll, ["head"]),
        (TwoHeads, two_losses, ["left", "right"]),
    ],
)
def test_gradients_are_those_of_autograd(network, losses, names):
    torch.manual_seed(0)
    network, data = network().double(), data_of()
    pool = pool_of(network, losses, data)
    found = pool.last_layer()
    assert pool.heads == names
    heads = [network.get_submodule(name) for name in names]
    parameters = [p for head in heads for p in head.parameters()]
    for j in range(found.m):
        rows = by_autograd(network, losses, data, j, parameters)
        expected = torch.stack([flat(row, heads) for row in rows])
        torch.testing.assert_close(found.objective(j).dense(), expected)
    torch.testing.assert_close(found.losses, losses(network(data[0]), data))


def test_looking_leaves_no_trace():
    torch.manual_seed(0)
    network = Classifier().double().train()
    network.body[1].eval()  # a layer that its owner froze
    before = {k: t.clone() for k, t in network.state_dict().items()}
    marks = {n: torch.full_like(p, 7.0) for n, p in network.named_parameters()}
    for name, p in network.named_parameters():
        p.grad = marks[name].clone()
    state = torch.get_rng_state()
    pool = pool_of(network, nll, data_of())
    first = pool.last_layer()
    assert [m.training for m in (network, network.body[1], network.body[3])] == [True, False, True]
    assert all(torch.equal(before[k], t) for k, t in network.state_dict().items())
    assert all(torch.equal(marks[n], p.grad) for n, p in network.named_parameters())
    assert torch.equal(state, torch.get_rng_state())
    assert not network.head._forward_hooks
    # Dropout and batch statistics are those of evaluation: the same again, sample by sample.
    alone = pool.last_layer(torch.tensor([4])).objective(0).dense()
    torch.testing.assert_close(alone, first.objective(0).dense()[4:5])


def test_pieces_give_what_one_pass_gives():
    torch.manual_seed(0)
    network, data = TwoHeads().double(), data_of(13)
    whole = pool_of(network, two_losses, data).last_layer()
    pieces = pool_of(network, two_losses, data, batch_size=4)
    found = pieces.last_layer()
    for j in range(2):
        torch.testing.assert_close(found.objective(j).dense(), whole.objective(j).dense())
    torch.testing.assert_close(found.losses, whole.losses)
    assert pieces.passes == 13
    some = torch.tensor([12, 3, 7])
    torch.testing.assert_close(
        pieces.last_layer(some).objective(1).dense(), whole.objective(1).dense()[some]
    )


# ---------------------------------------------------------------------- several processes


@pytest.mark.parametrize("n", [7, 6, 2, 1])
def test_processes_that_divide_the_looking_see_what_one_sees(together, n):
    torch.manual_seed(0)
    network, data = TwoHeads().double(), data_of(n)
    one = pool_of(network, two_losses, data)
    whole = one.last_layer()

    def look(share):
        # Pieces of two: with seven samples one process has two of them, the others one.
        pool = pool_of(copy.deepcopy(network), two_losses, data, share=share, batch_size=2)
        return pool.last_layer(), pool.passes

    for found, passes in together(3, look):
        for j in range(2):
            torch.testing.assert_close(found.objective(j).dense(), whole.objective(j).dense())
        torch.testing.assert_close(found.losses, whole.losses)
        assert passes == one.passes == n


def test_a_number_that_is_not_finite_is_an_error_of_all_processes(together):
    network, data = Classifier().double(), data_of(6)
    data[0][1] = torch.nan  # a sample of the second process

    def look(share):
        return pool_of(copy.deepcopy(network), nll, data, share=share).last_layer()

    assert [type(error) for error in together(2, look)] == [DivergenceError] * 2


def test_the_first_process_decides(together):
    def ask(share):
        pool = pool_of(Classifier(), nll, data_of(4), share=share)
        return pool.agreed(torch.arange(3) + 10 * share[0])

    assert [found.tolist() for found in together(2, ask)] == [[0, 1, 2]] * 2
    alone = torch.rand(3)
    assert pool_of(Classifier(), nll, data_of(4)).agreed(alone) is alone


# ---------------------------------------------------------------------- which layers


class Late(nn.Module):
    """Linear layers that are found only by running them: the last is defined first."""

    def __init__(self):
        super().__init__()
        self.last, self.first, self.unused = nn.Linear(4, 3), nn.Linear(2, 4), nn.Linear(2, 2)

    def forward(self, x):
        return self.last(self.first(x).relu()).softmax(1)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 3)

    def forward(self, x):
        return self.head(x) + self.head(2 * x)


class Words(nn.Module):
    """A vector for each of several positions of a sample."""

    def __init__(self, flat):
        super().__init__()
        self.head, self.flat = nn.Linear(2, 3), flat

    def forward(self, x):
        x = x[:, None, :].expand(-1, 4, -1)
        x = x.reshape(-1, 2) if self.flat else x
        return self.head(x).reshape(-1, 4, 3).mean(1)


def test_the_last_layer_is_the_one_that_runs_last():
    assert find_heads(Late(), torch.zeros(2, 2)) == ["last"]


def test_a_layer_of_ones_own_choice():
    network, data = Late().double(), data_of()
    pool = pool_of(network, lambda o, b: o.square().sum(1).mean().reshape(1), data, heads=["first"])
    first = pool.last_layer()
    assert first.features[0].shape == (11, 3)  # two inputs, and ones for the bias
    assert first.residuals[0][0].shape == (11, 4)


@pytest.mark.parametrize("names", [["heat"], ("heat",)])
def test_a_wrong_name_gets_a_suggestion(names):
    pool = pool_of(Classifier().double(), nll, data_of(), heads=names)
    with pytest.raises(ConfigError, match=r"no linear layer 'heat'; did you mean 'head'"):
        pool.last_layer()


@pytest.mark.parametrize(
    ("network", "names", "message"),
    [
        (nn.Sequential(nn.Conv1d(1, 1, 1)), None, "no linear layer that can be taken"),
        (Twice(), None, "'head' runs 2 times"),
        (Late(), ["unused"], "'unused' runs 0 times"),
        (Words(flat=False), None, r"'head' has inputs of shape \(11, 4, 2\)"),
        (Words(flat=True), None, r"'head' has inputs of shape \(44, 2\) for 11 samples"),
    ],
)
def test_networks_without_one_vector_for_each_sample_are_refused(network, names, message):
    x, y = data_of()
    x = x[:, None, :] if isinstance(network, nn.Sequential) else x
    pool = pool_of(network.double(), nll, (x, y), heads=names)
    with pytest.raises(ConfigError, match=message):
        pool.last_layer()


def test_what_is_not_finite_is_divergence():
    network = Classifier().double()
    with torch.no_grad():
        network.head.weight[0, 0] = torch.inf
    with pytest.raises(DivergenceError, match="not finite"):
        pool_of(network, nll, data_of()).last_layer()


# ---------------------------------------------------------------------- samples


def test_classes_are_combinations_of_labels():
    x, y = data_of(12)
    other = torch.arange(12) % 2
    assert torch.equal(
        pool_of(Late(), nll, (x, y)).classes(), torch.unique(y, return_inverse=True)[1]
    )
    both = pool_of(Late(), nll, (x, y, torch.rand(12), other)).classes()
    pairs = {(int(a), int(b)): int(c) for a, b, c in zip(y, other, both, strict=True)}
    assert len(set(pairs.values())) == len(pairs) == int(both.max()) + 1
    again = [pairs[int(a), int(b)] for a, b in zip(y, other, strict=True)]
    assert again == both.tolist()


def test_classes_need_labels_of_whole_numbers():
    x, _ = data_of()
    with pytest.raises(ConfigError, match="whole numbers"):
        pool_of(Late(), nll, (x, torch.rand(11))).classes()


def test_batches_with_names_are_refused():
    pool = Pool(Late(), lambda i: {"x": torch.zeros(len(i), 2)}, 4, nll)
    with pytest.raises(ConfigError, match="batch of type dict"):
        pool.last_layer()


def test_half_precision_is_added_up_in_single():
    x, y = data_of()
    found = pool_of(Classifier().bfloat16(), nll, (x.bfloat16(), y)).last_layer()
    assert {t.dtype for t in (*found.features, *found.residuals[0], found.losses)} == {
        torch.float32
    }
