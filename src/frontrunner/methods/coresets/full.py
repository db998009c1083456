"""All of the data: what coresets are compared with."""

from __future__ import annotations

from frontrunner.coresets.select import Selector
from frontrunner.methods.coresets.base import CoresetMethod
from frontrunner.methods.learning.training import Training


class Full(CoresetMethod):
    """Training on all samples, for the whole of the task's steps. Arguments as in
    `CoresetMethod`."""

    def __init__(self, training: Training, seed: int, points: int) -> None:
        # Of no weights: batches are taken as they are.
        super().__init__(training, seed, points, budget=1.0, weighting="sampling")

    def selector(self) -> Selector | None:
        return None
