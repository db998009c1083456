"""Many networks of one architecture trained as one: a model per preference, one vectorised step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.optim import Optimizer

from frontrunner.errors import ConfigError
from frontrunner.methods.base import choice
from frontrunner.methods.learning.training import Training, train
from frontrunner.pareto_sets.base import ParetoSet
from frontrunner.pareto_sets.finite import FiniteSet
from frontrunner.runner.learner import Learner, Update
from frontrunner.runner.runner import Runner
from frontrunner.seeds import derive
from frontrunner.tasks.base import Batch, Task

Scalarization = Callable[[Tensor, Tensor], Tensor]


class Population(Learner):
    """K networks, each minimising its own scalarisation of the task's objectives.

    All start from the same weights and see the same mini-batches, so that they differ by their
    preferences alone. Adam acts element by element, so one Adam over the stacked parameters is K
    independent ones; the summed loss gives every network exactly its own gradient. What the network
    does not learn (``requires_grad=False``) stays as it is.

    Args:
        task: supplies the architecture and the objectives.
        preferences: (K, m).
        scalarize: (K, m) objectives and (K, m) preferences -> (K,).
        training: learning rate and schedule.
        seed: of the initial weights.
        vectorize: ``always`` one vmapped pass; ``never`` a loop over the networks; ``auto`` the
            first where the network allows it (one that branches on its data does not), else the
            second. The results agree to rounding.
    """

    preferences: Tensor

    def __init__(
        self,
        task: Task,
        preferences: NDArray[np.float64],
        scalarize: Scalarization,
        training: Training,
        *,
        seed: int,
        vectorize: str = "auto",
    ) -> None:
        super().__init__()
        torch.manual_seed(derive(seed, "network"))
        network = task.network()
        # In a tuple so that its own weights are not this module's: only the architecture is used.
        self._skeleton: tuple[nn.Module] = (network,)
        self._parameter_names = [n for n, _ in network.named_parameters()]
        self._buffer_names = [n for n, _ in network.named_buffers()]

        def stacked(name: str) -> Tensor:
            tensor = network.get_parameter(name) if name in parameters else network.get_buffer(name)
            return tensor.detach().expand(len(preferences), *tensor.shape).clone()

        parameters = set(self._parameter_names)
        self.stacked = nn.ParameterList(
            nn.Parameter(stacked(n), network.get_parameter(n).requires_grad)
            for n in self._parameter_names
        )
        for i, name in enumerate(self._buffer_names):
            self.register_buffer(f"buffer_{i}", stacked(name))
        self.register_buffer("preferences", torch.as_tensor(preferences, dtype=torch.float32))
        self._grid = preferences
        self._task, self._scalarize = task, scalarize
        self._optimize = training.optimize
        self.schedule = training.rate_schedule()
        self.vectorize = choice("method.vectorize", vectorize, ("auto", "always", "never"))
        self._untried = True
        self._share, self._processes = slice(None), 1

    def divide(self, rank: int, world: int, add_up: Callable[[Tensor], None]) -> None:
        count = len(self.preferences)
        if count < world:
            raise ConfigError(
                f"runner.shard=members has {count} networks for {world} processes: set points to "
                f"{world} or more, or runner.shard=data"
            )
        self._share = slice(count * rank // world, count * (rank + 1) // world)
        self._processes, self._add_up = world, add_up

    def state(self) -> dict[str, Tensor]:
        """Stacked parameters and buffers under the network's own names."""
        tensors = dict(zip(self._parameter_names, self.stacked, strict=True))
        return tensors | {n: getattr(self, f"buffer_{i}") for i, n in enumerate(self._buffer_names)}

    def learned(self) -> list[nn.Parameter]:
        """The stacked parameters that learn."""
        return [p for p in self.stacked if p.requires_grad]

    def optimizers(self) -> dict[str, Optimizer]:
        return {"weights": self._optimize(self.learned())}

    def update(self, batch: Batch, step: int) -> Update:
        losses = self.objectives(batch)
        values = self._scalarize(losses, self.preferences[self._share].to(losses.dtype))
        # Gradients are averaged over processes, each of which has those of its own share alone.
        return Update(self._processes * values.sum(), passes=len(self.preferences))

    def after_step(self, turn: str, step: int) -> None:
        if self._processes > 1:
            for i in range(len(self._buffer_names)):
                buffer = getattr(self, f"buffer_{i}")
                own = buffer[self._share].clone()
                buffer.zero_()[self._share] = own
                self._add_up(buffer)

    @torch.no_grad()
    def clip_gradients(self, turn: str, bound: float) -> None:
        gradients = [p.grad for p in self.stacked if p.grad is not None]
        norms = torch.stack([g.flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)
        factors = (bound / (norms + 1e-6)).clamp(max=1.0)
        for g in gradients:
            g.mul_(factors.view(-1, *[1] * (g.ndim - 1)))

    def objectives(self, batch: Batch) -> Tensor:
        """Objectives on one mini-batch of every network, or of this process's share: (K, m)."""
        state = {name: t[self._share] for name, t in self.state().items()}
        if self.vectorize != "never":
            # A refused attempt may have changed buffers in place before it was refused.
            buffers = {n: t.clone() for n, t in self.named_buffers()} if self._untried else {}
            self._untried = False
            try:
                return vmap(lambda state: self._one(state, batch), randomness="different")(state)
            except RuntimeError:
                if self.vectorize == "always" or not buffers:
                    raise
                for name, tensor in buffers.items():
                    self.get_buffer(name).copy_(tensor)
                self.vectorize = "never"
        return torch.stack(
            [
                self._one({name: t[k] for name, t in state.items()}, batch)
                for k in range(len(self.preferences[self._share]))
            ]
        )

    def _one(self, state: dict[str, Tensor], batch: Batch) -> Tensor:
        outputs = functional_call(self._skeleton[0], state, (batch[0],))
        return self._task.losses(outputs, batch)

    def pareto_set(self) -> ParetoSet:
        """The models as a finite set that shares these tensors."""
        network = self._skeleton[0].to(self.preferences.device, self.stacked[0].dtype)
        state = {name: tensor.detach() for name, tensor in self.state().items()}
        return FiniteSet(network, state, self._grid, "weight")

    def train(self, mode: bool = True) -> Population:
        self._skeleton[0].train(mode)
        return super().train(mode)


def fit_population(
    task: Task,
    runner: Runner,
    scalarize: Scalarization,
    training: Training,
    preferences: NDArray[np.float64],
    *,
    seed: int,
    vectorize: str,
) -> ParetoSet:
    """Train one network per preference and return them as a finite set."""
    learner = Population(task, preferences, scalarize, training, seed=seed, vectorize=vectorize)
    return train(learner, task, runner, training, learner.pareto_set)
