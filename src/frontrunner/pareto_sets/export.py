"""A model of a Pareto set as an ordinary checkpoint, with a card that says how it was made."""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from frontrunner.errors import ConfigError, RunError
from frontrunner.front.front import Front
from frontrunner.pareto_sets import card
from frontrunner.pareto_sets.base import SCHEMA_VERSION, ParetoSet
from frontrunner.pareto_sets.low_rank import LowRankSet
from frontrunner.pareto_sets.merged import MergedSet
from frontrunner.tasks.base import Task
from frontrunner.tasks.merging import MergingTask
from frontrunner.weights.adapter import save_adapter
from frontrunner.weights.files import Safetensors
from frontrunner.weights.source import Weights
from frontrunner.weights.writer import (
    SHARD_SIZE,
    Layout,
    Mark,
    layout_of,
    whole_folder,
    write_checkpoint,
    write_file,
)

MARK = Mark("frontrunner_export.json")
FORMATS = ("full", "lora", "factors")
# What a checkpoint of the hub has beside weights: tokenizer, processor, chat template, licence.
BESIDE = (
    "generation_config.json",
    "*token*.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "*processor*.json",
    "chat_template*",
    "*.jinja",
    "LICENSE*",
    "NOTICE*",
)


@dataclass(frozen=True)
class Origin:
    """Where a Pareto set comes from.

    Attributes:
        facts: what the card and ``frontrunner_export.json`` say; JSON values. `card.text` names
            those it knows.
        base: what the models were merged from, if they were.
        template: its folder, if it is in hub format: merged checkpoints look like it.
    """

    facts: Mapping[str, Any] = field(default_factory=dict)
    base: Weights | None = None
    template: Path | None = None


@dataclass(frozen=True)
class Export:
    """What was written: ``parameters`` numbers in ``files`` of ``folder``; ``kind`` is
    ``checkpoint`` (hub format), ``network`` (the task's own), ``lora`` or ``factors``."""

    folder: Path
    kind: str
    files: tuple[str, ...]
    parameters: int


def origin_of(
    task: Task,
    preference: ArrayLike,
    config: Mapping[str, Any],
    record: Mapping[str, Any],
    front: Front,
    words: Sequence[str],
) -> Origin:
    """What a finished run says of its Pareto set.

    Args:
        task: the run's.
        preference: (m,), of the model that is exported.
        config: the run's, plain values.
        record: of ``run.json``.
        front: what the run measured; the card shows it if the preference is among its points.
        words: what follows ``frontrunner export`` on the command line.
    """
    facts: dict[str, Any] = {
        "version": record["packages"]["frontrunner"],
        "task": task.name,
        "method": str(config["method"]["_target_"]).rpartition(".")[2],
        "label": config["label"],
        "seed": config["seed"],
        "settings": {k: v for k, v in config["method"].items() if k != "_target_"},
        "switches": record["switches"],
        "config_hash": record["config_hash"],
        "objectives": [objective.name for objective in task.objectives],
        "commands": [
            shlex.join(["frontrunner", "run", *(record["overrides"] or [])]),
            shlex.join(["frontrunner", "export", *words]),
        ],
    }
    base = template = None
    if isinstance(task, MergingTask):
        parents = task.parents()
        base, template = parents.base, task.template
        facts["base"] = base.name
        facts["experts"] = [expert.name for expert in parents.experts]
    if front.preferences is not None:
        distance = np.abs(front.preferences - np.asarray(preference, dtype=float)).max(axis=1)
        if distance.min() < 1e-6:
            values = front.values[int(distance.argmin())].tolist()
            known = {key: front.info.get(key) for key in ("evaluator", "split")}
            facts["measured"] = {**known, "values": values}
    return Origin(facts, base, template)


def formats(pareto_set: ParetoSet) -> list[str]:
    """The formats that a set can be exported in."""
    return list(FORMATS) if isinstance(pareto_set, LowRankSet) else ["full"]


def export(
    pareto_set: ParetoSet,
    preference: ArrayLike,
    directory: str | os.PathLike[str],
    *,
    format: str = "full",
    shard_size: int = SHARD_SIZE,
    origin: Origin | None = None,
) -> Export:
    """Write the model for one preference into a folder, which appears when it is whole.

    ``full``: if the base is a checkpoint in hub format (`Origin.template`), the same kind of
    checkpoint: shards, configuration, tokenizer. They are written tensor by tensor. Otherwise
    ``model.safetensors`` of the task's network, and ``model.json``. Of a `LowRankSet` also
    ``lora``: an adapter in peft's format, and in ``base/`` the model it is added to; and
    ``factors``: ``base.safetensors`` and ``factors.safetensors``, from which every preference's
    model can be made. Each with ``README.md``, the model card, and ``frontrunner_export.json``, the
    same facts.

    Raises:
        FrontError: the preference is not on the simplex, or the set has no model for it.
        ConfigError: a format the set does not have.
        RunError: the folder holds other files, or could not be written; it is left as it was.
        DataError: a parent's file is damaged.
    """
    p = pareto_set.one(preference)
    origin = origin or Origin()
    if format not in formats(pareto_set):
        raise ConfigError(
            f"--format {format}: a {type(pareto_set).__name__} has {', '.join(formats(pareto_set))}"
        )
    with whole_folder(directory, MARK) as folder:
        if isinstance(pareto_set, LowRankSet) and format == "lora":
            save_adapter(folder, pareto_set.adapter(p), "base", task_type=_task_type(origin))
            parameters = _numbers(folder)
            _write_checkpoint(pareto_set.beside(p), origin, folder / "base", shard_size)
            kind = format
        elif isinstance(pareto_set, LowRankSet) and format == "factors":
            parts = {"base": dict(pareto_set.base()), "factors": pareto_set.change.named()}
            for name, tensors in parts.items():
                path = folder / f"{name}.safetensors"
                write_file(path, iter(tensors.items()), layout_of(tensors))
            kind, parameters = format, _numbers(folder)
        elif origin.template and (names := _names_as_base(pareto_set, p, origin.base)):
            layout = _write_as_base(pareto_set.state(p), names, origin, folder, shard_size)
            kind, parameters = "checkpoint", _count(layout)
        else:
            kind, parameters = "network", _write_network(pareto_set, p, folder, shard_size)
        description = {
            "schema_version": SCHEMA_VERSION,
            "format": format,
            "kind": kind,
            "preference": p.tolist(),
            "preference_kind": pareto_set.preference_kind,
            "parameters": parameters,
            **origin.facts,
        }
        if isinstance(pareto_set, MergedSet) and pareto_set.rule.scaled:
            description["scale"] = pareto_set.scale(p)
        text = card.text(Path(directory).name, kind, description)
        (folder / "README.md").write_text(text, encoding="utf-8")
        written = sorted(os.listdir(folder))
        record = json.dumps({**description, "files": written}, indent=1)
        (folder / MARK.name).write_text(record + "\n", encoding="utf-8")
    return Export(Path(directory), kind, (*written, MARK.name), parameters)


# ---------------------------------------------------------------------- the task's own network


def _write_network(
    pareto_set: ParetoSet, preference: NDArray[np.float64], folder: Path, shard_size: int
) -> int:
    """The module's tensors, of tied ones the first name, and a description of them."""
    module = pareto_set.materialize(preference)
    state = module.state_dict(keep_vars=True)
    seen: set[int] = set()
    distinct = {k: t for k, t in state.items() if not (id(t) in seen or seen.add(id(t)))}  # type: ignore[func-returns-value]
    write_checkpoint(folder, distinct.items(), layout_of(distinct), shard_size)
    parameters = sum(q.numel() for q in module.parameters())
    described = {
        "schema_version": SCHEMA_VERSION,
        "preference": preference.tolist(),
        "preference_kind": pareto_set.preference_kind,
        "parameters": parameters,
        "tensors": {k: list(t.shape) for k, t in state.items()},
    }
    (folder / "model.json").write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    return parameters


# ---------------------------------------------------------------------- checkpoints in hub format


def _names_as_base(
    pareto_set: ParetoSet, preference: NDArray[np.float64], base: Weights | None
) -> list[str]:
    """The names of a set's tensors; none if the base has not all of them."""
    if isinstance(pareto_set, MergedSet):  # known, without merging a model to see them
        names = list(pareto_set.parents.base.shapes())
    else:
        names = [name for name, _ in pareto_set.state(preference)]
    return names if base is not None and set(names) <= set(base.shapes()) else []


def _write_as_base(
    tensors: Iterator[tuple[str, Tensor]],
    names: Sequence[str],
    origin: Origin,
    folder: Path,
    shard_size: int,
) -> Layout:
    """Named tensors in the base's dtypes, those that are missing from the base, and what lies
    beside the base."""
    base, template = origin.base, origin.template
    assert base is not None
    assert template is not None
    shapes = base.shapes()
    rest = [name for name in shapes if name not in set(names)]
    layout = {name: (tuple(shapes[name]), base.dtype(name)) for name in [*names, *rest]}

    def all_tensors() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in tensors:
            yield name, tensor.to(base.dtype(name))
        for name in rest:
            yield name, base.read(name)

    write_checkpoint(folder, all_tensors(), layout, shard_size)
    # An expert of a part of a model, a vision tower say, may leave the processor to the base.
    _copy_beside([template, *([base.folder] if base.folder else [])], folder, layout)
    return layout


def _write_checkpoint(
    tensors: Iterator[tuple[str, Tensor]], origin: Origin, folder: Path, shard_size: int
) -> None:
    """A folder of its own: in hub format if the base is, else ``model.safetensors`` alone."""
    named = dict(tensors)
    folder.mkdir()
    if origin.template and origin.base and set(named) <= set(origin.base.shapes()):
        _write_as_base(iter(named.items()), list(named), origin, folder, shard_size)
    else:
        write_checkpoint(folder, named.items(), layout_of(named), shard_size)


def _task_type(origin: Origin) -> str | None:
    """What peft calls the base's kind of model, if its configuration says that it is one."""
    if origin.template is None:
        return None
    kinds = json.loads((origin.template / "config.json").read_text(encoding="utf-8"))
    causal = any("CausalLM" in name for name in kinds.get("architectures") or [])
    return "CAUSAL_LM" if causal else None


def _copy_beside(sources: Sequence[Path], folder: Path, layout: Layout) -> None:
    """The first source's configuration, with the dtype that was written, and what lies beside it or
    beside the next."""
    path = sources[0] / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise RunError(f"{path} is not readable as JSON; the base is not in hub format") from None
    numbers: dict[str, int] = {}
    for shape, dtype in layout.values():
        if dtype.is_floating_point:
            name = str(dtype).removeprefix("torch.")
            numbers[name] = numbers.get(name, 0) + math.prod(shape)
    if numbers:
        _set_dtype(config, max(numbers, key=lambda name: numbers[name]))
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    # A model that brings its own code names it in its configuration.
    wanted = (*BESIDE, "*.py") if "auto_map" in config else BESIDE
    for source in sources:
        for file in sorted({f for pattern in wanted for f in source.glob(pattern) if f.is_file()}):
            if not (folder / file.name).exists():
                shutil.copyfile(file, folder / file.name)


def _set_dtype(config: dict[str, Any], dtype: str) -> None:
    """`from_pretrained` casts to what the configuration says: it has to say what was written."""
    for key, value in config.items():
        if key in ("dtype", "torch_dtype") and isinstance(value, str):
            config[key] = dtype
        elif isinstance(value, dict) and key.endswith("_config"):
            _set_dtype(value, dtype)


# ---------------------------------------------------------------------- counting


def _count(layout: Layout) -> int:
    return sum(math.prod(shape) for shape, _ in layout.values())


def _numbers(folder: Path) -> int:
    return sum(
        math.prod(shape)
        for file in folder.glob("*.safetensors")
        for shape in Safetensors(file).shapes().values()
    )
