"""A language model on domains of text: what one-shot pruning trades off."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from frontrunner.errors import ConfigError, DataError, first_line
from frontrunner.front.objective import Objective
from frontrunner.seeds import generator
from frontrunner.tasks import causal_lm, tiny_llama
from frontrunner.tasks.base import Split, Task
from frontrunner.tasks.language import LanguageTask, Named, sources_of, window_counts
from frontrunner.tasks.pruning import PruningTask
from frontrunner.weights.hub import locate, open_weights
from frontrunner.weights.source import Weights

WINDOWS: dict[Split, int | None] = {"train": None, "validation": 32, "test": 64}


@dataclass(frozen=True)
class HubModel:
    """A decoder-only checkpoint of transformers.

    Attributes:
        name: a folder, or a model of the hub, ``owner/model`` or ``owner/model@revision``.
        dtype: ``auto`` (the checkpoint's), ``float32``, ``bfloat16`` or ``float16``: the precision
            the model is run in, and pruned weights are stored in. Solvers compute in float32
            whatever it is; exports have the checkpoint's precision.

    Code that comes with a checkpoint is not run (``trust_remote_code`` is off).
    """

    name: str
    dtype: str = "auto"

    def __post_init__(self) -> None:
        if self.dtype not in ("auto", "float32", "bfloat16", "float16"):
            raise ConfigError(
                f"model.dtype={self.dtype} is not one of auto, float32, bfloat16, float16"
            )


class TextDomains(PruningTask, LanguageTask):
    """One language model, and domains of text; objective k is the loss on domain k, in nats.

    Args:
        model: a `HubModel`, or the size and training of a `TinyLlama`, which learns from the train
            text of all domains, once.
        texts: ``embedded`` (prose, code, arithmetic), a list of these names, or a mapping from
            names to sources, see `TextSource`.
        window: tokens per window that losses are measured on; windows do not overlap.
        windows: how many windows of each split are used at most, per domain; None is all.
        segments: of calibration text per domain.
        segment_length: tokens of a segment; None takes ``window``.
        calibration_seed: where segments start in the train text.
        batch_windows: windows per forward pass, at most.
        model_seed: of a `TinyLlama`'s initial weights and order of data.
        reference_loss: reference point of every loss, in nats.
        name: what runs and reports call the task.

    Raises:
        ConfigError: settings that do not go together.
    """

    input_shape = ()
    output_sizes = ()

    def __init__(
        self,
        model: HubModel | tiny_llama.TinyLlama | None = None,
        texts: str | Sequence[str] | Named = "embedded",
        window: int = 128,
        windows: Mapping[str, int | None] = WINDOWS,  # type: ignore[assignment]
        segments: int = 128,
        segment_length: int | None = None,
        calibration_seed: int = 0,
        batch_windows: int = 16,
        model_seed: int = 0,
        reference_loss: float = 6.0,
        name: str = "text_domains",
    ) -> None:
        super().__init__(None)
        if not isinstance(model, HubModel | tiny_llama.TinyLlama):
            raise ConfigError(
                f"task '{name}' prunes a language model: model=tiny_llama or model=hf"
            )
        self.name, self.source, self.window = name, model, window
        self.sources = sources_of(texts)
        if len(self.sources) < 2:
            raise ConfigError(f"task.texts needs at least two domains, not {list(self.sources)}")
        self.windows = window_counts(windows, WINDOWS)
        self.segments = segments
        self.length = window if segment_length is None else segment_length
        if min(window, self.length) < 2 or segments < 1 or batch_windows < 1:
            raise ConfigError(
                "task.window and task.segment_length must be at least 2, task.segments and "
                "task.batch_windows at least 1"
            )
        self.batch_limit = batch_windows
        self.calibration_seed, self.model_seed = calibration_seed, model_seed
        self.objectives = tuple(Objective(domain, "min", "nats") for domain in self.sources)
        self.reference_point = (float(reference_loss),) * len(self.sources)

    # ------------------------------------------------------------------ checks

    def check(self) -> None:
        """Read texts that are files here, and what a model that is a folder here says of itself.

        Raises:
            ConfigError, DataError: the file, the model or the domain is named.
        """
        for source in self.sources.values():
            source.check()
        if not isinstance(self.source, HubModel):
            known = tiny_llama.positions(self.window)
            if self.length > known:
                raise ConfigError(
                    f"task.segment_length={self.length} must be at most {known}, the positions "
                    "that the tiny Llama knows"
                )
        else:
            _check_folder(self.folder, max(self.window, self.length))

    # ------------------------------------------------------------------ the model

    @cached_property
    def folder(self) -> Path:
        """The checkpoint's folder; a tiny Llama is trained first."""
        if isinstance(self.source, HubModel):
            return locate(self.source.name)
        texts = {name: source.texts() for name, source in self.sources.items()}
        return tiny_llama.checkpoints(
            texts, self.source, self.window, 0, self.model_seed, experts=False
        )[0]

    @property
    def template(self) -> Path | None:  # type: ignore[override]
        return self.folder

    def weights(self) -> Weights:
        weights = open_weights(self.folder)
        if isinstance(self.source, HubModel):
            weights.name = self.source.name
        return weights

    def network(self) -> nn.Module:
        """The dense model, on the CPU, in evaluation mode: token ids (B, W) -> logits (B, W, V).

        Raises:
            ConfigError: transformers is missing or does not know the model.
        """
        dtype = self.source.dtype if isinstance(self.source, HubModel) else "auto"
        return causal_lm.load(self.folder, dtype)

    def tokenizer(self) -> Any:
        return causal_lm.load_tokenizer(self.folder)

    # ------------------------------------------------------------------ data

    @property
    def vocabulary(self) -> int | None:  # type: ignore[override]
        return dict(_numbers(read_config(self.folder))).get("vocab_size")

    def sealed(self) -> Task:
        _ = self.folder  # trained once, for both
        return super().sealed()

    def calibration(self, k: int) -> Tensor:
        domain = list(self.sources)[k]
        ids = self.tokens(domain, "train")
        if len(ids) < self.length:
            raise DataError(
                f"the train text of '{domain}' has {len(ids)} tokens, fewer than one calibration "
                f"segment of {self.length} (task.segment_length)"
            )
        stream = generator(self.calibration_seed, "calibration", domain)
        starts = torch.randint(len(ids) - self.length + 1, (self.segments,), generator=stream)
        return torch.stack([ids[s : s + self.length] for s in starts.tolist()])


# What text models call the number of positions they know, and the files of tokenizers.
_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len")
_TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "tekken.json",
)
_DECODERS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
_EXPERTS = re.compile(r"(\w+_)?(num|n)_(\w+_)?experts")


def read_config(folder: Path) -> dict[str, Any]:
    """A checkpoint's ``config.json``.

    Raises:
        DataError: there is none, or it cannot be read.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise DataError(f"{folder} has no config.json: it is not a checkpoint of transformers")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {first_line(error)}") from None
    if not isinstance(config, dict):
        raise DataError(f"{path} is not the configuration of a model")
    return config


def _check_folder(folder: Path, length: int) -> None:
    """What can be known of a model without loading it; ``length`` tokens are to be read at once."""
    config = read_config(folder)
    known = config.get("architectures") or ["ForCausalLM"]
    if config.get("is_encoder_decoder") or not any(str(a).endswith(_DECODERS) for a in known):
        raise ConfigError(
            f"{folder} is a {', '.join(map(str, known))}: only decoder-only language models can be "
            "pruned"
        )
    for key, value in _numbers(config):
        if _EXPERTS.fullmatch(key) and value > 1:
            raise ConfigError(
                f"{folder} has {value} experts in a block ({key}); mixture-of-experts blocks "
                "cannot be pruned here"
            )
        if key in _POSITIONS and length > value:
            raise ConfigError(
                f"task.window and task.segment_length must be at most {value}, the positions that "
                f"{folder} knows ({key}), not {length}"
            )
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise DataError(f"{folder} has no tokenizer (such as tokenizer.json)")
    open_weights(folder)


def _numbers(config: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Whole numbers of a configuration, and of those of text and layers in it."""
    for key, value in config.items():
        if isinstance(value, int) and not isinstance(value, bool):
            yield key, value
        elif isinstance(value, Mapping) and key in ("text_config", "ffn_config", "llm_config"):
            yield from _numbers(value)
