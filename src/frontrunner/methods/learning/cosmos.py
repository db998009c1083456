"""COSMOS: one conditioned network, trained on random preferences, read out at fixed ones.

Source: Ruchte & Grabocka, "Scalable Pareto front approximation for deep multi-objective learning",
ICDM 2021. Conditioning follows `conf/conditioning` (FiLM by default) instead of the paper's input
channels (``conditioning=channels``), so that every method of a comparison shares one backbone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from frontrunner.methods.base import Method, choice, positive
from frontrunner.methods.learning import scalarization
from frontrunner.methods.learning.preferences import PreferenceLearner
from frontrunner.methods.learning.training import Training, train, trainable
from frontrunner.pareto_sets.base import ParetoSet
from frontrunner.preferences import Kind, even_rays, grid
from frontrunner.runner.runner import Runner
from frontrunner.tasks.base import Task


class Cosmos(Method):
    """Fixed evenly spread vectors on a conditioned network.

    Each step draws one r ~ Dirichlet(concentration) and minimises Σ_j r_j f_j - λ cos(f, r).

    Args:
        training: the task's budget; ``concentration`` is the Dirichlet's.
        points: number of fixed vectors the front is read out at.
        seed: of the initial weights and the draws.
        cosine_weight: λ; 0 leaves linear scalarisation with one conditioned network.
        sampling: ``dirichlet`` (paper), or ``fixed``: the read-out vectors in turn, the counterpart
            of adaptive vectors.
        vectors: the read-out: ``even`` (equal angles for two objectives, the simplex lattice
            beyond), or ``lattice`` (Das-Dennis for any number).
    """

    def __init__(
        self,
        training: Training,
        points: int,
        seed: int,
        cosine_weight: float,
        sampling: str = "dirichlet",
        vectors: str = "even",
    ) -> None:
        self.training, self.points, self.seed = training, points, seed
        self.cosine_weight = positive("method.cosine_weight", cosine_weight, zero=True)
        self.sampling = choice("method.sampling", sampling, ("dirichlet", "fixed"))
        choice("method.vectors", vectors, ("even", "lattice"))
        self.vectors = even_rays if vectors == "even" else grid

    def check(self, task: Task) -> None:
        trainable(task, conditioned=True)
        self.vectors(task.m, self.points)

    def switches(self) -> dict[str, object]:
        return {"cosine_sign": "subtracted", "sampling": self.sampling}

    def fit(self, task: Task, runner: Runner) -> ParetoSet:
        learner = _CosmosLearner(task, self)
        return train(learner, task, runner, self.training, learner.pareto_set)


class _CosmosLearner(PreferenceLearner):
    def __init__(self, task: Task, method: Cosmos) -> None:
        # Without the cosine, what is left weights the objectives.
        kind: Kind = "ray" if method.cosine_weight > 0 else "weight"
        vectors = method.vectors(task.m, method.points)
        super().__init__(task, method.training, vectors, method.seed, kind)
        self._method = method

    def drawn(self, step: int, among: Sequence[int] | None = None) -> Tensor:
        if self._method.sampling == "dirichlet":
            return super().drawn(step, among)
        k = self._training.vectors_per_step
        chosen = self._preferences[(torch.arange(k) + step * k) % len(self._preferences)]
        like = next(self.network.parameters())
        return torch.as_tensor(chosen, dtype=like.dtype, device=like.device)

    def loss(self, f: Tensor, r: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        return scalarization.cosmos(f, r, self._method.cosine_weight).mean(), {}
