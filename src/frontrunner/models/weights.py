"""Networks whose weights depend on a preference: ``forward(inputs, preference)``.

Each wraps any network through `torch.func.functional_call`, so that its own code stays as it is.
``folded(preference)`` is the plain network for a preference: answering costs then what the wrapped
network costs.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from frontrunner.errors import ConfigError
from frontrunner.models.conditioning import build_network
from frontrunner.weights.networks import named_state, target_layers


class WeightConditioning(nn.Module, ABC):
    """A network with weights that are a function of the preference.

    Buffers (of batch normalisation, say), and weights that the network does not learn
    (``requires_grad=False``), are shared by all preferences. Tied weights stay tied.

    Args:
        factory: makes the network to wrap.
        m: number of objectives, the length of a preference.
    """

    def __init__(
        self,
        factory: Callable[..., nn.Module],
        input_shape: Sequence[int],
        output_sizes: Sequence[int],
        m: int,
    ) -> None:
        super().__init__()
        self.m = m
        self._factory = (factory, tuple(input_shape), tuple(output_sizes))
        network = build_network(*self._factory)
        self._shared_names = [n for n, t in named_state(network).items() if not _learns(t)]
        for i, name in enumerate(self._shared_names):
            tensor = named_state(network)[name].detach().clone()
            self.register_buffer(f"shared_{i}", tensor)
        self._prepare(network)
        # In a tuple, so that it is no submodule: of the network only its structure is used.
        empty = {n: torch.empty_like(t, device="meta") for n, t in named_state(network).items()}
        self._structure = (_with_tensors(network, empty),)

    @abstractmethod
    def _prepare(self, network: nn.Module) -> None:
        """Make this module's parameters from a fresh network."""

    @abstractmethod
    def weights(self, preference: Tensor) -> dict[str, Tensor]:
        """The network's parameters that depend on a preference (m,), by name."""

    def shared(self) -> dict[str, Tensor]:
        """The network's tensors that are the same for all preferences, by name."""
        return {name: getattr(self, f"shared_{i}") for i, name in enumerate(self._shared_names)}

    def forward(self, inputs: Tensor, preference: Tensor) -> Any:
        """(B, *input_shape) and (m,) -> what the network returns."""
        state = self.shared() | self.weights(preference)
        return functional_call(self._structure[0], state, (inputs,))

    @torch.no_grad()
    def folded(self, preference: Tensor) -> nn.Module:
        """A network of its own with the weights of a preference (m,), in evaluation mode."""
        state = self.shared() | self.weights(preference)
        network = _with_tensors(self._structure[0], {n: t.clone() for n, t in state.items()})
        return network.eval()

    def train(self, mode: bool = True) -> WeightConditioning:
        self._structure[0].train(mode)
        return super().train(mode)


def _learns(tensor: Tensor) -> bool:
    return tensor.requires_grad and tensor.numel() > 0


def _learning(network: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are to depend on the preference.

    Raises:
        ConfigError: there are none.
    """
    found = {name: p for name, p in network.named_parameters() if _learns(p)}
    if not found:
        raise ConfigError(
            "every weight of the network is frozen, so that none can depend on the preference: "
            "set conditioning=film or conditioning=low_rank"
        )
    return found


def _with_tensors(network: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A copy of a network that has other tensors, those of `named_state`; its own are not copied,
    and what is tied stays tied."""
    memo: dict[int, Any] = {}
    for name, tensor in named_state(network).items():
        new: Tensor = tensors[name].detach()
        if isinstance(tensor, nn.Parameter):
            new = nn.Parameter(new, requires_grad=tensor.requires_grad)
        memo[id(tensor)] = new
    return copy.deepcopy(network, memo)


class Ensemble(WeightConditioning):
    """θ(λ) = Σ_i λ_i θ_i: a network for each objective, and their convex combinations.

    Source: Dimitriadis, Frossard & Fleuret, "Pareto manifold learning", ICML 2023 (PaMaL).

    Args:
        apart: every member has initial weights of its own; otherwise all start from the same.
    """

    def __init__(
        self,
        factory: Callable[..., nn.Module],
        input_shape: Sequence[int],
        output_sizes: Sequence[int],
        m: int,
        apart: bool = True,
    ) -> None:
        self._apart = apart
        super().__init__(factory, input_shape, output_sizes, m)

    def _prepare(self, network: nn.Module) -> None:
        members = [network]
        for _ in range(self.m - 1):
            members.append(build_network(*self._factory) if self._apart else network)
        self._names = list(_learning(network))
        self.members = nn.ParameterList(
            torch.stack([member.get_parameter(name).detach() for member in members])
            for name in self._names
        )

    def weights(self, preference: Tensor) -> dict[str, Tensor]:
        return {
            name: torch.tensordot(preference, stacked, 1)
            for name, stacked in zip(self._names, self.members, strict=True)
        }


class LowRankUpdates(WeightConditioning):
    """θ_l(λ) = θ_0,l + s Σ_i λ_i B_il A_il: one network, and a low-rank update for each objective.

    A convolution's kernel counts as a matrix (out, in · height · width), and a weight that several
    layers share is updated once. What is not updated (biases, normalisation) is the same for all
    preferences. B starts at 0, so that every preference starts from the same network. Source: Chen
    & Kwok, "Efficient Pareto manifold learning with low-rank structure", ICML 2024 (LORPMAN).

    Args:
        rank: r of each B (out, r) and A (r, in); at most what the layer allows.
        scale: s.
        layers: patterns of names of linear and ungrouped convolution layers to update.

    Attributes:
        frozen: whether θ_0 is held as it is, so that training moves A and B alone.

    Raises:
        ConfigError: no layer of that name, a rank below 1, or a scale of 0 or less.
    """

    def __init__(
        self,
        factory: Callable[..., nn.Module],
        input_shape: Sequence[int],
        output_sizes: Sequence[int],
        m: int,
        rank: int = 4,
        scale: float = 1.0,
        layers: Sequence[str] = ("*",),
    ) -> None:
        if not isinstance(rank, int) or rank < 1:
            raise ConfigError(f"conditioning.rank={rank} must be a whole number of at least 1")
        if not isinstance(scale, int | float) or not 0 < scale < math.inf:
            raise ConfigError(f"conditioning.scale={scale} must be more than 0")
        self._rank = rank
        self._patterns = [layers] if isinstance(layers, str) else list(layers)
        if not self._patterns:
            raise ConfigError("conditioning.layers is empty; '*' is every layer")
        self.scale, self.frozen = float(scale), False
        super().__init__(factory, input_shape, output_sizes, m)

    def _prepare(self, network: nn.Module) -> None:
        learning = {name: p for name, p in network.named_parameters() if _learns(p)}
        self._names = list(learning)
        self.base = nn.ParameterList(nn.Parameter(p.detach().clone()) for p in learning.values())
        self._updated = _weights_of(network, self._patterns)
        self.a, self.b = nn.ParameterList(), nn.ParameterList()
        for rows, columns in self._updated.values():
            r = min(self._rank, rows, columns)
            self.a.append(torch.randn(self.m, r, columns) / math.sqrt(columns))
            self.b.append(torch.zeros(self.m, rows, r))

    def weights(self, preference: Tensor) -> dict[str, Tensor]:
        base = [w.detach() if self.frozen else w for w in self.base]
        found = self.shared() | dict(zip(self._names, base, strict=True))
        for name, a, b in zip(self._updated, self.a, self.b, strict=True):
            # Σ_i λ_i B_i A_i as one product of the factors side by side.
            left = (preference[:, None, None] * b).movedim(0, 1).flatten(1)
            update = left @ a.flatten(0, 1)
            found[name] = found[name] + self.scale * update.view_as(found[name])
        return found

    def overlap(self, objectives: Sequence[int] | None = None, kind: str = "cosine") -> Tensor:
        """How far the updates of objectives are from orthogonal: for each layer the squared inner
        products of each pair, averaged over pairs, and over layers.

        Args:
            objectives: those to look at; None is all.
            kind: ``plain`` inner products of the flattened updates, or their ``cosine``.
        """
        chosen = torch.arange(self.m) if objectives is None else torch.as_tensor(objectives)
        pairs = torch.triu_indices(len(chosen), len(chosen), 1)
        total = self.a[0].new_zeros(())
        for a, b in zip(self.a, self.b, strict=True):
            a, b = a[chosen], b[chosen]
            # <B_i A_i, B_j A_j> = <B_iᵀB_j, A_i A_jᵀ>: no update is formed.
            inner = torch.einsum("ior,jos->ijrs", b, b) * torch.einsum("irc,jsc->ijrs", a, a)
            gram = inner.sum((2, 3))
            if kind == "cosine":
                norms = gram.diagonal().clamp_min(1e-12).sqrt()
                gram = gram / (norms[:, None] * norms)
            total = total + gram[pairs[0], pairs[1]].square().mean()
        return total / len(self.a)


def _weights_of(network: nn.Module, patterns: Sequence[str]) -> dict[str, tuple[int, int]]:
    """The weights of layers that match a pattern, under the first name of each, with (out, in)."""
    names = {id(p): name for name, p in network.named_parameters()}
    found = {}
    for layer, shape in target_layers(network, patterns, "conditioning.layers").items():
        weight = network.get_submodule(layer).weight
        if id(weight) not in names:
            raise ConfigError(
                f"conditioning.layers: the weight of '{layer}' is no parameter of its own "
                "(parametrized?); leave this layer out"
            )
        if min(shape) > 0:
            found[names[id(weight)]] = shape
    if not found:
        raise ConfigError("conditioning.layers: only layers without weights are named")
    return found


class HyperNetwork(WeightConditioning):
    """A network that makes another's weights: θ(λ) = heads(trunk(λ)).

    The trunk is ``depth`` linear layers with ReLU between them, and a linear head makes each of the
    network's tensors. With 100 hidden units and the 31,910 weights of the benchmarks' LeNet it has
    3,243,410. Source: Navon et al., "Learning the Pareto front with hypernetworks", ICLR 2021
    (PHN).

    Args:
        hidden: width of the trunk.
        depth: its linear layers.
        start: ``published``: as PyTorch initialises linear layers; or ``network``: the heads'
            biases are a fresh network's weights and their matrices a tenth of their size, so that
            training starts where the network itself would.
    """

    def __init__(
        self,
        factory: Callable[..., nn.Module],
        input_shape: Sequence[int],
        output_sizes: Sequence[int],
        m: int,
        hidden: int = 100,
        depth: int = 3,
        start: str = "published",
    ) -> None:
        if start not in ("published", "network"):
            raise ConfigError(f"conditioning.start={start} is not one of published, network")
        for name, value in (("hidden", hidden), ("depth", depth)):
            if not isinstance(value, int) or value < 1:
                raise ConfigError(
                    f"conditioning.{name}={value} must be a whole number of at least 1"
                )
        self._sizes, self._start = (hidden, depth), start
        super().__init__(factory, input_shape, output_sizes, m)

    def _prepare(self, network: nn.Module) -> None:
        hidden, depth = self._sizes
        trunk: list[nn.Module] = [nn.Linear(self.m, hidden)]
        for _ in range(depth - 1):
            trunk += [nn.ReLU(), nn.Linear(hidden, hidden)]
        self.trunk = nn.Sequential(*trunk)
        learning = _learning(network)
        self._shapes = {name: parameter.shape for name, parameter in learning.items()}
        self.heads = nn.ModuleList(nn.Linear(hidden, p.numel()) for p in learning.values())
        if self._start == "network":
            with torch.no_grad():
                for head, parameter in zip(self.heads, learning.values(), strict=True):
                    head.bias.copy_(parameter.flatten())  # type: ignore[operator]
                    scale = 0.1 * parameter.std(correction=0).nan_to_num() + 1e-3
                    head.weight.mul_(scale)  # type: ignore[operator]

    def weights(self, preference: Tensor) -> dict[str, Tensor]:
        code = self.trunk(preference)
        return {
            name: head(code).view(shape)
            for head, (name, shape) in zip(self.heads, self._shapes.items(), strict=True)
        }
