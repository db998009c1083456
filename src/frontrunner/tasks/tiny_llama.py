"""Tiny Llama models, trained from scratch once and kept as ordinary checkpoint folders."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from frontrunner import files
from frontrunner.errors import ConfigError, DataError
from frontrunner.tasks import llama_training
from frontrunner.tasks.causal_lm import per_objective
from frontrunner.tasks.experts import Recipe, one_thread, own_stream, train
from frontrunner.tasks.text import Texts, next_token_loss, windows
from frontrunner.weights.files import FILE
from frontrunner.weights.networks import place

_FORMAT = 3  # changes with what training does, so that older folders are not found
_SPECIAL = ("<s>", "</s>", "<pad>")
# A folder without one of these was cut short or damaged.
_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", FILE)


@dataclass(frozen=True)
class TinyLlama:
    """How large the embedded models are, and how long they are trained.

    Attributes:
        vocabulary: entries of the byte-level BPE tokenizer, 512 to 4,096.
        layers, width, heads: of the transformer; its feed-forward layers are 3 widths wide.
        base_steps, expert_steps: mini-batches; one of the base holds windows of every domain.
        learning_rate, expert_learning_rate: the largest, of base and experts.
        batch_size: samples of a domain per mini-batch.
        optimizer: ``adamw`` on windows, or ``muon`` on samples that start anywhere
            (`frontrunner.tasks.llama_training`).
        sample_length: tokens of a sample; None takes a window's. It needs ``muon``.
        digits: whether every digit of a number is a token of its own, as in Llama 2.
    """

    vocabulary: int = 1024
    layers: int = 2
    width: int = 64
    heads: int = 4
    base_steps: int = 300
    expert_steps: int = 300
    learning_rate: float = 3e-3
    expert_learning_rate: float = 1.5e-3
    batch_size: int = 16
    optimizer: Literal["adamw", "muon"] = "adamw"
    sample_length: int | None = None
    digits: bool = False

    def __post_init__(self) -> None:
        if self.optimizer not in ("adamw", "muon"):
            raise ConfigError(f"model.optimizer={self.optimizer} is not one of adamw, muon")
        if self.sample_length is not None and (self.optimizer == "adamw" or self.sample_length < 2):
            raise ConfigError(
                f"model.sample_length={self.sample_length} must be at least 2, with "
                "model.optimizer=muon, or null"
            )
        if not 512 <= self.vocabulary <= 4096:
            raise ConfigError(f"a tiny Llama's vocabulary={self.vocabulary} must be 512 to 4096")
        if min(self.layers, self.heads) < 1 or self.width % (2 * self.heads):
            raise ConfigError(
                f"a tiny Llama's width={self.width} must be a multiple of 2 x heads={self.heads}, "
                f"with at least one head and layer (layers={self.layers})"
            )
        self.recipes()

    def recipes(self) -> tuple[Recipe, Recipe]:
        """Of the base and of an expert."""
        return (
            Recipe(self.base_steps, self.batch_size, self.learning_rate),
            Recipe(self.expert_steps, self.batch_size, self.expert_learning_rate),
        )


def checkpoints(
    texts: Mapping[str, Texts],
    settings: TinyLlama,
    window: int,
    held_out: int,
    seed: int,
    experts: bool = True,
) -> list[Path]:
    """Folders of the base and of one expert per domain, trained where they are not yet kept.

    The tokenizer and the base learn from the train texts of all domains, each expert from the base
    and the train text of its own. Training is deterministic and runs on one thread. Folders lie in
    `files.cache_dir`, named by content: texts, settings, seed, and the versions of Python (which
    the embedded texts are part of), torch, transformers and tokenizers.

    Args:
        texts: of every domain.
        settings: size and training.
        window: tokens per window.
        held_out: windows at the end of each train text that nothing is trained on.
        seed: of initial weights and of the order of the data.
        experts: False makes the base alone.

    Raises:
        ConfigError: transformers is not installed.
        DataError: a text is too short, or a file cannot be written.
    """
    try:
        import transformers  # noqa: F401 - said here, before anything is spent
    except ImportError:
        raise ConfigError(
            "the embedded language models need transformers: pip install frontrunner[hub]"
        ) from None
    content = {
        "format": _FORMAT,
        "python": platform.python_version(),
        "packages": {p: version(p) for p in ("torch", "transformers", "tokenizers")},
        "settings": asdict(settings),
        "window": [window, held_out],
        "seed": seed,
        "texts": [[name, _digest(parts["train"])] for name, parts in texts.items()],
    }
    kept = files.cache_dir() / "tiny_llama" / _digest(json.dumps(content, sort_keys=True))
    folders = [kept / name for name in ("base", *(texts if experts else ()))]
    missing = [folder for folder in folders if not is_whole(folder)]
    if missing:
        plural = "s" if len(missing) > 1 else ""
        print(
            f"training {len(missing)} tiny language model{plural} once", file=sys.stderr, flush=True
        )
        with one_thread():
            _train_missing(folders, texts, settings, window, held_out, seed)
    return folders


def is_whole(folder: Path) -> bool:
    """Whether a checkpoint is there with all its files."""
    return all((folder / name).is_file() for name in _FILES)


def _train_missing(
    folders: Sequence[Path],
    texts: Mapping[str, Texts],
    settings: TinyLlama,
    window: int,
    held_out: int,
    seed: int,
) -> None:
    from safetensors.torch import load_file
    from transformers import AutoTokenizer, LlamaForCausalLM

    base, base_recipe, expert_recipe = folders[0], *settings.recipes()
    tokenizer = (
        AutoTokenizer.from_pretrained(base)
        if is_whole(base)
        else train_tokenizer(
            [parts["train"] for parts in texts.values()], settings.vocabulary, settings.digits
        )
    )
    data: list[tuple[Tensor, Tensor, int]] = []
    for k, (name, parts) in enumerate(texts.items()):
        cut = {  # all of them now: a text that is too short is found before training
            split: windows(text, plain_ids(tokenizer), window, f"the {split} text of '{name}'")
            for split, text in parts.items()
        }
        n = len(cut["train"]) - held_out
        if n < 1:
            raise DataError(
                f"the train text of '{name}' has {n + held_out} windows, and {held_out} are held "
                "out (task.windows.train)"
            )
        learned = cut["train"][:n]
        data.append((learned, learned, k))
    if not is_whole(base):
        with own_stream(seed, "tiny_llama"):
            network = per_objective(LlamaForCausalLM(llama_config(settings, window)))
        _train(network, data, settings, base_recipe, seed)
        _keep(network, tokenizer, base)
    for own, folder in zip(data, folders[1:], strict=False):  # none where there are no experts
        if not is_whole(folder):
            with own_stream(seed, "overwritten"):
                network = per_objective(LlamaForCausalLM(llama_config(settings, window)))
            place(network, load_file(base / FILE).items())
            _train(network, [own], settings, expert_recipe, seed)
            _keep(network, tokenizer, folder)


def _train(
    network: nn.Module,
    data: list[tuple[Tensor, Tensor, int]],
    settings: TinyLlama,
    recipe: Recipe,
    seed: int,
) -> None:
    if settings.optimizer == "adamw":
        train(network, data, recipe, seed, next_token_loss)
        return
    length = settings.sample_length or data[0][0].shape[1]
    for ids, _, k in data:
        if ids.numel() < length:
            raise DataError(
                f"the train text of domain {k + 1} has {ids.numel()} tokens, fewer than one sample "
                f"of {length} (model.sample_length)"
            )
    texts = [x.reshape(-1) for x, _, _ in data]
    llama_training.train(network, texts, recipe, seed, length)


def train_tokenizer(texts: Sequence[str], vocabulary: int, digits: bool = False) -> Any:
    """A byte-level BPE tokenizer of ``transformers``; ``<s>``, ``</s>``, ``<pad>`` are 0, 1, 2.

    It can represent any text; none of its calls adds special tokens. With ``digits`` every digit is
    a token.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if digits:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), tokenizer.pre_tokenizer]
        )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # Line by line: the trainer counts words in parallel over what the iterator gives.
    lines = (line for text in texts for line in text.splitlines(keepends=True))
    tokenizer.train_from_iterator(lines, trainer)
    bos, eos, pad = _SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, pad_token=pad
    )


def plain_ids(tokenizer: Any) -> Callable[[str], list[int]]:
    """text -> token ids, without special tokens and without a warning about its length."""
    return lambda text: list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def positions(window: int) -> int:
    """Tokens that a model trained on such windows can read at once."""
    return max(512, window)


def llama_config(settings: TinyLlama, window: int) -> Any:
    """The architecture, with untied embeddings."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=settings.vocabulary,
        hidden_size=settings.width,
        intermediate_size=3 * settings.width,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        max_position_embeddings=positions(window),
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        architectures=["LlamaForCausalLM"],
        dtype="float32",
    )


def _keep(network: Any, tokenizer: Any, folder: Path) -> None:
    """Write a checkpoint folder that is either whole or absent."""
    from safetensors.torch import save_file

    with _new_folder(folder) as temporary:
        save_file(network.state_dict(), temporary / FILE, metadata={"format": "pt"})
        network.config.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside ``folder`` that takes its place on success.

    Raises:
        DataError: it cannot be written; nothing is left behind.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror}") from None
    try:
        yield temporary
        if not is_whole(folder):
            shutil.rmtree(folder, ignore_errors=True)  # what is there was damaged
            os.replace(temporary, folder)
    except OSError as error:
        if not is_whole(folder):  # else another process was quicker, with the same content
            reason = error.strerror or str(error)
            raise DataError(f"{folder} could not be written ({reason}); make room") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
