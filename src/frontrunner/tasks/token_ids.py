"""Token ids of long texts, kept by content: tokenising millions of characters takes longer than
pruning a small model."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from frontrunner import files
from frontrunner.tasks.tiny_llama import plain_ids

LONG = 200_000  # characters, from which on ids are kept


def token_ids(tokenizer: Any, text: str) -> Tensor:
    """The ids (t,), int64, of a text as a whole, without special tokens.

    Those of a long text are kept in `files.cache_dir`, named by the text, the tokenizer and the
    version of the package; tokenizers that cannot be written down keep none.
    """
    path = _place(tokenizer, text) if len(text) >= LONG else None
    if path is not None:
        try:
            return torch.from_numpy(np.load(path).astype(np.int64))
        except (OSError, ValueError, EOFError):  # none yet, or cut off
            pass
    ids = np.asarray(plain_ids(tokenizer)(text), dtype=np.int64)
    if path is not None:
        try:
            with files.atomic_path(path) as temporary:
                np.save(temporary, ids.astype(np.int32))
        except OSError:  # a folder that cannot be written: next time again
            pass
    return torch.from_numpy(ids)


def _place(tokenizer: Any, text: str) -> Path | None:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    digest = hashlib.sha256(f"{version('tokenizers')}\0{backend.to_str()}\0".encode())
    digest.update(text.encode())
    return files.cache_dir() / "tokens" / f"{digest.hexdigest()[:24]}.npy"
