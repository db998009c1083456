"""A coreset through training: epochs, weights, budgets, and going on from a checkpoint."""

from __future__ import annotations

import copy
import io
import threading

import pytest
import torch
from torch.nn.functional import cross_entropy

from frontrunner.coresets.coreset import Coreset
from frontrunner.coresets.select import Craig, Glister, GradMatch, KCenter, Random
from frontrunner.coresets.snr import snr
from frontrunner.coresets.trigger import Trigger
from frontrunner.errors import ConfigError, RunError

NEVER = Trigger("never")


def coreset_of(selector, trigger=NEVER, budget=0.2, epochs=12, seed=0, **settings):
    return Coreset(selector, trigger, budget, epochs, seed, **settings)


def train(coreset, pool, epochs, start=0, rate=0.5):
    """Plain training on the coreset; returns what each epoch went through."""
    went = []
    for epoch in range(start, epochs):
        coreset.begin(epoch, pool)
        indices, weights = coreset.order(epoch)
        went.append((indices, weights))
        for some, w in zip(indices.split(4), weights.split(4), strict=True):
            x, y = pool.fetch(some.tolist())
            loss = (w * cross_entropy(pool.network(x), y, reduction="none")).mean()
            grads = torch.autograd.grad(loss, list(pool.network.parameters()))
            with torch.no_grad():
                for p, g in zip(pool.network.parameters(), grads, strict=True):
                    p -= rate * g
    return went


def through_disk(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


# ---------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize(
    ("selector", "trigger", "settings"),
    [
        (GradMatch(), Trigger("relative_drop", 0.05, 2), {}),
        (GradMatch("per_batch", 3), Trigger("absolute_above", 0.5, 1), {"snr_samples": 7}),
        (Random(), Trigger("random", count=4), {"warm": 0.25}),
        (Craig(), Trigger("loss", 0.1, 2), {"weighting": "sampling", "audit": 2}),
        (KCenter(), Trigger("interval", every=3), {"snr": "norms", "snr_weighted": True}),
        (GradMatch(), Trigger("interval", every=1), {"candidates": 2.0}),
    ],
)
@pytest.mark.parametrize("stop", [1, 5])
def test_resumed_it_goes_on_as_if_nothing_had_been(blobs, selector, trigger, settings, stop):
    def fresh():
        return coreset_of(selector, trigger, **settings), blobs(60)

    whole, pool = fresh()
    went = train(whole, pool, 12)
    assert whole.updates > 0

    first, before = fresh()
    train(first, before, stop)
    state = through_disk(first.state_dict())
    second, after = fresh()
    after.network.load_state_dict(before.network.state_dict())
    second.load_state_dict(state)
    second.check(after)
    again = train(second, after, 12, start=stop)

    for (i, w), (j, v) in zip(went[stop:], again, strict=True):
        assert torch.equal(i, j)
        assert torch.equal(w, v)
    assert second.history == whole.history
    assert second.passes == whole.passes
    assert torch.equal(second.indices, whole.indices)
    assert torch.equal(second.weights, whole.weights)
    assert all(
        torch.equal(p, q)
        for p, q in zip(pool.network.parameters(), after.network.parameters(), strict=True)
    )


def test_an_epoch_that_has_begun_is_left_as_it_is(blobs):
    coreset, pool = coreset_of(GradMatch(), Trigger("interval", every=1)), blobs()
    assert coreset.begin(0, pool)
    assert coreset.begin(1, pool)
    state = copy.deepcopy(coreset.state_dict())
    assert not coreset.begin(1, pool)
    resumed = coreset_of(GradMatch(), Trigger("interval", every=1))
    resumed.load_state_dict(state)
    assert not resumed.begin(1, pool)
    assert torch.equal(resumed.order(1)[0], coreset.order(1)[0])


def test_a_state_is_not_changed_by_what_follows(blobs):
    coreset, pool = coreset_of(GradMatch(), Trigger("interval", every=1)), blobs()
    coreset.begin(0, pool)
    state = coreset.state_dict()
    before = copy.deepcopy(state)
    train(coreset, pool, 4, start=1)
    assert torch.equal(state["indices"], before["indices"])
    assert {k: state[k] for k in ("epoch", "history", "passes")} == {
        k: before[k] for k in ("epoch", "history", "passes")
    }


def test_data_of_another_length_are_refused(blobs):
    coreset = coreset_of(GradMatch())
    coreset.begin(0, blobs(60))
    state = coreset.state_dict()
    resumed = coreset_of(GradMatch())
    resumed.load_state_dict(state)
    with pytest.raises(RunError, match="have 57 samples, and had 60"):
        resumed.check(blobs(57))
    known = coreset_of(GradMatch())
    known.check(blobs(57))
    with pytest.raises(RunError, match="have 57 samples, and had 60"):
        known.load_state_dict(state)


def test_another_budget_is_refused(blobs):
    coreset = coreset_of(GradMatch())
    coreset.begin(0, blobs(60))
    resumed = coreset_of(GradMatch(), budget=0.5)
    resumed.load_state_dict(coreset.state_dict())
    with pytest.raises(RunError, match=r"12 samples.*budget=0\.5 asks for 30"):
        resumed.check(blobs(60))


def test_reset_forgets_everything(blobs):
    coreset = coreset_of(GradMatch(), Trigger("relative_drop", 0.0, 1))
    went = train(coreset, blobs(), 5)
    coreset.reset()
    assert coreset.updates == coreset.checks == 0
    again = train(coreset, blobs(), 5)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(went, again, strict=True))


# ---------------------------------------------------------------------- when it chooses


class Sequence:
    """Makes the ratio of each look at the coreset one of a list."""

    def __init__(self, monkeypatch, values):
        self.values = iter(values)
        monkeypatch.setattr(
            "frontrunner.coresets.coreset.snr", lambda *_, **__: next(self.values, 1.0)
        )


@pytest.mark.parametrize(
    ("rule", "measured", "selected_at"),
    [
        # What is measured: at the checks; after selections only where it is compared with.
        ("relative_drop", [1.0, 0.9, 0.6, 2.0, 1.5, 1.3], [0, 4, 8]),
        # After the first selection it rises: the fall from 0.9 to 0.6 counts, which is above 0.1.
        ("peak_drop", [0.1, 0.9, 0.6, 2.0, 1.5, 1.3], [0, 4, 8]),
        ("absolute_below", [0.9, 0.2, 0.1, 1.0], [0, 4, 6]),
        ("absolute_above", [0.2, 0.6, 0.1, 0.9], [0, 4, 8]),
    ],
)
def test_it_chooses_when_the_trigger_fires(blobs, monkeypatch, rule, measured, selected_at):
    Sequence(monkeypatch, measured)
    coreset = coreset_of(GradMatch(), Trigger(rule, 0.3, 2))
    pool = blobs()
    for epoch in range(9):
        coreset.begin(epoch, pool)
    assert [e["epoch"] for e in coreset.history if e["selected"]] == selected_at
    assert coreset.updates == len(selected_at) - 1
    assert coreset.checks == 4  # epochs 2, 4, 6 and 8
    first = 1 if rule in ("relative_drop", "peak_drop") else 0
    seen = [e["snr"][0] for e in coreset.history if e["checked"]]
    assert seen[:2] == measured[first : first + 2]
    assert all(("snr_after" in e) == bool(first and e["selected"]) for e in coreset.history)


@pytest.mark.parametrize("rule", ["interval", "random"])
@pytest.mark.parametrize("warm", [0.0, 0.4])
def test_a_count_of_updates_is_kept(blobs, rule, warm):
    coreset, pool = coreset_of(Random(), Trigger(rule, count=3), warm=warm), blobs()
    chosen = [coreset.begin(epoch, pool) for epoch in range(12)]
    assert coreset.updates == sum(chosen) - 1 == 3
    assert chosen.index(True) == coreset.first == round(12 * warm)


def test_processes_choose_the_same_though_they_round_differently(blobs, together, monkeypatch):
    """The threshold lies between what two processes measure: the first decides for both."""
    process = threading.local()

    def rounded(*args, **options):
        return snr(*args, **options) * getattr(process, "factor", 1.0)

    monkeypatch.setattr("frontrunner.coresets.coreset.snr", rounded)

    def work(share):
        pool = blobs(60, share=share)
        coreset = coreset_of(GradMatch(), Trigger("relative_drop", 0.3, 1))
        for epoch in range(3):
            process.factor = 0.5 if share[0] == 1 and epoch > 0 else 1.0
            coreset.begin(epoch, pool)
        return coreset.history, coreset.indices, pool.passes

    alone = coreset_of(GradMatch(), Trigger("relative_drop", 0.3, 1))
    pool = blobs(60)
    for epoch in range(3):
        alone.begin(epoch, pool)
    for history, indices, passes in together(2, work):
        assert [e["selected"] for e in history] == [True, False, False]
        assert torch.equal(indices, alone.indices)
        assert passes == pool.passes


# ---------------------------------------------------------------------- epochs


def test_warm_epochs_walk_through_all_of_the_data(blobs):
    coreset, pool = coreset_of(Random(), budget=0.3, epochs=20, warm=0.5), blobs(50)
    went = []
    for epoch in range(10):
        assert not coreset.begin(epoch, pool)
        indices, weights = coreset.order(epoch)
        assert len(indices) == 15
        assert bool((weights == 1).all())
        went += indices.tolist()
    assert coreset.begin(10, pool)
    for lap in range(3):
        assert sorted(went[50 * lap : 50 * (lap + 1)]) == list(range(50))
    assert went[:50] != went[50:100]


def test_all_of_the_data_are_one_lap_an_epoch(blobs):
    coreset, pool = coreset_of(None, budget=1.0), blobs(30)
    coreset.check(pool)
    assert not coreset.begin(0, pool)
    orders = [coreset.order(epoch)[0].tolist() for epoch in range(3)]
    assert all(sorted(order) == list(range(30)) for order in orders)
    assert orders[0] != orders[1]
    assert coreset.history == []


def test_warm_never_takes_the_last_epoch(blobs):
    coreset, pool = coreset_of(Random(), warm=0.99, epochs=3), blobs()
    assert [coreset.begin(epoch, pool) for epoch in range(3)] == [False, False, True]


def test_weights_in_the_loss_stay_with_their_samples(blobs):
    coreset, pool = coreset_of(Craig()), blobs()
    coreset.begin(0, pool)
    weight = dict(zip(coreset.indices.tolist(), coreset.weights.tolist(), strict=True))
    orders = []
    for epoch in range(3):
        indices, weights = coreset.order(epoch)
        assert {i: w for i, w in zip(indices.tolist(), weights.tolist(), strict=True)} == weight
        orders.append(indices.tolist())
    assert orders[0] != orders[1] != orders[2]
    assert orders[1] == coreset.order(1)[0].tolist()


def test_weights_as_frequencies_are_unbiased(blobs):
    coreset, pool = coreset_of(Craig(), weighting="sampling"), blobs()
    coreset.begin(0, pool)
    counts = torch.zeros(200, 60)
    for epoch in range(200):
        indices, weights = coreset.order(epoch)
        assert len(indices) == 12
        assert bool((weights == 1).all())
        counts[epoch] = torch.bincount(indices, minlength=60).float()
    weights = torch.zeros(60).index_add(0, coreset.indices, coreset.weights)
    assert weights.max() > 1.5  # or nothing would be shown
    assert bool((counts >= (weights - 1e-4).floor()).all())
    assert bool((counts <= (weights + 1e-4).ceil()).all())
    # A count has a variance of at most 1/4.
    torch.testing.assert_close(counts.mean(0), weights, atol=4 * 0.5 / 200**0.5, rtol=0)


def test_gradients_of_draws_have_the_scale_of_weighted_ones(blobs):
    """In the mean over epochs, what training sees is what was selected."""
    coreset, pool = coreset_of(GradMatch(), weighting="sampling"), blobs()
    coreset.begin(0, pool)
    gradients = pool.last_layer().objective(0)
    selected = gradients[coreset.indices].mean(coreset.weights)
    seen = torch.stack([gradients[coreset.order(e)[0]].mean() for e in range(150)]).mean(0)
    assert float((seen - selected).norm()) < 0.1 * float(selected.norm())


# ---------------------------------------------------------------------- measuring


def test_the_gap_of_all_of_the_data_is_none(blobs):
    coreset, pool = coreset_of(Random(), Trigger("interval", every=1), 1.0, audit=1), blobs()
    for epoch in range(3):
        coreset.begin(epoch, pool)
    gaps = [e["gap_after"] for e in coreset.history] + [e["gap"] for e in coreset.history[1:]]
    assert len(gaps) == 5
    assert gaps == pytest.approx([0.0] * 5, abs=1e-6)


def test_the_gap_is_one_minus_the_cosine(blobs):
    coreset, pool = coreset_of(GradMatch(), audit=2), blobs()
    for epoch in range(5):
        coreset.begin(epoch, pool)
    assert [e["epoch"] for e in coreset.history] == [0, 2, 4]
    dense = pool.last_layer().objective(0).dense()
    part = (coreset.weights[:, None] * dense[coreset.indices]).mean(0)
    expected = 1 - float(torch.cosine_similarity(dense.mean(0), part, dim=0))
    assert coreset.history[-1]["gap"] == pytest.approx(expected, abs=1e-6)
    assert "snr" in coreset.history[-1]  # beside the gap, for their correlation
    assert coreset.checks == 0
    assert coreset.passes["audit"] > 0
    assert coreset.passes["check"] == 0


def test_passes_are_counted_by_what_they_were_for(blobs):
    coreset, pool = coreset_of(GradMatch(), Trigger("relative_drop", 1e9, 2)), blobs()
    for epoch in range(5):
        coreset.begin(epoch, pool)
    # A selection looks at all 60; a check at the coreset's 12: after it, and at epochs 2 and 4.
    assert coreset.passes == {"select": 60, "check": 36, "audit": 0}


# ---------------------------------------------------------------------- what cannot be


@pytest.mark.parametrize("budget", [0, 0.0, -0.1, 1.5, True, "0.1", float("nan")])
def test_budgets_that_are_none(budget):
    with pytest.raises(ConfigError, match=r"method\.budget=.* must be above 0 and at most 1"):
        coreset_of(Random(), budget=budget)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": "stack"}, r"method\.target=stack is unknown; did you mean 'stacked'"),
        ({"snr": "trase"}, r"method\.snr=trase is unknown; did you mean 'trace'"),
        ({"weighting": "lost"}, r"method\.weighting=lost is unknown; did you mean 'loss'"),
        ({"snr_samples": 1}, r"method\.snr_samples=1"),
        ({"warm": 1.0}, r"method\.warm=1\.0"),
        ({"warm": -0.1}, r"method\.warm=-0\.1"),
        ({"audit": -1}, r"method\.audit=-1"),
    ],
)
def test_settings_that_cannot_be_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        coreset_of(Random(), **settings)


@pytest.mark.parametrize("selector", [Craig(), GradMatch()])
def test_fewer_samples_than_classes_are_refused_before_anything(blobs, selector):
    with pytest.raises(ConfigError, match=r"of 60 samples is 6, fewer than the 10 classes.*0\.167"):
        coreset_of(selector, budget=0.1).check(blobs(60, classes=10))
    coreset_of(selector, budget=0.167).check(blobs(60, classes=10))


def test_networks_and_objectives_are_looked_at_before_anything(blobs):
    with pytest.raises(ConfigError, match="no linear layer"):
        coreset_of(GradMatch("joint")).check(blobs(network=torch.nn.Identity()))
    coreset_of(Random()).check(blobs(network=torch.nn.Identity()))  # which looks at none
    with pytest.raises(ConfigError, match="2 preferences for 1 objectives"):
        coreset_of(GradMatch("joint"), preference=(0.5, 0.5)).check(blobs())
    with pytest.raises(ConfigError, match="validation data"):
        coreset_of(Glister()).check(blobs())


# ---------------------------------------------------------------------- candidates


@pytest.mark.parametrize("selector", [GradMatch(), GradMatch("per_batch", 4), Craig(), KCenter()])
def test_candidates_bound_what_is_looked_at(blobs, selector):
    pool = blobs(60)
    coreset = coreset_of(selector, Trigger("interval", every=1), budget=0.2, candidates=2.5)
    train(coreset, pool, 3)
    assert coreset.passes["select"] == 3 * 30
    assert len(set(coreset.indices.tolist())) == 12
    assert coreset.weights.mean() == pytest.approx(1.0, abs=1e-5)
    assert coreset.indices.max() < 60


def test_candidates_are_drawn_anew(blobs):
    pool = blobs(60)
    coreset = coreset_of(GradMatch(), Trigger("interval", every=1), budget=0.1, candidates=1.0)
    went = train(coreset, pool, 4, rate=0.0)
    # Where candidates are no more than the coreset, all of them are in it.
    assert len({tuple(sorted(indices.tolist())) for indices, _ in went}) == 4


def test_as_many_candidates_as_samples_are_all_of_them(blobs):
    pool = blobs(60)
    few = coreset_of(GradMatch(), budget=0.2, candidates=5.0)
    every = coreset_of(GradMatch(), budget=0.2)
    for coreset in (few, every):
        coreset.begin(0, pool)
    assert torch.equal(few.indices, every.indices)


@pytest.mark.parametrize("wrong", [0.5, 0, float("nan")])
def test_fewer_candidates_than_the_coreset_are_refused(wrong):
    with pytest.raises(ConfigError, match=r"method\.candidates"):
        coreset_of(GradMatch(), candidates=wrong)
