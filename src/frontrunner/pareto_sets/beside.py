"""What a checkpoint of the hub has beside its weights: configuration, tokenizer, licence."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from frontrunner.errors import RunError
from frontrunner.weights.writer import Layout

BESIDE = (
    "generation_config.json",
    "*token*.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "*processor*.json",
    "chat_template*",
    "*.jinja",
    "LICENSE*",
    "NOTICE*",
)


def copy_beside(sources: Sequence[Path], folder: Path, layout: Layout) -> None:
    """The first source's configuration, with the dtype that was written, and what lies beside it or
    beside the next."""
    path = sources[0] / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise RunError(f"{path} is not readable as JSON; the base is not in hub format") from None
    numbers: dict[str, int] = {}
    for shape, dtype in layout.values():
        if dtype.is_floating_point:
            name = str(dtype).removeprefix("torch.")
            numbers[name] = numbers.get(name, 0) + math.prod(shape)
    if numbers:
        _set_dtype(config, max(numbers, key=lambda name: numbers[name]))
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    # A model that brings its own code names it in its configuration.
    wanted = (*BESIDE, "*.py") if "auto_map" in config else BESIDE
    for source in sources:
        for file in sorted({f for pattern in wanted for f in source.glob(pattern) if f.is_file()}):
            if not (folder / file.name).exists():
                shutil.copyfile(file, folder / file.name)


def _set_dtype(config: dict[str, Any], dtype: str) -> None:
    """`from_pretrained` casts to what the configuration says: it has to say what was written."""
    for key, value in config.items():
        if key in ("dtype", "torch_dtype") and isinstance(value, str):
            config[key] = dtype
        elif isinstance(value, dict) and key.endswith("_config"):
            _set_dtype(value, dtype)
