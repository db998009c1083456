"""Sparse models: a primary and specialists that share a core, and what lies between them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
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
from frontrunner.sparse.admm import Job, follow
from frontrunner.sparse.patterns import pattern_of
from frontrunner.sparse.quadratic import Quadratic, Ridge, refine, weighted
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
            ``admm``, a few ADMM iterations with H_λ from the dense weights, and conjugate gradients
            after them: the stored Gram matrices take the place of calibration data, and of the
            stored models only the primary is used.
        keep_core: whether the core stays in every support (as printed).
        steps: of conjugate gradients, at most.
        iterations: of ADMM.
        rho: ρ of ADMM at the start; it grows by 1.3 after every third iteration.
        damping, ridge, scaled: of H_λ, see `Quadratic`.
    """

    power: float = 0.5
    scores: Scores = "raw"
    refit: Refit = "none"
    keep_core: bool = True
    steps: int = 10
    iterations: int = 15
    rho: float = 0.2
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

    def penalties(self) -> list[float]:
        """ρ of every ADMM iteration."""
        return [self.rho * 1.3 ** (i // 3) for i in range(self.iterations)]


class SparseSet(ParetoSet):
    """Sparse models of one dense checkpoint, stored block by block (`frontrunner.sparse.store`).

    What is not pruned (embeddings, norms, biases, the head) is the checkpoint's own.

    Args:
        task: supplies the dense model.
        store: the pruned blocks.
        anchors: (a, m), the preference of each model that is stored. With an ``interpolation``: the
            equal preference, then the one-hot ones in order, which ``refit=admm`` does without.
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
        """The pruned layers (d, c) of a preference's model, in the network's precision.

        Raises:
            FrontError: the set has no model for it.
        """
        p = self.one(preference)
        anchor, rule = self.anchor(p), self.interpolation
        if anchor and rule is not None and rule.refit == "admm":
            anchor = None  # a specialist is less refined than what its Gram matrix gives
        if anchor is not None:
            for block in self.store.of(anchor):
                for layer in block.layers:
                    yield layer, block.weight(layer, anchor)
        elif rule is not None:
            for block in self.store.blocks:
                yield from self._between(block, p, rule)
        else:
            nearest = self.anchors[int(np.abs(self.anchors - p).max(axis=1).argmin())]
            raise FrontError(
                f"this set holds {len(self.anchors)} models and none for {p.tolist()}; "
                f"the nearest is {nearest.round(9).tolist()}"
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
            if problem is not None and rule.refit == "admm":
                weights = self._solved(problem, layers, block, rule)
            else:
                scale = self._scale(block, group, p) if rule.scores == "scaled" else None
                weights = [
                    self._mixed(block, layer, shares, scale, problem, rule) for layer in layers
                ]
            for layer, weight in zip(layers, weights, strict=True):
                yield layer, weight.to(block.dtype(layer))

    def _mixed(
        self,
        block: Block,
        layer: Pruned,
        shares: Array,
        scale: Tensor | None,
        problem: Quadratic | None,
        rule: Interpolation,
    ) -> Tensor:
        """Between the stored models, and refitted on the support if there is a problem to solve."""
        weight = torch.zeros(layer.shape, device=self._device)
        for anchor, share in enumerate(shares):
            if share:
                values, support = block.values(layer, anchor)
                weight[support.to(self._device)] += float(share) * values.to(weight)
        scores = weight.abs() if scale is None else weight.abs() * scale
        support, _ = pattern_of(layer.pattern).select(scores, self._core(block, layer, rule))
        weight *= support
        if problem is None:
            return weight
        target = problem.scaled(self._dense(layer)) @ problem.matrix
        refined = refine(problem, target, problem.scaled(weight), support, rule.steps)
        return problem.unscaled(refined)

    def _solved(
        self, problem: Quadratic, layers: Sequence[Pruned], block: Block, rule: Interpolation
    ) -> list[Tensor]:
        """Pruned anew on stored Gram matrices, in a few iterations."""
        jobs = []
        for layer in layers:
            dense = problem.scaled(self._dense(layer))
            core = self._core(block, layer, rule)
            jobs.append(Job(dense, dense, pattern_of(layer.pattern), core))
        solutions = follow(problem, jobs, rule.penalties())
        weights = []
        for job, found in zip(jobs, solutions, strict=True):
            target = job.dense @ problem.matrix
            refined = refine(problem, target, found.weight, found.support, rule.steps)
            weights.append(problem.unscaled(refined))
        return weights

    def _core(self, block: Block, layer: Pruned, rule: Interpolation) -> Tensor | None:
        core = block.core(layer) if rule.keep_core else None
        return core.to(self._device) if core is not None else None

    def _problem(self, block: Block, group: str, p: Array, rule: Interpolation) -> Quadratic:
        """H_λ of the layers of a group, at equal preferences that of all data."""
        used = [j for j in range(len(p)) if p[j] > 0]
        grams = (block.gram(group, j) for j in used)
        matrix = weighted(grams, p[used] / p.max(), self._device)
        what = f"the Gram matrix of {group} at {p.round(4).tolist()}"
        return Quadratic(matrix, rule.damping, rule.ridge, rule.scaled, what)

    def _scale(self, block: Block, group: str, p: Array) -> Tensor:
        """√diag(H_λ), (c,)."""
        diagonals = block.diagonals(group)
        assert diagonals is not None
        weights = torch.from_numpy(p).float()
        return (weights @ diagonals).clamp_min(0).sqrt().to(self._device)

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
        return {k: t.detach() for k, t in named_state(self.task.network()).items()}

    @torch.no_grad()
    def materialize(self, preference: ArrayLike) -> nn.Module:
        if self._network is None:
            self._network = self.task.network().to(self._device)
            self._state = named_state(self._network)
        for layer, weight in self.pruned(preference):
            self._state[layer.name].copy_(weight.mT if layer.transposed else weight)
        return self._network.eval()

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

    def facts(self) -> dict[str, Any]:
        """Non-zeros and sparsity of a model's pruned layers, and bytes: of all ``models`` as they
        are stored, of as many dense checkpoints, and of Gram matrices that are kept."""
        sizes = self._weights.shapes()
        dense = sum(
            int(np.prod(s)) * self._weights.dtype(name).itemsize for name, s in sizes.items()
        )
        pruned = sum(layer.shape[0] * layer.shape[1] for layer in self.layers.values())
        return {
            "nonzeros": self.nonzeros(),
            "sparsity": round(1 - self.nonzeros() / pruned, 9),
            "bytes": {**self.store.bytes(), "dense_models": len(self.anchors) * dense},
        }

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
        for path in self.store.files():
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
            raise ValueError(f"the dense model, {task.weights().name}, has changed since")
        rule = options["interpolation"]
        interpolation = Interpolation(**rule) if rule else None
        return cls(task, Store(folder), options["anchors"], preferences, interpolation)

    def to(self, device: torch.device | str) -> SparseSet:
        self._device = device
        if self._network is not None:
            self._network.to(device)
        return self
