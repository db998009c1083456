"""A Pareto set: preference -> weights, stored as safetensors and JSON."""

from __future__ import annotations

import hashlib
import importlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from frontrunner import files
from frontrunner.errors import FrontError, RunError
from frontrunner.preferences import Kind, validate
from frontrunner.tasks.base import Task
from frontrunner.weights.networks import named_state

SCHEMA_VERSION = 1
WEIGHTS = "weights.safetensors"


class ParetoSet(ABC):
    """What a method returns.

    Attributes:
        preferences: (n, m) on the simplex; the preferences that make up the front.
        preference_kind: how a preference is read, see `frontrunner.preferences`.
    """

    def __init__(self, preferences: ArrayLike, preference_kind: Kind) -> None:
        p = np.atleast_2d(np.asarray(preferences, dtype=np.float64))
        self.preferences: NDArray[np.float64] = validate(p, p.shape[-1])
        self.preference_kind: Kind = preference_kind

    @property
    def m(self) -> int:
        """Number of objectives."""
        return int(self.preferences.shape[1])

    @abstractmethod
    def materialize(self, preference: ArrayLike) -> nn.Module:
        """The network for a preference (m,).

        It shares its storage with the set: it is valid until the next call, and costs no copy of
        the model.

        Raises:
            FrontError: the preference is not on the simplex, or this set has no model for it.
        """

    def cost_of(self, preference: ArrayLike) -> Mapping[str, float]:
        """What the model for a preference took to make, where models differ in it: ``share`` of the
        cost of training on all data, ``seconds``, and whatever else was counted.

        Raises:
            FrontError: this set's models have no cost of their own.
        """
        raise FrontError(f"the models of a {type(self).__name__} have no cost of their own")

    def state(self, preference: ArrayLike) -> Iterator[tuple[str, Tensor]]:
        """The weights for a preference, tensor by tensor, under the names a checkpoint has."""
        yield from self.materialize(preference).state_dict().items()

    def one(self, preference: ArrayLike) -> NDArray[np.float64]:
        """A single preference (m,), validated.

        Raises:
            FrontError: not on the simplex, or several at once.
        """
        p = validate(preference, self.m)
        if p.ndim != 1:
            raise FrontError(f"one preference at a time: shape ({self.m},), not {p.shape}")
        return p

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Everything to store, by name."""

    def options(self) -> dict[str, Any]:
        """Constructor arguments beside the network and the tensors; JSON values only."""
        return {}

    @classmethod
    def restore(
        cls,
        task: Task,
        tensors: dict[str, Tensor],
        preferences: NDArray[np.float64],
        preference_kind: Kind,
        options: dict[str, Any],
    ) -> ParetoSet:
        """Rebuild from what `tensors` and `options` gave."""
        raise NotImplementedError(f"{cls.__name__} has neither restore nor write and read")

    @abstractmethod
    def to(self, device: torch.device | str) -> ParetoSet:
        """Move every tensor; returns the set itself."""

    @property
    def stored_parameters(self) -> int:
        """Numbers that have to be stored to answer any preference."""
        return sum(t.numel() for t in self.tensors().values())

    def facts(self) -> dict[str, Any]:
        """What records and reports say of the set beside its cost; JSON values."""
        return {}

    def digest(self) -> str:
        """16 hex digits that identify weights and preferences, for caches and logs of points."""
        h = hashlib.sha256(self.preferences.tobytes())
        for name, tensor in sorted(self.tensors().items()):
            h.update(name.encode())
            flat = tensor.detach().cpu().contiguous().view(-1)
            h.update(flat.view(torch.uint8).numpy().tobytes())
        return h.hexdigest()[:16]

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write the weights and ``pareto_set.json``; the JSON comes last, so that a directory which
        has it is complete.

        Raises:
            RunError: the disk is full; nothing half-written is left.
        """
        folder = Path(directory)
        self.write(folder)
        kind = type(self)
        files.write_json(
            folder / "pareto_set.json",
            {
                "schema_version": SCHEMA_VERSION,
                "type": f"{kind.__module__}.{kind.__qualname__}",
                "digest": self.digest(),
                "preference_kind": self.preference_kind,
                "preferences": self.preferences.tolist(),
                "stored_parameters": self.stored_parameters,
                "options": self.options(),
            },
        )

    def write(self, folder: Path) -> None:
        """Write what `read` needs beside ``pareto_set.json``: ``weights.safetensors``, unless a set
        has files of its own."""
        from safetensors.torch import save_file

        tensors = {k: t.detach().cpu().contiguous() for k, t in self.tensors().items()}
        _write(folder / WEIGHTS, lambda path: save_file(tensors, path))

    @classmethod
    def read(
        cls,
        folder: Path,
        task: Task,
        preferences: NDArray[np.float64],
        preference_kind: Kind,
        options: dict[str, Any],
    ) -> ParetoSet:
        """Rebuild from what `write` wrote, and `options`."""
        from safetensors.torch import load_file

        tensors = load_file(str(folder / WEIGHTS))
        return cls.restore(task, tensors, preferences, preference_kind, options)


def is_complete(directory: str | os.PathLike[str]) -> bool:
    """Whether a Pareto set was saved here to its end."""
    return (Path(directory) / "pareto_set.json").is_file()


def stored_digest(directory: str | os.PathLike[str]) -> str | None:
    """The digest of the Pareto set that was saved here, None if there is none."""
    if not is_complete(directory):
        return None
    return str(files.read_json(Path(directory) / "pareto_set.json").get("digest"))


def load(directory: str | os.PathLike[str], task: Task) -> ParetoSet:
    """Read a Pareto set; the task supplies the network that the weights go into.

    Raises:
        RunError: a file is missing, damaged, of another version, or not of this task's model.
    """
    from safetensors import SafetensorError

    folder = Path(directory)
    meta = files.read_json(folder / "pareto_set.json")
    try:
        if meta["schema_version"] != SCHEMA_VERSION:
            raise RunError(f"{folder}: written by another version of frontrunner")
        module, _, name = meta["type"].rpartition(".")
        kind = getattr(importlib.import_module(module), name)
        if not (isinstance(kind, type) and issubclass(kind, ParetoSet)):
            raise RunError(f"{folder}: {meta['type']} is not a Pareto set")
        restored = kind.read(
            folder,
            task,
            np.array(meta["preferences"], dtype=np.float64),
            meta["preference_kind"],
            meta["options"],
        )
    except (SafetensorError, OSError) as error:
        raise RunError(f"{folder / WEIGHTS} is not readable: {error}") from None
    except (FrontError, KeyError, TypeError, ValueError, ImportError, AttributeError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(f"{folder} does not hold a Pareto set of this task: {first}") from None
    if restored.digest() != meta["digest"]:
        raise RunError(f"{folder}: weights and pareto_set.json do not belong together")
    return restored


def check_state(found: Mapping[str, Sequence[int]], network: nn.Module) -> None:
    """Compare the shapes of stored tensors with those of a network.

    Raises:
        ValueError: a name or a shape differs; the message names the first.
    """
    expected = {name: tuple(t.shape) for name, t in named_state(network).items()}
    stored = {name: tuple(shape) for name, shape in found.items()}
    for name in sorted({*expected, *stored}):
        if expected.get(name) != stored.get(name):
            raise ValueError(
                f"'{name}' has shape {stored.get(name, 'none')} in the file "
                f"and {expected.get(name, 'none')} in the configured model"
            )


def as_own_dtype(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """A forward pre-hook: floating inputs take the precision of the module's weights.

    A set trained in double precision then answers the same data as one trained in single.
    """
    like = next(module.parameters()).dtype

    def cast(x: Any) -> Any:
        return x.to(like) if isinstance(x, Tensor) and x.is_floating_point() else x

    return tuple(cast(x) for x in inputs)


def _write(path: Path, writer: Callable[[str], None]) -> None:
    from safetensors import SafetensorError

    try:
        with files.atomic_path(path) as temporary:
            writer(str(temporary))
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RunError(f"{path} could not be written ({reason}); make room, run again") from error
