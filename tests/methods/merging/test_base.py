"""How a coefficient is chosen: by validation values alone, and never one that diverged."""

from __future__ import annotations

import numpy as np
import pytest

from frontrunner.methods.merging.base import choose_scales
from frontrunner.runner.runner import Runner

CANDIDATES = (0.5, 1.0, 1.5, 2.0)
PREFERENCES = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
# Losses (m,) of each preference at each candidate. The third is best at (0, 1) alone.
LOSSES = np.array(
    [
        [[0.6, 0.9], [0.7, 0.7], [0.9, 0.6]],
        [[0.3, 0.9], [0.4, 0.4], [0.9, 0.3]],
        [[0.5, 0.9], [0.6, 0.6], [0.9, 0.1]],
        [[0.2, np.nan], [0.2, np.inf], [np.nan, np.nan]],
    ]
)


class Values:
    """A task and a merged set in one: models are the places of their losses in the table."""

    m, reference_point = 2, (1.0, 1.0)

    def __init__(self, selection):
        self.selection, self.preferences, self.scales = selection, PREFERENCES, np.zeros(3)
        self.table = 1 - LOSSES if selection == "accuracies" else LOSSES

    def at_scale(self, preference, scale):
        number = next(i for i, p in enumerate(PREFERENCES) if (p == preference).all())
        return CANDIDATES.index(scale), number

    def measure(self, place, split, *, what, device):
        assert (split, what) == ("validation", self.selection)
        return self.table[place]


@pytest.mark.parametrize("selection", ["losses", "accuracies"])
@pytest.mark.parametrize(
    ("per", "chosen"), [("front", [1.0, 1.0, 1.0]), ("preference", [1.0, 1.0, 1.5])]
)
def test_the_best_candidate_is_chosen_and_not_one_that_diverged(selection, per, chosen):
    values, runner = Values(selection), Runner(directory=".", progress="none", accelerator="cpu")
    with runner.one_shot():
        choose_scales(values, values, CANDIDATES, per, runner)
    assert values.scales.tolist() == chosen
    assert runner.cost["forward_passes"] == 12


def test_of_equal_candidates_the_smaller_is_chosen():
    values, runner = Values("losses"), Runner(directory=".", progress="none", accelerator="cpu")
    values.table = np.ones_like(LOSSES) / 2
    with runner.one_shot():
        choose_scales(values, values, CANDIDATES, "front", runner)
    assert values.scales.tolist() == [0.5] * 3
