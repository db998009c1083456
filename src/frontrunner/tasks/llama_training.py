"""Training a small language model in few steps: Muon for matrices, Adam for the rest.

Muon (Jordan et al., 2024, kellerjordan.github.io/posts/muon) moves a matrix by its momentum with
all singular values made about equal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from frontrunner.seeds import generator
from frontrunner.tasks.experts import Recipe, own_stream
from frontrunner.tasks.text import next_token_loss

WARM_UP = 0.1  # of the steps
MOMENTUM = 0.95
BETAS = (0.9, 0.98)
_QUINTIC = (3.4445, -4.7750, 2.0315)  # Muon's coefficients, for five iterations
_ITERATIONS = 5


def train(
    network: nn.Module,
    texts: Sequence[Tensor],
    recipe: Recipe,
    seed: int,
    length: int,
    loss_of: Callable[[Tensor, Tensor], Tensor] = next_token_loss,
) -> None:
    """Train a network in place, on the mean of its losses over texts.

    The rate rises over the first tenth of the steps and falls to 0 along a cosine. Samples start
    anywhere in a text.

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
    muon = Muon(inner)
    adam = torch.optim.Adam(others, lr=recipe.learning_rate, betas=BETAS, fused=True)
    source = generator(seed, "language")
    offsets = torch.arange(length)
    with own_stream(seed, "dropout"):
        for step in range(recipe.steps):
            parts = []
            for ids in texts:
                size = (recipe.batch_size, 1)
                starts = torch.randint(len(ids) - length + 1, size, generator=source)
                parts.append(ids[starts + offsets])
            samples = torch.cat(parts)
            loss_of(network(samples), samples).backward()
            rate = recipe.learning_rate * _share(step, recipe.steps)
            adam.param_groups[0]["lr"] = rate
            adam.step()
            muon.step(rate)
            network.zero_grad()
    network.eval()


class Muon:
    """Momentum, made orthogonal, for matrices; those of one shape are moved together.

    Args:
        matrices: parameters (d, c).
    """

    def __init__(self, matrices: Sequence[nn.Parameter]) -> None:
        shapes: dict[tuple[int, int], list[tuple[nn.Parameter, bool]]] = {}
        for p in matrices:
            tall = p.shape[0] > p.shape[1]
            shapes.setdefault((min(p.shape), max(p.shape)), []).append((p, tall))
        self.groups = list(shapes.values())
        self.momenta = [torch.zeros(len(g), *shape) for shape, g in shapes.items()]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move by ``rate`` times an update whose entries have a root mean square of 0.2, as Adam's
        have about: one rate then serves both (Liu et al., 2025, arXiv:2502.16982)."""
        for group, momentum in zip(self.groups, self.momenta, strict=True):
            gradients = torch.stack([_flat(p.grad, tall) for p, tall in group])
            momentum.lerp_(gradients, 1 - MOMENTUM)
            updates = orthogonal(gradients.lerp(momentum, MOMENTUM))
            scale = 0.2 * math.sqrt(updates.shape[-1])
            for (p, tall), update in zip(group, updates, strict=True):
                p.sub_(_flat(update, tall), alpha=rate * scale)


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices (n, d, c), d <= c, with singular values of about 1 in place of their own, by a
    Newton-Schulz iteration; singular values come to lie between about 0.7 and 1.2."""
    a, b, c = _QUINTIC
    x = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _flat(matrix: Tensor | None, tall: bool) -> Tensor:
    assert matrix is not None
    return matrix.mT if tall else matrix


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
