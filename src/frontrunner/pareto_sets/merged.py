"""Models merged from a base and experts, tensor by tensor, anew for each preference."""

from __future__ import annotations

import hashlib
import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from frontrunner.pareto_sets.base import ParetoSet
from frontrunner.tasks.base import Task
from frontrunner.tasks.merging import MergingTask
from frontrunner.weights.networks import place
from frontrunner.weights.parents import Parents

Array = NDArray[np.float64]

_STATISTICS = "statistics."


class Rule(ABC):
    """How tensors are merged. A subclass is a frozen dataclass whose fields are JSON values.

    A preference p reaches it as coefficients w = p / max(p): all 1 for equal preferences, so that
    ``scale`` is then the published coefficient λ of the merged task vector; 1 for the one expert of
    a one-hot preference, so that λ = 1 gives that expert.
    """

    elementwise: ClassVar[bool] = False
    """Whether each merged number depends on its own place alone, given what was prepared. `merge`
    then gets flat pieces of tensors instead of whole ones, which is quicker and takes no memory."""

    scaled: ClassVar[bool] = True
    """Whether the result depends on ``scale``."""

    def check(self, parents: Parents) -> None:  # noqa: B027 - most rules take any parents
        """Refuse parents this rule cannot merge.

        Raises:
            ConfigError: with what to change.
        """

    def prepare(self, parents: Parents) -> Any:
        """Whatever has to be known of all tensors before the first is merged."""
        return None

    @abstractmethod
    def merge(
        self,
        key: str,
        base: Tensor,
        experts: Sequence[Tensor],
        weights: Array,
        scale: float,
        prepared: Any,
    ) -> Tensor:
        """One merged tensor, in the dtype and shape of ``base`` (float32 or float64).

        ``prepared`` is what `prepare` returned, or the statistics of a set that has them.
        """


class MergedSet(ParetoSet):
    """What a merger by rule returns: parents, a rule, and a scale for each preference.

    It stores no weights of its own. Models are made in place, one tensor at a time.

    Args:
        task: supplies the parents and the network that merged weights go into.
        rule: how to merge.
        preferences: (n, K), read as weights.
        scales: (n,), one coefficient λ for each preference.
        statistics: what was measured on data, by name, for rules that merge by it: they get it as
            ``prepared``. It is saved with the set, so that any preference can be merged later
            without the data.
    """

    def __init__(
        self,
        task: MergingTask,
        rule: Rule,
        preferences: ArrayLike,
        scales: ArrayLike,
        statistics: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(preferences, "weight")
        self.task, self.rule = task, rule
        self.parents = task.parents()
        self.scales = np.broadcast_to(
            np.asarray(scales, dtype=np.float64), (len(self.preferences),)
        ).copy()
        self.statistics = dict(statistics or {})
        self._network: nn.Module | None = None
        self._prepared: tuple[Any] | None = None
        self._device: torch.device | str = "cpu"

    def scale(self, preference: Array) -> float:
        """The coefficient of a preference: that of the nearest preference it was chosen for."""
        distance = np.abs(self.preferences - preference).sum(axis=1)
        return float(self.scales[int(distance.argmin())])

    def state(self, preference: ArrayLike) -> Iterator[tuple[str, Tensor]]:
        return self.merge(preference, None)

    def merge(
        self, preference: ArrayLike, scale: float | None = None
    ) -> Iterator[tuple[str, Tensor]]:
        """The merged tensors by name, each in the base's dtype; None takes the set's own scale."""
        p = self.one(preference)
        weights = p / p.max()
        if scale is None:
            scale = self.scale(p)
        if self._prepared is None:
            self._prepared = (self.statistics or self.rule.prepare(self.parents),)
        for key in self.parents.base.shapes():
            dtype = self.parents.base.dtype(key)
            if self.parents.mergeable(key):
                yield key, self._merged(key, weights, scale).to(dtype)
            else:
                yield key, self.parents.base.read(key)

    def _merged(self, key: str, weights: Array, scale: float) -> Tensor:
        assert self._prepared is not None
        prepared = self._prepared[0]
        if not self.rule.elementwise:
            base, experts = self.parents.read(key)
            return self.rule.merge(key, base, experts, weights, scale, prepared)
        merged = torch.empty(self.parents.base.shapes()[key], dtype=self.parents.base.dtype(key))
        flat = merged.view(-1)
        for start, base, experts in self.parents.pieces(key):
            part = self.rule.merge(key, base, experts, weights, scale, prepared)
            flat[start : start + len(part)] = part
        return merged

    def materialize(self, preference: ArrayLike) -> nn.Module:
        return self.at_scale(preference, None)

    @torch.no_grad()
    def at_scale(self, preference: ArrayLike, scale: float | None) -> nn.Module:
        """`materialize` with another coefficient than the set's own."""
        if self._network is None:
            self._network = self.task.network().to(self._device)
        place(self._network, self.merge(preference, scale))
        return self._network.eval()

    def tensors(self) -> dict[str, Tensor]:
        measured = {f"{_STATISTICS}{name}": t for name, t in self.statistics.items()}
        return {"scales": torch.from_numpy(self.scales), **measured}

    def options(self) -> dict[str, Any]:
        kind = type(self.rule)
        return {
            "rule": f"{kind.__module__}.{kind.__qualname__}",
            "settings": asdict(self.rule),  # type: ignore[call-overload]
            "parents": self.parents.digest(),
        }

    @property
    def stored_parameters(self) -> int:
        """Of one model if the set is one model, else of base, experts and statistics."""
        if len(self.preferences) == 1:
            return self.parents.parameters
        measured = sum(t.numel() for t in self.statistics.values())
        return (1 + len(self.parents)) * self.parents.parameters + measured

    def digest(self) -> str:
        text = f"{super().digest()} {sorted(self.options().items())}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @classmethod
    def restore(
        cls,
        task: Task,
        tensors: dict[str, Tensor],
        preferences: NDArray[np.float64],
        preference_kind: str,
        options: dict[str, Any],
    ) -> MergedSet:
        module, _, name = options["rule"].rpartition(".")
        kind = getattr(importlib.import_module(module), name)
        if not (isinstance(kind, type) and issubclass(kind, Rule)):
            raise ValueError(f"{options['rule']} is not a merging rule")
        if not isinstance(task, MergingTask):
            raise ValueError(f"task '{task.name}' has no models to merge")
        statistics = {
            name.removeprefix(_STATISTICS): t
            for name, t in tensors.items()
            if name.startswith(_STATISTICS)
        }
        restored = cls(
            task, kind(**options["settings"]), preferences, tensors["scales"].numpy(), statistics
        )
        if restored.parents.digest() != options["parents"]:
            raise ValueError("the base or an expert has changed since")
        return restored

    def to(self, device: torch.device | str) -> MergedSet:
        self._device = device
        if self._network is not None:
            self._network.to(device)
        return self
