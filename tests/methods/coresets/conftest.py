"""Runs of coreset methods that take a fraction of a second."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.fixture(scope="session")
def digits(quiet) -> Callable[..., list[str]]:
    """``digits(method, *more)``: overrides of a small run, on 300 images for up to 9 epochs."""
    small = ("task=digits_full", "task.train=300", "training.steps=90", "training.rounds=3")

    def overrides(method: str, *more: str) -> list[str]:
        return [*small, f"method=coresets/{method}", *quiet, *more]

    return overrides


@pytest.fixture(scope="session")
def two_digits(quiet) -> Callable[..., list[str]]:
    """``two_digits(method, *more)``: the same, of two objectives and three preferences."""
    small = ("task=multi_digits", "task.sizes=[200,50,50]", "training.steps=42", "points=3")
    more_small = ("training.rounds=2", "training.batch_size=32")

    def overrides(method: str, *more: str) -> list[str]:
        return [*small, *more_small, f"method=coresets/{method}", *quiet, *more]

    return overrides
