"""One run, start to finish: compose, build, fit, evaluate, record."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from frontrunner import config as configuration
from frontrunner import files
from frontrunner.errors import ConfigError, RunError
from frontrunner.front.front import Front
from frontrunner.tracking import manifest
from frontrunner.tracking.tracker import is_rank_zero

if TYPE_CHECKING:
    from frontrunner.evaluators.base import Evaluator
    from frontrunner.methods.base import Method
    from frontrunner.pareto_sets.base import ParetoSet
    from frontrunner.pareto_sets.export import Export
    from frontrunner.runner.runner import Runner
    from frontrunner.tasks.base import Task


@dataclass(frozen=True)
class Run:
    """A finished run: its directory and what is in it."""

    directory: Path
    config: DictConfig
    front: Front
    record: dict[str, Any]

    @cached_property
    def task(self) -> Task:
        """The task, built from the configuration."""
        return build_task(self.config)

    @cached_property
    def pareto_set(self) -> ParetoSet:
        """The Pareto set, read from the directory on first use."""
        from frontrunner.pareto_sets.base import load as load_pareto_set

        return load_pareto_set(self.directory / "pareto_set", self.task)

    def export(
        self,
        preference: Sequence[float] | None,
        directory: str | os.PathLike[str],
        *,
        format: str = "full",
        shard_size: int | None = None,
    ) -> Export:
        """Write the model for a preference (None: the only one there is) as an ordinary checkpoint
        with a card, or with ``format="compact"`` and no preference all sparse models of a set, see
        `frontrunner.pareto_sets.export`."""
        from frontrunner.pareto_sets import export as exports

        p = exports.wanted(self.pareto_set, preference, format)
        words = [str(self.directory)]
        if p is not None:
            words += ["--preference", ",".join(f"{x:.12g}" for x in p)]
        words += ["--format", format, "--out", os.fspath(directory)]
        plain = configuration.plain(self.config)
        origin = exports.origin_of(self.task, p, plain, self.record, self.front, words)
        size = exports.SHARD_SIZE if shard_size is None else shard_size
        return exports.export(
            self.pareto_set, p, directory, format=format, shard_size=size, origin=origin
        )


def run(overrides: Sequence[str] | str = ()) -> Run:
    """Compose a configuration from Hydra overrides and run it; a finished run is not run again.

    >>> frontrunner.run(["method=learning/cosmos", "seed=3"]).front.hypervolume()  # doctest: +SKIP
    """
    words = overrides.split() if isinstance(overrides, str) else list(overrides)
    return execute(configuration.compose(words), words)


def load(directory: str | os.PathLike[str]) -> Run:
    """Read a finished run.

    Raises:
        RunError: not a run directory, or the run is not done.
    """
    folder = Path(directory)
    record = manifest.RunRecord.read(folder).data
    if record["status"] != "done":
        raise RunError(f"{folder}: the run is {record['status']}, not done")
    if not (folder / "front.json").is_file():
        raise RunError(f"{folder / 'front.json'} is missing; run again with fresh=true")
    config = configuration.load(folder / "config.yaml")
    return Run(folder, config, Front.load(folder / "front.json"), record)


def execute(config: DictConfig, overrides: Sequence[str] = (), group: str | None = None) -> Run:
    """Run a resolved configuration in its own directory, or continue what a killed one left.

    ``group`` names the sweep it belongs to, where the logger names none itself.

    Raises:
        FrontrunnerError: anything a user can mend; ``run.json`` then says ``failed`` and why.
    """
    directory, identity = locate(config)
    if not is_rank_zero():
        return _follow(config, directory)
    if not config.fresh and _is_done(directory):
        return load(directory)
    parts = build(config)  # what cannot run leaves nothing on disk
    with manifest.claim(directory):
        if config.fresh:
            _clear(directory)
        elif _is_done(directory):  # another process was quicker
            return load(directory)
        record = manifest.RunRecord.open(
            directory,
            **manifest.environment(),
            config_hash=identity,
            overrides=list(overrides),
            seed=config.seed,
        )
        try:
            files.write_text(directory / "config.yaml", OmegaConf.to_yaml(config, resolve=True))
            _carry_out(config, parts, directory, record, group)
        except BaseException as error:
            record.fail(error)
            raise
    return load(directory)


def _carry_out(
    config: DictConfig,
    parts: tuple[Task, Method, Evaluator],
    directory: Path,
    record: manifest.RunRecord,
    group: str | None,
) -> None:
    from frontrunner.front import plots

    started = time.perf_counter()
    manifest.reset_peak_memory()
    task, method, evaluator = parts
    tracker = configuration.build(config.logger, _partial_=True)(
        directory=directory,
        run_id=record.data["config_hash"],
        name=directory.name,
        group=config.logger.get("group") or group,
        job_type="train",
        configuration=configuration.plain(config),
    )
    with tracker:
        runner = configuration.build(
            config.runner,
            directory=directory,
            seed=config.seed,
            label=directory.name,
            log=tracker.log,
        )
        with runner.together(directory.name, method.distributed, record.fail):
            pareto_set, fit = _fit(directory, task, method, runner)
            cost = dict(fit["cost"])
            record.update(cost=cost, switches=method.switches(), device=cost["device"])
            fitted = time.perf_counter()
            front = _evaluate(directory, task, evaluator, pareto_set, runner)
        # Where models are made as they are scored, that is what takes the memory.
        cost["peak_memory_bytes"] = max(cost["peak_memory_bytes"], manifest.peak_memory_bytes())
        record.update(cost=cost)
        front = front.with_info(
            {
                "task": task.name,
                "method": str(config.method._target_).rpartition(".")[2],
                "label": config.label,
                "seed": config.seed,
                "split": evaluator.split,
                "evaluator": evaluator.what,
                **fit,
            }
        )
        figure = front.plot()
        plots.save_png(figure, directory / "front.png")
        plots.front_html(front, directory / "front.html")
        front.save(directory / "front.json")
        tracker.log_front(front, png=directory / "front.png", cost=cost)
        tracker.log_pareto_set(directory / "pareto_set")
    now = time.perf_counter()
    timings = {"fit": fitted - started, "evaluate": now - fitted, "total": now - started}
    record.done(timings=timings)


def _fit(
    directory: Path, task: Task, method: Method, runner: Runner
) -> tuple[ParetoSet, dict[str, Any]]:
    """The Pareto set, and facts of the fit: from disk if an earlier attempt finished it."""
    from frontrunner.pareto_sets import base as pareto_sets
    from frontrunner.seeds import seed_everything

    folder = directory / "pareto_set"
    there = pareto_sets.is_complete(folder)
    runner.ranks.tell("fit", not there)
    if there:
        runner.ranks.tell("digest", pareto_sets.stored_digest(folder))
        return pareto_sets.load(folder, task), files.read_json(folder / "fit.json")
    seed_everything(runner.seed)
    pareto_set = method.fit(task.sealed(), runner)
    cost = {
        **runner.cost,
        "device": runner.device,
        "peak_memory_bytes": manifest.peak_memory_bytes(),
        "stored_parameters": pareto_set.stored_parameters,
    }
    facts = {
        "cost": cost,
        f"validation_{runner.score}": runner.best_score,
        **pareto_set.facts(),
    }
    # The set comes last: a directory that has it, has these facts too.
    files.write_json(folder / "fit.json", facts)
    pareto_set.save(folder)
    runner.ranks.tell("digest", pareto_sets.stored_digest(folder))
    return pareto_set, facts


def _evaluate(
    directory: Path, task: Task, evaluator: Evaluator, pareto_set: ParetoSet, runner: Runner
) -> Front:
    """The front; each process scores its share of the points, and logs them."""
    from frontrunner.front.points import PointLog

    ranks, m = runner.ranks, len(evaluator.axes(task)[0])
    key, entries = evaluator.key(pareto_set), pareto_set.m
    points = PointLog(directory / "points.jsonl", key, m, entries, ranks.rank)
    return evaluator.evaluate(pareto_set, task, points, runner.evaluation_device, ranks)


def _follow(config: DictConfig, directory: Path) -> Run:
    """What the other processes of a run do: train along, score their share of the points, and end.

    A script's earlier runs, which are done when these processes start, are only read.
    """
    from frontrunner.pareto_sets import base as pareto_sets
    from frontrunner.seeds import seed_everything

    if not config.fresh and _is_done(directory):
        return load(directory)
    runner = configuration.build(
        config.runner, directory=directory, seed=config.seed, progress="none"
    )
    with runner.together(directory.name, distributed=True) as ranks:
        if ranks.world == 1:  # a rank in the environment, and nobody to follow
            raise SystemExit(0)
        task, method, evaluator = build(config)
        if ranks.told("fit") and method.distributed:
            seed_everything(config.seed)
            method.fit(task.sealed(), runner)
        folder, digest = directory / "pareto_set", ranks.told("digest")
        ranks.until(lambda: pareto_sets.stored_digest(folder) == digest, str(folder))
        _evaluate(directory, task, evaluator, pareto_sets.load(folder, task), runner)
    raise SystemExit(0)


# ---------------------------------------------------------------------- building


def locate(config: DictConfig) -> tuple[Path, str]:
    """Where a configuration runs, and its identity: a hash of all that can change its result."""
    identity = manifest.config_hash(configuration.plain(config), configuration.NOT_IDENTITY)
    name = f"{config.label}-s{config.seed}-{identity[:8]}"
    return Path(config.output) / str(config.task.name) / name, identity


def build_task(config: DictConfig) -> Task:
    """The configured task with its model."""
    model = configuration.build(config.model) if config.get("model") else None
    return configuration.build(config.task, model=model)


def build(config: DictConfig) -> tuple[Task, Method, Evaluator]:
    """Task, method and evaluator of a configuration, checked against each other, the runner and the
    logger with them.

    Raises:
        ConfigError, DataError: before anything is spent.
    """
    from frontrunner.methods.base import Method
    from frontrunner.tasks.base import Task

    if not isinstance(config.seed, int) or config.seed < 0:
        raise ConfigError(f"seed={config.seed} must be a whole number of at least 0")
    task = build_task(config)
    if not isinstance(task, Task):
        raise ConfigError(f"task: {config.task._target_} is not a Task")
    method = configuration.build(config.method)
    if not isinstance(method, Method):
        raise ConfigError(f"method: {config.method._target_} is not a Method")
    evaluator = configuration.build(config.evaluator)
    configuration.build(config.runner)
    task.check()
    method.check(task)
    evaluator.check(task)
    if evaluator.needs_costs and not method.counts_costs:
        raise ConfigError(
            "evaluator=cost_quality is for methods whose models differ in cost, such as "
            "method=coresets/random; choose another evaluator"
        )
    if evaluator.points is not None and not method.answers_any:
        raise ConfigError(
            f"evaluator.points={evaluator.points}: this method makes models for preferences of its "
            "own and answers no others; leave evaluator.points out"
        )
    tracker = configuration.build(config.logger, _partial_=True)
    tracker(directory=Path("."), run_id="check").check()
    return task, method, evaluator


def check(config: DictConfig) -> Path:
    """Validate a configuration without running it; returns the directory it would run in."""
    build(config)
    return locate(config)[0]


def _is_done(directory: Path) -> bool:
    if not (directory / manifest.FILE).exists():
        return False
    return bool(manifest.RunRecord.read(directory).data["status"] == "done")


def _clear(directory: Path) -> None:
    for path in directory.iterdir():
        if path.name == ".lock":
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()


class _CallableModule(ModuleType):
    """`frontrunner.run` names this module and, as users know it, the function in it."""

    def __call__(self, overrides: Sequence[str] | str = ()) -> Run:
        return run(overrides)


sys.modules[__name__].__class__ = _CallableModule
