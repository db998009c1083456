"""COSMOS: one conditioned network, trained on random preferences, read out at fixed ones.

Source: Ruchte & Grabocka, "Scalable Pareto front approximation for deep multi-objective learning",
ICDM 2021. Conditioning follows `conf/model` (FiLM by default) instead of the paper's input
channels, so that every method of a comparison shares one backbone.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from frontrunner.methods.base import Method, choice, positive
from frontrunner.methods.learning import scalarization
from frontrunner.methods.learning.training import Training, objectives_at, train, trainable
from frontrunner.pareto_sets.base import ParetoSet
from frontrunner.pareto_sets.conditioned import ConditionedNetwork
from frontrunner.preferences import Kind, even_rays, grid
from frontrunner.runner.learner import Learner, Update
from frontrunner.runner.runner import Runner
from frontrunner.seeds import derive
from frontrunner.tasks.base import Batch, Task


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


class _CosmosLearner(Learner):
    vectors: Tensor

    def __init__(self, task: Task, method: Cosmos) -> None:
        super().__init__()
        torch.manual_seed(derive(method.seed, "network"))
        self.network = task.conditioned_network()
        self._task, self._method = task, method
        self._grid = method.vectors(task.m, method.points)
        self.register_buffer("vectors", torch.as_tensor(self._grid, dtype=torch.float32))
        self.schedule = method.training.rate_schedule()
        # The Dirichlet's gamma draws come from NumPy, whose streams are the same on every device.
        self._alpha = np.broadcast_to(
            np.asarray(method.training.concentration, dtype=np.float64), (task.m,)
        )

    def optimizers(self) -> dict[str, Optimizer]:
        return {"weights": self._method.training.optimize(self.network.parameters())}

    def vectors_of(self, step: int) -> Tensor:
        """The preferences (k, m) that step ``step`` trains."""
        k = self._method.training.vectors_per_step
        if self._method.sampling == "fixed":
            return self.vectors[(torch.arange(k) + step * k) % len(self.vectors)]
        rng = np.random.default_rng(derive(self._method.seed, "preference", step))
        return torch.as_tensor(rng.dirichlet(self._alpha, size=k)).to(self.vectors)

    def update(self, batch: Batch, step: int) -> Update:
        r = self.vectors_of(step)
        f = objectives_at(self._task, self.network, r, batch)
        loss = scalarization.cosmos(f, r.to(f.dtype), self._method.cosine_weight).mean()
        return Update(loss, passes=len(r))

    def pareto_set(self) -> ParetoSet:
        # Without the cosine, what is left weights the objectives.
        kind: Kind = "ray" if self._method.cosine_weight > 0 else "weight"
        return ConditionedNetwork(self.network, self._grid, kind, scale="simplex")
