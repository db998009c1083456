"""A server for tests of several processes: it forks them, as torchrun or srun would start them.

It imports what is heavy once. For every line of JSON on its standard input, ``{words, world, cwd,
moments, kind}``, it runs the command in ``world`` processes and answers with their exit codes in a
list (minus the signal that ended one). Process r writes to ``stderr.r.txt`` in its working
directory. ``moments`` says by rank where something befalls it, see `crashing.py`.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import crashing
from frontrunner.runner import ranks

# A process that was ended must not keep a test waiting, but one that others are in the way of may
# be silent for ten seconds.
ranks.MEET, ranks.LOST, ranks.GRACE, ranks.BEAT = 100.0, 20, 5.0, 0.5


def environment(kind: str, rank: int, world: int, port: int) -> dict[str, str]:
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if kind == "srun":
        numbers = {"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_STEP_NUM_TASKS": world}
        numbers |= {"SLURM_NODEID": 0, "SLURM_NTASKS": world, "SLURM_JOB_ID": 7}
    else:
        numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world}
    return where | {name: str(number) for name, number in numbers.items()}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def start(job: dict[str, Any], rank: int, port: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.environ.update(environment(job["kind"], rank, job["world"], port))
        moment = job["moments"].get(str(rank))
        code = crashing.child({**job, "moment": moment, "out": f"stderr.{rank}.txt"})
    except SystemExit as error:
        code = int(error.code or 0)
    finally:
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    for line in sys.stdin:
        job, port = json.loads(line), free_port()
        pids = [start(job, rank, port) for rank in range(job["world"])]
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        print(json.dumps(codes), flush=True)


if __name__ == "__main__":
    main()
