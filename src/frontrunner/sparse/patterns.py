"""Which entries of a weight matrix are kept: so many of the whole matrix, or N of every M."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from frontrunner.errors import ConfigError

# A guess of the threshold saves time in matrices of so many entries; how close to it is looked.
_WORTHWHILE, _CLOSE = 1 << 20, 0.05


class Pattern(ABC):
    """A rule for the support of a matrix (d, c): d outputs, c inputs, as `torch.nn.Linear` has it.

    Scores are non-negative; of equal scores the first in memory are kept, so that the number of
    kept entries is exact.
    """

    @abstractmethod
    def kept(self, shape: tuple[int, int]) -> int:
        """Entries that are kept of a matrix of this shape."""

    def select(
        self, scores: Tensor, core: Tensor | None = None, near: float = 0.0
    ) -> tuple[Tensor, float]:
        """(d, c) bool: the largest ``scores`` that the pattern allows, and all of ``core``.

        Args:
            scores: (d, c), at least 0.
            core: (d, c) bool, entries that are kept whatever their score; the pattern allows them.
            near: what the selection from similar scores returned beside its mask, which makes this
                one quicker; 0 if there was none.
        """
        if core is not None:
            scores = scores.masked_fill(core, math.inf)
        return self._best(scores, near)

    @abstractmethod
    def _best(self, scores: Tensor, near: float) -> tuple[Tensor, float]:
        """`select` without a core."""

    def core(
        self, scores: Tensor, support: Tensor, share: float, near: float = 0.0
    ) -> tuple[Tensor, float]:
        """(d, c) bool: about ``share`` of ``support``, where scores are largest; see `select`."""
        # Among those inside alone: selection is slow where many scores are equal.
        inside, limit = largest(scores[support], round(share * self.kept(_shape(scores))), near)
        mask = torch.zeros_like(support)
        mask[support] = inside
        return mask, limit

    def check(self, name: str, shape: tuple[int, int]) -> None:
        """Refuse a matrix that the pattern does not fit.

        Raises:
            ConfigError: with the layer named.
        """
        if not 0 < self.kept(shape) < math.prod(shape):
            raise ConfigError(
                f"{name} {shape} has {math.prod(shape)} entries, and {self} keeps "
                f"{self.kept(shape)}: nothing is left, or nothing is pruned"
            )


@dataclass(frozen=True)
class Unstructured(Pattern):
    """The largest entries of the whole matrix; ``sparsity`` is the share of zeros in (0, 1).

    Of n entries, n - ⌊n · sparsity + 1/2⌋ are kept.
    """

    sparsity: float

    def __post_init__(self) -> None:
        if not (isinstance(self.sparsity, int | float) and 0 < self.sparsity < 1):
            raise ConfigError(
                f"a sparsity of {self.sparsity} must be above 0 and below 1, such as 0.7 "
                "(in YAML, N:M is written in quotes)"
            )

    def __str__(self) -> str:
        return repr(float(self.sparsity))

    def kept(self, shape: tuple[int, int]) -> int:
        entries = math.prod(shape)
        return entries - math.floor(entries * self.sparsity + 0.5)

    def select(
        self, scores: Tensor, core: Tensor | None = None, near: float = 0.0
    ) -> tuple[Tensor, float]:
        if core is None:
            return self._best(scores, near)
        kept = self.kept(_shape(scores))
        # Among the others alone: selection is slow where many scores are equal.
        outside = ~core
        others, limit = largest(scores[outside], kept - int(core.count_nonzero()), near)
        mask = core.clone()
        mask[outside] = others
        return mask, limit

    def _best(self, scores: Tensor, near: float) -> tuple[Tensor, float]:
        return largest(scores, self.kept(_shape(scores)), near)


@dataclass(frozen=True)
class NM(Pattern):
    """``n`` of every ``m`` consecutive inputs are kept in each output."""

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 0 < self.n < self.m:
            raise ConfigError(
                f"pattern {self.n}:{self.m} keeps {self.n} of every {self.m}: it needs 0 < N < M"
            )

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

    def kept(self, shape: tuple[int, int]) -> int:
        return math.prod(shape) // self.m * self.n

    def _best(self, scores: Tensor, near: float) -> tuple[Tensor, float]:
        groups = scores.reshape(-1, self.m)
        # A stable order keeps the first of equal scores.
        chosen = groups.argsort(dim=1, descending=True, stable=True)[:, : self.n]
        mask = torch.zeros(groups.shape, dtype=torch.bool, device=scores.device)
        return mask.scatter_(1, chosen, True).view(scores.shape), 0.0

    def core(
        self, scores: Tensor, support: Tensor, share: float, near: float = 0.0
    ) -> tuple[Tensor, float]:
        """Whole groups: those whose scores have the largest sums (MOSP, N:M variant)."""
        sums = scores.reshape(-1, self.m).sum(1)
        groups, limit = largest(sums, round(share * len(sums)), near)
        return support & groups[:, None].expand(-1, self.m).reshape(scores.shape), limit

    def check(self, name: str, shape: tuple[int, int]) -> None:
        if shape[1] % self.m:
            raise ConfigError(
                f"{name} has {shape[1]} inputs, which groups of {self.m} do not divide "
                f"(pattern {self}); choose another pattern, or leave the layer out"
            )


@dataclass(frozen=True)
class Rows(Pattern):
    """The largest entries of each row by itself, as Wanda compares them.

    ``truncate`` prunes ⌊c · sparsity⌋ entries of every row, as its code does, which undershoots on
    narrow layers; otherwise the first rows lose one entry more, so that the total is that of
    `Unstructured`.
    """

    sparsity: float
    truncate: bool = False

    def __post_init__(self) -> None:
        Unstructured(self.sparsity)

    def __str__(self) -> str:
        return f"{float(self.sparsity)!r} of each row{', truncated' if self.truncate else ''}"

    def kept(self, shape: tuple[int, int]) -> int:
        if self.truncate:
            return shape[0] * (shape[1] - int(shape[1] * self.sparsity))
        return Unstructured(self.sparsity).kept(shape)

    def _best(self, scores: Tensor, near: float) -> tuple[Tensor, float]:
        rows = len(scores)
        fewest, more = divmod(self.kept(_shape(scores)), rows)
        ranks = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1, stable=True)
        kept = torch.full((rows, 1), fewest, device=scores.device)
        kept[rows - more :] += 1
        return ranks < kept, 0.0


@dataclass(frozen=True)
class Blocks(Pattern):
    """The largest entries of each ``width`` consecutive inputs, of all outputs together, as
    SparseGPT's code compares them: of n entries ⌊n · sparsity⌋ + 1 are pruned."""

    sparsity: float
    width: int

    def __post_init__(self) -> None:
        Unstructured(self.sparsity)

    def __str__(self) -> str:
        return f"{float(self.sparsity)!r} of each {self.width} inputs"

    def kept(self, shape: tuple[int, int]) -> int:
        rows, columns = shape
        sizes = [rows * min(self.width, columns - i) for i in range(0, columns, self.width)]
        return sum(max(n - int(n * self.sparsity) - 1, 0) for n in sizes)

    def _best(self, scores: Tensor, near: float) -> tuple[Tensor, float]:
        parts = scores.split(self.width, dim=1)
        return torch.cat([largest(x, self.kept(_shape(x)))[0] for x in parts], dim=1), 0.0


def parse(pattern: str, sparsity: float) -> Pattern:
    """``unstructured`` with a sparsity, or ``N:M``, which has its own.

    Raises:
        ConfigError: neither, or a sparsity outside (0, 1).
    """
    unstructured = Unstructured(sparsity)
    found = re.fullmatch(r"(\d+):(\d+)", str(pattern))
    if found:
        return NM(int(found[1]), int(found[2]))
    if pattern != "unstructured":
        # YAML reads a bare 2:4 as a number to base 60.
        hint = "; in a YAML file write it in quotes" if isinstance(pattern, int) else ""
        raise ConfigError(f"pattern '{pattern}' is neither unstructured nor N:M, such as 2:4{hint}")
    return unstructured


def pattern_of(words: str) -> Pattern:
    """What `str` of a pattern gave: it is what files say of a layer."""
    share, _, rest = words.partition(" of each ")
    if rest.endswith(" inputs"):
        return Blocks(float(share), int(rest.removesuffix(" inputs")))
    if rest:
        return Rows(float(share), truncate=rest.endswith("truncated"))
    return parse(share, 0.5) if ":" in share else Unstructured(float(share))


# ---------------------------------------------------------------------- selection


def largest(scores: Tensor, k: int, near: float = 0.0) -> tuple[Tensor, float]:
    """Bool mask of exactly k entries, the largest (of equal ones the first), and their smallest."""
    if not 0 < k < scores.numel():
        return torch.full(scores.shape, k > 0, dtype=torch.bool, device=scores.device), 0.0
    scores = scores.contiguous()  # a transposed weight's are not
    limit = threshold(scores, k, near)
    mask = scores >= limit
    extra = int(mask.count_nonzero()) - k
    if extra:
        # The last of those that equal the limit go.
        equal = (scores == limit).view(-1).nonzero().view(-1)
        mask.view(-1)[equal[len(equal) - extra :]] = False
    return mask, limit


def threshold(scores: Tensor, k: int, near: float = 0.0) -> float:
    """The k-th largest score, by selection and without sorting.

    With a guess ``near`` above 0, only scores close to it are looked at if the answer is among
    them: an iteration's threshold is close to that of the one before.
    """
    flat = scores.reshape(-1)
    if near > 0 and len(flat) >= _WORTHWHILE:
        low, high = near * (1 - _CLOSE), near * (1 + _CLOSE)
        if flat.device.type == "cpu":  # NumPy takes entries by a mask twice as fast
            numbers = flat.numpy()
            above = int(np.count_nonzero(numbers > high))
            inner = torch.from_numpy(numbers[(numbers > low) & (numbers <= high)])
        else:
            above = int((flat > high).count_nonzero())
            inner = flat[(flat > low) & (flat <= high)]
        if above < k <= above + len(inner):
            return _kth_largest(inner, k - above)
    return _kth_largest(flat, k)


def _kth_largest(flat: Tensor, k: int) -> float:
    place = len(flat) - k
    if flat.device.type == "cpu":
        return float(np.partition(flat.numpy(), place)[place])
    return float(flat.kthvalue(place + 1).values)


def _shape(matrix: Tensor) -> tuple[int, int]:
    return (matrix.shape[0], matrix.shape[1])
