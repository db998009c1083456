"""Which samples a coreset has: the selection rules of the coreset methods.

A rule takes a `Pool`, a number of samples and a generator, and returns indices with weights of mean
1, so that a learning rate keeps its meaning whatever the rule.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from frontrunner.coresets.facility import facility_location
from frontrunner.coresets.gradients import Gradients, LastLayer, Vectors
from frontrunner.coresets.omp import nonnegative_omp
from frontrunner.coresets.pool import Pool
from frontrunner.errors import ConfigError, nearest

VARIANTS = ("per_class", "per_class_per_gradient", "per_batch", "joint")
TARGETS = ("weighted", "stacked")


@dataclass(frozen=True)
class Selection:
    """A coreset.

    Attributes:
        indices: (k,), all different.
        weights: (k,) at least 0, of mean 1.
        filled: how many of them were drawn at random, since the rule found too few.
    """

    indices: Tensor
    weights: Tensor
    filled: int = 0


@dataclass(frozen=True)
class View:
    """How gradients of several objectives become those of one.

    Attributes:
        preference: λ, (m,).
        target: ``weighted`` matches Σ_j λ_j ∇f_j, ``stacked`` each λ_j ∇f_j by itself.
    """

    preference: Sequence[float] = (1.0,)
    target: str = "weighted"

    def of(self, seen: LastLayer) -> Gradients:
        """The gradients to select by."""
        if seen.m != len(self.preference):
            raise ConfigError(f"{len(self.preference)} preferences for {seen.m} objectives")
        combine = seen.stacked if self.target == "stacked" and seen.m > 1 else seen.weighted
        return combine(self.preference)


class Selector(ABC):
    """A selection rule.

    Attributes:
        looks: whether it looks at the network, and so may choose otherwise as training goes on.
        validates: whether it needs ``pool.validation``.
        instead: what else to do where there are too few samples for its classes.
    """

    looks = True
    validates = False
    instead = ""

    @abstractmethod
    def select(self, pool: Pool, count: int, view: View, generator: torch.Generator) -> Selection:
        """Choose ``count`` of the pool's samples."""

    def smallest(self, pool: Pool) -> int:
        """The smallest coreset it can choose."""
        return 1


class Random(Selector):
    """Samples drawn without replacement, all of weight 1."""

    looks = False

    def select(self, pool: Pool, count: int, view: View, generator: torch.Generator) -> Selection:
        return _even(torch.randperm(pool.size, generator=generator)[:count])


class _PerClass(Selector):
    """A rule that divides the coreset over the classes in proportion to their sizes.

    Of several columns of labels each combination is a class: what a class's samples add up to is
    matched class by class, so all classes together match the whole whichever way they are divided.
    """

    def smallest(self, pool: Pool) -> int:
        return int(pool.classes().max()) + 1

    def _by_class(
        self,
        pool: Pool,
        count: int,
        generator: torch.Generator,
        choose: Callable[[Tensor, int], tuple[Tensor, Tensor]],
    ) -> Selection:
        """``choose(indices of a class, how many) -> positions in it, weights``, for every class;
        where it finds too few, the rest is of the same class."""
        classes = pool.classes()
        sizes = torch.bincount(classes)
        indices, weights, drawn = [], [], []
        for c, number in enumerate(shares(sizes.tolist(), count)):
            own = (classes == c).nonzero()[:, 0]
            chosen, w = choose(own, number)
            chosen = chosen.cpu()
            indices.append(own[chosen])
            weights.append(w.double().cpu())
            drawn.append(own[_others(len(own), chosen, number - len(chosen), generator)])
        return _weighted(torch.cat(indices), torch.cat(weights), torch.cat(drawn))


class Craig(_PerClass):
    """CRAIG: facility location on distances between last-layer gradients, class by class.

    Source: Mirzasoleiman, Bilmes & Leskovec, ICML 2020. A class's distances take n_c² numbers.
    """

    def select(self, pool: Pool, count: int, view: View, generator: torch.Generator) -> Selection:
        def choose(own: Tensor, number: int) -> tuple[Tensor, Tensor]:
            gradients = view.of(pool.last_layer(own))
            squared = gradients.squared_norms()
            distance = gradients.gram().mul_(-2).add_(squared[:, None]).add_(squared)
            distance = distance.clamp_min_(0).sqrt_()
            return facility_location(distance.max() - distance, number)

        return self._by_class(pool, count, generator, choose)


class GradMatch(_PerClass):
    """GradMatch: orthogonal matching pursuit, so that weighted gradients add up to those of all.

    Source: Killamsetty et al., ICML 2021, and its code for what the paper leaves open.

    Args:
        variant: ``per_class`` (the classes by themselves, as large as their share of the data),
            ``per_class_per_gradient`` (by the derivative of the class's own output alone),
            ``per_batch`` (whole mini-batches, matched by their mean gradients) or ``joint``.
        batch_size: of the mini-batches of ``per_batch``.
        ridge: on the weights, see `nonnegative_omp`.
        tolerance: at which the pursuit ends early.
    """

    def __init__(
        self,
        variant: str = "per_class",
        batch_size: int = 32,
        ridge: float = 0.0,
        tolerance: float = 0.0,
    ) -> None:
        if variant not in VARIANTS:
            raise ConfigError(f"method.variant={variant} is unknown{nearest(variant, VARIANTS)}")
        self.variant, self.batch_size = variant, batch_size
        self.ridge, self.tolerance = ridge, tolerance

    instead = ", or method.variant=joint"

    def smallest(self, pool: Pool) -> int:
        return super().smallest(pool) if self.variant.startswith("per_class") else 1

    def select(self, pool: Pool, count: int, view: View, generator: torch.Generator) -> Selection:
        if self.variant == "per_batch":
            return self._batches(pool, count, view, generator)
        if self.variant == "joint":
            gradients = view.of(pool.last_layer())
            chosen, weights = self._pursue(gradients, gradients.mean() * pool.size, count)
            return _filled(chosen, weights, pool, count, generator)
        own_gradient = self.variant == "per_class_per_gradient"

        def choose(own: Tensor, number: int) -> tuple[Tensor, Tensor]:
            gradients = view.of(pool.last_layer(own))
            if own_gradient:
                gradients = _largest_residual(gradients)
            return self._pursue(gradients, gradients.mean() * len(own), number)

        return self._by_class(pool, count, generator, choose)

    def _pursue(
        self, atoms: Gradients | Vectors, target: Tensor, count: int
    ) -> tuple[Tensor, Tensor]:
        return nonnegative_omp(atoms, target, count, ridge=self.ridge, tolerance=self.tolerance)

    def _batches(self, pool: Pool, count: int, view: View, generator: torch.Generator) -> Selection:
        order = torch.randperm(pool.size, generator=generator)
        groups = order.split(min(self.batch_size, count))
        # Several mini-batches in one forward pass.
        together = max(1, pool.batch_size // len(groups[0]))
        means = []
        for start in range(0, len(groups), together):
            some = groups[start : start + together]
            gradients, first = view.of(pool.last_layer(torch.cat(some))), 0
            for group in some:
                means.append(gradients[torch.arange(first, first + len(group))].mean())
                first += len(group)
        sizes = torch.tensor([len(g) for g in groups], dtype=means[0].dtype)
        atoms = Vectors(torch.stack(means))
        target = (sizes.to(atoms.values) / pool.size) @ atoms.values
        chosen, weights = self._pursue(atoms, target, -(-count // len(groups[0])))
        if len(chosen) == 0:
            return _filled(chosen, weights, pool, count, generator)
        indices = torch.cat([groups[i] for i in chosen.tolist()])
        each = torch.cat(
            [w.expand(len(groups[i])) for i, w in zip(chosen.tolist(), weights, strict=True)]
        )
        return _filled(indices[:count], each[:count], pool, count, generator)


class Glister(Selector):
    """GLISTER: samples whose gradients lower the validation loss, greedily, a part at a time.

    After each part the last layers take a step along the sum of what was chosen, and the validation
    gradient is that of the moved layers. Source: Killamsetty et al., GLISTER, AAAI 2021 (Algorithm
    2, with the last-layer approximation of §4).

    Args:
        parts: how often the validation gradient is computed anew in one selection.
        rate: learning rate of those steps.
    """

    validates = True

    def __init__(self, parts: int = 10, rate: float = 0.05) -> None:
        self.parts, self.rate = parts, rate

    def select(self, pool: Pool, count: int, view: View, generator: torch.Generator) -> Selection:
        assert pool.validation is not None
        gradients = view.of(pool.last_layer())
        heads = pool.layers
        before = [{k: t.clone() for k, t in head.state_dict().items()} for head in heads]
        free = torch.ones(pool.size, dtype=torch.bool)
        chosen: list[Tensor] = []
        try:
            for part in range(self.parts):
                number = count * (part + 1) // self.parts - count * part // self.parts
                if number == 0:
                    continue
                goal = view.of(pool.validation.last_layer()).mean()
                gain = gradients.dot(goal).cpu()
                best = torch.where(free, gain, -torch.inf).topk(number).indices
                free[best] = False
                chosen.append(best)
                self._step(heads, number * gradients[best.to(goal.device)].mean())
        finally:
            for head, state in zip(heads, before, strict=True):
                head.load_state_dict(state)
        return _even(torch.cat(chosen))

    @torch.no_grad()
    def _step(self, heads: Sequence[torch.nn.Linear], gradient: Tensor) -> None:
        # A stacked gradient has a part for each objective; they act on the same layers.
        width = sum(h.weight.numel() + (0 if h.bias is None else len(h.bias)) for h in heads)
        for flat in gradient.split(width):
            start = 0
            for head in heads:
                c, d = head.weight.shape
                inputs = d + (head.bias is not None)
                step = self.rate * flat[start : start + c * inputs].view(c, inputs)
                start += c * inputs
                head.weight.sub_(step[:, :d])
                if head.bias is not None:
                    head.bias.sub_(step[:, d])


class KCenter(Selector):
    """k-centre: the sample farthest from all that are chosen, by the features of the last layers.

    Source: Sener & Savarese, Active learning for convolutional neural networks, ICLR 2018 (greedy).
    """

    def select(self, pool: Pool, count: int, view: View, generator: torch.Generator) -> Selection:
        features = torch.cat(pool.last_layer().features, dim=1)
        squared = features.square().sum(1)
        first = int(torch.randint(pool.size, (), generator=generator))
        chosen, distance = [first], torch.full_like(squared, torch.inf)
        for _ in range(count - 1):
            last = chosen[-1]
            to_last = squared - 2 * (features @ features[last]) + squared[last]
            distance = torch.minimum(distance, to_last)
            distance[last] = -torch.inf
            chosen.append(int(distance.argmax()))
        return _even(torch.tensor(chosen))


# ---------------------------------------------------------------------- pieces


def shares(sizes: Sequence[int], count: int) -> list[int]:
    """``count`` divided in proportion to ``sizes``: at least 1 and at most its size for each,
    exactly ``count`` in all (largest remainders).

    Raises:
        ConfigError: fewer than there are classes.
    """
    if count < len(sizes):
        raise ConfigError(f"a coreset of {count} samples has none for some of {len(sizes)} classes")
    total = sum(sizes)
    exact = [count * s / total for s in sizes]
    result = [min(s, max(1, int(e))) for s, e in zip(sizes, exact, strict=True)]
    while sum(result) != count:
        up = sum(result) < count
        step = 1 if up else -1
        # The class whose share is the farthest below (or above) what it should have.
        room = [
            (step * (e - r), -i)
            for i, (e, r, s) in enumerate(zip(exact, result, sizes, strict=True))
            if (r < s if up else r > 1)
        ]
        result[-max(room)[1]] += step
    return result


def _largest_residual(gradients: Gradients) -> Gradients:
    """By the derivative with respect to the class's own output: the one that all samples of a class
    have below 0."""
    factors = []
    for r, h in gradients.factors:
        own = int(r.sum(0).argmin())
        factors.append((r[:, own : own + 1], h))
    return Gradients(tuple(factors))


def _even(indices: Tensor) -> Selection:
    return Selection(indices.long(), torch.ones(len(indices)))


def _weighted(indices: Tensor, weights: Tensor, drawn: Tensor) -> Selection:
    """Weights of mean 1, and those drawn at random with weight 1."""
    scaled = weights / weights.mean() if float(weights.sum()) > 0 else torch.ones_like(weights)
    scaled = torch.cat([scaled.float(), torch.ones(len(drawn))])
    return Selection(torch.cat([indices, drawn]).long(), scaled, len(drawn))


def _filled(
    indices: Tensor, weights: Tensor, pool: Pool, count: int, generator: torch.Generator
) -> Selection:
    """The same, where a rule found fewer than ``count`` of the pool."""
    return _weighted(indices, weights, _others(pool.size, indices, count - len(indices), generator))


def _others(size: int, taken: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """``number`` of range(size) at random, none of them taken."""
    if number <= 0:
        return torch.empty(0, dtype=torch.long)
    free = torch.ones(size, dtype=torch.bool)
    free[taken] = False
    others = free.nonzero()[:, 0]
    return others[torch.randperm(len(others), generator=generator)[:number]]
