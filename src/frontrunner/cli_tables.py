"""The subcommand of tables. Everything heavy is imported inside it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from frontrunner.errors import ConfigError, nearest

EXPERIMENTS = Path("experiments")


def add(command: Any) -> None:
    """Add the subcommand; ``command(name, function, text, overrides=False)`` adds one."""
    text = "a paper's table: run what is missing, print it beside the reported numbers"
    sub = command("table", _table, text)
    sub.add_argument(
        "file", metavar="FILE", help="a table file, or <paper>/<table> under experiments/"
    )
    sub.add_argument("overrides", nargs="*", help="of the launcher, e.g. launcher=local")
    sub.add_argument(
        "--scale", default="cpu", metavar="SCALE", help="smoke, cpu (default) or paper"
    )
    sub.add_argument(
        "--format", default="text", metavar="FORMAT", help="text, markdown, latex, csv or json"
    )
    sub.add_argument("--dry-run", action="store_true", help="list the runs, start nothing")
    sub.add_argument("--no-run", action="store_true", help="print what there is, start nothing")
    sub.add_argument(
        "--submit", action="store_true", help="hand the runs to the launcher and return"
    )
    sub.add_argument("--save", action="store_true", help="also write it to results/ beside FILE")
    sub.add_argument(
        "--output",
        type=Path,
        help="folder of the runs (default: runs/tables/<paper>/<scale>)",
    )


def _table(known: argparse.Namespace, words: list[str]) -> int:
    from frontrunner.tables import show
    from frontrunner.tables.grid import Grid
    from frontrunner.tables.reading import load
    from frontrunner.tables.table import SCALES

    path = find(known.file)
    _one_of(known.format, show.FORMATS, "--format")
    table = load(path, _one_of(known.scale, SCALES, "--scale"))
    launcher = _launcher(words, known)
    output = known.output or Path("runs") / "tables" / path.resolve().parent.name / known.scale
    if known.dry_run:
        from frontrunner.tables.carry_out import preview

        print(preview(Grid(table, output)))
        return 0
    grid = Grid(table, output)
    if known.no_run or not any(entry.open for entry in grid.runs().values()):
        return _print(known, grid, {}, 0)
    from frontrunner.tables.carry_out import complete

    done = complete(table, output, launcher, wait=not known.submit)
    return _print(known, done.grid, done.problems, done.submitted)


def _print(
    known: argparse.Namespace, grid: Any, problems: dict[tuple[str, ...], str], submitted: int
) -> int:
    from frontrunner.tables import show
    from frontrunner.tables.fill import fill

    filled = fill(grid, problems)
    print(show.render(filled, known.format), end="")
    if known.save:
        from frontrunner.tables.save import save

        for path in save(filled):
            print(path, file=sys.stderr)
    if submitted:
        print(f"{submitted} runs submitted; the same command goes on with them", file=sys.stderr)
    if filled.whole:
        return 0
    missing = sum(not cell.whole for cell in filled.cells.values())
    print(f"frontrunner: {missing} of {len(filled.cells)} cells lack a seed", file=sys.stderr)
    return 1


def listing() -> dict[str, str]:
    """The table files under experiments/, each with its title and scales."""
    from frontrunner.tables.reading import described

    found = {}
    for name in _there():
        title, scales = described(EXPERIMENTS / f"{name}.yaml")
        found[name] = f"{title} ({', '.join(scales)})"
    return found


def find(word: str) -> Path:
    """A table file by its path, or by ``<paper>/<table>``.

    Raises:
        ConfigError: there is none; the nearest are suggested.
    """
    path = Path(word)
    if path.suffix == ".yaml":
        if not path.is_file():
            raise ConfigError(f"{path} does not exist{nearest(str(path), _there('.yaml'))}")
        return path
    named = EXPERIMENTS / f"{word}.yaml"
    if not named.is_file():
        raise ConfigError(f"no table '{word}' under {EXPERIMENTS}/{nearest(word, _there())}")
    return named


def _there(suffix: str = "") -> list[str]:
    found = EXPERIMENTS.glob("*/*.yaml")
    if suffix:
        return sorted(map(str, found))
    return sorted(path.relative_to(EXPERIMENTS).with_suffix("").as_posix() for path in found)


def _launcher(words: list[str], known: argparse.Namespace) -> list[str]:
    for word in words:
        if word.split("=")[0].lstrip("+~").split(".")[0] != "launcher":
            raise ConfigError(
                f"{word}: a table's runs are what its file says; only launcher=… and launcher.… "
                "can be given here"
            )
    if known.submit and not any(word.startswith("launcher=") for word in words):
        raise ConfigError("--submit needs a launcher, such as launcher=slurm")
    return words


def _one_of(word: str, valid: tuple[str, ...], option: str) -> str:
    if word not in valid:
        raise ConfigError(f"{option} {word}{nearest(word, valid)}")
    return word
