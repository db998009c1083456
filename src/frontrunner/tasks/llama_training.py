"""Training a small language model in few steps: Muon for matrices, Adam for the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from frontrunner.seeds import generator
from frontrunner.tasks.experts import Recipe, own_stream, paced
from frontrunner.tasks.text import next_token_loss

WARM_UP = 0.1  # of the steps
BETAS = (0.9, 0.98)
QUINTIC = (3.4445, -4.7750, 2.0315)  # of the Newton-Schulz iteration


class Muon(torch.optim.Optimizer):
    """`torch.optim.Muon` in float32, matrices of one shape together: that one works in bfloat16,
    which most CPUs emulate (ten times slower). Updates have the size that Adam's have.

    Args:
        params: matrices.
        momentum: Nesterov's.
        iterations: of Newton and Schulz, towards the nearest orthogonal matrix.
    """

    def __init__(
        self, params: Iterable[Tensor], *, momentum: float = 0.95, iterations: int = 5
    ) -> None:
        super().__init__(params, {"lr": 1e-3, "momentum": momentum, "iterations": iterations})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every matrix that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    if p not in self.state:
                        self.state[p]["momentum"] = torch.zeros_like(p)
                    mean = self.state[p]["momentum"].lerp_(p.grad, 1 - group["momentum"])
                    update = p.grad.lerp(mean, group["momentum"])
                    by_shape.setdefault(p.shape, []).append((p, update))
            for shape, found in by_shape.items():
                rate = group["lr"] * 0.2 * math.sqrt(max(shape))
                updates = orthogonal(torch.stack([u for _, u in found]), group["iterations"])
                for (p, _), update in zip(found, updates, strict=True):
                    p.sub_(update, alpha=rate)


def orthogonal(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Matrices (k, a, b) with all singular values near 1, by the quintic iteration of Muon."""
    a, b, c = QUINTIC
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def train(
    network: nn.Module,
    texts: Sequence[Tensor],
    recipe: Recipe,
    seed: int,
    length: int,
    loss_of: Callable[[Tensor, Tensor], Tensor] = next_token_loss,
) -> None:
    """Train a network in place, on the mean of its losses over texts.

    The rate rises over the first tenth of the steps and falls to 0 along a cosine; one serves both
    optimizers, since Muon's updates are scaled to the size that Adam's have (Liu et al., 2025,
    arXiv:2502.16982). Samples start anywhere in a text.

    Args:
        network: ``forward(ids)`` -> logits; left in evaluation mode.
        texts: token ids (n,) of each.
        recipe: how long and how fast; ``batch_size`` samples of each text per step. Its weight
            decay is not used.
        seed: of the samples.
        length: tokens of a sample.
        loss_of: (logits, ids) -> mean loss, a scalar.
    """
    network.train()
    inner, others = _matrices(network)
    optimizers = (
        Muon(inner),
        torch.optim.Adam(others, betas=BETAS, fused=True),
    )
    source = generator(seed, "language")
    offsets = torch.arange(length)
    with own_stream(seed, "dropout"):
        for step in paced(recipe.steps):
            parts = []
            for ids in texts:
                size = (recipe.batch_size, 1)
                starts = torch.randint(len(ids) - length + 1, size, generator=source)
                parts.append(ids[starts + offsets])
            samples = torch.cat(parts)
            loss_of(network(samples), samples).backward()
            for optimizer in optimizers:
                optimizer.param_groups[0]["lr"] = recipe.learning_rate * _share(step, recipe.steps)
                optimizer.step()
            network.zero_grad()
    network.eval()


def _share(step: int, steps: int) -> float:
    """Of the rate, at a step."""
    warm = min(1.0, (step + 1) / (WARM_UP * steps))
    return warm * 0.5 * (1 + math.cos(math.pi * step / steps))


def _matrices(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The weights of linear layers, without the head; and all other parameters."""
    head = getattr(network, "get_output_embeddings", lambda: None)()
    inner = {
        f"{name}.weight"
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }
    named = dict(network.named_parameters())
    return [named[n] for n in named if n in inner], [named[n] for n in named if n not in inner]
