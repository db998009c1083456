"""What is merged: a base and the experts fine-tuned from it, checked against each other."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from frontrunner.errors import DataError
from frontrunner.weights.source import Weights

if TYPE_CHECKING:
    from torch import Tensor

PIECE = 1 << 16  # numbers: a few float32 pieces of this size fit a core's cache


class Parents:
    """A base model and K experts of one architecture.

    Args:
        base: the pre-trained model; its dtypes are those of what is merged.
        experts: K models; expert k belongs to objective k.

    Raises:
        DataError: no experts, or tensors that do not correspond; model and tensor are named.
    """

    def __init__(self, base: Weights, experts: Sequence[Weights]) -> None:
        if not experts:
            raise DataError("merging needs at least one expert")
        self.base, self.experts = base, list(experts)
        self._check()

    def __len__(self) -> int:
        return len(self.experts)

    def mergeable(self, key: str) -> bool:
        """Whether a tensor is of floating point; others (counters, indices) stay the base's."""
        return self.base.dtype(key).is_floating_point

    def read(self, key: str) -> tuple[Tensor, list[Tensor]]:
        """The base's and the experts' tensor, in float32 (float64 stays).

        Raises:
            DataError: a tensor holds NaN or infinity; model and tensor are named.
        """
        base = _working(self.base, self.base.read(key), key)
        return base, [_working(expert, expert.read(key), key) for expert in self.experts]

    def pieces(self, key: str) -> Iterator[tuple[int, Tensor, list[Tensor]]]:
        """`read`, flat and piece by piece: where a piece starts, the base's and the experts'.

        Whole tensors in float32 are never in memory, and pieces stay in the processor's cache.
        """
        streams = [iter(w.pieces(key, PIECE)) for w in (self.base, *self.experts)]
        start = 0
        for stored in zip(*streams, strict=True):
            models = (self.base, *self.experts)
            base, *experts = (
                _working(w, piece, key) for w, piece in zip(models, stored, strict=True)
            )
            yield start, base, experts
            start += len(base)

    @property
    def parameters(self) -> int:
        """Numbers in one model."""
        return sum(math.prod(shape) for shape in self.base.shapes().values())

    def digest(self) -> str:
        """16 hex digits that change when any parent does."""
        joined = " ".join(w.digest() for w in (self.base, *self.experts))
        return hashlib.sha256(joined.encode()).hexdigest()[:16]

    def _check(self) -> None:
        wanted = self.base.shapes()
        for expert in self.experts:
            found = expert.shapes()
            for key, shape in wanted.items():
                if key not in found:
                    raise DataError(
                        f"{expert.name} has no tensor '{key}', which {self.base.name} has"
                    )
                if tuple(found[key]) != tuple(shape):
                    raise DataError(
                        f"'{key}' has shape {tuple(found[key])} in {expert.name} and "
                        f"{tuple(shape)} in {self.base.name}: not one architecture"
                    )
                kind = expert.dtype(key)
                if self.mergeable(key) != kind.is_floating_point:
                    raise DataError(
                        f"'{key}' is {self.base.dtype(key)} in {self.base.name} and {kind} in "
                        f"{expert.name}: quantised weights cannot be merged"
                    )
            extra = [key for key in found if key not in wanted]
            if extra:
                raise DataError(f"{expert.name} has a tensor '{extra[0]}' that the base has not")


def _working(weights: Weights, stored: Tensor, key: str) -> Tensor:
    import torch

    tensor = stored if stored.dtype == torch.float64 else stored.float()
    # The extremes show infinities, and a NaN becomes both: one pass, no tensor of truth values.
    if tensor.numel() and not all(math.isfinite(x) for x in torch.aminmax(tensor)):
        raise DataError(f"'{key}' in {weights.name} holds NaN or infinity")
    return tensor
