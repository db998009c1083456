"""The processes of one run: how they meet, what they tell each other, and how all end with one.

They talk through a key-value store of torch's, which the first process (or torchrun) serves. It
needs no collective call: whoever waits for a value can be told that none will come. Lightning's own
launcher ends its parent with SIGKILL when a child fails, so nobody could record the failure.
"""

from __future__ import annotations

import _thread
import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING, Any

from frontrunner.errors import FrontrunnerError, RunError, Stopped, first_line
from frontrunner.runner.place import Place, again, reach

if TYPE_CHECKING:
    from torch import Tensor

BEAT = 1.0  # seconds between two signs of life
LOST = 120  # beats without one from another process, and it counts as dead
MEET = 300.0  # seconds that processes wait for each other at the start
GRACE = 10.0  # seconds a process has to end by itself once the run has failed

# Raises KeyboardInterrupt in the main thread. Not SIGINT, which is ignored by what a shell script
# starts with &; this one is for sockets' urgent data, which nobody here sends.
INTERRUPT = signal.SIGURG

Failed = Callable[[BaseException], None]


class _Ended(RunError):
    """Another process ended the run."""


class Ranks:
    """This process among those of the run; by default the only one.

    Attributes:
        rank, world: of all processes.
        local_rank, node: on this machine, and of the machine.
        address, port: where they meet.
    """

    def __init__(self, place: Place | None = None, failed: Failed | None = None) -> None:
        place = place or Place(0, 1, 0, 0, "127.0.0.1", 0)
        self.rank, self.world = place.rank, place.world
        self.local_rank, self.node = place.local_rank, place.node
        self.address, self.port = place.address, place.port
        self._served, self._failed = place.served, failed
        self._store: Any = None
        self._children: list[subprocess.Popen[bytes]] = []
        self._failure = ""
        self._failing, self._done, self._lock = (
            threading.Event(),
            threading.Event(),
            threading.Lock(),
        )
        self._interrupted = self._parting = self._grouped = False
        self._gathered = 0

    # ------------------------------------------------------------------ meeting and parting

    def _meet(self, name: str, command: Sequence[str]) -> None:
        from torch.distributed import PrefixStore, TCPStore

        def connect(serve: bool) -> Any:
            return TCPStore(
                self.address,
                self.port,
                is_master=serve,
                wait_for_workers=False,
                timeout=timedelta(seconds=MEET),
            )

        serve = self.rank == 0 and not self._served
        if not serve:
            reach(self.address, self.port, MEET)
        try:
            store = connect(serve)
            self.port = store.port
            watched = connect(False)  # of the thread: it must not wait while this one does
        except RuntimeError as error:
            raise RunError(
                f"processes cannot meet at {self.address}:{self.port} ({first_line(error)}): set "
                "MASTER_ADDR and MASTER_PORT, the same for all"
            ) from None
        prefix = f"{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{name}"
        self._store, self._watched = PrefixStore(prefix, store), PrefixStore(prefix, watched)
        self._store.set(f"beat/{self.rank}", "0")
        for rank in range(1, self.world if command else 1):
            environment = {
                **os.environ,
                **dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank)),
                "WORLD_SIZE": str(self.world),
                "MASTER_ADDR": self.address,
                "MASTER_PORT": str(self.port),
            }
            # In a session of its own, so that Ctrl-C reaches the first process alone.
            self._children.append(
                subprocess.Popen(
                    command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True
                )
            )
        threading.Thread(target=self._watch, daemon=True).start()
        self.gather(None, within=MEET)

    def _part(self) -> None:
        """The first process holds the store until nobody needs it any more."""
        if self.rank:
            self.told("end")
            self._done.set()
            self._store.set(f"bye/{self.rank}", "")
            return
        self._parting = True
        self.tell("end", None)
        self._hold("bye", GRACE)

    def _hold(self, key: str, within: float) -> None:
        """Serve the store until all others have left this key, or the time is over."""
        keys, until = [f"{key}/{rank}" for rank in range(1, self.world)], time.monotonic() + within
        while not self._store.check(keys) and time.monotonic() < until:
            time.sleep(0.02)

    def _close(self, good: bool) -> None:
        import torch.distributed as dist

        # To take down a group of NCCL that failed may hang; the process is about to end.
        if self._grouped and dist.is_initialized() and (good or dist.get_backend() == "gloo"):
            dist.destroy_process_group()
        until = time.monotonic() + (GRACE if good else 3 * BEAT)
        for child in self._children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=max(0.1, until - time.monotonic()))
        self._end_children()

    def _end_children(self) -> None:
        for child in self._children:
            if child.poll() is None:
                child.kill()
                child.wait()

    # ------------------------------------------------------------------ telling

    def tell(self, key: str, value: Any) -> None:
        """Let the others know a JSON value; once for each key."""
        if self.world > 1:
            self._store.set(f"said/{key}", json.dumps(value))

    def told(self, key: str, within: float = float("inf")) -> Any:
        """What somebody tells under this key, as soon as it is told.

        Raises:
            RunError: the run has failed meanwhile, or the time is over.
        """
        key, start = f"said/{key}", time.monotonic()
        while not self._store.check([key]):
            if self._failing.is_set():
                raise _Ended(self._failure)
            if time.monotonic() - start > within:
                raise RunError(
                    f"not all of {self.world} processes came within {within:.0f} s; were as many "
                    "started, and do they reach each other?"
                )
            time.sleep(min(0.2, 0.01 + (time.monotonic() - start) / 20))
        return json.loads(self._store.get(key))

    def gather(self, value: Any, within: float = float("inf")) -> list[Any]:
        """What every process gives, in their order; JSON values. All of them have to call it."""
        if self.world == 1:
            return [value]
        self._gathered += 1
        self.tell(f"{self._gathered}/{self.rank}", value)
        return [self.told(f"{self._gathered}/{rank}", within) for rank in range(self.world)]

    def until(self, seen: Callable[[], bool], what: str, within: float = 120.0) -> None:
        """Wait until this machine sees something that another one wrote.

        Raises:
            RunError: it does not, or the run has failed meanwhile.
        """
        start = time.monotonic()
        while not seen():
            if self._failing.is_set():
                raise _Ended(self._failure)
            if time.monotonic() - start > within:
                raise RunError(f"{what} is not to be seen from every process: share the folder")
            time.sleep(0.1)

    # ------------------------------------------------------------------ collectives

    def group(self, cuda: bool) -> None:
        """Make these processes torch's default process group, where collectives run."""
        import torch.distributed as dist

        if self.world == 1 or self._grouped:
            return
        self.gather(None)  # all are here: what follows need not wait
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        dist.init_process_group(
            backend,
            store=dist.PrefixStore("group", self._store),
            rank=self.rank,
            world_size=self.world,
        )
        self._grouped = True

    def sum(self, tensor: Tensor) -> None:
        """Add up a tensor over all processes, in place; in `group`."""
        import torch.distributed as dist

        if self.world > 1:
            dist.all_reduce(tensor)

    # ------------------------------------------------------------------ failure

    def _watch(self) -> None:
        """In a thread: give signs of life and look for those of the others."""
        others = range(1, self.world) if self.rank == 0 else range(1)
        seen = {f"beat/{rank}": ("", 0) for rank in others}
        beat = 0
        while not self._done.wait(BEAT):
            beat += 1
            try:
                self._watched.set(f"beat/{self.rank}", str(beat))
                problem = self._problem(seen)
            except RuntimeError:  # the store went down with its process
                problem = "process 0 ended" if self.rank else "the processes' store ended"
            if self._parting or self._done.is_set():
                return
            if problem:
                self._abort(problem)
                return

    def _problem(self, seen: dict[str, tuple[str, int]]) -> str | None:
        if self._watched.check(["failed"]):
            return str(self._watched.get("failed").decode())
        for rank, child in enumerate(self._children, start=1):
            if child.poll() is not None:
                how = child.returncode
                what = f"was ended by signal {-how}" if how < 0 else f"ended with exit code {how}"
                return f"process {rank} of {self.world} {what}; its own message, if any, is above"
        for key, (before, missed) in seen.items():
            now = self._watched.get(key).decode() if self._watched.check([key]) else ""
            # Counted in own beats: that this process was suspended says nothing of the others.
            # One that is not there yet is a matter of `MEET`.
            seen[key] = (now, missed + 1 if now and now == before else 0)
            if seen[key][1] >= LOST:
                return f"process {key.removeprefix('beat/')} of {self.world} gives no sign of life"
        return None

    def _abort(self, problem: str) -> None:
        self._failure = problem
        self._failing.set()
        with contextlib.suppress(RuntimeError):
            self._watched.set(f"read/{self.rank}" if self.rank else "failed", problem)
        if self._done.wait(BEAT):  # it may fail by itself, and know better why
            return
        with self._lock:
            if self._done.is_set():
                return
            self._interrupted = True
            _thread.interrupt_main(INTERRUPT)
        if self._done.wait(GRACE):
            return
        # It hangs where nothing can interrupt it, in a collective on GPUs for example.
        if self._failed is not None:
            self._failed(RunError(problem))
        self._end_children()
        with contextlib.suppress(OSError):
            os.write(2, f"frontrunner: {problem}\n".encode())
        os._exit(1)

    def _outcome(self, error: BaseException) -> BaseException:
        """What to raise for an error that came up here; the others are told of it."""
        sent = isinstance(error, _Ended) or (
            isinstance(error, KeyboardInterrupt) and self._interrupted
        )
        own = isinstance(error, FrontrunnerError | Stopped | KeyboardInterrupt) and not sent
        if not own:  # a collective breaks off before it is known who broke it
            self._failing.wait(3 * BEAT)
        self._rest()
        if self._failing.is_set() and not own:
            error = SystemExit(1) if self.rank else RunError(self._failure)
        with contextlib.suppress(RuntimeError):  # the store may be gone
            if self.rank == 0:
                if self._failed is not None:
                    self._failed(error)
                self._store.set("recorded", "")
                self._store.set("failed", f"{type(error).__name__}: {first_line(error)}")
                if not self._children:  # those are waited for
                    self._hold("read", 5 * BEAT)
            elif not self._failing.is_set():
                text = f"{type(error).__name__}: {first_line(error)}"
                self._store.set("failed", f"process {self.rank} of {self.world} failed: {text}")
                until = time.monotonic() + GRACE
                while not self._store.check(["recorded"]) and time.monotonic() < until:
                    time.sleep(0.05)
        return error

    def _rest(self) -> None:
        """From here on the thread lets this one alone."""
        try:
            with self._lock:
                self._done.set()
        except KeyboardInterrupt:
            if not self._interrupted:
                raise
            self._done.set()


@contextmanager
def together(processes: int, name: str, failed: Failed | None = None) -> Iterator[Ranks]:
    """Meet the other processes of a run, and part from them at the end.

    An error in one of them ends all: the first raises it, or a `RunError` that says which process
    it is from; the others exit with code 1.

    Args:
        processes: to start on this machine, if nothing else (torchrun, srun) started several.
        name: of the run, the same in all of them.
        failed: records an error on disk; called in the first process before the others end, since
            what started them all may then end this one.

    Raises:
        RunError: not all came within `MEET` seconds, or one of them failed.
        ConfigError: processes that cannot be started from here.
    """
    place, command = Place.here(), list[str]()
    if place is None:
        if processes == 1:
            yield ALONE
            return
        command = again()
        place = Place(0, processes, 0, 0, "127.0.0.1", 0)
    ranks, good = Ranks(place, failed), False
    with _interruptible():
        try:
            ranks._meet(name, command)
            yield ranks
            ranks._part()
            good = True
        except BaseException as error:
            if ranks._store is None:
                raise
            try:
                outcome = ranks._outcome(error)
            except KeyboardInterrupt as late:
                if not ranks._interrupted:
                    raise
                # The thread's interruption, which came when the error was here already.
                outcome = ranks._outcome(late)
            if outcome is error:
                raise
            raise outcome from error
        finally:
            ranks._done.set()
            ranks._close(good)


@contextmanager
def _interruptible() -> Iterator[None]:
    """INTERRUPT, and where nobody else listens to it SIGTERM, end this process in order, as Ctrl-C
    does: torchrun sends SIGTERM when another process failed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {INTERRUPT: signal.signal(INTERRUPT, stop)}
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        before[signal.SIGTERM] = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


ALONE = Ranks()
