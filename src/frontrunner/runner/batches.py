"""Mini-batches as a pure function of (seed, step), so that a resumed run sees the same data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from frontrunner.seeds import generator
from frontrunner.tasks.base import rows


class StepSampler(Sampler[list[int]]):
    """Yields the index list of each step of a round: [round·every, min(total, (round + 1)·every)).

    Step t takes the t-th slice of an endless sequence of permutations, each seeded by (seed,
    epoch). The last slice of an epoch may be short (or dropped when it has a single sample and the
    epoch has others, since batch statistics of one sample are undefined). With several processes
    each takes every ``world``-th index of the slice, so together they see what one process would;
    where the slice has fewer indices than there are processes, some of them repeat an index. With
    ``whole`` each takes all of the slice instead.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        total: int,
        every: int,
        whole: bool = False,
    ) -> None:
        self.whole = whole
        self.size, self.batch_size, self.seed = size, min(batch_size, size), seed
        self.total, self.every = total, every
        self.per_epoch = max(1, -(-size // self.batch_size))
        if self.per_epoch > 1 and size % self.batch_size == 1:
            self.per_epoch -= 1
        self.round = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this with the round about to start."""
        self.round = epoch

    def indices(self, step: int, rank: int = 0, world: int = 1) -> list[int]:
        """Data indices of one step."""
        epoch, position = divmod(step, self.per_epoch)
        permutation = self._permutation(epoch)
        start = position * self.batch_size
        batch = permutation[start : start + self.batch_size]
        # The mean over no samples would be NaN, and averaged into every process's gradient.
        return batch[rank::world] or [batch[rank % len(batch)]]

    def _permutation(self, epoch: int) -> list[int]:
        if getattr(self, "_cached", (None,))[0] != epoch:
            order = torch.randperm(self.size, generator=generator(self.seed, "order", epoch))
            self._cached = (epoch, order.tolist())
        return self._cached[1]

    def __iter__(self) -> Iterator[list[int]]:
        rank, world = 0, 1
        if (
            not self.whole
            and torch.distributed.is_available()
            and torch.distributed.is_initialized()
        ):
            rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        start = self.round * self.every
        for step in range(start, min(self.total, start + self.every)):
            yield self.indices(step, rank, world)


class _Rows(Dataset[Any]):
    """A data set asked for a list of indices at a time: one indexing operation per mini-batch."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitem__(self, indices: list[int]) -> Any:
        return rows(self.dataset, indices)


def step_loader(dataset: Dataset[Any], sampler: StepSampler, num_workers: int) -> DataLoader[Any]:
    """A loader over the steps of the sampler's current round."""
    return DataLoader(
        _Rows(dataset),
        sampler=sampler,
        batch_size=None,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )
