"""A model of a Pareto set as an ordinary checkpoint, with a card that says how it was made."""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from frontrunner import files
from frontrunner.errors import ConfigError, FrontError
from frontrunner.front.front import Front
from frontrunner.pareto_sets import card, compact
from frontrunner.pareto_sets.base import SCHEMA_VERSION, ParetoSet
from frontrunner.pareto_sets.beside import copy_beside
from frontrunner.pareto_sets.low_rank import LowRankSet
from frontrunner.pareto_sets.merged import MergedSet
from frontrunner.pareto_sets.sparse import SparseSet
from frontrunner.pareto_sets.sparsity import Sparse
from frontrunner.tasks.base import Task
from frontrunner.tasks.merging import MergingTask
from frontrunner.tasks.pruning import PruningTask
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
# Formats that hold every preference's model.
WHOLE = ("compact",)


@dataclass(frozen=True)
class Origin:
    """Where a Pareto set comes from.

    Attributes:
        facts: what the card and ``frontrunner_export.json`` say; JSON values. `card.text` names
            those it knows.
        base: what the models were merged from, or pruned, if they were.
        template: its folder, if it is in hub format: exported checkpoints look like it.
    """

    facts: Mapping[str, Any] = field(default_factory=dict)
    base: Weights | None = None
    template: Path | None = None


@dataclass(frozen=True)
class Export:
    """What was written: ``parameters`` numbers in ``files`` of ``folder``; ``kind`` is
    ``checkpoint`` (hub format), ``network`` (the task's own), ``lora``, ``factors`` or ``compact``.
    Of sparse models ``facts`` has non-zeros, sparsity and bytes."""

    folder: Path
    kind: str
    files: tuple[str, ...]
    parameters: int
    facts: Mapping[str, Any] = field(default_factory=dict)


def origin_of(
    task: Task,
    preference: ArrayLike | None,
    config: Mapping[str, Any],
    record: Mapping[str, Any],
    front: Front,
    words: Sequence[str],
) -> Origin:
    """What a finished run says of its Pareto set.

    Args:
        task: the run's.
        preference: (m,), of the model that is exported; None if all are.
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
    elif isinstance(task, PruningTask):
        base, template = task.weights(), task.template
        facts["base"] = base.name
    if front.preferences is not None and preference is not None:
        distance = np.abs(front.preferences - np.asarray(preference, dtype=float)).max(axis=1)
        if distance.min() < 1e-6:
            values = front.values[int(distance.argmin())].tolist()
            known = {key: front.info.get(key) for key in ("evaluator", "split")}
            facts["measured"] = {**known, "values": values}
            if not front.aligned:  # preferences and what was measured are two lists
                facts["measured"]["objectives"] = [o.label for o in front.objectives]
    return Origin(facts, base, template)


def formats(pareto_set: ParetoSet) -> list[str]:
    """The formats that a set can be exported in."""
    if isinstance(pareto_set, LowRankSet):
        return ["full", "lora", "factors"]
    return ["full", "compact"] if isinstance(pareto_set, SparseSet) else ["full"]


def export(
    pareto_set: ParetoSet,
    preference: ArrayLike | None,
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
    model can be made. Of a `SparseSet`, whose zeros are counted again in what was written, also
    ``compact``: every preference's model, see `frontrunner.pareto_sets.compact`. Each with
    ``README.md``, the model card, and ``frontrunner_export.json``, the same facts.

    Raises:
        FrontError: the preference is not on the simplex, or the set has no model for it.
        ConfigError: a format the set does not have, or a preference where none is wanted.
        RunError: the folder holds other files, or could not be written, or what was written is not
            as sparse as it should be; it is left as it was.
        DataError: a parent's file is damaged.
    """
    if format not in formats(pareto_set):
        raise ConfigError(
            f"--format {format}: a {type(pareto_set).__name__} has {', '.join(formats(pareto_set))}"
        )
    if (preference is None) != (format in WHOLE):
        less = "holds the models of all preferences: leave --preference out"
        raise ConfigError(f"--format {format} {less if format in WHOLE else 'needs --preference'}")
    p = None if preference is None else pareto_set.one(preference)
    origin = origin or Origin()
    with whole_folder(directory, MARK) as folder:
        kind, parameters, facts = _write(pareto_set, p, format, origin, folder, shard_size)
        description = {
            "schema_version": SCHEMA_VERSION,
            "format": format,
            "kind": kind,
            "preference_kind": pareto_set.preference_kind,
            "parameters": parameters,
            **facts,
            **origin.facts,
        }
        if p is not None:
            description["preference"] = p.tolist()
        if isinstance(pareto_set, MergedSet) and p is not None and pareto_set.rule.scaled:
            description["scale"] = pareto_set.scale(p)
        text = card.text(Path(directory).name, kind, description)
        (folder / "README.md").write_text(text, encoding="utf-8")
        written = sorted(os.listdir(folder))
        record = json.dumps({**description, "files": written}, indent=1)
        (folder / MARK.name).write_text(record + "\n", encoding="utf-8")
    return Export(Path(directory), kind, (*written, MARK.name), parameters, facts)


def _write(
    pareto_set: ParetoSet,
    p: NDArray[np.float64] | None,
    format: str,
    origin: Origin,
    folder: Path,
    shard_size: int,
) -> tuple[str, int, dict[str, Any]]:
    """Kind, parameters and, of sparse models, non-zeros and bytes of what was written."""
    if isinstance(pareto_set, SparseSet) and p is None:
        facts = _write_compact(pareto_set, origin, folder)
        return "compact", compact.parameters(folder), facts
    assert p is not None
    if isinstance(pareto_set, SparseSet):
        return _write_sparse(pareto_set, p, origin, folder, shard_size)
    if isinstance(pareto_set, LowRankSet) and format == "lora":
        save_adapter(folder, pareto_set.adapter(p), "base", task_type=_task_type(origin))
        parameters = _numbers(folder)
        _write_checkpoint(pareto_set.beside(p), origin, folder / "base", shard_size)
        return format, parameters, {}
    if isinstance(pareto_set, LowRankSet) and format == "factors":
        parts = {"base": dict(pareto_set.base()), "factors": pareto_set.change.named()}
        for name, tensors in parts.items():
            path = folder / f"{name}.safetensors"
            write_file(path, iter(tensors.items()), layout_of(tensors))
        return format, _numbers(folder), {}
    if origin.template and (names := _names_as_base(pareto_set, p, origin.base)):
        layout = _write_as_base(pareto_set.state(p), names, origin, folder, shard_size)
        return "checkpoint", _count(layout), {}
    return "network", _write_network(pareto_set, p, folder, shard_size), {}


# ---------------------------------------------------------------------- sparse models


def _write_sparse(
    pareto_set: SparseSet,
    preference: NDArray[np.float64],
    origin: Origin,
    folder: Path,
    shard_size: int,
) -> tuple[str, int, dict[str, Any]]:
    """Dense storage, as of other sets; block by block, and read again to count its zeros."""
    if origin.template and origin.base:
        sparse = Sparse(pareto_set, preference, origin.base)
        layout = _write_as_base(sparse.tensors(), list(sparse.layers), origin, folder, shard_size)
        return "checkpoint", _count(layout), sparse.verify(folder)
    parameters = _write_network(pareto_set, preference, folder, shard_size)
    return "network", parameters, Sparse(pareto_set, preference).verify(folder)


def _write_compact(pareto_set: SparseSet, origin: Origin, folder: Path) -> dict[str, Any]:
    base = origin.base or pareto_set.task.weights()
    facts = compact.write(pareto_set, folder, base, origin.facts)
    if origin.template:
        beside = [origin.template, *([base.folder] if base.folder else [])]
        copy_beside(beside, folder, compact.layout_of(base))
    return facts


def wanted(
    pareto_set: ParetoSet, preference: ArrayLike | None, format: str
) -> NDArray[np.float64] | None:
    """The preference to export, (m,): the only one of a set with one model need not be given."""
    if preference is None and format not in WHOLE and len(pareto_set.preferences) == 1:
        preference = pareto_set.preferences[0]
    return None if preference is None else pareto_set.one(preference)


def export_compact(
    source: str | os.PathLike[str],
    preference: ArrayLike | None,
    directory: str | os.PathLike[str],
    *,
    format: str = "full",
    shard_size: int = SHARD_SIZE,
) -> Export:
    """Write the model for one preference from a folder in ``compact`` format.

    Raises:
        FrontError, ConfigError, RunError, DataError: see `export`; or the folder is damaged.
    """
    if format in WHOLE:
        raise ConfigError(f"--format {format}: {os.fspath(source)} is such a folder already")
    pareto_set = compact.open_folder(source)
    preference = wanted(pareto_set, preference, format)
    if preference is not None and compact.lacks(source, pareto_set, preference):
        raise FrontError(
            f"{os.fspath(source)} has no model for {pareto_set.one(preference).tolist()}: the run "
            "refits it, which takes Gram matrices; export this one from the run"
        )
    facts = dict(files.read_json(Path(source) / compact.FILE)["origin"])
    if preference is not None:
        words = ["frontrunner", "export", os.fspath(source), "--preference"]
        words += [",".join(f"{x:.12g}" for x in pareto_set.one(preference))]
        words += ["--out", os.fspath(directory)]
        facts["commands"] = [*facts.get("commands", ()), shlex.join(words)]
    task = pareto_set.task
    origin = Origin(facts, task.weights(), task.template)
    return export(
        pareto_set, preference, directory, format=format, shard_size=shard_size, origin=origin
    )


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
    copy_beside([template, *([base.folder] if base.folder else [])], folder, layout)
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


# ---------------------------------------------------------------------- counting


def _count(layout: Layout) -> int:
    return sum(math.prod(shape) for shape, _ in layout.values())


def _numbers(folder: Path) -> int:
    return sum(
        math.prod(shape)
        for file in folder.glob("*.safetensors")
        for shape in Safetensors(file).shapes().values()
    )
