"""Mini-batches: a pure function of seed and step, that covers the data and splits over ranks."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.utils.data import TensorDataset

from frontrunner.runner.batches import StepSampler, step_loader

SIZES = [(100, 10), (103, 10), (8, 3), (5, 64), (2, 1), (1, 8)]


def sampler(size=103, batch=10, seed=0, total=40, every=10):
    return StepSampler(size, batch, seed, total, every)


@pytest.mark.parametrize(("size", "batch"), SIZES)
def test_every_epoch_visits_each_index_once(size, batch):
    s = sampler(size, batch)
    for epoch in range(3):
        steps = range(epoch * s.per_epoch, (epoch + 1) * s.per_epoch)
        seen = [i for step in steps for i in s.indices(step)]
        assert sorted(seen) == list(range(size))


def test_a_last_slice_of_one_sample_is_dropped_and_every_index_is_still_met():
    s = sampler(size=101, batch=10)
    assert s.per_epoch == 10
    batches = [s.indices(step) for step in range(200)]
    assert {len(b) for b in batches} == {10}
    assert set(itertools.chain(*batches)) == set(range(101))


def test_batches_do_not_depend_on_what_was_asked_before():
    one, other = sampler(), sampler()
    forwards = {step: one.indices(step) for step in range(40)}
    torch.manual_seed(1)
    backwards = {step: other.indices(step) for step in reversed(range(40))}
    assert forwards == backwards


def test_epochs_and_seeds_give_different_orders():
    s = sampler(size=100, batch=100)
    assert s.indices(0) != s.indices(1)
    assert s.indices(0) != sampler(size=100, batch=100, seed=1).indices(0)


@pytest.mark.parametrize(("total", "every"), [(40, 10), (37, 10), (5, 9), (1, 1)])
def test_rounds_partition_the_steps(total, every):
    s = sampler(total=total, every=every)
    batches = []
    for number in range(-(-total // every)):
        s.set_epoch(number)
        batches += list(s)
    assert batches == [s.indices(step) for step in range(total)]


@pytest.mark.parametrize("world", [2, 3, 8])
def test_ranks_partition_each_batch(world):
    s = sampler()
    for step in range(30):
        parts = [s.indices(step, rank, world) for rank in range(world)]
        together = sorted(itertools.chain(*parts))
        if len(s.indices(step)) >= world:
            assert together == sorted(s.indices(step))
        assert set(together) == set(s.indices(step))


@pytest.mark.parametrize(("size", "batch"), SIZES)
@pytest.mark.parametrize("world", [2, 8])
def test_no_rank_is_ever_left_without_a_sample(size, batch, world):
    s = sampler(size, batch)
    for step, rank in itertools.product(range(2 * s.per_epoch), range(world)):
        part = s.indices(step, rank, world)
        assert part
        assert set(part) <= set(s.indices(step))


def test_the_loader_hands_out_whole_batches_of_the_current_round():
    data = TensorDataset(torch.arange(103), torch.arange(103) * 2.0)
    s = sampler()
    s.set_epoch(2)
    for step, (x, y) in zip(range(20, 30), step_loader(data, s, num_workers=0), strict=True):
        assert x.tolist() == s.indices(step)
        assert torch.equal(y, 2.0 * x)


def test_loader_processes_change_nothing():
    data = TensorDataset(torch.arange(23))
    s = sampler(size=23, batch=4, total=6, every=6)
    alone = [x.tolist() for (x,) in step_loader(data, s, num_workers=0)]
    assert [x.tolist() for (x,) in step_loader(data, s, num_workers=2)] == alone
