"""A sweep in the foreground: submitted, watched, and stopped by Ctrl-C."""

from __future__ import annotations

from frontrunner.sweeps import show, verbs
from frontrunner.sweeps.plan import Plan
from frontrunner.sweeps.status import Standing, statuses
from frontrunner.sweeps.sweep import FILE, Sweep


def run_through(plan: Plan) -> tuple[Sweep, list[Standing]]:
    """Submit a plan, show its cells until none waits or runs, and return how they stand then. As in
    the process itself, what failed earlier is tried again. Ctrl-C stops what was started here."""
    others = {c.identity for c in verbs.weigh(plan).waiting}  # that an earlier submit has started
    try:
        sweep, weighed = verbs.submit(plan)
        if weighed.lost:
            verbs.retry(sweep, names=[c.name for c in weighed.lost], launcher=plan.launcher)
        mine = [c for c in sweep.cells if c.identity in {c.identity for c in plan.cells}]
        return sweep, show.watch(sweep, lambda: statuses(sweep, mine), every=0.3)
    except KeyboardInterrupt:
        if (plan.folder / FILE).is_file():
            started = [c.identity for c in plan.cells if c.identity not in others]
            verbs.cancel(Sweep.read(plan.folder), started)
        raise
