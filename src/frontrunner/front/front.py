"""A trade-off front: objective vectors, the preferences that led to them, and what they cost."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from frontrunner import files
from frontrunner.errors import FrontError, RunError
from frontrunner.front import indicators
from frontrunner.front.objective import Objective
from frontrunner.preferences import Kind

Array = NDArray[np.float64]

SCHEMA_VERSION = 1


@dataclass(frozen=True, eq=False)
class Front:
    """n points of m objectives.

    Attributes:
        objectives: the m objectives, in column order.
        values: (n, m) float64, each column in its objective's own unit and direction.
        preferences: (n, p) on the simplex, or None when points were not asked for by preference.
        preference_kind: how a preference is read, see `frontrunner.preferences`.
        reference_point: (m,) in the objectives' own units and directions, or None.
        costs: one mapping per point, e.g. ``{"seconds": 0.1}``; empty when unknown.
        info: what else a reader should know (task, method, seed, split, …); JSON values only.
        preference_names: what the p entries of a preference ask for, where that is not the
            objectives in their order; empty if it is, or if it is unknown.

    Raises:
        FrontError: shapes that disagree, or a value that is not finite.
    """

    objectives: tuple[Objective, ...]
    values: Array
    preferences: Array | None = None
    preference_kind: Kind | None = None
    reference_point: Array | None = None
    costs: tuple[Mapping[str, float], ...] = ()
    info: Mapping[str, Any] = field(default_factory=dict)
    preference_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [o.name for o in self.objectives]
        if len(names) < 2:
            raise FrontError("a front needs at least two objectives")
        if len(set(names)) != len(names):
            raise FrontError(f"objective names must differ: {names}")
        m = len(names)
        values = as_points(self.values, m, "front")
        n = len(values)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "objectives", tuple(self.objectives))
        if self.preferences is not None:
            preferences = np.asarray(self.preferences, dtype=np.float64)
            if preferences.ndim != 2 or len(preferences) != n or not preferences.shape[1]:
                raise FrontError(f"preferences have shape {preferences.shape}, points ({n}, {m})")
            if not np.isfinite(preferences).all():
                raise FrontError("a preference of the front is not finite")
            object.__setattr__(self, "preferences", preferences)
            asked = tuple(str(name) for name in self.preference_names)
            if asked and len(asked) != preferences.shape[1]:
                raise FrontError(
                    f"preference_names has {len(asked)} entries, a preference "
                    f"{preferences.shape[1]}"
                )
            object.__setattr__(self, "preference_names", asked)
        else:
            object.__setattr__(self, "preference_names", ())
        if self.reference_point is not None:
            reference = np.asarray(self.reference_point, dtype=np.float64)
            if reference.shape != (m,) or not np.isfinite(reference).all():
                raise FrontError(f"a reference point needs {m} finite entries")
            object.__setattr__(self, "reference_point", reference)
        if self.preference_kind not in (None, "weight", "ray"):
            raise FrontError(f"preference_kind {self.preference_kind!r} is not weight or ray")
        if self.costs and len(self.costs) != len(values):
            raise FrontError(f"{len(self.costs)} costs for {len(values)} points")
        costs = tuple({str(k): float(v) for k, v in cost.items()} for cost in self.costs)
        if not all(math.isfinite(v) for cost in costs for v in cost.values()):
            raise FrontError("the cost of a point is not finite")
        object.__setattr__(self, "costs", costs)

    # ------------------------------------------------------------------ views

    def __len__(self) -> int:
        return len(self.values)

    @property
    def signs(self) -> Array:
        """(m,) of +1 for objectives to minimise and -1 for objectives to maximise."""
        return np.array([o.sign for o in self.objectives])

    @property
    def minimised(self) -> Array:
        """(n, m) values with maximised objectives negated, so that less is better throughout."""
        return self.values * self.signs

    @property
    def minimised_reference(self) -> Array:
        """(m,) reference point in the convention of `minimised`.

        Raises:
            FrontError: the front has no reference point.
        """
        if self.reference_point is None:
            raise FrontError("this front has no reference point; give one")
        return self.reference_point * self.signs

    @property
    def aligned(self) -> bool:
        """Whether entry j of a preference asks for objective j, so that the two can be related."""
        known = self.preferences is not None and not self.preference_names
        return known and self.preferences.shape == self.values.shape  # type: ignore[union-attr]

    @property
    def asked_for(self) -> tuple[str, ...]:
        """(p,) what each entry of a preference asks for; its number where that is unknown."""
        if self.preference_names:
            return self.preference_names
        if self.preferences is None or self.aligned:
            return tuple(o.name for o in self.objectives)
        return tuple(str(j + 1) for j in range(self.preferences.shape[1]))

    def nondominated(self) -> NDArray[np.bool_]:
        """(n,) mask of the points no other point dominates; of equal points the first is kept."""
        return indicators.nondominated(self.minimised)

    def with_reference(self, reference_point: ArrayLike) -> Front:
        """The same front with another reference point."""
        return replace(self, reference_point=np.asarray(reference_point, dtype=np.float64))

    def with_info(self, info: Mapping[str, Any]) -> Front:
        """The same front with these entries added to ``info``."""
        return replace(self, info={**self.info, **info})

    def hypervolume(self, reference_point: ArrayLike | None = None) -> float:
        """Hypervolume against ``reference_point``, or the front's own.

        Raises:
            FrontError: there is no reference point.
        """
        front = self if reference_point is None else self.with_reference(reference_point)
        return indicators.hypervolume(front.minimised, front.minimised_reference)

    def indicators(self) -> dict[str, Any]:
        """Every indicator of `indicators.summary` for this front, with its conventions."""
        return indicators.summary(
            self.minimised,
            None if self.reference_point is None else self.minimised_reference,
            preferences=self.preferences if self.aligned else None,
            preference_kind=self.preference_kind,
        )

    # ------------------------------------------------------------------ files

    def to_dict(self) -> dict[str, Any]:
        """The content of ``front.json``."""
        mask = self.nondominated()
        points = []
        for i, row in enumerate(self.values):
            points.append(
                {
                    "preference": None
                    if self.preferences is None
                    else [float(x) for x in self.preferences[i]],
                    "values": [float(x) for x in row],
                    "dominated": not bool(mask[i]),
                    "cost": dict(self.costs[i]) if self.costs else {},
                }
            )
        return {
            "schema_version": SCHEMA_VERSION,
            "objectives": [
                {"name": o.name, "direction": o.direction, "unit": o.unit} for o in self.objectives
            ],
            "reference_point": None
            if self.reference_point is None
            else [float(x) for x in self.reference_point],
            "preference_kind": self.preference_kind,
            **({"preference_names": list(self.preference_names)} if self.preference_names else {}),
            "points": points,
            "indicators": self.indicators(),
            "info": dict(self.info),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, source: str = "front") -> Front:
        """Read the content of a ``front.json``; fields other tools leave out get defaults.

        Raises:
            FrontError: a required field is missing or malformed; the message names ``source``.
        """
        try:
            version = data.get("schema_version", SCHEMA_VERSION)
            if version != SCHEMA_VERSION:
                raise FrontError(
                    f"schema_version {version} is not {SCHEMA_VERSION}; "
                    "it was written by another version of frontrunner"
                )
            objectives = tuple(
                Objective(o["name"], o.get("direction", "min"), o.get("unit", ""))
                for o in data["objectives"]
            )
            points = data["points"]
            values = np.array([p["values"] for p in points], dtype=np.float64)
            preferences = [p.get("preference") for p in points]
            known = bool(points) and all(p is not None for p in preferences)
            costs = tuple(p.get("cost") or {} for p in points)
            return cls(
                objectives=objectives,
                values=values.reshape(len(points), len(objectives)) if not points else values,
                preferences=np.array(preferences, dtype=np.float64) if known else None,
                preference_kind=data.get("preference_kind"),
                preference_names=tuple(data.get("preference_names") or ()),
                reference_point=data.get("reference_point"),
                costs=costs if any(costs) else (),
                info=data.get("info") or {},
            )
        except FrontError as error:
            raise FrontError(f"{source}: {error}") from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FrontError(f"{source} is not a front: {type(error).__name__} {error}") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write ``front.json`` atomically.

        Raises:
            FrontError: ``info`` holds something that JSON cannot.
        """
        try:
            files.write_json(path, self.to_dict())
        except (TypeError, ValueError) as error:
            raise FrontError(f"{path}: the front's info is not JSON: {error}") from None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Front:
        """Read a ``front.json``.

        Raises:
            FrontError: the file is missing, is not JSON, or is not a front.
        """
        try:
            data = files.read_json(path)
        except RunError as error:
            raise FrontError(str(error)) from None
        return cls.from_dict(data, source=str(path))

    # ------------------------------------------------------------------ views for people

    def plot(self, **options: Any) -> Any:
        """A matplotlib figure of the front, see `frontrunner.front.plots.figure`."""
        from frontrunner.front import plots

        return plots.figure([self], **options)

    def _repr_html_(self) -> str:
        """Table and plot, for notebooks."""
        from frontrunner.front import plots

        return plots.notebook_html(self)


def as_points(values: ArrayLike, m: int, what: str) -> Array:
    """Return ``values`` as a finite float64 array (n, m).

    Raises:
        FrontError: wrong shape, no points, or a non-finite entry (its row is named).
    """
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise FrontError(f"the values of a {what} must be numbers, {m} in every row") from None
    if array.ndim != 2 or array.shape[1] != m:
        raise FrontError(f"a {what} of {m} objectives has shape (n, {m}), not {array.shape}")
    if len(array) == 0:
        raise FrontError(f"a {what} needs at least one point")
    bad = ~np.isfinite(array).all(axis=1)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise FrontError(f"point {row} of the {what} is not finite: {array[row].tolist()}")
    return array


def check_comparable(fronts: Sequence[Front]) -> None:
    """Refuse fronts whose objectives differ in name, direction or unit.

    Raises:
        FrontError: with the first two lists of objectives that disagree.
    """
    first = fronts[0].objectives
    for front in fronts[1:]:
        if front.objectives != first:
            raise FrontError(
                "fronts with different objectives cannot be compared: "
                f"{[o.label for o in first]} and {[o.label for o in front.objectives]}"
            )
