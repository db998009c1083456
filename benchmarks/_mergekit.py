"""mergekit in an environment of its own, and Llama checkpoints of any size to merge."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VERSIONS = {"torch": "2.13.0", "mergekit": "0.1.5"}


def environment() -> Path:
    """The folder of mergekit's commands; its virtual environment is made on first use (minutes).

    Kept in ``FRONTRUNNER_MERGEKIT``, by default ``~/.cache/frontrunner/mergekit-<version>``.
    """
    default = Path.home() / ".cache" / "frontrunner" / f"mergekit-{VERSIONS['mergekit']}"
    folder = Path(os.environ.get("FRONTRUNNER_MERGEKIT", default))
    commands = folder / "bin"
    if not (commands / "mergekit-yaml").exists():
        print(f"installing mergekit into {folder}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        pins = [f"{name}=={version}" for name, version in VERSIONS.items()]
        subprocess.run([commands / "python", "-m", "pip", "install", "-q", *pins], check=True)
    return commands


def mergekit_command(commands: Path, recipe: dict[str, Any], work: Path) -> list[str]:
    """The command that merges by a recipe, which is written to ``work/recipe.yml``, into
    ``work/out``."""
    file = work / "recipe.yml"
    file.write_text(json.dumps(recipe), encoding="utf-8")  # JSON is YAML
    return [
        *(str(commands / "mergekit-yaml"), str(file), str(work / "out")),
        *("--quiet", "--no-copy-tokenizer", "--random-seed", "0", "--num-threads", "1"),
    ]


@dataclass(frozen=True)
class Llama:
    """The sizes of a Llama model whose input and output embeddings differ."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    vocabulary: int

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors of a checkpoint by name."""
        h, i = self.hidden, self.intermediate
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary, h)}
        for layer in range(self.layers):
            parts = {
                **{f"self_attn.{p}_proj": (h, h) for p in "qkvo"},
                **{"mlp.gate_proj": (i, h), "mlp.up_proj": (i, h), "mlp.down_proj": (h, i)},
                **{"input_layernorm": (h,), "post_attention_layernorm": (h,)},
            }
            shapes |= {f"model.layers.{layer}.{n}.weight": s for n, s in parts.items()}
        return shapes | {"model.norm.weight": (h,), "lm_head.weight": (self.vocabulary, h)}

    @property
    def parameters(self) -> int:
        return sum(math.prod(s) for s in self.shapes().values())

    def config(self, dtype: str) -> dict[str, Any]:
        """Its ``config.json``."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": False,
            "torch_dtype": dtype,
        }


def write_family(
    folder: Path, model: Llama, names: list[str], dtype: str, shards: int, seed: int = 0
) -> None:
    """A random base, and experts that differ from it by a random task vector; norms are shared.

    Args:
        folder: gets one checkpoint for each name; the first is the base's.
        model: sizes.
        names: folders of the base and the experts.
        dtype: ``float32`` or ``bfloat16``.
        shards: files of each checkpoint.
        seed: of all numbers.
    """
    import torch
    from safetensors.torch import save_file

    for index, name in enumerate(names):
        target = folder / name
        target.mkdir(parents=True)
        (target / "config.json").write_text(json.dumps(model.config(dtype)), encoding="utf-8")
        weight_map: dict[str, str] = {}
        for i, keys in enumerate(divide(model.shapes(), shards), start=1):
            file = f"model-{i:05d}-of-{shards:05d}.safetensors"
            tensors = {}
            for key in keys:
                tensors[key] = draw(key, model.shapes()[key], seed, index).to(getattr(torch, dtype))
            save_file(tensors, target / file, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(keys, file)
        (target / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {}, "weight_map": weight_map}), encoding="utf-8"
        )


def draw(key: str, shape: tuple[int, ...], seed: int, index: int) -> Any:
    """One tensor in float32 of the base (index 0) or of an expert."""
    import torch

    from frontrunner.seeds import generator

    base = torch.randn(shape, generator=generator(seed, key)) * 0.02
    if index == 0 or "norm" in key:
        return base + 1 if "norm" in key else base
    return base.add_(torch.randn(shape, generator=generator(seed, key, index)), alpha=0.002)


def divide(shapes: dict[str, tuple[int, ...]], shards: int) -> Iterator[list[str]]:
    """Names in order, in as many parts of about one size."""
    total, done = sum(math.prod(s) for s in shapes.values()), 0
    parts: list[list[str]] = [[] for _ in range(shards)]
    for key, shape in shapes.items():
        parts[min(shards - 1, done * shards // total)].append(key)
        done += math.prod(shape)
    yield from parts
