"""Slurm's commands, asked with a time limit, and what a cluster has."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

from frontrunner.errors import RunError

PATIENCE = 20.0  # seconds for an answer; Slurm's own commands may try for minutes


def ask(words: Iterable[str], patience: float | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command of Slurm.

    Raises:
        RunError: there is no such command here, or it does not answer.
    """
    command, limit = list(words), PATIENCE if patience is None else patience
    try:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=limit
        )
    except FileNotFoundError:
        raise RunError(
            f"there is no {command[0]} on this machine: use one that can see the Slurm cluster"
        ) from None
    except subprocess.TimeoutExpired:
        raise RunError(
            f"{command[0]} did not answer within {limit:g} s: is the Slurm controller up? Try "
            "again later; jobs are not affected"
        ) from None


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """What a failed command said, in a line."""
    text = " ".join((done.stderr or done.stdout).split())
    return text[:300] or f"exit code {done.returncode}"


def installed() -> bool:
    """Whether this machine can submit."""
    return shutil.which("sbatch") is not None and shutil.which("srun") is not None


def configuration() -> dict[str, str]:
    """What ``scontrol show config`` says; empty if it says nothing."""
    done = ask(["scontrol", "show", "config"])
    found = re.findall(r"^(\S+) *= *(.*?) *$", done.stdout, re.MULTILINE)
    return dict(found) if done.returncode == 0 else {}


@dataclass(frozen=True)
class Node:
    """A node as part of a partition. What Slurm did not tell is None.

    Attributes:
        minutes: the partition's time limit; None is none.
        memory: MB.
    """

    partition: str
    default: bool
    minutes: float | None
    cpus: int | None
    memory: int | None
    gpus: int


def nodes() -> list[Node]:
    """Every node in every partition; empty if Slurm does not tell."""
    done = ask(["sinfo", "--all", "--noheader", "--Node", "--format=%P|%l|%c|%m|%G"])
    if done.returncode:
        return []
    found = []
    for line in done.stdout.splitlines():
        words = line.strip().split("|")
        if len(words) == 5:
            name, limit, cpus, memory, gres = words
            found.append(
                Node(
                    partition=name.rstrip("*"),
                    default=name.endswith("*"),
                    minutes=minutes(limit),
                    cpus=_number(cpus),
                    memory=_number(memory),
                    gpus=_gpus(gres),
                )
            )
    return found


def minutes(text: str) -> float | None:
    """Slurm's times: minutes, minutes:seconds, hours:minutes:seconds, days-hours,
    days-hours:minutes, days-hours:minutes:seconds; None for anything else, such as ``infinite``."""
    if not re.fullmatch(r"(\d+-\d+(:\d+){0,2}|\d+(:\d+){0,2})", text.strip()):
        return None
    days, dash, rest = text.strip().rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:
        hours, minute, second = [*parts, 0, 0][:3]
    elif len(parts) == 3:
        hours, minute, second = parts
    else:
        hours, minute, second = [0, *parts, 0][:3]
    return int(days or 0) * 1440 + hours * 60 + minute + second / 60


def megabytes(text: str) -> int | None:
    """Slurm's sizes, such as ``80GB``, ``500M`` and ``4000``; None if it is not one."""
    found = re.fullmatch(r"(\d+)([KMGT]?)B?", text.strip(), re.IGNORECASE)
    if not found:
        return None
    scale = {"K": 1 / 1024, "": 1, "M": 1, "G": 1024, "T": 1024**2}[found[2].upper()]
    return int(int(found[1]) * scale)


def _number(text: str) -> int | None:
    found = re.match(r"\d+", text)
    return int(found[0]) if found else None


def _gpus(gres: str) -> int:
    """Of a list such as ``gpu:a100:4(S:0-1),nvme:1``."""
    bare = re.sub(r"\([^)]*\)", "", gres)
    found = re.findall(r"(?:^|,)gpu(?::[^:,]+)*?:(\d+)(?=,|$)", bare)
    return sum(map(int, found)) + len(re.findall(r"(?:^|,)gpu(?=,|$)", bare))
