"""Cells as jobs of a Slurm cluster: arrays of submitit's, one for each kind of job."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import groupby
from typing import Any

from frontrunner.errors import ConfigError, RunError, first_line, nearest
from frontrunner.sweeps import slurm_cluster, slurm_job
from frontrunner.sweeps.launcher import Launcher
from frontrunner.sweeps.show import counted
from frontrunner.sweeps.sweep import Cell, Sweep, write_job

# What this package decides itself; other values would break requeueing or lose logs.
OURS = ("array", "error", "open-mode", "output", "requeue", "no-requeue", "signal")
KEYS_OF = {"account": "account", "qos": "qos", "feature": "constraint", "partition": "partition"}


@dataclass(frozen=True)
class Resources:
    """What a job asks for; attributes are the keys of ``launcher=slurm``."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    time: int | str = 60
    nodes: int = 1
    tasks_per_node: int = 1
    cpus: int = 4
    gpus: int = 0
    memory: str | None = None
    parallel: int | None = None
    max_attempts: int = 5
    warning: int = 120
    setup: tuple[str, ...] = ()
    srun_args: tuple[str, ...] = ()
    python: str | None = None
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def minutes(self) -> int:
        """The time limit, rounded up to what Slurm counts in."""
        found = slurm_cluster.minutes(str(self.time))
        assert found is not None  # `_checked` saw to it
        return max(1, -int(-found // 1))

    def __str__(self) -> str:
        tasks = self.nodes * self.tasks_per_node
        parts = [
            f"partition {self.partition}" if self.partition else "the default partition",
            f"{self.minutes} min",
            f"{self.nodes} nodes" if self.nodes > 1 else "",
            f"{tasks} processes" if tasks > 1 else "",
            counted(self.cpus, "CPU") + (" each" if tasks > 1 else ""),
            counted(self.gpus, "GPU") + (" a node" if self.nodes > 1 else "") if self.gpus else "",
            str(self.memory) if self.memory else "",
            f"at most {self.parallel} at once" if self.parallel else "",
        ]
        return ", ".join(filter(None, parts))


class Slurm(Launcher):
    """Submits cells as arrays of Slurm jobs.

    Args:
        families: keys and values that are others for a family of methods (`Cell.family`).
        keys: the attributes of `Resources`.

    Raises:
        ConfigError: an unknown key, or a value that is none.
    """

    name = "slurm"

    def __init__(
        self, families: Mapping[str, Mapping[str, Any]] | None = None, **keys: Any
    ) -> None:
        if families is not None and not isinstance(families, Mapping):
            raise ConfigError("launcher.families must be like {pruning: {time: 240}}")
        self.default = _checked("launcher", Resources(), keys)
        self.families = {
            str(family): _checked(f"launcher.families.{family}", self.default, own)
            for family, own in (families or {}).items()
        }

    def of(self, cell: Cell) -> Resources:
        """What a cell's job asks for."""
        return self.families.get(cell.family, self.default)

    def check(self, cells: Sequence[Cell]) -> None:
        if importlib.util.find_spec("submitit") is None:
            raise ConfigError("launcher=slurm needs submitit: pip install 'frontrunner[slurm]'")
        if not slurm_cluster.installed():
            raise ConfigError(
                "launcher=slurm: there is no sbatch on this machine; submit on a login node of the "
                "cluster, or choose launcher=local"
            )
        for cell in cells:
            self._check_processes(cell)
        try:
            nodes = slurm_cluster.nodes()
            for resources, some in _kinds(self.of, cells):
                where = "launcher"
                if some[0].family in self.families:
                    where = f"launcher.families.{some[0].family}"
                _check_partition(where, resources, nodes)
                _check_with_slurm(where, resources)
        except RunError as error:
            raise ConfigError(f"launcher=slurm: {error}") from None

    def resources(self, cells: Sequence[Cell]) -> list[str]:
        return [
            f"{len(some)} {'jobs' if len(some) > 1 else 'job'}: {resources}"
            for resources, some in _kinds(self.of, cells)
        ]

    def submit(self, sweep: Sweep, cells: Sequence[Cell]) -> None:
        largest = int(slurm_cluster.configuration().get("MaxArraySize", 0)) or 1001
        done = 0
        for resources, alike in _kinds(self.of, cells):
            for code, of_code in groupby(sorted(alike, key=lambda c: c.code), lambda c: c.code):
                some = list(of_code)
                for start in range(0, len(some), largest):
                    array = some[start : start + largest]
                    try:
                        self._submit(sweep, array, resources, code)
                    except RunError as error:
                        raise RunError(
                            f"{done} of {len(cells)} cells were submitted, then Slurm refused: "
                            f"{error}; submit the rest by the same command"
                        ) from None
                    done += len(array)

    def _submit(self, sweep: Sweep, cells: Sequence[Cell], resources: Resources, code: str) -> None:
        """One array, noted in the cells' run directories."""
        from submitit.core.utils import FailedJobError, FailedSubmissionError
        from submitit.slurm.slurm import SlurmExecutor

        python = _python(resources, sweep.python_path(code))
        try:
            executor = SlurmExecutor(sweep.logs, max_num_timeout=10**6, python=python)
            executor.update_parameters(**_parameters(sweep.name, resources, len(cells)))
            same = (resources.max_attempts, resources.minutes, resources.warning)
            with contextlib.redirect_stderr(io.StringIO()):  # what sbatch says is in the error
                jobs = executor.map_array(
                    slurm_job.run,
                    [str(sweep.folder)] * len(cells),
                    [cell.identity for cell in cells],
                    *([value] * len(cells) for value in same),
                )
        except (FailedJobError, FailedSubmissionError, OSError) as error:
            raise RunError(_refusal(error)) from None
        for cell, job in zip(cells, jobs, strict=True):
            directory = sweep.directory(cell)
            entry = {
                "launcher": self.name,
                "job": job.job_id,
                "sweep": str(sweep.folder),
                "directory": str(directory),
                "log": str(job.paths.stdout),
            }
            write_job(directory, entry)

    def _check_processes(self, cell: Cell) -> None:
        """Lightning wants as many tasks as devices, and says so only when the job has begun."""
        runner, resources = cell.config["runner"], self.of(cell)
        if "training" not in cell.config["method"]:
            return  # one process fits, and any number of them scores
        for key, wanted, asked in (
            ("nodes", runner.get("num_nodes", 1), resources.nodes),
            ("tasks_per_node", runner.get("devices", 1), resources.tasks_per_node),
        ):
            if isinstance(wanted, list):
                wanted = len(wanted)
            if str(wanted).isdecimal() and int(wanted) != asked:
                other = "num_nodes" if key == "nodes" else "devices"
                raise ConfigError(
                    f"{cell.name}: launcher.{key}={asked} and runner.{other}={wanted} must be the "
                    "same: a process for each device"
                )


# ---------------------------------------------------------------------- keys and values


def _checked(where: str, base: Resources, keys: Mapping[str, Any]) -> Resources:
    """``base`` with these keys.

    Raises:
        ConfigError: naming the key.
    """
    known = {field.name for field in fields(Resources)}
    if not isinstance(keys, Mapping):
        raise ConfigError(f"{where} must be keys and values, such as {{time: 240}}")
    values: dict[str, Any] = {}
    for key, value in keys.items():
        if key not in known:
            raise ConfigError(f"unknown key '{where}.{key}'{nearest(str(key), known)}")
        values[str(key)] = _value(f"{where}.{key}", str(key), value)
    made = replace(base, **values)
    if made.warning >= 60 * made.minutes:
        raise ConfigError(
            f"{where}.warning={made.warning} seconds leave nothing of {where}.time={made.time}: "
            "give more time, or a shorter warning"
        )
    return made


def _value(name: str, key: str, value: Any) -> Any:
    if key in ("nodes", "tasks_per_node", "cpus", "max_attempts", "gpus", "warning", "parallel"):
        least = 0 if key in ("gpus", "warning") else 1
        if value is None and key == "parallel":
            return None
        if type(value) is not int or value < least:
            raise ConfigError(f"{name}={value} must be a whole number of at least {least}")
        return value
    if key == "time":
        if not slurm_cluster.minutes(str(value)):
            raise ConfigError(
                f"{name}={value} is no time limit: give minutes, HH:MM:SS or D-HH:MM:SS"
            )
        return value
    if key == "memory":
        if value is not None and not slurm_cluster.megabytes(str(value)):
            raise ConfigError(f"{name}={value} is no amount of memory, such as 16GB")
        return None if value is None else str(value)
    if key in ("setup", "srun_args"):
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ConfigError(f"{name}={value} must be a list")
        return tuple(map(str, value))
    if key == "options":
        if not isinstance(value, Mapping):
            raise ConfigError(f"{name}={value} must be like {{exclude: n3}}")
        options = {str(k).lstrip("-").replace("_", "-"): v for k, v in value.items()}
        for option in options:
            if option in OURS:
                raise ConfigError(f"{name}.{option}: frontrunner sets it itself; leave it out")
        return tuple(sorted(options.items()))
    return None if value is None else str(value)


# ---------------------------------------------------------------------- the cluster


def _check_partition(where: str, resources: Resources, nodes: Sequence[slurm_cluster.Node]) -> None:
    """That a job fits a partition, as far as Slurm tells of it."""
    if not nodes:
        return
    names = {node.partition for node in nodes}
    wanted = str(resources.partition).split(",") if resources.partition else []
    for name in wanted:
        if name not in names:
            raise ConfigError(f"{where}.partition={name} does not exist{nearest(name, names)}")
    if not wanted:
        wanted = sorted({node.partition for node in nodes if node.default})
    problems = [
        _misfit(where, resources, name, [n for n in nodes if n.partition == name])
        for name in wanted
    ]
    if problems and all(problems):
        raise ConfigError(str(problems[0]))


def _misfit(
    where: str, resources: Resources, name: str, nodes: Sequence[slurm_cluster.Node]
) -> str | None:
    """Why a job can never run in a partition; None if it can."""
    limit = nodes[0].minutes
    if limit is not None and resources.minutes > limit:
        return (
            f"{where}.time={resources.time} is {resources.minutes} min, and partition {name} "
            f"allows {limit:g} min"
        )
    if resources.nodes > len(nodes):
        return f"{where}.nodes={resources.nodes}, and partition {name} has {len(nodes)}"
    cpus = resources.tasks_per_node * resources.cpus
    memory = slurm_cluster.megabytes(resources.memory) if resources.memory else None
    for key, asked, need, has in (
        ("gpus", resources.gpus, resources.gpus, [n.gpus for n in nodes]),
        ("cpus", resources.cpus, cpus, [n.cpus for n in nodes]),
        ("memory", resources.memory, memory, [n.memory for n in nodes]),
    ):
        told = [n for n in has if n is not None]
        if need and told and need > max(told):
            each = " for each of the tasks" if key == "cpus" and cpus > resources.cpus else ""
            unit = " MB" if key == "memory" else ""
            return (
                f"{where}.{key}={asked}{each}, and no node of partition {name} has more than "
                f"{max(told)}{unit}"
            )
    return None


def _check_with_slurm(where: str, resources: Resources) -> None:
    """That Slurm finds nothing wrong in account, quality of service, features and options. What it
    says of nodes that are down or busy now is not for us: jobs can wait."""
    words = ["sbatch", "--test-only", "--wrap=true"]
    for key in ("partition", "account", "qos", "constraint"):
        value = getattr(resources, key)
        words += [f"--{key}={value}"] if value else []
    words += [f"--{k}" if v is True else f"--{k}={v}" for k, v in resources.options]
    done = slurm_cluster.ask(words)
    if done.returncode == 0:
        return
    said = slurm_cluster.complaint(done)
    if "unrecognized option" in said or "Invalid --" in said or "invalid option" in said:
        raise ConfigError(f"{where}.options: {said}")
    if "nvalid" in said:
        key = next((k for word, k in KEYS_OF.items() if word in said.lower()), "options")
        raise ConfigError(f"{where}.{key}: Slurm says: {said}")


# ---------------------------------------------------------------------- submission


def _kinds(of: Any, cells: Sequence[Cell]) -> Iterator[tuple[Resources, list[Cell]]]:
    """Cells whose jobs ask for the same."""
    kinds: dict[Resources, list[Cell]] = {}
    for cell in cells:
        kinds.setdefault(of(cell), []).append(cell)
    yield from kinds.items()


def _parameters(name: str, resources: Resources, count: int) -> dict[str, Any]:
    """For submitit's executor."""
    tasks = resources.nodes * resources.tasks_per_node
    # srun does not take over what sbatch was told of CPUs (since Slurm 22.05).
    srun_args = [f"--cpus-per-task={resources.cpus}", *resources.srun_args]
    if tasks > 1:  # otherwise the others would wait for one that is gone
        srun_args.append("--kill-on-bad-exit=1")
    threads = f"export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-{resources.cpus}}}"
    memory = {"mem": resources.memory} if resources.memory else {}
    return {
        "job_name": name,
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "constraint": resources.constraint,
        "time": resources.minutes,
        "nodes": resources.nodes,
        "ntasks_per_node": resources.tasks_per_node,
        "cpus_per_task": resources.cpus,
        "gpus_per_node": resources.gpus or None,
        "signal_delay_s": resources.warning,
        "setup": [threads, *resources.setup],
        "srun_args": srun_args,
        "array_parallelism": min(resources.parallel or count, count),
        "stderr_to_stdout": True,
        "wckey": None,  # else submitit sends one, which clusters that check keys refuse
        "additional_parameters": {"requeue": True, **memory, **dict(resources.options)},
    }


def _python(resources: Resources, path: str) -> str:
    """What starts Python in a job: on the frozen code, and on nothing of the working directory."""
    python = resources.python or shlex.quote(sys.executable)
    # That srun has seen an exit code is no news, and would stand below what the cell itself says.
    quiet = "2> >(grep -v --line-buffered 'Exited with exit code' >&2)"
    return f"{quiet} env PYTHONPATH={shlex.quote(path)} {python} -P"


def _refusal(error: Exception) -> str:
    """What sbatch said, out of submitit's report."""
    found = re.findall(r"^(?:sbatch: )?error: (.*)$", str(error), re.MULTILINE)
    return " ".join(dict.fromkeys(found)) or first_line(error)
