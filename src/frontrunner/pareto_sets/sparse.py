"""Sparse models: a primary and specialists that share a core, and what lies between them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from frontrunner.errors import FrontError
from frontrunner.pareto_sets.base import ParetoSet
from frontrunner.preferences import Kind
from frontrunner.sparse.admm import specialise
from frontrunner.sparse.patterns import Pattern, pattern_of
from frontrunner.sparse.quadratic import Quadratic, Ridge, refine
from frontrunner.sparse.store import Block, Pruned, Store
from frontrunner.tasks.base import Task
from frontrunner.tasks.pruning import PruningTask
from frontrunner.weights.files import Safetensors
from frontrunner.weights.networks import named_state

Array = NDArray[np.float64]
Refit = Literal["none", "pcg", "admm"]
Scores = Literal["raw", "scaled"]


@dataclass(frozen=True)
class Interpolation:
    """How a preference's model is made from a primary and a specialist for each objective
    (MOSP, section 3.3): W_λ = P(W + Σ_i λ'_i (W_i - W)), and its refit, which is ours.

    Attributes:
        power: p of λ' = s^p λ, where s is the distance of λ from equal preferences, in [0, 1].
        scores: by what entries are kept: ``raw`` magnitudes (as printed), or ``scaled`` by
            √diag(H_λ), with H_λ = Σ_j λ_j H_j.
        refit: ``none`` (as printed); ``pcg``, conjugate gradients on the support with H_λ; or
            ``admm``, before them a few ADMM iterations with H_λ, which may move the support.
        keep_core: whether the core stays in every support (as printed).
        steps: of conjugate gradients and of ADMM, at most.
        rho: ρ of ADMM.
        damping, ridge, scaled: of H_λ, see `Quadratic`.
    """

    power: float = 0.5
    scores: Scores = "raw"
    refit: Refit = "none"
    keep_core: bool = True
    steps: int = 10
    rho: float = 0.5
    damping: float = 0.01
    ridge: Ridge = "mean"
    scaled: bool = True

    def coefficients(self, preference: ArrayLike) -> Array:
        """λ' (m,) of a preference (m,): 0 for equal preferences, λ itself for a one-hot one."""
        p = np.asarray(preference, dtype=np.float64)
        even = 1.0 / len(p)
        # Rounded, so that one-hot and equal preferences give 1 and 0 to the last bit.
        s = round(float(np.abs(p - even).sum() / (2 * (1 - even))), 12)
        return np.asarray(s**self.power * p if s else np.zeros_like(p))


class SparseSet(ParetoSet):
    """Sparse models of one dense checkpoint, stored block by block (`frontrunner.sparse.store`).

    What is not pruned (embeddings, norms, biases, the head) is the checkpoint's own.

    Args:
        task: supplies the dense model.
        store: the pruned blocks.
        anchors: (a, m), the preference of each model that is stored. With an ``interpolation``: the
            equal preference, then the one-hot ones in order.
        preferences: (n, m), which make up the front.
        interpolation: how other preferences are answered; None answers anchors alone.
    """

    def __init__(
        self,
        task: PruningTask,
        store: Store,
        anchors: ArrayLike,
        preferences: ArrayLike,
        interpolation: Interpolation | None = None,
    ) -> None:
        super().__init__(preferences, "weight")
        self.task, self.store, self.interpolation = task, store, interpolation
        self.anchors: Array = np.atleast_2d(np.asarray(anchors, dtype=np.float64))
        self._network: nn.Module | None = None
        self._device: torch.device | str = "cpu"

    # ------------------------------------------------------------------ models

    def anchor(self, preference: Array) -> int | None:
        """The stored model of a preference, or None."""
        distance = np.abs(self.anchors - preference).max(axis=1)
        nearest = int(distance.argmin())
        return nearest if distance[nearest] < 1e-6 else None

    def pruned(self, preference: ArrayLike) -> Iterator[tuple[Pruned, Tensor]]:
        """The pruned layers (d, c) of a preference's model, in the checkpoint's precision.

        Raises:
            FrontError: the set has no model for it.
        """
        p = self.one(preference)
        anchor = self.anchor(p)
        if anchor is not None:
            for block in self.store.of(anchor):
                for layer in block.layers:
                    yield layer, block.weight(layer, anchor)
        elif self.interpolation is not None:
            for block in self.store.blocks:
                yield from self._between(block, p, self.interpolation)
        else:
            nearest = self.anchors[int(np.abs(self.anchors - p).max(axis=1).argmin())]
            raise FrontError(
                f"this set holds {len(self.anchors)} models and none for {p.tolist()}; "
                f"the nearest is {nearest.round(6).tolist()}"
            )

    def _between(
        self, block: Block, p: Array, rule: Interpolation
    ) -> Iterator[tuple[Pruned, Tensor]]:
        """The layers of one block for a preference that is no anchor."""
        shares = rule.coefficients(p)
        shares = np.array([1.0 - shares.sum(), *shares])
        groups: dict[str, list[Pruned]] = {}
        for layer in block.layers:
            groups.setdefault(layer.group, []).append(layer)
        for group, layers in groups.items():
            problem = self._problem(block, group, p, rule) if rule.refit != "none" else None
            inverse = problem.inverse(rule.rho) if problem and rule.refit == "admm" else None
            scale = self._scale(block, group, p) if rule.scores == "scaled" else None
            for layer in layers:
                weight = torch.zeros(layer.shape, device=self._device)
                for a, share in enumerate(shares):
                    values, support = block.values(layer, a)
                    weight[support.to(self._device)] += float(share) * values.to(weight)
                scores = weight.abs() if scale is None else weight.abs() * scale
                core = block.core(layer) if rule.keep_core else None
                core = core.to(self._device) if core is not None else None
                pattern = pattern_of(layer.pattern)
                support, _ = pattern.select(scores, core)
                weight *= support
                if problem is not None:
                    weight = self._refitted(
                        problem, inverse, layer, weight, support, core, pattern, rule
                    )
                yield layer, weight.to(values.dtype)

    def _problem(self, block: Block, group: str, p: Array, rule: Interpolation) -> Quadratic:
        """H_λ of the layers of a group."""
        matrix: Tensor | None = None
        for j, share in enumerate(p):
            if share > 0:
                term = block.gram(group, j).to(self._device)
                matrix = share * term if matrix is None else matrix.add_(term, alpha=share)
        assert matrix is not None
        what = f"the Gram matrix of {group} at {p.round(4).tolist()}"
        return Quadratic(matrix, rule.damping, rule.ridge, rule.scaled, what)

    def _scale(self, block: Block, group: str, p: Array) -> Tensor:
        """√diag(H_λ), (c,)."""
        diagonals = block.diagonals(group)
        assert diagonals is not None
        weights = torch.from_numpy(p).float()
        return (weights @ diagonals).clamp_min(0).sqrt().to(self._device)

    def _refitted(
        self,
        problem: Quadratic,
        inverse: Tensor | None,
        layer: Pruned,
        weight: Tensor,
        support: Tensor,
        core: Tensor | None,
        pattern: Pattern,
        rule: Interpolation,
    ) -> Tensor:
        dense = self._dense(layer)
        target, start = problem.scaled(dense), problem.scaled(weight)
        if inverse is not None:
            found = specialise(problem, target, start, pattern, core, inverse, rule.rho, rule.steps)
            start, support = found.weight, found.support
        refined = refine(problem, target @ problem.matrix, start, support, rule.steps)
        return problem.unscaled(refined)

    def _dense(self, layer: Pruned) -> Tensor:
        """The dense weight of a layer (d, c)."""
        weights = self._weights
        if layer.name in weights.shapes():
            stored = weights.read(layer.name)
        else:  # the file has other names than the network
            stored = self._dense_state[layer.name]
        return stored.mT if layer.transposed else stored

    @cached_property
    def _weights(self) -> Any:
        return self.task.weights()

    @cached_property
    def _dense_state(self) -> dict[str, Tensor]:
        return named_state(self.task.network())

    @torch.no_grad()
    def materialize(self, preference: ArrayLike) -> nn.Module:
        if self._network is None:
            self._network = self.task.network().to(self._device)
            self._state = named_state(self._network)
        for layer, weight in self.pruned(preference):
            self._state[layer.name].copy_(weight.mT if layer.transposed else weight)
        return self._network.eval()

    @torch.no_grad()
    def state(self, preference: ArrayLike) -> Iterator[tuple[str, Tensor]]:
        """Tensors of the checkpoint by name, each in its own precision, block by block."""
        pruned = self.pruned(preference)
        held: dict[str, Tensor] = {}
        names = {layer.name for block in self.store.blocks for layer in block.layers}
        for name in self._weights.shapes():
            if name not in names:
                yield name, self._weights.read(name)
                continue
            while name not in held:  # the file may have another order than the network
                layer, weight = next(pruned)
                held[layer.name] = weight.mT.contiguous() if layer.transposed else weight
            yield name, held.pop(name)

    # ------------------------------------------------------------------ figures

    @cached_property
    def layers(self) -> dict[str, Pruned]:
        """The pruned layers by name."""
        return {layer.name: layer for block in self.store.blocks for layer in block.layers}

    def nonzeros(self) -> int:
        """Non-zero weights of one model's pruned layers."""
        return sum(pattern_of(layer.pattern).kept(layer.shape) for layer in self.layers.values())

    @property
    def stored_parameters(self) -> int:
        """Of what is not pruned, of every stored model's support, and of Gram matrices where they
        answer preferences."""
        sizes: Mapping[str, tuple[int, ...]] = self._weights.shapes()
        dense = sum(int(np.prod(shape)) for shape in sizes.values())
        pruned = sum(layer.shape[0] * layer.shape[1] for layer in self.layers.values())
        total = dense - pruned + len(self.anchors) * self.nonzeros()
        if self.interpolation is not None and self.interpolation.refit != "none":
            groups = {layer.group: layer.shape[1] for layer in self.layers.values()}
            total += self.m * sum(c * c for c in groups.values())
        return total

    # ------------------------------------------------------------------ files

    def tensors(self) -> dict[str, Tensor]:
        found = {}
        for block in self.store.blocks:
            for layer in block.layers:
                for anchor in block.anchors:
                    found[f"{layer.name}.{anchor}"] = block.weight(layer, anchor)
        return found

    def options(self) -> dict[str, Any]:
        return {
            "anchors": self.anchors.tolist(),
            "interpolation": asdict(self.interpolation) if self.interpolation else None,
            "model": self._weights.digest(),
        }

    def digest(self) -> str:
        h = hashlib.sha256(self.preferences.tobytes())
        h.update(json.dumps(self.options(), sort_keys=True).encode())
        for path in sorted(self.store.folder.glob("pass-*.safetensors")):
            h.update(f"{path.name} {Safetensors(path).digest()}".encode())
        return h.hexdigest()[:16]

    def write(self, folder: Path) -> None:
        self.store.move(folder)

    @classmethod
    def read(
        cls,
        folder: Path,
        task: Task,
        preferences: Array,
        preference_kind: Kind,
        options: dict[str, Any],
    ) -> SparseSet:
        if not isinstance(task, PruningTask):
            raise ValueError(f"task '{task.name}' has no model to prune")
        if task.weights().digest() != options["model"]:
            raise ValueError("the dense model has changed since")
        rule = options["interpolation"]
        interpolation = Interpolation(**rule) if rule else None
        return cls(task, Store(folder), options["anchors"], preferences, interpolation)

    def to(self, device: torch.device | str) -> SparseSet:
        self._device = device
        if self._network is not None:
            self._network.to(device)
        return self
