"""Checkpoints in safetensors files: one file, or shards with an index."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frontrunner.errors import DataError
from frontrunner.weights.source import Weights

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"

_WHOLE = 16 << 20  # bytes of a file that `digest` reads whole
_BLOCK, _BLOCKS = 16 << 10, 4  # of a larger file's tensors: bytes in a block, blocks in a tensor
_LONGEST_HEADER = 100 << 20  # the limit of the safetensors library
# What quantisers append to a module's name beside its packed weight.
_SCALES = ("weight_scale", "weight_scale_inv", "scales", "qzeros", "SCB", "weight.absmax", "scale")
_PACKED = ("weight", "qweight", "weight_packed")


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: ``size`` bytes at ``start`` of ``file``."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


class Safetensors(Weights):
    """A checkpoint on disk. Headers are read at once, a tensor when it is asked for.

    Tensors are read with plain reads, not mapped: mapped pages would count as this process's
    memory, and a file cut short while it is mapped ends the process.

    Args:
        path: a folder with ``model.safetensors``, or with shards and
            ``model.safetensors.index.json``; or one ``.safetensors`` file.
        name: what messages and records call it; its path by default.

    Raises:
        DataError: no such file, a missing shard, a damaged header, data that end too early, or
            quantised weights; the file and, where there is one, the tensor are named.
    """

    def __init__(self, path: str | os.PathLike[str], name: str | None = None) -> None:
        self.path = Path(path)
        self.name = name or str(path)
        self.folder = self.path if self.path.is_dir() else None
        if self.folder is None and (self.path.parent / "config.json").is_file():
            self.folder = self.path.parent
        if self.folder is not None:
            _refuse_quantised_config(self.folder)
        self.entries = dict(_entries(self.path))
        self._digest: str | None = None
        _refuse_quantised_tensors(self.name, self.entries)

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {key: entry.shape for key, entry in self.entries.items()}

    def dtype(self, key: str) -> torch.dtype:
        entry = self._entry(key)
        try:
            return dtypes()[entry.dtype]
        except KeyError:
            raise DataError(
                f"{entry.file}: '{key}' is stored as {entry.dtype}, which torch cannot hold"
            ) from None

    def read(self, key: str) -> Tensor:
        import torch

        entry = self._entry(key)
        count = math.prod(entry.shape)
        if not count:
            return torch.empty(entry.shape, dtype=self.dtype(key))
        (tensor,) = self.pieces(key, count)
        return tensor.reshape(entry.shape)

    def pieces(self, key: str, size: int) -> Iterator[Tensor]:
        import torch

        entry, dtype = self._entry(key), self.dtype(key)
        step = size * dtype.itemsize
        try:
            with open(entry.file, "rb", buffering=0) as handle:
                handle.seek(entry.start)
                for start in range(0, entry.size, step):
                    data = torch.empty(min(step, entry.size - start), dtype=torch.uint8)
                    whole = _fill(handle, memoryview(data.numpy()))  # type: ignore[arg-type]
                    if not whole:
                        raise DataError(
                            f"{entry.file} ends within '{key}'; fetch or copy the file again"
                        )
                    yield data.view(dtype)
        except OSError as error:
            reason = error.strerror or str(error)
            raise DataError(f"{entry.file}: '{key}' cannot be read: {reason}") from None

    def digest(self) -> str:
        """16 hex digits of headers, sizes and a sample of the contents.

        Files of up to 16 MiB are read whole. Of larger ones 4 blocks of 16 KiB are read in every
        tensor, from its first to its last bytes: training on changes them; a deliberate change
        between the blocks goes unnoticed. Like the headers, they are read once.
        """
        if self._digest is None:
            self._digest = self._sampled()
        return self._digest

    def _sampled(self) -> str:
        h = hashlib.sha256()
        for file in dict.fromkeys(entry.file for entry in self.entries.values()):
            mine = [(key, e) for key, e in self.entries.items() if e.file == file]
            try:
                with open(file, "rb") as handle:
                    size = os.fstat(handle.fileno()).st_size
                    h.update(str(size).encode())
                    if size <= _WHOLE:
                        h.update(handle.read())
                        continue
                    for key, entry in mine:
                        h.update(f"{key} {entry.dtype} {entry.shape} {entry.start}".encode())
                        for start, length in _sample(entry):
                            handle.seek(start)
                            h.update(handle.read(length))
            except OSError as error:
                raise DataError(f"{file}: {error.strerror or error}") from None
        return h.hexdigest()[:16]

    def _entry(self, key: str) -> Entry:
        try:
            return self.entries[key]
        except KeyError:
            raise DataError(f"{self.name} has no tensor '{key}'") from None


@cache
def dtypes() -> dict[str, torch.dtype]:
    """The dtypes of the safetensors format that torch has, by their name in the format."""
    import torch

    return {
        "F64": torch.float64,
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "F8_E4M3": torch.float8_e4m3fn,
        "F8_E5M2": torch.float8_e5m2,
        "I64": torch.int64,
        "I32": torch.int32,
        "I16": torch.int16,
        "I8": torch.int8,
        "U64": torch.uint64,
        "U32": torch.uint32,
        "U16": torch.uint16,
        "U8": torch.uint8,
        "BOOL": torch.bool,
        "C64": torch.complex64,
    }


# ---------------------------------------------------------------------- headers


def _entries(path: Path) -> Iterator[tuple[str, Entry]]:
    """Every tensor of a checkpoint, shard by shard, in the order it lies in them."""
    if path.is_file():
        yield from read_header(path)
    elif (path / FILE).is_file():
        yield from read_header(path / FILE)
    elif (path / INDEX).is_file():
        yield from _sharded(path)
    elif not path.exists():
        raise DataError(f"{path} does not exist")
    else:
        others = sorted(p.name for p in path.glob("*.bin*")) + sorted(
            p.name for p in path.glob("*.pt*")
        )
        found = f" but {others[0]}" if others else ""
        raise DataError(
            f"{path} has no {FILE} and no {INDEX}{found}; pickled weights are not opened: "
            "convert them to safetensors with save_pretrained of transformers"
        )


def _sharded(folder: Path) -> Iterator[tuple[str, Entry]]:
    index = folder / INDEX
    try:
        files: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(files.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f"{index} is not an index with a weight_map; fetch it again") from None
    for shard in shards:
        if not (folder / shard).is_file():
            raise DataError(f"{folder / shard} is missing, which {INDEX} lists; fetch it again")
        found = dict(read_header(folder / shard))
        wanted = {key for key, file in files.items() if file == shard}
        for key in sorted(wanted - set(found)):
            raise DataError(f"{folder / shard} has no tensor '{key}', which {INDEX} says it has")
        yield from ((key, entry) for key, entry in found.items() if key in wanted)


def read_header(file: Path) -> Iterator[tuple[str, Entry]]:
    """The tensors of one safetensors file in the order of their data.

    Raises:
        DataError: the header is damaged, or the data end before a tensor does.
    """
    try:
        with open(file, "rb") as handle:
            size = os.fstat(handle.fileno()).st_size
            length = int.from_bytes(handle.read(8), "little")
            if size < 8 or length > min(_LONGEST_HEADER, size - 8):
                raise ValueError("its header is cut short or not one")
            header = json.loads(handle.read(length))
    except OSError as error:
        raise DataError(f"{file}: {error.strerror or error}") from None
    except ValueError as error:
        raise DataError(f"{file} is not a whole safetensors file: {error}") from None
    header.pop("__metadata__", None)
    try:
        # Equal offsets belong to empty tensors.
        ordered = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
        entries = {key: _entry(file, 8 + length, described) for key, described in ordered}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DataError(f"{file} is not a whole safetensors file: its header is damaged") from None
    for key, entry in entries.items():
        if entry.start + entry.size > size:
            raise DataError(f"{file} ends before '{key}' does; fetch or copy the file again")
        if entry.dtype in dtypes():
            expected = math.prod(entry.shape) * dtypes()[entry.dtype].itemsize
            if entry.size != expected:
                raise DataError(
                    f"{file}: '{key}' has {entry.size} bytes, and its shape {entry.shape} "
                    f"takes {expected}"
                )
    yield from entries.items()


def _entry(file: Path, data: int, described: dict[str, Any]) -> Entry:
    start, end = described["data_offsets"]
    if not 0 <= start <= end:
        raise ValueError("offsets")
    return Entry(file, described["dtype"], tuple(described["shape"]), data + start, end - start)


def _fill(handle: FileIO, buffer: memoryview) -> bool:
    """Read until the buffer is full; False if the file ends first."""
    done = 0
    while done < len(buffer):
        n = handle.readinto(buffer[done:])
        if not n:
            return False
        done += n
    return True


def _sample(entry: Entry) -> Iterator[tuple[int, int]]:
    """Start and length of the blocks of a tensor that `digest` reads."""
    if entry.size <= _BLOCK * _BLOCKS:
        yield entry.start, entry.size
        return
    for i in range(_BLOCKS):
        yield entry.start + (entry.size - _BLOCK) * i // (_BLOCKS - 1), _BLOCK


# ---------------------------------------------------------------------- quantised checkpoints


def _refuse_quantised_config(folder: Path) -> None:
    config = folder / "config.json"
    if not config.is_file():
        return
    try:
        settings = json.loads(config.read_text(encoding="utf-8"))
        parts = [settings, *(part for part in settings.values() if isinstance(part, dict))]
    except (OSError, ValueError, AttributeError):
        raise DataError(f"{config} is not readable as JSON; fetch it again") from None
    for part in parts:
        quantised = part.get("quantization_config")
        if quantised:
            how = quantised.get("quant_method", "") if isinstance(quantised, dict) else ""
            raise DataError(
                f"{config} says the weights are quantised{f' ({how})' if how else ''}; "
                "give the checkpoint they were made from, in float16, bfloat16 or float32"
            )


def _refuse_quantised_tensors(name: str, entries: Mapping[str, Entry]) -> None:
    for key, entry in entries.items():
        module, _, last = key.rpartition(".")
        narrow = entry.dtype in ("I8", "U8", "I32") or entry.dtype.startswith("F8_")
        if not narrow or last not in _PACKED:
            continue
        scales = next((s for s in _SCALES if f"{module}.{s}" in entries), None)
        if scales:
            raise DataError(
                f"'{key}' in {name} is quantised ({entry.dtype}, with '{module}.{scales}'); "
                "give the checkpoint it was made from, in float16, bfloat16 or float32"
            )
