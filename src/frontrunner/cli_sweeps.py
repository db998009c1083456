"""The subcommands of sweeps. Everything heavy is imported inside them."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from frontrunner.errors import ConfigError, RunError


def add(command: Any) -> None:
    """Add the subcommands; ``command(name, function, text, overrides=False)`` adds one."""
    sub = command("submit", _submit, "plan a sweep, freeze it, hand it to a launcher", True)
    text = "accepted; a submit always takes every cell"
    sub.add_argument("-m", "--multirun", action="store_true", help=text)
    sub.add_argument("--dry-run", action="store_true", help="print the plan, start nothing")
    sub.add_argument("--name", help="of the sweep's folder (default: task and a hash of the cells)")
    sub = command("status", _status, "how the cells of a sweep stand, and why")
    _folder(sub)
    sub.add_argument("--watch", action="store_true", help="until no cell waits or runs")
    sub.add_argument("--json", action="store_true", help="everything, for programs")
    sub.add_argument("--only", metavar="STATE", help="cells in these states, e.g. failed,killed")
    sub = command("retry", _retry, "take up what was lost, and only that")
    _folder(sub)
    sub.add_argument("overrides", nargs="*", help="of the launcher, e.g. launcher.time=240")
    for state in ("failed", "killed", "timeout", "preempted", "node-fail"):
        text = f"only cells that are {state.upper().replace('-', '_')}"
        sub.add_argument(f"--{state}", action="append_const", dest="states", const=state, help=text)
    _cells(sub)
    sub.add_argument(
        "--update-code", action="store_true", help="run today's code, not what was frozen"
    )
    sub = command("cancel", _cancel, "stop the cells of a sweep that wait or run")
    _folder(sub)
    _cells(sub)


def _folder(sub: Any) -> None:
    sub.add_argument("directory", metavar="DIR", type=Path, help="of the sweep")


def _cells(sub: Any) -> None:
    text = "one cell, by its number or name; may be repeated"
    sub.add_argument("--cell", action="append", default=[], metavar="CELL", help=text)


def _submit(known: argparse.Namespace, words: list[str]) -> int:
    from frontrunner.sweeps import plan as plans
    from frontrunner.sweeps import show, verbs

    plan = plans.plan(words, known.name)
    if known.dry_run:
        print(show.plan(plan, verbs.weigh(plan)))
        return 0
    sweep, weighed = verbs.submit(plan)
    print(show.plan(plan, weighed))
    print(f"{len(weighed.start)} submitted; frontrunner status {_shown(sweep.folder)}")
    return 0


def launched(config: Any) -> None:
    """A cell in whatever Hydra launcher was chosen, perhaps in another process: a function of a
    module, so that launchers which pickle it send no more than its name."""
    from frontrunner import config as configuration

    overrides, group = of_hydra()
    execute(configuration.compose(overrides), overrides, group)


def of_hydra() -> tuple[list[str], str]:
    """Overrides of the cell that Hydra runs, and the name of its sweep."""
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    return list(hydra.overrides.task), Path(hydra.sweep.dir).name


def execute(config: Any, overrides: list[str], group: str) -> Path:
    """Run a cell of a multirun; returns its directory."""
    import subprocess

    import frontrunner.run as runs

    runner = config.runner
    if runner.get("devices", 1) in (1, "1") and runner.get("num_nodes", 1) == 1:
        return runs.execute(config, overrides, group=group).directory
    # Lightning starts the other processes of a run by repeating this one's command line.
    command = [sys.executable, "-m", "frontrunner.cli", "run", f"++logger.group={group}"]
    code = subprocess.call([*command, *overrides])
    if code:
        raise RunError(f"the run ended with exit code {code}; its own message is above")
    return runs.locate(config)[0]


def multirun(words: list[str]) -> int:
    """A sweep in the foreground: submitted, watched, and stopped by Ctrl-C."""
    from frontrunner.sweeps import plan as plans
    from frontrunner.sweeps import show
    from frontrunner.sweeps.foreground import run_through
    from frontrunner.sweeps.launcher import State

    sweep, found = run_through(plans.plan(words))
    lost = [s for s in found if s.state != State.DONE]
    if lost:
        print(show.table(sweep, lost), file=sys.stderr)
        print(f"frontrunner status {_shown(sweep.folder)}", file=sys.stderr)
    print(f"{len(found) - len(lost)} of {len(found)} runs done", file=sys.stderr)
    return 1 if lost else 0


def _status(known: argparse.Namespace, words: list[str]) -> int:
    import json

    from frontrunner.sweeps import show
    from frontrunner.sweeps.status import statuses
    from frontrunner.sweeps.sweep import Sweep

    sweep = Sweep.read(known.directory)
    found = show.watch(sweep, lambda: statuses(sweep)) if known.watch else statuses(sweep)
    if known.only:
        wanted = {_state(word) for word in known.only.split(",")}
        found = [s for s in found if s.state in wanted]
    print(
        json.dumps(show.facts(sweep, found), indent=1) if known.json else show.table(sweep, found)
    )
    return 0


def _retry(known: argparse.Namespace, words: list[str]) -> int:
    from frontrunner.sweeps import show, verbs
    from frontrunner.sweeps.sweep import Sweep

    states = [_state(word) for word in known.states or ()]
    sweep = Sweep.read(known.directory)
    cells = verbs.retry(sweep, states, known.cell, words, known.update_code)
    for cell in cells:
        print(f"  {cell.name}")
    print(f"{show.counted(len(cells), 'cell')} submitted again")
    return 0


def _cancel(known: argparse.Namespace, words: list[str]) -> int:
    from frontrunner.sweeps import show, verbs
    from frontrunner.sweeps.sweep import Sweep

    found = verbs.cancel(Sweep.read(known.directory), known.cell)
    for one in found:
        print(f"  {one.cell.name} ({one.state})")
    print(f"{show.counted(len(found), 'cell')} stopped")
    return 0


def finished(directory: Path) -> list[Path]:
    """The runs to compare under a directory: itself, or what is done of a sweep, which is said.

    Raises:
        RunError: nothing of the sweep is done.
    """
    from frontrunner.sweeps.sweep import FILE

    if not (directory / FILE).is_file():
        return [directory]
    from frontrunner.sweeps.launcher import State
    from frontrunner.sweeps.status import statuses
    from frontrunner.sweeps.sweep import Sweep

    sweep = Sweep.read(directory)
    found = statuses(sweep)
    missing = [s for s in found if s.state != State.DONE]
    done = [sweep.directory(s.cell) for s in found if s.state == State.DONE]
    if not done:
        raise RunError(f"no cell of {directory} is done: frontrunner status {_shown(sweep.folder)}")
    for one in missing:
        reason = f": {one.reason}" if one.reason else ""
        print(f"missing {one.cell.name}: {one.state}{reason}", file=sys.stderr)
    print(f"{len(done)} of {len(found)} cells are done", file=sys.stderr)
    return done


def _state(word: str) -> Any:
    from frontrunner.errors import nearest
    from frontrunner.sweeps.launcher import State

    try:
        return State(word.strip().upper().replace("-", "_"))
    except ValueError:
        valid = [state.lower() for state in State]
        raise ConfigError(f"--only {word}: no such state{nearest(word.lower(), valid)}") from None


def _shown(folder: Path) -> str:
    """As short as it can be typed from here."""
    here = Path.cwd()
    return shlex.quote(str(folder.relative_to(here) if folder.is_relative_to(here) else folder))
