"""Training any Lightning module on a coreset, in two lines:

coreset = frontrunner.CoresetTraining(budget=0.1)
Trainer(max_epochs=200, callbacks=[coreset]).fit(module, coreset.over(datamodule))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import lightning.pytorch as pl
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, default_collate

from frontrunner.coresets.coreset import Coreset
from frontrunner.coresets.pool import Pool
from frontrunner.coresets.select import Craig, Glister, GradMatch, KCenter, Random, Selector
from frontrunner.coresets.trigger import Trigger
from frontrunner.errors import ConfigError, DataError, nearest
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
        self._head = (head,) if isinstance(head, str) else head
        self._train: DataLoader[Any] | None = None
        self._validation: DataLoader[Any] | None = None

    def over(self, data: pl.LightningDataModule | DataLoader[Any]) -> pl.LightningDataModule:
        """The same data, with a training loader that draws from the coreset.

        Raises:
            DataError: a training loader whose data set has no length or cannot be indexed.
        """
        return _Over(self, data)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_fit_start(trainer, pl_module)
        if self._epochs is None:
            if trainer.max_epochs is None or trainer.max_epochs < 1:
                raise ConfigError("give CoresetTraining epochs=…, or the trainer max_epochs=…")
            self.coreset.epochs = trainer.max_epochs

    def draw_from(
        self, train: DataLoader[Any], validation: DataLoader[Any] | None
    ) -> CoresetLoader:
        """The training loader in place of ``train``."""
        self._train, self._validation = train, validation
        if train.batch_size is None:
            raise DataError("CoresetTraining needs a training loader with a batch_size")
        return self.draws(
            _fetch(train),
            _length(train),
            train.batch_size * place()[1],
            num_workers=train.num_workers,
            pin_memory=train.pin_memory,
            worker_init_fn=train.worker_init_fn,
        )

    def _of_module(self, share: Share | None) -> Pool:
        assert self._train is not None
        module = self._module
        network = module if self._network is None else self._network(module)
        loss = self._loss or (lambda outputs, batch: cross_entropy(outputs, batch[1]))

        def pool(loader: DataLoader[Any], validation: Pool | None = None) -> Pool:
            return Pool(
                network,
                _fetch(loader),
                _length(loader),
                lambda outputs, batch: loss(outputs, batch).reshape(1),
                device=module.device,
                heads=self._head,
                validation=validation,
                share=share,
            )

        held_out = pool(self._validation) if self._validation is not None else None
        return pool(self._train, held_out)


class _Over(pl.LightningDataModule):
    """A data module whose training loader draws from a coreset."""

    def __init__(
        self, training: CoresetTraining, data: pl.LightningDataModule | DataLoader[Any]
    ) -> None:
        super().__init__()
        self.training, self.data = training, data
        self._inner = data if isinstance(data, pl.LightningDataModule) else None

    def prepare_data(self) -> None:
        if self._inner is not None:
            self._inner.prepare_data()

    def setup(self, stage: str) -> None:
        if self._inner is not None:
            self._inner.trainer = self.trainer
            self._inner.setup(stage)

    def train_dataloader(self) -> CoresetLoader:
        train = self._inner.train_dataloader() if self._inner is not None else self.data
        if not isinstance(train, DataLoader):
            raise DataError(f"CoresetTraining needs one training DataLoader, not {type(train)}")
        validation = self.val_dataloader() if self._has("val_dataloader") else None
        one = validation[0] if isinstance(validation, list) and validation else validation
        return self.training.draw_from(train, one if isinstance(one, DataLoader) else None)

    def _has(self, name: str) -> bool:
        own = getattr(pl.LightningDataModule, name)
        return self._inner is not None and getattr(type(self._inner), name) is not own

    def val_dataloader(self) -> Any:
        return self._inner.val_dataloader() if self._has("val_dataloader") else []  # type: ignore[union-attr]

    def test_dataloader(self) -> Any:
        return self._inner.test_dataloader() if self._has("test_dataloader") else []  # type: ignore[union-attr]

    def teardown(self, stage: str) -> None:
        if self._inner is not None:
            self._inner.teardown(stage)


def _fetch(loader: DataLoader[Any]) -> Callable[[Sequence[int]], Any]:
    dataset, collate = loader.dataset, loader.collate_fn or default_collate
    return lambda indices: collate([dataset[i] for i in indices])


def _length(loader: DataLoader[Any]) -> int:
    try:
        return len(loader.dataset)  # type: ignore[arg-type]
    except TypeError:
        raise DataError(
            "the training data have no length: a coreset is chosen among samples that can be "
            "indexed"
        ) from None
