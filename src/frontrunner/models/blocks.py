"""A decoder as a sequence of blocks, and the linear layers in each: nothing here knows a model's
name. Blocks are the items of the list of modules that holds most weights of linear layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from frontrunner.errors import ConfigError


@dataclass(frozen=True)
class Layer:
    """A linear layer of a block.

    Attributes:
        name: of its weight, as a checkpoint has it.
        path: of the module within its block.
        transposed: whether the weight is stored as (inputs, outputs), as GPT-2's are.
    """

    name: str
    path: str
    transposed: bool = False

    def module(self, block: nn.Module) -> nn.Module:
        """The module in a block, or in a copy of it."""
        return block.get_submodule(self.path)

    def weight(self, block: nn.Module) -> Tensor:
        """(d, c), d outputs and c inputs; a view of the parameter."""
        stored = self.module(block).weight
        assert isinstance(stored, Tensor)
        return stored.detach().mT if self.transposed else stored.detach()

    def shape(self, block: nn.Module) -> tuple[int, int]:
        d, c = self.weight(block).shape
        return d, c


@dataclass(frozen=True)
class Call:
    """With what a model calls one of its blocks, beside the hidden states."""

    arguments: tuple[Any, ...]
    named: Mapping[str, Any]

    def __call__(self, block: nn.Module, hidden: Tensor) -> Tensor:
        output = block(hidden, *self.arguments, **self.named)
        result = output[0] if isinstance(output, tuple) else output
        assert isinstance(result, Tensor)
        return result

    def to(self, device: torch.device | str) -> Call:
        return Call(_moved(self.arguments, device), _moved(dict(self.named), device))


_PROBE = 16  # tokens


class Decoder:
    """The blocks of a network and their linear layers.

    Args:
        network: called with token ids (B, W).

    Attributes:
        blocks: in the order they are called in.
        layers: of each block.
        probe: a few tokens on their way into the first block and what every block is called with
            beside them, from the first `start` on: enough to see which layers share an input.

    Raises:
        ConfigError: no blocks with linear layers, mixture-of-experts blocks, or a linear layer that
            shares its weight with another module; the module is named.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        name, found = _longest(network)
        self.name, self.blocks = name, list(found)
        self.layers = [list(_layers(block, f"{name}.{b}")) for b, block in enumerate(self.blocks)]
        self.probe: tuple[Tensor, list[Call]] | None = None
        self._returns_tuple: bool | None = None
        _refuse_experts(self)
        _refuse_shared(self)

    def __len__(self) -> int:
        return len(self.blocks)

    def shapes(self) -> dict[str, tuple[int, int]]:
        """(d, c) of every layer, by the name of its weight."""
        return {
            layer.name: layer.shape(block)
            for block, layers in zip(self.blocks, self.layers, strict=True)
            for layer in layers
        }

    @torch.no_grad()
    def start(self, batches: Sequence[Tensor]) -> tuple[list[Tensor], list[list[Call]]]:
        """What the first block is called with, without computing any block.

        Args:
            batches: token ids (B, W) each.

        Returns:
            Hidden states (B, W, width) of each batch, and for each batch what every block is called
            with beside them.

        Raises:
            ConfigError: blocks that are not called one after the other.
        """
        if self.probe is None and batches:
            self.probe = self._record(batches[0][:1, :_PROBE])
        hidden: list[Tensor] = []
        calls: list[list[Call]] = []
        for batch in batches:
            first, now = self._record(batch)
            hidden.append(first)
            # Masks and position embeddings are the same for batches of one shape.
            calls.append(
                [_share(c, p) for c, p in zip(now, calls[0], strict=True)] if calls else now
            )
        return hidden, calls

    def _record(self, batch: Tensor) -> tuple[Tensor, list[Call]]:
        seen: list[tuple[Tensor, Call]] = []
        with _recorded(self.blocks, seen, self._returns_tuple) as answer:
            with suppress(_Done):
                self.network(batch)
            self._returns_tuple = answer()
        if len(seen) != len(self.blocks):
            raise ConfigError(
                f"{len(seen)} of the {len(self.blocks)} blocks of {self.name} are called on a "
                "batch of text, and not each once and in order: they cannot be pruned here"
            )
        return seen[0][0], [call for _, call in seen]

    def groups(self, b: int, hidden: Tensor, call: Call) -> list[list[Layer]]:
        """The layers of block b, those that are called with one and the same tensor together."""
        block, seen = self.blocks[b], []

        def hook(layer: Layer) -> Callable[..., None]:
            def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
                seen.append((layer, inputs[0]))

            return note

        handles = [
            layer.module(block).register_forward_pre_hook(hook(layer)) for layer in self.layers[b]
        ]
        try:
            with torch.no_grad():
                call(block, hidden)
        finally:
            for handle in handles:
                handle.remove()
        groups: list[tuple[Tensor, list[Layer]]] = []
        for layer, given in seen:
            for tensor, members in groups:
                if tensor is given:
                    members.append(layer)
                    break
            else:
                groups.append((given, [layer]))
        called = [layer for layer, _ in seen]
        if len(called) != len(self.layers[b]) or len({c.name for c in called}) != len(called):
            odd = next((x for x in self.layers[b] if called.count(x) != 1), called[0])
            raise ConfigError(
                f"{odd.name} is called {called.count(odd)} times in one pass through its block; "
                "only layers that are called once can be pruned"
            )
        return [members for _, members in groups]


# ---------------------------------------------------------------------- finding


def _longest(network: nn.Module) -> tuple[str, nn.ModuleList]:
    best: tuple[int, str, nn.ModuleList] | None = None
    for name, module in network.named_modules():
        if isinstance(module, nn.ModuleList) and len(module):
            size = sum(
                math.prod(layer.shape(block)) for block in module for layer in _layers(block, "")
            )
            if size and (best is None or size > best[0]):
                best = (size, name, module)
    if best is None:
        raise ConfigError(
            f"{type(network).__name__} has no list of blocks with linear layers: nothing to prune"
        )
    return best[1], best[2]


def _layers(block: nn.Module, prefix: str) -> Iterator[Layer]:
    for path, module in block.named_modules():
        kind = type(module).__name__
        if isinstance(module, nn.Linear) or kind == "Conv1D":
            name = ".".join(part for part in (prefix, path, "weight") if part)
            yield Layer(name, path, kind == "Conv1D")


def _refuse_experts(decoder: Decoder) -> None:
    for b, block in enumerate(decoder.blocks):
        for path, module in block.named_modules():
            own = module.named_parameters(recurse=False)
            several = [p for _, p in own if p.dim() == 3 and not isinstance(module, nn.Conv1d)]
            listed = isinstance(module, nn.ModuleList) and len(module) > 1
            if several or (listed and any(True for _ in _layers(module, ""))):
                raise ConfigError(
                    f"{decoder.name}.{b}.{path} holds a stack of layers, as a mixture of experts "
                    "does; such blocks cannot be pruned here"
                )


def _refuse_shared(decoder: Decoder) -> None:
    owners: dict[int, str] = {}
    for name, parameter in decoder.network.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), name)
    for block, layers in zip(decoder.blocks, decoder.layers, strict=True):
        for layer in layers:
            owner = owners[id(layer.module(block).weight)]
            if owner != layer.name:
                raise ConfigError(
                    f"{layer.name} is tied to {owner}: pruning one would prune the other"
                )


# ---------------------------------------------------------------------- recording


class _Done(Exception):
    """Raised in the last block: what follows the blocks is not wanted."""


@contextmanager
def _recorded(
    blocks: Sequence[nn.Module], seen: list[tuple[Tensor, Call]], returns_tuple: bool | None
) -> Iterator[Callable[[], bool]]:
    """Blocks that note what they are called with and return their hidden states as they are.

    The first is computed once, unless it is known whether blocks return a tuple.
    """
    known = returns_tuple

    def recorder(block: nn.Module, last: bool) -> Callable[..., Any]:
        original = block.forward

        def forward(*arguments: Any, **named: Any) -> Any:
            nonlocal known
            if arguments:
                hidden, rest, others = arguments[0], arguments[1:], named
            else:
                others = dict(named)
                hidden, rest = others.pop("hidden_states"), ()
            seen.append((hidden, Call(rest, others)))
            if last:
                raise _Done
            if known is None:
                known = isinstance(original(*arguments, **named), tuple)
            return (hidden,) if known else hidden

        return forward

    for b, block in enumerate(blocks):
        block.forward = recorder(block, b == len(blocks) - 1)
    try:
        yield lambda: bool(known)
    finally:
        for block in blocks:
            del block.forward


def _share(call: Call, like: Call) -> Call:
    """The same call, with the tensors of another where they are equal."""
    return Call(_shared(call.arguments, like.arguments), _shared(dict(call.named), like.named))


def _shared(value: Any, like: Any) -> Any:
    if isinstance(value, Tensor):
        same = isinstance(like, Tensor) and value.shape == like.shape and torch.equal(value, like)
        return like if same else value
    if isinstance(value, tuple | list) and type(value) is type(like) and len(value) == len(like):
        return type(value)(_shared(v, w) for v, w in zip(value, like, strict=True))
    if isinstance(value, dict) and isinstance(like, dict):
        return {k: _shared(v, like.get(k)) for k, v in value.items()}
    return value


def _moved(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple | list):
        return type(value)(_moved(v, device) for v in value)
    if isinstance(value, dict):
        return {k: _moved(v, device) for k, v in value.items()}
    return value
