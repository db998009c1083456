"""The lock of a directory: the kernel's, and a lease beside it for machines that do not see it.

``flock`` decides between processes of one machine, and across machines where the file system passes
it on. Some cluster file systems do not: there every node has a lock of its own. So the holder also
counts a beat up in the lock file, and who comes from another machine takes over only from a holder
whose beat stands still. Clocks of two machines are never compared.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import tempfile
import threading
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frontrunner.errors import HeldError

FILE = ".lock"
BEAT = 10.0  # seconds between two signs of life
BEATS = 3  # so many missed, and a holder elsewhere counts as dead
SIZE = 512  # of the file: it is written in place, so it is never seen empty

_held: set[int] = set()


def _close_in_child() -> None:
    # A forked worker shares the lock and would keep it alive after its parent was killed. Closing
    # the child's descriptor leaves the parent's lock as it is.
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)


@dataclass(frozen=True)
class Holder:
    """Who holds a directory.

    Attributes:
        host, pid: its process.
        quiet: seconds since its last sign of life, by the clock of the file server; 0 on this
            machine, None where it cannot be told.
    """

    host: str
    pid: int
    quiet: float | None = 0.0

    def __str__(self) -> str:
        return f"pid {self.pid} on host {self.host}"


@contextmanager
def claim(directory: str | os.PathLike[str]) -> Iterator[None]:
    """Hold a directory for this process, by ``<directory>/.lock``.

    The kernel releases the lock when the process ends, however it ends; a ``.lock`` file that is
    lying about means nothing to its machine. Where it names a holder on another machine that has
    not released it, the beat is watched for ``BEATS`` times ``BEAT`` seconds first. A holder that
    finds another one in its place (it was suspended, and somebody took over) exits at once, with
    code 75 and a line on standard error.

    Raises:
        HeldError: another process holds it; the message names its pid and host.
    """
    path = Path(directory) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    _held.add(descriptor)
    stop = threading.Event()
    try:
        lease = _take(path, descriptor)
        beats = threading.Thread(target=_beat, args=(path, descriptor, lease, stop), daemon=True)
        beats.start()
        try:
            yield
        finally:
            # In a forked child that runs on into this line, the descriptor is already closed.
            if descriptor in _held:
                stop.set()
                beats.join()
                if not _is_lost(path, lease):
                    _write(descriptor, lease | {"released": True})
    finally:
        if descriptor in _held:
            _held.discard(descriptor)
            os.close(descriptor)


def holder(directory: str | os.PathLike[str]) -> Holder | None:
    """Who holds this directory, as far as can be told without waiting; None if nobody does. Of a
    holder on another machine, ``quiet`` says whether it may be dead."""
    path = Path(directory) / FILE
    lease = _read(path)
    if _is_locked(path):
        return Holder(lease["host"], lease["pid"]) if lease else Holder("unknown", 0)
    if lease is None or lease["released"] or lease["machine"] == _machine():
        return None
    return Holder(lease["host"], lease["pid"], _quiet(path))


def is_held(directory: str | os.PathLike[str]) -> bool:
    """Whether a process holds this directory: one that has its lock, or one on another machine that
    gave a sign of life not long ago (or that cannot be told from one)."""
    found = holder(directory)
    return found is not None and (found.quiet is None or found.quiet < BEATS * BEAT)


# ---------------------------------------------------------------------- the kernel's lock


def _lock(descriptor: int, path: Path) -> bool:
    """Take it; False where the file system has no locks."""
    for pause in (0.05, 0.1, 0.2, 0.0):  # `_is_locked` holds it for an instant
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                return False
            time.sleep(pause)
    raise _refusal(path)


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EWOULDBLOCK, errno.EACCES)
    finally:
        os.close(descriptor)
    return False


# ---------------------------------------------------------------------- the lease


def _take(path: Path, descriptor: int) -> dict[str, Any]:
    locked = _lock(descriptor, path)
    lease = {"host": socket.gethostname(), "pid": os.getpid(), "machine": _machine()}
    lease |= {"token": uuid.uuid4().hex, "beat": 0, "released": False}
    before = _read(path)
    if before is None or before["released"] or (locked and before["machine"] == lease["machine"]):
        _write(descriptor, lease)
        return lease
    name, wait = Holder(before["host"], before["pid"]), BEATS * BEAT
    warnings.warn(f"{path} names {name}: watching for {wait:.0f} s whether it lives", stacklevel=4)
    end = time.monotonic() + wait
    while time.monotonic() < end:
        time.sleep(BEAT / 10)
        now = _read(path)
        if now is not None and (now["token"], now["beat"]) != (before["token"], before["beat"]):
            raise _refusal(path)
    _write(descriptor, lease)
    time.sleep(BEAT)
    if _is_lost(path, lease):  # of several that watched the same holder, the last to write has it
        raise _refusal(path)
    return lease


def _beat(path: Path, descriptor: int, lease: dict[str, Any], stop: threading.Event) -> None:
    pause = BEAT / 10  # a second one that began at the same moment is found out soon
    while not stop.wait(pause):
        if _is_lost(path, lease):
            now = f"frontrunner: {path} is held by another process now: this one stops at once\n"
            with contextlib.suppress(OSError):
                os.write(2, now.encode())
            os._exit(75)
        lease["beat"] += 1
        with contextlib.suppress(OSError):  # no sign of life, then; the next one may succeed
            _write(descriptor, lease)
        pause = BEAT


def _is_lost(path: Path, lease: dict[str, Any]) -> bool:
    now = _read(path)
    return now is not None and now["token"] != lease["token"]


def _read(path: Path) -> dict[str, Any] | None:
    """What the file says, from a new opening: network file systems look afresh only then."""
    try:
        lease = json.loads(path.read_text(encoding="utf-8").splitlines()[1])
        keys = ("host", "pid", "machine", "token", "beat", "released")
        return {key: lease[key] for key in keys}
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _write(descriptor: int, lease: dict[str, Any]) -> None:
    text = f"{Holder(lease['host'], lease['pid'])}\n{json.dumps(lease)}"
    os.pwrite(descriptor, text.encode().ljust(SIZE - 1) + b"\n", 0)
    os.fsync(descriptor)


def _refusal(path: Path) -> HeldError:
    lease = _read(path)
    name = Holder(lease["host"], lease["pid"]) if lease else "not named yet"
    return HeldError(
        f"another process is running this ({name}): wait for it, stop it, or give another "
        f"directory than {path.parent}"
    )


def _machine() -> str:
    """Names a kernel since its start: nodes that share one see each other's locks."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    return f"{socket.gethostname()} {boot}".strip()


def _quiet(path: Path) -> float | None:
    """Seconds since the file was written; both times are the file server's."""
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".now.") as now:
            now.write(b".")
            now.flush()
            return max(0.0, os.fstat(now.fileno()).st_mtime - path.stat().st_mtime)
    except OSError:
        return None
