"""What can be done with a sweep: submit it, take up what was lost, stop it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frontrunner import config as configuration
from frontrunner.errors import ConfigError, HeldError
from frontrunner.sweeps import plan as plans
from frontrunner.sweeps.launcher import LOST, WAITING, Launcher, State
from frontrunner.sweeps.status import Standing, queue, standings, statuses
from frontrunner.sweeps.sweep import Cell, Sweep, announce_job
from frontrunner.tracking import manifest

TURN = 60.0  # seconds to wait for another submit or retry to be through


@dataclass(frozen=True)
class Weighed:
    """The cells of a plan by what is there of them already.

    Attributes:
        start: that nothing is known of.
        waiting: queued or running, perhaps for another sweep.
        done, lost: finished runs; those that ended otherwise, which `retry` is for.
    """

    start: tuple[Cell, ...]
    waiting: tuple[Cell, ...]
    done: tuple[Cell, ...]
    lost: tuple[Cell, ...]


def weigh(plan: plans.Plan) -> Weighed:
    """Which cells of a plan a submit would start."""
    sweep = Sweep(plan.folder, {}, plan.cells)
    found = standings([(cell, sweep.directory(cell)) for cell in plan.cells])

    def those(*states: State) -> tuple[Cell, ...]:
        return tuple(s.cell for s in found if s.state in states)

    return Weighed(those(State.PLANNED), those(*WAITING), those(State.DONE), those(*LOST))


def submit(plan: plans.Plan) -> tuple[Sweep, Weighed]:
    """Freeze a plan and hand over the cells that nothing is known of.

    Raises:
        RunError: the launcher did not take all of them; the same command goes on with the rest.
    """
    with _in_turn(plan.folder):
        sweep = plans.write(plan)
        weighed = weigh(plan)
        _hand_over(sweep, plan.launcher, {c.identity for c in weighed.start})
    return sweep, weighed


def retry(
    sweep: Sweep,
    states: Sequence[State] = (),
    names: Sequence[str] = (),
    overrides: Sequence[str] = (),
    update_code: bool = False,
    launcher: Launcher | None = None,
) -> tuple[Cell, ...]:
    """Hand over again what was lost or never started; returns these cells.

    Args:
        sweep: whose cells.
        states: only cells that stand so; none takes all that ended without being done, and those
            that were never submitted.
        names: only these cells, see `Sweep.chosen`.
        overrides: of ``launcher.…``, or another ``launcher=…``.
        update_code: run the code as it is now, in place of what was frozen.
        launcher: that takes them; None takes the sweep's, changed by ``overrides``.

    Raises:
        ConfigError: a cell by name that is done, queued or running; overrides of anything else.
    """
    with _in_turn(sweep.folder):
        sweep = Sweep.read(sweep.folder)
        again = states or (*LOST, State.PLANNED)
        wanted = sweep.chosen(names) if names else sweep.cells
        found = statuses(sweep, wanted)
        for one in found:
            if names and one.state in (*WAITING, State.DONE):
                raise ConfigError(f"{one.cell.name} is {one.state}: there is nothing to retry")
        cells = [s.cell for s in found if s.state in again]
        if not cells:
            return ()
        launcher = launcher or _launcher(sweep.facts["launcher"], overrides, cells)
        if update_code:
            sweep = plans.thaw(sweep, cells)
        chosen = {c.identity for c in cells}
        return _hand_over(sweep, launcher, chosen)


def cancel(sweep: Sweep, names: Sequence[str] = ()) -> list[Standing]:
    """Stop the cells of a sweep (or these of them) that wait or run; returns how they stood. Cells
    that run for another sweep are left to it."""
    wanted = sweep.chosen(names) if names else None
    found = [
        s
        for s in statuses(sweep, wanted)
        if s.state in WAITING and s.job and s.job["sweep"] == str(sweep.folder)
    ]
    by_launcher: dict[str, list[Mapping[str, Any]]] = {}
    for one in found:
        assert one.job is not None
        by_launcher.setdefault(str(one.job["launcher"]), []).append(one.job)
    for launcher, jobs in by_launcher.items():
        queue(launcher).cancel(jobs)
    return found


@contextmanager
def _in_turn(folder: Path) -> Iterator[None]:
    """After others that submit or retry a sweep beside this one: they may share runs."""
    deadline = time.monotonic() + TURN
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(manifest.claim(folder.parent))
                break
            except HeldError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
        yield


def _hand_over(sweep: Sweep, launcher: Launcher, identities: set[str]) -> tuple[Cell, ...]:
    cells = tuple(c for c in sweep.cells if c.identity in identities)
    for cell in cells:
        announce_job(sweep.directory(cell))
    if cells:
        launcher.submit(sweep, cells)
    return cells


def _launcher(node: Mapping[str, Any], overrides: Sequence[str], cells: Sequence[Cell]) -> Launcher:
    """The sweep's launcher, with other settings where they are given."""
    from omegaconf import OmegaConf

    for word in overrides:
        if word.split("=")[0].lstrip("+~").split(".")[0] != "launcher":
            raise ConfigError(
                f"{word}: retry runs cells as they were submitted; only launcher.… can be changed"
            )
    if any(word.startswith("launcher=") for word in overrides):
        node = configuration.plain(configuration.compose(overrides).launcher)
    elif overrides:
        changed = OmegaConf.from_dotlist(list(overrides)).launcher
        node = OmegaConf.to_container(OmegaConf.merge(dict(node), changed))  # type: ignore[assignment]
    launcher = plans.build_launcher(OmegaConf.create(dict(node)))
    launcher.check(cells)
    return launcher
