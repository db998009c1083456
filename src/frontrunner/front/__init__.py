"""Fronts: objective vectors with their directions, how good they are, and how they compare."""

from frontrunner.front.front import Front
from frontrunner.front.objective import Objective

__all__ = ["Front", "Objective"]
