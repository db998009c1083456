"""The command. Everything heavy is imported inside the subcommand that needs it."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frontrunner import cli_compare, cli_sweeps, cli_tables
from frontrunner.errors import ConfigError, FrontrunnerError

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0 only when what was asked for is there."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [w for w in words if w != "--debug"]
    parser = _parser()
    known, rest = parser.parse_known_args(words)
    if known.version:
        from importlib.metadata import version

        print(f"frontrunner {version('frontrunner')}")
        return 0
    if known.command is None:
        parser.print_help()
        return 0
    if rest and not hasattr(known, "overrides"):
        parser.error(f"unrecognised arguments: {' '.join(rest)}")
    try:
        with _plain_warnings():
            code: int = known.function(known, [*getattr(known, "overrides", []), *rest]) or 0
        sys.stdout.flush()  # here, where a closed pipe is understood
        return code
    except KeyboardInterrupt:
        if debug:
            raise
        print("frontrunner: interrupted; the same command continues", file=sys.stderr)
        return 130
    except BrokenPipeError:  # what reads the output, head for example, has seen enough
        if debug:
            raise
        # Python flushes at exit, which would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as a shell reports it: 128 + SIGPIPE
    except (FrontrunnerError, OSError) as error:
        if debug:
            raise
        print(f"frontrunner: {_one_line(error)}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="frontrunner",
        description="Run multi-objective deep-learning methods and compare the fronts they reach.",
        epilog="Add --debug to any command for a traceback. Overrides are Hydra's: key=value.",
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def command(name: str, function: Any, text: str, overrides: bool = False) -> Any:
        sub = commands.add_parser(name, help=text, description=text)
        if overrides:
            sub.add_argument("overrides", nargs="*", help="Hydra overrides, e.g. seed=3")
        sub.set_defaults(function=function)
        return sub

    sub = command("run", _run, "one run; -m makes it a sweep on this machine", overrides=True)
    sub.add_argument(
        "-m", "--multirun", action="store_true", help="sweep over comma-separated values"
    )
    sub.add_argument("-c", "--cfg", choices=["job", "hydra", "all"], help="print the configuration")
    sub = command("check", _check, "compose and validate every cell, run nothing", overrides=True)
    sub.add_argument(
        "-m", "--multirun", action="store_true", help="accepted; every cell is checked"
    )
    cli_sweeps.add(command)
    cli_tables.add(command)
    sub = command("list", _list, "methods, tasks, models, evaluators, experiments, tables")
    sub.add_argument("group", nargs="?", help="one group only")
    cli_compare.add(command)
    sub = command("export", _export, "the model for a preference, as an ordinary checkpoint")
    sub.add_argument("run", metavar="RUN", type=Path, help="a run, or a folder in compact format")
    sub.add_argument(
        "--preference", metavar="P,Q", help="one entry per objective; compact has all of them"
    )
    sub.add_argument("--out", required=True, metavar="DIR", type=Path)
    sub.add_argument(
        "--format",
        choices=["full", "lora", "factors", "compact"],
        default="full",
        help="whole weights, a LoRA adapter, low-rank factors, or all sparse models of a set in "
        "one folder (default: full)",
    )
    sub.add_argument("--shard-size", default="2GB", metavar="SIZE", help="of one file of weights")
    sub.add_argument("--push", metavar="REPO", help="upload it to a private repository of the hub")
    return parser


# ---------------------------------------------------------------------- run and check


def _run(known: argparse.Namespace, words: list[str]) -> int:
    from frontrunner import config as configuration

    if known.cfg:
        return _print_config(known.cfg, words)
    if known.multirun:
        return _multirun(words)
    cells = configuration.expand(words)
    if len(cells) > 1:
        raise ConfigError(f"these overrides make {len(cells)} runs; add -m to sweep over them")
    import frontrunner.run as runs

    done = runs.run(words)
    _print_run(done)
    return 0


def _print_config(what: str, words: list[str]) -> int:
    from omegaconf import OmegaConf

    from frontrunner import config as configuration

    if what != "job":
        search = configuration.search_path()
        return _hydra_main(lambda config: None, ["--cfg", what, *search, *words])
    print(OmegaConf.to_yaml(configuration.compose(words), resolve=True), end="")
    return 0


def _print_run(done: Any) -> None:
    summary = done.front.indicators()
    reference = done.front.reference_point
    print(f"{done.directory}")
    print(
        f"  hypervolume {summary['hypervolume']:.6g} at reference {_numbers(reference)}, "
        f"{summary['nondominated']} of {summary['points']} points non-dominated, "
        f"range {_numbers(summary['range'])}"
    )
    if dense := done.front.info.get("dense"):
        print(f"  before pruning: {', '.join(f'{name} {x:.6g}' for name, x in dense.items())}")
    seconds, cost = done.record["timings"]["total"], done.record["cost"]
    print(f"  {seconds:.1f} s, peak memory {cost['peak_memory_bytes'] / 2**20:.0f} MiB")


def _multirun(words: list[str]) -> int:
    """Every cell, as Hydra's launcher runs them; a failed cell does not stop the others."""
    import frontrunner.run as runs
    from frontrunner import config as configuration

    words = configuration.without_globs(words)
    if any(w.startswith("launcher=") for w in words):
        return cli_sweeps.multirun(words)
    cells = configuration.expand([w for w in words if not w.startswith("hydra")])
    swept = ["--multirun", *configuration.search_path(), *configuration.with_choices(words)]
    if any(w.startswith(("hydra/launcher=", "hydra/sweeper=")) for w in words):
        return _hydra_main(cli_sweeps.launched, swept)
    _check_cells(cells)
    finished: list[Path] = []
    failed: list[str] = []

    def task(config: DictConfig) -> None:
        number = len(finished) + len(failed) + 1
        overrides, group = cli_sweeps.of_hydra()
        try:
            resolved = configuration.compose(overrides)
            directory, _ = runs.locate(resolved)
            print(f"[{number}/{len(cells)}] {directory}", file=sys.stderr, flush=True)
            finished.append(cli_sweeps.execute(resolved, overrides, group))
        except Exception as error:
            if not isinstance(error, FrontrunnerError | OSError):
                traceback.print_exc()
            print(f"  failed: {_one_line(error)}", file=sys.stderr, flush=True)
            failed.append(f"{' '.join(overrides)}: {_one_line(error)}")

    _hydra_main(task, swept)
    print(f"{len(finished)} of {len(cells)} runs done", file=sys.stderr)
    for line in failed:
        print(f"  failed: {line}", file=sys.stderr)
    return 1 if failed else 0


def _hydra_main(task: Any, words: list[str]) -> int:
    """The only use of Hydra's own main, so that a new version of it is a change in one place."""
    import hydra

    from frontrunner.config import conf_dir

    before = sys.argv
    sys.argv = ["frontrunner", *words]
    try:
        hydra.main(config_path=str(conf_dir()), config_name="config", version_base="1.3")(task)()
    finally:
        sys.argv = before
    return 0


def _check(known: argparse.Namespace, words: list[str]) -> int:
    from frontrunner import config as configuration

    for directory in _check_cells(configuration.expand(words)):
        print(f"ok  {directory}")
    return 0


def _check_cells(cells: list[list[str]]) -> list[Path]:
    """Validate every cell before the first one runs."""
    import frontrunner.run as runs
    from frontrunner import config as configuration

    directories = []
    for cell in cells:
        try:
            directories.append(runs.check(configuration.compose(cell)))
        except FrontrunnerError as error:
            where = f" (in {' '.join(cell)})" if len(cells) > 1 else ""
            raise type(error)(f"{error}{where}") from None
    return directories


# ---------------------------------------------------------------------- list, export


def _list(known: argparse.Namespace, words: list[str]) -> int:
    from rich.console import Console
    from rich.table import Table

    from frontrunner import config as configuration

    names = [known.group] if known.group else [*configuration.groups(), "tables"]
    console = Console()
    for name in names:
        if name in ("table", "tables"):
            described = cli_tables.listing()
        else:
            described = configuration.describe(name)
        table = Table(
            title=name, title_justify="left", box=None, show_header=False, title_style="bold"
        )
        table.add_column(no_wrap=True)
        table.add_column()
        for option, text in described.items():
            table.add_row(option, text)
        console.print(table)
    return 0


def _export(known: argparse.Namespace, words: list[str]) -> int:
    from frontrunner.pareto_sets import compact
    from frontrunner.run import load
    from frontrunner.tracking.manifest import peak_memory_bytes
    from frontrunner.weights import hub
    from frontrunner.weights.writer import parse_size

    preference = cli_compare.floats(known.preference, "--preference")
    size = parse_size(known.shard_size)
    if compact.is_compact(known.run):
        from frontrunner.pareto_sets.export import export_compact

        done = export_compact(
            known.run, preference, known.out, format=known.format, shard_size=size
        )
    else:
        done = load(known.run).export(preference, known.out, format=known.format, shard_size=size)
    memory = peak_memory_bytes() / 2**20
    print(f"{known.out}: {done.kind}, {done.parameters} parameters, peak memory {memory:.0f} MiB")
    if done.facts:
        print(f"  {_zeros(done.facts)}")
    if known.push:
        print(hub.push(known.out, known.push))
    return 0


# ---------------------------------------------------------------------- words


def _zeros(facts: Any) -> str:
    """Non-zeros and bytes of sparse models that were written."""
    text = (
        f"{facts['nonzeros']} of {facts['pruned_parameters']} weights in pruned layers are not "
        f"zero (sparsity {facts['sparsity']:.6g}), {facts['bytes']} bytes of weights"
    )
    if "models" not in facts:
        return text
    share = facts["bytes"] / facts["bytes_dense_models"]
    return f"{text}: {share:.3f} of {facts['models']} dense models"


def _numbers(values: Any) -> str:
    return "(" + ", ".join(f"{float(v):.4g}" for v in values) + ")"


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """This package's own warnings are shown as messages, without the line of code they are from."""
    before, package = warnings.formatwarning, Path(__file__).parent

    def form(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        line: str | None = None,
    ) -> str:
        if Path(filename).is_relative_to(package):
            return f"frontrunner: {' '.join(str(message).split())}\n"
        return before(message, category, filename, lineno, line)

    warnings.formatwarning = form
    try:
        yield
    finally:
        warnings.formatwarning = before


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
