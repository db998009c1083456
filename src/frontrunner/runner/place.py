"""Where a process stands among those that torchrun, srun or another of its kind started."""

from __future__ import annotations

import os
import socket
import sys
import time
from dataclasses import dataclass

from frontrunner.errors import ConfigError, RunError


@dataclass(frozen=True)
class Place:
    """One of several processes.

    Attributes:
        rank, world: among all of them.
        local_rank: on this machine.
        node: of this machine.
        address, port: where the first process is found.
        served: whether something else than the first process serves a store there.
    """

    rank: int
    world: int
    local_rank: int
    node: int
    address: str
    port: int
    served: bool = False

    @classmethod
    def here(cls) -> Place | None:
        """What the environment says; None for a process that was started alone.

        It is torchrun's environment, or that of a task of ``srun`` (a batch script itself is no
        task, whatever number of tasks its job has).
        """
        get = os.environ.get
        if get("RANK") and _number("WORLD_SIZE", 1) > 1:
            return cls(
                rank=_number("RANK", 0),
                world=_number("WORLD_SIZE", 1),
                local_rank=_number("LOCAL_RANK", 0),
                node=_number("GROUP_RANK", 0),
                address=get("MASTER_ADDR") or "127.0.0.1",
                port=_number("MASTER_PORT", 29500),
                served=get("TORCHELASTIC_USE_AGENT_STORE") == "True",
            )
        if get("SLURM_PROCID") and _number("SLURM_STEP_NUM_TASKS", 1) > 1:
            return cls(
                rank=_number("SLURM_PROCID", 0),
                world=_number("SLURM_STEP_NUM_TASKS", 1),
                local_rank=_number("SLURM_LOCALID", 0),
                node=_number("SLURM_NODEID", 0),
                address=get("MASTER_ADDR") or _first_node(),
                port=_number("MASTER_PORT", _port()),
            )
        return None


def again() -> list[str]:
    """What started this process, to start another one like it.

    Raises:
        ConfigError: nothing that could be repeated did.
    """
    if not hasattr(sys.modules["__main__"], "__file__") and "-c" not in sys.orig_argv:
        raise ConfigError(
            "several processes cannot be started from an interactive session: write a script, use "
            "the command, or set runner=default runner.devices=1"
        )
    return [sys.executable, *sys.orig_argv[1:]]


def reach(address: str, port: int, within: float) -> None:
    """Wait until something listens there.

    Raises:
        RunError: nothing does within so many seconds.
    """
    end = time.monotonic() + within
    while True:
        try:
            socket.create_connection((address, port), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise RunError(
                    f"the first process was not found at {address}:{port} within {within:.0f} s "
                    f"({error}); did it start? MASTER_ADDR and MASTER_PORT say where it is"
                ) from None
        time.sleep(0.2)


def _number(name: str, default: int) -> int:
    try:
        return int(os.environ.get(name) or default)
    except ValueError:
        raise RunError(f"{name}={os.environ[name]} in the environment is no number") from None


def _first_node() -> str:
    if _number("SLURM_STEP_NUM_NODES", 1) == 1:
        return "127.0.0.1"
    from lightning.fabric.plugins.environments import SLURMEnvironment

    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST") or ""
    return SLURMEnvironment.resolve_root_node_address(nodes)


def _port() -> int:
    """The same in every task of a step, and another one for other steps and jobs on the node."""
    return 15000 + (_number("SLURM_JOB_ID", 0) + 101 * _number("SLURM_STEP_ID", 0)) % 10000
