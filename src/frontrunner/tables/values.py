"""What a table reads from a finished run: functions of the run, by name.

In a table file a value is a name, ``value: hypervolume``, or a mapping whose ``name`` it is and
whose other keys are the function's arguments, ``value: {name: objective, objective: code, at:
equal}``. A dotted name is a function of the user's own, with the same two leading arguments, and so
is ``file.py:name``, with the file beside the table's.
"""

from __future__ import annotations

import importlib
import inspect
import runpy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frontrunner.errors import ConfigError, FrontError, RunError, nearest
from frontrunner.front import indicators
from frontrunner.front.front import Front
from frontrunner.tracking.manifest import RunRecord

Array = NDArray[np.float64]
TRUTH = 2000  # points of a true front that distances are measured to


@dataclass(frozen=True)
class Result:
    """A run of the table that is done, read when something of it is asked for."""

    directory: Path

    @cached_property
    def front(self) -> Front:
        """Its front."""
        return Front.load(self.directory / "front.json")

    @cached_property
    def record(self) -> dict[str, Any]:
        """Its ``run.json``."""
        return RunRecord.read(self.directory).data

    @cached_property
    def task(self) -> Any:
        """Its task, built from its configuration, for values that need more than the front."""
        from frontrunner.config import load
        from frontrunner.run import build_task

        return build_task(load(self.directory / "config.yaml"))


Peers = Callable[[str], Result]
"""The run of another row in the same panel and column, with the same seed."""


@dataclass(frozen=True)
class Value:
    """A function of a run with its arguments."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, run: Result, peers: Peers) -> float:
        """The number of one run.

        Raises:
            FrontError, RunError: the run does not have it; why.
        """
        found = float(function(self.name)(run, peers, **self.arguments))
        if not np.isfinite(found):
            raise FrontError(f"{self.name} is not finite")
        return found

    @property
    def rows(self) -> tuple[str, ...]:
        """Other rows that it needs."""
        reference = self.arguments.get("reference")
        return (str(reference["row"]),) if isinstance(reference, Mapping) else ()

    def instead(self, changes: Mapping[str, Any] | None) -> Value:
        """With another function or other arguments; a function gets those it takes.

        Raises:
            ConfigError: no such function.
        """
        if changes is None:
            return self
        name = str(changes.get("name", self.name))
        takes = inspect.signature(function(name)).parameters
        arguments = {**self.arguments, **changes}
        return Value(name, {k: v for k, v in arguments.items() if k in takes})


def of(data: Any, folder: Path = Path()) -> Value:
    """The value that a table file in ``folder`` names.

    Raises:
        ConfigError: no such function, or arguments it does not take.
    """
    if isinstance(data, str):
        data = {"name": data}
    if not isinstance(data, Mapping) or "name" not in data:
        raise ConfigError("a value is a name, or a mapping with a name and arguments")
    arguments = {str(k): v for k, v in data.items() if k != "name"}
    name = str(data["name"])
    if ".py:" in name:
        name = f"{folder / name}"
    chosen = function(name)
    try:
        inspect.signature(chosen).bind(None, None, **arguments)
    except TypeError as error:
        raise ConfigError(f"value {name}: {error}") from None
    if isinstance(reference := arguments.get("reference"), Mapping) and "row" not in reference:
        raise ConfigError("a reference is a list of numbers, or {row: …, factor: …}")
    return Value(name, arguments)


@cache
def function(name: str) -> Callable[..., float]:
    """The function of that name: one of this module's, or of the user's own by dotted path or as
    ``path/to/file.py:name``.

    Raises:
        ConfigError: there is none.
    """
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    file, _, attribute = name.rpartition(":")
    module = "" if file else name.rpartition(".")[0]
    if not file and not module:
        raise ConfigError(f"no value '{name}'{nearest(name, FUNCTIONS)}")
    try:
        if file:
            found = runpy.run_path(file)[attribute]
        else:
            found = getattr(importlib.import_module(module), name.rpartition(".")[2])
    except (ImportError, AttributeError, KeyError, OSError) as error:
        raise ConfigError(f"value {name}: {error}") from None
    if not callable(found):
        raise ConfigError(f"value {name} is not a function")
    return found


# ---------------------------------------------------------------------- functions


def hypervolume(run: Result, peers: Peers, *, reference: Any = None) -> float:
    """Hypervolume of the run's front.

    Args:
        reference: (m,) in the objectives' own units; ``{row, factor}`` takes the objectives of that
            row's run at equal preferences, times the factor; None takes the front's own.
    """
    if isinstance(reference, Mapping):
        middle = _at(peers(str(reference["row"])).front, "equal")
        reference = float(reference.get("factor", 1.0)) * middle
    return run.front.hypervolume(reference)


def hypervolume_share(run: Result, peers: Peers, *, of: str = "front") -> float:
    """Hypervolume of a front whose truth is known, in percent of that of the whole true front
    (``of="front"``), or of the best that as many points can have (``"points"``, two objectives)."""
    problem = _truth(run)
    if of not in ("front", "points"):
        raise ConfigError(f"hypervolume_share: of={of}; valid: front, points")
    z = problem.reference_point
    best = (
        problem.hypervolume(z)
        if of == "front"
        else problem.best_hypervolume(len(run.front.values), z)
    )
    return 100.0 * run.front.hypervolume(z) / float(best)


def scaled_hypervolume(run: Result, peers: Peers) -> float:
    """Hypervolume of a front whose truth is known, divided by the product of its objectives'
    scales, at 1.1 for each."""
    z = np.asarray(_truth(run).reference_point)
    return run.front.hypervolume(z) / float(np.prod(z / 1.1))


def igd_plus_to_truth(run: Result, peers: Peers) -> float:
    """IGD+ to 2,000 points of the true front, in raw objectives."""
    return float(indicators.igd_plus(run.front.minimised, _truth(run).front(TRUTH)))


def reach(run: Result, peers: Peers) -> float:
    """The smaller share of the true front's extent, by objective, that the points span, in %."""
    whole = indicators.extent(_truth(run).front(TRUTH))
    return 100.0 * float((indicators.extent(run.front.minimised) / whole).min())


def inner_points(run: Result, peers: Peers, *, margin: float = 0.02) -> float:
    """How many points are at least ``margin`` of the true front's extent away from both of its
    ends, of two objectives."""
    truth = _truth(run).front(TRUTH)
    if truth.shape[1] != 2:
        raise FrontError("only a front of two objectives has two ends")
    away = (run.front.minimised - truth.min(axis=0)) / indicators.extent(truth)
    return float((away.min(axis=1) >= margin).sum())


def ray_angle(run: Result, peers: Peers) -> float:
    """Mean angle in degrees between points and the rays they were asked to lie on, over rays that
    are on no axis."""
    front = run.front
    if front.preferences is None or front.preference_kind != "ray":
        raise FrontError("its preferences are no rays")
    inside = (front.preferences > 0).all(axis=1)
    return float(indicators.ray_angle(front.preferences[inside], front.minimised[inside]))


def gap(run: Result, peers: Peers) -> float:
    """The smallest distance between neighbours (uniformity), in raw objectives."""
    return _told(indicators.uniformity(run.front.minimised), "a smallest gap")


def gap_share(run: Result, peers: Peers) -> float:
    """The smallest gap in percent of that of as many equal angles on a quarter circle."""
    even = 2.0 * np.sin(np.pi / (4.0 * (len(run.front.values) - 1)))
    return 100.0 * gap(run, peers) / float(even)


def gap_deviation(run: Result, peers: Peers) -> float:
    """The standard deviation of nearest-neighbour gaps, in raw objectives."""
    return _told(indicators.gap_deviation(run.front.minimised), "a deviation of gaps")


def nondominated(run: Result, peers: Peers) -> float:
    """How many of its points are not dominated by another of them."""
    return float(run.front.nondominated().sum())


def points(run: Result, peers: Peers) -> float:
    """How many points its front has."""
    return float(len(run.front.values))


def rank_alignment(run: Result, peers: Peers) -> float:
    """Rank correlation of preferences and objectives, 1 if the order is what was asked for."""
    return _told(run.front.indicators().get("rank_alignment"), "a rank alignment")


def objective(run: Result, peers: Peers, *, objective: str, at: Any = "equal") -> float:
    """One objective of the model for a preference.

    Args:
        objective: its name.
        at: ``equal``, ``own`` (all weight on this objective), ``priority`` (half of it, the rest
            shared), ``best`` (of all points), or the preference itself.
    """
    return float(_of(run.front, _index(run.front, objective), at))


def mean_objective(run: Result, peers: Peers, *, at: Any = "equal") -> float:
    """The mean over objectives, of one model (``at="equal"``), or of objective j of a model that is
    for objective j (``own``, ``priority``), see `objective`."""
    front = run.front
    return float(np.mean([_of(front, j, at) for j in range(len(front.objectives))]))


def dense(run: Result, peers: Peers, *, objective: str) -> float:
    """An objective of the model before it was pruned."""
    told = run.front.info.get("dense") or {}
    if objective not in told:
        raise FrontError(f"the front does not say '{objective}' of the model before pruning")
    return float(told[objective])


def mean_dense(run: Result, peers: Peers) -> float:
    """The mean over objectives of the model before it was pruned."""
    return float(np.mean([dense(run, peers, objective=o.name) for o in run.front.objectives]))


def total(run: Result, peers: Peers, *, cost: str) -> float:
    """A cost of the points, such as ``materialize_seconds``, summed over them."""
    known = [of[cost] for of in run.front.costs if cost in of]
    if not known or len(known) < len(run.front.values):
        raise FrontError(f"not all points say what they cost in {cost}")
    return float(sum(known))


def fact(run: Result, peers: Peers, *, path: str) -> float:
    """A number that the run states, by dotted path: ``cost.seconds``, ``info.models.0.updates`` of
    its front, ``points.0.cost.training_seconds``, ``timings.total``."""
    return look_up(run, path)


FUNCTIONS: dict[str, Callable[..., float]] = {
    f.__name__: f
    for f in (
        hypervolume,
        hypervolume_share,
        scaled_hypervolume,
        igd_plus_to_truth,
        reach,
        inner_points,
        ray_angle,
        gap,
        gap_share,
        gap_deviation,
        nondominated,
        points,
        rank_alignment,
        objective,
        mean_objective,
        dense,
        mean_dense,
        total,
        fact,
    )
}


def look_up(run: Result, path: str) -> float:
    """The number at a dotted path of the run's record, or of its front: ``info…``, ``points…``.

    Raises:
        RunError: there is none, or it is not a number.
    """
    first, *rest = path.split(".")
    found: Any
    if first == "points" and rest:
        index, rest = rest[0], rest[1:]
        costs = run.front.costs
        known = index.isdecimal() and int(index) < len(costs)
        found = {"cost": dict(costs[int(index)])} if known else None
    else:
        found = (run.front.info if first == "info" else run.record.get(first)) or None
    for key in rest:
        if isinstance(found, Mapping):
            found = found.get(key)
        elif isinstance(found, Sequence) and key.isdecimal() and int(key) < len(found):
            found = found[int(key)]
        else:
            found = None
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise RunError(f"{run.directory} has no number '{path}'")
    return float(found)


# ---------------------------------------------------------------------- pieces


def _truth(run: Result) -> Any:
    problem = getattr(run.task, "problem", None)
    if problem is None:
        raise FrontError(f"the true front of task '{run.front.info.get('task')}' is not known")
    return problem


def _told(value: float | None, what: str) -> float:
    if value is None:
        raise FrontError(f"the front does not have {what}")
    return float(value)


def _index(front: Front, name: str) -> int:
    names = [o.name for o in front.objectives]
    if name not in names:
        raise FrontError(f"no objective '{name}'{nearest(name, names)}")
    return names.index(name)


def _of(front: Front, j: int, at: Any) -> float:
    m = len(front.objectives)
    if at == "best":
        return float(front.signs[j] * front.minimised[:, j].min())
    if at == "own":
        at = np.eye(m)[j]
    elif at == "priority":
        at = np.full(m, 0.5 / (m - 1))
        at[j] = 0.5
    return float(_at(front, at)[j])


def _at(front: Front, at: Any) -> Array:
    """Objectives of the model for a preference, (m,); of a front of one model, that model's."""
    if len(front.values) == 1:
        return front.values[0]
    if front.preferences is None:
        raise FrontError("the front has several points and no preferences")
    p = front.preferences.shape[1]
    if isinstance(at, str):
        if at != "equal":
            raise ConfigError(f"at={at}; valid: equal, own, priority, best, or a preference")
        at = np.full(p, 1.0 / p)
    wanted = np.asarray(at, dtype=np.float64)
    if wanted.shape != (p,):
        raise FrontError(f"a preference of this front has {p} entries, not {wanted.shape}")
    distance = np.abs(front.preferences - wanted).max(axis=1)
    if distance.min() > 1e-6:
        text = ", ".join(f"{x:.3g}" for x in wanted)
        raise FrontError(f"the front has no model for the preference ({text})")
    return front.values[int(distance.argmin())]
