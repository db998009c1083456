"""Lazy greedy facility location against the naive one, and against the best there is."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from frontrunner.coresets.facility import facility_location


def similarity_of(n, seed=0):
    points = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    distance = torch.cdist(points, points)
    return distance.max() - distance


def value(similarity, chosen):
    return float(similarity[list(chosen)].max(0).values.sum())


@pytest.mark.parametrize("block", [1, 4, 100])
@pytest.mark.parametrize("seed", range(3))
def test_each_step_gains_as_much_as_any_could(block, seed):
    similarity = similarity_of(40, seed)
    chosen = facility_location(similarity, 12, block)[0].tolist()
    for step in range(12):
        before = chosen[:step]
        others = [j for j in range(40) if j not in before]
        best = max(value(similarity, [*before, j]) for j in others)
        # Two samples may gain the same.
        assert value(similarity, chosen[: step + 1]) == pytest.approx(best, rel=1e-12)


def test_it_is_near_the_best():
    for seed in range(5):
        similarity = similarity_of(10, seed)
        chosen, _ = facility_location(similarity, 3)
        best = max(value(similarity, s) for s in itertools.combinations(range(10), 3))
        assert best >= value(similarity, chosen.tolist()) >= (1 - 1 / math.e) * best


def test_weights_count_those_it_is_nearest_for():
    similarity = similarity_of(50)
    chosen, weights = facility_location(similarity, 7)
    nearest = similarity[chosen].argmax(0)
    assert weights.tolist() == [float((nearest == j).sum()) for j in range(7)]
    assert float(weights.sum()) == 50


@pytest.mark.parametrize("block", [3, 32])
def test_samples_that_are_alike_are_chosen_once_each(block):
    points = torch.randint(0, 4, (45, 2), generator=torch.Generator().manual_seed(0)).double()
    distance = torch.cdist(points, points)
    for similarity in (distance.max() - distance, torch.ones(45, 45), torch.zeros(45, 45)):
        chosen, weights = facility_location(similarity, 45, block)
        assert sorted(chosen.tolist()) == list(range(45))
        assert float(weights.sum()) == 45
