"""What the tables of pruning read from runs beyond what `frontrunner.tables.values` has."""

from __future__ import annotations

from frontrunner.tables.values import Peers, Result, fact, total


def share_of_time(run: Result, peers: Peers, *, row: str) -> float:
    """Seconds of making the models of all preferences, in percent of the other row's fit, which
    prunes anew for each of them: that fit is what the other row itself needs."""
    anew = peers(row)
    if run.directory == anew.directory:
        return 100.0
    made = total(run, peers, cost="materialize_seconds")
    return 100.0 * made / fact(anew, peers, path="cost.seconds")
