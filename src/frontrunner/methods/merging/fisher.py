"""Fisher merging: experts averaged element by element, weighted by how sure each is of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from frontrunner.methods.base import choice, positive, whole
from frontrunner.methods.merging.base import Preferences
from frontrunner.methods.merging.statistics import DataMerger, merged_parameters
from frontrunner.pareto_sets.merged import Array, Rule
from frontrunner.runner.runner import Runner
from frontrunner.seeds import derive
from frontrunner.tasks.base import Batch
from frontrunner.tasks.merging import MergingTask

# (weights by name, one sample as a batch of 1, its label) -> a scalar to differentiate
Likelihood = Callable[[dict[str, Tensor], Batch, Tensor], Tensor]


@dataclass(frozen=True)
class FisherWeighted(Rule):
    """θ = Σ_k w_k F_k θ_k / Σ_k w_k F_k, element by element.

    Entries of F_k are raised to ``floor`` first, so that an entry no expert has information about
    becomes the average with weights w. Tensors without statistics (buffers) are averaged so too.
    """

    floor: float = 1e-6

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
        found = prepared.get(key)
        total, merged = torch.zeros_like(base), torch.zeros_like(base)
        for k, (expert, weight) in enumerate(zip(experts, weights, strict=True)):
            share = torch.ones_like(base) if found is None else found[k].to(base.dtype)
            share = share.clamp(min=self.floor).mul_(float(weight))
            total.add_(share)
            merged.addcmul_(share, expert)
        return merged.div_(total)


class FisherMerging(DataMerger):
    """Fisher merging: one model, or, with ``preferences=grid``, one for each preference.

    Source: Matena & Raffel, "Merging models with Fisher-weighted averaging", NeurIPS 2022,
    and its public code.

    Args:
        points, preferences, samples: see `DataMerger`.
        seed: of sampled labels.
        fisher: ``expected`` over the labels an expert predicts, which needs no labels (the paper),
            or ``empirical``: squared gradients of the task's loss, with labels.
        exact_classes: the expectation is exact over up to so many classes; beyond, or where a
            sample has several predictions (text), labels are sampled.
        draws: labels drawn for each sample where they are.
        normalize: ``expert`` divides each F_k by its root mean square, which weighs as the public
            code's unit norms do; ``none`` divides all by one number, which leaves
            Σ_k w_k F_k θ_k / Σ_k w_k F_k as it is.
        floor: least information, in units of that root mean square.
        batch_size: samples whose gradients are held at a time.

    Raises:
        ConfigError: an unknown choice, or a number out of range.
    """

    def __init__(
        self,
        points: int,
        seed: int,
        preferences: Preferences = "equal",
        fisher: str = "expected",
        exact_classes: int = 16,
        draws: int = 1,
        normalize: str = "expert",
        floor: float = 1e-6,
        samples: int | None = None,
        batch_size: int = 64,
    ) -> None:
        rule = FisherWeighted(float(positive("method.floor", floor)))
        super().__init__(rule, points, preferences, samples, batch_size)
        self.seed = seed
        self.fisher = choice("method.fisher", fisher, ("expected", "empirical"))
        self.exact_classes = whole("method.exact_classes", exact_classes, zero=True)
        self.draws = whole("method.draws", draws)
        self.normalize = choice("method.normalize", normalize, ("expert", "none"))

    def switches(self) -> dict[str, Any]:
        return {"fisher": self.fisher, "normalize": self.normalize, **super().switches()}

    def collect(self, task: MergingTask, runner: Runner) -> dict[str, Tensor]:
        found = super().collect(task, runner)
        squares = torch.stack([t.flatten(1).double().square().sum(1) for t in found.values()])
        count = sum(t[0].numel() for t in found.values())
        unit = (squares.sum(0) / count).sqrt()
        if self.normalize == "none":
            unit = unit.square().mean().sqrt().expand(len(unit))
        unit = unit.clamp(min=torch.finfo(torch.float32).tiny).float()
        return {key: t / unit.view(-1, *[1] * (t.ndim - 1)) for key, t in found.items()}

    def measure(
        self,
        task: MergingTask,
        network: nn.Module,
        batches: Iterator[Batch],
        k: int,
        runner: Runner,
    ) -> dict[str, Tensor]:
        weights = merged_parameters(task, network)
        total = {name: torch.zeros_like(t, dtype=torch.float32) for name, t in weights.items()}
        size = 0

        def predicted(state: dict[str, Tensor], sample: Batch, label: Tensor) -> Tensor:
            logits = functional_call(network, state, (sample[0], k))
            log = torch.log_softmax(logits.float(), dim=-1)
            return log.gather(-1, label[None, ..., None]).sum()

        def given(state: dict[str, Tensor], sample: Batch, label: Tensor) -> Tensor:
            return task.loss(functional_call(network, state, (sample[0], k)), sample, k)

        squared = PerSample(given if self.fisher == "empirical" else predicted)
        for number, batch in enumerate(batches):
            size += len(batch[0])
            if self.fisher == "empirical":
                nothing = torch.zeros(1, len(batch[0]), device=batch[0].device)
                labels, shares = nothing.long(), nothing + 1.0
            else:
                with torch.no_grad():
                    logits = network(batch[0], k).float()
                seed = derive(self.seed, "fisher", k, number)
                labels, shares = self.labels(logits, seed)
                runner.cost["forward_passes"] += 1
            for label, share in zip(labels, shares, strict=True):
                for name, square in squared(weights, batch, label, share).items():
                    total[name] += square
                runner.cost["forward_passes"] += 1
        return {name: t.div_(size).cpu() for name, t in total.items()}

    def labels(self, logits: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Labels (D, B, …) and their probabilities (D, B), Σ_d 1, of logits (B, …, classes)."""
        probabilities = logits.softmax(-1)
        size, classes = len(logits), logits.shape[-1]
        if logits.ndim == 2 and classes <= self.exact_classes:
            every = torch.arange(classes, device=logits.device)
            return every[:, None].expand(classes, size), probabilities.T
        source = torch.Generator().manual_seed(seed)
        flat = probabilities.flatten(0, -2).cpu()
        drawn = torch.multinomial(flat, self.draws, replacement=True, generator=source).T
        labels = drawn.reshape(self.draws, *logits.shape[:-1]).to(logits.device)
        return labels, logits.new_full((self.draws, size), 1.0 / self.draws)


class PerSample:
    """Σ_b s_b g_b² of the gradients g_b of each sample, by name, float32.

    Gradients are taken with `torch.func.vmap`; of a network that it refuses (one that branches on
    its data, say), sample by sample.
    """

    def __init__(self, function: Likelihood) -> None:
        self.function = function
        self.vectorize = True
        self._untried = True

    def __call__(
        self, weights: dict[str, Tensor], batch: Batch, labels: Tensor, shares: Tensor
    ) -> dict[str, Tensor]:
        def one(sample: Batch, label: Tensor) -> dict[str, Tensor]:
            return grad(self.function)(weights, tuple(t[None] for t in sample), label)

        if self.vectorize:
            try:
                with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no rule for vmap
                    gradients = vmap(one, randomness="different")(batch, labels)
            except RuntimeError as error:
                if not self._untried or isinstance(error, torch.OutOfMemoryError):
                    raise
                self.vectorize = False
            else:
                self._untried = False
                return {
                    name: torch.einsum("b,b...->...", shares, g.float().square())
                    for name, g in gradients.items()
                }
        total = {name: torch.zeros_like(t, dtype=torch.float32) for name, t in weights.items()}
        for i, (label, share) in enumerate(zip(labels, shares, strict=True)):
            for name, g in one(tuple(t[i] for t in batch), label).items():
                total[name] += share * g.float().square()
        return total
