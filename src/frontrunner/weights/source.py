"""Named tensors that are read one at a time: in memory, from safetensors files, or base + LoRA."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Weights(ABC):
    """The weights of one model. Nothing is read before `read` asks for it.

    Attributes:
        name: what messages and records call this model, e.g. its folder.
        folder: the checkpoint folder it came from, or None for a model in memory.
    """

    name: str
    folder: Path | None = None

    @abstractmethod
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of every tensor by name, in the order they are best read in."""

    @abstractmethod
    def dtype(self, key: str) -> torch.dtype:
        """The stored dtype of one tensor."""

    @abstractmethod
    def read(self, key: str) -> Tensor:
        """One tensor in its stored dtype, on the CPU. Not to be changed in place.

        Raises:
            DataError: the file is damaged; it and the tensor are named.
        """

    def pieces(self, key: str, size: int) -> Iterator[Tensor]:
        """`read`, flat and ``size`` numbers at a time."""
        flat = self.read(key).reshape(-1)
        for start in range(0, len(flat), size):
            yield flat[start : start + size]

    @abstractmethod
    def digest(self) -> str:
        """16 hex digits that change when the weights do."""


class InMemory(Weights):
    """Weights that are in memory already, e.g. of a network trained a moment ago."""

    def __init__(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        self.name = name
        self.tensors = dict(tensors)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {key: tuple(t.shape) for key, t in self.tensors.items()}

    def dtype(self, key: str) -> torch.dtype:
        return self.tensors[key].dtype

    def read(self, key: str) -> Tensor:
        return self.tensors[key]

    def digest(self) -> str:
        return digest_of(self.tensors.items())


def digest_of(tensors: Iterable[tuple[str, Any]]) -> str:
    """16 hex digits of names, dtypes, shapes and contents."""
    import torch

    h = hashlib.sha256()
    for name, tensor in sorted(tensors):
        h.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().view(-1)
        h.update(flat.view(torch.uint8).numpy().tobytes())
    return h.hexdigest()[:16]
