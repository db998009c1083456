"""Pareto merging in training: factors, one preference for each step, and what they minimise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from frontrunner.errors import ConfigError
from frontrunner.methods.base import choice, positive
from frontrunner.methods.learning import scalarization
from frontrunner.methods.merging.base import volume
from frontrunner.methods.merging.coefficients import Coefficients
from frontrunner.methods.merging.entropy import entropy
from frontrunner.pareto_sets.low_rank import LowRankSet
from frontrunner.preferences import corner_stratified, dirichlet, quasi_random
from frontrunner.runner.learner import Learner, Schedule, Update, learning_rate_schedule
from frontrunner.seeds import derive
from frontrunner.tasks.merging import MergingTask
from frontrunner.weights.networks import with_state
from frontrunner.weights.parents import Parents

Array = NDArray[np.float64]
OBJECTIVES = ("entropy", "distance", "distillation", "loss")
SAMPLINGS: dict[str, Callable[..., Array]] = {
    "dirichlet": dirichlet,
    "corner_stratified": lambda m, n, p, seed: corner_stratified(m, n, p, seed, corner=0.5),
    "quasi_random": quasi_random,
}


@dataclass(frozen=True)
class Settings:
    """How factors are trained; `ParetoMerging` documents each."""

    objective: str
    scalarization: str
    mu: float
    sampling: str
    concentration: float
    orthogonality: float
    preference_rate: float
    conditioned: bool
    steps: int
    batch_size: int
    learning_rate: float
    schedule: str
    rounds: int
    select: str
    seed: int

    def __post_init__(self) -> None:
        choice("method.objective", self.objective, OBJECTIVES)
        choice("method.scalarization", self.scalarization, ("stch", "tch", "linear"))
        choice("method.sampling", self.sampling, SAMPLINGS)
        if not 0.0 <= self.preference_rate <= 1.0:
            rate = self.preference_rate
            raise ConfigError(f"method.preference_rate={rate} must lie between 0 and 1")
        choice("method.select", self.select, ("objective", "validation", "last"))
        for name in ("mu", "concentration", "batch_size", "learning_rate", "rounds"):
            positive(f"method.{name}", getattr(self, name))
        for name in ("orthogonality", "steps"):
            positive(f"method.{name}", getattr(self, name), zero=True)
        self.rate_schedule()

    def rate_schedule(self) -> Schedule:
        """The learning-rate factor as a function of progress."""
        return learning_rate_schedule(self.schedule)

    @property
    def needs_data(self) -> bool:
        """Whether the objective looks at inputs."""
        return self.objective != "distance"


def drawn(settings: Settings, m: int) -> Array:
    """The preference of each step, (steps, m): a function of the seed alone."""
    seed = derive(settings.seed, "preferences") % 2**32
    draws = SAMPLINGS[settings.sampling](m, settings.steps, settings.concentration, seed)
    if settings.sampling == "corner_stratified":  # its first rows are the pulled ones
        draws = np.random.default_rng(seed).permutation(draws)
    return draws


class Factors(Learner):
    """The factors in training: one preference for each step.

    Its own state is the factors; network and parents are given to it and not in checkpoints.
    """

    drawn: Tensor

    def __init__(
        self,
        settings: Settings,
        task: MergingTask,
        pareto_set: LowRankSet,
        parents: Parents,
        coefficients: Coefficients | None = None,
    ) -> None:
        super().__init__()
        self.change, self.coefficients = pareto_set.change, coefficients
        self.settings, self._given = settings, (task, pareto_set)
        self.schedule: Schedule = settings.rate_schedule()
        draws = drawn(settings, task.m)
        self.register_buffer("drawn", torch.tensor(draws, dtype=torch.float32), persistent=False)
        if settings.preference_rate < 1.0:
            for p in (*self.change.core, *self.change.vectors):
                p.register_hook(self._damped)
        self.experts: list[dict[str, Tensor]] = []
        if settings.objective == "distillation":
            like = dict(pareto_set.base())
            self.experts = [
                {key: expert.read(key).to(tensor) for key, tensor in like.items()}
                for expert in parents.experts
            ]
        if not settings.needs_data:
            self.distances = Distances(pareto_set, parents)

    def _damped(self, gradient: Tensor) -> Tensor:
        mean = gradient.mean(0, keepdim=True)
        return mean + self.settings.preference_rate * (gradient - mean)

    def optimizers(self) -> dict[str, Optimizer]:
        return {"weights": Adam(self.parameters(), lr=self.settings.learning_rate)}

    def update(self, batch: Any, step: int) -> Update:
        task, _ = self._given
        gamma = self.drawn[step]
        values = self.objectives(gamma, batch)
        loss = self.scalarize(values, gamma)
        if self.settings.orthogonality:
            loss = loss + self.settings.orthogonality * self.change.orthogonality()
        passes = (1 + bool(self.experts)) * task.m if self.settings.needs_data else 0
        return Update(loss, passes=passes)

    def scalarize(self, values: Tensor, gamma: Tensor) -> Tensor:
        """One number to minimise of objectives (m,) at a preference (m,); the ideal is 0."""
        if self.settings.scalarization == "stch":
            return scalarization.smooth_chebyshev(values, gamma, self.settings.mu)
        if self.settings.scalarization == "tch":
            return scalarization.chebyshev(values, gamma)
        return scalarization.linear(values, gamma)

    def objectives(self, gamma: Tensor, batch: Any) -> Tensor:
        """S_k of the model at one preference, (m,)."""
        if not self.settings.needs_data:
            return self.distances(gamma)
        network = self._network(gamma)
        values = [self._objective(network(part[0], k), part, k) for k, part in enumerate(batch)]
        return torch.stack(values)

    def _network(self, gamma: Tensor) -> Callable[[Tensor, int], Tensor]:
        """The network at a preference, to be differentiated through."""
        _, pareto_set = self._given
        self._follow(gamma.device)
        pareto_set.paths.factors = self.change.factors(gamma)
        base = pareto_set.fixed if self.coefficients is None else self.coefficients.compose()
        shifts = self.change.shifts(gamma)
        state = {n: t + shifts[n] if n in shifts else t for n, t in base.items()}
        return with_state(pareto_set.network, state)

    def _follow(self, device: torch.device) -> None:
        """Network and experts are not this module's own: they are moved after it."""
        _, pareto_set = self._given
        if next(pareto_set.network.parameters()).device != device:
            pareto_set.to(device)
            self.experts = [{n: t.to(device) for n, t in e.items()} for e in self.experts]

    def _objective(self, logits: Tensor, batch: Any, k: int) -> Tensor:
        task, pareto_set = self._given
        if self.settings.objective == "entropy":
            return entropy(logits)
        if self.settings.objective == "loss":
            return task.loss(logits, batch, k)
        with torch.no_grad():
            factors, pareto_set.paths.factors = pareto_set.paths.factors, {}
            expert = with_state(pareto_set.network, self.experts[k])(batch[0], k)
            pareto_set.paths.factors = factors
        return divergence(expert, logits)

    @torch.no_grad()
    def rebase(self) -> None:
        """Put learned coefficients into the set's base."""
        if self.coefficients is not None:
            self._given[1].rebase(self.coefficients.compose())

    @torch.no_grad()
    def validate(self) -> float:
        """Higher is better: held-out scalarised objectives, or the validation hypervolume."""
        task, pareto_set = self._given
        self.rebase()
        device = self.drawn.device
        if self.settings.select == "objective":
            preferences = torch.as_tensor(pareto_set.preferences, dtype=torch.float32)
            scores = [self.scalarize(self._held_out(p), p) for p in preferences.to(device)]
            return -float(torch.stack(scores).mean())
        values = np.array(
            [
                task.measure(
                    pareto_set.materialize(p), "validation", what=task.selection, device=device
                )
                for p in pareto_set.preferences
            ]
        )
        return float(volume(task, values)) if np.isfinite(values).all() else float("-inf")

    def _held_out(self, gamma: Tensor) -> Tensor:
        """S_k of the model at one preference on the validation split, (m,)."""
        if not self.settings.needs_data:
            return self.distances(gamma)
        task, _ = self._given
        network, device = self._network(gamma), gamma.device
        return torch.as_tensor(task.mean(network, "validation", self._objective, device=device)).to(
            gamma
        )


class Distances(nn.Module):
    """S_k(γ) = ‖θ(γ) - θ_k‖² / ‖θ_0 - θ_k‖², from factors and differences alone."""

    def __init__(self, pareto_set: LowRankSet, parents: Parents) -> None:
        super().__init__()
        change, state = pareto_set.change, dict(pareto_set.base())
        self._change = (change,)
        m = len(parents)
        own = {f"{name}.weight" for name in change.layers} | set(change.vector_names)
        totals, rest = torch.zeros(m), torch.zeros(m)
        for key in state:
            if not parents.mergeable(key):
                continue
            difference = differences(parents, state, key).flatten(1)
            squared = difference.square().sum(1)
            totals += squared
            if key not in own:
                rest += squared
        for i, name in enumerate(change.layers):
            d = differences(parents, state, f"{name}.weight").flatten(2)
            self.register_buffer(f"layer_{i}", d, persistent=False)
        for i, name in enumerate(change.vector_names):
            d = differences(parents, state, name)
            self.register_buffer(f"vector_{i}", d, persistent=False)
        self.register_buffer("totals", totals.clamp(min=1e-30), persistent=False)
        self.register_buffer("rest", rest, persistent=False)

    def forward(self, gamma: Tensor) -> Tensor:
        (change,) = self._change
        total = self.get_buffer("rest")
        for i, (left, right) in enumerate(change.factors(gamma).values()):
            d = self.get_buffer(f"layer_{i}")
            own = ((left.mT @ left) * (right @ right.mT)).sum()
            total = total + own - 2 * (left * (d @ right.mT)).sum((1, 2)) + d.square().sum((1, 2))
        for i, shift in enumerate(change.shifts(gamma).values()):
            total = total + (shift - self.get_buffer(f"vector_{i}")).square().flatten(1).sum(1)
        return total / self.get_buffer("totals")


def divergence(expert: Tensor, logits: Tensor) -> Tensor:
    """Mean of KL(expert ‖ model) over predictions, in nats; classes are the last dimension."""
    wanted = torch.log_softmax(expert.float(), dim=-1)
    found = torch.log_softmax(logits.float(), dim=-1)
    return (wanted.exp() * (wanted - found)).sum(-1).mean()


def differences(parents: Parents, state: Mapping[str, Tensor], key: str) -> Tensor:
    """D_k = θ_k - θ_0 of one tensor, (K, ...), float32 (float64 stays)."""
    _, experts = parents.read(key)
    return torch.stack([expert - state[key].detach().to(expert) for expert in experts])
