"""SparseGPT (Frantar & Alistarh, ICML 2023): column by column, each error made good by the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from frontrunner.errors import ConfigError, DataError
from frontrunner.methods.base import choice, positive, whole
from frontrunner.methods.pruning.base import Pruner
from frontrunner.methods.pruning.blockwise import Group
from frontrunner.sparse.patterns import NM, Blocks, Pattern, Unstructured, largest
from frontrunner.sparse.quadratic import Quadratic
from frontrunner.sparse.store import Models


class SparseGPT(Pruner):
    """Supports are chosen for ``block`` inputs at a time, by (w / [U]_jj)² of the upper Cholesky
    factor U of H⁻¹; what an input's weights lose is moved to those after it.

    Args:
        block: inputs whose support is chosen together.
        damping: ridge, as a share of the mean diagonal.
        rounding: ``exact`` prunes as many entries of a layer as the sparsity says; ``truncate``
            ⌊n · sparsity⌋ + 1 of each block's n, as the published code does.

    See `Pruner` for the others.
    """

    def __init__(
        self,
        points: int,
        block: int = 128,
        damping: float = 0.01,
        rounding: Literal["exact", "truncate"] = "exact",
        **shared: Any,
    ) -> None:
        self.block = whole("method.block", block)
        self.rounding = choice("method.rounding", rounding, ("exact", "truncate"))
        super().__init__(points, **shared)
        self.damping = positive("method.damping", damping, zero=True)

    def parse(self, pattern: str, sparsity: float) -> Pattern:
        found = super().parse(pattern, sparsity)
        if isinstance(found, NM) and self.block % found.m:
            raise ConfigError(f"method.block={self.block} must be a multiple of M of {found}")
        if isinstance(found, Unstructured) and self.rounding == "truncate":
            return Blocks(found.sparsity, self.block)
        return found

    def switches(self) -> dict[str, Any]:
        return {**super().switches(), "rounding": self.rounding, "damping": self.damping}

    def solve(self, group: Group, gram: Tensor | None, device: str) -> Mapping[str, Models]:
        assert gram is not None
        problem = Quadratic(
            gram, self.damping, scaled=False, what=f"the Gram matrix of {group.name}"
        )
        dead = gram.diagonal() <= 0
        factor = upper_factor(problem, dead)
        found = {}
        for name, dense in group.dense.items():
            weight = dense.to(device).masked_fill(dead, 0.0)
            pruned, support = sweep(weight, factor, group.patterns[name], self.block)
            found[name] = Models([pruned], [support])
        return found


def upper_factor(problem: Quadratic, dead: Tensor) -> Tensor:
    """U (c, c) upper triangular with UᵀU = H⁻¹; ``dead`` (c,) inputs are always zero.

    Raises:
        DataError: H is singular, or so close to it that its inverse has no factor.
    """
    problem.matrix.diagonal()[dead] = 1.0
    factor, info = torch.linalg.cholesky_ex(problem.inverse(), upper=True)
    if int(info):
        raise DataError(
            f"{problem.what} is too close to singular (at row {int(info)}): give more calibration "
            "text or a larger method.damping"
        )
    return factor


def sweep(dense: Tensor, factor: Tensor, pattern: Pattern, block: int) -> tuple[Tensor, Tensor]:
    """Prune a weight (d, c), from the first input to the last; returns it and its support.

    Args:
        dense: Ŵ.
        factor: U, see `upper_factor`.
        pattern: unstructured, by blocks of as many inputs, or N:M.
        block: inputs whose support is chosen together.
    """
    weight = dense.clone()
    rows, columns = weight.shape
    support = torch.ones_like(weight, dtype=torch.bool)
    removed = weight.numel() - pattern.kept((rows, columns))
    gone = 0
    for start in range(0, columns, block):
        end = min(start + block, columns)
        part, own = weight[:, start:end].clone(), factor[start:end, start:end]
        errors = torch.zeros_like(part)
        mask = torch.ones_like(part, dtype=torch.bool)
        if not isinstance(pattern, NM):
            scores = (part / own.diagonal()) ** 2
            # So many up to the end of this block that the last one ends with all of them.
            quota = removed * end // columns - gone
            if isinstance(pattern, Blocks):
                quota = part.numel() - pattern.kept((rows, end - start))
            mask, _ = largest(scores, part.numel() - quota)
            gone += quota
        for i in range(end - start):
            if isinstance(pattern, NM) and i % pattern.m == 0:
                until = i + pattern.m
                scores = (part[:, i:until] / own.diagonal()[i:until]) ** 2
                mask[:, i:until], _ = pattern.select(scores)
            column = part[:, i]
            kept = column * mask[:, i]
            error = (column - kept) / own[i, i]
            part[:, i:] -= torch.outer(error, own[i, i:])
            part[:, i] = kept
            errors[:, i] = error
        weight[:, start:end] = part
        support[:, start:end] = mask
        weight[:, end:] -= errors @ factor[start:end, end:]
    return weight * support, support
