"""What the tables of coresets read from runs beyond what `frontrunner.tables.values` has.

A run with a list of budgets has a model for each; ``budget`` says which is read. Without it, or of
a run on all data, it is the only one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from frontrunner.errors import FrontError
from frontrunner.tables.values import Peers, Result


def accuracy(run: Result, peers: Peers, *, budget: float | None = None) -> float:
    """Test accuracy in percent, on a task with one objective."""
    (error,) = (j for j, o in enumerate(run.front.objectives) if o.unit == "error")
    return 100.0 * (1.0 - float(run.front.values[_index(run, budget), error]))


def cost(run: Result, peers: Peers, *, budget: float | None = None) -> float:
    """The share of training on all data, in passes over samples, with selections and checks."""
    (j,) = (j for j, o in enumerate(run.front.objectives) if o.name == "cost")
    return float(run.front.values[_index(run, budget), j])


def cost_over_budget(run: Result, peers: Peers, *, budget: float | None = None) -> float:
    """How many times its budget a run costs."""
    return cost(run, peers, budget=budget) / float(_model(run, budget)["budget"])


def bought(run: Result, peers: Peers, *, budget: float | None = None) -> float:
    """The budget that costs as much without selecting, in thousandths, at most 1."""
    return round(min(1.0, cost(run, peers, budget=budget)), 3)


def updates(run: Result, peers: Peers, *, budget: float | None = None) -> float:
    """Selections after the first."""
    return _told(run, budget, "updates")


def seconds(run: Result, peers: Peers, *, budget: float | None = None) -> float:
    """Of training, with selections and checks."""
    return _told(run, budget, "seconds")


def selecting(run: Result, peers: Peers, *, budget: float | None = None) -> float:
    """The share of selections in the seconds of training, in percent."""
    return 100.0 * _told(run, budget, "select_seconds") / _told(run, budget, "seconds")


def checking(run: Result, peers: Peers, *, budget: float | None = None) -> float:
    """Seconds of checks in percent of those of the steps of training."""
    return 100.0 * _told(run, budget, "check_seconds") / _told(run, budget, "train_seconds")


def failed(run: Result, peers: Peers, *, budget: float | None = None) -> float:
    """How many of a run's models collapsed: that of the budget, or of all."""
    models = run.front.info["models"] if budget is None else [_model(run, budget)]
    return float(sum(model["collapsed"] for model in models))


def snr_and_gap(run: Result, peers: Peers, *, budget: float | None = None) -> float:
    """Spearman's correlation, within a run, of the SNR with the true gradient gap 1 − cos."""
    history: list[dict[str, Any]] = _model(run, budget)["history"]
    return _correlation([(h["snr"][0], h["gap"]) for h in history if "gap" in h and "snr" in h])


def snr_agreement(run: Result, peers: Peers, *, budget: float | None = None) -> float:
    """Spearman's correlation, within a run, of the SNR of training with that of a pass."""
    return _correlation(_both(run, budget))


def snr_ratio(run: Result, peers: Peers, *, budget: float | None = None) -> float:
    """The median of training's SNR over that of a pass."""
    seen, passed = np.array(_both(run, budget)).T
    return float(np.median(seen / passed))


def _both(run: Result, budget: float | None) -> list[tuple[float, float]]:
    history = _model(run, budget)["history"]
    found = [(h["snr"][0], h["snr_pass"][0]) for h in history if "snr_pass" in h]
    if not found:
        raise FrontError("it has no SNR of a pass beside that of training")
    return found


def _correlation(pairs: Sequence[tuple[float, float]]) -> float:
    if len(pairs) < 4 or not np.isfinite(pairs).all():
        raise FrontError("fewer than four measurements")
    found = float(spearmanr(*zip(*pairs, strict=True)).statistic)
    if not np.isfinite(found):
        raise FrontError("what is measured is the same throughout")
    return found


def _told(run: Result, budget: float | None, what: str) -> float:
    return float(run.front.costs[_index(run, budget)][f"training_{what}"])


def _model(run: Result, budget: float | None) -> dict[str, Any]:
    model: dict[str, Any] = run.front.info["models"][_index(run, budget)]
    return model


def _index(run: Result, budget: float | None) -> int:
    models = run.front.info["models"]
    found = [i for i, m in enumerate(models) if budget is None or m["budget"] == budget]
    if len(models) == 1:
        return 0
    if len(found) != 1:
        raise FrontError(f"it has {len(found)} models for a budget of {budget:g}")
    return found[0]
