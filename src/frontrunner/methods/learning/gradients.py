"""Networks trained together, each down a combination of its own objectives' gradients.

The mechanics of methods that look at every objective's gradient: one forward pass, m backward
passes, the inner products of the gradients, and a step. What the combination is, a method says as a
function of losses and inner products (`Combine`), which knows nothing of networks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frontrunner.errors import ConfigError, DivergenceError
from frontrunner.methods.learning import scalarization
from frontrunner.methods.learning.population import Population
from frontrunner.methods.learning.training import Training, train
from frontrunner.pareto_sets.base import ParetoSet
from frontrunner.pareto_sets.finite import FiniteSet
from frontrunner.preferences import Kind
from frontrunner.runner.learner import Update
from frontrunner.runner.runner import Runner
from frontrunner.seeds import derive
from frontrunner.tasks.base import Batch, Task

Array = NDArray[np.float64]

VANISHED = "vanished_gradients"


@dataclass(frozen=True)
class Moment:
    """What a combination is made from, in float64.

    Attributes:
        losses: (K, m) objectives on the mini-batch.
        gramians: (K, m, m) inner products of every network's own gradients, ∇f_j · ∇f_l.
        preferences: (K, m).
        members: (K,) numbers of the networks, which are not 0 … K-1 in a process that has a share.
        step: training step.
    """

    losses: Array
    gramians: Array
    preferences: Array
    members: NDArray[np.int64]
    step: int


@dataclass(frozen=True)
class Combination:
    """How gradients make a direction to descend.

    Attributes:
        weights: (K, m), network k descends Σ_j w_kj ∇f_j(θ_k); or (K, K, m), where it descends
            Σ_i Σ_j w_kij ∇f_j(θ_i), gradients of other networks among them.
        fallbacks: by name, (K,) whether network k's weights are what stands in for a solution.
    """

    weights: Array
    fallbacks: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)


Combine = Callable[[Moment], Combination]


class GradientPopulation(Population):
    """K networks of which each descends the combination of gradients that ``combine`` chooses.

    A network without any gradient gets equal weights. Such cases, and others in which a method has
    to make do, are counted for every network, in checkpoints too.

    The forward passes that are counted are K for each step; the m backward passes show in the
    seconds. With runner.shard=data each process combines the gradients of its part of a mini-batch.

    Args:
        task, preferences, training, seed, vectorize: as for `Population`.
        combine: losses and inner products -> weights.
        kind: how the preferences are read.
        fallbacks: names that ``combine`` may count.
        spread: start from K different initial weights, for methods whose preferences do not tell
            the networks apart; otherwise all start from the same ones.
        independent: whether the weights of a network depend on that network alone.
    """

    counts: Tensor

    def __init__(
        self,
        task: Task,
        preferences: Array,
        combine: Combine,
        training: Training,
        *,
        seed: int,
        vectorize: str,
        kind: Kind = "weight",
        fallbacks: Sequence[str] = (),
        spread: bool = False,
        independent: bool = True,
    ) -> None:
        super().__init__(
            task, preferences, scalarization.linear, training, seed=seed, vectorize=vectorize
        )
        self._combine, self._kind, self._independent = combine, kind, independent
        self._names = (VANISHED, *fallbacks)
        self.register_buffer("counts", torch.zeros(len(preferences), len(self._names)).long())
        if spread:
            self._spread(seed)

    @torch.no_grad()
    def _spread(self, seed: int) -> None:
        """Give every network but the first initial weights of its own, where they learn."""
        for k in range(1, len(self.preferences)):
            torch.manual_seed(derive(seed, "network", k))
            other = self._task.network()
            own = dict(other.named_parameters()) | dict(other.named_buffers())
            for name, tensor in self.state().items():
                if tensor.requires_grad or name in self._buffer_names:
                    tensor[k] = own[name]

    def divide(self, rank: int, world: int, add_up: Callable[[Tensor], None]) -> None:
        if not self._independent:
            raise ConfigError(
                "runner.shard=members is for methods whose networks do not need one another's "
                "losses; set runner.shard=data"
            )
        super().divide(rank, world, add_up)

    def update(self, batch: Batch, step: int) -> Update:
        losses = self.objectives(batch)
        jacobians = self._jacobians(losses)
        gramians = sum(torch.einsum("jkp,lkp->kjl", j, j).double() for j in jacobians)
        assert isinstance(gramians, Tensor)
        moment = self._moment(losses, gramians, step)
        weights = self._weights(moment).to(losses)
        mixed = "kj,jkp->kp" if weights.ndim == 2 else "kij,jip->kp"
        directions = [torch.einsum(mixed, weights, j) for j in jacobians]
        # Its gradient is the direction, its value the mean objective, for the learning curves.
        along = sum(
            (p[self._share].flatten(1) * d).sum()
            for p, d in zip(self.learned(), directions, strict=True)
        )
        assert isinstance(along, Tensor)
        loss = self._processes * (along - along.detach()) + losses.detach().mean()
        return Update(loss, passes=len(self.preferences))

    def after_step(self, turn: str, step: int) -> None:
        super().after_step(turn, step)
        if self._processes > 1:
            own = self.counts[self._share].clone()
            self.counts.zero_()[self._share] = own
            self._add_up(self.counts)

    def fallbacks(self) -> dict[str, int]:
        """How often each stand-in was used, over networks and steps up to the state kept."""
        return dict(zip(self._names, self.counts.sum(dim=0).tolist(), strict=True))

    def pareto_set(self) -> ParetoSet:
        found = super().pareto_set()
        assert isinstance(found, FiniteSet)
        found.preference_kind = self._kind
        return found

    # ------------------------------------------------------------------ one step

    def _jacobians(self, losses: Tensor) -> list[Tensor]:
        """(m, K, P) for each parameter that learns: gradients of every objective of every network.

        Networks share nothing, so the gradient of Σ_k f_j(θ_k) holds ∇f_j(θ_k) for each k.
        """
        m = self._grid.shape[1]
        if losses.ndim != 2 or losses.shape[1] != m:
            raise ConfigError(
                f"task '{self._task.name}' has {m} objectives, but its losses have shape "
                f"{tuple(losses.shape[1:])} for one network"
            )
        if not losses.requires_grad:
            raise ConfigError(
                f"task '{self._task.name}': no objective depends on a weight that learns; leave "
                "some part of the network unfrozen"
            )
        weights = self.learned()
        rows = [
            torch.autograd.grad(
                losses[:, j].sum(), weights, retain_graph=j < m - 1, materialize_grads=True
            )
            for j in range(m)
        ]
        return [
            torch.stack([row[i][self._share].flatten(1) for row in rows])
            for i in range(len(weights))
        ]

    def _moment(self, losses: Tensor, gramians: Tensor, step: int) -> Moment:
        values = losses.detach().double().cpu().numpy()
        products = gramians.cpu().numpy()
        if not (np.isfinite(values).all() and np.isfinite(products).all()):
            raise DivergenceError(f"a loss or a gradient is not finite at step {step}", step)
        members = np.arange(len(self.preferences))[self._share]
        return Moment(values, products, self._grid[self._share], members, step)

    def _weights(self, moment: Moment) -> Tensor:
        """The combination's weights, with equal ones where there is no gradient to weigh."""
        m = moment.losses.shape[1]
        vanished = np.einsum("kjj->k", moment.gramians) <= np.finfo(np.float64).tiny
        shown = moment.gramians.copy()
        shown[vanished] = np.eye(m)  # solvers need not know
        found = self._combine(replace(moment, gramians=shown))
        weights = np.array(found.weights)
        if weights.ndim == 2:
            weights[vanished] = 1.0 / m
        flags = {VANISHED: vanished, **found.fallbacks}
        for i, name in enumerate(self._names):
            if name in flags and flags[name].any():
                self.counts[self._share, i] += torch.as_tensor(flags[name]).to(self.counts)
        return torch.as_tensor(weights)


def fit_gradients(
    learner: GradientPopulation, task: Task, runner: Runner, training: Training
) -> tuple[ParetoSet, dict[str, int]]:
    """Train the networks; returns them as a finite set that tells how often a stand-in was used,
    and the same by name."""
    found = train(learner, task, runner, training, learner.pareto_set)
    assert isinstance(found, FiniteSet)
    counted = learner.fallbacks()
    found.told = {"fallbacks": counted}
    return found, counted
