"""Mini-batches of a coreset: their number, their division over processes, when they are drawn."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import nn
from torch.utils.data import TensorDataset

from frontrunner.coresets.coreset import Coreset
from frontrunner.coresets.pool import Pool
from frontrunner.coresets.select import Random
from frontrunner.coresets.trigger import Trigger
from frontrunner.errors import ConfigError
from frontrunner.runner import coreset as room
from frontrunner.runner.coreset import CoresetCallback, CoresetSampler, steps_per_epoch

SIZE = 50
DATA = TensorDataset(torch.arange(SIZE).float()[:, None], torch.arange(SIZE) % 2)


def coreset_of(budget=0.4, weighting="loss"):
    return Coreset(Random(), Trigger("interval", every=1), budget, 9, seed=0, weighting=weighting)


def pool_of(share=None):
    return Pool(nn.Identity(), lambda i: DATA[list(i)], SIZE, None, share=share)


def callback_of(**settings):
    callback = CoresetCallback(coreset_of(**settings), pool_of)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, max_epochs=9)
    callback.setup(trainer, pl.LightningModule(), "fit")
    return callback


# ---------------------------------------------------------------------- the sampler


@pytest.mark.parametrize(
    ("count", "batch_size", "steps"), [(20, 5, 4), (20, 7, 3), (21, 5, 4), (1, 5, 1), (21, 20, 1)]
)
def test_steps_of_an_epoch(count, batch_size, steps):
    assert steps_per_epoch(count, batch_size) == steps
    coreset = coreset_of(budget=count / SIZE)
    coreset.begin(0, pool_of())
    sampler = CoresetSampler(coreset, SIZE, batch_size)
    batches = list(sampler)
    assert len(batches) == len(sampler) == steps
    assert all(len(indices) > 1 for indices, _ in batches) or count == 1


def test_mini_batches_are_the_order_of_the_epoch_in_slices():
    coreset = coreset_of()
    sampler = CoresetSampler(coreset, SIZE, 6)
    for epoch in range(3):
        coreset.begin(epoch, pool_of())
        indices, weights = coreset.order(epoch)
        batches = list(sampler)
        assert [i for one, _ in batches for i in one] == indices.tolist()
        assert torch.equal(torch.cat([w for _, w in batches]), weights)


@pytest.mark.parametrize(("world", "batch_size"), [(2, 6), (3, 7), (4, 3)])
def test_processes_divide_each_mini_batch(monkeypatch, world, batch_size):
    coreset = coreset_of()
    coreset.begin(0, pool_of())
    whole = [set(indices) for indices, _ in CoresetSampler(coreset, SIZE, batch_size)]
    shares = []
    for rank in range(world):
        monkeypatch.setattr(room, "place", lambda rank=rank: (rank, world))
        shares.append([indices for indices, _ in CoresetSampler(coreset, SIZE, batch_size)])
    assert len({len(share) for share in shares}) == 1
    for step, batch in enumerate(whole):
        parts = [share[step] for share in shares]
        assert all(parts)  # nobody has a mean over nothing
        assert set().union(*parts) == batch
        if len(batch) >= world:
            assert sum(len(part) for part in parts) == len(batch)


# ---------------------------------------------------------------------- the loader


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_begins_when_its_first_mini_batch_is_asked_for(num_workers):
    callback = callback_of()
    loader = callback.loader(DATA, 8, num_workers)
    iterator = iter(loader)
    assert callback.coreset.indices is None
    x, _, weights = next(iterator)
    first = callback.coreset.indices
    assert set(x[:, 0].long().tolist()) <= set(first.tolist())
    assert torch.equal(weights, torch.ones(8))
    assert len([x, *iterator]) == len(loader) == 3
    # The next epoch's workers have what was chosen for it.
    callback._trainer.fit_loop.epoch_progress.current.completed = 1
    drawn = torch.cat([x[:, 0] for x, _, _ in loader]).long()
    assert sorted(drawn.tolist()) == sorted(callback.coreset.indices.tolist())
    assert sorted(drawn.tolist()) != sorted(first.tolist())


def test_draws_by_frequency_have_no_weights():
    loader = callback_of(weighting="sampling").loader(DATA, 8)
    assert len(next(iter(loader))) == 2


def test_what_workers_get_can_be_pickled():
    loader = callback_of().loader(DATA, 8)
    drawn = pickle.loads(pickle.dumps(loader.loader.dataset))
    assert torch.equal(drawn[[3, 4], torch.ones(2)][0], DATA[[3, 4]][0])


@pytest.mark.parametrize("strategy", [FSDPStrategy, ModelParallelStrategy])
def test_networks_that_are_divided_over_processes_are_refused(strategy):
    trainer = SimpleNamespace(strategy=strategy(), current_epoch=0)
    with pytest.raises(ConfigError, match=rf"{strategy.__name__} divides .*strategy=ddp"):
        CoresetCallback(coreset_of(), pool_of).setup(trainer, pl.LightningModule(), "fit")


def test_the_callback_is_needed_too():
    loader = CoresetCallback(coreset_of(), pool_of).loader(DATA, 8)
    with pytest.raises(ConfigError, match="among the trainer's callbacks"):
        next(iter(loader))
