"""Tasks whose objectives are losses of a language model on domains of text."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from frontrunner.errors import ConfigError, DataError, nearest
from frontrunner.tasks.base import Batch, Measure, Split
from frontrunner.tasks.domains import Domains, DomainsTask
from frontrunner.tasks.text import EMBEDDED, SPLITS, TextSource, cut, next_token_loss
from frontrunner.tasks.token_ids import token_ids

Named = Mapping[str, Any]

WINDOWS: dict[Split, int | None] = {"train": 128, "validation": 32, "test": None}


class LanguageTask(DomainsTask):
    """Objective k is the loss on domain k, in nats; see `frontrunner.tasks.text` for windows and
    perplexity. A subclass implements `tokenizer` and `network`.

    Attributes:
        sources: of the texts, by domain.
        window: tokens per window.
        windows: how many windows of each split are used at most, per domain; None is all. Those of
            train are the last of the text.
        vocabulary: how many tokens the model knows; None where that is not known.
    """

    sources: dict[str, TextSource]
    window: int
    windows: Mapping[Split, int | None]
    vocabulary: int | None = None

    @abstractmethod
    def tokenizer(self) -> Any:
        """The model's tokenizer, of transformers."""

    def measures(self) -> tuple[str, ...]:
        return ("losses", "perplexities", "accuracies")

    def load(self) -> dict[Split, Dataset[Any]]:
        _ = self._tokenizer  # what stands in its way is said first
        return {split: self._domains(split) for split in SPLITS}

    def tokens(self, domain: str, split: Split) -> Tensor:
        """Token ids (t,) of a domain's text, tokenised as a whole; those of train are kept.

        Raises:
            DataError: tokens that the model does not know.
        """
        kept: dict[str, Tensor] = self.__dict__.setdefault("_train_tokens", {})
        if split == "train" and domain in kept:
            return kept[domain]
        ids = token_ids(self._tokenizer, self.sources[domain].texts()[split])
        if self.vocabulary is not None and len(ids) and int(ids.max()) >= self.vocabulary:
            raise DataError(
                f"the tokenizer gives '{domain}' a token {int(ids.max())}, and the model has "
                f"{self.vocabulary}: they do not belong together"
            )
        if split == "train":
            kept[domain] = ids
        return ids

    @cached_property
    def _tokenizer(self) -> Any:
        return self.tokenizer()

    def _domains(self, split: Split) -> Domains:
        parts: list[Dataset[Batch]] = []
        for name in self.sources:
            what = f"the {split} text of '{name}'"
            ids = cut(self.tokens(name, split), self.window, what)
            limit = self.windows[split]
            if limit is not None:
                ids = ids[-limit:] if split == "train" else ids[:limit]
            parts.append(TensorDataset(ids, ids))
        return Domains(parts)

    def loss(self, outputs: Tensor, batch: Batch, k: int) -> Tensor:
        return next_token_loss(outputs, batch[1])

    def correct(self, outputs: Tensor, batch: Batch, k: int) -> Tensor:
        """Share of next tokens that the model thinks most likely."""
        return (outputs[:, :-1].argmax(-1) == batch[1][:, 1:]).double().mean()

    @torch.no_grad()
    def measure(
        self,
        network: Callable[..., Any],
        split: Split,
        *,
        what: Measure = "losses",
        device: torch.device | str = "cpu",
        batch_size: int = 4096,
    ) -> np.ndarray:
        """Losses in nats, perplexities or accuracies over a whole split, (K,) float64.

        All windows have one length, so the mean over windows is that over predicted tokens.
        """
        kind: Measure = "losses" if what == "perplexities" else what
        values = super().measure(network, split, what=kind, device=device, batch_size=batch_size)
        return np.exp(values) if what == "perplexities" else values


def sources_of(texts: str | Sequence[str] | Named | None) -> dict[str, TextSource]:
    """The sources of a task's texts by domain, from what ``task.texts`` says.

    Raises:
        ConfigError: a domain that is named twice, or a source that `TextSource` refuses.
    """
    if texts is None:
        return {}
    if isinstance(texts, str):
        texts = list(EMBEDDED) if texts == "embedded" else [texts]
    if not isinstance(texts, Mapping):
        if len(set(texts)) < len(texts):
            raise ConfigError(f"task.texts names a domain twice: {list(texts)}")
        texts = {str(name): "embedded" for name in texts}
    return {str(name): TextSource(str(name), source) for name, source in texts.items()}


def window_counts(
    given: Mapping[str, int | None], default: Mapping[Split, int | None]
) -> dict[Split, int | None]:
    """How many windows of each split are used at most, from what ``task.windows`` says.

    Raises:
        ConfigError: an unknown split, or a count below 1.
    """
    for key in given:
        if key not in SPLITS:
            raise ConfigError(f"task.windows: unknown split '{key}'{nearest(key, SPLITS)}")
    counts: dict[Split, int | None] = {split: given.get(split, default[split]) for split in SPLITS}
    for split, count in counts.items():
        if count is not None and count < 1:
            raise ConfigError(f"task.windows.{split}={count} must be at least 1, or null for all")
    return counts
