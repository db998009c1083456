"""RegMean: each linear layer merged by least squares on the inputs that the experts saw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, unfold

from frontrunner.errors import ConfigError
from frontrunner.methods.base import choice, positive
from frontrunner.methods.merging.base import Preferences
from frontrunner.methods.merging.statistics import DataMerger, merged_parameters
from frontrunner.pareto_sets.merged import Array, Rule
from frontrunner.runner.runner import Runner
from frontrunner.tasks.base import Batch
from frontrunner.tasks.merging import MergingTask


@dataclass(frozen=True)
class GramWeighted(Rule):
    """W = (Σ_k w_k G_k)⁻¹ Σ_k w_k G_k W_k, W (in, out): the least Σ_k w_k ‖X_k (W - W_k)‖².

    Entries of G_k off the diagonal are multiplied by ``alpha``. Solved in float64, with a penalty
    ρ ‖W - W̄‖² towards the average W̄ with weights w, ρ = ``ridge`` times the mean diagonal of the
    sum: where no expert ever had an input, the average remains. Rounding may leave the sum short of
    positive definite; ρ is then raised tenfold until it is. Tensors without statistics are
    averaged.
    """

    alpha: float = 0.9
    ridge: float = 1e-6

    scaled = False

    def merge(
        self,
        key: str,
        base: Tensor,
        experts: Sequence[Tensor],
        weights: Array,
        scale: float,
        prepared: Any,
    ) -> Tensor:
        shares = (weights / weights.sum()).tolist()
        average = torch.zeros_like(base)
        for expert, share in zip(experts, shares, strict=True):
            average.add_(expert, alpha=share)
        if key not in prepared:
            return average
        center = average.flatten(1).double()
        size = center.shape[1]
        total = torch.zeros(size, size, dtype=torch.float64)
        right = torch.zeros(size, len(center), dtype=torch.float64)
        for gram, expert, share in zip(prepared[key], experts, shares, strict=True):
            if share == 0.0:
                continue
            reduced = gram.double().mul_(self.alpha)
            reduced.diagonal().copy_(gram.diagonal())
            total.add_(reduced, alpha=share)
            right.add_(reduced @ (expert.flatten(1) - center).T, alpha=share)
        moved = center + _solve(total, right, self.ridge).T
        return moved.view(base.shape).to(base.dtype)


def _solve(total: Tensor, right: Tensor, ridge: float) -> Tensor:
    """(total + ρ I)⁻¹ right, for a positive semi-definite total; 0 if it is 0 throughout."""
    mean = float(total.diagonal().mean())
    if mean == 0.0:
        return torch.zeros_like(right)
    while True:
        raised = total.clone()
        raised.diagonal().add_(ridge * mean)
        factor, failed = torch.linalg.cholesky_ex(raised)
        if not failed:
            return torch.cholesky_solve(right, factor)
        ridge *= 10.0


class RegMean(DataMerger):
    """RegMean: one model, or, with ``preferences=grid``, one for each preference.

    Source: Jin et al., "Dataless knowledge fusion by merging weights of language models", ICLR
    2023. G_k is the mean of x xᵀ over the inputs x of a layer of expert
    k: with as many inputs of each expert, and equal preferences, that is the paper's sum.

    Args:
        points, preferences, samples, batch_size: see `DataMerger`.
        alpha: what entries of G_k off the diagonal are multiplied by, in [0, 1].
        ridge: penalty that keeps the system solvable, as a share of its mean diagonal.
        convolutions: ``gram`` treats a convolution as the linear layer it is on its unfolded
            inputs (not in the paper); ``average`` averages it.

    Raises:
        ConfigError: an unknown choice, or a number out of range.
    """

    def __init__(
        self,
        points: int,
        preferences: Preferences = "equal",
        alpha: float = 0.9,
        ridge: float = 1e-6,
        convolutions: str = "gram",
        samples: int | None = None,
        batch_size: int = 64,
    ) -> None:
        if not 0 <= positive("method.alpha", alpha, zero=True) <= 1:
            raise ConfigError(f"method.alpha={alpha} must lie between 0 and 1")
        rule = GramWeighted(float(alpha), float(positive("method.ridge", ridge)))
        super().__init__(rule, points, preferences, samples, batch_size)
        self.convolutions = choice("method.convolutions", convolutions, ("gram", "average"))

    def switches(self) -> dict[str, Any]:
        return {"convolutions": self.convolutions, "biases": "averaged", **super().switches()}

    @torch.no_grad()
    def measure(
        self,
        task: MergingTask,
        network: nn.Module,
        batches: Iterator[Batch],
        k: int,
        runner: Runner,
    ) -> dict[str, Tensor]:
        merged = merged_parameters(task, network)
        grams: dict[str, Tensor] = {}
        seen: dict[str, int] = {}

        def hook(key: str) -> Any:
            def add(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
                x = layer_inputs(module, inputs[0].float())
                gram = x.T @ x
                grams[key] = grams[key] + gram if key in grams else gram
                seen[key] = seen.get(key, 0) + len(x)

            return add

        handles = [
            module.register_forward_pre_hook(hook(f"{name}.weight"))
            for name, module in network.named_modules()
            if f"{name}.weight" in merged and self._takes(module)
        ]
        try:
            for batch in batches:
                network(batch[0], k)
                runner.cost["forward_passes"] += 1
        finally:
            for handle in handles:
                handle.remove()
        return {key: (gram / seen[key]).cpu() for key, gram in grams.items()}

    def _takes(self, module: nn.Module) -> bool:
        if isinstance(module, nn.Conv2d):
            return self.convolutions == "gram" and module.groups == 1
        return isinstance(module, nn.Linear)


def layer_inputs(module: nn.Module, x: Tensor) -> Tensor:
    """What a layer multiplies by its weight, as rows: (…, in) or (B, c, h, w) -> (n, in).

    A convolution's are its patches, in the order of its flattened kernel.
    """
    if not isinstance(module, nn.Conv2d):
        return x.reshape(-1, x.shape[-1])
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padded = pad(x, module._reversed_padding_repeated_twice, mode=mode)
    kernel, dilation, stride = module.kernel_size, module.dilation, module.stride
    patches = unfold(padded, kernel, dilation=dilation, stride=stride)
    return patches.transpose(1, 2).flatten(0, 1)
