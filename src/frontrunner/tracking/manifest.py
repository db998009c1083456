"""``run.json``: what a run is, and how it stands. `claim` keeps two processes out of it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import platform
import resource
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from frontrunner import files
from frontrunner.errors import ConfigError, RunError, nearest
from frontrunner.tracking.lock import claim as claim
from frontrunner.tracking.lock import holder as holder
from frontrunner.tracking.lock import is_held as is_held

SCHEMA_VERSION = 1
FILE = "run.json"
PACKAGES = (
    "frontrunner",
    "torch",
    "lightning",
    "hydra-core",
    "omegaconf",
    "numpy",
    "moocore",
    "wandb",
    "transformers",
    "tokenizers",
    "datasets",
    "lm-eval",
)
FIELDS = (
    "schema_version",
    "status",
    "attempt",
    "config_hash",
    "overrides",
    "python",
    "platform",
    "packages",
    "devices",
    "git",
    "seed",
    "device",
    "started",
    "resumed",
    "finished",
    "timings",
    "cost",
    "switches",
    "error",
)


# ---------------------------------------------------------------------- facts


def environment() -> dict[str, Any]:
    """Where a run takes place: ``{python, platform, packages, devices, git}``, JSON values only.

    Nothing heavy is imported for it. Packages that are not installed are None. ``git`` is that of
    the working directory, else of the package's own source tree, else None.
    """
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "devices": _devices(),
        "git": repository()[1],
    }


def git(directory: str | os.PathLike[str]) -> dict[str, Any] | None:
    """``{commit, dirty}`` of the repository around ``directory``; None outside a repository.

    ``commit`` is None before the first commit. ``dirty`` says whether tracked files differ from the
    commit, None if git could not tell within its time limit.
    """
    if _git(directory, "rev-parse", "--is-inside-work-tree") != "true":
        return None
    changes = _git(directory, "status", "--porcelain", "--untracked-files=no")
    return {
        "commit": _git(directory, "rev-parse", "--verify", "--quiet", "HEAD") or None,
        "dirty": None if changes is None else bool(changes),
    }


def repository() -> tuple[Path, dict[str, Any] | None]:
    """The working directory if it lies in a repository, else the package's own source tree; and
    what `git` says of it."""
    place, here = Path.cwd(), Path(__file__).resolve()
    found = git(place)
    # A virtual environment inside somebody's repository is not that repository's code: only a
    # source tree whose files git tracks counts.
    if found is None and _git(here.parent, "ls-files", "--error-unmatch", here.name):
        place, found = here.parent, git(here.parent)
    return place, found


def patch(directory: str | os.PathLike[str]) -> str | None:
    """What tracked files of the repository around ``directory`` have beyond the commit, as a patch;
    None outside a repository, or if git could not tell within its time limit."""
    return _git(directory, "diff", "HEAD", "--binary", "--no-color", "--no-ext-diff")


def config_hash(config: Mapping[str, Any], ignore: Sequence[str] = ()) -> str:
    """16 hexadecimal digits that identify a configuration: SHA-256 of its canonical JSON.

    Args:
        config: resolved, of plain dicts, lists and scalars. The order of keys does not matter.
        ignore: dotted keys that do not change the result, e.g. ``"logger"``, ``"runner.device"``;
            keys the configuration lacks are skipped.

    Raises:
        ConfigError: a value that is not plain data.
    """
    kept: Any = config
    for key in ignore:
        kept = _without(kept, key.split("."))
    try:
        text = json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the configuration is not plain data: {error}") from None
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def peak_memory_bytes() -> int:
    """Peak memory of this process in bytes, since it started or since `reset_peak_memory`: on CUDA
    devices if used, else RAM."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return sum(torch.cuda.max_memory_allocated(i) for i in range(torch.cuda.device_count()))
    # On Linux a process inherits ru_maxrss from whoever started it; VmHWM begins afresh.
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak_memory() -> None:
    """Begin a new measurement of `peak_memory_bytes`, where the system allows it (Linux, CUDA)."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        for i in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(i)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


# ---------------------------------------------------------------------- run.json


class RunRecord:
    """The ``run.json`` of one run directory. Every change is written at once, atomically."""

    def __init__(self, directory: str | os.PathLike[str], data: dict[str, Any]) -> None:
        self.directory = Path(directory)
        self.data = data

    @classmethod
    def read(cls, directory: str | os.PathLike[str]) -> RunRecord:
        """Read what a run directory says, without changing it.

        Raises:
            RunError: there is no ``run.json``, it is damaged, or another version wrote it.
        """
        path = Path(directory) / FILE
        if not path.exists():
            raise RunError(f"{path} does not exist: {directory} is not a run directory")
        remedy = f"delete {path} to start this run afresh, or give another run directory"
        try:
            data = files.read_json(path)
        except RunError as error:
            raise RunError(f"{error}; {remedy}") from None
        if not isinstance(data, dict) or not isinstance(data.get("attempt"), int):
            raise RunError(f"{path} is not the record of a run; {remedy}")
        if data.get("schema_version") != SCHEMA_VERSION:
            raise RunError(
                f"{path} has schema_version {data.get('schema_version')}, not {SCHEMA_VERSION}: "
                f"another version of frontrunner wrote it; {remedy}"
            )
        return cls(directory, data)

    @classmethod
    def open(cls, directory: str | os.PathLike[str], **facts: Any) -> RunRecord:
        """Begin an attempt: status ``running``, attempt 1, or one more than the record there is.

        ``started`` stays that of the first attempt, ``resumed`` is when a later one began. What an
        earlier attempt left in ``timings`` and ``cost`` is dropped. Hold `claim` around this.

        Raises:
            RunError: the ``run.json`` there is cannot be read.
            TypeError: a fact that is not one of `FIELDS`.
        """
        path = Path(directory) / FILE
        earlier = cls.read(directory).data if path.exists() else None
        now = _now()
        data: dict[str, Any] = dict.fromkeys(FIELDS)
        data |= {
            "schema_version": SCHEMA_VERSION,
            "status": "running",
            "attempt": 1 if earlier is None else earlier["attempt"] + 1,
            "started": now if earlier is None else earlier.get("started") or now,
            "resumed": None if earlier is None else now,
            "timings": {},
            "cost": {},
            "switches": {},
        }
        record = cls(directory, data)
        record.update(**facts)
        return record

    def update(self, **fields: Any) -> None:
        """Set fields and write. Mappings are merged into what the field holds, key by key.

        NumPy numbers become plain ones and non-finite numbers null, which JSON has no word for.

        Raises:
            TypeError: a field that is not one of `FIELDS`.
        """
        for key, value in fields.items():
            if key not in FIELDS:
                raise TypeError(f"run.json has no field '{key}'{nearest(key, FIELDS)}")
            value, before = _plain(value), self.data[key]
            merge = isinstance(value, dict) and isinstance(before, dict)
            self.data[key] = {**before, **value} if merge else value
        files.write_json(self.directory / FILE, self.data)

    def done(self, **fields: Any) -> None:
        """Record success. Call it last, when every file of the run is in place."""
        self.update(**fields, status="done", finished=_now(), error=None)

    def fail(self, error: BaseException, **fields: Any) -> None:
        """Record a failure: the error's type and message, and its ``step`` if it carries one.

        If even this cannot be written (a full disk), it warns, so that the error itself survives.
        """
        entry: dict[str, Any] = {"type": type(error).__name__, "message": str(error)[:2000]}
        if getattr(error, "step", None) is not None:
            entry["step"] = error.step  # type: ignore[attr-defined]
        self.data["error"] = None  # not to be merged with an earlier one
        try:
            self.update(**fields, status="failed", finished=_now(), error=entry)
        except OSError as problem:
            warnings.warn(f"the failure could not be recorded: {problem}", stacklevel=2)


# ---------------------------------------------------------------------- details


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _devices() -> list[str]:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return [f"cpu: {platform.processor() or platform.machine()}, {os.cpu_count()} cores"]
    return [f"cuda: {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]


def _git(directory: str | os.PathLike[str], *arguments: str) -> str | None:
    """Output of a git command, or None if it fails, is slow, or there is no git."""
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=5,
            # Only look: no refreshed index, no question to the user.
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _without(config: Any, key: Sequence[str]) -> Any:
    if not isinstance(config, Mapping) or key[0] not in config:
        return config
    if len(key) == 1:
        return {k: v for k, v in config.items() if k != key[0]}
    return {**config, key[0]: _without(config[key[0]], key[1:])}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # NumPy arrays and numbers, tensors
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
