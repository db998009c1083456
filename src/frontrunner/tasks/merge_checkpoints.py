"""Merging language models: any checkpoints of one architecture, or embedded tiny ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from frontrunner.errors import ConfigError, DataError, first_line, nearest
from frontrunner.front.objective import Objective
from frontrunner.tasks import causal_lm, tiny_llama
from frontrunner.tasks.base import Model, Task
from frontrunner.tasks.experts import own_stream
from frontrunner.tasks.language import WINDOWS, LanguageTask, sources_of, window_counts
from frontrunner.tasks.merging import DISTANCE, MergingTask
from frontrunner.weights.hub import locate, open_weights
from frontrunner.weights.networks import place
from frontrunner.weights.parents import Parents

Named = Mapping[str, Any]

# What two configurations of one architecture agree in, where both say it.
_SAME = (
    "model_type",
    "hidden_size",
    "n_embd",
    "d_model",
    "num_hidden_layers",
    "n_layer",
    "num_attention_heads",
    "n_head",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "vocab_size",
    "tie_word_embeddings",
)


class MergeCheckpoints(LanguageTask, MergingTask):
    """K language models fine-tuned from one base; objective k belongs to expert k.

    With texts, objective k is the loss on domain k (see `frontrunner.tasks.text` for windows and
    perplexity), in nats. Without, it is the relative distance ‖θ - θ_k‖ / ‖θ_0 - θ_k‖ to expert k,
    and no network is built.

    Args:
        base: a checkpoint folder or file, or a model of the hub; None trains tiny Llama models on
            the texts, once: a base on all of them and an expert on each.
        experts: the same of each expert, or a LoRA adapter of the base. None with ``base=None``.
        texts: ``embedded`` (prose, code, arithmetic), a list of these names, a mapping from names
            to sources (see `TextSource`), or None. As many as experts, in their order.
        window: tokens per window.
        windows: how many windows of each split are used at most, per domain; None is all. Those of
            train are the last of the text, and the embedded models do not learn from them.
        batch_windows: windows per forward pass in evaluation, at most.
        architecture: how the network is built, ``causal_lm``.
        llama: size and training of the embedded models.
        expert_seed: of the embedded models.
        reference_loss: reference point of every loss, in nats.
        name: what runs and reports call the task.
        model: not used; the architecture is the checkpoints'.

    Raises:
        ConfigError: settings that do not go together, or numbers of experts and texts that differ.
    """

    input_shape = ()
    output_sizes = ()

    def __init__(
        self,
        base: str | None = None,
        experts: Sequence[str] | None = None,
        texts: str | Sequence[str] | Named | None = "embedded",
        window: int = 64,
        windows: Mapping[str, int | None] = WINDOWS,  # type: ignore[assignment]
        batch_windows: int = 64,
        architecture: str = "causal_lm",
        llama: Named | None = None,
        expert_seed: int = 0,
        reference_loss: float = 6.0,
        name: str = "merge_checkpoints",
        model: Model | None = None,
    ) -> None:
        super().__init__(None)
        self.name, self.base, self.window = name, base, window
        self.batch_limit, self.expert_seed = batch_windows, expert_seed
        if architecture not in causal_lm.ARCHITECTURES:
            raise ConfigError(
                f"task.architecture={architecture} does not exist"
                f"{nearest(architecture, causal_lm.ARCHITECTURES)}"
            )
        self.architecture = architecture
        if isinstance(experts, str):
            raise ConfigError(f"task.experts={experts} is one model; give a list of two or more")
        self.experts = [str(expert) for expert in experts or ()]
        self.sources = sources_of(texts)
        self.has_data = bool(self.sources)
        self._check_numbers()
        self.windows = window_counts(windows, WINDOWS)
        if base is None and self.windows["train"] is None:
            raise ConfigError("task.windows.train=null leaves the embedded models nothing to learn")
        if window < 2 or batch_windows < 1:
            raise ConfigError("task.window must be at least 2 and task.batch_windows 1")
        self.llama = tiny_llama.TinyLlama(**(llama or {}))
        names = list(self.sources) if self.has_data else _names(self.experts)
        unit, bound = ("nats", float(reference_loss)) if self.has_data else DISTANCE
        self.objectives = tuple(Objective(n, "min", unit) for n in names)
        self.reference_point = (bound,) * len(names)
        self._paths: list[Path] | None = None

    def _check_numbers(self) -> None:
        if self.base is None and self.experts:
            raise ConfigError("task.experts needs task.base, the model they were fine-tuned from")
        if self.base is None and not self.has_data:
            raise ConfigError("task.texts=null needs checkpoints: give task.base and task.experts")
        if self.base is not None and len(self.experts) < 2:
            raise ConfigError(f"task.experts needs at least two models, not {self.experts}")
        if self.base is None and len(self.sources) < 2:
            raise ConfigError(f"task.texts needs at least two domains, not {list(self.sources)}")
        if self.base is not None and self.has_data and len(self.sources) != len(self.experts):
            raise ConfigError(
                f"task.texts has {len(self.sources)} domains ({', '.join(self.sources)}) for "
                f"{len(self.experts)} experts: expert k belongs to domain k"
            )

    # ------------------------------------------------------------------ checks

    def check(self) -> None:
        """Hold the parents' headers, configurations and tokenizers against each other, and read
        texts that are files here. No weights are read and nothing is trained.

        Raises:
            ConfigError, DataError: the checkpoint, file or tensor is named.
        """
        for source in self.sources.values():
            source.check()
        if self.base is not None:
            self.parents()

    # ------------------------------------------------------------------ models

    def paths(self) -> list[Path]:
        """Where the base and the experts are, in this order; embedded ones are trained first."""
        if self._paths is None:
            if self.base is not None:
                self._paths = [locate(name) for name in (self.base, *self.experts)]
            else:
                texts = {name: source.texts() for name, source in self.sources.items()}
                held_out = self.windows["train"]
                assert held_out is not None
                self._paths = tiny_llama.checkpoints(
                    texts, self.llama, self.window, held_out, self.expert_seed
                )
        return self._paths

    @property
    def template(self) -> Path | None:  # type: ignore[override]
        """The base's folder, with its configuration and tokenizer; None if it has neither."""
        folder = _folder(self.paths()[0])
        return folder if (folder / "config.json").is_file() else None

    def make_parents(self) -> Parents:
        base, *experts = self.paths()
        same_architecture(base, experts)
        same_vocabulary(base, experts)
        weights = open_weights(base)
        others = [open_weights(path, weights) for path in experts]
        if self.base is not None:  # what the user calls them, and not where the hub keeps them
            for opened, name in zip((weights, *others), (self.base, *self.experts), strict=True):
                opened.name = str(name)
        return Parents(weights, others)

    def network(self) -> nn.Module:
        """The base, in float32: token ids (B, W) -> logits (B, W, V), for any k.

        Raises:
            ConfigError: transformers is missing or does not know the model.
            DataError: a tensor that the network lacks, or needs and the base lacks; it is named.
        """
        base, folder = self.parents().base, _folder(self.paths()[0])
        with own_stream(0, "overwritten"):
            network = causal_lm.build(folder, base.shapes(), self.architecture)
        place(network, ((key, base.read(key)) for key in base.shapes()))
        return network

    # ------------------------------------------------------------------ data

    def measures(self) -> tuple[str, ...]:
        return super().measures() if self.has_data else ()

    def tokenizer(self) -> Any:
        if not self.has_data:
            raise ConfigError(f"task '{self.name}' has no data: this method needs task.texts")
        return causal_lm.load_tokenizer(_folder(self.paths()[0]))

    def sealed(self) -> Task:
        if self.has_data:
            return super().sealed()
        self.parents()
        return self  # there is no test split to hide


def same_architecture(base: Path, experts: Sequence[Path]) -> None:
    """Compare ``config.json`` of the base and the experts; a folder without one has nothing to say.

    Raises:
        DataError: the first entry that differs is named.
    """
    wanted = _json(base, "config.json") or {}
    for expert in experts:
        found = _json(expert, "config.json") or {}
        for key in _SAME:
            if key in wanted and key in found and wanted[key] != found[key]:
                raise DataError(
                    f"{expert / 'config.json'} says {key}={found[key]}, and {base} says "
                    f"{wanted[key]}: not one architecture"
                )


def same_vocabulary(base: Path, experts: Sequence[Path]) -> None:
    """Compare ``tokenizer.json`` of the base and the experts, less what only says how text is cut
    or padded; a folder without one (an adapter) has nothing to say.

    Raises:
        DataError: the first difference is named.
    """
    wanted = _tokenizer(base)
    for expert in experts:
        found = _tokenizer(expert)
        if wanted is not None and found is not None and found != wanted:
            raise DataError(
                f"{expert / 'tokenizer.json'} is not that of {base}: "
                f"{_difference(found, wanted)}; models of different vocabularies cannot be merged"
            )


# ---------------------------------------------------------------------- details


def _names(experts: Sequence[str]) -> list[str]:
    """Short names of the experts: the last part of each path, or all of it if those are equal."""
    short = [expert.rstrip("/").rpartition("/")[2] for expert in experts]
    names = short if len(set(short)) == len(short) else list(experts)
    if len(set(names)) < len(names):
        raise ConfigError(f"task.experts names a model twice: {names}")
    return names


def _folder(path: Path) -> Path:
    """Where configuration and tokenizer lie: the checkpoint folder, or that of the file."""
    return path if path.is_dir() else path.parent


def _json(path: Path, name: str) -> dict[str, Any] | None:
    file = _folder(path) / name
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is not readable as JSON: {first_line(error)}") from None
    return content if isinstance(content, dict) else None


def _tokenizer(path: Path) -> dict[str, Any] | None:
    content = _json(path, "tokenizer.json")
    if content is None:
        return None
    for key in ("version", "truncation", "padding"):
        content.pop(key, None)
    model = content.get("model")
    if isinstance(model, dict) and isinstance(model.get("merges"), list):
        # Written as "a b" by older versions and as ["a", "b"] by newer ones.
        pairs = model["merges"]
        model["merges"] = [p if isinstance(p, str) else " ".join(p) for p in pairs]
    return content


def _difference(found: Any, wanted: Any, where: str = "") -> str:
    """The first place where two JSON values differ, and what is there."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in [*wanted, *found]:
            if found.get(key, _difference) != wanted.get(key, _difference):
                if key not in found or key not in wanted:
                    return f"{where}'{key}' is only in {'one' if key in found else 'the other'}"
                return _difference(found[key], wanted[key], f"{where}{key}: ")
    if isinstance(found, list) and isinstance(wanted, list):
        for i, (a, b) in enumerate(zip(found, wanted, strict=False)):
            if a != b:
                return _difference(a, b, f"{where}entry {i}: ")
        return f"{where}{len(found)} entries and {len(wanted)}"
    return f"{where}{found!r} and {wanted!r}"
