"""Training on a coreset: a loader that draws from it, and a callback that keeps it."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from frontrunner.coresets.coreset import Coreset
from frontrunner.coresets.pool import Pool
from frontrunner.coresets.watch import Watch
from frontrunner.errors import ConfigError
from frontrunner.tasks.base import rows

Share = tuple[int, int, Callable[[Tensor], list[Tensor]]]
Draw = tuple[list[int], Tensor]

# Under these no process has all of a layer's weights.
_DIVIDED = (FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy)


class CoresetSampler(Sampler[Draw]):
    """Mini-batches of the coreset's present epoch: indices, and their weights in the loss.

    With several processes each takes every ``world``-th sample of a mini-batch, so together they
    see what one process would; where there are fewer samples than processes, some repeat one. A
    last mini-batch of a single sample is left out if there are others: batch statistics need two.
    """

    def __init__(self, coreset: Coreset, size: int, batch_size: int) -> None:
        self.coreset = coreset
        self.count = coreset.count(size)
        self.batch_size = min(batch_size, self.count)
        coreset.size = coreset.size or size

    def __len__(self) -> int:
        return steps_per_epoch(self.count, self.batch_size)

    def __iter__(self) -> Iterator[Draw]:
        rank, world = place()
        indices, weights = self.coreset.order(max(self.coreset.epoch, 0))
        for step in range(len(self)):
            part = slice(step * self.batch_size, (step + 1) * self.batch_size)
            mine = torch.arange(len(indices[part]))[rank::world]
            if len(mine) == 0:  # the mean over no samples would be NaN
                mine = torch.tensor([rank % len(indices[part])])
            yield indices[part][mine].tolist(), weights[part][mine]


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Mini-batches of one pass over ``count`` samples."""
    steps = -(-count // batch_size)
    return steps - 1 if steps > 1 and count % batch_size == 1 else steps


class _Drawn(Dataset[Any]):
    """A data set asked for a draw at a time. Its batches end with the weights, if they are
    wanted."""

    def __init__(self, fetch: Callable[[list[int]], Any], weighted: bool) -> None:
        self.fetch, self.weighted = fetch, weighted

    def __getitem__(self, draw: Draw) -> Any:
        indices, weights = draw
        batch = self.fetch(indices)
        return (*batch, weights) if self.weighted else batch


class CoresetLoader:
    """What a trainer iterates over: it lets the coreset begin the epoch when its first mini-batch
    is asked for, and only then opens the data, so that data workers draw from what was just
    chosen."""

    def __init__(self, loader: DataLoader[Any], begin: Callable[[], None]) -> None:
        self.loader, self.begin = loader, begin

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        self.begin()
        yield from self.loader


class CoresetCallback(Callback):
    """Keeps a coreset through a training: begins its epochs, counts its seconds, and has its state
    in the checkpoints.

    Args:
        coreset: what is trained on; forgotten where another training begins.
        pool: makes the samples and the network to look at, given how several processes share the
            looking (None for one).

    Attributes:
        seconds: from the first mini-batch of an epoch to its end, over all epochs; those of
            selecting and checking are the coreset's.
    """

    def __init__(self, coreset: Coreset, pool: Callable[[Share | None], Pool]) -> None:
        self.coreset = coreset
        self._make_pool = pool
        self._pool: Pool | None = None
        self._trainer: pl.Trainer | None = None
        self.seconds = 0.0
        self._since: float | None = None
        self._watch: Watch | None = None
        self._batch: Any = None
        self._watching = 0.0

    def pace(self, size: int, batch_size: int) -> int:
        """Steps of an epoch, for ``size`` samples in all."""
        return steps_per_epoch(self.coreset.count(size), batch_size)

    def loader(self, dataset: Dataset[Any], batch_size: int, num_workers: int = 0) -> CoresetLoader:
        """Mini-batches of the coreset, asked of the data set by lists of indices, with the weights
        at their end where these act on the loss."""
        size: int = len(dataset)  # type: ignore[arg-type]
        return self.draws(partial(rows, dataset), size, batch_size, num_workers=num_workers)

    def draws(
        self, fetch: Callable[[list[int]], Any], size: int, batch_size: int, **options: Any
    ) -> CoresetLoader:
        """Mini-batches of the coreset; ``options`` are those of a `DataLoader`."""
        drawn: DataLoader[Any] = DataLoader(
            _Drawn(fetch, self.coreset.weighting == "loss"),
            sampler=CoresetSampler(self.coreset, size, batch_size),
            batch_size=None,
            **options,
        )
        return CoresetLoader(drawn, self._begin)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if isinstance(trainer.strategy, _DIVIDED):
            raise ConfigError(
                f"{type(trainer.strategy).__name__} divides the network over processes, and a "
                "coreset is chosen by gradients of the whole: use strategy=ddp"
            )
        # The first step of any optimiser imports it, which may take as long as a small training:
        # seconds that no coreset costs.
        importlib.import_module("torch._dynamo")
        self._trainer, self._module = trainer, pl_module
        self._pool = self._watch = None
        # A checkpoint is read after this. Without one, an earlier training's coreset is forgotten.
        if trainer.current_epoch == 0 and self.coreset.epoch >= 0:
            self.coreset.reset()
            self.seconds = 0.0

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self._watch is not None:
            self._watch.stop()
        self._pool = self._trainer = self._watch = self._batch = None

    def _begin(self) -> None:
        if self._trainer is None:
            raise ConfigError("the coreset has to be among the trainer's callbacks as well")
        if self._pool is None:
            self._pool = self._make_pool(shared(self._trainer))
            self.coreset.check(self._pool)
        epoch = self._trainer.current_epoch
        self.coreset.begin(epoch, self._pool)
        if self.coreset.watches(epoch):
            self._watch = Watch(self._pool)
            self._watch.start()
        self._since, self._watching = time.perf_counter(), 0.0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._batch = batch

    def on_before_backward(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor
    ) -> None:
        if self._watch is None:
            return
        start = time.perf_counter()
        weighted = self.coreset.weighting == "loss"
        batch = tuple(self._batch)
        self._watch.step(batch[:-1] if weighted else batch, batch[-1] if weighted else None)
        self._watching += time.perf_counter() - start

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._since is not None:
            self.seconds += time.perf_counter() - self._since - self._watching
            self._since = None
        if self._watch is not None and self._pool is not None:
            start = time.perf_counter()
            seen, self._watch = self._watch.stop(), None
            if seen is not None:
                self.coreset.watch(trainer.current_epoch, *seen, self._pool)
            self.coreset.seconds["check"] += time.perf_counter() - start + self._watching

    def state_dict(self) -> dict[str, Any]:
        return {"coreset": self.coreset.state_dict(), "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.coreset.load_state_dict(state_dict["coreset"])
        self.seconds = state_dict["seconds"]


def shared(trainer: pl.Trainer) -> Share | None:
    """How the processes of a training divide what they look at; None for one process."""
    if trainer.world_size == 1:
        return None

    def gather(tensor: Tensor) -> list[Tensor]:
        # Shares differ in length by one at most: padded to be gathered, and cut again.
        length = torch.tensor([len(tensor)], device=tensor.device)
        lengths = [int(n) for n in trainer.strategy.all_gather(length).flatten()]
        padded = tensor.new_zeros(max(lengths), *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        parts = trainer.strategy.all_gather(padded)
        return [part[:n] for part, n in zip(parts, lengths, strict=True)]

    return trainer.global_rank, trainer.world_size, gather


def place() -> tuple[int, int]:
    """This process's rank, and how many there are."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()
