"""Random samples, fixed or drawn again: what any selection has to beat."""

from __future__ import annotations

from frontrunner.coresets import select
from frontrunner.methods.coresets.base import CoresetMethod


class Random(CoresetMethod):
    """Samples drawn without replacement; with ``trigger=interval every=1`` anew in every epoch."""

    def selector(self) -> select.Selector:
        return select.Random()
