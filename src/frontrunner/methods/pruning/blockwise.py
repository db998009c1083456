"""One block after the other: Gram matrices of its inputs, a solution, and on to the next block.

A block is pruned with the inputs that pruned blocks before it give (SparseGPT, Wanda, ALPS); within
a block all layers see one pass with its dense weights. Only the block at hand is on the device.
"""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from frontrunner.errors import DataError
from frontrunner.models.blocks import Call, Decoder, Layer
from frontrunner.sparse.patterns import Pattern
from frontrunner.sparse.store import Models, Pruned, Store
from frontrunner.weights.source import Weights

Norm = Literal["none", "tokens", "trace"]
T = TypeVar("T")
R = TypeVar("R")


class Devices:
    """The devices that a fit may use, in one process; the first collects.

    Args:
        names: of torch devices; one may occur several times.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)

    @property
    def first(self) -> str:
        return self.names[0]

    def map(self, function: Callable[[T, str], R], items: Sequence[T]) -> list[R]:
        """``function(item, device)`` of every item, in order; devices take turns."""
        if len(self.names) == 1:
            return [function(item, self.first) for item in items]
        count = len(self.names)

        def turn(k: int) -> list[R]:  # one after the other: a device has memory for one
            with torch.no_grad():  # which is a setting of each thread
                return [function(item, self.names[k]) for item in items[k::count]]

        with ThreadPoolExecutor(count) as pool:
            parts = list(pool.map(turn, range(count)))
        return [parts[i % count][i // count] for i in range(len(items))]


@dataclass(frozen=True)
class Stream:
    """Calibration data of one objective on their way through one model's pruned blocks."""

    objective: int
    model: int = 0


@dataclass
class Group:
    """Layers of a block that have one input.

    Attributes:
        name: of the first one's weight, less ``.weight``.
        layers: with names.
        dense: Ŵ (d, c) float32 of each layer, by name.
        patterns: of each layer's support, by name.
        grams: XᵀX (c, c) float32 of each stream; none if the method asks for no data.
    """

    name: str
    layers: list[Layer]
    dense: dict[str, Tensor]
    patterns: dict[str, Pattern]
    grams: list[Tensor]


# What a method does with a block: models of each layer, by the name of its weight.
Solve = Callable[[Sequence[Group], Devices], Mapping[str, Models]]


class Blockwise:
    """Goes through the blocks of a decoder.

    Args:
        decoder: dense, on the CPU.
        patterns: of every layer's support, by the name of its weight.
        segments: calibration segments of each objective, token ids (n, W).
        devices: to compute on.
        store: takes each block as it is finished; what it has is not pruned again.
        norm: what Gram matrices are divided by: nothing, the number of ``tokens`` they are sums
            over, or their mean diagonal (``trace``).
        batch: segments per forward pass.
        report: called after every block.

    Attributes:
        seconds: spent on forward passes and Gram matrices, and on solving.
        passes: forward passes of a batch through one block.
    """

    def __init__(
        self,
        decoder: Decoder,
        patterns: Mapping[str, Pattern],
        segments: Sequence[Tensor],
        devices: Devices,
        store: Store,
        norm: Norm = "none",
        batch: int = 8,
        report: Callable[[], None] = lambda: None,
    ) -> None:
        self.decoder, self.patterns, self.devices, self.store = decoder, patterns, devices, store
        self.batches = [list(part.split(batch)) for part in segments]
        self.norm, self.report = norm, report
        self.seconds = {"calibration": 0.0, "solve": 0.0}
        self.passes = 0
        self._started: list[tuple[list[Tensor], list[list[Call]]]] | None = None

    @torch.no_grad()
    def run(
        self,
        number: int,
        anchors: Sequence[int],
        streams: Sequence[Stream],
        solve: Solve,
        keep_grams: bool = False,
    ) -> None:
        """One pass, which leaves the decoder's weights as they were.

        Args:
            number: of the pass, in the store.
            anchors: the stored models it makes.
            streams: of data; those of model 0 come first and are the ones whose Gram matrices are
                stored.
            solve: prunes a block.
            keep_grams: whether Gram matrices are stored.

        Raises:
            DataError: weights or Gram matrices that are not finite.
            RunError: a block of an earlier attempt is damaged or of another model, or the disk is
                full.
        """
        total = len(self.decoder)
        self.store.tidy()
        done = [self.store.has(number, b) for b in range(total)]
        if all(done):
            for _ in range(total):
                self.report()
            return
        if self._started is None:
            _refuse_not_finite(self.decoder.network)
            self._started = [self.decoder.start(batches) for batches in self.batches]
        hidden = {s: list(self._start(s)[0]) for s in streams}
        for b in range(total):
            block = self.decoder.blocks[b]
            dense = {layer.name: layer.weight(block).clone() for layer in self.decoder.layers[b]}
            replicas = self._replicas(b) if streams else []
            if not done[b]:
                self._prune(number, b, anchors, streams, hidden, solve, keep_grams, replicas)
            start = time.perf_counter()
            try:
                # What no later block is pruned with need not be sent on.
                if streams and not all(done[b + 1 :]):
                    self._forward(number, b, anchors, streams, hidden, replicas)
            finally:
                for layer in self.decoder.layers[b]:
                    layer.weight(block).copy_(dense[layer.name])
            self.seconds["calibration"] += time.perf_counter() - start
            self.report()

    def _start(self, stream: Stream) -> tuple[list[Tensor], list[list[Call]]]:
        assert self._started is not None
        return self._started[stream.objective]

    # ------------------------------------------------------------------ one block

    def _prune(
        self,
        number: int,
        b: int,
        anchors: Sequence[int],
        streams: Sequence[Stream],
        hidden: Mapping[Stream, list[Tensor]],
        solve: Solve,
        keep_grams: bool,
        replicas: Sequence[nn.Module],
    ) -> None:
        block, layers = self.decoder.blocks[b], self.decoder.layers[b]
        start = time.perf_counter()
        if streams:
            assert self.decoder.probe is not None
            few, calls = self.decoder.probe
            members = self.decoder.groups(b, few, calls[b])
            sums = [self._grams(b, s, members, hidden[s], replicas) for s in streams]
            _refuse_overflow(members, streams, sums)
        else:
            members, sums = [[layer] for layer in layers], []
        groups = [
            Group(
                name=group[0].name.removesuffix(".weight"),
                layers=group,
                dense={x.name: x.weight(block).float() for x in group},
                patterns={x.name: self.patterns[x.name] for x in group},
                grams=[matrices[g] for matrices in sums],
            )
            for g, group in enumerate(members)
        ]
        middle = time.perf_counter()
        models = solve(groups, self.devices)
        self.seconds["calibration"] += middle - start
        self.seconds["solve"] += time.perf_counter() - middle
        described = [
            Pruned(x.name, g.name, x.shape(block), str(g.patterns[x.name]), x.transposed)
            for g in groups
            for x in g.layers
        ]
        own = sum(stream.model == 0 for stream in streams)
        self.store.add(
            number,
            b,
            anchors,
            described,
            models,
            {x.name: x.weight(block).dtype for x in layers},
            {g.name: g.grams[:own] for g in groups if streams},
            keep_grams,
            len(self.decoder),
        )

    def _grams(
        self,
        b: int,
        stream: Stream,
        members: Sequence[Sequence[Layer]],
        hidden: Sequence[Tensor],
        replicas: Sequence[nn.Module],
    ) -> list[Tensor]:
        """XᵀX of each group of layers, on the first device; batches are divided over devices."""
        calls = self._start(stream)[1]
        count = len(self.devices.names)

        def part(k: int, device: str) -> list[Tensor]:
            block = replicas[k]
            sums: list[Tensor] = [torch.empty(0)] * len(members)
            handles = [
                group[0].module(block).register_forward_pre_hook(_adds(sums, g))
                for g, group in enumerate(members)
            ]
            try:
                for i in range(k, len(hidden), count):
                    calls[i][b].to(device)(block, hidden[i].to(device))
            finally:
                for handle in handles:
                    handle.remove()
            return sums

        self.passes += len(hidden)
        parts = self.devices.map(part, range(min(count, len(hidden))))
        total = parts[0]
        for others in parts[1:]:
            for matrix, other in zip(total, others, strict=True):
                matrix += other.to(matrix.device)
        for matrix in total:
            if self.norm == "tokens":
                matrix /= sum(h.shape[0] * h.shape[1] for h in hidden)
            elif self.norm == "trace":
                matrix /= matrix.diagonal().mean().clamp_min(1e-30)
        return total

    def _forward(
        self,
        number: int,
        b: int,
        anchors: Sequence[int],
        streams: Sequence[Stream],
        hidden: dict[Stream, list[Tensor]],
        replicas: Sequence[nn.Module],
    ) -> None:
        """Send every stream through its model's pruned block."""
        stored = self.store.open(self.store.path(number, b))
        known = {layer.name: layer for layer in stored.layers}
        count = len(self.devices.names)
        for model in sorted({s.model for s in streams}):
            for layer in self.decoder.layers[b]:
                weight = stored.weight(known[layer.name], anchors[model])
                for block in replicas:
                    layer.weight(block).copy_(weight)
            own = [s for s in streams if s.model == model]

            def part(k: int, device: str, own: Sequence[Stream] = own) -> None:
                block = replicas[k]
                for s in own:
                    calls = self._start(s)[1]
                    for i in range(k, len(hidden[s]), count):
                        out = calls[i][b].to(device)(block, hidden[s][i].to(device))
                        hidden[s][i] = out.to(hidden[s][i].device)

            self.passes += sum(len(hidden[s]) for s in own)
            self.devices.map(part, range(count))

    def _replicas(self, b: int) -> list[nn.Module]:
        """The block on each device: itself on a CPU that is the only one, else a copy."""
        block = self.decoder.blocks[b]
        if self.devices.names == ["cpu"]:
            return [block]
        return [copy.deepcopy(block).to(name) for name in self.devices.names]


def source(weights: Weights, template: Path | None, segments: Sequence[Tensor]) -> str:
    """16 hex digits of a dense model, its ``config.json`` and calibration segments: what blocks are
    pruned from."""
    h = hashlib.sha256(weights.digest().encode())
    if template is not None:
        h.update((template / "config.json").read_bytes())
    for ids in segments:
        h.update(f"{tuple(ids.shape)}".encode())
        h.update(ids.contiguous().numpy().tobytes())
    return h.hexdigest()[:16]


def _refuse_not_finite(network: nn.Module) -> None:
    for name, tensor in network.named_parameters():
        if not bool(tensor.isfinite().all()):
            raise DataError(f"'{name}' of the dense model holds NaN or infinity; mend the model")


def _refuse_overflow(
    members: Sequence[Sequence[Layer]], streams: Sequence[Stream], sums: Sequence[Sequence[Tensor]]
) -> None:
    for stream, matrices in zip(streams, sums, strict=True):
        for group, matrix in zip(members, matrices, strict=True):
            if not bool(matrix.isfinite().all()):
                raise DataError(
                    f"the Gram matrix of {group[0].name} on objective {stream.objective + 1} has "
                    "NaN or infinity: the model's activations overflow; try model.dtype=float32"
                )


def _adds(sums: list[Tensor], g: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].detach().flatten(0, -2).float()
        if not sums[g].numel():
            sums[g] = torch.zeros(x.shape[1], x.shape[1], device=x.device)
        sums[g].addmm_(x.mT, x)

    return hook
