"""A finite list of models of one architecture, stored stacked: one model per preference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from frontrunner.errors import FrontError
from frontrunner.pareto_sets.base import ParetoSet, as_own_dtype, check_state
from frontrunner.preferences import Kind
from frontrunner.tasks.base import Task
from frontrunner.weights.networks import named_state


class FiniteSet(ParetoSet):
    """K models of one architecture.

    Args:
        network: a network of that architecture; its weights are overwritten by `materialize`.
        stacked: parameters and buffers by name, each with a leading dimension K.
        preferences: (K, m), one per model.
        told: what records and reports say of how the models came about; JSON values.
    """

    def __init__(
        self,
        network: nn.Module,
        stacked: dict[str, Tensor],
        preferences: ArrayLike,
        preference_kind: Kind,
        told: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(preferences, preference_kind)
        wrong = [k for k, t in stacked.items() if t.shape[0] != len(self.preferences)]
        if wrong:
            raise FrontError(f"{len(self.preferences)} preferences, but {wrong[0]} differs")
        self.network = network
        self.stacked = stacked
        self.told = dict(told or {})
        if as_own_dtype not in network._forward_pre_hooks.values():
            network.register_forward_pre_hook(as_own_dtype)

    def index(self, preference: ArrayLike) -> int:
        """Which of the models is for a preference (m,).

        Raises:
            FrontError: none is.
        """
        p = self.one(preference)
        distance = np.abs(self.preferences - p).max(axis=1)
        k = int(distance.argmin())
        if distance[k] > 1e-6:
            raise FrontError(
                f"this set holds {len(self.preferences)} models and none for {p.tolist()}; "
                f"the nearest is {self.preferences[k].round(9).tolist()}"
            )
        return k

    def materialize(self, preference: ArrayLike) -> nn.Module:
        k = self.index(preference)
        state = named_state(self.network)
        with torch.no_grad():
            for name, tensor in self.stacked.items():
                state[name].copy_(tensor[k])
        return self.network.eval()

    def tensors(self) -> dict[str, Tensor]:
        return self.stacked

    def facts(self) -> dict[str, Any]:
        return self.told

    def options(self) -> dict[str, Any]:
        return {"told": self.told} if self.told else {}

    @classmethod
    def restore(
        cls,
        task: Task,
        tensors: dict[str, Tensor],
        preferences: NDArray[np.float64],
        preference_kind: Kind,
        options: dict[str, Any],
    ) -> FiniteSet:
        network = task.network()
        check_state({name: t.shape[1:] for name, t in tensors.items()}, network)
        network.to(tensors[next(network.named_parameters())[0]].dtype)
        return cls(network, tensors, preferences, preference_kind, (options or {}).get("told"))

    def to(self, device: torch.device | str) -> FiniteSet:
        self.network.to(device)
        self.stacked = {k: t.to(device) for k, t in self.stacked.items()}
        return self
