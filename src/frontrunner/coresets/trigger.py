"""When to choose a coreset again.

Source of the rules by SNR: Cheng et al., ERACS, NeurIPS 2025, which contradicts itself about their
direction: Algorithm 1 re-selects when the SNR falls below τ (``absolute_below``), §5.1 when it is
above (``absolute_above``), and Table 3 has more updates for smaller τ, as a rule on the fall since
the last selection has (``relative_drop``, our reconstruction). ``peak_drop`` is ours as well: the
SNR of a coreset that an untrained network chose starts low and rises first, and a fall from there
would never be seen.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from frontrunner.errors import ConfigError, nearest
from frontrunner.seeds import generator

BY_SNR = ("absolute_below", "relative_drop", "peak_drop", "absolute_above")
RULES = (*BY_SNR, "loss", "interval", "random", "never")


class Trigger:
    """A rule that says at the start of an epoch whether to choose again.

    Args:
        rule: ``absolute_below`` (SNR < τ), ``relative_drop`` (1 − SNR / SNR after the last
            selection > τ), ``peak_drop`` (1 − SNR / the largest SNR since the last selection > τ),
            ``absolute_above`` (SNR > τ), ``loss`` (1 − loss / loss after the last selection > τ, of
            the coreset), ``interval`` (every so many epochs), ``random`` (``count`` epochs drawn at
            random) or ``never``.
        threshold: τ.
        every: epochs between checks, the paper's C; of ``interval``, between selections.
        count: of ``random``, how many selections after the first; of ``interval``, the same evenly
            spread, in place of ``every``.

    Raises:
        ConfigError: an unknown rule, or a number it cannot take.
    """

    def __init__(
        self,
        rule: str = "relative_drop",
        threshold: float = 0.3,
        every: int = 3,
        count: int | None = None,
    ) -> None:
        if rule not in RULES:
            raise ConfigError(f"method.trigger={rule} is unknown{nearest(str(rule), RULES)}")
        if not isinstance(every, int) or every < 1:
            raise ConfigError(f"method.every={every} must be a whole number of at least 1")
        if count is not None and (not isinstance(count, int) or count < 0):
            raise ConfigError(f"method.count={count} must be a whole number, or null")
        if rule == "random" and count is None:
            raise ConfigError("method.trigger=random needs method.count")
        if not isinstance(threshold, int | float) or not threshold == threshold:
            raise ConfigError(f"method.threshold={threshold} must be a number")
        self.rule, self.threshold, self.every, self.count = rule, float(threshold), every, count

    @property
    def measures(self) -> bool:
        """Whether the rule looks at the coreset's gradients."""
        return self.rule in BY_SNR or self.rule == "loss"

    @property
    def compares(self) -> bool:
        """Whether it is compared with what was measured just after the last selection."""
        return self.rule in ("relative_drop", "peak_drop", "loss")

    def due(self, epoch: int, first: int, epochs: int, seed: int) -> bool:
        """Whether ``epoch`` (counted from 0) is one to look at; ``first`` is that of the first
        selection, and ``epochs`` their number in all."""
        since = epoch - first
        if self.rule == "never" or since <= 0:
            return False
        if self.count is not None and self.rule in ("interval", "random"):
            return epoch in self.schedule(first, epochs, seed)
        return since % self.every == 0

    def schedule(self, first: int, epochs: int, seed: int) -> list[int]:
        """The epochs of ``count`` selections after ``first``."""
        assert self.count is not None
        room = epochs - first - 1
        number = min(self.count, max(room, 0))
        if self.rule == "random":
            drawn = torch.randperm(room, generator=generator(seed, "trigger"))[:number]
            return sorted((first + 1 + drawn).tolist())
        return [first + round((i + 1) * (room + 1) / (number + 1)) for i in range(number)]

    def fires(
        self,
        snr: Sequence[float],
        snr_before: Sequence[float],
        loss: Sequence[float],
        loss_before: Sequence[float],
    ) -> bool:
        """Whether to choose again, by the worst objective; always, for a rule that measures
        nothing.

        Args:
            snr, loss: of each objective on the coreset, now.
            snr_before, loss_before: what they are compared with: the same just after the last
                selection, and for ``peak_drop`` the largest SNR since then.
        """
        t = self.threshold
        if self.rule == "absolute_below":
            return any(x < t for x in snr)
        if self.rule == "absolute_above":
            return any(x > t for x in snr)
        if self.rule in ("relative_drop", "peak_drop"):
            return any(_fall(x, before) > t for x, before in zip(snr, snr_before, strict=True))
        if self.rule == "loss":
            return any(_fall(x, before) > t for x, before in zip(loss, loss_before, strict=True))
        return True


def _fall(now: float, before: float) -> float:
    if before == float("inf"):
        return 0.0 if now == before else 1.0
    return 1.0 - now / before if before > 0 else 0.0
