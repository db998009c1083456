"""Training small experts for embedded tasks, once: what was trained is kept, by content."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import AdamW

from frontrunner import files
from frontrunner.errors import ConfigError
from frontrunner.front.text import duration
from frontrunner.seeds import derive, generator
from frontrunner.weights.networks import named_state
from frontrunner.weights.source import digest_of

_FORMAT = 1  # changes with what training does, so that older files are not found
_ASKED = 8  # samples of each objective
_HEARD, _LONG = 5.0, 20.0  # seconds after which `paced` speaks, if at least so many are left


@dataclass(frozen=True)
class Recipe:
    """Supervised training of one network with AdamW, its rate falling to 0 along a cosine.

    Attributes:
        steps: mini-batches.
        batch_size: samples per mini-batch.
        learning_rate: at the start.
        weight_decay: of AdamW.
    """

    steps: int
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1 or self.learning_rate <= 0:
            raise ConfigError(f"an expert's training needs positive numbers, not {self}")


def trained(
    network: nn.Module, data: list[tuple[Tensor, Tensor, int]], recipe: Recipe, seed: int, what: str
) -> dict[str, Tensor]:
    """The state of ``network`` after training, from the cache if the same was trained before.

    The key is the content: initial weights, what the network answers with them (two networks of the
    same weights may differ in their numbers of heads or their activations), data, recipe, seed and
    the version of torch. Training is deterministic and runs on one thread.

    Args:
        network: ``forward(inputs, k)``; left trained, in evaluation mode.
        data: (inputs, labels, k) per objective that it is trained on.
        recipe: how long and how fast.
        seed: of the order of the data.
        what: what messages call it.
    """
    state = named_state(network.eval())
    with one_thread(), torch.no_grad():
        answers = [(f"{k}", network(x[:_ASKED], k)) for x, _, k in data]
    parts = [
        digest_of(state.items()),
        digest_of(answers),
        *(digest_of([("x", x), ("y", y)]) + str(k) for x, y, k in data),
        json.dumps(asdict(recipe), sort_keys=True),
        f"{seed} {_FORMAT} {torch.__version__} {network}",
    ]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]
    path = files.cache_dir() / "experts" / f"{key}.safetensors"
    found = _read(path)
    if found is None:
        print(f"training {what} once ({recipe.steps} steps)", file=sys.stderr, flush=True)
        with one_thread():
            train(network, data, recipe, seed)
        found = {name: t.detach().clone() for name, t in state.items()}
        _write(path, found)
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.copy_(found[name])
    return found


def train(
    network: nn.Module,
    data: list[tuple[Tensor, Tensor, int]],
    recipe: Recipe,
    seed: int,
    loss_of: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
) -> None:
    """Train a network in place, on the sum of its losses over the objectives.

    Args:
        network: ``forward(inputs, k)``; left in evaluation mode.
        data: (inputs, labels, k) per objective that it is trained on.
        recipe: how long and how fast.
        seed: of the order of the data.
        loss_of: (outputs, labels) -> mean loss, a scalar.
    """
    network.train()
    optimizer = AdamW(
        network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps)
    source = generator(seed, "expert")
    with own_stream(seed, "dropout"):
        for _ in paced(recipe.steps):
            loss = torch.zeros(())
            for x, y, k in data:
                picked = torch.randint(len(x), (recipe.batch_size,), generator=source)
                loss = loss + loss_of(network(x[picked], k), y[picked])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()


def paced(steps: int) -> Iterator[int]:
    """0, 1, …, ``steps`` - 1; where these take long, it says how long soon after the start."""
    began, told = time.monotonic(), False
    for step in range(steps):
        yield step
        spent = time.monotonic() - began
        if not told and spent > _HEARD:
            told = True
            left = spent / (step + 1) * (steps - step - 1)
            if left > _LONG:
                print(f"  that takes about {duration(left)} more", file=sys.stderr, flush=True)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Small networks are faster on one thread, and their sums then have one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def own_stream(seed: int, *keys: int | str) -> Iterator[None]:
    """Initial weights and dropout draw from this stream inside; the global one is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, *keys))
        yield


def _read(path: Path) -> dict[str, Tensor] | None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(str(path))
    except (OSError, SafetensorError):
        return None  # absent or damaged: train (again)


def _write(path: Path, tensors: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    with files.atomic_path(path) as temporary:
        save_file({k: t.contiguous() for k, t in tensors.items()}, temporary)
