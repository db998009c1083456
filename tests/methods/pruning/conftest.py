"""Layers with the Gram matrices of correlated inputs, such as networks have."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from frontrunner.methods.pruning.blockwise import Group
from frontrunner.models.blocks import Layer
from frontrunner.sparse.patterns import Pattern


@pytest.fixture(scope="session")
def group() -> Callable[..., Group]:
    """``group(pattern, m, outputs, inputs, seed)``: two layers of one input, and m objectives.

    The objectives' inputs have a part in common and one of their own, and about a tenth of all
    directions have most of the variance.
    """

    def make(
        pattern: Pattern, m: int = 1, outputs: int = 24, inputs: int = 48, seed: int = 0
    ) -> Group:
        stream = torch.Generator().manual_seed(seed)

        def mixing() -> torch.Tensor:
            turn = torch.linalg.qr(torch.randn(inputs, inputs, generator=stream))[0]
            sizes = torch.logspace(0, -2, inputs) * torch.linspace(0.5, 2, inputs).flip(0)
            return sizes[:, None] * turn

        common, grams = mixing(), []
        for _ in range(m):
            x = torch.randn(400, inputs, generator=stream) @ (common + mixing())
            grams.append(x.mT @ x)
        names = ["first.weight", "second.weight"]
        dense = {name: torch.randn(outputs, inputs, generator=stream) / 7 for name in names}
        layers = [Layer(name, name.removesuffix(".weight")) for name in names]
        return Group("first", layers, dense, dict.fromkeys(names, pattern), grams)

    return make
