"""Tasks of pruning: a language model, and text of each objective to calibrate on."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path

from torch import Tensor

from frontrunner.tasks.domains import DomainsTask
from frontrunner.weights.source import Weights


class PruningTask(DomainsTask):
    """A model to prune; objective k is its loss on domain k.

    `network` is the dense model, in the precision it is scored in: token ids (B, W) -> logits.

    Attributes:
        template: the model's folder, if it is a checkpoint in hub format: exports then are such.
    """

    template: Path | None = None

    @abstractmethod
    def weights(self) -> Weights:
        """The dense model's weights, read lazily."""

    @abstractmethod
    def calibration(self, k: int) -> Tensor:
        """Token ids (n, W) of objective k, from its train split.

        Raises:
            DataError: the text is shorter than one segment.
        """
