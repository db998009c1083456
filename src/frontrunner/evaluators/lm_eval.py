"""Scores of the lm-eval harness, taken from the model in memory."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from frontrunner.errors import ConfigError, FrontError, first_line
from frontrunner.evaluators import lm_eval_tasks
from frontrunner.evaluators.base import Array, Evaluator
from frontrunner.evaluators.lm_eval_scores import (
    Scores,
    digest,
    isolated,
    network_digest,
    tokenizer_digest,
)
from frontrunner.front.front import Front
from frontrunner.front.objective import Objective
from frontrunner.front.points import PointLog
from frontrunner.pareto_sets.base import ParetoSet
from frontrunner.runner.ranks import ALONE, Ranks
from frontrunner.tasks import causal_lm
from frontrunner.tasks.base import Task
from frontrunner.tasks.language import LanguageTask

FOLDER = "lm_eval"  # in a run's directory: frontrunner's own tasks, and samples


class LmEval(Evaluator):
    """One objective for each task of lm-eval, for language models of transformers.

    Scores are kept in the cache directory by what they depend on: the model's weights above all,
    the task and its documents, the tokenizer, versions and settings. lm-eval's own cache, which
    goes by questions alone, is not used.

    Args:
        tasks: each ``task``, ``task:metric`` or ``task:metric,filter``; two or more. Without a
            metric, or a filter, it is the first that the task lists.
        include_path: one or several folders with YAML tasks of your own.
        points, reference_point: see `Evaluator`. The reference point is 0 for accuracies and exact
            matches, 8 bits per byte and a byte perplexity of 256 by default; with any other metric
            there is none.
        limit: score the first documents of each task only: a number, or a share below 1. To try
            things out; `compare` does not mix it with anything else.
        num_fewshot: examples before each question; None takes the task's.
        batch_size: requests per forward pass, or ``auto``.
        max_length: tokens a model reads at most; None takes what its configuration says.
        bootstrap_iters: resamples for the standard errors of metrics that are no means; 0 leaves
            every standard error out.
        log_samples: keep each document with the model's answer in the run's directory; scores are
            then not taken from the cache.

    Raises:
        ConfigError: settings out of their range.
    """

    what, split, own_axes = "lm_eval", None, True

    def __init__(
        self,
        tasks: Sequence[str],
        include_path: str | Sequence[str] | None = None,
        points: int | None = None,
        reference_point: Sequence[float] | None = None,
        limit: float | None = None,
        num_fewshot: int | None = None,
        batch_size: int | str = 8,
        max_length: int | None = None,
        bootstrap_iters: int = 1000,
        log_samples: bool = False,
    ) -> None:
        super().__init__(points, reference_point)
        self.tasks = [tasks] if isinstance(tasks, str) else [str(task) for task in tasks]
        paths = [include_path] if isinstance(include_path, str) else include_path or []
        self.include_path = [str(path) for path in paths]
        if len(set(self.tasks)) < max(2, len(self.tasks)):
            raise ConfigError(
                f"evaluator.tasks needs two tasks or metrics or more, each once, not {self.tasks}"
            )
        if limit is not None and not (limit > 0 and (limit < 1 or limit == int(limit))):
            raise ConfigError(f"evaluator.limit={limit} is no number of documents, and no share")
        whole = isinstance(batch_size, int) and batch_size >= 1
        if not whole and not str(batch_size).startswith("auto"):
            raise ConfigError(f"evaluator.batch_size={batch_size} must be at least 1, or auto")
        for key, value, least in (
            ("num_fewshot", num_fewshot, 0),
            ("max_length", max_length, 2),
            ("bootstrap_iters", bootstrap_iters, 0),
        ):
            if value is not None and value < least:
                raise ConfigError(f"evaluator.{key}={value} must be at least {least}")
        self.limit, self.num_fewshot, self.batch_size = limit, num_fewshot, batch_size
        self.max_length, self.bootstrap_iters = max_length, bootstrap_iters
        self.log_samples = log_samples
        self._directory: Path | None = None
        self._tokenizer: tuple[Task, Any, str] | None = None

    # ------------------------------------------------------------------ what is scored

    @cached_property
    def loaded(self) -> lm_eval_tasks.Loaded:
        """The tasks with their documents."""
        return lm_eval_tasks.load(self.tasks, self.include_path, shots=bool(self.num_fewshot))

    def check(self, task: Task) -> None:
        """Load the tasks.

        Raises:
            ConfigError: no language model, lm-eval is missing, or a task, metric or filter is.
            DataError: a task whose data cannot be had.
        """
        if not isinstance(task, LanguageTask) or not task.measures():
            raise ConfigError(
                f"task '{task.name}' builds no language model with a tokenizer, which "
                "evaluator=lm_eval needs"
            )
        super().check(task)

    def axes(self, task: Task) -> tuple[tuple[Objective, ...], Sequence[float] | None]:
        targets = self.loaded.targets
        reference = [r for target in targets if (r := target.reference) is not None]
        objectives = tuple(target.objective for target in targets)
        return objectives, reference if len(reference) == len(targets) else None

    def settings(self) -> dict[str, Any]:
        """All that a score depends on beside model, tokenizer and task."""
        return {
            "limit": self.limit,
            "num_fewshot": self.num_fewshot,
            "max_length": self.max_length,
            "batch_size": self.batch_size,
            "bootstrap_iters": self.bootstrap_iters,
            "packages": {p: version(p) for p in ("lm_eval", "torch", "transformers", "tokenizers")},
        }

    def info(self, task: Task) -> dict[str, Any]:
        tasks = {
            target.name: {
                "task": target.task,
                "metric": target.metric,
                "filter": target.filter,
                "version": target.version,
                "metrics": list(target.metrics),
            }
            for target in self.loaded.targets
        }
        limit = {} if self.limit is None else {"limit": self.limit}
        return {"lm_eval": {**self.settings(), "tasks": tasks}, **limit}

    def key(self, pareto_set: ParetoSet) -> str:
        targets = [[t.name, t.task, t.metric, t.filter] for t in self.loaded.targets]
        facts = {**self.settings(), "tasks": dict(self.loaded.identities), "targets": targets}
        return f"{pareto_set.digest()}-{self.what}-{digest(facts)[:16]}-{self.points}"

    # ------------------------------------------------------------------ scoring

    def evaluate(
        self,
        pareto_set: ParetoSet,
        task: Task,
        log: PointLog | None = None,
        device: torch.device | str = "cpu",
        ranks: Ranks = ALONE,
    ) -> Front:
        self._directory = log.path.parent / FOLDER if log else None
        if self._directory and self.loaded.folder and ranks.rank == 0:
            self._directory.mkdir(parents=True, exist_ok=True)
            for path in self.loaded.folder.glob("*.yaml"):
                shutil.copyfile(path, self._directory / path.name)
        return super().evaluate(pareto_set, task, log, device, ranks)

    def score_dense(self, task: Task, device: torch.device | str) -> Array:
        return self._scores(task.network().to(device), task, "dense")[0]

    def score(
        self, pareto_set: ParetoSet, task: Task, preference: Array, device: torch.device | str
    ) -> Array:
        return self.scored(pareto_set, task, preference, device)[0]

    def scored(
        self, pareto_set: ParetoSet, task: Task, preference: Array, device: torch.device | str
    ) -> tuple[Array, dict[str, float]]:
        """The scores, and their standard errors as ``stderr <objective>`` where there are any.

        Raises:
            FrontError: lm-eval failed, or did not report a metric.
        """
        pareto_set.to(device)
        where = "_".join(f"{p:.4g}" for p in preference)
        return self._scores(pareto_set.materialize(preference), task, where)

    def _scores(self, network: nn.Module, task: Task, where: str) -> tuple[Array, dict[str, float]]:
        results = self.results(causal_lm.original(network), task, where)
        values, errors = [], {}
        for target in self.loaded.targets:
            scores, key = results[target.task], f"{target.metric},{target.filter}"
            if key not in scores:
                said = ", ".join(k for k in scores if "_stderr," not in k)
                raise FrontError(f"lm-eval reports no {key} of '{target.task}', but {said}")
            values.append(scores[key])
            error = scores.get(f"{target.metric}_stderr,{target.filter}")
            if error is not None and math.isfinite(error):
                errors[f"stderr {target.name}"] = error
        return np.array(values), errors

    def results(self, network: nn.Module, task: Task, where: str = "") -> dict[str, dict[str, Any]]:
        """What lm-eval reports of a model of transformers: ``{task: {"metric,filter": number}}``.

        Args:
            network: on the device it is to be scored on.
            task: supplies the tokenizer.
            where: name of the files that samples go to.
        """
        tokenizer, tokens = self._tokens(task)
        shared = {
            **self.settings(),
            "network": network_digest(network),
            "tokenizer": tokens,
            "device": next(network.parameters()).device.type,
        }
        facts = {name: {**shared, "task": h} for name, h in self.loaded.identities.items()}
        cache, found = Scores(), dict[str, dict[str, Any]]()
        for name in facts:
            kept = None if self.log_samples else cache.get(facts[name])
            if kept is not None:
                found[name] = kept
        missing = [name for name in facts if name not in found]
        if missing:
            report = self._run(network, tokenizer, missing)
            for name in missing:
                found[name] = _numbers(report["results"][name])
                cache.put(facts[name], found[name])
            self._keep_samples(report.get("samples", {}), where)
        return found

    def _run(self, network: nn.Module, tokenizer: Any, names: Sequence[str]) -> dict[str, Any]:
        import lm_eval
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        try:
            with isolated():
                model = HFLM(
                    pretrained=network,
                    tokenizer=tokenizer,
                    batch_size=self.batch_size,  # what simple_evaluate is given would be ignored
                    max_length=self.max_length,
                )
                report: dict[str, Any] | None = lm_eval.simple_evaluate(
                    model=model,
                    tasks=[self.loaded.items[name] for name in names],
                    task_manager=TaskManager(include_defaults=False),
                    num_fewshot=self.num_fewshot,
                    limit=self.limit,
                    bootstrap_iters=self.bootstrap_iters,
                    log_samples=self.log_samples,
                )
        except Exception as error:  # lm-eval, and the code of tasks, raise anything
            raise FrontError(
                f"lm-eval failed on {', '.join(names)}: {type(error).__name__}: {first_line(error)}"
            ) from error
        if report is None:
            raise FrontError("lm-eval reports from the first process of a job only")
        return report

    def _tokens(self, task: Task) -> tuple[Any, str]:
        """The tokenizer and its hash, which is taken before lm-eval sets padding in it."""
        if self._tokenizer is None or self._tokenizer[0] is not task:
            assert isinstance(task, LanguageTask)
            tokenizer = task.tokenizer()
            self._tokenizer = (task, tokenizer, tokenizer_digest(tokenizer))
        return self._tokenizer[1:]

    def _keep_samples(self, samples: dict[str, list[Any]], where: str) -> None:
        if self._directory is None:
            return
        for name, documents in samples.items():
            folder = self._directory / "samples" / name.replace(os.sep, "_")
            folder.mkdir(parents=True, exist_ok=True)
            lines = "".join(json.dumps(d, default=str) + "\n" for d in documents)
            (folder / f"{where}.jsonl").write_text(lines, encoding="utf-8")


def _numbers(report: dict[str, Any]) -> dict[str, float]:
    """The scores and standard errors in what lm-eval reports of a task; "N/A" is left out."""
    return {
        key: float(value)
        for key, value in report.items()
        if "," in key and isinstance(value, int | float | np.number)
    }
