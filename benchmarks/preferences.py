"""Evaluating 50 preferences of one low-rank set, against 50 checkpoints read one after the other.

Both score the same language model (Llama, 13.7M parameters in float32, rank 8 on every linear
layer, three objectives) on the same tokens, few (8) and more (128):

- ``low rank``: one network in memory; a preference changes the factors beside its layers;
- ``folded``: the same set, its weights added up and copied into the network for each preference;
- ``read``: each checkpoint's file is read into one network that is there already;
- ``loaded``: each checkpoint as users load it, ``LlamaForCausalLM.from_pretrained``;
- ``written``: the same, writing the checkpoint included.

Traffic counts the bytes that are read and written to go from one preference's model to the next,
the forward pass excluded. First it is checked that all give the same losses.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from _common import arguments, interleave, one_thread, ratio, spread, write
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import cross_entropy

from frontrunner.pareto_sets.low_rank import LowRank, LowRankSet, target_layers
from frontrunner.preferences import dirichlet
from frontrunner.weights.networks import named_state, place

os.environ.setdefault("HF_HUB_OFFLINE", "1")
MODELS, OBJECTIVES, RANK = 50, 3, 8


def write_weights(low_rank: LowRankSet, preference: np.ndarray, folder: Path) -> None:
    """One preference's model as the weights of a checkpoint."""
    tensors = {n: t.contiguous() for n, t in low_rank.state(preference)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__)
    parser.add_argument("--tokens", type=int, nargs="+", default=[8, 128], help="scored, per model")
    options = parser.parse_args()
    one_thread(options.device)
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=4096, hidden_size=384, intermediate_size=1024, num_hidden_layers=6,
        num_attention_heads=6, num_key_value_heads=6,
    )  # fmt: skip
    network = LlamaForCausalLM(shape).eval()
    change = LowRank(target_layers(network, ["model.*"]), RANK, OBJECTIVES)
    with torch.no_grad():
        for p in change.parameters():
            p.normal_(std=0.05)
    names = [n for n in named_state(network) if n in network.state_dict()]
    low_rank = LowRankSet(network, names, change, dirichlet(OBJECTIVES, MODELS, 1.0, seed=0))
    text = torch.randint(4096, (1, max(options.tokens) + 1))

    @torch.no_grad()
    def score(module: nn.Module, length: int) -> float:
        logits = module(text[:, :length]).logits
        return float(cross_entropy(logits[0], text[0, 1 : length + 1]))

    plain, load = LlamaForCausalLM(shape).eval(), LlamaForCausalLM.from_pretrained
    with tempfile.TemporaryDirectory() as scratch:
        folders = []
        for i, preference in enumerate(low_rank.preferences):
            folder = Path(scratch) / str(i)
            shape.save_pretrained(folder)
            write_weights(low_rank, preference, folder)
            folders.append(folder)

        def from_files(folder: Path) -> nn.Module:
            place(plain, load_file(folder / "model.safetensors").items())
            return plain

        def written(preference: np.ndarray) -> nn.Module:
            write_weights(low_rank, preference, folders[0])
            return load(folders[0])

        def folded(preference: np.ndarray) -> nn.Module:
            place(plain, low_rank.state(preference))
            return plain

        def every(make: Callable, items: list) -> Callable[[int], list[float]]:
            return lambda length: [score(make(item), length) for item in items]

        preferences = list(low_rank.preferences)
        variants = {
            "low rank": every(low_rank.materialize, preferences),
            "folded": every(folded, preferences),
            "read": every(from_files, folders),
            "loaded": every(load, folders),
            "written": every(written, preferences),
        }
        scores = {name: variant(8) for name, variant in variants.items()}
        for name, found in scores.items():
            if not np.allclose(found, scores["low rank"], atol=1e-4):
                raise SystemExit(f"{name} scores differ from low rank: nothing is measured")
        seconds = {
            length: interleave(
                {name: partial(variant, length) for name, variant in variants.items()},
                options.repeats or 5,
                options.device,
            )
            for length in options.tokens
        }
        switching = interleave(
            {
                "low rank": lambda: [low_rank.materialize(p) for p in preferences],
                "read": lambda: [from_files(f) for f in folders],
            },
            options.repeats or 5,
            options.device,
        )
    model = sum(t.nbytes for _, t in low_rank.base())
    factors = sum(
        a.nbytes + c.nbytes + a.nbytes  # A and the cores are read, A G(γ) is written
        for a, c in zip(change.left, change.core, strict=True)
    )
    results = {
        **{f"{name} : low rank, {length} tokens, time": ratio(found[name], found["low rank"])
           for length, found in seconds.items() for name in list(variants)[1:]},
        "read : low rank, time without scoring": ratio(switching["read"], switching["low rank"]),
        "read : low rank, bytes moved": round(2 * model / factors, 1),
        "50 checkpoints : low rank, stored bytes": round(
            MODELS * model / (model + sum(p.nbytes for p in change.parameters())), 1
        ),
    }  # fmt: skip
    for name, value in results.items():
        print(f"{name}: {spread(value) if isinstance(value, dict) else value}")
    settings = {"models": MODELS, "rank": RANK, "tokens": options.tokens, "model_bytes": model}
    print(write(f"preferences-{options.device}", options.out, settings, results))


if __name__ == "__main__":
    main()
