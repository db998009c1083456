"""The subcommands that compare fronts. Everything heavy is imported inside them."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frontrunner import cli_sweeps
from frontrunner.errors import ConfigError

if TYPE_CHECKING:
    from frontrunner.front.collect import Entries
    from frontrunner.front.comparison import Comparison


def add(command: Any) -> None:
    """Add the subcommands; ``command(name, function, text)`` adds one."""
    _options(command("compare", _compare, "fronts side by side: indicators, statistics, report"))
    sub = command("report", _report, "the same comparison as a Weights & Biases run, offline")
    _options(sub)
    sub.add_argument("--project", help="W&B project (default: the runs' own, else frontrunner)")
    sub.add_argument("--entity", help="W&B user or team (default: the runs' own)")
    sub.add_argument("--name", help="of the W&B run")
    sub.add_argument("--online", action="store_true", help="upload at once; needs `wandb login`")


def _options(sub: Any) -> None:
    sub.add_argument("directories", nargs="+", metavar="DIR", type=Path)
    sub.add_argument("--reference-point", metavar="X,Y", help="hypervolume reference for all")
    sub.add_argument("--baseline", metavar="LABEL", help="test every other label against this one")
    sub.add_argument("--out", type=Path, help="where the report goes (default: DIR/compare)")


def _compare(known: argparse.Namespace, words: list[str]) -> int:
    comparison, _, paths = _compared(known)
    print(comparison.table())
    print(f"\nreport: {paths[-1]}")
    return 0


def _report(known: argparse.Namespace, words: list[str]) -> int:
    from frontrunner.tracking import report

    report.check(online=known.online)  # before anything is compared
    comparison, entries, paths = _compared(known)
    report.report(
        comparison,
        entries,
        paths,
        directory=paths[-1].parent,
        project=known.project,
        name=known.name,
        entity=known.entity,
        online=known.online,
    )
    print(comparison.table())
    print(f"\nreport: {paths[-1]}")
    latest = report.latest(paths[-1].parent)
    if latest is not None:
        done = "W&B" if known.online else "W&B, offline"
        print(f"{done}: {latest}")
        if not known.online:
            print(f"  upload it with: wandb sync {shlex.quote(str(latest))}")
    return 0


def _compared(known: argparse.Namespace) -> tuple[Comparison, Entries, list[Path]]:
    """What the options ask for, and the files that were written of it."""
    from frontrunner.front.collect import collect
    from frontrunner.front.compare import compare
    from frontrunner.front.report import save

    directories = [path for given in known.directories for path in cli_sweeps.finished(given)]
    entries = collect(directories)
    for skipped in entries.skipped:
        print(f"skipped {skipped.path}: {skipped.reason}", file=sys.stderr)
    reference = floats(known.reference_point, "--reference-point")
    comparison = compare(entries, reference_point=reference, baseline=known.baseline)
    first: Path = known.directories[0]
    out = known.out or (first if first.is_dir() else first.parent) / "compare"
    return comparison, entries, save(comparison, entries, out)


def floats(text: str | None, option: str) -> list[float] | None:
    """The numbers of ``0.7,0.3``.

    Raises:
        ConfigError: something else.
    """
    if text is None:
        return None
    try:
        return [float(x) for x in text.split(",")]
    except ValueError:
        raise ConfigError(f"{option} {text}: give numbers separated by commas") from None
