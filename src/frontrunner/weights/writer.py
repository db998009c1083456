"""Writing checkpoints: safetensors shards, tensor by tensor, into a folder that appears whole."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from frontrunner.errors import ConfigError, RunError
from frontrunner.weights.files import FILE, INDEX, dtypes

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SHARD_SIZE = 2 * 10**9  # bytes
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}

# Shape and dtype of every tensor, by name, in the order they are written in.
Layout = Mapping[str, tuple[tuple[int, ...], "torch.dtype"]]


def layout_of(tensors: Mapping[str, Tensor]) -> Layout:
    """The layout of tensors that are in memory."""
    return {key: (tuple(t.shape), t.dtype) for key, t in tensors.items()}


def write_checkpoint(
    folder: str | os.PathLike[str],
    tensors: Iterable[tuple[str, Tensor]],
    layout: Layout,
    shard_size: int = SHARD_SIZE,
) -> list[str]:
    """Write ``model.safetensors``, or shards of at most ``shard_size`` bytes and their index.

    The layout is known beforehand, so a shard's header is written first and each tensor goes to
    the disk as it comes: no more than one is in memory. A tensor larger than ``shard_size`` has a
    shard of its own.

    Args:
        folder: exists; `whole_folder` makes it one that is never seen half-written.
        tensors: (name, tensor) in the order of ``layout``.
        layout: shape and dtype of every tensor.
        shard_size: bytes of tensor data.

    Returns:
        Names of the files written.

    Raises:
        RunError: a tensor is missing, out of turn, or not of the shape and dtype announced.
        OSError: the disk is full.
    """
    target = Path(folder)
    shards = _divide(layout, shard_size)
    names = [FILE] if len(shards) == 1 else _names(len(shards))
    stream = iter(tensors)
    for name, keys in zip(names, shards, strict=True):
        write_file(target / name, stream, {key: layout[key] for key in keys})
    extra = next(stream, None)
    if extra is not None:
        raise RunError(f"'{extra[0]}' is not among the tensors that were to be written")
    if len(shards) == 1:
        return names
    index = {
        "metadata": {"total_size": sum(_size(spec) for spec in layout.values())},
        "weight_map": {key: name for name, keys in zip(names, shards, strict=True) for key in keys},
    }
    (target / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return [*names, INDEX]


def write_file(path: Path, tensors: Iterator[tuple[str, Tensor]], layout: Layout) -> None:
    """Write one safetensors file, taking from ``tensors`` as many as ``layout`` has.

    Raises:
        RunError, OSError: see `write_checkpoint`.
    """
    header, starts = _header(layout)
    with open(path, "wb", buffering=0) as handle:
        _write(handle.fileno(), header, 0)
        for key, spec in layout.items():
            _write(handle.fileno(), _bytes(next(tensors, None), key, spec), starts[key])


def parse_size(text: str, option: str = "--shard-size") -> int:
    """Bytes of ``2GB``, ``500MB`` or a number alone; units are powers of ten, as the hub's.

    Raises:
        ConfigError: not a size above 0.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]B)?\s*", text.upper())
    size = int(float(match[1]) * _UNITS[match[2] or ""]) if match else 0
    if size < 1:
        raise ConfigError(f"{option} {text}: give a size such as 2GB or 500MB")
    return size


# ---------------------------------------------------------------------- whole folders


@dataclass(frozen=True)
class Mark:
    """The file by which an earlier result is known: JSON whose ``files`` lists all there is."""

    name: str

    def owns(self, folder: Path) -> bool:
        """Whether a folder holds what was listed when it was written, and nothing else."""
        try:
            listed = json.loads((folder / self.name).read_text(encoding="utf-8"))["files"]
            return set(os.listdir(folder)) <= {self.name, *listed}
        except (OSError, ValueError, KeyError, TypeError):
            return False


@contextmanager
def whole_folder(path: str | os.PathLike[str], mark: Mark) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; on success it is flushed and renamed to ``path``.

    On any error, an interrupt or a full disk included, the temporary folder is removed and
    ``path`` keeps what it had. An earlier result that ``mark`` knows is replaced.

    Raises:
        RunError: ``path`` holds anything else, or could not be written.
    """
    target = Path(os.path.abspath(path))
    if target.is_file() or (target.is_dir() and any(target.iterdir()) and not mark.owns(target)):
        raise RunError(f"{path} holds other files; give a new folder, or empty it")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for file in [*sorted(temporary.rglob("*")), temporary]:
            _flush(file)
        _exchange(temporary, target)
    except OSError as error:
        reason = error.strerror or str(error)
        room = error.errno in (errno.ENOSPC, errno.EDQUOT)
        then = "make room, try again" if room else "nothing was changed"
        raise RunError(f"{path} could not be written ({reason}); {then}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _exchange(new: Path, target: Path) -> None:
    """Rename ``new`` to ``target``; what was there is put back if that fails."""
    old = new.with_suffix(".old")
    if target.exists():
        os.rename(target, old)
    try:
        os.rename(new, target)
    except BaseException:
        if old.exists():
            os.rename(old, target)
        raise
    _flush(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# ---------------------------------------------------------------------- shards


def _divide(layout: Layout, shard_size: int) -> list[list[str]]:
    """Names in order, cut where a shard would exceed its size."""
    shards: list[list[str]] = [[]]
    filled = 0
    for key, spec in layout.items():
        size = _size(spec)
        if shards[-1] and filled + size > shard_size:
            shards.append([])
            filled = 0
        shards[-1].append(key)
        filled += size
    return shards


def _names(n: int) -> list[str]:
    return [f"model-{i:05d}-of-{n:05d}.safetensors" for i in range(1, n + 1)]


def _size(spec: tuple[tuple[int, ...], torch.dtype]) -> int:
    return math.prod(spec[0]) * spec[1].itemsize


def _header(layout: Layout) -> tuple[bytes, dict[str, int]]:
    """A file's header, and where each tensor's data begin.

    The format: 8 bytes of length, then JSON, here padded with blanks to 8 bytes, then data without
    gaps. Wide dtypes come first, so that each tensor begins at a multiple of its item size, which
    readers that map the file rely on.
    """
    kinds = {dtype: name for name, dtype in dtypes().items()}
    described: dict[str, object] = {"__metadata__": {"format": "pt"}}
    starts: dict[str, int] = {}
    start = 0
    for key, (shape, dtype) in sorted(layout.items(), key=lambda item: -item[1][1].itemsize):
        end = start + _size((shape, dtype))
        if dtype not in kinds:
            raise RunError(f"'{key}' is {dtype}, which safetensors files do not hold")
        described[key] = {"dtype": kinds[dtype], "shape": list(shape), "data_offsets": [start, end]}
        starts[key], start = start, end
    text = json.dumps(described, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    return header, {key: len(header) + at for key, at in starts.items()}


def _bytes(
    item: tuple[str, Tensor] | None, key: str, spec: tuple[tuple[int, ...], torch.dtype]
) -> memoryview:
    import torch

    if item is None or item[0] != key:
        found = f"'{item[0]}' came" if item else "nothing came"
        raise RunError(f"{found} where the tensor '{key}' was to be written")
    tensor = item[1].detach().cpu().contiguous()
    if (tuple(tensor.shape), tensor.dtype) != spec:
        raise RunError(
            f"'{key}' came as {tensor.dtype} {tuple(tensor.shape)}, not {spec[1]} {spec[0]}"
        )
    return memoryview(tensor.view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]


def _write(handle: int, data: bytes | memoryview, start: int) -> None:
    """All of it: one call writes at most 2 GiB."""
    rest = memoryview(data)
    while rest:
        n = os.pwrite(handle, rest, start)
        rest, start = rest[n:], start + n
