"""Training somebody's Lightning module on a coreset: nothing in it knows of coresets.

Run as a script it trains in several processes, which Lightning starts, and each writes what it saw.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.nn.functional import cosine_similarity, cross_entropy, mse_loss
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
)

import frontrunner
from frontrunner.errors import ConfigError, DataError, RunError

CLASSES, TRAIN = 4, 240


def draw_blobs(n, seed):
    stream = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (n,), generator=stream)
    angles = 6.283 * labels / CLASSES
    centres = 2.0 * torch.stack([angles.cos(), angles.sin()], dim=1)
    return TensorDataset(centres + 0.6 * torch.randn(n, 2, generator=stream), labels)


class Blobs(pl.LightningDataModule):
    def __init__(self, batch_size=16, num_workers=0):
        super().__init__()
        self.save_hyperparameters()
        self.transferred = 0

    def setup(self, stage):
        self.train, self.held_out = draw_blobs(TRAIN, 0), draw_blobs(80, 1)

    def train_dataloader(self):
        workers = self.hparams.num_workers
        return DataLoader(
            self.train,
            self.hparams.batch_size,
            shuffle=True,
            num_workers=workers,
            persistent_workers=workers > 0,
        )

    def val_dataloader(self):
        return DataLoader(self.held_out, 40)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        self.transferred += 1
        return batch

    def state_dict(self):
        return {"transferred": self.transferred}


class Net(pl.LightningModule):
    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(nn.Linear(2, 16), nn.BatchNorm1d(16), nn.ReLU())
        self.head = nn.Linear(16, CLASSES)
        self.batches, self.shapes = [], set()

    def forward(self, x):
        return self.head(self.body(x))

    def training_step(self, batch, batch_idx):
        x, y, *weights = batch
        self.batches.append(x.clone())
        self.shapes.add(len(batch))
        each = cross_entropy(self(x), y, reduction="none")
        return (each * weights[0]).mean() if weights else each.mean()

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("accuracy", (self(x).argmax(1) == y).float().mean(), prog_bar=True)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def trainer_of(coreset, epochs=4, **options):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "accelerator": "cpu", "devices": 1}
    callbacks = [*([coreset] if coreset else []), *options.pop("callbacks", [])]
    return pl.Trainer(max_epochs=epochs, callbacks=callbacks, **{**quiet, **options})


def training_of(**settings):
    """One that chooses again at every second epoch."""
    return frontrunner.CoresetTraining(**{"every": 2, "threshold": -1e9, **settings})


def fit(training=None, module=None, data=None, ckpt_path=None, **options):
    training, module = training or training_of(), module or Net()
    trainer = trainer_of(training, **options)
    more = {"ckpt_path": ckpt_path, "weights_only": True} if ckpt_path else {}
    trainer.fit(module, training.over(Blobs() if data is None else data), **more)
    return training, module, trainer


def accuracy(module):
    x, y = draw_blobs(400, 2).tensors
    module.eval()
    with torch.no_grad():
        return float((module(x).argmax(1) == y).float().mean())


def same_weights(one, other):
    return all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


# ---------------------------------------------------------------------- it trains


@pytest.mark.parametrize("select", ["gradmatch", "craig", "glister", "kcenter", "random"])
def test_a_tenth_of_the_data_does(select):
    training, module, trainer = fit(training_of(select=select), epochs=12)
    assert accuracy(module) > 0.7  # by chance it would be 0.25
    assert len(module.batches) == trainer.global_step == 12 * 2  # 24 samples by 16
    drawn = {tuple(x) for batch in module.batches[-2:] for x in batch.tolist()}
    chosen = {tuple(x) for x in draw_blobs(TRAIN, 0).tensors[0][training.coreset.indices].tolist()}
    assert drawn <= chosen
    assert training.coreset.updates == 5
    assert module.shapes == {2}
    assert training.seconds > 0


def test_it_stands_beside_what_lightning_has(tmp_path, capsys):
    keeper = ModelCheckpoint(tmp_path, monitor="accuracy", mode="max")
    training, data = training_of(), Blobs()
    options = {"enable_progress_bar": True, "callbacks": [keeper], "enable_checkpointing": True}
    trainer = trainer_of(training, default_root_dir=tmp_path, **options)
    module, over = Net(), training.over(data)
    trainer.fit(module, over)
    assert Path(keeper.best_model_path).is_file()
    (scores,) = trainer.validate(module, datamodule=over, verbose=False)
    assert scores["accuracy"] > 0.5
    assert trainer.validate(module, data, verbose=False) == [scores]
    # The data module is the user's own in all but the training loader.
    assert isinstance(over, Blobs)
    assert over.hparams.batch_size == 16
    assert data.transferred > 0
    state = torch.load(keeper.best_model_path, weights_only=True)
    assert state["Blobs"]["transferred"] > 0
    assert "Epoch 3" in capsys.readouterr().out
    assert isinstance(data.train_dataloader(), DataLoader)


def test_a_loader_alone():
    loader = DataLoader(draw_blobs(TRAIN, 0), 16, shuffle=True)
    held_out = DataLoader(draw_blobs(80, 1), 40)
    training = training_of(select="glister")
    trainer = trainer_of(training)
    module = Net()
    trainer.fit(module, training.over(loader, held_out))
    assert trainer.callback_metrics["accuracy"] > 0.5
    _, other, _ = fit(training_of(select="glister"))
    assert same_weights(module, other)
    with pytest.raises(ConfigError, match="needs validation data"):
        fit(training_of(select="glister"), data=loader)


@pytest.mark.parametrize("select", ["gradmatch", "random"])
def test_data_workers_see_the_same_mini_batches(select):
    settings = {"select": select, "budget": 0.2}
    one, alone, _ = fit(training_of(**settings), epochs=3)
    other, helped, _ = fit(training_of(**settings), data=Blobs(num_workers=2), epochs=3)
    assert len(alone.batches) == len(helped.batches) > 0
    assert all(torch.equal(a, b) for a, b in zip(alone.batches, helped.batches, strict=True))
    assert one.coreset.history == other.coreset.history


def test_reloading_the_data_changes_nothing():
    _, plain, _ = fit()
    _, reloaded, _ = fit(reload_dataloaders_every_n_epochs=1)
    assert same_weights(plain, reloaded)


# ---------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("settings", [{}, {"select": "random", "warm": 0.5, "trigger": "interval"}])
@pytest.mark.parametrize("after", [1, 3])
def test_continued_from_a_checkpoint_it_ends_as_if_uninterrupted(tmp_path, settings, after):
    whole, module, _ = fit(training_of(**settings, epochs=6), epochs=6)
    keeper = {
        "enable_checkpointing": True,
        "callbacks": [ModelCheckpoint(tmp_path, save_last=True)],
    }
    fit(training_of(**settings, epochs=6), epochs=after, **keeper)
    again, other, _ = fit(
        training_of(**settings, epochs=6), Net(seed=9), epochs=6, ckpt_path=tmp_path / "last.ckpt"
    )
    assert same_weights(module, other)
    assert again.coreset.history == whole.coreset.history
    assert torch.equal(again.coreset.indices, whole.coreset.indices)
    expected = module.batches[-len(other.batches) :]
    assert all(torch.equal(a, b) for a, b in zip(expected, other.batches, strict=True))
    assert len(other.batches) == len(module.batches) // 6 * (6 - after)


def test_data_that_changed_are_refused(tmp_path):
    keeper = {
        "enable_checkpointing": True,
        "callbacks": [ModelCheckpoint(tmp_path, save_last=True)],
    }
    fit(epochs=1, **keeper)
    less = DataLoader(Subset(draw_blobs(TRAIN, 0), range(200)), 16)
    with pytest.raises(RunError, match="have 200 samples, and had 240"):
        fit(data=less, ckpt_path=tmp_path / "last.ckpt")


def test_another_training_starts_anew():
    training, module, _ = fit()
    history = training.coreset.history
    less = DataLoader(Subset(draw_blobs(TRAIN, 0), range(200)), 16)
    fit(training, data=less)
    assert int(training.coreset.indices.max()) < 200
    _, again, _ = fit(training)
    assert same_weights(module, again)
    assert training.coreset.history == history


def test_an_audit_is_no_cost(monkeypatch):
    plain, _, _ = fit()
    now = 0.0

    def slow(*arguments, **options):
        nonlocal now
        now += 1.0
        return cosine_similarity(*arguments, **options)

    monkeypatch.setattr(torch.nn.functional, "cosine_similarity", slow)
    monkeypatch.setattr(time, "perf_counter", lambda: now)  # of the audit alone
    audited, _, _ = fit(training_of(audit=1))
    for purpose in ("select", "check"):
        assert audited.coreset.passes[purpose] == plain.coreset.passes[purpose]
    # Looked at in epochs 1 to 3, and once more after each of two selections.
    assert audited.coreset.passes["audit"] > 0
    assert audited.coreset.seconds == {"select": 0.0, "check": 0.0, "audit": 5.0}
    assert audited.seconds == 0.0


# ---------------------------------------------------------------------- looking on


class Still(Net):
    """Of one mode, and moved by no step."""

    def __init__(self):
        super().__init__()
        self.body[1] = nn.Identity()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.mark.parametrize("weighting", ["batch", "sampling"])
@pytest.mark.parametrize("trigger", ["absolute_below", "loss", "peak_drop"])
def test_training_shows_what_a_pass_does_where_nothing_moves(weighting, trigger):
    # Of equal weights, so that each sample is drawn once.
    same = {"select": "random", "trigger": trigger, "weighting": weighting}
    by_pass, _, _ = fit(training_of(**same), Still(), epochs=6)
    by_training, _, _ = fit(training_of(**same, snr_from="training"), Still(), epochs=6)
    assert by_pass.coreset.checks == by_training.coreset.checks == 2
    for one, other in zip(by_pass.coreset.history, by_training.coreset.history, strict=True):
        assert one["checked"] == other["checked"]
        if one["checked"]:
            assert one["snr"] == pytest.approx(other["snr"], rel=1e-3)
            assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
    saved = by_pass.coreset.passes["check"] - by_training.coreset.passes["check"]
    assert saved == 2 * 24
    assert by_training.coreset.seconds["check"] > 0


def test_weights_of_the_mini_batches_count_where_asked_for():
    same = {"select": "craig", "trigger": "absolute_below", "weighting": "batch", "every": 1}
    settings = {**same, "snr_weighted": True}
    by_pass, _, _ = fit(training_of(**settings), Still(), epochs=2)
    by_training, _, _ = fit(training_of(**settings, snr_from="training"), Still(), epochs=2)
    plain, _, _ = fit(training_of(**same, snr_from="training"), Still(), epochs=2)
    (one, other, without) = (t.coreset.history[1]["snr"] for t in (by_pass, by_training, plain))
    assert one == pytest.approx(other, rel=1e-3)
    assert without != pytest.approx(other, rel=1e-3)


def test_looking_on_leaves_training_as_it_is():
    # At a threshold that is never reached the coreset stays.
    _, by_pass, _ = fit(training_of(threshold=1e9), epochs=6)
    training, by_training, _ = fit(training_of(threshold=1e9, snr_from="training"), epochs=6)
    assert same_weights(by_pass, by_training)
    assert training.coreset.checks == 2
    assert not by_training.head._forward_hooks


def test_looking_on_goes_on_from_a_checkpoint(tmp_path):
    settings = {"snr_from": "training", "epochs": 6, "threshold": 0.0}
    whole, module, _ = fit(training_of(**settings), epochs=6)
    keeper = {
        "enable_checkpointing": True,
        "callbacks": [ModelCheckpoint(tmp_path, save_last=True)],
    }
    fit(training_of(**settings), epochs=2, **keeper)  # the next epoch is one to check
    again, other, _ = fit(
        training_of(**settings), Net(seed=9), epochs=6, ckpt_path=tmp_path / "last.ckpt"
    )
    assert same_weights(module, other)
    assert again.coreset.history == whole.coreset.history
    assert again.coreset.passes == whole.coreset.passes


def test_steps_around_the_network_are_named():
    class Around(Net):
        def training_step(self, batch, batch_idx):
            return cross_entropy(self.head(self.body(batch[0])), batch[1])

    with pytest.raises(ConfigError, match=r"did not call the network.*snr_from=pass"):
        fit(training_of(snr_from="training"), Around(), epochs=3)


# ---------------------------------------------------------------------- other modules


def test_weights_in_the_batch():
    training, module, _ = fit(training_of(weighting="batch", select="craig"))
    assert module.shapes == {3}
    _, other, _ = fit(training_of(select="craig"))
    assert not same_weights(module, other)
    assert float(training.coreset.weights.mean()) == pytest.approx(1.0)
    assert float(training.coreset.weights.max()) > 1.0


class Inside(Net):
    """Steps that go around ``forward``."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(self.body, self.head)

    def forward(self, x):
        raise AssertionError("not this")

    def training_step(self, batch, batch_idx):
        return cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.net(batch[0])


def test_a_network_inside():
    training, _, _ = fit(training_of(network=lambda module: module.net), Inside())
    plain, _, _ = fit(epochs=1)
    first = [training.coreset.history[0], plain.coreset.history[0]]
    assert first[0] == first[1]


def test_a_head_by_name():
    named, _, _ = fit(training_of(head="head"), epochs=1)
    found, _, _ = fit(epochs=1)
    other, _, _ = fit(training_of(head=["body.0"]), epochs=1)
    assert torch.equal(named.coreset.indices, found.coreset.indices)
    assert not torch.equal(other.coreset.indices, found.coreset.indices)
    with pytest.raises(ConfigError, match="no linear layer 'haed'; did you mean 'head'"):
        fit(training_of(head="haed"))


class Regression(Net):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(16, 1)

    def training_step(self, batch, batch_idx):
        return mse_loss(self(batch[0])[:, 0], batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.9)


def test_a_loss_of_ones_own():
    x, _ = draw_blobs(TRAIN, 0).tensors
    loader = DataLoader(TensorDataset(x, x.sum(1)), 16)
    settings = {
        "loss": lambda outputs, batch: mse_loss(outputs[:, 0], batch[1]),
        "options": {"variant": "per_batch", "batch_size": 4},
    }
    _, module, _ = fit(training_of(**settings), Regression(), loader, epochs=20)
    with torch.no_grad():
        assert mse_loss(module.eval()(x)[:, 0], x.sum(1)) < 0.3 * x.sum(1).var()
    with pytest.raises(ConfigError, match="labels of whole numbers"):
        fit(training_of(loss=settings["loss"]), Regression(), loader)


def test_half_precision():
    training, _, _ = fit(training_of(), precision="bf16-true", epochs=3)
    assert training.coreset.updates == 1


# ---------------------------------------------------------------------- what cannot be


class Endless(IterableDataset):
    def __iter__(self):
        yield from iter(draw_blobs(8, 0))


class Unknown(Dataset):
    def __getitem__(self, index):
        return draw_blobs(8, 0)[index]


@pytest.mark.parametrize("dataset", [Endless(), Unknown()])
def test_data_without_numbers_or_length(dataset):
    loader = DataLoader(dataset, 4, sampler=None if isinstance(dataset, Endless) else range(8))
    with pytest.raises(DataError, match="no length or cannot be indexed"):
        fit(data=loader)


def test_loaders_that_a_coreset_would_pass_over():
    data = draw_blobs(TRAIN, 0)
    half = DataLoader(data, 16, sampler=SubsetRandomSampler(range(100)))
    with pytest.raises(DataError, match="sampler of its own, SubsetRandomSampler"):
        fit(data=half)
    with pytest.raises(DataError, match="with a batch_size"):
        fit(data=DataLoader(data, batch_sampler=[[0, 1], [2, 3]]))
    with pytest.raises(DataError, match="list is neither"):
        training_of().over([half])


def test_epochs_have_to_be_known():
    with pytest.raises(ConfigError, match=r"epochs=…, or the trainer max_epochs=…"):
        fit(epochs=None, max_steps=4)
    _, module, _ = fit(training_of(epochs=3), epochs=None, max_steps=4)
    assert len(module.batches) == 4


def test_both_lines_are_needed():
    with pytest.raises(ConfigError, match=r"fit with coreset\.over\(data\)"):
        trainer_of(training_of()).fit(Net(), Blobs())
    with pytest.raises(ConfigError, match="among the trainer's callbacks"):
        trainer_of(None).fit(Net(), training_of().over(Blobs()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget": 0}, r"^budget=0 must be above 0"),
        ({"budget": 1.5}, r"^budget=1\.5 must be above 0 and at most 1"),
        ({"select": "gradmach"}, "select=gradmach is unknown; did you mean 'gradmatch'"),
        ({"weighting": "loss"}, "weighting=loss is not one of sampling, batch"),
        ({"trigger": "often"}, "trigger=often is unknown"),
        ({"snr": "median"}, "snr=median is unknown"),
    ],
)
def test_settings_that_cannot_be_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        training_of(**settings)


def test_fewer_samples_than_classes_train_nothing():
    module = Net()
    message = r"^budget=0\.01 of 240 samples is 2, fewer than the 4 classes; set budget"
    with pytest.raises(ConfigError, match=message):
        fit(training_of(budget=0.01), module)
    assert module.batches == []


# ---------------------------------------------------------------------- several processes

RULES = {
    "gradmatch": {},
    "glister": {},
    "random": {},
    "craig": {"snr_from": "training", "threshold": 0.0},
}


def as_script(folder, devices):
    """Train by each rule, and write what this process saw of it."""
    for select, settings in RULES.items():
        training = training_of(select=select, **settings)
        options = {"strategy": "ddp"} if devices > 1 else {}
        data = Blobs(batch_size=8 // devices)
        trainer = trainer_of(training, epochs=5, devices=devices, **options)
        module = Net()
        module.body[1] = nn.Identity()  # batch statistics are each process's own
        trainer.fit(module, training.over(data))
        seen = {
            "indices": training.coreset.indices,
            "history": training.coreset.history,
            "passes": training.coreset.passes,
            "weights": torch.cat([p.detach().flatten() for p in module.parameters()]),
            "batches": module.batches,
        }
        torch.save(seen, folder / f"{select}.{devices}.{trainer.global_rank}.pt")


def test_two_processes_choose_what_one_does(environment, tmp_path):
    words = [sys.executable, __file__, str(tmp_path)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=480)
    assert done.returncode == 0, done.stderr[-3000:]
    as_script(tmp_path, 1)
    for select in RULES:
        alone, first, second = (
            torch.load(tmp_path / f"{select}.{name}.pt", weights_only=True)
            for name in ("1.0", "2.0", "2.1")
        )
        assert torch.equal(first["indices"], second["indices"])
        assert torch.equal(first["indices"], alone["indices"])
        assert first["history"] == second["history"]
        if not RULES[select]:
            assert [e["selected"] for e in first["history"]] == [True, True, True]
        for one, other in zip(alone["history"], first["history"], strict=True):
            assert one.keys() == other.keys()
            assert one.get("snr", 0.0) == pytest.approx(other.get("snr", 0.0), rel=1e-3)
        assert first["passes"] == alone["passes"]
        assert torch.equal(first["weights"], second["weights"])
        torch.testing.assert_close(first["weights"], alone["weights"], rtol=1e-3, atol=1e-4)
        for whole, *parts in zip(
            alone["batches"], first["batches"], second["batches"], strict=True
        ):
            both = torch.cat(parts).tolist()
            assert sorted(both) == sorted(whole.tolist())


if __name__ == "__main__":
    torch.set_num_threads(1)
    as_script(Path(sys.argv[1]), 2)
