"""What the tables of learned fronts read from runs beyond what `frontrunner.tables.values` has."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import frontrunner
from frontrunner.errors import FrontError
from frontrunner.tables.values import Peers, Result


def made_do(run: Result, peers: Peers) -> float:
    """How often, in a thousand, a network's step was not what its method asks for: no gradient, or
    no solution of its program."""
    counted = run.record["switches"].get("fallbacks", {})
    steps = run.record["cost"]["steps"] * len(run.front.values)
    return 1000.0 * sum(counted.values()) / steps


def accuracy(run: Result, peers: Peers, *, of: str = "front") -> float:
    """Test accuracies of a run's models: the mean over objectives and the front's points
    (``front``), over the best of the points for each objective (``best``), or over objectives at
    equal preferences (``equal``)."""
    return _accuracies(run.directory)[of]


def overlap(run: Result, peers: Peers) -> float:
    """Mean squared cosine between the low-rank updates of objectives."""
    from frontrunner.models.weights import LowRankUpdates

    network = frontrunner.load(run.directory).pareto_set.network  # type: ignore[attr-defined]
    if not isinstance(network, LowRankUpdates):
        raise FrontError("it has no low-rank updates")
    return float(network.overlap().detach())


@cache
def _accuracies(directory: Path) -> dict[str, float]:
    import numpy as np

    from frontrunner.evaluators.objectives import Objectives

    run = frontrunner.load(directory)
    found = run.pareto_set
    front = Objectives(what="accuracies").evaluate(found, run.task)
    equal = found.materialize(np.full(found.m, 1 / found.m))
    return {
        "front": float(front.values.mean()),
        "equal": float(run.task.measure(equal, "test", what="accuracies").mean()),
        "best": float(front.values.max(axis=0).mean()),
    }
