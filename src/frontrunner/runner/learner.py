"""What a gradient method gives the runner: updates as pure functions of state, batch and step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.optim import Optimizer

from frontrunner.errors import ConfigError

Schedule = Callable[[float], float]


@dataclass(frozen=True)
class Update:
    """What one training step differentiates.

    Attributes:
        loss: scalar to differentiate.
        passes: forward passes of one network over one mini-batch that it took.
        log: further scalars for the learning curves.
    """

    loss: Tensor
    passes: int
    log: dict[str, Tensor | float] = field(default_factory=dict)


class Learner(nn.Module, ABC):
    """A method's trainable state. All of it is parameters and buffers, so a checkpoint is complete.

    Randomness comes from `frontrunner.seeds.generator(seed, …, step)`, never from global streams:
    the same state, batch and step give the same update, before and after a restart.
    """

    schedule: Schedule

    @abstractmethod
    def optimizers(self) -> dict[str, Optimizer]:
        """Fresh optimisers by name; between them they own every parameter that learns."""

    def turn(self, step: int) -> str:
        """Name of the optimiser that training step ``step`` moves; ``weights`` by default."""
        return "weights"

    @abstractmethod
    def update(self, batch: tuple[Tensor, ...], step: int) -> Update:
        """The update of training step ``step`` (counted from 0)."""

    def clip_gradients(self, turn: str, bound: float) -> None:
        """Scale the gradients down, in place, to a Euclidean norm of at most ``bound``.

        Called before the optimiser named ``turn`` steps; only its parameters have gradients then.
        A learner of several independent models bounds each by itself.
        """
        nn.utils.clip_grad_norm_(self.parameters(), bound)

    def divide(self, rank: int, world: int, add_up: Callable[[Tensor], None]) -> None:
        """Compute from here on the losses of this process's share of several independent models
        only. Each process sees whole mini-batches; gradients are averaged over all ``world``.

        ``add_up`` sums a tensor over the processes, in place.

        Raises:
            ConfigError: a learner that has no such models, or fewer than processes.
        """
        raise ConfigError(
            "runner.shard=members is for methods that train a network for each preference, such as "
            "learning/linear_scalarization; set runner.shard=data"
        )

    def after_step(self, turn: str, step: int) -> None:
        """Called after the optimiser stepped; the place for projections."""


def learning_rate_schedule(name: str, milestones: Sequence[float] = ()) -> Schedule:
    """A factor on every learning rate as a function of progress in [0, 1].

    ``constant``; ``cosine`` (to 0); ``milestones`` (a factor 0.1 at each).

    Raises:
        ConfigError: unknown name.
    """
    if name == "constant":
        return lambda progress: 1.0
    if name == "cosine":
        return lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress))
    if name == "milestones":
        return lambda progress: 0.1 ** sum(progress >= m for m in milestones)
    raise ConfigError(f"unknown schedule '{name}'; valid: constant, cosine, milestones")
