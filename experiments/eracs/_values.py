"""What the tables of coresets read from runs beyond what `frontrunner.tables.values` has."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import spearmanr

from frontrunner.errors import FrontError
from frontrunner.tables.values import Peers, Result


def accuracy(run: Result, peers: Peers) -> float:
    """Test accuracy in percent, of a run of one model on a task with one objective."""
    (error,) = (j for j, o in enumerate(run.front.objectives) if o.unit == "error")
    return 100.0 * (1.0 - float(run.front.values[0, error]))


def snr_and_gap(run: Result, peers: Peers) -> float:
    """Spearman's correlation, within a run, of the SNR with the true gradient gap 1 − cos."""
    history: list[dict[str, Any]] = run.front.info["models"][0]["history"]
    pairs = [(h["snr"][0], h["gap"]) for h in history if "gap" in h and "snr" in h]
    if len(pairs) < 4 or not np.isfinite(pairs).all():
        raise FrontError("fewer than four measurements of SNR and gap")
    found = float(spearmanr(*zip(*pairs, strict=True)).statistic)
    if not np.isfinite(found):
        raise FrontError("SNR or gap is the same throughout")
    return found
