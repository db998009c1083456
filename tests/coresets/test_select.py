"""Selection rules: what all of them promise, and each against a plain version of itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from frontrunner.coresets.coreset import Coreset
from frontrunner.coresets.gradients import LastLayer
from frontrunner.coresets.omp import nonnegative_omp
from frontrunner.coresets.pool import Pool
from frontrunner.coresets.select import (
    VARIANTS,
    Craig,
    Glister,
    GradMatch,
    KCenter,
    Random,
    View,
    _largest_residual,
    shares,
)
from frontrunner.coresets.trigger import Trigger
from frontrunner.errors import ConfigError

RULES = {
    "random": Random(),
    "craig": Craig(),
    "glister": Glister(parts=4),
    "kcenter": KCenter(),
    **{v: GradMatch(variant=v, batch_size=4) for v in VARIANTS},
}
BY_CLASS = ("craig", "per_class", "per_class_per_gradient")


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def pool(blobs):
    return blobs(60, validation=blobs(15, seed=1))


def same_network(blobs, n, **options):
    """A pool whose validation samples are seen by the same network."""
    validation = blobs(15, seed=1)
    return blobs(n, network=validation.network, validation=validation, **options)


# ---------------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("count", [3, 12, 37, 60])
def test_what_every_rule_promises(pool, name, count):
    found = RULES[name].select(pool, count, View(), draw())
    assert found.indices.dtype == torch.long
    assert len(found.indices) == len(found.weights) == count
    assert len(set(found.indices.tolist())) == count
    assert 0 <= int(found.indices.min()) <= int(found.indices.max()) < 60
    assert bool((found.weights >= 0).all())
    assert float(found.weights.mean()) == pytest.approx(1.0, abs=1e-5)
    if name in BY_CLASS:
        assert set(pool.classes()[found.indices].tolist()) == {0, 1, 2}
    again = RULES[name].select(pool, count, View(), draw())
    assert torch.equal(found.indices, again.indices)
    assert torch.equal(found.weights, again.weights)


@pytest.mark.parametrize("name", ["random", "kcenter", "per_batch"])
def test_rules_that_draw_depend_on_the_generator(pool, name):
    found = [RULES[name].select(pool, 12, View(), draw(seed)).indices for seed in (0, 1)]
    assert sorted(found[0].tolist()) != sorted(found[1].tolist())


@pytest.mark.parametrize("name", BY_CLASS)
def test_classes_have_their_share(blobs, name):
    pool = blobs(61)
    pool.fetch = lambda i: (
        torch.randn(len(i), 2),
        torch.tensor([0 if j < 50 else 1 + j % 2 for j in i]),
    )
    found = RULES[name].select(pool, 12, View(), draw())
    sizes = torch.bincount(pool.classes()).tolist()
    assert torch.bincount(pool.classes()[found.indices]).tolist() == shares(sizes, 12) == [10, 1, 1]


def test_all_objectives_count_when_they_are_stacked(blobs):
    def losses(outputs, batch):
        return torch.stack([cross_entropy(outputs, batch[1]), outputs.square().mean()])

    pool = blobs(40, losses=losses)
    seen = pool.last_layer()
    weighted, stacked = View((0.4, 0.6)), View((0.4, 0.6), "stacked")
    assert stacked.of(seen).dimension == 2 * weighted.of(seen).dimension
    for view in (weighted, stacked):
        chosen = GradMatch("joint").select(pool, 8, view, draw())
        gradients = view.of(seen)
        whole, part = gradients.mean(), gradients[chosen.indices].mean(chosen.weights)
        assert float(torch.cosine_similarity(whole, part, dim=0)) > 0.99
    with pytest.raises(ConfigError, match="1 preferences for 2 objectives"):
        View().of(seen)


# ---------------------------------------------------------------------- GradMatch


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradmatch_is_nearer_to_the_whole_gradient_than_random(pool, variant):
    gradients = View().of(pool.last_layer())
    whole = gradients.mean()

    def gap(found):
        part = gradients[found.indices].mean(found.weights)
        return 1 - float(torch.cosine_similarity(whole, part, dim=0))

    drawn = [gap(Random().select(pool, 12, View(), draw(s))) for s in range(10)]
    assert gap(RULES[variant].select(pool, 12, View(), draw())) < sum(drawn) / 10


def test_weighted_gradients_are_those_of_the_pursuit_but_for_one_factor(pool):
    gradients = View().of(pool.last_layer())
    found = GradMatch("joint").select(pool, 12, View(), draw())
    assert found.filled == 0
    chosen, weights = nonnegative_omp(gradients, gradients.mean() * 60, 12)
    assert torch.equal(chosen, found.indices)
    torch.testing.assert_close(found.weights.double(), weights * 12 / weights.sum())


def test_whole_batches_are_chosen_with_one_weight_each(pool):
    found = GradMatch("per_batch", batch_size=5).select(pool, 20, View(), draw())
    assert found.filled == 0
    batches = {tuple(sorted(b.tolist())) for b in torch.randperm(60, generator=draw()).split(5)}
    for part, weights in zip(found.indices.split(5), found.weights.split(5), strict=True):
        assert tuple(sorted(part.tolist())) in batches
        assert len(set(weights.tolist())) == 1


def test_a_class_is_matched_by_its_own_output(pool):
    for c in range(3):
        own = (pool.classes() == c).nonzero()[:, 0]
        gradients = pool.last_layer(own).objective(0)
        ((residual, features),) = _largest_residual(gradients).factors
        assert torch.equal(residual[:, 0], gradients.factors[0][0][:, c])
        assert features is gradients.factors[0][1]


def test_an_unknown_variant_gets_a_suggestion():
    with pytest.raises(ConfigError, match=r"variant=per_clas is unknown; did you mean 'per_class'"):
        GradMatch("per_clas")


class Fixed(Pool):
    """A pool that sees the gradients it was given."""

    def __init__(self, residuals, labels):
        self.residuals, self.labels = residuals, labels
        super().__init__(nn.Identity(), lambda i: (None, labels[list(i)]), len(labels), None)

    def last_layer(self, indices=None):
        some = torch.arange(self.size) if indices is None else indices
        r = self.residuals[some]
        return LastLayer((torch.ones(len(some), 1),), ((r,),), torch.zeros(1))


def test_what_the_pursuit_does_not_find_is_drawn_and_counted():
    labels = torch.arange(40) % 4
    residuals = torch.zeros(40, 5)
    residuals[labels == 0] = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0])  # one atom is enough
    pool = Fixed(residuals, labels)
    for variant in ("joint", "per_batch"):
        found = GradMatch(variant, batch_size=2).select(pool, 12, View(), draw())
        assert len(set(found.indices.tolist())) == 12
        assert found.filled >= 10
        assert float(found.weights.mean()) == pytest.approx(1.0)
    # Class by class, those that are drawn are of the class that lacks them.
    found = GradMatch("per_class").select(pool, 12, View(), draw())
    assert torch.bincount(labels[found.indices]).tolist() == [3, 3, 3, 3]
    assert found.filled == 11
    assert float(found.weights.mean()) == pytest.approx(1.0)


# ---------------------------------------------------------------------- the others


def test_craig_weighs_samples_by_those_they_stand_for(pool):
    found = Craig().select(pool, 9, View(), draw())
    sums = torch.zeros(3).index_add(0, pool.classes()[found.indices], found.weights)
    # A third of the samples each, so a third of the weight.
    torch.testing.assert_close(sums, torch.full((3,), 3.0))


def test_kcenter_is_the_naive_version_of_itself(pool):
    found = KCenter().select(pool, 10, View(), draw(4)).indices
    features = torch.cat(pool.last_layer().features, dim=1)
    distance = torch.cdist(features, features)
    chosen = [int(found[0])]
    for _ in range(9):
        chosen.append(int(distance[chosen].min(0).values.argmax()))
    assert found.tolist() == chosen


def test_kcenter_covers_samples_that_are_alike():
    pool = Fixed(torch.ones(10, 2), torch.arange(10) % 2)
    found = KCenter().select(pool, 10, View(), draw())
    assert sorted(found.indices.tolist()) == list(range(10))


def test_glister_leaves_the_network_as_it_was(blobs):
    pool = same_network(blobs, 60)
    before = {k: t.clone() for k, t in pool.network.state_dict().items()}
    Glister(parts=5, rate=1.0).select(pool, 20, View(), draw())
    assert all(torch.equal(before[k], t) for k, t in pool.network.state_dict().items())

    def fails(indices):
        raise ZeroDivisionError

    chunks = iter([pool.validation.fetch, fails])
    fetch = pool.validation.fetch
    pool.validation.fetch = lambda i: next(chunks, fails)(i)
    assert pool.validation.heads  # has been looked for already
    with pytest.raises(ZeroDivisionError):
        Glister(parts=5, rate=1.0).select(pool, 20, View(), draw())
    pool.validation.fetch = fetch
    assert all(torch.equal(before[k], t) for k, t in pool.network.state_dict().items())


def test_glister_takes_what_lowers_the_validation_loss(blobs):
    pool = same_network(blobs, 60)
    found = Glister(parts=1).select(pool, 10, View(), draw()).indices
    gain = pool.last_layer().objective(0).dot(pool.validation.last_layer().objective(0).mean())
    assert sorted(found.tolist()) == sorted(gain.topk(10).indices.tolist())


def test_glister_moves_on_between_its_parts(blobs):
    """Two parts are one, a step of the head along what was chosen, and one again."""
    pool = same_network(blobs, 60)
    head, rate = pool.layers[0], 5.0
    found = Glister(parts=2, rate=rate).select(pool, 10, View(), draw()).indices.tolist()
    first = Glister(parts=1).select(pool, 5, View(), draw()).indices
    assert found[:5] == first.tolist()
    gradients = pool.last_layer().objective(0)
    x, y = pool.fetch(first.tolist())
    pool.network.zero_grad()
    cross_entropy(pool.network(x), y).backward()
    with torch.no_grad():
        head.weight -= rate * head.weight.grad
        head.bias -= rate * head.bias.grad
    gain = gradients.dot(pool.validation.last_layer().objective(0).mean())
    gain[first] = -torch.inf
    assert sorted(found[5:]) == sorted(gain.topk(5).indices.tolist())


def test_glister_needs_validation_data(blobs):
    coreset = Coreset(Glister(), Trigger("never"), 0.2, 3, 0)
    with pytest.raises(ConfigError, match="needs validation data"):
        coreset.check(blobs(30))


# ---------------------------------------------------------------------- shares


@pytest.mark.parametrize(
    ("sizes", "count", "expected"),
    [
        ([50, 30, 20], 10, [5, 3, 2]),
        ([97, 2, 1], 10, [8, 1, 1]),
        ([3, 3, 3], 9, [3, 3, 3]),
        ([10, 10, 10], 4, [2, 1, 1]),
        ([1, 1, 100], 50, [1, 1, 48]),
        ([7], 3, [3]),
    ],
)
def test_shares(sizes, count, expected):
    assert shares(sizes, count) == expected


def test_shares_are_exact_and_in_bounds():
    stream = draw(5)
    for _ in range(200):
        sizes = torch.randint(
            1, 60, (int(torch.randint(1, 9, (), generator=stream)),), generator=stream
        )
        sizes = sizes.tolist()
        count = int(torch.randint(len(sizes), sum(sizes) + 1, (), generator=stream))
        found = shares(sizes, count)
        assert sum(found) == count
        assert all(1 <= f <= s for f, s in zip(found, sizes, strict=True))
        if all(count * s / sum(sizes) >= 1 for s in sizes):
            assert all(
                abs(f - count * s / sum(sizes)) < 1 for f, s in zip(found, sizes, strict=True)
            )


def test_fewer_samples_than_classes_cannot_be_shared():
    with pytest.raises(ConfigError, match="2 samples has none for some of 3 classes"):
        shares([5, 5, 5], 2)
