"""Scores that lm-eval gave, kept by what they depend on, and what that is hashed to."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import os
import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from frontrunner import files
from frontrunner.errors import RunError
from frontrunner.weights.networks import named_state
from frontrunner.weights.source import digest_of

_FORMAT = 1  # changes with what a score means, so that older ones are not found

# ---------------------------------------------------------------------- what scores depend on


def network_digest(network: nn.Module) -> str:
    """SHA-256 of a network's class, configuration, parameters and buffers, in this order of names.

    Every weight is read: about a second for each gigabyte.
    """
    h = hashlib.sha256(type(network).__name__.encode())
    for part in ("config", "generation_config"):
        config = getattr(network, part, None)
        settings = config.to_dict() if config is not None else {}
        settings.pop("_name_or_path", None)  # where it was read from
        h.update(json.dumps(settings, sort_keys=True, default=str).encode())
    h.update(digest_of(named_state(network).items()).encode())
    return h.hexdigest()


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 of a tokenizer: what it splits, merges and adds, and its special tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else sorted(tokenizer.get_vocab().items())
    settings = {**tokenizer.init_kwargs, "special": tokenizer.special_tokens_map}
    for key in ("name_or_path", "tokenizer_file", "vocab_file", "merges_file"):
        settings.pop(key, None)  # where it was read from
    content = [type(tokenizer).__name__, rules, settings, tokenizer.model_max_length]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def digest(facts: Mapping[str, Any]) -> str:
    """SHA-256 of JSON values."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


# ---------------------------------------------------------------------- the cache


class Scores:
    """Scores on disk: one JSON file for each model, task and setting, in the cache directory."""

    def __init__(self) -> None:
        self.folder = files.cache_dir() / "lm_eval" / "scores"

    def get(self, facts: Mapping[str, Any]) -> dict[str, float] | None:
        """What is kept under these facts; a damaged file counts as nothing."""
        try:
            kept = files.read_json(self._path(facts))
            return {str(k): float(v) for k, v in kept["scores"].items()}
        except (RunError, KeyError, TypeError, ValueError, AttributeError):
            return None

    def put(self, facts: Mapping[str, Any], scores: Mapping[str, float]) -> None:
        """Keep scores, unless one is not finite."""
        if all(math.isfinite(v) for v in scores.values()):
            files.write_json(self._path(facts), {"facts": dict(facts), "scores": dict(scores)})

    def _path(self, facts: Mapping[str, Any]) -> Path:
        name = digest({"format": _FORMAT, **facts})
        return self.folder / name[:2] / f"{name[2:34]}.json"


# ---------------------------------------------------------------------- surroundings


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, notes or warnings of lm-eval and what it calls; its errors are printed.

    File descriptor 2 is silenced too: lm-eval starts programs that complain there.
    """
    sys.stderr.flush()
    own = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    logger = logging.getLogger("lm_eval")
    level, propagate = logger.level, logger.propagate
    with os.fdopen(own, "w", buffering=1) as stream:
        handler = logging.StreamHandler(stream)
        handler.setLevel(logging.ERROR)
        logger.addHandler(handler)
        logger.propagate = False
        logger.setLevel(logging.ERROR)
        os.dup2(nowhere, 2)
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                yield
        finally:
            os.dup2(own, 2)
            os.close(nowhere)
            logger.removeHandler(handler)
            logger.propagate = propagate
            logger.setLevel(level)


@contextmanager
def isolated() -> Iterator[None]:
    """`quiet`, and the global random streams stay as they were: lm-eval seeds all of them."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with quiet(), torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
