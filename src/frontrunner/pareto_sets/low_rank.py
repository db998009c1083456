"""A merged base and a low-rank tensor on chosen layers, contracted with the preference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear

from frontrunner.pareto_sets.base import ParetoSet
from frontrunner.preferences import Kind
from frontrunner.tasks.base import Task
from frontrunner.weights.networks import named_state, place


class LowRank(nn.Module):
    """ΔW(γ) = A (Σ_k γ_k G_k) Bᵀ for each of some layers: W(γ) = G ×₁ A ×₂ B ×₃ γ.

    Source: Chen & Kwok, "Pareto merging", ICML 2025. A convolution's kernel counts as a matrix
    (out, in · height · width).

    Args:
        shapes: (out, in) of each layer by name.
        rank: r; of a layer (c, d), A is (c, min(r, c)), B (d, min(r, d)) and G_k what fits between.
        m: number of objectives; 1 makes a change that no preference enters.
        vectors: shapes of whole tensors that follow the preference as Σ_k γ_k v_k.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, int]],
        rank: int,
        m: int,
        vectors: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        self.layers, self.m = list(shapes), m
        sizes = [(c, min(rank, c), min(rank, d), d) for c, d in shapes.values()]
        self.left = nn.ParameterList(torch.zeros(c, r) for c, r, _, _ in sizes)
        self.right = nn.ParameterList(torch.zeros(d, s) for _, _, s, d in sizes)
        self.core = nn.ParameterList(torch.zeros(m, r, s) for _, r, s, _ in sizes)
        self.vector_names = list(vectors or {})
        self.vectors = nn.ParameterList(torch.zeros(m, *s) for s in (vectors or {}).values())

    def factors(self, preference: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """A G(γ) (out, s) and Bᵀ (s, in) of each layer, for γ (m,)."""
        gamma = preference if self.m > 1 else preference.new_ones(1)
        return {
            name: (a @ torch.tensordot(gamma, core, 1), b.mT)
            for name, a, b, core in zip(self.layers, self.left, self.right, self.core, strict=True)
        }

    def shifts(self, preference: Tensor) -> dict[str, Tensor]:
        """Σ_k γ_k v_k of each whole tensor."""
        gamma = preference if self.m > 1 else preference.new_ones(1)
        return {
            name: torch.tensordot(gamma, v, 1)
            for name, v in zip(self.vector_names, self.vectors, strict=True)
        }

    def named(self) -> dict[str, Tensor]:
        """Factors by the names of their layers: ``left``, ``right``, ``core``, and ``shift``."""
        found = {}
        for i, name in enumerate(self.layers):
            found[f"{name}.left"], found[f"{name}.right"] = (
                self.left[i].detach(),
                self.right[i].detach(),
            )
            found[f"{name}.core"] = self.core[i].detach()
        for name, shift in zip(self.vector_names, self.vectors, strict=True):
            found[f"{name}.shift"] = shift.detach()
        return found

    def orthogonality(self) -> Tensor:
        """Σ ‖AᵀA - I‖² + ‖BᵀB - I‖² over layers."""
        total = self.left[0].new_zeros(())
        for factor in (*self.left, *self.right):
            gram = factor.mT @ factor
            total = total + (gram - torch.eye(len(gram)).to(gram)).square().sum()
        return total


class Paths:
    """Forward hooks by which layers add a low-rank path to their outputs.

    Weights stay untouched: changing the preference costs the factors, not the layers.
    """

    def __init__(self, network: nn.Module, layers: Sequence[str]) -> None:
        self.factors: Mapping[str, tuple[Tensor, Tensor]] = {}
        for name in layers:
            network.get_submodule(name).register_forward_hook(self._hook(name))

    def _hook(self, name: str) -> Any:
        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            found = self.factors.get(name)
            if found is None:
                return output
            left, right = (t.to(output.dtype) for t in found)
            if isinstance(module, nn.Conv2d):
                kernel = right.view(-1, *module.weight.shape[1:])
                stride, padding, dilation = module.stride, module.padding, module.dilation
                narrow = conv2d(inputs[0], kernel, None, stride, padding, dilation)
                return output + conv2d(narrow, left[:, :, None, None])
            narrow = linear(inputs[0], right).flatten(0, -2)
            return torch.addmm(output.flatten(0, -2), narrow, left.mT).view_as(output)

        return add


class LowRankSet(ParetoSet):
    """Base weights and a `LowRank` change: any preference is answered by the same few numbers.

    Args:
        network: with the base weights in place.
        names: tensors of the network that are the merged model's (the rest, such as heads, are the
            task's and are not stored).
        change: the factors.
        preferences: (n, m), those that make up the front.
    """

    def __init__(
        self,
        network: nn.Module,
        names: Sequence[str],
        change: LowRank,
        preferences: ArrayLike,
    ) -> None:
        super().__init__(preferences, "weight")
        self.network, self.names, self.change = network, list(names), change
        self.paths = Paths(network, change.layers)
        self.fixed: dict[str, Tensor] = {}
        self.rebase({})

    @torch.no_grad()
    def rebase(self, tensors: Mapping[str, Tensor]) -> None:
        """Put other base weights in place, those that are named."""
        place(self.network, {**self.fixed, **tensors}.items())
        state = named_state(self.network)
        self.fixed = {n: state[n].detach().clone() for n in self.change.vector_names}

    @torch.no_grad()
    def materialize(self, preference: ArrayLike) -> nn.Module:
        gamma = self._gamma(preference)
        self.paths.factors = self.change.factors(gamma)
        shifts = self.change.shifts(gamma).items()
        place(self.network, ((n, self.fixed[n] + shift) for n, shift in shifts))
        return self.network.eval()

    def adapter(self, preference: ArrayLike) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Layer, left (out, s) and right (s, in), of a convolution (s, in, height, width): their
        product is what the model of a preference adds to `beside`."""
        for name, (left, right) in self.change.factors(self._gamma(preference)).items():
            kernel = self.network.get_parameter(f"{name}.weight").shape[1:]
            yield name, left.detach(), right.detach().reshape(-1, *kernel)

    @torch.no_grad()
    def beside(self, preference: ArrayLike) -> Iterator[tuple[str, Tensor]]:
        """The weights of a preference without what the factors add."""
        shifts = self.change.shifts(self._gamma(preference))
        for name, base in self.base():
            yield name, (base + shifts[name]).to(base.dtype) if name in shifts else base

    @torch.no_grad()
    def state(self, preference: ArrayLike) -> Iterator[tuple[str, Tensor]]:
        factors = self.change.factors(self._gamma(preference))
        for name, tensor in self.beside(preference):
            layer = name.removesuffix(".weight")
            if layer in factors and name.endswith(".weight"):
                left, right = factors[layer]
                tensor = (tensor.to(left.dtype) + (left @ right).view_as(tensor)).to(tensor.dtype)
            yield name, tensor

    def base(self) -> Iterator[tuple[str, Tensor]]:
        """The base weights by name."""
        state = named_state(self.network)
        for name in self.names:
            yield name, self.fixed.get(name, state[name].detach())

    def _gamma(self, preference: ArrayLike) -> Tensor:
        like = self.change.left[0]
        return torch.as_tensor(self.one(preference), dtype=like.dtype, device=like.device)

    def tensors(self) -> dict[str, Tensor]:
        base = {f"base.{name}": tensor for name, tensor in self.base()}
        return base | {f"change.{n}": p.detach() for n, p in self.change.named_parameters()}

    def options(self) -> dict[str, Any]:
        return {"layers": self.change.layers, "vectors": self.change.vector_names}

    @classmethod
    def restore(
        cls,
        task: Task,
        tensors: dict[str, Tensor],
        preferences: NDArray[Any],
        preference_kind: Kind,
        options: dict[str, Any],
    ) -> LowRankSet:
        network = task.network()
        base = {n.removeprefix("base."): t for n, t in tensors.items() if n.startswith("base.")}
        place(network, base.items())
        layers = options["layers"]
        shapes = {n: (len(tensors[f"change.left.{i}"]), len(tensors[f"change.right.{i}"]))
                  for i, n in enumerate(layers)}  # fmt: skip
        cores = [tensors[f"change.core.{i}"].shape for i in range(len(layers))]
        m, rank = cores[0][0], max(max(c[1:]) for c in cores)
        vectors = {n: tensors[f"change.vectors.{i}"].shape[1:]
                   for i, n in enumerate(options["vectors"])}  # fmt: skip
        change = LowRank(shapes, rank, m, vectors)
        place(change, ((n, tensors[f"change.{n}"]) for n, _ in change.named_parameters()))
        return cls(network, list(base), change, preferences)

    def to(self, device: torch.device | str) -> LowRankSet:
        self.network.to(device)
        self.change.to(device)
        self.fixed = {n: t.to(device) for n, t in self.fixed.items()}
        return self
