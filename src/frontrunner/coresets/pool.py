"""The samples there are to choose from, and what the present network's last layers say of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map

from frontrunner.coresets.gradients import LastLayer, joined
from frontrunner.errors import ConfigError, DivergenceError, nearest

Batch = tuple[Any, ...]


def find_heads(network: nn.Module, inputs: Any, names: Sequence[str] | None = None) -> list[str]:
    """Names of the last linear layers: those whose outputs the network returns, else the one that
    runs last.

    Args:
        network: is run once on ``inputs``, in evaluation mode.
        names: the user's choice, which is only checked.

    Raises:
        ConfigError: there is no linear layer, or none of that name.
    """
    linear = {n: x for n, x in network.named_modules() if isinstance(x, nn.Linear)}
    if names is not None:
        for name in names:
            if name not in linear:
                raise ConfigError(
                    f"the network has no linear layer '{name}'{nearest(name, linear)}"
                )
        return list(names)
    ran: list[tuple[str, Tensor]] = []
    hooks = [
        layer.register_forward_hook(lambda _m, _i, out, name=name: ran.append((name, out)))
        for name, layer in linear.items()
    ]
    try:
        with torch.no_grad(), evaluating(network):
            returned = _tensors(network(inputs))
    finally:
        for hook in hooks:
            hook.remove()
    found = [name for name, out in ran if any(out is other for other in returned)]
    if not found and ran:
        found = [ran[-1][0]]
    if not found:
        raise ConfigError(
            "the network has no linear layer that can be taken for its last one: coresets are "
            "chosen by last-layer gradients"
        )
    return found


def _tensors(outputs: Any) -> list[Tensor]:
    if isinstance(outputs, Tensor):
        return [outputs]
    values = list(outputs.values()) if isinstance(outputs, Mapping) else outputs
    return [t for v in values for t in _tensors(v)] if isinstance(values, list | tuple) else []


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """The network in evaluation mode, its modules' own modes afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


class Pool:
    """n samples, a network and a loss.

    Args:
        network: called with a batch's inputs; in evaluation mode while it is looked at.
        fetch: indices -> batch, a tuple or list of tensors, on any device.
        size: n.
        losses: (outputs, batch) -> (m,), means over the batch, differentiable in the outputs.
        device: where the network is.
        heads: names of the last linear layers; None finds them.
        batch_size: samples in one forward pass.
        validation: the same of the validation samples, for methods that look at them.
        share: (rank, world, gather) of several processes: each looks at its share of the samples,
            and ``gather`` gives all of them the others' tensors in the order of ranks.

    Attributes:
        passes: samples that the network was run on, by all processes together.
        columns: of labels, once `classes` was asked for.
    """

    def __init__(
        self,
        network: nn.Module,
        fetch: Callable[[Sequence[int]], Sequence[Any]],
        size: int,
        losses: Callable[[Any, Batch], Tensor],
        *,
        device: torch.device | str = "cpu",
        heads: Sequence[str] | None = None,
        batch_size: int = 256,
        validation: Pool | None = None,
        share: tuple[int, int, Callable[[Tensor], list[Tensor]]] | None = None,
    ) -> None:
        self.network, self.fetch, self.size, self.losses = network, fetch, size, losses
        self.device, self.batch_size = torch.device(device), batch_size
        self.validation, self.share = validation, share
        self._names, self._heads = heads, list[str]()
        self._classes: Tensor | None = None
        self.columns = 0
        self.passes = 0

    @property
    def heads(self) -> list[str]:
        """Names of the last linear layers."""
        if not self._heads:
            self._heads = find_heads(self.network, self._batch([0])[0], self._names)
        return self._heads

    def last_layer(self, indices: Tensor | None = None) -> LastLayer:
        """Features and residuals of these samples, or of all, at the network's present weights.

        Raises:
            ConfigError: the last layers are not run once, on one vector for each sample.
            DivergenceError: a feature or residual is not finite.
        """
        rows = torch.arange(self.size) if indices is None else indices.cpu()
        self.passes += len(rows)
        alone = self.share is None or len(rows) < self.share[1]
        found = self._look(rows) if alone else self._look_together(rows)
        # Only now: an error of one process alone would leave the others waiting for it.
        self.finite(found)
        return found

    @staticmethod
    def finite(seen: LastLayer) -> None:
        """Raise DivergenceError where a feature or residual is not finite."""
        if not all(seen.objective(j).finite for j in range(seen.m)):
            raise DivergenceError("gradients of the last layer are not finite: training diverged")

    def agreed(self, values: Tensor) -> Tensor:
        """The first process's values, in all of them: devices may round differently."""
        if self.share is None:
            return values
        return self.share[2](values.to(self.device))[0].to(values.device)

    def gathered(self, seen: LastLayer, weights: Tensor) -> tuple[LastLayer, Tensor]:
        """What each process saw of samples of its own, with their weights (n,), as one."""
        if self.share is None:
            return seen, weights
        gather = self.share[2]

        def whole(tensor: Tensor) -> Tensor:
            return torch.cat(gather(tensor))

        counts = [len(part) for part in gather(weights)]
        parts = zip(counts, gather(seen.losses), strict=True)
        losses = torch.stack([n * loss for n, loss in parts]).sum(0) / sum(counts)
        together = LastLayer(
            tuple(whole(h) for h in seen.features),
            tuple(tuple(whole(r) for r in layers) for layers in seen.residuals),
            losses,
        )
        return together, whole(weights)

    def _look_together(self, rows: Tensor) -> LastLayer:
        assert self.share is not None
        rank, world, gather = self.share
        own = self._look(rows[rank::world])
        order = torch.cat([torch.arange(r, len(rows), world) for r in range(world)])
        back = torch.empty_like(order)
        back[order] = torch.arange(len(rows))

        def whole(tensor: Tensor) -> Tensor:
            return torch.cat(gather(tensor))[back.to(tensor.device)]

        counts = [len(range(r, len(rows), world)) for r in range(world)]
        parts = zip(counts, gather(own.losses), strict=True)
        losses = torch.stack([n * loss for n, loss in parts]).sum(0) / len(rows)
        return LastLayer(
            tuple(whole(h) for h in own.features),
            tuple(tuple(whole(r) for r in layers) for layers in own.residuals),
            losses,
        )

    def among(self, indices: Tensor) -> Pool:
        """These samples alone, as a pool."""
        rows = indices.tolist()
        part = Pool(
            self.network,
            lambda positions: self.fetch([rows[i] for i in positions]),
            len(rows),
            self.losses,
            device=self.device,
            heads=self.heads,
            batch_size=self.batch_size,
            validation=self.validation,
            share=self.share,
        )
        if self._classes is not None:
            part._classes = torch.unique(self._classes[indices], return_inverse=True)[1]
        return part

    def classes(self, indices: Tensor | None = None) -> Tensor:
        """(n,) number of each sample's class: of its combination of labels, if it has several.

        Raises:
            ConfigError: a batch has no tensor of whole numbers beside its inputs.
        """
        if self._classes is None:
            labels: list[Tensor] = []
            for start in range(0, self.size, 4096):
                batch = self.fetch(range(start, min(start + 4096, self.size)))
                columns = [
                    t.long().cpu()
                    for t in batch[1:]
                    if isinstance(t, Tensor) and t.ndim == 1 and not t.is_floating_point()
                ]
                if not columns:
                    raise ConfigError(
                        "this selection needs labels of whole numbers, to choose class by class; "
                        "variant=per_batch of GradMatch does without"
                    )
                labels.append(torch.stack(columns, dim=1))
            self.columns = labels[0].shape[1]
            self._classes = torch.unique(torch.cat(labels), dim=0, return_inverse=True)[1]
        return self._classes if indices is None else self._classes[indices]

    @property
    def layers(self) -> list[nn.Linear]:
        """The last linear layers."""
        found = [self.network.get_submodule(name) for name in self.heads]
        return [layer for layer in found if isinstance(layer, nn.Linear)]

    def _batch(self, indices: Sequence[int]) -> Batch:
        batch = self.fetch(indices)
        if not isinstance(batch, list | tuple):
            raise ConfigError(
                f"a batch of type {type(batch).__name__}: coresets need a tuple or list, the "
                "network's input first"
            )
        return tuple(tree_map(lambda t: t.to(self.device) if isinstance(t, Tensor) else t, batch))

    def _look(self, rows: Tensor) -> LastLayer:
        layers = self.layers
        seen: list[tuple[nn.Module, Tensor, Tensor]] = []

        def record(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            # From here on there is something to differentiate by, and nothing before it.
            leaf = output.detach().requires_grad_()
            seen.append((layer, inputs[0].detach(), leaf))
            return leaf

        hooks = [layer.register_forward_hook(record) for layer in layers]
        frozen = {n: t.detach() for n, t in self.network.named_parameters()}
        parts = []
        try:
            with evaluating(self.network), torch.enable_grad():
                for chunk in rows.split(self.batch_size):
                    batch = self._batch(chunk.tolist())
                    seen.clear()
                    outputs = functional_call(self.network, frozen, (batch[0],))
                    runs = [[run for run in seen if run[0] is layer] for layer in layers]
                    parts.append(self.factors(len(chunk), outputs, batch, runs))
        finally:
            for hook in hooks:
                hook.remove()
        return joined(parts)

    def factors(
        self,
        n: int,
        outputs: Any,
        batch: Batch,
        runs: Sequence[Sequence[tuple[nn.Module, Tensor, Tensor]]],
        keep: bool = False,
    ) -> LastLayer:
        """Factors of n samples from what each last layer was seen to take and give; ``keep`` leaves
        the graph for others to differentiate."""
        features, leaves = [], []
        for name, one in zip(self.heads, runs, strict=True):
            if len(one) != 1:
                raise ConfigError(
                    f"the last linear layer '{name}' runs {len(one)} times in a pass: coresets "
                    "need one that runs once; name another as the head"
                )
            layer, inputs, leaf = one[0]
            if inputs.ndim != 2 or len(inputs) != n:
                raise ConfigError(
                    f"the last linear layer '{name}' has inputs of shape {tuple(inputs.shape)} for "
                    f"{n} samples: coresets need one vector for each sample"
                )
            bias = [inputs.new_ones(n, 1)] if layer.bias is not None else []
            features.append(_wide(torch.cat([inputs, *bias], dim=1)))
            leaves.append(leaf)
        losses = self.losses(outputs, batch).reshape(-1)
        residuals = []
        for j, loss in enumerate(losses):
            more = keep or j + 1 < len(losses)
            grads = torch.autograd.grad(loss, leaves, retain_graph=more, allow_unused=True)
            # A batch's loss is a mean: a sample's own derivative is n times its share.
            residuals.append(
                tuple(
                    _wide(torch.zeros_like(leaf) if g is None else n * g)
                    for leaf, g in zip(leaves, grads, strict=True)
                )
            )
        return LastLayer(tuple(features), tuple(residuals), _wide(losses.detach()))


def _wide(tensor: Tensor) -> Tensor:
    """At least single precision: selections add up many small numbers."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
