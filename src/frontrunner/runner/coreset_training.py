"""Training any Lightning module on a coreset, in two lines::

coreset = frontrunner.CoresetTraining(budget=0.1)
Trainer(max_epochs=200, callbacks=[coreset]).fit(module, coreset.over(datamodule))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)

from frontrunner.coresets.coreset import Coreset
from frontrunner.coresets.pool import Pool
from frontrunner.coresets.select import Craig, Glister, GradMatch, KCenter, Random, Selector
from frontrunner.coresets.trigger import Trigger
from frontrunner.errors import ConfigError, DataError, FrontrunnerError, nearest
from frontrunner.runner.coreset import CoresetCallback, CoresetLoader, Share, place

SELECTORS: dict[str, Callable[..., Selector]] = {
    "random": Random,
    "craig": Craig,
    "gradmatch": GradMatch,
    "glister": Glister,
    "kcenter": KCenter,
}


class CoresetTraining(CoresetCallback):
    """Trains a Lightning module on a coreset of its data, by default as ERACS does.

    The module needs no change: weights act by how often a sample is drawn. It works with data
    workers, several devices and checkpoints, which hold the coreset and its history.

    Args:
        budget: share of the training samples.
        select: ``gradmatch``, ``craig``, ``glister``, ``kcenter`` or ``random``, with ``options``
            of its own, see `frontrunner.coresets.select`.
        trigger, threshold, every, count: when to choose again, see `frontrunner.coresets.trigger`.
        epochs: passes over the coreset; None is the trainer's ``max_epochs``.
        seed: of everything random.
        loss: (outputs, batch) -> mean loss; None is the cross-entropy of ``batch[1]``.
        network: module -> the network inside; None is the module itself.
        head: name or names of the last linear layers; None finds them.
        weighting: ``sampling``, or ``batch``, which appends the weights to each mini-batch.
        settings: further ones of `frontrunner.coresets.coreset.Coreset`.

    Raises:
        ConfigError: a setting that cannot be used.
    """

    def __init__(
        self,
        budget: float = 0.1,
        select: str = "gradmatch",
        *,
        trigger: str = "relative_drop",
        threshold: float = 0.3,
        every: int = 3,
        count: int | None = None,
        epochs: int | None = None,
        seed: int = 0,
        loss: Callable[[Any, Any], Tensor] | None = None,
        network: Callable[[pl.LightningModule], nn.Module] | None = None,
        head: str | Sequence[str] | None = None,
        weighting: str = "sampling",
        options: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        if select not in SELECTORS:
            raise ConfigError(f"select={select} is unknown{nearest(select, SELECTORS)}")
        if weighting not in ("sampling", "batch"):
            raise ConfigError(f"weighting={weighting} is not one of sampling, batch")
        with _own_names():
            coreset = Coreset(
                SELECTORS[select](**(options or {})),
                Trigger(trigger, threshold, every, count),
                budget,
                epochs if epochs is not None else 0,
                seed,
                weighting="loss" if weighting == "batch" else "sampling",
                **settings,
            )
        super().__init__(coreset, self._of_module)
        self._epochs, self._loss, self._network = epochs, loss, network
        self._head = [head] if isinstance(head, str) else head
        self._train: DataLoader[Any] | None = None
        self._validation: DataLoader[Any] | None = None

    def over(
        self,
        data: pl.LightningDataModule | DataLoader[Any],
        validation: DataLoader[Any] | None = None,
    ) -> pl.LightningDataModule:
        """The same data, with a training loader that draws from the coreset.

        Args:
            data: a data module, or a training loader. Of the latter its data set, batch size,
                ``collate_fn`` and settings of workers are kept; samples are shuffled in any case.
            validation: beside a training loader.

        Raises:
            DataError: neither of them. In training: not one training loader, or one whose data
                set has no length or cannot be indexed, or that has a sampler of its own.
        """
        if isinstance(data, DataLoader):
            data = _Alone(data) if validation is None else _Pair(data, validation)
        elif not isinstance(data, pl.LightningDataModule):
            raise DataError(f"{type(data).__name__} is neither a data module nor a DataLoader")
        return _drawing(self, data)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        self._train = None
        if self._epochs is None:
            if trainer.max_epochs is None or trainer.max_epochs < 1:
                raise ConfigError("give CoresetTraining epochs=…, or the trainer max_epochs=…")
            self.coreset.epochs = trainer.max_epochs

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._train is None:
            raise ConfigError(
                "the training data do not come from the coreset: fit with coreset.over(data)"
            )

    def _begin(self) -> None:
        with _own_names():
            super()._begin()

    def draw_from(self, train: Any, validation: Callable[[], Any]) -> CoresetLoader:
        """The training loader in place of ``train``; ``validation`` gives the other where a
        selection looks at it."""
        size, batch_size = _length(train), train.batch_size
        if batch_size is None:
            raise DataError("CoresetTraining needs a training loader with a batch_size")
        if not isinstance(train.sampler, _PLAIN):
            raise DataError(
                f"the training loader has a sampler of its own, {type(train.sampler).__name__}, "
                "which a coreset would pass over: give it a data set of these samples alone "
                "(torch.utils.data.Subset)"
            )
        self._train, self._validation, self._pool = train, None, None
        if self.coreset.selector is not None and self.coreset.selector.validates:
            held_out = validation()
            one = held_out[0] if isinstance(held_out, list | tuple) and held_out else held_out
            self._validation = one if isinstance(one, DataLoader) else None
        options = {name: getattr(train, name) for name in _OPTIONS}
        return self.draws(_fetch(train), size, batch_size * place()[1], **options)

    def _of_module(self, share: Share | None) -> Pool:
        assert self._train is not None
        assert self._trainer is not None
        module, precision = self._module, self._trainer.precision_plugin
        network = module if self._network is None else self._network(module)
        loss = self._loss or (lambda outputs, batch: cross_entropy(outputs, batch[1]))

        def pool(loader: DataLoader[Any], validation: Pool | None = None) -> Pool:
            fetch = _fetch(loader)
            return Pool(
                network,
                lambda indices: precision.convert_input(fetch(indices)),
                _length(loader),
                lambda outputs, batch: loss(outputs, batch).reshape(1),
                device=module.device,
                heads=self._head,
                validation=validation,
                share=share,
            )

        held_out = pool(self._validation) if self._validation is not None else None
        return pool(self._train, held_out)


@contextmanager
def _own_names() -> Iterator[None]:
    """Errors name arguments, and not the keys of a configuration that there is none of."""
    try:
        yield
    except FrontrunnerError as error:
        if "method." not in str(error):
            raise
        raise type(error)(str(error).replace("method.", "")) from None


class _Alone(pl.LightningDataModule):
    """A data module of a training loader that is there."""

    def __init__(self, train: DataLoader[Any]) -> None:
        super().__init__()
        self._train = train

    def train_dataloader(self) -> DataLoader[Any]:
        return self._train


class _Pair(_Alone):
    """The same, with a validation loader."""

    def __init__(self, train: DataLoader[Any], validation: DataLoader[Any]) -> None:
        super().__init__(train)
        self._validation = validation

    def val_dataloader(self) -> DataLoader[Any]:
        return self._validation


def _drawing(training: CoresetTraining, data: pl.LightningDataModule) -> pl.LightningDataModule:
    """``data`` with another training loader. All else is its own: hooks, attributes, its name in
    checkpoints."""
    kind = type(data)

    def train_dataloader(self: Any) -> CoresetLoader:
        there = is_overridden("val_dataloader", self, pl.LightningDataModule)
        return training.draw_from(
            kind.train_dataloader(self), self.val_dataloader if there else list
        )

    names = {"train_dataloader": train_dataloader, "__qualname__": kind.__qualname__}
    twin: pl.LightningDataModule = object.__new__(type(kind.__name__, (kind,), names))
    twin.__dict__ = data.__dict__
    return twin


# Samplers that only say in which order, or which process; and settings of a loader's workers.
_PLAIN = (RandomSampler, SequentialSampler, DistributedSampler)
_OPTIONS = (
    "num_workers",
    "pin_memory",
    "timeout",
    "worker_init_fn",
    "multiprocessing_context",
    "prefetch_factor",
    "persistent_workers",
)


def _fetch(loader: DataLoader[Any]) -> Callable[[Sequence[int]], Any]:
    # No closure: data workers may have to pickle it.
    return partial(_collated, loader.dataset, loader.collate_fn)


def _collated(dataset: Any, collate: Callable[[list[Any]], Any], indices: Sequence[int]) -> Any:
    return collate([dataset[i] for i in indices])


def _length(loader: Any) -> int:
    if not isinstance(loader, DataLoader):
        raise DataError(f"coresets are chosen from one DataLoader, not {type(loader).__name__}")
    if isinstance(loader.dataset, IterableDataset) or not hasattr(loader.dataset, "__len__"):
        raise DataError(
            "the data set of a loader has no length or cannot be indexed: a coreset is chosen "
            "among samples that can be asked for by number"
        )
    return len(loader.dataset)
