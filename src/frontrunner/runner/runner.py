"""One configuration of devices, precision and checkpoints for everything that trains."""

from __future__ import annotations

import contextlib
import copy
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frontrunner.errors import ConfigError, RunError, first_line, nearest
from frontrunner.runner.learner import Learner
from frontrunner.runner.place import Place
from frontrunner.runner.progress import Progress
from frontrunner.runner.ranks import ALONE, Failed, Ranks, together

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from frontrunner.runner.coreset import CoresetCallback


class Runner:
    """Runs a learner's training on Lightning's Trainer.

    Args:
        directory: the run's directory; checkpoints go to ``checkpoints/`` in it.
        seed: of the order of the data.
        accelerator, devices, num_nodes, strategy, precision, profiler, deterministic: as in
            `lightning.Trainer`.
        shard: what processes divide when they train: ``data`` (each mini-batch) or ``members`` (the
            networks of a population).
        num_workers: data loader processes.
        threads: CPU threads of torch, or None to leave them.
        progress: ``auto`` (a bar on a terminal, lines elsewhere), ``bar``, ``plain`` or ``none``.
        label: what the progress display calls this run.
        log: receives the learning curves, ``(metrics, step)``.
    """

    def __init__(
        self,
        *,
        directory: str | os.PathLike[str] = ".",
        seed: int = 0,
        accelerator: str = "auto",
        devices: Any = 1,
        num_nodes: int = 1,
        strategy: str = "auto",
        shard: str = "data",
        precision: str = "32-true",
        profiler: str | None = None,
        deterministic: bool = False,
        num_workers: int = 0,
        threads: int | None = None,
        progress: str = "auto",
        label: str = "run",
        log: Callable[[Mapping[str, float], int], None] | None = None,
    ) -> None:
        if progress not in ("auto", "bar", "plain", "none"):
            raise ConfigError(f"runner.progress={progress} is not one of auto, bar, plain, none")
        if threads is not None and threads < 1:
            raise ConfigError(f"runner.threads={threads} must be at least 1, or null")
        if shard not in ("data", "members"):
            raise ConfigError(f"runner.shard={shard} is not one of data, members")
        self.directory = Path(directory)
        self.seed, self.shard = seed, shard
        self.ranks: Ranks = ALONE
        self.num_workers, self.threads = num_workers, threads
        self.progress, self.label = progress, label
        self.log = log
        if isinstance(devices, Sequence) and not isinstance(devices, str):
            devices = list(devices)  # Lightning does not take a configuration's
        self.trainer_options: dict[str, Any] = {
            "accelerator": accelerator,
            "devices": devices,
            "num_nodes": num_nodes,
            "strategy": strategy,
            "precision": precision,
            "deterministic": deterministic,
        }
        self.profiler = profiler
        self.cost: dict[str, float] = {}
        self.device: str | None = None
        self.score = "hypervolume"
        self.best_score: float | None = None

    @property
    def checkpoint(self) -> Path:
        """The checkpoint that a next attempt continues from."""
        return self.directory / "checkpoints" / "last.ckpt"

    @property
    def _told(self) -> Path | None:
        """Where this process keeps how far it is: one of them is enough."""
        return self.directory if self.ranks.rank == 0 else None

    @contextlib.contextmanager
    def together(
        self, name: str, distributed: bool, failed: Failed | None = None
    ) -> Iterator[Ranks]:
        """Carry out a run in as many processes as the settings say, or as torchrun or srun started;
        ``ranks`` is what this one is among them. See `frontrunner.runner.ranks.together`.

        Where ``strategy`` is auto, a method that is not ``distributed`` has one process for all
        devices.
        """
        processes = 1
        if Place.here() is None and (distributed or self.trainer_options["strategy"] != "auto"):
            processes = len(self.one_shot_devices)
            if self.trainer_options["num_nodes"] != 1:
                raise ConfigError("runner.num_nodes is for processes that srun or torchrun starts")
        with together(processes, name, failed) as self.ranks:
            try:
                yield self.ranks
            finally:
                self.ranks = ALONE

    @property
    def _kind(self) -> str:
        import torch

        wanted = str(self.trainer_options["accelerator"])
        return "cuda" if wanted in ("auto", "gpu", "cuda") and torch.cuda.is_available() else "cpu"

    @property
    def evaluation_device(self) -> str:
        """Where this process scores a Pareto set: the GPU of its own if training may use GPUs, the
        first one where it is alone."""
        import torch

        if self._kind == "cpu" or self.ranks.world == 1:
            return self._kind
        chosen = self.one_shot_devices
        if len(chosen) == 1:  # the others' devices are not among the settings
            chosen = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        return chosen[self.ranks.local_rank % len(chosen)]

    @property
    def one_shot_devices(self) -> list[str]:
        """What a fit without gradient steps may use, in one process: as many of what scores a set
        as ``devices`` says; ``auto`` is one CPU or every GPU.

        Raises:
            ConfigError: devices that this machine does not have, or none.
        """
        import torch

        kind, wanted = self._kind, self.trainer_options["devices"]
        gpus = torch.cuda.device_count() if kind == "cuda" else 0
        try:
            if wanted in ("auto", "-1", -1):
                chosen = list(range(gpus or 1))
            elif isinstance(wanted, list):
                chosen = [int(i) for i in wanted]
            elif "," in str(wanted):  # as Lightning has it: "0,2"
                chosen = [int(i) for i in str(wanted).split(",") if i.strip()]
            else:
                chosen = list(range(int(wanted)))
        except (TypeError, ValueError):
            chosen = []
        if not chosen:
            raise ConfigError(f"runner.devices={wanted} is no number of devices, and no list")
        if kind != "cuda":
            return ["cpu"] * len(chosen)
        if not set(chosen) <= set(range(gpus)):
            raise ConfigError(f"runner.devices={wanted}: this machine has {gpus} GPUs")
        return [f"cuda:{i}" for i in chosen]

    def fit(
        self,
        learner: Learner,
        dataset: Dataset[Any],
        *,
        steps: int,
        batch_size: int,
        rounds: int,
        clip: float | None = None,
        validate: Callable[[], float] | None = None,
        score: str = "hypervolume",
        keep: str = "best",
        coreset: CoresetCallback | None = None,
    ) -> None:
        """Train ``learner`` in place for ``steps`` mini-batches and leave its best state in it; in
        all processes of `together`, which divide the work as ``shard`` says.

        ``clip`` bounds the gradient's norm. The steps are divided into ``rounds``; after each one
        ``validate`` scores the learner (higher is better; ``score`` is what curves call it), the
        best state is kept (or with ``keep="last"`` the last one) and a checkpoint is written. An
        existing checkpoint is continued, and the result equals that of an uninterrupted run.

        With a ``coreset``, mini-batches are drawn from it; ``steps`` and rounds are rounded up to
        whole epochs of it. Batches end with the samples' weights where these act on the loss.

        Raises:
            DivergenceError: a non-finite loss or weight; the last checkpoint before it is kept.
            RunError: a checkpoint that cannot be read, or is of another configuration.
            ConfigError: a setting Lightning refuses, a number of processes that is not that of the
                devices, or a learner that has no members to divide.
        """
        import torch
        from lightning.pytorch import Trainer

        from frontrunner.runner import training
        from frontrunner.runner.batches import StepSampler, step_loader

        training.quiet_lightning()
        if steps < 1 or rounds < 1 or batch_size < 1:
            raise ConfigError("steps, rounds and batch_size are at least 1")
        ranks, members = self.ranks, self.shard == "members"
        if members:
            learner.divide(ranks.rank, ranks.world, ranks.sum)
        threads = torch.get_num_threads()
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        size: int = len(dataset)  # type: ignore[arg-type]
        pace = 1 if coreset is None else coreset.pace(size, batch_size)
        epochs = -(-steps // pace)
        steps = epochs * pace
        every = -(-epochs // min(rounds, epochs)) * pace
        pace = every if coreset is None else pace
        display = Progress(self.progress, self.label, steps, self._told)

        def report(metrics: Mapping[str, float], step: int) -> None:
            display.update(step, metrics.get(f"validation/{score}"), score)
            if self.log is not None:
                self.log(metrics, step)

        profiler = self._profiler()
        module = training.TrainingModule(
            learner,
            total=steps,
            every=every,
            validate=validate,
            report=report,
            clip=clip,
            score=score,
            pace=pace,
            keep=keep,
        )
        callbacks: list[Any] = [
            training.RoundCheckpoint(self.checkpoint),
            training.KeepSignals(),
        ]
        loader: Any
        sampler = None
        if coreset is None:
            sampler = StepSampler(size, batch_size, self.seed, steps, every, whole=members)
            loader = step_loader(dataset, sampler, self.num_workers)
        else:
            loader = coreset.loader(dataset, batch_size, self.num_workers)
            callbacks.insert(0, coreset)
        options = dict(self.trainer_options)
        if ranks.world == 1 and str(options["strategy"]).startswith("ddp"):
            options["strategy"] = "auto"  # nobody to synchronise with
        try:
            trainer = Trainer(
                max_epochs=-(-steps // pace),
                logger=False,
                enable_checkpointing=True,
                callbacks=callbacks,
                plugins=[training.AtomicCheckpointIO(), training.Processes(ranks)],
                enable_progress_bar=False,
                enable_model_summary=False,
                use_distributed_sampler=False,
                num_sanity_val_steps=0,
                default_root_dir=self.directory,
                profiler=profiler,
                **options,
            )
        except Exception as error:
            # Lightning raises half a dozen types for unusable devices, strategies and precisions.
            raise ConfigError(f"runner: {first_line(error)}") from error
        if trainer.world_size != ranks.world:
            raise ConfigError(
                f"{ranks.world} processes, but runner.devices={options['devices']} and "
                f"runner.num_nodes={options['num_nodes']} make {trainer.world_size}: set "
                "runner=ddp and a device for each process of a node"
            )
        resume, taken = self._usable_checkpoint()
        if len(set(ranks.gather(taken))) > 1:
            raise RunError(f"not every process sees {self.checkpoint}: share the output folder")
        ranks.group(self._kind == "cuda")
        # Lightning opens the data before it tells the sampler which round it continues with.
        if sampler is not None:
            sampler.set_epoch(taken // every)
        handler = signal.getsignal(signal.SIGINT)
        try:
            with display:
                trainer.fit(module, loader, ckpt_path=resume, weights_only=True)
        except SystemExit:
            # Lightning turns Ctrl-C into an exit and leaves the signal ignored.
            signal.signal(signal.SIGINT, handler)
            raise KeyboardInterrupt from None
        finally:
            torch.set_num_threads(threads)
        module.restore_best()
        self.score, self.best_score = score, module.best_score
        self.cost = {"seconds": module.seconds, "forward_passes": module.passes, "steps": steps}
        self.device = training.device_name(trainer)

    @contextlib.contextmanager
    def one_shot(self, parts: int = 0, devices: int = 1) -> Iterator[Callable[[], None]]:
        """Count the cost of a fit that takes no gradient steps. It may add ``forward_passes``.

        What is yielded is to be called after each of ``parts`` of the work, which are shown. The
        record names as many ``devices``.
        """
        import torch

        threads = torch.get_num_threads()
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        start, done = time.perf_counter(), 0
        self.cost = {"seconds": 0.0, "forward_passes": 0, "steps": 0}
        self.device = f"{devices} x {self._kind}"
        display = Progress(
            self.progress if parts else "none",
            self.label,
            max(parts, 1),
            self._told if parts else None,
        )

        def advance() -> None:
            nonlocal done
            done += 1
            display.update(done, None)

        try:
            with display:
                yield advance
        finally:
            torch.set_num_threads(threads)
            self.cost["seconds"] = time.perf_counter() - start

    def nested(self, name: str) -> Runner:
        """A runner of the same settings for a fit inside this one, with its own checkpoint and
        learning curves of its own, ``<name>/…``."""
        inner, log = copy.copy(self), self.log
        inner.label = f"{self.label} {name}"
        if log is not None:
            inner.log = lambda metrics, step: log(
                {f"{name}/{key}": value for key, value in metrics.items()}, step
            )
        inner.directory = self.directory / name
        inner.cost, inner.device, inner.best_score = {}, None, None
        return inner

    def _usable_checkpoint(self) -> tuple[str | None, int]:
        """The checkpoint to continue from, and the steps taken up to it.

        Raises:
            RunError: it exists but cannot be read.
        """
        if not self.checkpoint.is_file():
            return None, 0
        import torch

        try:
            content = torch.load(self.checkpoint, map_location="meta", weights_only=True, mmap=True)
        except Exception as error:
            # torch.load raises pickle, zip, runtime and OS errors for a damaged file.
            raise RunError(
                f"{self.checkpoint} is damaged ({first_line(error)}); remove it to start again"
            ) from error
        if not isinstance(content, dict) or "frontrunner" not in content:
            raise RunError(
                f"{self.checkpoint} is not a checkpoint of a run; remove it to start again"
            )
        return str(self.checkpoint), int(content["frontrunner"]["step"])

    def _profiler(self) -> Any:
        """A Lightning profiler that writes into the run's directory: its log lines are silenced."""
        if self.profiler is None:
            return None
        from lightning.pytorch import profilers

        kinds = {
            "simple": profilers.SimpleProfiler,
            "advanced": profilers.AdvancedProfiler,
            "pytorch": profilers.PyTorchProfiler,
        }
        if self.profiler not in kinds:
            hint = nearest(str(self.profiler), kinds)
            raise ConfigError(f"runner.profiler={self.profiler} is unknown{hint}")
        return kinds[self.profiler](dirpath=self.directory, filename="profile")
