"""AdaMerging: coefficients of task vectors learned by the entropy of predictions, no labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from frontrunner.methods.base import Method, choice, positive, whole
from frontrunner.methods.merging.base import Array, merging_task, preferences_of
from frontrunner.methods.merging.coefficients import Coefficients
from frontrunner.methods.merging.entropy import entropies, entropy
from frontrunner.methods.merging.statistics import needs_data
from frontrunner.methods.merging.ties import share_of
from frontrunner.pareto_sets.base import ParetoSet
from frontrunner.pareto_sets.finite import FiniteSet
from frontrunner.runner.learner import Learner, Update, learning_rate_schedule
from frontrunner.runner.runner import Runner
from frontrunner.tasks.base import Task
from frontrunner.tasks.merging import MergingTask
from frontrunner.weights.networks import named_state, place, with_state


class AdaMerging(Method):
    """Task-wise and layer-wise AdaMerging, and AdaMerging++.

    Source: Yang et al., "AdaMerging: adaptive model merging for multi-task learning", ICLR 2024,
    and its public code, whose constants are the defaults. The inputs are those of the
    training split; the paper learns on the inputs it tests on.

    Args:
        points: size of the lattice of preferences.
        preferences: ``equal`` (one model, as published), or ``grid``: one after the other, a model
            for each preference p, which lowers K Σ_k p_k H_k of the tasks' entropies H_k.
        coefficients: ``task`` or ``layer``, see `Coefficients`.
        plusplus: AdaMerging++: task vectors are trimmed and their signs elected first.
        density: share of each task vector that ++ keeps.
        initial, clamp: see `Coefficients`.
        steps, batch_size, learning_rate: of Adam; ``batch_size`` inputs of each objective a step.
        rounds: how often the state is looked at.
        select: which round's state is kept: that of the least ``entropy`` on validation inputs, of
            the best ``validation`` value of what the task selects by (this needs labels), or the
            ``last``, as published.

    Raises:
        ConfigError: an unknown choice, or a number out of range.
    """

    def __init__(
        self,
        points: int,
        preferences: str = "equal",
        coefficients: str = "layer",
        plusplus: bool = False,
        density: float = 0.2,
        initial: float = 0.3,
        clamp: bool = True,
        steps: int = 500,
        batch_size: int = 16,
        learning_rate: float = 1e-3,
        rounds: int = 10,
        select: str = "entropy",
    ) -> None:
        self.points = points
        self.preferences = choice("method.preferences", preferences, ("equal", "grid"))
        self.coefficients = choice("method.coefficients", coefficients, ("task", "layer"))
        self.plusplus, self.density = plusplus, share_of("method.density", density)
        self.initial, self.clamp = positive("method.initial", initial, zero=True), clamp
        self.steps = whole("method.steps", steps)
        self.batch_size = whole("method.batch_size", batch_size)
        self.learning_rate = positive("method.learning_rate", learning_rate)
        self.rounds = whole("method.rounds", rounds)
        self.select = choice("method.select", select, ("entropy", "validation", "last"))

    def check(self, task: Task) -> None:
        merging = merging_task(task)
        preferences_of(self.preferences, merging.m, self.points)
        needs_data(merging)

    def switches(self) -> dict[str, Any]:
        return {
            "data": "train split, unlabelled",
            "task vectors": f"TIES, density {self.density:g}" if self.plusplus else "whole",
            "clamp": "to [0, 1]" if self.clamp else "none",
            "select": self.select,
        }

    def fit(self, task: Task, runner: Runner) -> ParetoSet:
        merging = merging_task(task)
        preferences = preferences_of(self.preferences, merging.m, self.points)
        network, coefficients = merging.network(), self.task_vectors(merging)
        cost: dict[str, float] = {}
        states = []
        for i, preference in enumerate(preferences):
            inner = runner if len(preferences) == 1 else runner.nested(f"preference_{i}")
            self.train(merging, network, coefficients, preference, inner)
            with torch.no_grad():
                place(network, coefficients.compose().items())
            states.append({n: t.detach().cpu().clone() for n, t in named_state(network).items()})
            cost = {name: cost.get(name, 0) + spent for name, spent in inner.cost.items()}
            runner.device = inner.device
        runner.cost = cost
        runner.score = "objective"
        stacked = {name: torch.stack([s[name] for s in states]) for name in states[0]}
        return FiniteSet(network.cpu(), stacked, preferences, "weight")

    def task_vectors(self, task: MergingTask) -> Coefficients:
        """The task vectors with their coefficients at the start; read once for all preferences."""
        density = self.density if self.plusplus else None
        return Coefficients(task.parents(), self.coefficients, self.initial, self.clamp, density)

    def train(
        self,
        task: MergingTask,
        network: nn.Module,
        coefficients: Coefficients,
        preference: Array,
        runner: Runner,
    ) -> EntropyLearner:
        """Learn coefficients for one preference, in place and from their start."""
        coefficients.restart()
        learner = EntropyLearner(task, network, coefficients, preference, self.learning_rate)
        runner.fit(
            learner,
            task.data("train"),
            steps=self.steps,
            batch_size=self.batch_size,
            rounds=self.rounds,
            validate=None if self.select == "last" else lambda: learner.score(self.select),
            score="objective",
        )
        return learner


class EntropyLearner(Learner):
    """Lowers K Σ_k p_k H_k over coefficients, H_k the mean entropy on a mini-batch of objective k.

    Args:
        task: supplies data.
        network: the architecture, with what is not merged in place. Its weights are not used.
        coefficients: what learns.
        preference: p, (K,).
        learning_rate: of Adam.
    """

    def __init__(
        self,
        task: MergingTask,
        network: nn.Module,
        coefficients: Coefficients,
        preference: Array,
        learning_rate: float,
    ) -> None:
        super().__init__()
        self.coefficients, self.preference = coefficients, preference
        self.schedule = learning_rate_schedule("constant")
        self._task, self._rate = task, learning_rate
        # In a tuple so that its weights are not in checkpoints.
        self._skeleton = (network.eval(),)

    def optimizers(self) -> dict[str, Optimizer]:
        return {"coefficients": Adam(self.coefficients.parameters(), lr=self._rate)}

    def turn(self, step: int) -> str:
        return "coefficients"

    def update(self, batch: Any, step: int) -> Update:
        network = self.merged()
        loss = torch.zeros((), device=batch[0][0].device)
        for k, part in enumerate(batch):
            weight = float(self.preference[k]) * len(batch)
            loss = loss + weight * entropy(network(part[0], k))
        means = self.coefficients.coefficients().detach().view(-1, len(batch)).mean(0)
        log = {f"train/coefficient_{k}": mean for k, mean in enumerate(means)}
        return Update(loss, passes=len(batch), log=log)

    def merged(self) -> Callable[[Tensor, int], Tensor]:
        """The merged network as ``(inputs, k) -> logits``, differentiable in the coefficients."""
        network = self._skeleton[0].to(self.coefficients.values.device)
        return with_state(network, self.coefficients.compose())

    @torch.no_grad()
    def score(self, select: str) -> float:
        """Of the present state on validation data, higher is better: minus the weighted entropy,
        or the weighted mean of what the task selects by."""
        device = self.coefficients.values.device
        if select == "entropy":
            return -float(
                self.preference @ entropies(self.merged(), self._task, "validation", device)
            )
        what = self._task.selection
        values = self._task.measure(self.merged(), "validation", what=what, device=device)
        value = float(self.preference @ values)
        value = value if what == "accuracies" else -value
        return value if np.isfinite(value) else float("-inf")
