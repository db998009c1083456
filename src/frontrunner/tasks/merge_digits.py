"""Merging experts of small images: one expert for each way the images are turned or labelled."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset, TensorDataset

from frontrunner.errors import ConfigError, DataError
from frontrunner.front.objective import Objective
from frontrunner.models.conditioning import build_network
from frontrunner.tasks.base import Batch, Model, Split
from frontrunner.tasks.digits import digits
from frontrunner.tasks.domains import Domains
from frontrunner.tasks.experts import Recipe, own_stream, trained
from frontrunner.tasks.merging import MergingTask
from frontrunner.weights.networks import named_state, place
from frontrunner.weights.parents import Parents
from frontrunner.weights.source import InMemory

# Orientations, in the order in which experts get them: name and what is done to (B, 1, h, w).
ORIENTATIONS = {
    "upright": lambda x: x,
    "upside_down": lambda x: x.rot90(2, (2, 3)),
    "mirrored": lambda x: x.flip(3),
    "left": lambda x: x.rot90(1, (2, 3)),
    "right": lambda x: x.rot90(3, (2, 3)),
}
CONFLICTS = ("orientation", "relabel", "classes")

_HEADS = "network.heads.layers."  # in the state names of `PerObjective`; a number follows


class ImageExperts(MergingTask):
    """K objectives on one source of labelled images, in graded conflict.

    ``orientation``: expert k sees the images turned its own way; one model can serve all, not as
    well as the experts serve theirs. ``relabel``: expert k calls the first ``relabelled`` classes
    by names moved on by k, so that no model with a shared head serves all; with separate heads the
    heads absorb the names and nothing is traded off. ``classes``: expert k sees its own share of
    the classes, the easy control. A base is trained on the mixture, each expert from the base on
    its own data, once (see `experts.trained`).

    The images are split four ways: experts (base and experts learn from them), train (what a
    merging method may learn from, without overlap with the former), validation and test.

    Args:
        conflict: ``orientation``, ``relabel`` or ``classes``.
        experts: K, from 2 to 5.
        heads: ``shared`` (one output layer, merged like the rest) or ``separate`` (each expert
            keeps its own; all else is merged).
        relabelled: classes that change their names under ``relabel``.
        expert_seed: of base and experts, initial weights and order of data.
        split_seed: of the split.
        base_steps, expert_steps: mini-batches of 64.
        learning_rate, expert_learning_rate: of base and experts.
        name: what runs and reports call the task.
        model: networks, from ``conf/model``.
    """

    selection = "accuracies"
    classes = 10

    def __init__(
        self,
        conflict: str = "orientation",
        experts: int = 3,
        heads: str = "shared",
        relabelled: int = 5,
        expert_seed: int = 0,
        split_seed: int = 0,
        base_steps: int = 150,
        expert_steps: int = 300,
        learning_rate: float = 3e-3,
        expert_learning_rate: float = 1e-3,
        name: str = "merge_images",
        model: Model | None = None,
    ) -> None:
        super().__init__(model)
        if conflict not in CONFLICTS:
            raise ConfigError(f"task.conflict={conflict} is not one of {', '.join(CONFLICTS)}")
        if heads not in ("shared", "separate"):
            raise ConfigError(f"task.heads={heads} is not one of shared, separate")
        if not 2 <= experts <= 5:
            raise ConfigError(f"task.experts={experts} must lie between 2 and 5")
        if conflict == "relabel" and not experts <= relabelled <= self.classes:
            # Below, two experts would use the same names.
            raise ConfigError(f"task.relabelled={relabelled} must lie between {experts} and 10")
        self.name, self.conflict, self.heads = name, conflict, heads
        self.relabelled, self.expert_seed, self.split_seed = relabelled, expert_seed, split_seed
        names = {
            "orientation": list(ORIENTATIONS)[:experts],
            "relabel": [f"names_{k}" for k in range(experts)],
            "classes": [f"classes_{k}" for k in range(experts)],
        }[conflict]
        self.objectives = tuple(Objective(n, "min", "nats") for n in names)
        self.reference_point = (2.5,) * experts
        self.output_sizes = (self.classes,) * (experts if heads == "separate" else 1)
        self.recipes = (
            Recipe(base_steps, learning_rate=learning_rate),
            Recipe(expert_steps, learning_rate=expert_learning_rate),
        )
        self._views: dict[str, list[tuple[Tensor, Tensor]]] | None = None
        self._heads: dict[str, Tensor] = {}

    @abstractmethod
    def images(self) -> tuple[Tensor, Tensor, dict[str, np.ndarray]]:
        """Images (n, 1, h, w) in [0, 1], labels (n,), and the rows of ``experts``, ``train``,
        ``validation`` and ``test``."""

    # ------------------------------------------------------------------ data

    def views(self) -> dict[str, list[tuple[Tensor, Tensor]]]:
        """Inputs and labels of every objective in each of the four parts.

        Raises:
            DataError: an objective is left without images.
        """
        if self._views is None:
            images, labels, parts = self.images()
            pool = images[parts["experts"]]
            images = (images - pool.mean()) / pool.std()
            self._views = {
                part: [self._view(images[i], labels[i], k) for k in range(self.m)]
                for part, i in parts.items()
            }
            for part, views in self._views.items():
                for objective, (x, _) in zip(self.objectives, views, strict=True):
                    if len(x) == 0:
                        raise DataError(
                            f"task '{self.name}': no images for '{objective.name}' in {part}"
                        )
        return self._views

    def _view(self, images: Tensor, labels: Tensor, k: int) -> tuple[Tensor, Tensor]:
        if self.conflict == "orientation":
            turn = list(ORIENTATIONS.values())[k]
            return turn(images).contiguous(), labels
        if self.conflict == "relabel":
            moved = (labels + k) % self.relabelled
            return images, torch.where(labels < self.relabelled, moved, labels)
        own = labels % self.m == k
        return images[own], labels[own]

    def load(self) -> dict[Split, Dataset[Any]]:
        return {
            split: Domains([TensorDataset(x, y) for x, y in self.views()[split]])
            for split in ("train", "validation", "test")
        }

    def loss(self, outputs: Tensor, batch: Batch, k: int) -> Tensor:
        return cross_entropy(outputs, batch[1])

    def correct(self, outputs: Tensor, batch: Batch, k: int) -> Tensor:
        return (outputs.argmax(-1) == batch[1]).float().mean()

    # ------------------------------------------------------------------ models

    def make_parents(self) -> Parents:
        data = self.views()["experts"]
        base_recipe, expert_recipe = self.recipes
        with own_stream(self.expert_seed, "base"):
            network = self._fresh()
        together = [(x, y, k) for k, (x, y) in enumerate(data)]
        base = trained(network, together, base_recipe, self.expert_seed, f"{self.name}: the base")
        states = []
        for k, (x, y) in enumerate(data):
            place(network, base.items())
            what = f"{self.name}: expert '{self.objectives[k].name}'"
            states.append(trained(network, [(x, y, k)], expert_recipe, self.expert_seed, what))
        self._heads = {
            name: states[self._owner(name)][name] for name in base if self._is_head(name)
        }
        names = [o.name for o in self.objectives]
        return Parents(
            InMemory("the base", self._shared(base)),
            [
                InMemory(f"expert '{n}'", self._shared(s))
                for n, s in zip(names, states, strict=True)
            ],
        )

    def network(self) -> nn.Module:
        parents = self.parents()
        assert isinstance(parents.base, InMemory)
        with own_stream(0, "overwritten"):
            network = self._fresh()
        place(network, parents.base.tensors.items())
        place(network, self._heads.items())
        return network

    def _fresh(self) -> nn.Module:
        if self.model is None:
            raise ConfigError(f"task '{self.name}' was given no model")
        inner = build_network(self.model.network, self.input_shape, self.output_sizes)
        network = PerObjective(inner)
        if self.heads == "separate" and not any(self._is_head(n) for n in named_state(network)):
            raise ConfigError("task.heads=separate needs a network whose output layers are 'heads'")
        return network

    def _is_head(self, name: str) -> bool:
        return self.heads == "separate" and name.startswith(_HEADS)

    def _owner(self, name: str) -> int:
        return int(name.removeprefix(_HEADS).partition(".")[0])

    def _shared(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: t for name, t in state.items() if not self._is_head(name)}


class PerObjective(nn.Module):
    """A network with one output per head as ``forward(inputs, k)``: head k, or the only one."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor, k: int) -> Tensor:
        outputs: Sequence[Tensor] = self.network(inputs)
        return outputs[k if len(outputs) > 1 else 0]


class MergeDigits(ImageExperts):
    """`ImageExperts` on scikit-learn's 1,797 digits of 8×8 pixels; embedded, no files."""

    input_shape = (1, 8, 8)

    def images(self) -> tuple[Tensor, Tensor, dict[str, np.ndarray]]:
        images, labels = digits()
        order = np.random.default_rng(self.split_seed).permutation(len(images))
        cuts = np.split(order, [700, 1000, 1300])
        return (
            torch.as_tensor(images[:, None] / 16.0, dtype=torch.float32),
            torch.as_tensor(labels),
            dict(zip(("experts", "train", "validation", "test"), cuts, strict=True)),
        )
