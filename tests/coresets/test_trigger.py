"""When to choose again: how often, by each rule, and inside which epochs."""

from __future__ import annotations

import math

import pytest
import torch

from frontrunner.coresets.trigger import BY_SNR, RULES, Trigger
from frontrunner.errors import ConfigError


def recorded(epochs=120, seed=0):
    """SNRs as training has them: high after a selection that was long ago, noisy, falling."""
    noise = torch.rand(epochs, generator=torch.Generator().manual_seed(seed)).tolist()
    return [math.exp(-0.02 * t) * (0.5 + x) for t, x in enumerate(noise)]


def updates(trigger, snrs, fresh=0.2):
    """Selections after the first, where each lifts the SNR by ``fresh`` for its own epoch."""
    count, before = 0, snrs[0] + fresh
    for epoch in range(1, len(snrs)):
        if not trigger.due(epoch, 0, len(snrs), 0):
            continue
        if trigger.fires([snrs[epoch]], [before], [1.0], [1.0]):
            count, before = count + 1, snrs[epoch] + fresh
        elif trigger.rule == "peak_drop":
            before = max(before, snrs[epoch])
    return count


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize(
    ("rule", "rises"),
    [
        ("absolute_below", True),
        ("absolute_above", False),
        ("relative_drop", False),
        ("peak_drop", False),
    ],
)
def test_updates_are_monotone_in_the_threshold(rule, rises, every):
    for seed in range(3):
        thresholds = [0.05 * i for i in range(1, 20)]
        counts = [updates(Trigger(rule, t, every), recorded(seed=seed)) for t in thresholds]
        assert counts == sorted(counts, reverse=not rises)
        assert counts[0] != counts[-1]


@pytest.mark.parametrize(
    ("rule", "now", "before", "fires"),
    [
        ("absolute_below", 0.29, 5.0, True),
        ("absolute_below", 0.31, 5.0, False),
        ("absolute_above", 0.31, 0.1, True),
        ("absolute_above", 0.29, 0.1, False),
        ("relative_drop", 0.69, 1.0, True),
        ("relative_drop", 0.71, 1.0, False),
        ("relative_drop", 3.0, 1.0, False),
        ("relative_drop", 3.0, math.inf, True),
        ("relative_drop", math.inf, math.inf, False),
        ("relative_drop", 0.0, 0.0, False),
        ("peak_drop", 0.69, 1.0, True),
        ("peak_drop", 0.71, 1.0, False),
    ],
)
def test_rules_by_snr(rule, now, before, fires):
    assert Trigger(rule, 0.3).fires([now], [before], [1.0], [1.0]) is fires
    # The loss is not theirs to look at.
    assert Trigger(rule, 0.3).fires([now], [before], [0.0], [1.0]) is fires


def test_a_rule_by_loss_fires_when_it_has_fallen():
    trigger = Trigger("loss", 0.3)
    assert trigger.fires([1.0], [1.0], [0.6], [1.0])
    assert not trigger.fires([0.0], [1.0], [0.8], [1.0])


@pytest.mark.parametrize(
    ("rule", "snr", "loss"),
    [
        ("absolute_below", [1.0, 0.2], [1.0, 1.0]),
        ("absolute_above", [0.2, 1.0], [1.0, 1.0]),
        ("relative_drop", [0.9, 0.5], [1.0, 1.0]),
        ("peak_drop", [0.9, 0.5], [1.0, 1.0]),
        ("loss", [0.9, 0.9], [1.0, 0.5]),
    ],
)
def test_the_worst_objective_decides(rule, snr, loss):
    trigger = Trigger(rule, 0.3)
    before = [1.0, 1.0]
    assert trigger.fires(snr, before, loss, before)
    # The first objective alone would not have.
    assert not trigger.fires(snr[:1], before[:1], loss[:1], before[:1])


@pytest.mark.parametrize("first", [0, 7])
@pytest.mark.parametrize("count", [0, 1, 5, 12, 22])
@pytest.mark.parametrize("rule", ["interval", "random"])
def test_a_count_is_kept_exactly(rule, count, first):
    epochs = 30
    trigger = Trigger(rule, count=count)
    due = [e for e in range(epochs) if trigger.due(e, first, epochs, 3)]
    assert len(due) == count
    assert all(first < e < epochs for e in due)
    assert due == trigger.schedule(first, epochs, 3)
    assert all(trigger.fires([0.0], [0.0], [0.0], [0.0]) for _ in due)
    if rule == "interval" and count:
        gaps = [b - a for a, b in zip([first, *due], [*due, epochs], strict=True)]
        assert max(gaps) - min(gaps) <= 1


def test_a_count_beyond_the_epochs_is_all_of_them():
    for rule in ("interval", "random"):
        assert Trigger(rule, count=50).schedule(2, 10, 0) == list(range(3, 10))


def test_random_epochs_follow_from_the_seed():
    trigger = Trigger("random", count=6)
    assert trigger.schedule(0, 40, 1) == trigger.schedule(0, 40, 1)
    assert trigger.schedule(0, 40, 1) != trigger.schedule(0, 40, 2)
    seen = {e for seed in range(200) for e in trigger.schedule(0, 20, seed)}
    assert seen == set(range(1, 20))


def test_checks_come_at_their_interval_after_the_first_selection():
    for rule in (*BY_SNR, "loss", "interval"):
        due = [e for e in range(20) if Trigger(rule, every=4).due(e, 5, 20, 0)]
        assert due == [9, 13, 17]
    assert not any(Trigger("never").due(e, 0, 20, 0) for e in range(20))


def test_which_rules_measure():
    count = {"random": 1}
    assert {r for r in RULES if Trigger(r, count=count.get(r)).measures} == {*BY_SNR, "loss"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"rule": "relative"},
            r"method\.trigger=relative is unknown; did you mean 'relative_drop'",
        ),
        ({"every": 0}, r"method\.every=0"),
        ({"every": 2.5}, r"method\.every=2\.5"),
        ({"rule": "random"}, r"method\.trigger=random needs method\.count"),
        ({"count": -1}, r"method\.count=-1"),
        ({"threshold": math.nan}, r"method\.threshold=nan"),
        ({"threshold": "0.3"}, r"method\.threshold=0\.3"),
    ],
)
def test_settings_that_cannot_be_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        Trigger(**settings)
