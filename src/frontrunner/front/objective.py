"""What is traded off: a named scalar with a direction and a unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from frontrunner.errors import FrontError


@dataclass(frozen=True)
class Objective:
    """A named scalar with a direction and a unit, e.g. ``Objective("left", "min", "nats")``."""

    name: str
    direction: Literal["min", "max"] = "min"
    unit: str = ""

    def __post_init__(self) -> None:
        if not self.name or not isinstance(self.name, str):
            raise FrontError("an objective needs a name")
        if self.direction not in ("min", "max"):
            raise FrontError(
                f"objective '{self.name}': direction must be 'min' or 'max', not {self.direction!r}"
            )

    @property
    def sign(self) -> float:
        """Factor that turns the objective into one to be minimised."""
        return 1.0 if self.direction == "min" else -1.0

    @property
    def label(self) -> str:
        """Name with unit and direction, for axes and table heads: ``left [nats] ↓``."""
        unit = f" [{self.unit}]" if self.unit else ""
        return f"{self.name}{unit} {'↓' if self.direction == 'min' else '↑'}"
