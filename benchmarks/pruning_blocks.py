"""Seconds per block and peak memory of pruning a randomly initialised Llama, block by block.

``--device cuda`` takes the shape of a 7-billion-parameter Llama (4,096 wide, 11,008 in its
feed-forward layers, 32 heads, bfloat16) with 128 segments of 2,048 tokens for each of three
objectives; a CPU takes one sixteenth of every width and an eighth of the tokens. Two blocks stand
for all: they are equal in shape, and only one is on the device at a time. The embedding is cut to
a few thousand entries, which no block sees. SparseGPT, ALPS and MOSP (both cores) take turns on the
same model and the same segments; ratios are against ALPS in the same run, seconds those of the
quickest repetition.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from _common import arguments, ratio, spread, write

from frontrunner.methods.pruning.alps import ALPS
from frontrunner.methods.pruning.base import Pruner
from frontrunner.methods.pruning.blockwise import Blockwise, Devices
from frontrunner.methods.pruning.mosp import MOSP
from frontrunner.methods.pruning.sparsegpt import SparseGPT
from frontrunner.models.blocks import Decoder
from frontrunner.sparse.store import Store
from frontrunner.tracking import manifest

BLOCKS, OBJECTIVES, VOCABULARY = 2, 3, 4096
SHAPES = {
    "cuda": {"width": 4096, "inner": 11008, "heads": 32, "segments": 128, "length": 2048},
    "cpu": {"width": 256, "inner": 688, "heads": 4, "segments": 64, "length": 256},
}


def llama(width: int, inner: int, heads: int, length: int, dtype: torch.dtype) -> Any:
    """A Llama with random weights and as many blocks as are timed, on the CPU."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=BLOCKS,
        num_attention_heads=heads,
        max_position_embeddings=length,
        use_cache=False,
    )
    return LlamaForCausalLM(config).to(dtype).eval()


def timed(method: Pruner, decoder: Decoder, segments: list[torch.Tensor], device: str) -> Any:
    """One fit of the blocks: seconds per block of forward passes and of solving, peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        blockwise = Blockwise(
            decoder,
            method.patterns(decoder.shapes()),
            segments,
            Devices([device]),
            Store(Path(folder)),
            batch=8 if device == "cpu" else 4,
        )
        manifest.reset_peak_memory()
        start = time.perf_counter()
        method.go(blockwise, method.anchors(OBJECTIVES))
        total = time.perf_counter() - start
        stored = sum(path.stat().st_size for path in Path(folder).iterdir())
    memory = torch.cuda.max_memory_allocated() if device == "cuda" else manifest.peak_memory_bytes()
    parts = {name: seconds / BLOCKS for name, seconds in blockwise.seconds.items()}
    return {
        "seconds_per_block": total / BLOCKS,
        **{f"{name}_seconds_per_block": seconds for name, seconds in parts.items()},
        "peak_memory_gb": memory / 1e9,
        "stored_mb_per_block": stored / BLOCKS / 1e6,
    }


def main() -> None:
    options = arguments(__doc__).parse_args()
    device, shape = options.device, dict(SHAPES[options.device])
    if device == "cpu":
        torch.set_num_threads(1)
    count, length = shape.pop("segments"), shape["length"]
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    decoder = Decoder(llama(**shape, dtype=dtype))
    stream = torch.Generator().manual_seed(0)
    segments = [
        torch.randint(VOCABULARY, (count, length), generator=stream) for _ in range(OBJECTIVES)
    ]
    methods: dict[str, Pruner] = {
        "sparsegpt": SparseGPT(36),
        "alps": ALPS(36),
        "mosp": MOSP(36),
        "mosp, core=magnitude": MOSP(36, core="magnitude"),
    }
    found: dict[str, list[Any]] = {name: [] for name in methods}
    for _ in range(options.repeats or 3):  # in turn: what slows the machine slows all
        for name, method in methods.items():
            found[name].append(timed(method, decoder, segments, device))
    results: dict[str, Any] = {}
    seconds = {name: [x["seconds_per_block"] for x in rows] for name, rows in found.items()}
    for name, rows in found.items():
        best = min(rows, key=lambda x: x["seconds_per_block"])
        results[name] = {**best, "over_alps": ratio(seconds[name], seconds["alps"])}
        print(
            f"{name:22s} {best['seconds_per_block']:8.2f} s per block "
            f"({best['calibration_seconds_per_block']:.2f} forward and Gram, "
            f"{best['solve_seconds_per_block']:.2f} solving), "
            f"{spread(results[name]['over_alps'])} of ALPS, "
            f"peak {best['peak_memory_gb']:.2f} GB, {best['stored_mb_per_block']:.0f} MB stored"
        )
    settings = {**SHAPES[device], "blocks": BLOCKS, "objectives": OBJECTIVES, "sparsity": 0.7}
    write(f"pruning_blocks-{device}", options.out, settings, results)


if __name__ == "__main__":
    main()
