"""Tasks of lm-eval as objectives: which are wanted, in which metric, and those of frontrunner.

frontrunner's own tasks (`LOCAL`) are made from the test text of the embedded domains. They are
files like any user's: YAML with absolute paths beside JSON lines, in a folder named by content.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from frontrunner import files
from frontrunner.errors import ConfigError, DataError, first_line, nearest
from frontrunner.evaluators.lm_eval_scores import isolated
from frontrunner.front.objective import Objective
from frontrunner.seeds import derive
from frontrunner.tasks.text import embedded

TEMPLATES = Path(__file__).with_name("local_tasks")
LOCAL = tuple(sorted(path.stem for path in TEMPLATES.glob("*.yaml")))

QUESTIONS, SHOTS = 100, 20  # of arithmetic, from the test and the train text
_DOCUMENT = 1_000  # characters

# Reference points of metrics whose worst value is known: no right answer, and for bytes a model
# that thinks all 256 equally likely.
_REFERENCE = {
    **dict.fromkeys(("acc", "acc_norm", "acc_bytes", "exact_match", "f1", "em"), 0.0),
    "bits_per_byte": 8.0,
    "byte_perplexity": 256.0,
}


@dataclass(frozen=True)
class Target:
    """One objective: a metric of a task or group of lm-eval.

    Attributes:
        name: of the objective.
        task, metric, filter: lm-eval reports the score as ``results[task]["metric,filter"]``.
        higher_is_better: its direction.
        version: of the task.
        metrics: all that the task has.
    """

    name: str
    task: str
    metric: str
    filter: str
    higher_is_better: bool
    version: str
    metrics: tuple[str, ...]

    @property
    def objective(self) -> Objective:
        return Objective(self.name, "max" if self.higher_is_better else "min", self.metric)

    @property
    def reference(self) -> float | None:
        """The worst value, if it is known."""
        return _REFERENCE.get(self.metric)


@dataclass(frozen=True)
class Loaded:
    """What is scored.

    Attributes:
        items: lm-eval's ``Task`` or ``Group`` objects by name.
        identities: a hash of each: configuration, version and documents.
        targets: the objectives, in the order they were asked for.
        folder: of frontrunner's own tasks, if one is among them.
    """

    items: Mapping[str, Any]
    identities: Mapping[str, str]
    targets: tuple[Target, ...]
    folder: Path | None


@isolated()
def load(words: Sequence[str], include_path: Sequence[str] = (), shots: bool = False) -> Loaded:
    """Load tasks, each named ``task``, ``task:metric`` or ``task:metric,filter``.

    Without a metric, or a filter, it is the first that the task lists. lm-eval's own tasks are
    indexed (several seconds) only if a name is neither frontrunner's nor under ``include_path``.

    Args:
        words: what is wanted.
        include_path: folders of YAML tasks; they go before frontrunner's and lm-eval's own.
        shots: whether examples go before questions, which are then part of a task's identity.

    Raises:
        ConfigError: lm-eval is not installed, or a folder, task, metric or filter does not exist.
        DataError: a task that cannot be loaded, because its data are out of reach for instance.
    """
    wanted = [_parsed(word) for word in words]
    names = list(dict.fromkeys(task for task, _, _ in wanted))
    folder = local_tasks() if any(name in LOCAL for name in names) else None
    for path in include_path:
        if not Path(path).expanduser().is_dir():
            raise ConfigError(f"evaluator.include_path={path} is not a folder")
    paths = [*([folder] if folder else []), *(Path(p).expanduser().resolve() for p in include_path)]
    manager = _manager(names, paths)
    items: dict[str, Any] = {}
    for name in names:
        if name not in manager.all_tasks:
            raise ConfigError(f"lm-eval has no task '{name}'{nearest(name, manager.all_tasks)}")
        items[name] = _load(manager, name)
    try:
        manager.load(list(items.values()))
    except ValueError as error:  # a task by itself and in a group
        raise ConfigError(f"evaluator.tasks: {first_line(error)}") from None
    targets = []
    for word, (name, metric, chosen) in zip(words, wanted, strict=True):
        several = sum(task == name for task, _, _ in wanted) > 1
        targets.append(_target(word, name, items[name], metric, chosen, several))
    identities = {name: _identity(item, shots) for name, item in items.items()}
    return Loaded(items, identities, tuple(targets), folder)


def _parsed(word: str) -> tuple[str, str | None, str | None]:
    task, _, rest = str(word).partition(":")
    metric, _, chosen = rest.partition(",")
    return task.strip(), metric.strip() or None, chosen.strip() or None


def _manager(names: Sequence[str], paths: Sequence[Path]) -> Any:
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise ConfigError(
            f"evaluator=lm_eval needs lm-eval ({first_line(error)}): pip install frontrunner[eval]"
        ) from None
    manager = TaskManager(include_path=list(paths), include_defaults=False)
    if not set(names) <= set(manager.all_tasks):
        manager = TaskManager(include_path=list(paths), include_defaults=True)
    return manager


def _load(manager: Any, name: str) -> Any:
    """The ``Task`` or ``Group`` of that name, with its documents."""
    try:
        found = manager.load([name])
    except ConnectionError as error:
        raise DataError(
            f"lm-eval's task '{name}' needs data of the hub, which is out of reach: "
            f"{first_line(error)}"
        ) from None
    except Exception as error:  # datasets, and the code of tasks, raise anything
        raise DataError(f"lm-eval cannot load its task '{name}': {first_line(error)}") from None
    item = found.get("groups", {}).get(name) or found["tasks"].get(name)
    members = list(found["tasks"])
    if item is None or (hasattr(item, "get_all_tasks") and not item.has_aggregation):
        some = ", ".join(members[:4]) + (", …" if len(members) > 4 else "")
        raise ConfigError(
            f"'{name}' of lm-eval is {len(members)} tasks without a score of their own as a whole: "
            f"name those you want ({some})"
        )
    for task in found["tasks"].values():
        if getattr(task, "UNSAFE_CODE", False):
            raise ConfigError(f"lm-eval's task '{task.task_name}' runs code that models write")
        if getattr(task, "MULTIMODAL", False):
            raise ConfigError(f"lm-eval's task '{task.task_name}' needs images or sound")
    return item


# ---------------------------------------------------------------------- metrics


def _target(
    word: str, name: str, item: Any, metric: str | None, chosen: str | None, several: bool
) -> Target:
    choices = _choices(item)
    metrics = tuple(dict.fromkeys(m for m, _, _ in choices))
    if not metrics:
        raise ConfigError(f"lm-eval's task '{name}' names no metric")
    metric = metric or metrics[0]
    if metric not in metrics:
        raise ConfigError(
            f"evaluator.tasks: '{word}': the task has no metric '{metric}'"
            f"{nearest(metric, metrics)}"
        )
    filters = [f for m, f, _ in choices if m == metric]
    chosen = chosen or filters[0]
    if chosen not in filters:
        raise ConfigError(
            f"evaluator.tasks: '{word}': the task has no filter '{chosen}'"
            f"{nearest(chosen, filters)}"
        )
    higher = next(h for m, _, h in choices if m == metric)
    if not isinstance(higher, bool):
        raise ConfigError(f"lm-eval's task '{name}' does not say which {metric} is better")
    label = f"{name}:{metric}" + (f",{chosen}" if len(filters) > 1 else "") if several else name
    version = str(getattr(item, "VERSION", None) or getattr(item, "version", ""))
    return Target(label, name, metric, chosen, higher, version, metrics)


def _choices(item: Any) -> list[tuple[str, str, Any]]:
    """(metric, filter, whether higher is better), in the order the task lists them."""
    if not hasattr(item, "get_all_tasks"):
        listed = item.dump_config().get("filter_list")
        filters = [f["name"] for f in listed] if isinstance(listed, list) else ["none"]
        return [(m, f, h) for m, h in item.higher_is_better().items() for f in filters]
    members = [choice for task in item.get_all_tasks() for choice in _choices(task)]
    found = []
    for entry in item.aggregate_metric_list:
        mine = [(m, f, h) for m, f, h in members if m == entry.metric]
        filters = entry.filter_list or list(dict.fromkeys(f for _, f, _ in mine))
        directions = {h for _, _, h in mine}
        higher = directions.pop() if len(directions) == 1 else None
        found += [(entry.metric, f, higher) for f in filters]
    return found


# ---------------------------------------------------------------------- identity


def _identity(item: Any, shots: bool) -> str:
    """A hash of a task's or group's configuration and of its documents."""
    h = hashlib.sha256()
    if hasattr(item, "get_all_tasks"):
        _feed(h, [item.name, item.version, item.aggregate_metric_list])
    for task in item.get_all_tasks() if hasattr(item, "get_all_tasks") else [item]:
        _feed(h, [task.task_name, task.VERSION, task.dump_config()])
        for document in task.eval_docs:
            _feed(h, document)
        for document in (task.fewshot_docs() or []) if shots else []:
            _feed(h, document)
    return h.hexdigest()


def _feed(h: Any, value: Any) -> None:
    h.update(json.dumps(value, sort_keys=True, default=_said).encode())


def _said(value: Any) -> str:
    """What is no JSON: of functions their source, which other than ``repr`` names no address."""
    if callable(value):
        try:
            return inspect.getsource(value)
        except (OSError, TypeError):
            return f"{value.__module__}.{getattr(value, '__qualname__', type(value).__name__)}"
    return repr(value)


# ---------------------------------------------------------------------- frontrunner's own


def local_tasks() -> Path:
    """The folder of frontrunner's own tasks, written where it is not kept yet.

    Raises:
        DataError: this Python comes without the embedded texts.
    """
    data = {name: "".join(json.dumps(d) + "\n" for d in rows) for name, rows in _documents()}
    templates = {path.name: path.read_text(encoding="utf-8") for path in TEMPLATES.glob("*.yaml")}
    content = json.dumps([data, templates], sort_keys=True)
    name = hashlib.sha256(content.encode()).hexdigest()[:16]
    folder = (files.cache_dir() / "lm_eval" / "tasks" / name).resolve()
    for file, text in data.items():
        if not (folder / file).is_file():
            files.write_text(folder / file, text)
    for file, text in templates.items():
        if not (folder / file).is_file():
            for own in data:  # lm-eval resolves relative paths against the working directory
                text = text.replace(f": {own}\n", f": {json.dumps(str(folder / own))}\n")
            files.write_text(folder / file, text)
    return folder


def _documents() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Name and content of each file of JSON lines."""
    for domain in ("prose", "code", "arithmetic"):
        yield f"{domain}.jsonl", [{"text": text} for text in pieces(embedded(domain)["test"])]
    arithmetic = embedded("arithmetic")
    yield "questions.jsonl", _questions(arithmetic["test"], QUESTIONS)
    yield "shots.jsonl", _questions(arithmetic["train"], SHOTS)


def pieces(text: str, size: int = _DOCUMENT) -> list[str]:
    """Whole lines of a text, together at least ``size`` characters long, but for the last."""
    found, current = [], ""
    for line in text.splitlines(keepends=True):
        current += line
        if len(current) >= size:
            found.append(current)
            current = ""
    return [*found, current] if current.strip() else found


def _questions(text: str, count: int) -> list[dict[str, Any]]:
    """The first lines of arithmetic as questions, each with its result among three of others."""
    lines, found = text.splitlines(), []
    results = sorted({line.rpartition(" = ")[2] for line in lines})
    for line in lines[:count]:
        left, _, answer = line.rpartition(" = ")
        stream = np.random.default_rng(derive(0, "choices", line))
        wrong = stream.permutation([r for r in results if r != answer])[:3]
        choices = [str(r) for r in stream.permutation([answer, *wrong])]
        found.append(
            {
                "question": f"{left} =",
                "answer": answer,
                "choices": choices,
                "label": choices.index(answer),
            }
        )
    return found
