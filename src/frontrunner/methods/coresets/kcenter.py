"""k-centre: samples that cover the features of all others."""

from __future__ import annotations

from frontrunner.coresets import select
from frontrunner.methods.coresets.base import CoresetMethod


class KCenter(CoresetMethod):
    """The greedy k-centre coreset of last-layer features. Source: Sener & Savarese, ICLR 2018."""

    def selector(self) -> select.Selector:
        return select.KCenter()
