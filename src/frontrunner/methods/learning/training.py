"""What every gradient method shares: the budget, and training with validation-chosen states."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.utils._pytree import tree_map

from frontrunner.errors import ConfigError
from frontrunner.front.indicators import hypervolume
from frontrunner.methods.base import choice, positive
from frontrunner.pareto_sets.base import ParetoSet
from frontrunner.runner.learner import Learner, Schedule, learning_rate_schedule
from frontrunner.runner.runner import Runner
from frontrunner.tasks.base import Batch, Task
from frontrunner.tasks.merging import MergingTask


@dataclass(frozen=True)
class Training:
    """The budget of a task, the same for every method that is compared on it.

    Attributes:
        steps: mini-batches.
        batch_size: samples per mini-batch.
        learning_rate: of the networks' optimiser.
        optimizer: ``adam`` or ``sgd`` (with Nesterov's momentum), of the networks.
        momentum: of SGD.
        weight_decay: of the networks' optimiser.
        schedule: ``constant``, ``cosine`` or ``milestones``.
        milestones: shares of the steps after which the rate falls by 10.
        rounds: how often the front is validated; the state with the best validation hypervolume is
            what the method returns.
        vectors_per_step: preferences that one step trains a conditioned network on.
        clip: largest gradient norm; None does not clip.
        vector_learning_rate: of Adam on adaptive reference vectors.
        cosine_weight: λ of COSMOS on this task.
        concentration: of the Dirichlet distribution preferences are drawn from.
    """

    steps: int
    batch_size: int
    learning_rate: float = 1e-3
    optimizer: str = "adam"
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: str = "constant"
    milestones: Sequence[float] = ()
    rounds: int = 20
    vectors_per_step: int = 1
    clip: float | None = None
    vector_learning_rate: float = 5e-3
    cosine_weight: float = 2.0
    concentration: float | Sequence[float] = field(default=1.2)

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "rounds", "vectors_per_step"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f"training.{name}={value} must be a whole number of at least 1")
        positive("training.learning_rate", self.learning_rate)
        positive("training.vector_learning_rate", self.vector_learning_rate)
        positive("training.cosine_weight", self.cosine_weight, zero=True)
        alphas = self.concentration
        for alpha in [alphas] if isinstance(alphas, int | float) else alphas:
            positive("training.concentration", alpha)
        choice("training.optimizer", self.optimizer, ("adam", "sgd"))
        positive("training.weight_decay", self.weight_decay, zero=True)
        if not isinstance(self.momentum, int | float) or not 0 <= self.momentum < 1:
            raise ConfigError(f"training.momentum={self.momentum} must be at least 0 and below 1")
        self.rate_schedule()

    def optimize(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """The optimiser of networks' weights."""
        if self.optimizer == "adam":
            return adam(parameters, self.learning_rate, self.weight_decay)
        return SGD(
            parameters,
            lr=self.learning_rate,
            momentum=self.momentum,
            nesterov=self.momentum > 0,
            weight_decay=self.weight_decay,
            fused=True,
        )

    def rate_schedule(self) -> Schedule:
        """The learning-rate factor as a function of progress."""
        return learning_rate_schedule(self.schedule, list(self.milestones))


def trainable(task: Task, *, conditioned: bool = False) -> None:
    """Refuse a task whose networks a gradient method cannot train.

    Raises:
        ConfigError: the task is one of merging, or has one objective; nothing of its network
            learns; or, where they have to be ``conditioned`` on a preference, the model has no
            conditioning.
    """
    if isinstance(task, MergingTask):
        raise ConfigError(
            f"task '{task.name}' is for merging methods, such as method=merging/task_arithmetic"
        )
    if task.m < 2:
        raise ConfigError(
            f"task '{task.name}' has one objective: its fronts are of cost and quality, see "
            "method=coresets/eracs"
        )
    if conditioned:
        if task.model is None or task.model.conditioning is None:
            raise ConfigError("this method needs a model with conditioning: set conditioning=film")
        network = task.conditioned_network()  # refuses a network that it cannot condition
    elif task.model is not None:
        network = task.network()
    else:
        return
    if not any(p.requires_grad and p.numel() > 0 for p in network.parameters()):
        raise ConfigError(
            f"task '{task.name}': every weight of its network is frozen, so there is nothing to "
            "learn; leave some part of it unfrozen"
        )


def adam(
    parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float = 0.0
) -> Optimizer:
    """Adam with PyTorch's defaults, as one fused kernel: the loop over tensors costs small networks
    more than their arithmetic."""
    return Adam(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)


def objectives_at(
    task: Task,
    network: nn.Module,
    preferences: Tensor,
    batch: Batch,
    noise: tuple[float, torch.Generator] | None = None,
) -> Tensor:
    """Objectives (k, m) of a conditioned network at k preferences (k, m).

    ``noise`` is the standard deviation, and the source, of Gaussian noise added to the outputs.
    """
    outputs = outputs_at(network, preferences, batch[0])
    if noise is not None:
        scale, source = noise
        outputs = tree_map(
            lambda t: t + scale * torch.randn(t.shape, generator=source).to(t), outputs
        )
    if len(preferences) == 1:
        return task.losses(tree_map(lambda t: t[0], outputs), batch)[None]
    return torch.vmap(lambda o: task.losses(o, batch))(outputs)


# Networks that refused to be vectorised over preferences.
_ONE_BY_ONE: WeakSet[nn.Module] = WeakSet()


def outputs_at(network: nn.Module, preferences: Tensor, inputs: Tensor) -> Any:
    """What a conditioned network returns at preferences (k, m), each tensor with k in front.

    One vectorised pass where the network allows it, else a loop: batch normalisation changes its
    statistics in place as it trains, and some networks branch on their data. The results agree to
    rounding.
    """
    if len(preferences) > 1 and network not in _ONE_BY_ONE:
        # A refused attempt may have changed buffers before it was refused.
        before = [buffer.clone() for buffer in network.buffers()]
        try:
            return torch.vmap(lambda p: network(inputs, p), randomness="different")(preferences)
        except RuntimeError:
            for buffer, value in zip(network.buffers(), before, strict=True):
                buffer.copy_(value)
            _ONE_BY_ONE.add(network)
    each = [network(inputs, preference) for preference in preferences]
    return tree_map(lambda *tensors: torch.stack(tensors), *each)


def train(
    learner: Learner,
    task: Task,
    runner: Runner,
    training: Training,
    pareto_set: Callable[[], ParetoSet],
) -> ParetoSet:
    """Train ``learner`` for the budget and return the Pareto set of its best validated state.

    ``pareto_set`` makes the set of the learner's present state, sharing its weights.
    """

    def validate() -> float:
        device = next(learner.parameters()).device
        current = pareto_set()
        values = [
            task.measure(current.materialize(p), "validation", device=device)
            for p in current.preferences
        ]
        points = np.array(values)
        if not np.isfinite(points).all():
            return float("-inf")
        return hypervolume(points, np.asarray(task.reference_point, dtype=np.float64))

    runner.fit(
        learner,
        task.data("train"),
        steps=training.steps,
        batch_size=training.batch_size,
        rounds=training.rounds,
        clip=training.clip,
        validate=validate,
    )
    return pareto_set().to(torch.device("cpu"))
