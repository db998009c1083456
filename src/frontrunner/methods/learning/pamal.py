"""PaMaL: a network for each objective, trained so that every convex combination is on the front.

Source: Dimitriadis, Frossard & Fleuret, "Pareto manifold learning: tackling multiple tasks via
ensembles of single-task models", ICML 2023.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from frontrunner.errors import ConfigError
from frontrunner.methods.base import Method, choice, positive
from frontrunner.methods.learning import scalarization
from frontrunner.methods.learning.preferences import PreferenceLearner
from frontrunner.methods.learning.training import Training, train, trainable
from frontrunner.pareto_sets.base import ParetoSet
from frontrunner.preferences import grid
from frontrunner.runner.runner import Runner
from frontrunner.tasks.base import Task


class PaMaL(Method):
    """Linear scalarisation of random preferences, with a penalty on losses in the wrong order.

    Its networks are conditioned by `Ensemble` (``conditioning=ensemble``, which its configuration
    chooses); any other conditioning that the configuration names is trained just so.

    Args:
        training: the task's budget; ``concentration`` is the Dirichlet's and ``vectors_per_step``
            the window W.
        points: preferences of the front, a simplex lattice.
        seed: of the initial weights and the draws.
        ordering: λ_p, weight of `ordering_penalty`; 0 leaves it out.
        ordering_sign: ``corrected``, or ``published`` as in the authors' code.
        temperature: T of the penalty.
    """

    def __init__(
        self,
        training: Training,
        points: int,
        seed: int,
        ordering: float = 0.0,
        ordering_sign: str = "corrected",
        temperature: float = 1.0,
    ) -> None:
        self.training, self.points, self.seed = training, points, seed
        self.ordering = positive("method.ordering", ordering, zero=True)
        self.temperature = positive("method.temperature", temperature)
        self.ordering_sign = choice(
            "method.ordering_sign", ordering_sign, ("corrected", "published")
        )

    def check(self, task: Task) -> None:
        trainable(task, conditioned=True)
        grid(task.m, self.points)
        if self.ordering > 0 and self.training.vectors_per_step < 2:
            raise ConfigError(
                "method.ordering compares preferences of one step: set training.vectors_per_step "
                "to at least 2"
            )

    def switches(self) -> dict[str, Any]:
        return {"ordering_sign": self.ordering_sign, "ordering": self.ordering}

    def fit(self, task: Task, runner: Runner) -> ParetoSet:
        learner = PaMaLLearner(task, self)
        return train(learner, task, runner, self.training, learner.pareto_set)


class PaMaLLearner(PreferenceLearner):
    """Σ_j r_j f_j averaged over the window, and the penalty while it is the smaller of the two."""

    def __init__(self, task: Task, method: PaMaL) -> None:
        super().__init__(task, method.training, grid(task.m, method.points), method.seed)
        self._method = method

    def loss(self, f: Tensor, r: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        total, method = scalarization.linear(f, r).mean(), self._method
        if method.ordering == 0:
            return total, {}
        penalty = method.ordering * ordering_penalty(
            f, r, method.temperature, published=method.ordering_sign == "published"
        )
        # As in the authors' code: a penalty as large as the loss is left out.
        kept = torch.where(penalty.detach() < total.detach(), penalty, torch.zeros_like(penalty))
        return total + kept, {"train/ordering": penalty.detach()}


def ordering_penalty(
    f: Tensor, r: Tensor, temperature: float = 1.0, published: bool = False
) -> Tensor:
    """Σ_j log mean_w exp(T · relu(f_j(w) − f_j(w + 1))), over the preferences of a step in the
    order of falling r_j: of each objective, by how much its loss falls where its weight does.

    Args:
        f: objectives (W, m), W >= 2.
        r: preferences (W, m).
        temperature: T.
        published: with the differences' sign as in the authors' code, which penalises losses in the
            right order: (0.1, 0.3, 0.8) costs 0.361, and the reverse nothing.

    Equal weights order no losses.
    """
    weights, order = r.sort(dim=0, descending=True, stable=True)
    rise = f.gather(0, order).diff(dim=0) * (weights.diff(dim=0) < 0)
    wrong = (rise if published else -rise).relu()
    return (temperature * wrong).exp().mean(0).log().sum()
