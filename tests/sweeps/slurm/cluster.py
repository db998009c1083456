"""A real Slurm on this machine: one controller, simulated nodes, in a folder and ports of its own.

It needs root and the Debian packages slurmctld, slurmd, slurm-client and munge; with accounting
also slurmdbd, slurm-wlm-mysql-plugin and mariadb-server.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

SERVERS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
ACCOUNTING = ("slurmdbd", "mariadbd", "mariadb", "mariadb-install-db", "sacctmgr")


def missing(accounting: bool = False) -> str | None:
    """Why no cluster can be simulated here; None if it can."""
    if os.geteuid() != 0:
        return "a simulated Slurm needs root"
    wanted = SERVERS + (ACCOUNTING if accounting else ())
    lacking = [name for name in wanted if _program(name) is None]
    return f"a simulated Slurm needs {', '.join(lacking)}" if lacking else None


class Cluster:
    """A context manager: inside it the cluster runs, after it nothing of it is left.

    Args:
        folder: an empty one; its path must be short enough for sockets.
        nodes: named n1, n2, …, each with 4 CPUs, 4000 MB and 2 GPUs that are none.
        accounting: with slurmdbd and a private MariaDB, so that sacct works.
        jobcomp: with a text file of what became of jobs.
        options: further lines of ``slurm.conf``, or others for those below.
    """

    def __init__(
        self,
        folder: Path,
        nodes: int = 2,
        *,
        accounting: bool = False,
        jobcomp: bool = True,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self.accounting = folder, accounting
        self.nodes = [f"n{i + 1}" for i in range(nodes)]
        self.jobcomp = folder / "log/jobcomp.txt" if jobcomp else None
        self.options = dict(options or {})
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith("SLURM")
        }
        self.environment["SLURM_CONF"] = str(folder / "slurm.conf")
        self.environment["MASTER_ADDR"] = "127.0.0.1"  # the nodes' names mean nothing to others
        self._daemons: list[subprocess.Popen[bytes]] = []

    # ------------------------------------------------------------------ life

    def __enter__(self) -> Cluster:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self) -> None:
        for name in ("state", "log", "run", "dev", *(f"spool/{n}" for n in self.nodes)):
            (self.folder / name).mkdir(parents=True)
        self._configure()
        self._start_munge()
        if self.accounting:
            self._start_accounting()
        self._daemon("slurmctld", "-D")
        for node in self.nodes:
            self.start_node(node)
        self.until(lambda: self._idle() == len(self.nodes), "nodes do not come up")
        if self.accounting:  # jobs of its first moments would never be accounted for
            log = self.folder / "log/slurmctld.log"
            self.until(lambda: "flush_jobs_on_cluster" in log.read_text(), "no accounting")
            time.sleep(1)

    def stop(self) -> None:
        """Stop every daemon, job and step, whatever state they are in."""
        controllers = [d for d in self._daemons if d.poll() is None]
        for number in (signal.SIGTERM, signal.SIGKILL):
            for daemon in reversed(controllers):
                if daemon.poll() is None:
                    daemon.send_signal(number)
            # Steps and tasks are no children of ours; their sockets and environment give them away.
            _kill(self._steps("") | self._tasks(), signal.SIGKILL)
            deadline = time.monotonic() + 2
            while time.monotonic() < deadline and any(d.poll() is None for d in controllers):
                time.sleep(0.02)
        _kill(self._steps("") | self._tasks(), signal.SIGKILL)

    # ------------------------------------------------------------------ events

    def start_node(self, node: str) -> None:
        """Start a node's slurmd."""
        self._daemon("slurmd", "-D", "-N", node)

    def kill_node(self, node: str) -> None:
        """As if its plug were pulled: slurmd, its steps and all that they run."""
        steps = self._steps(node)
        doomed = steps | _descendants(steps)
        _kill([self._slurmd(node).pid], signal.SIGKILL)
        _kill(doomed, signal.SIGKILL)

    def kill_slurmd(self, node: str) -> None:
        """Slurm loses sight of a node, on which everything goes on."""
        _kill([self._slurmd(node).pid], signal.SIGKILL)

    def pause_controller(self, resume: bool = False) -> None:
        """slurmctld still takes connections, and answers none."""
        (daemon,) = (d for d in self._daemons if "slurmctld" in str(d.args[0]))  # type: ignore[index]
        daemon.send_signal(signal.SIGCONT if resume else signal.SIGSTOP)

    # ------------------------------------------------------------------ questions

    def run(self, *words: str, check: bool = True, timeout: float = 60) -> str:
        """What a command of Slurm prints."""
        done = subprocess.run(
            words, env=self.environment, capture_output=True, text=True, timeout=timeout
        )
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr or done.stdout}")
        return done.stdout

    def job(self, job: str) -> dict[str, str]:
        """What ``scontrol show job`` says of one."""
        text = self.run("scontrol", "--oneliner", "show", "job", job)
        return dict(re.findall(r"(\S+?)=(\S*)", text))

    def until(self, true: Callable[[], Any], what: str = "not so", timeout: float = 120.0) -> Any:
        """Wait for something to become true; what it is then. Half of the time it is not asked."""
        deadline = time.monotonic() + timeout
        while True:
            began = time.monotonic()
            if answer := true():
                return answer
            now = time.monotonic()
            if now > deadline:
                raise AssertionError(f"{what} after {timeout:g} s\n{self.describe()}")
            time.sleep(max(0.05, now - began))

    def describe(self) -> str:
        """Jobs, nodes and the end of the controller's log, for messages of failed tests."""
        asked = (("squeue", "--array", "--all"), ("sinfo", "-N"))
        parts = [self.run(*words, check=False, timeout=10) for words in asked]
        log = self.folder / "log/slurmctld.log"
        if log.exists():
            parts.append("\n".join(log.read_text(errors="replace").splitlines()[-15:]))
        return "\n".join(parts)

    def forget(self) -> None:
        """Cancel every job, and wait until nothing runs and every node is free."""
        self.run("scancel", "--user=root", check=False)
        self.run("scancel", "--signal=KILL", "--user=root", check=False)
        self.until(lambda: not self.run("squeue", "--noheader").strip(), "jobs go on")

    # ------------------------------------------------------------------ details

    def _configure(self) -> None:
        host, ports = socket.gethostname().split(".")[0], _free_ports(len(self.nodes) + 2)
        for i in range(2):  # any character device will do
            os.mknod(self.folder / f"dev/gpu{i}", 0o20666, os.makedev(1, 3))
        nodes = f"n[1-{len(self.nodes)}]"
        (self.folder / "gres.conf").write_text(
            f"NodeName={nodes} Name=gpu File={self.folder}/dev/gpu[0-1]\n"
        )
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        settings = {
            "ClusterName": "sim",
            "SlurmctldHost": f"{host}(127.0.0.1)",
            "SlurmctldPort": ports.pop(),
            "SlurmUser": "root",
            "SlurmdUser": "root",
            "AuthType": "auth/munge",
            "CredType": "cred/munge",
            # A requeued job waits until its credential has expired: two minutes by default,
            # and five seconds at least.
            "AuthInfo": f"socket={self.folder}/run/munge,cred_expire=5",
            "StateSaveLocation": f"{self.folder}/state",
            "SlurmdSpoolDir": f"{self.folder}/spool/%n",
            "SlurmctldPidFile": f"{self.folder}/run/slurmctld.pid",
            "SlurmdPidFile": f"{self.folder}/run/slurmd.%n.pid",
            "SlurmctldLogFile": f"{self.folder}/log/slurmctld.log",
            "SlurmdLogFile": f"{self.folder}/log/slurmd.%n.log",
            "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": "task/none",
            "JobAcctGatherType": "jobacct_gather/none",
            "JobCompType": "jobcomp/filetxt" if self.jobcomp else "jobcomp/none",
            "JobCompLoc": self.jobcomp or "/dev/null",
            "AccountingStorageType": "accounting_storage/none",
            "MpiDefault": "none",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_Core",
            "ReturnToService": 2,
            "SlurmdParameters": "config_overrides",
            "SlurmctldParameters": "preempt_send_user_signal",
            "PreemptType": "preempt/partition_prio",
            "PreemptMode": "REQUEUE",
            "SchedulerParameters": "sched_interval=1,bf_interval=1,sched_min_interval=10000",
            **dict.fromkeys(("SlurmdTimeout", "SlurmctldTimeout", "KillWait", "MessageTimeout"), 5),
            "GresTypes": "gpu",
        }
        if self.accounting:
            settings |= {
                "AccountingStorageType": "accounting_storage/slurmdbd",
                "AccountingStorageHost": "127.0.0.1",
                "AccountingStoragePort": ports[-1],
                "AccountingStoragePass": f"{self.folder}/run/munge",  # the socket, as with AuthInfo
            }
            self._dbd_port = ports[-1]
        ports.pop()
        lines = [f"{key}={value}" for key, value in {**settings, **self.options}.items()]
        lines += [
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 "
            "RealMemory=4000 Gres=gpu:2"
            for node, port in zip(self.nodes, ports, strict=True)
        ]
        lines += [
            "PartitionName=low Nodes=ALL Default=YES PriorityTier=1 GraceTime=60 MaxTime=7-0 "
            "State=UP",
            "PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF MaxTime=60 State=UP",
        ]
        (self.folder / "slurm.conf").write_text("\n".join(lines) + "\n")

    def _start_munge(self) -> None:
        key = self.folder / "run/munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        self._daemon(
            *("munged", "--foreground", "--force", "--num-threads=2"),
            f"--socket={self.folder}/run/munge",
            f"--key-file={key}",
            f"--pid-file={self.folder}/run/munged.pid",
            f"--log-file={self.folder}/log/munged.log",
            f"--seed-file={self.folder}/run/munged.seed",
        )
        self.until(lambda: (self.folder / "run/munge").exists(), "munged does not start")

    def _start_accounting(self) -> None:
        data, sock = self.folder / "mysql", self.folder / "run/mysql"
        subprocess.run(
            [
                *("mariadb-install-db", "--no-defaults", "--user=root", "--skip-test-db"),
                *("--auth-root-authentication-method=socket", f"--datadir={data}"),
            ],
            check=True,
            capture_output=True,
        )
        self._daemon(
            *("mariadbd", "--no-defaults", "--user=root", "--skip-networking"),
            *(f"--datadir={data}", f"--socket={sock}", f"--pid-file={self.folder}/run/mysql.pid"),
            *("--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=128M"),
        )
        sql = (
            "CREATE DATABASE slurm_acct_db; CREATE USER slurm@localhost IDENTIFIED BY 'simulated'; "
            "GRANT ALL ON slurm_acct_db.* TO slurm@localhost;"
        )
        client = ["mariadb", "--no-defaults", "--user=root", f"--socket={sock}", "-e"]
        self.until(
            lambda: subprocess.run([*client, "SELECT 1"], capture_output=True).returncode == 0,
            "mariadbd does not start",
        )
        subprocess.run([*client, sql], check=True, capture_output=True)
        settings = {
            "AuthType": "auth/munge",
            "AuthInfo": f"socket={self.folder}/run/munge",
            "DbdHost": socket.gethostname().split(".")[0],
            "DbdAddr": "127.0.0.1",
            "DbdPort": self._dbd_port,
            "SlurmUser": "root",
            "LogFile": f"{self.folder}/log/slurmdbd.log",
            "PidFile": f"{self.folder}/run/slurmdbd.pid",
            "StorageType": "accounting_storage/mysql",
            "StorageHost": "localhost",
            "StorageUser": "slurm",
            "StoragePass": "simulated",
            "StorageLoc": "slurm_acct_db",
        }
        conf = self.folder / "slurmdbd.conf"
        conf.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        conf.chmod(0o600)
        # The plugin asks libmariadb for "localhost", which is a socket that this variable names.
        self.environment["MYSQL_UNIX_PORT"] = str(sock)
        self._daemon("slurmdbd", "-D")
        self.until(
            lambda: (
                self.run("sacctmgr", "--noheader", "show", "cluster", check=False) is not None
                and self._added()
            ),
            "slurmdbd does not start",
        )

    def _added(self) -> bool:
        words = ["sacctmgr", "-i", "add", "cluster", "sim"]
        done = subprocess.run(words, env=self.environment, capture_output=True, timeout=20)
        return done.returncode == 0

    def _daemon(self, *words: str) -> None:
        program = _program(words[0])
        assert program is not None
        with open(self.folder / f"log/{words[0]}.out", "ab") as output:
            self._daemons.append(
                subprocess.Popen(
                    [program, *words[1:]],
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    cwd=self.folder,
                )
            )

    def _idle(self) -> int:
        out = self.run(
            "sinfo", "--noheader", "--Node", "--partition=low", "--format=%t", check=False
        )
        return out.split().count("idle")

    def _slurmd(self, node: str) -> subprocess.Popen[bytes]:
        found = [d for d in self._daemons if list(d.args)[-1] == node]  # type: ignore[arg-type]
        return found[-1]

    def _steps(self, node: str) -> set[int]:
        """slurmstepd processes of a node ("": of all), by the sockets that they listen on."""
        spool = str(self.folder / "spool" / node)
        inodes = set()
        for line in Path("/proc/net/unix").read_text().splitlines():
            words = line.split()
            if len(words) > 7 and words[7].startswith(spool):
                inodes.add(f"socket:[{words[6]}]")
        found = set()
        for pid in _pids():
            with contextlib.suppress(OSError):
                files = {os.readlink(f.path) for f in os.scandir(f"/proc/{pid}/fd")}
                if files & inodes:
                    found.add(pid)
        return found - {d.pid for d in self._daemons}

    def _tasks(self) -> set[int]:
        """Processes that were started with this cluster's configuration, other than its daemons."""
        mark = f"SLURM_CONF={self.folder / 'slurm.conf'}".encode()
        found = set()
        for pid in _pids():
            with contextlib.suppress(OSError):
                if mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    found.add(pid)
        return found - {d.pid for d in self._daemons} - {os.getpid()}


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _descendants(pids: Iterable[int]) -> set[int]:
    children: dict[int, list[int]] = {}
    for pid in _pids():
        with contextlib.suppress(OSError, IndexError):
            after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            children.setdefault(int(after_name[1]), []).append(pid)
    found: set[int] = set()
    waiting: Sequence[int] = list(pids)
    while waiting:
        waiting = [c for p in waiting for c in children.get(p, []) if c not in found]
        found |= set(waiting)
    return found


def _kill(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, below those that the system hands out by itself.

    Processes that start clusters at the same time have numbers close to each other: their ports
    are far apart.
    """
    found: list[int] = []
    port = 16000 + os.getpid() * 20 % 8000
    while len(found) < count:
        port += 1
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            found.append(port)
    return found
