"""Merging fine-tuned CLIP vision models: the eight image tasks of Task Arithmetic, or others."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

from frontrunner.errors import ConfigError, DataError, first_line, nearest
from frontrunner.front.objective import Objective
from frontrunner.tasks.base import Batch, Model, Split
from frontrunner.tasks.clip_heads import (
    VisionWeights,
    ZeroShot,
    check_whole,
    load_clip,
    transformers,
    zero_shot_head,
)
from frontrunner.tasks.clip_images import (
    ImageSet,
    Pictures,
    Pixels,
    Processor,
    class_names,
    open_splits,
)
from frontrunner.tasks.domains import Domains
from frontrunner.tasks.merging import MergingTask
from frontrunner.weights.hub import locate, open_weights
from frontrunner.weights.networks import place
from frontrunner.weights.parents import Parents

Rows = NDArray[np.intp]


class VitEight(MergingTask):
    """K image data sets, each with a CLIP vision model fine-tuned on it, and zero-shot classifiers.

    Only the vision model is merged. The classifier of a data set is what CLIP's frozen text encoder
    makes of its class names, so that base, experts and merged models answer with the same heads.
    ``train`` is what methods may adapt to, without its labels; ``validation`` chooses coefficients.

    Sources: Ilharco et al., "Editing models with task arithmetic", ICLR 2023 (base, tasks); the
    fine-tuned models are those of FusionBench (Tang et al., 2024).

    Args:
        base: all of CLIP: a folder or hub id in the format of `transformers`, with tokenizer and
            preprocessor configuration.
        tasks: names of the data sets, one objective for each, in this order.
        expert: the checkpoint fine-tuned on a data set: a folder or hub id with ``{task}`` in it.
        datasets: what each data set is, by name: the fields of `ImageSet`.
        experts: checkpoints by name of data set, where ``expert`` does not name them.
        data_root: a folder with ``<task>/<split>/<class>/`` for each task; None reads the hub.
        limit: no more than so many pictures in each split of each data set; None keeps all.
        held_out: share of train that becomes validation where there is no such split.
        split_seed: of what is held out, and of what ``limit`` keeps.
        batch_size: pictures per forward pass when a model is measured, at most.
        name: what runs and reports call the task.
        model: not used; the checkpoint says what the network is.

    Raises:
        ConfigError: an unknown task, fewer than two, one named twice, or a number out of range.
    """

    selection = "accuracies"

    def __init__(
        self,
        base: str,
        tasks: Sequence[str],
        expert: str,
        datasets: Mapping[str, Mapping[str, Any]],
        experts: Mapping[str, str] | None = None,
        data_root: str | os.PathLike[str] | None = None,
        limit: int | None = None,
        held_out: float = 0.1,
        split_seed: int = 0,
        batch_size: int = 256,
        name: str = "vit_eight",
        model: Model | None = None,
    ) -> None:
        super().__init__(model)
        self.tasks, overrides = [str(task) for task in tasks], dict(experts or {})
        for what, names in (("task.tasks", self.tasks), ("task.experts", overrides)):
            for task in names:
                if task not in datasets:
                    raise ConfigError(
                        f"{what}: '{task}' is not among task.datasets{nearest(task, datasets)}"
                    )
        if len(self.tasks) < 2 or len(set(self.tasks)) < len(self.tasks):
            raise ConfigError(f"task.tasks={self.tasks} must be at least two, each once")
        if limit is not None and limit < 1:
            raise ConfigError(f"task.limit={limit} must be at least 1, or null")
        if not 0.0 < held_out < 1.0:
            raise ConfigError(f"task.held_out={held_out} must lie between 0 and 1")
        if batch_size < 1:
            raise ConfigError(f"task.batch_size={batch_size} must be at least 1")
        self.name, self.base, self.batch_limit = name, base, batch_size
        self.checkpoints = [overrides.get(t, expert.replace("{task}", t)) for t in self.tasks]
        self.described = [ImageSet.of(task, datasets[task]) for task in self.tasks]
        self.root = None if data_root is None else Path(data_root).expanduser()
        self.limit, self.held_out, self.split_seed = limit, held_out, split_seed
        self.objectives = tuple(Objective(task, "min", "nats") for task in self.tasks)
        # A guess among SUN397's 397 classes costs ln 397 = 5.98 nats.
        self.reference_point = (6.0,) * len(self.tasks)
        self.output_sizes = ()
        self._sources: list[dict[Split, tuple[Pictures, Rows]]] | None = None
        self._heads: list[Tensor] | None = None

    def check(self) -> None:
        """Find checkpoints and data, and compare tensors and classes. Nothing is computed; what is
        to come from the hub is fetched.

        Raises:
            ConfigError: a package is missing.
            DataError: a checkpoint, folder, split or class is missing, or does not fit.
        """
        transformers("CLIPModel")
        if self.root is not None and not self.root.is_dir():
            raise DataError(f"task.data_root={self.root} does not exist")
        self.sources()
        self.class_names()
        self.parents()
        Processor(self._folder)

    # ------------------------------------------------------------------ data

    def sources(self) -> list[dict[Split, tuple[Pictures, Rows]]]:
        """Pictures and rows of every split, for each data set."""
        if self._sources is None:
            self._sources = [
                open_splits(task, described, self.root, self.split_seed, self.held_out)
                for task, described in zip(self.tasks, self.described, strict=True)
            ]
        return self._sources

    def class_names(self) -> list[list[str]]:
        """What each data set's classes are called in prompts."""
        return [
            class_names(task, described, splits["train"][0])
            for task, described, splits in zip(
                self.tasks, self.described, self.sources(), strict=True
            )
        ]

    def load(self) -> dict[Split, Dataset[Any]]:
        transformers("CLIPModel")
        processor = Processor(self._folder)
        return {
            split: Domains(
                [
                    Pixels(splits[split][0], self._some(splits[split][1]), processor)
                    for splits in self.sources()
                ]
            )
            for split in ("train", "validation", "test")
        }

    def _some(self, rows: Rows) -> Rows:
        if self.limit is None or len(rows) <= self.limit:
            return rows
        chosen = np.random.default_rng([self.split_seed, 1]).permutation(len(rows))[: self.limit]
        return rows[np.sort(chosen)]

    def loss(self, outputs: Tensor, batch: Batch, k: int) -> Tensor:
        return cross_entropy(outputs, batch[1])

    def correct(self, outputs: Tensor, batch: Batch, k: int) -> Tensor:
        return (outputs.argmax(-1) == batch[1]).float().mean()

    # ------------------------------------------------------------------ models

    def make_parents(self) -> Parents:
        whole = open_weights(self._folder)
        check_whole(whole)
        opened = [open_weights(name, base=whole) for name in self.checkpoints]
        return Parents(VisionWeights(whole), [VisionWeights(weights) for weights in opened])

    @property
    def template(self) -> Path | None:  # type: ignore[override]
        """The first expert's folder: an export is a vision model, and not all of CLIP."""
        return self.parents().experts[0].folder

    def network(self) -> nn.Module:
        parents = self.parents()
        clip = load_clip(self._folder)
        if self._heads is None:
            try:
                tokenizer = transformers("AutoTokenizer").from_pretrained(str(self._folder))
            except Exception as error:  # of many kinds
                raise DataError(f"{self._folder}: no tokenizer: {first_line(error)}") from None
            self._heads = [
                zero_shot_head(clip, tokenizer, names, described.templates)
                for names, described in zip(self.class_names(), self.described, strict=True)
            ]
        network = ZeroShot(clip, self._heads)
        place(network, ((key, parents.base.read(key)) for key in parents.base.shapes()))
        return network

    @cached_property
    def _folder(self) -> Path:
        """All of CLIP; the hub is asked once."""
        return locate(self.base)
