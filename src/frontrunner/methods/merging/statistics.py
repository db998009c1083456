"""What mergers that look at data share: each expert is run on its own unlabelled inputs once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from frontrunner.errors import ConfigError, DataError
from frontrunner.methods.base import whole
from frontrunner.methods.merging.base import Merger, Preferences, merging_task, preferences_of
from frontrunner.pareto_sets.base import ParetoSet
from frontrunner.pareto_sets.merged import MergedSet, Rule
from frontrunner.runner.runner import Runner
from frontrunner.tasks.base import Batch, Task, rows
from frontrunner.tasks.domains import Domains
from frontrunner.tasks.merging import MergingTask
from frontrunner.weights.networks import named_state, place


class DataMerger(Merger):
    """A `Merger` whose rule needs statistics of every expert on training inputs of its objective.

    Args:
        rule: gets the statistics as ``prepared``: (K, …) by tensor name, float32, on the CPU.
        points, preferences: see `Merger`. There is no coefficient to choose.
        samples: of each objective, evenly spread over its training data; None takes all.
        batch_size: samples at a time.

    Raises:
        ConfigError: a number out of range.
    """

    def __init__(
        self,
        rule: Rule,
        points: int,
        preferences: Preferences,
        samples: int | None,
        batch_size: int,
    ) -> None:
        super().__init__(rule, points, preferences)
        self.samples = None if samples is None else whole("method.samples", samples)
        self.batch_size = whole("method.batch_size", batch_size)

    def check(self, task: Task) -> None:
        super().check(task)
        needs_data(merging_task(task))

    def switches(self) -> dict[str, Any]:
        return {"data": f"train split, {self.samples or 'all'} samples of each objective"}

    def fit(self, task: Task, runner: Runner) -> ParetoSet:
        merging = merging_task(task)
        preferences = preferences_of(self.preferences, merging.m, self.points)
        with runner.one_shot():
            found = self.collect(merging, runner)
            return MergedSet(merging, self.rule, preferences, 1.0, found)

    def collect(self, task: MergingTask, runner: Runner) -> dict[str, Tensor]:
        """The statistics of all experts, (K, …) by tensor name; of names that all of them have."""
        device = runner.evaluation_device
        network = task.network().to(device).eval()
        domains = task.data("train")
        assert isinstance(domains, Domains)
        found = []
        for k, expert in enumerate(task.parents().experts):
            place(network, ((key, expert.read(key)) for key in expert.shapes()))
            batches = batches_of(domains.parts[k], self.samples, self.batch_size, device)
            measured = self.measure(task, network, batches, k, runner)
            _refuse_non_finite(measured, expert.name)
            found.append(measured)
        return {
            key: torch.stack([measured[key] for measured in found])
            for key in found[0]
            if all(key in measured for measured in found)
        }

    @abstractmethod
    def measure(
        self,
        task: MergingTask,
        network: nn.Module,
        batches: Iterator[Batch],
        k: int,
        runner: Runner,
    ) -> dict[str, Tensor]:
        """The statistics of expert k, whose weights are in ``network``, by tensor name.

        Counts its passes in ``runner.cost["forward_passes"]``.
        """


def needs_data(task: MergingTask) -> None:
    """Refuse a task without data.

    Raises:
        ConfigError: it has none.
    """
    if not task.has_data:
        raise ConfigError(
            f"task '{task.name}' has no data, which this method looks at; give the task data, or "
            "choose a data-free method such as method=merging/ties"
        )


def batches_of(
    part: Dataset[Batch], samples: int | None, batch_size: int, device: torch.device | str
) -> Iterator[Batch]:
    """Mini-batches of one objective's data, in order; ``samples`` are evenly spread over them."""
    size = len(part)  # type: ignore[arg-type]
    count = size if samples is None else min(samples, size)
    indices = np.linspace(0, size - 1, count).round().astype(int).tolist()
    for start in range(0, count, batch_size):
        yield tuple(t.to(device) for t in rows(part, indices[start : start + batch_size]))


def merged_parameters(task: MergingTask, network: nn.Module) -> dict[str, Tensor]:
    """Those parameters of a network that are merged, by name, detached."""
    parents = task.parents()
    own = {key for key in parents.base.shapes() if parents.mergeable(key)}
    buffers = dict(network.named_buffers())
    return {
        name: tensor.detach()
        for name, tensor in named_state(network).items()
        if name in own and name not in buffers
    }


def _refuse_non_finite(measured: Mapping[str, Tensor], expert: str) -> None:
    for key, tensor in measured.items():
        if not torch.isfinite(tensor).all():
            raise DataError(
                f"the statistics of '{key}' in {expert} are not finite: look at its activations, "
                "or at the training inputs of its objective"
            )
