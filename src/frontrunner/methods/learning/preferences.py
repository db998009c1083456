"""Training one network for all preferences: preferences are drawn, and what they ask for is
minimised."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from frontrunner.methods.learning.training import Training, objectives_at
from frontrunner.pareto_sets.base import ParetoSet
from frontrunner.pareto_sets.conditioned import ConditionedNetwork, Scale
from frontrunner.preferences import Kind
from frontrunner.runner.learner import Learner, Update
from frontrunner.seeds import derive
from frontrunner.tasks.base import Batch, Task


class PreferenceLearner(Learner):
    """A conditioned network that is trained on k preferences at each step, drawn from a Dirichlet
    distribution, and read out at fixed ones.

    A subclass implements `loss`.

    Args:
        task: supplies network and objectives.
        training: ``vectors_per_step`` is k, ``concentration`` the Dirichlet's.
        preferences: (n, m), those of the front.
        seed: of the initial weights and the draws.
        kind: how the set's preferences are read.
    """

    scale: Scale = "simplex"

    def __init__(
        self,
        task: Task,
        training: Training,
        preferences: NDArray[np.float64],
        seed: int,
        kind: Kind = "weight",
    ) -> None:
        super().__init__()
        torch.manual_seed(derive(seed, "network"))
        self.network = task.conditioned_network()
        self.schedule = training.rate_schedule()
        self._task, self._training, self._seed = task, training, seed
        self._preferences, self._kind = preferences, kind
        # The Dirichlet's gamma draws come from NumPy, whose streams are the same on every device.
        self._alpha = np.broadcast_to(
            np.asarray(training.concentration, dtype=np.float64), (task.m,)
        )

    @abstractmethod
    def loss(self, f: Tensor, r: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        """What to minimise of objectives (k, m) at preferences (k, m), and what to log."""

    def optimizers(self) -> dict[str, Optimizer]:
        return {"weights": self._training.optimize(self.network.parameters())}

    def drawn(self, step: int, among: Sequence[int] | None = None) -> Tensor:
        """The preferences (k, m) of a step; 0 but for the objectives ``among``, if these are given.

        What a Dirichlet distribution leaves to some of its entries is a Dirichlet distribution too.
        """
        rng = np.random.default_rng(derive(self._seed, "preference", step))
        chosen = list(range(self._task.m)) if among is None else list(among)
        drawn = np.zeros((self._training.vectors_per_step, self._task.m))
        drawn[:, chosen] = rng.dirichlet(self._alpha[chosen], size=len(drawn))
        like = next(self.network.parameters())
        return torch.as_tensor(drawn, dtype=like.dtype, device=like.device)

    def update(self, batch: Batch, step: int) -> Update:
        r = self.drawn(step)
        f = objectives_at(self._task, self.network, r, batch)
        loss, log = self.loss(f, r.to(f.dtype), step)
        return Update(loss, passes=len(r), log=log)

    def pareto_set(self) -> ParetoSet:
        return ConditionedNetwork(self.network, self._preferences, self._kind, scale=self.scale)
