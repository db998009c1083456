"""Blobs of points, a small network and the pool of them; threads that stand for processes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from frontrunner.coresets.pool import Pool


def draw_blobs(n: int, classes: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    angles = 6.283 * labels / classes
    centres = 2.0 * torch.stack([angles.cos(), angles.sin()], dim=1)
    return centres + 0.8 * torch.randn(n, 2, generator=stream), labels


def losses_of(outputs: Any, batch: Any) -> Tensor:
    return cross_entropy(outputs, batch[1]).reshape(1)


@pytest.fixture(scope="session")
def blobs() -> Callable[..., Pool]:
    """``blobs(n, classes, seed, **options)``: a pool of n points in the plane, class by class in
    turn, and of a network with one hidden layer."""

    def make(n: int = 60, classes: int = 3, seed: int = 0, **options: Any) -> Pool:
        x, y = draw_blobs(n, classes, seed)
        torch.manual_seed(seed)
        network = options.pop("network", None)
        if network is None:
            network = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, classes))
        losses = options.pop("losses", losses_of)
        return Pool(network, lambda i: (x[list(i)], y[list(i)]), n, losses, **options)

    return make


@pytest.fixture(scope="session")
def together() -> Callable[..., list[Any]]:
    """``together(world, work)``: what ``work(share)`` returns, or raises, in threads that stand for
    ``world`` processes. One that waits for another in vain raises BrokenBarrierError."""

    def run(world: int, work: Callable[[Any], Any]) -> list[Any]:
        barrier, slots = threading.Barrier(world, timeout=5.0), [torch.empty(0)] * world

        def one(rank: int) -> Any:
            def gather(tensor: Tensor) -> list[Tensor]:
                slots[rank] = tensor
                barrier.wait()
                parts = list(slots)
                barrier.wait()
                return parts

            try:
                return work((rank, world, gather))
            except Exception as error:
                return error

        with ThreadPoolExecutor(world) as threads:
            return list(threads.map(one, range(world)))

    return run
