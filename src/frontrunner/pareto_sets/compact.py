"""A whole set of sparse models in one folder: bitmaps and values, what is dense once, and a JSON.

Beside the base's configuration and tokenizer, such a folder holds

* ``pass-000-block-000.safetensors`` … of every block, see `frontrunner.sparse.store`: a bitmap of
  the core that models share, if they do, and of every stored model a bitmap of its support and the
  values on it;
* ``dense.safetensors``, the tensors that are not pruned, under the checkpoint's names;
* ``compact.json``: the stored models' preferences, how those between them are made, and name,
  shape and dtype of every tensor of a model.

Nothing outside the folder is needed to make a model, with one exception. Refits need Gram matrices
and dense weights, which are larger than the models; a folder of a set with refits gives only what
the run does not refit (the stored models, of ``refit=admm`` the primary), unless it is opened with
``refit=False``.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from frontrunner import files
from frontrunner.errors import ConfigError, DataError, RunError
from frontrunner.front.objective import Objective
from frontrunner.pareto_sets.sparse import Interpolation, SparseSet
from frontrunner.pareto_sets.sparsity import counted, file_names, obeys
from frontrunner.sparse.store import Store
from frontrunner.tasks.base import Batch
from frontrunner.tasks.pruning import PruningTask
from frontrunner.weights.files import Safetensors
from frontrunner.weights.source import Weights
from frontrunner.weights.writer import Layout, write_file

FILE, DENSE = "compact.json", "dense.safetensors"
SCHEMA_VERSION = 1
_REBUILD = (
    "A stored model (anchors, in order) is, layer by layer, its values put on its support row by "
    "row, and zero elsewhere; other tensors are those of dense.safetensors. With an interpolation, "
    "anchor 0 is the primary W and anchor i the specialist W_i of objective i: a preference p "
    "between them has W + sum_i c_i (W_i - W) with c = s**power * p and "
    "s = |p - 1/m|_1 / (2 - 2/m), of which the entries of the core and the largest others are "
    "kept, as many as the pattern says."
)


def is_compact(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder is such a one."""
    return (Path(folder) / FILE).is_file()


def write(
    pareto_set: SparseSet, folder: Path, base: Weights, origin: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the block files, the dense rest and ``compact.json``; what records say of them.

    Args:
        pareto_set: is copied.
        folder: exists.
        base: the dense checkpoint.
        origin: what models that are made from the folder later say of how they were made.

    Raises:
        RunError: a block of the set is damaged or missing, or its supports are not what their
            patterns allow.
        DataError: the base's file is damaged.
    """
    for path in pareto_set.store.files(grams=False):
        shutil.copyfile(path, folder / path.name)
    nonzeros = _verify(Store(folder))
    names = file_names(pareto_set.layers.values(), base)
    layout = layout_of(base)
    dense = {name: spec for name, spec in layout.items() if name not in set(names.values())}
    write_file(folder / DENSE, ((name, base.read(name)) for name in dense), dense)
    rule, models = pareto_set.interpolation, len(pareto_set.anchors)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    one = sum(math.prod(shape) * dtype.itemsize for shape, dtype in layout.values())
    facts = {
        "models": models,
        **counted(pareto_set.layers.values(), nonzeros // models),
        "bytes": size,
        "bytes_dense_models": models * one,
    }
    described = {
        "schema_version": SCHEMA_VERSION,
        "rebuild": _REBUILD,
        "objectives": [objective.name for objective in pareto_set.task.objectives],
        "anchors": pareto_set.anchors.tolist(),
        "preferences": pareto_set.preferences.tolist(),
        "interpolation": dataclasses.asdict(rule) if rule else None,
        "refits": "need the run" if rule and rule.refit != "none" else "none",
        "names": names,
        "tensors": {
            name: [str(dtype).removeprefix("torch."), list(shape)]
            for name, (shape, dtype) in layout.items()
        },
        **facts,
        "origin": dict(origin),
    }
    (folder / FILE).write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    return facts


def parameters(folder: Path) -> int:
    """Values and dense numbers that a folder holds."""
    return sum(
        math.prod(shape)
        for file in folder.glob("*.safetensors")
        for name, shape in Safetensors(file).shapes().items()
        if file.name == DENSE or ".values." in name
    )


def layout_of(base: Weights) -> Layout:
    """Shape and dtype of every tensor of a checkpoint."""
    return {name: (tuple(shape), base.dtype(name)) for name, shape in base.shapes().items()}


def _verify(store: Store) -> int:
    """Non-zeros of all stored models together, which are counted layer by layer."""
    total = 0
    for block in store.blocks:
        for layer in block.layers:
            core = block.core(layer)
            for anchor in block.anchors:
                values, support = block.values(layer, anchor)
                found = int(support.count_nonzero())
                whole = core is None or not bool((core & ~support).any())
                if found != len(values) or not whole or not obeys(support, layer.pattern):
                    raise RunError(
                        f"{block.path.name}: '{layer.name}' of model {anchor} has {found} entries "
                        f"and {len(values)} values, or others than its pattern ({layer.pattern}) "
                        "and core allow; nothing was exported"
                    )
                total += int(values.count_nonzero())
    return total


# ---------------------------------------------------------------------- reading


def open_folder(folder: str | os.PathLike[str], refit: bool = True) -> SparseSet:
    """The set in a compact folder. It gives pruned layers, `SparseSet.pruned`, and with
    `frontrunner.pareto_sets.sparsity.state` whole checkpoints, but no networks.

    >>> models = open_folder("compact")  # doctest: +SKIP
    >>> dict(state(models, [0.5, 0.3, 0.2], models.task.weights()))  # doctest: +SKIP

    Args:
        folder: as ``frontrunner export --format compact`` wrote it.
        refit: False makes models without the refit that the run has, if it has specialists; by
            default such a folder gives only those that the run does not refit.

    Raises:
        RunError: not such a folder, or a file is missing or damaged.
    """
    path = Path(folder)
    described = files.read_json(path / FILE)
    try:
        if described["schema_version"] != SCHEMA_VERSION:
            raise RunError(f"{path} was written by another version of frontrunner")
        rule = Interpolation(**described["interpolation"]) if described["interpolation"] else None
        preferences, anchors = described["preferences"], described["anchors"]
        if rule and rule.refit != "none":
            if refit or len(anchors) == 1:
                anchors = anchors[:1] if rule.refit == "admm" else anchors
                rule, preferences = None, anchors
            else:
                rule = dataclasses.replace(rule, refit="none")
        task = _Folder(path, described["objectives"], described["tensors"])
        store = Store(path)
        store.files(grams=False)
        return SparseSet(task, store, anchors, preferences, rule)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{path / FILE} is damaged: {error}") from None


def lacks(folder: str | os.PathLike[str], pareto_set: SparseSet, preference: ArrayLike) -> bool:
    """Whether a folder holds no model for a preference because the run refits it."""
    refits = files.read_json(Path(folder) / FILE)["refits"] != "none"
    return refits and pareto_set.anchor(pareto_set.one(preference)) is None


class CompactWeights(Weights):
    """The tensors of a checkpoint of which a compact folder holds those that are not pruned."""

    def __init__(self, folder: Path, tensors: Mapping[str, Sequence[Any]]) -> None:
        self.name, self.folder = str(folder), folder
        self.tensors = {
            name: (tuple(int(n) for n in shape), getattr(torch, dtype))
            for name, (dtype, shape) in tensors.items()
        }
        self.dense = Safetensors(folder / DENSE)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: shape for name, (shape, _) in self.tensors.items()}

    def dtype(self, key: str) -> torch.dtype:
        dtype = self.tensors[key][1]
        assert isinstance(dtype, torch.dtype)
        return dtype

    def read(self, key: str) -> Tensor:
        if key in self.tensors and key not in self.dense.shapes():
            raise DataError(f"{self.name} holds no dense '{key}': it is pruned")
        return self.dense.read(key)

    def digest(self) -> str:
        return self.dense.digest()


class _Folder(PruningTask):
    """What a compact folder knows of its task."""

    name = "compact"
    input_shape = ()
    output_sizes = ()
    has_data = False

    def __init__(
        self, folder: Path, objectives: Sequence[str], tensors: Mapping[str, Sequence[Any]]
    ) -> None:
        super().__init__(None)
        self.objectives = tuple(Objective(name) for name in objectives)
        self.template = folder if (folder / "config.json").is_file() else None
        self._weights = CompactWeights(folder, tensors)

    def weights(self) -> Weights:
        return self._weights

    def network(self) -> nn.Module:
        raise ConfigError(f"{self._weights.name} makes no networks; export a model from it")

    def calibration(self, k: int) -> Tensor:
        raise ConfigError(f"{self._weights.name} holds no text")

    def load(self) -> Any:
        raise ConfigError(f"{self._weights.name} holds no text")

    def loss(self, outputs: Tensor, batch: Batch, k: int) -> Tensor:
        raise ConfigError(f"{self._weights.name} holds no text")
