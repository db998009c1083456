"""Last-layer gradients that training computes anyway, without a forward pass for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from frontrunner.coresets.gradients import LastLayer, joined
from frontrunner.coresets.pool import Pool
from frontrunner.errors import ConfigError


class Watch:
    """Looks on while the pool's network is trained for an epoch.

    What it sees is as `Pool.last_layer` has it, but for the network being in training mode and
    moving on between mini-batches: the mean over an epoch of what a pass would see.

    Args:
        pool: its network is the one that is trained.

    Attributes:
        open: whether it is looking.
    """

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.open = False
        self._hooks: list[Any] = []
        self._parts: list[LastLayer] = []
        self._weights: list[Tensor] = []
        self._forget()

    def start(self) -> None:
        """Look at all training steps from here on."""
        self.stop()
        layers = self.pool.layers

        def record(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if torch.is_grad_enabled() and layer.training:
                self._seen.append((layer, inputs[0].detach(), output))

        def returned(_network: nn.Module, _inputs: Any, outputs: Any) -> None:
            # The first after the layers ran: what a trainer calls may be around the network, and
            # go by its name.
            if self._seen and not self._outputs:
                self._outputs.append(outputs)

        self._hooks = [layer.register_forward_hook(record) for layer in layers]
        self._hooks.append(self.pool.network.register_forward_hook(returned))
        self._parts, self._weights, self.open = [], [], True

    def step(self, batch: Sequence[Any], weights: Tensor | None = None) -> None:
        """Take up the mini-batch whose forward pass is over, before it is differentiated.

        Args:
            batch: what the pool's losses take.
            weights: of its samples, (B,); 1 by default.

        Raises:
            ConfigError: the step did not run the network, or the last layers more than once.
        """
        if not self._outputs:
            raise ConfigError(
                "a training step did not call the network, so that its gradients cannot be looked "
                "at: set snr_from=pass, or name the network that it calls"
            )
        layers = self.pool.layers
        runs = [[run for run in self._seen if run[0] is layer] for layer in layers]
        n = len(runs[0][0][1]) if runs[0] else 0
        part = self.pool.factors(n, self._outputs[0], tuple(batch), runs, keep=True)
        self._parts.append(part)
        self._weights.append(torch.ones(n) if weights is None else weights.detach().float().cpu())
        self._forget()

    def stop(self) -> tuple[LastLayer, Tensor] | None:
        """Look no longer; what was seen since `start`, with the weights (n,), by all processes
        together. None where there was no step."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self.open = [], False
        self._forget()
        parts, self._parts = self._parts, []
        if not parts:
            return None
        seen = joined(parts)
        weights = torch.cat(self._weights).to(seen.features[0].device)
        return self.pool.gathered(seen, weights)

    def _forget(self) -> None:
        self._seen: list[tuple[nn.Module, Tensor, Tensor]] = []
        self._outputs: list[Any] = []
