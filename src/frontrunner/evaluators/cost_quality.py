"""What training cost against how good the model is."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from frontrunner.errors import ConfigError
from frontrunner.evaluators.base import Array, Evaluator
from frontrunner.front.objective import Objective
from frontrunner.methods.base import choice, whole
from frontrunner.pareto_sets.base import ParetoSet
from frontrunner.tasks.base import Split, Task

UNITS = {"share": "of full training", "seconds": "s"}


class CostQuality(Evaluator):
    """Scores models by the cost of their training, and by errors or losses on a split.

    Args:
        what: ``errors`` (1 − accuracy) or ``losses``.
        cost: ``share`` of the cost of training on all data, counted in passes over samples, or
            ``seconds``, which no two runs have in common; both with selection.
        split: ``test``, ``validation`` or ``train``.
        reference_point: of cost and each objective; None takes 1.1 and errors of 1, or the task's.
        batch_size: samples per forward pass.
    """

    needs_costs = True

    def __init__(
        self,
        what: str = "errors",
        cost: str = "share",
        split: Split = "test",
        reference_point: Sequence[float] | None = None,
        batch_size: int = 4096,
    ) -> None:
        super().__init__(None, reference_point)
        self.what = choice("evaluator.what", what, ("errors", "losses"))
        self.cost = choice("evaluator.cost", cost, UNITS)
        self.split = choice("evaluator.split", split, ("train", "validation", "test"))
        self.batch_size = whole("evaluator.batch_size", batch_size)

    def check(self, task: Task) -> None:
        wanted = "accuracies" if self.what == "errors" else "losses"
        if wanted not in task.measures():
            other = "losses" if self.what == "errors" else "errors"
            raise ConfigError(
                f"task '{task.name}' has no {wanted}: set evaluator.what={other}"
                if task.measures()
                else f"task '{task.name}' has no objectives to measure: choose another evaluator"
            )
        super().check(task)

    def key(self, pareto_set: ParetoSet) -> str:
        return f"{super().key(pareto_set)}-{self.cost}"

    def score(
        self, pareto_set: ParetoSet, task: Task, preference: Array, device: torch.device | str
    ) -> Array:
        return self.scored(pareto_set, task, preference, device)[0]

    def scored(
        self, pareto_set: ParetoSet, task: Task, preference: Array, device: torch.device | str
    ) -> tuple[Array, dict[str, float]]:
        """Cost and objectives; beside them everything that was counted."""
        pareto_set.to(device)
        costs = dict(pareto_set.cost_of(preference))
        values = task.measure(
            pareto_set.materialize(preference),
            self.split,  # type: ignore[arg-type]
            what="accuracies" if self.what == "errors" else "losses",
            device=device,
            batch_size=self.batch_size,
        )
        if self.what == "errors":
            values = 1.0 - values
        point = torch.tensor([costs[self.cost], *values.tolist()], dtype=torch.float64).numpy()
        return point, {f"training_{name}": value for name, value in costs.items()}

    def axes(self, task: Task) -> tuple[tuple[Objective, ...], Sequence[float] | None]:
        cost = Objective("cost", "min", UNITS[self.cost])
        unit = {"errors": "error"}.get(self.what)
        quality = tuple(Objective(o.name, "min", unit or o.unit) for o in task.objectives)
        if self.cost == "seconds":
            return (cost, *quality), None
        worst = (1.0,) * task.m if self.what == "errors" else task.reference_point
        return (cost, *quality), (1.1, *worst)
