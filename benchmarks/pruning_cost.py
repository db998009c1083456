"""What MOSP's fit costs beside ALPS's: forward passes and Gram matrices, and solving.

Two models: the small Llama of task=text_domains, and blocks of random weights that are wide enough
for solving to take most of the time. Three objectives, one thread, repetitions in turn.

    python benchmarks/pruning_cost.py [--width 1024] [--blocks 2] [--segments 32] [--repeats 3]
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from _common import arguments, interleave, one_thread, ratio, spread, write
from torch import Tensor, nn

from frontrunner import config as configuration
from frontrunner.front import text
from frontrunner.front.objective import Objective
from frontrunner.run import build_task
from frontrunner.seeds import generator
from frontrunner.tasks.base import Batch, Split, Task
from frontrunner.tasks.causal_lm import per_objective
from frontrunner.tasks.pruning import PruningTask
from frontrunner.tasks.text import next_token_loss
from frontrunner.weights.networks import named_state
from frontrunner.weights.source import InMemory

SPARSITY = 0.7
SEGMENT = 128
VARIANTS = {
    "ALPS": ["method=pruning/alps"],
    "MOSP": ["method=pruning/mosp"],
    "MOSP, core by magnitude": ["method=pruning/mosp", "method.core=magnitude"],
}


class RandomBlocks(PruningTask):
    """A Llama of random weights, and three kinds of random text: each has tokens of its own."""

    input_shape = ()
    output_sizes = ()

    def __init__(self, width: int, blocks: int, segments: int) -> None:
        super().__init__(None)
        self.name = f"{blocks} random blocks, {width} wide"
        self.width, self.blocks, self.segments = width, blocks, segments
        self.objectives = tuple(Objective(f"text {k}", "min", "nats") for k in range(3))
        self.reference_point = (10.0,) * 3

    @cached_property
    def _network(self) -> nn.Module:
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=512,
            hidden_size=self.width,
            intermediate_size=3 * self.width,
            num_hidden_layers=self.blocks,
            num_attention_heads=self.width // 64,
        )
        torch.manual_seed(0)
        return per_objective(LlamaForCausalLM(config)).eval()

    def network(self) -> nn.Module:
        return self._network

    def weights(self) -> InMemory:
        return InMemory("random blocks", named_state(self._network))

    def calibration(self, k: int) -> Tensor:
        stream = generator(0, "random text", k)
        return torch.randint(128 * k, 128 * (k + 2), (self.segments, SEGMENT), generator=stream)

    def load(self) -> dict[Split, Any]:
        raise NotImplementedError("this model is pruned, not scored")

    def loss(self, outputs: Tensor, batch: Batch, k: int) -> Tensor:
        return next_token_loss(outputs, batch[1])


def main() -> None:
    parser = arguments(__doc__, device=False)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--segments", type=int, default=32, help="per objective, of 128 tokens")
    options = parser.parse_args()
    one_thread("cpu")
    tasks: dict[str, Task] = {
        "small Llama": build_task(configuration.compose(["task=text_domains", *VARIANTS["ALPS"]])),
        "random blocks": RandomBlocks(options.width, options.blocks, options.segments),
    }
    repeats = options.repeats or 3
    results, lines = {}, []
    for name, task in tasks.items():
        parts: dict[str, list[dict[str, float]]] = {label: [] for label in VARIANTS}
        calls = {label: _fit(task, words, parts[label]) for label, words in VARIANTS.items()}
        seconds = interleave(calls, repeats)
        results[name] = {
            label: {
                "seconds": [round(s, 2) for s in seconds[label]],
                "over_alps": ratio(seconds[label], seconds["ALPS"]),
                "parts": parts[label][1:],
            }
            for label in VARIANTS
        }
        for label in VARIANTS:
            solve = sum(p["solve_seconds"] for p in parts[label][1:])
            whole = solve + sum(p["calibration_seconds"] for p in parts[label][1:])
            lines.append(
                [
                    name,
                    label,
                    f"{sum(seconds[label]) / repeats:.1f}",
                    f"{100 * solve / whole:.0f} %",
                    spread(results[name][label]["over_alps"]),
                ]
            )
    print(text.grid(["model", "method", "fit s", "of it solving", "over ALPS"], lines))
    settings = {
        "sparsity": SPARSITY,
        "objectives": 3,
        "width": options.width,
        "blocks": options.blocks,
        "segments": options.segments,
        "segment_length": SEGMENT,
        "seconds": "of the processor, one thread; parts are wall-clock",
    }
    write("pruning_cost", options.out, settings, results)


def _fit(task: Task, words: list[str], parts: list[dict[str, float]]) -> Callable[[], None]:
    """A fit from nothing, which notes its parts."""
    config = configuration.compose(
        ["task=text_domains", *words, f"method.sparsity={SPARSITY}", "runner.progress=none"]
    )
    method = configuration.build(config.method)
    sealed = task.sealed()

    def fit() -> None:
        with tempfile.TemporaryDirectory() as folder:
            runner = configuration.build(config.runner, directory=Path(folder), seed=0)
            method.fit(sealed, runner)
            parts.append({k: v for k, v in runner.cost.items() if k.endswith("_seconds")})

    return fit


if __name__ == "__main__":
    main()
