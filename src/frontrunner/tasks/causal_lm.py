"""Networks of `transformers` under the names that their checkpoints use."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from frontrunner.errors import ConfigError, DataError, first_line
from frontrunner.weights.networks import named_state

# `architecture` of a task: the class of transformers that builds the network from a configuration.
ARCHITECTURES = {"causal_lm": "AutoModelForCausalLM"}

# Buffers that older checkpoints hold and today's networks compute: they are merged and written
# like the rest, and the network does not read them.
_COMPUTED = re.compile(r"\.(rotary_emb\.inv_freq|attn\.(masked_)?bias|position_ids)$")

_ORIGINAL = "_class_of_transformers"


def build(folder: Path, shapes: Mapping[str, tuple[int, ...]], architecture: str) -> nn.Module:
    """The network that a checkpoint's ``config.json`` describes: ``forward(inputs, k)`` -> logits.

    It is on the CPU, in float32 and in evaluation mode, and its weights are not the checkpoint's
    yet. Every tensor of the checkpoint has its place under its own name.

    Args:
        folder: holds ``config.json``.
        shapes: of the checkpoint's tensors.
        architecture: one of `ARCHITECTURES`.

    Raises:
        ConfigError: transformers is missing or does not know the model.
        DataError: a tensor that the network lacks, or needs and the checkpoint lacks, or of another
            shape; it is named.
    """
    try:
        import transformers
    except ImportError:
        raise ConfigError(f"{folder} needs transformers: pip install frontrunner[hub]") from None
    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        kind = getattr(transformers, ARCHITECTURES[architecture])
        network = kind.from_config(config, dtype=torch.float32)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{folder}: no such network: {first_line(error)}") from None
    _fit(network, shapes, folder)
    return per_objective(network).eval()


def load(folder: Path, dtype: str = "auto") -> nn.Module:
    """A language model as transformers loads it: ``forward(inputs, k)`` -> logits.

    It is on the CPU and in evaluation mode. Unlike `build`, its names may differ from the file's.

    Args:
        folder: of the checkpoint.
        dtype: ``auto`` (the checkpoint's) or a name such as ``bfloat16``.

    Raises:
        ConfigError: transformers is missing or does not know the model.
        DataError: tensors that the model needs are missing; the first is named.
    """
    try:
        from transformers import AutoModelForCausalLM
    except ImportError:
        raise ConfigError(f"{folder} needs transformers: pip install frontrunner[hub]") from None
    wanted = dtype if dtype == "auto" else getattr(torch, dtype)
    try:
        with _no_bars():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder, dtype=wanted, output_loading_info=True, trust_remote_code=False
            )
    except (OSError, ValueError, KeyError) as error:
        if "trust_remote_code" in str(error):
            raise ConfigError(
                f"{folder} needs code of its own (auto_map in config.json), which is not run here; "
                "only architectures that transformers has can be loaded"
            ) from None
        raise ConfigError(f"{folder}: no such network: {first_line(error)}") from None
    network, found = loaded
    if found["missing_keys"]:
        raise DataError(
            f"{folder} has no tensor '{min(found['missing_keys'])}', which "
            f"{type(network).__name__} needs"
        )
    return per_objective(network).eval()


@contextmanager
def _no_bars() -> Iterator[None]:
    """Without the progress bars of transformers, which would run through the run's own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a checkpoint folder.

    Raises:
        ConfigError: transformers is not installed.
        DataError: there is none that can be read.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise ConfigError(f"{folder} needs transformers: pip install frontrunner[hub]") from None
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # the library raises many kinds, none of its own base
        raise DataError(
            f"{folder} has no tokenizer that can be read: {first_line(error)}"
        ) from None


def per_objective(network: nn.Module) -> nn.Module:
    """Give a language model of transformers the interface ``forward(inputs, k)`` -> logits.

    Its class becomes a subclass of what it was, so that names of parameters, `copy.deepcopy`,
    hooks and `save_pretrained` are those of the model itself. Token ids (B, W) -> (B, W, V).
    """
    kind = type(network)

    def forward(self: Any, inputs: Tensor, k: int = 0) -> Tensor:
        logits: Tensor = kind.forward(self, input_ids=inputs, use_cache=False).logits
        return logits

    network.__class__ = type(kind.__name__, (kind,), {"forward": forward, _ORIGINAL: kind})
    return network


def original(network: nn.Module) -> nn.Module:
    """The language model of transformers that `per_objective` was given: a view of the same modules
    and tensors, called as transformers calls it.

    Raises:
        ConfigError: the network is none.
    """
    kind = getattr(type(network), _ORIGINAL, None)
    if kind is None:
        raise ConfigError(f"a {type(network).__name__} is not a language model of transformers")
    view = copy.copy(network)
    view.__class__ = kind
    return view


def _fit(network: nn.Module, shapes: Mapping[str, tuple[int, ...]], folder: Path) -> None:
    """Hold a network and a checkpoint against each other, name by name."""
    own = {**network.state_dict(keep_vars=True), **named_state(network)}
    kind = type(network).__name__
    for key, shape in shapes.items():
        if key in own:
            if tuple(own[key].shape) != tuple(shape):
                raise DataError(
                    f"{folder}: '{key}' has shape {tuple(shape)}, and {tuple(own[key].shape)} by "
                    "its config.json"
                )
        elif _COMPUTED.search(key):
            _make_room(network, key, shape)
        else:
            raise DataError(
                f"{folder}: {kind} has no tensor '{key}'; without texts (task.texts=null) no "
                "network is needed"
            )
    # Tied tensors are one: a checkpoint holds it under any of their names.
    held = {id(own[key]) for key in shapes if key in own}
    for key, tensor in network.state_dict(keep_vars=True).items():
        if id(tensor) not in held:
            raise DataError(f"{folder} has no tensor '{key}', which {kind} needs")


def _make_room(network: nn.Module, key: str, shape: tuple[int, ...]) -> None:
    *path, last = key.split(".")
    module = network
    for name in path:
        if not hasattr(module, name):
            module.add_module(name, nn.Module())
        module = getattr(module, name)
    module.register_buffer(last, torch.zeros(shape), persistent=False)
