"""One network conditioned on the preference: any preference is answered by the same weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from frontrunner.models.weights import WeightConditioning
from frontrunner.pareto_sets.base import ParetoSet, as_own_dtype, check_state
from frontrunner.preferences import Kind, to_sphere, validate
from frontrunner.tasks.base import Task
from frontrunner.weights.networks import named_state

Scale = Literal["simplex", "sphere"]


class AtPreference(nn.Module):
    """A conditioned network held at one preference: ``forward(inputs)``."""

    preference: Tensor

    def __init__(self, network: nn.Module, preference: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("preference", preference)
        self.register_forward_pre_hook(as_own_dtype)

    def forward(self, inputs: Tensor) -> Any:
        return self.network(inputs, self.preference)


class ConditionedNetwork(ParetoSet):
    """A network ``forward(inputs, preference)`` and the preferences that make up its front.

    Of a network whose weights depend on the preference (`WeightConditioning`) the model for one is
    the wrapped network itself, with weights of its own; of any other the conditioned network, held
    at the preference.

    Args:
        network: the conditioned network.
        scale: what the network is fed: the preference itself (``simplex``) or scaled to Euclidean
            length 1 (``sphere``), as methods with unit reference vectors train it.
    """

    def __init__(
        self,
        network: nn.Module,
        preferences: ArrayLike,
        preference_kind: Kind,
        scale: Scale = "simplex",
    ) -> None:
        super().__init__(preferences, preference_kind)
        self.network = network
        self.scale: Scale = scale

    def materialize(self, preference: ArrayLike) -> nn.Module:
        p = self.one(preference)
        if self.scale == "sphere":
            p = to_sphere(p)
        like = next(self.network.parameters())
        fed = torch.as_tensor(p, dtype=like.dtype, device=like.device)
        if isinstance(self.network, WeightConditioning):
            network = self.network.folded(fed)
            network.register_forward_pre_hook(as_own_dtype)
            return network
        return AtPreference(self.network, fed).eval()

    def many(self, preferences: ArrayLike) -> Callable[[Tensor], Any]:
        """The networks for preferences (k, m) as one function, whose outputs have a leading
        dimension
        k: one vectorised pass instead of k.

        Raises:
            FrontError: a preference that is not on the simplex.
        """
        p = np.atleast_2d(validate(preferences, self.m))
        like = next(self.network.parameters())
        fed = torch.as_tensor(
            to_sphere(p) if self.scale == "sphere" else p, dtype=like.dtype, device=like.device
        )
        self.network.eval()

        def networks(inputs: Tensor) -> Any:
            (cast,) = as_own_dtype(self.network, (inputs,))
            return torch.vmap(lambda one: self.network(cast, one))(fed)

        return networks

    def tensors(self) -> dict[str, Tensor]:
        return {name: tensor.detach() for name, tensor in named_state(self.network).items()}

    def options(self) -> dict[str, Any]:
        return {"scale": self.scale}

    @classmethod
    def restore(
        cls,
        task: Task,
        tensors: dict[str, Tensor],
        preferences: NDArray[np.float64],
        preference_kind: Kind,
        options: dict[str, Any],
    ) -> ConditionedNetwork:
        network = task.conditioned_network()
        check_state({name: t.shape for name, t in tensors.items()}, network)
        network.to(tensors[next(network.named_parameters())[0]].dtype)
        with torch.no_grad():
            for name, tensor in named_state(network).items():
                tensor.copy_(tensors[name])
        return cls(network, preferences, preference_kind, options["scale"])

    def to(self, device: torch.device | str) -> ConditionedNetwork:
        self.network.to(device)
        return self
