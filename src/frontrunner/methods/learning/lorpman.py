"""LORPMAN: one network and a low-rank update for each objective, in place of a network for each.

Source: Chen & Kwok, "Efficient Pareto manifold learning with low-rank structure", ICML 2024. What
the paper leaves open here is on docs/methods/learning.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from frontrunner.errors import ConfigError
from frontrunner.methods.base import choice, positive
from frontrunner.methods.learning.pamal import PaMaL, PaMaLLearner
from frontrunner.methods.learning.training import Training, train
from frontrunner.models.weights import LowRankUpdates
from frontrunner.pareto_sets.base import ParetoSet
from frontrunner.runner.learner import Update
from frontrunner.runner.runner import Runner
from frontrunner.seeds import generator
from frontrunner.tasks.base import Batch, Task


class Lorpman(PaMaL):
    """As `PaMaL`, on `LowRankUpdates` (rank and scale s are those of ``conditioning=low_rank``).

    Args:
        training, points, seed, ordering, ordering_sign, temperature: as in `PaMaL`.
        orthogonality: λ_o, weight of `LowRankUpdates.overlap` of the updates.
        overlap: ``cosine`` or ``plain`` inner products in it.
        freeze: share of the steps after which the main network rests and the updates alone learn; 1
            never.
        sampled: of more objectives than so many, this number is drawn for each step: only their
            losses, and the overlap of only their updates, count.
    """

    def __init__(
        self,
        training: Training,
        points: int,
        seed: int,
        ordering: float = 0.0,
        ordering_sign: str = "corrected",
        temperature: float = 1.0,
        orthogonality: float = 0.0,
        overlap: str = "cosine",
        freeze: float = 0.8,
        sampled: int = 3,
    ) -> None:
        super().__init__(training, points, seed, ordering, ordering_sign, temperature)
        self.orthogonality = positive("method.orthogonality", orthogonality, zero=True)
        self.overlap = choice("method.overlap", overlap, ("cosine", "plain"))
        if not 0 < freeze <= 1:
            raise ConfigError(f"method.freeze={freeze} must be above 0 and at most 1")
        if not isinstance(sampled, int) or sampled < 2:
            raise ConfigError(f"method.sampled={sampled} must be a whole number of at least 2")
        self.freeze, self.sampled = freeze, sampled

    def check(self, task: Task) -> None:
        super().check(task)
        if not isinstance(task.conditioned_network(), LowRankUpdates):
            raise ConfigError("learning/lorpman is for conditioning=low_rank")

    def switches(self) -> dict[str, Any]:
        return {
            **super().switches(),
            "orthogonality": self.orthogonality,
            "overlap": self.overlap,
            "freeze": self.freeze,
            "sampled": self.sampled,
        }

    def fit(self, task: Task, runner: Runner) -> ParetoSet:
        learner = _LorpmanLearner(task, self)
        return train(learner, task, runner, self.training, learner.pareto_set)


class _LorpmanLearner(PaMaLLearner):
    network: LowRankUpdates

    def __init__(self, task: Task, method: Lorpman) -> None:
        super().__init__(task, method)
        self._lorpman = method

    def objectives(self, step: int) -> list[int]:
        """The objectives that a step looks at."""
        m, sampled = self._task.m, self._lorpman.sampled
        if m <= sampled:
            return list(range(m))
        stream = generator(self._seed, "objectives", step)
        return sorted(torch.randperm(m, generator=stream)[:sampled].tolist())

    def drawn(self, step: int, among: Sequence[int] | None = None) -> Tensor:
        return super().drawn(step, self.objectives(step) if among is None else among)

    def update(self, batch: Batch, step: int) -> Update:
        self.network.frozen = step >= self._lorpman.freeze * self._training.steps
        return super().update(batch, step)

    def loss(self, f: Tensor, r: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        chosen = self.objectives(step)
        total, log = super().loss(f[:, chosen], r[:, chosen], step)
        if self._lorpman.orthogonality == 0:
            return total, log
        overlap = self.network.overlap(chosen, self._lorpman.overlap)
        log["train/overlap"] = overlap.detach()
        return total + self._lorpman.orthogonality * overlap, log
