"""What the tables of pruning read from runs beyond what `frontrunner.tables.values` has."""

from __future__ import annotations

from frontrunner.tables.values import Peers, Result, fact, total


def share_of_time(run: Result, peers: Peers, *, row: str, fit: bool = False) -> float:
    """Seconds of making the models of all preferences, and of the ``fit`` before it if asked for,
    in percent of the other row's fit, which prunes anew for each of them: that fit is what the
    other row itself needs."""
    anew = peers(row)
    if run.directory == anew.directory:
        return 100.0
    seconds = total(run, peers, cost="materialize_seconds")
    if fit:
        seconds += fact(run, peers, path="cost.seconds")
    return 100.0 * seconds / fact(anew, peers, path="cost.seconds")
