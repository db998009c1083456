"""Exact order statistics of more numbers than fit in memory: two counting passes, no sorting.

A float32 and its bits, read as an integer, have the same order once the bits of negative numbers
are turned round. The first pass counts how often each pattern of the upper 16 bits occurs, which
says what the upper half of the wanted number is; the second counts the lower 16 bits of those that
have it. The cost does not depend on how the numbers are distributed, where quickselect slows down
on many equal ones, such as the zeros of a sparse task vector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

Rows = Iterable[Sequence[Tensor]]


def order_statistics(rows: Callable[[], Rows], ranks: ArrayLike) -> NDArray[np.float32]:
    """The numbers that would stand at given places if each of K rows were sorted.

    Args:
        rows: called once for each of two passes; yields K float32 tensors at a time, the next piece
            of every row. Numbers must be finite.
        ranks: (K, r) places, counted from 0 for the smallest.

    Returns:
        (K, r) float32; a zero may come without its sign.

    Raises:
        IndexError: a rank is not that of a number in its row.
    """
    wanted = np.asarray(ranks, dtype=np.int64)
    upper = np.zeros((len(wanted), 1 << 16), dtype=np.int64)
    for pieces in rows():
        for counts, piece in zip(upper, pieces, strict=True):
            _count(counts, _ordered(piece) >> 16)
    halves, rests = _locate(np.roll(upper, 1 << 15, axis=1), wanted)
    halves -= 1 << 15

    lower = [{half: np.zeros(1 << 16, dtype=np.int64) for half in row} for row in halves.tolist()]
    for pieces in rows():
        for counts_of, piece in zip(lower, pieces, strict=True):
            bits = _ordered(piece)
            for half, counts in counts_of.items():
                _count(counts, bits[bits >> 16 == half])
    found = np.empty(wanted.shape, dtype=np.int32)
    for place in np.ndindex(*wanted.shape):
        half = int(halves[place])
        rest, _ = _locate(lower[place[0]][half][None], rests[place].reshape(1, 1))
        found[place] = (half << 16) + rest.item()
    return (found ^ (found >> 31 & 0x7FFFFFFF)).view(np.float32)


def _locate(counts: NDArray[np.int64], ranks: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
    """The bin that holds each rank, (K, r), and the rank within it, from counts (K, bins)."""
    ends = counts.cumsum(axis=1)
    for end, row in zip(ends[:, -1], ranks, strict=True):
        if row.min() < 0 or row.max() >= end:
            raise IndexError(f"there are no ranks {row} among {end} numbers")
    bins = np.array([np.searchsorted(e, r, "right") for e, r in zip(ends, ranks, strict=True)])
    before = np.take_along_axis(ends - counts, bins, axis=1)
    return bins, ranks - before


def _ordered(numbers: Tensor) -> NDArray[np.int32]:
    """Integers in the order of float32 numbers."""
    bits = numbers.detach().numpy().reshape(-1).view(np.int32)
    return bits ^ (bits >> 31 & 0x7FFFFFFF)


def _count(counts: NDArray[np.int64], integers: NDArray[np.int32]) -> None:
    """Add how often each pattern of the lower 16 bits occurs. Those of numbers from 0 come before
    those of negative ones, so that few bins are touched where there are none of these."""
    found = torch.bincount(torch.from_numpy(integers & 0xFFFF)).numpy()
    counts[: len(found)] += found
