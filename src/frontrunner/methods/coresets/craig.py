"""CRAIG: samples whose gradients are near those of all others."""

from __future__ import annotations

from frontrunner.coresets import select
from frontrunner.methods.coresets.base import CoresetMethod


class Craig(CoresetMethod):
    """Facility location on gradient distances, class by class, weighted by the sizes of clusters.

    Source: Mirzasoleiman, Bilmes & Leskovec, ICML 2020.
    """

    def selector(self) -> select.Selector:
        return select.Craig()
