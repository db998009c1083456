"""A finite list of models of one architecture, stored stacked: one model per preference."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from frontrunner.errors import FrontError
from frontrunner.pareto_sets.base import ParetoSet
from frontrunner.preferences import Kind, validate
from frontrunner.tasks.base import Task


class FiniteSet(ParetoSet):
    """K models of one architecture.

    Args:
        network: a network of that architecture; its weights are overwritten by `materialize`.
        stacked: parameters and buffers by name, each with a leading dimension K.
        preferences: (K, m), one per model.
    """

    def __init__(
        self,
        network: nn.Module,
        stacked: dict[str, Tensor],
        preferences: ArrayLike,
        preference_kind: Kind,
    ) -> None:
        super().__init__(preferences, preference_kind)
        wrong = [k for k, t in stacked.items() if t.shape[0] != len(self.preferences)]
        if wrong:
            raise FrontError(f"{len(self.preferences)} preferences, but {wrong[0]} differs")
        self.network = network
        self.stacked = stacked

    def materialize(self, preference: ArrayLike) -> nn.Module:
        p = validate(preference, self.m)
        distance = np.abs(self.preferences - p).max(axis=1)
        k = int(distance.argmin())
        if distance[k] > 1e-6:
            raise FrontError(
                f"this set holds {len(self.preferences)} models and none for {p.tolist()}; "
                f"the nearest is {self.preferences[k].round(6).tolist()}"
            )
        state = self.network.state_dict(keep_vars=True)
        with torch.no_grad():
            for name, tensor in self.stacked.items():
                state[name].copy_(tensor[k])
        return self.network.eval()

    def tensors(self) -> dict[str, Tensor]:
        return self.stacked

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
        expected = {k: tuple(t.shape) for k, t in network.state_dict().items()}
        found = {k: tuple(t.shape[1:]) for k, t in tensors.items()}
        if expected != found:
            differing = sorted(set(expected.items()) ^ set(found.items()))
            raise ValueError(f"the stored tensors are not this model's: {differing[0]}")
        network.to(next(iter(tensors.values())).dtype)
        return cls(network, tensors, preferences, preference_kind)

    def to(self, device: torch.device | str) -> FiniteSet:
        self.network.to(device)
        self.stacked = {k: t.to(device) for k, t in self.stacked.items()}
        return self
