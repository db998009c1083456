"""The Lightning side of training: a module that steps a learner, and what comes between rounds."""

from __future__ import annotations

import logging
import signal
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments import ClusterEnvironment
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, Checkpoint
from torch import Tensor

from frontrunner import files
from frontrunner.errors import DivergenceError, RunError
from frontrunner.runner.learner import Learner
from frontrunner.runner.ranks import Ranks

Report = Callable[[Mapping[str, float], int], None]


class TrainingModule(pl.LightningModule):
    """Steps a `Learner`; at the end of each round validates it and keeps the best state so far.

    A round is ``every`` training steps, and one or several of what Lightning calls an epoch. All
    state that a resumed run
    needs travels in the checkpoint: the learner, the optimisers, the best state, the counters.

    Args:
        learner: what is trained.
        total: training steps in all.
        every: steps per round.
        validate: returns the score to maximise (the validation hypervolume), or None to keep the
            last state.
        report: called on the first process with metrics and the number of steps taken.
        clip: largest gradient norm, or None.
        score: what learning curves call the score.
        pace: steps of what Lightning calls an epoch; None is a round.
        keep: which state is left at the end, the ``best`` validated one or the ``last``.
    """

    def __init__(
        self,
        learner: Learner,
        *,
        total: int,
        every: int,
        validate: Callable[[], float] | None,
        report: Report,
        clip: float | None,
        score: str = "hypervolume",
        pace: int | None = None,
        keep: str = "best",
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.learner = learner
        self.total, self.every = total, every
        self.validate, self.report, self.clip = validate, report, clip
        self.score, self.keep = score, keep
        self.pace = every if pace is None else pace
        self.best_score: float | None = None
        self.best_state: dict[str, Tensor] = {}
        self.step = 0
        self.passes = 0
        self.seconds_before = 0.0
        self._start = time.perf_counter()
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    # ------------------------------------------------------------------ steps

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        named = self.learner.optimizers()
        self._names = list(named)
        self._rates = [[group["lr"] for group in o.param_groups] for o in named.values()]
        return list(named.values())

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> None:
        if self.step != self.current_epoch * self.pace + batch_idx:
            raise RunError(
                f"the checkpoint is at step {self.step}, the data at epoch {self.current_epoch}, "
                f"batch {batch_idx}; remove the run's checkpoints to start again"
            )
        turn = self.learner.turn(self.step)
        index = self._names.index(turn)
        available = self.optimizers()
        optimizers = available if isinstance(available, list) else [available]
        optimizer = optimizers[index]
        factor = self.learner.schedule(self.step / self.total)
        for group, rate in zip(optimizer.param_groups, self._rates[index], strict=True):
            group["lr"] = rate * factor

        if len(optimizers) > 1:
            self.toggle_optimizer(optimizer)
        update = self.learner.update(batch, self.step)
        if update.loss.device.type == "cpu" and not torch.isfinite(update.loss):
            raise DivergenceError(f"the training loss is not finite at step {self.step}", self.step)
        optimizer.zero_grad()
        self.manual_backward(update.loss)
        if self.clip is not None:
            self.learner.clip_gradients(turn, self.clip)
        optimizer.step()
        if len(optimizers) > 1:
            self.untoggle_optimizer(optimizer)
        with torch.no_grad():
            self.learner.after_step(turn, self.step)
        self._record({f"train/{turn}_loss": update.loss, **update.log})
        self.passes += update.passes
        self.step += 1

    def _record(self, metrics: Mapping[str, Tensor | float]) -> None:
        """Sum on the device; read once a round, so that no step waits for the accelerator."""
        for name, value in metrics.items():
            number = torch.as_tensor(value).detach()
            self._sums[name] = self._sums[name] + number if name in self._sums else number
            self._counts[name] = self._counts.get(name, 0) + 1

    # ------------------------------------------------------------------ rounds

    @property
    def round_ends(self) -> bool:
        """Whether the step just taken is the last of a round."""
        return self.step % self.every == 0 or self.step >= self.total

    def on_train_epoch_end(self) -> None:
        if not self.round_ends:
            return
        metrics = {name: float(total) / self._counts[name] for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        finite = all(torch.isfinite(p).all() for p in self.learner.parameters())
        if not finite or any(v != v or abs(v) == float("inf") for v in metrics.values()):
            raise DivergenceError(
                f"training diverged: a loss or weight is not finite at or before step {self.step}",
                self.step,
            )
        if self.validate is not None:
            # Every process keeps the state that the first one's score chose.
            score = float(self.trainer.strategy.broadcast(self.validate()))
            self.learner.train()
            metrics[f"validation/{self.score}"] = score
            if self.keep == "last":
                self.best_score = score
            elif self.best_score is None or score >= self.best_score:
                self.best_score = score
                self.best_state = {
                    k: v.detach().cpu().clone() for k, v in self.learner.state_dict().items()
                }
        if self.trainer.is_global_zero:
            self.report(metrics, self.step)

    @property
    def seconds(self) -> float:
        """Training time so far, earlier attempts included up to the checkpoint they left."""
        return self.seconds_before + time.perf_counter() - self._start

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **options: Any) -> Any:
        try:
            return super().load_state_dict(state_dict, *args, **options)
        except RuntimeError as error:
            raise RunError(
                "the checkpoint is of another model; remove the run's checkpoints to start again "
                f"({' '.join(str(error).split())[:200]})"
            ) from error

    def restore_best(self) -> None:
        """Put the best validated state into the learner."""
        if self.best_state:
            self.learner.load_state_dict(self.best_state)

    # ------------------------------------------------------------------ checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["frontrunner"] = {
            "step": self.step,
            "total": self.total,
            "every": self.every,
            "passes": self.passes,
            "seconds": self.seconds,
            "best_score": self.best_score,
            "best_state": self.best_state,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["frontrunner"]
        if (state["total"], state["every"]) != (self.total, self.every):
            raise RunError(
                "the checkpoint was written by a run with other steps or rounds, or on data of "
                "another length: run again with fresh=true"
            )
        self.step, self.passes = state["step"], state["passes"]
        self.seconds_before = state["seconds"]
        self._start = time.perf_counter()
        self.best_score, self.best_state = state["best_score"], state["best_state"]


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints that are whole or absent, whoever asks Lightning to write one."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        try:
            with files.atomic_path(Path(path)) as temporary:
                torch.save(checkpoint, temporary)
        except (OSError, RuntimeError) as error:
            # torch reports a disk that fills up as a RuntimeError of its archive writer.
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
            raise RunError(
                f"{path} could not be written ({reason}); what was there before is kept: make room "
                "and run the same command again"
            ) from error


class RoundCheckpoint(Checkpoint):
    """Saves ``last.ckpt`` after each round: one file, replaced atomically.

    A `Checkpoint` callback runs after the module's own end-of-round hook, so the file holds the
    validated state, and no state that failed the check for non-finite numbers.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        if pl_module.round_ends:
            trainer.save_checkpoint(self.path)


class KeepSignals(Callback):
    """Leaves signals to those who listen to them already, a sweep for example: Lightning puts
    handlers of its own before theirs, which synchronise processes in the middle of anything."""

    def __init__(self) -> None:
        listened = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
        self.before = {number: signal.getsignal(number) for number in listened}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for number, handler in self.before.items():
            # Alone, Lightning's answer to SIGTERM (an orderly end) is better than none.
            if callable(handler) or (handler is not None and trainer.world_size > 1):
                signal.signal(number, handler)


class Processes(ClusterEnvironment):
    """Tells Lightning who this process is among those of a run, so that it starts none, and asks no
    scheduler for a requeue."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self.ranks = ranks

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return self.ranks.address

    @property
    def main_port(self) -> int:
        return self.ranks.port

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self.ranks.world

    def set_world_size(self, size: int) -> None:
        """It is known already."""

    def global_rank(self) -> int:
        return self.ranks.rank

    def set_global_rank(self, rank: int) -> None:
        """It is known already."""

    def local_rank(self) -> int:
        return self.ranks.local_rank

    def node_rank(self) -> int:
        return self.ranks.node


def device_name(trainer: Any) -> str:
    """What the run trained on, e.g. ``1 x NVIDIA H200`` or ``2 x cpu``."""
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{trainer.world_size} x {name}"


def quiet_lightning() -> None:
    """Silence what Lightning says on every run and nobody acts on."""
    for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for pattern in (
        ".*LeafSpec.*",
        ".*`srun` command is available.*",
        ".*does not have many workers.*",
        ".*tensorboardX.*",
        ".*Checkpoint directory .* exists.*",
        ".*you have defined a `val_dataloader`.*",
        ".*set a `batch_size`.*",
        ".*`isinstance.treespec, LeafSpec.` is deprecated.*",
    ):
        warnings.filterwarnings("ignore", message=pattern)
