"""What pruning methods share: patterns, calibration, preferences, the way through the blocks."""

from __future__ import annotations

import fnmatch
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from frontrunner import files
from frontrunner.errors import ConfigError, nearest
from frontrunner.methods.base import Method, choice, whole
from frontrunner.methods.pruning.blockwise import (
    Blockwise,
    Devices,
    Group,
    Norm,
    Stream,
    source,
)
from frontrunner.models.blocks import Decoder
from frontrunner.pareto_sets.base import ParetoSet
from frontrunner.pareto_sets.sparse import Interpolation, SparseSet
from frontrunner.preferences import grid, with_uniform
from frontrunner.runner.runner import Runner
from frontrunner.sparse.patterns import Pattern, parse
from frontrunner.sparse.quadratic import weighted
from frontrunner.sparse.store import Models, Store
from frontrunner.tasks.base import Task
from frontrunner.tasks.pruning import PruningTask

Array = NDArray[np.float64]
Calibration = Literal["concatenated", "per_objective", "weighted"]


class Pruner(Method):
    """Prunes the linear layers of a decoder's blocks; embeddings and the head stay dense.

    Args:
        points: size of the lattice of preferences.
        sparsity: share of zeros in every layer, in (0, 1).
        pattern: ``unstructured``, or N:M: N of every M inputs are kept, whatever ``sparsity``.
        allocation: sparsities, or N:M, of layers that differ, by patterns of their names, such as
            ``{"*.down_proj.weight": 0.6, "*.up_proj.weight": "2:4"}``; the last that matches
            counts.
        calibration: ``concatenated`` (all objectives' data, one model), ``per_objective`` (a model
            for each objective, on its data alone) or ``weighted`` (a model for each preference, on
            Σ_j λ_j H_j: the expensive bound).
        norm: what each objective's Gram matrix is divided by: nothing (the paper), its number of
            ``tokens``, or its mean diagonal (``trace``).
        batch: segments per forward pass.

    Raises:
        ConfigError: a value that cannot be.
    """

    # Whether calibration data are needed.
    data = True
    # One process uses all its devices.
    distributed = False
    answers_any = False

    def __init__(
        self,
        points: int,
        sparsity: float = 0.7,
        pattern: str = "unstructured",
        allocation: Mapping[str, float | str] | None = None,
        calibration: Calibration = "concatenated",
        norm: Norm = "none",
        batch: int = 8,
    ) -> None:
        self.points, self.batch = points, whole("method.batch", batch)
        self.pattern = self._parsed("method.sparsity and method.pattern", pattern, sparsity)
        self.allocation: dict[str, Pattern] = {}
        if not isinstance(allocation, Mapping | None):
            raise ConfigError(
                f"method.allocation={allocation} is no table, such as {{*.down_proj.weight: 0.6}}"
            )
        for name, own in (allocation or {}).items():
            words, share = (own, sparsity) if isinstance(own, str) else ("unstructured", own)
            key = f"method.allocation of '{name}'"
            self.allocation[str(name)] = self._parsed(key, words, share)
        self.calibration = choice(
            "method.calibration", calibration, ("concatenated", "per_objective", "weighted")
        )
        choice("method.norm", norm, ("none", "tokens", "trace"))
        self.norm: Norm = norm

    def parse(self, pattern: str, sparsity: float) -> Pattern:
        """The supports that ``pattern`` and ``sparsity`` allow.

        Raises:
            ConfigError: none do.
        """
        return parse(pattern, sparsity)

    def _parsed(self, key: str, pattern: str, sparsity: float) -> Pattern:
        try:
            return self.parse(pattern, sparsity)
        except ConfigError as error:
            raise ConfigError(f"{key}: {error}") from None

    # ------------------------------------------------------------------ for subclasses

    @abstractmethod
    def solve(self, group: Group, gram: Tensor | None, device: str) -> Mapping[str, Models]:
        """Prune the layers of one input, on one Gram matrix (c, c); None if there are no data."""

    # ------------------------------------------------------------------ the method

    def check(self, task: Task) -> None:
        pruning_task(task)
        if self.calibration == "weighted":
            self.lattice(task.m)

    def switches(self) -> dict[str, Any]:
        return {"calibration": self.calibration, "norm": self.norm} if self.data else {}

    def lattice(self, m: int) -> Array:
        """(n, m): the simplex lattice, and equal preferences where they are not among it."""
        return with_uniform(grid(m, self.points))

    def anchors(self, m: int) -> Array:
        """(a, m): the preferences that models are pruned for."""
        if self.calibration == "concatenated":
            return np.full((1, m), 1.0 / m)
        return np.eye(m) if self.calibration == "per_objective" else self.lattice(m)

    def fit(self, task: Task, runner: Runner) -> ParetoSet:
        task = pruning_task(task)
        decoder = Decoder(task.network())
        patterns = self.patterns(decoder.shapes())
        segments = [task.calibration(k) for k in range(task.m)] if self.data else []
        store = Store(
            runner.directory / "pareto_set", source(task.weights(), task.template, segments)
        )
        devices = Devices(runner.one_shot_devices)
        anchors = self.anchors(task.m)
        parts = self.passes(anchors) * len(decoder)
        path = runner.checkpoint.with_name("cost.json")
        earlier = files.read_json(path) if path.is_file() else {}  # of attempts that were killed
        start = time.perf_counter()

        def spent() -> dict[str, float]:
            own = {"seconds": time.perf_counter() - start, "forward_passes": blockwise.passes}
            own |= {f"{name}_seconds": seconds for name, seconds in blockwise.seconds.items()}
            return {name: value + earlier.get(name, 0) for name, value in own.items()}

        with runner.one_shot(parts, len(devices.names)) as advance:

            def report() -> None:
                advance()
                files.write_json(path, spent())

            blockwise = Blockwise(
                decoder, patterns, segments, devices, store, self.norm, self.batch, report
            )
            self.go(blockwise, anchors)
        runner.cost.update(spent())
        preferences, interpolation = self.answers(anchors)
        return SparseSet(task, store, anchors, preferences, interpolation)

    def passes(self, anchors: Array) -> int:
        """How often the blocks are gone through."""
        return len(anchors)

    def go(self, blockwise: Blockwise, anchors: Array) -> None:
        """One pass for every anchor."""
        for number, p in enumerate(anchors):
            used = [j for j in range(len(p)) if p[j] > 0] if self.data else []

            def solve(
                groups: Sequence[Group],
                devices: Devices,
                p: Array = p,
                used: Sequence[int] = used,
            ) -> Mapping[str, Models]:
                def one(group: Group, device: str) -> Mapping[str, Models]:
                    # Equal preferences give the sum of all data, one-hot ones an objective's own.
                    shares = p[list(used)] / p.max()
                    gram = weighted(group.grams, shares, device) if used else None
                    return self.solve(group, gram, device)

                found: dict[str, Models] = {}
                for part in devices.map(one, groups):
                    found.update(part)
                return found

            blockwise.run(number, [number], [Stream(j) for j in used], solve)

    def answers(self, anchors: Array) -> tuple[Array, Interpolation | None]:
        """The preferences of the front, and how those between anchors are answered."""
        return anchors, None

    # ------------------------------------------------------------------ details

    def patterns(self, shapes: Mapping[str, tuple[int, int]]) -> dict[str, Pattern]:
        """The pattern of every layer, by the name of its weight.

        Raises:
            ConfigError: an allocation that matches no layer, or a pattern that does not fit one.
        """
        found = dict.fromkeys(shapes, self.pattern)
        for name, pattern in self.allocation.items():
            matched = fnmatch.filter(shapes, name)
            if not matched:
                raise ConfigError(
                    f"method.allocation: no layer is called '{name}'"
                    f"{nearest(name, shapes) or f'; one is {next(iter(shapes))}'}"
                )
            found.update(dict.fromkeys(matched, pattern))
        for name, pattern in found.items():
            pattern.check(name, shapes[name])
        return found


def pruning_task(task: Task) -> PruningTask:
    """``task`` if it has a model to prune.

    Raises:
        ConfigError: it has none.
    """
    if not isinstance(task, PruningTask):
        raise ConfigError(f"task '{task.name}' has no model to prune; use task=text_domains")
    return task
