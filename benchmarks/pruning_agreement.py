"""Agreement of Wanda and SparseGPT with llm-compressor, and four methods side by side, on one small
trained Llama.

`agreement` prunes the same checkpoint with the same calibration segments in both, and compares
perplexities on the test split, masks and weights. `table` prunes with our methods at several
sparsities: perplexities, and the error of each pruned layer's outputs.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from _common import HERE, _commit, machine, one_thread
from _llm_compressor import VERSIONS, prune
from safetensors.torch import load_file
from torch import Tensor

import frontrunner
from frontrunner import files
from frontrunner.methods.pruning.blockwise import Blockwise, Devices, Group, Stream
from frontrunner.models.blocks import Decoder
from frontrunner.run import Run
from frontrunner.sparse.patterns import pattern_of
from frontrunner.sparse.store import Models, Store
from frontrunner.tasks.pruning import PruningTask
from frontrunner.weights.networks import place

QUIET = ("logger=none", "runner.progress=none", "runner.threads=1", "runner.accelerator=cpu")
SMALL = (
    *("model.width=32", "model.layers=2", "model.vocabulary=512", "model.base_steps=30"),
    *("task.window=32", "task.segments=8", "task.windows.test=4"),
)


@dataclass(frozen=True)
class Case:
    """One of our methods at one sparsity, or with N:M."""

    method: str
    level: str

    def words(self) -> list[str]:
        key = "pattern" if ":" in self.level else "sparsity"
        return [f"method=pruning/{self.method}", f"method.{key}={self.level}"]

    @property
    def name(self) -> str:
        return f"{self.method}-{self.level.replace(':', 'of')}"

    def recipe(self) -> dict[str, object]:
        """llm-compressor's, which with N:M says how many of M go: the same for 2:4."""
        semi = ":" in self.level
        common = {
            "sparsity": 0.5 if semi else float(self.level),
            "mask_structure": self.level if semi else "0:0",
        }
        if self.method == "wanda":
            return {"class": "WandaPruningModifier", **common}
        own = {"block_size": 128, "dampening_frac": 0.01}
        return {"class": "SparseGPTModifier", **common, **own}


AGREEMENT = [Case(m, level) for m in ("wanda", "sparsegpt") for level in ("0.5", "0.7", "2:4")]
TABLE = [
    Case(method, level)
    for level in ("0.5", "0.6", "0.7", "0.8", "2:4")
    for method in ("magnitude", "wanda", "sparsegpt", "alps")
]


def run(case: Case, words: Sequence[str], folder: Path, *more: str) -> Run:
    """Our run of a case on the concatenated calibration data: one model."""
    return frontrunner.run([*case.words(), *words, *QUIET, *more, f"output={folder}"])


def perplexities(task: PruningTask, tensors: Mapping[str, Tensor] | None = None) -> np.ndarray:
    """On the test split, (m,), of the dense model, or with other tensors in it."""
    network = task.network().eval()
    if tensors is not None:
        place(network, tensors.items())
    return task.measure(network, "test", what="perplexities")


def pruned(found: Run) -> dict[str, Tensor]:
    """The pruned layers (d, c) of a run's one model."""
    chosen = found.pareto_set
    return {layer.name: weight for layer, weight in chosen.pruned(chosen.preferences[0])}


def everything(task: PruningTask) -> dict[str, Tensor]:
    """Every tensor of the dense checkpoint."""
    weights = task.weights()
    return {name: weights.read(name) for name in weights.shapes()}


# ---------------------------------------------------------------------- agreement


def agreement(words: Sequence[str], work: Path) -> Iterator[str]:
    """Rows of the table: ours with ``rounding=truncate``, as published, against llm-compressor."""
    (work / "theirs").mkdir()
    found = {}
    again: dict[Case, dict[str, Tensor]] = {}
    for case in AGREEMENT:
        more = [] if ":" in case.level else ["method.rounding=truncate"]
        found[case] = run(case, words, work / "ours", *more)
        # Other batches, other roundings of the same sums: what differs then is no one's fault.
        again[case] = pruned(run(case, words, work / "ours", *more, "method.batch=1"))
    task = found[AGREEMENT[0]].task
    segments = torch.cat([task.calibration(k) for k in range(task.m)]).tolist()
    recipes = {case.name: case.recipe() for case in AGREEMENT}
    theirs = prune(task.folder, segments, recipes, work / "theirs")
    dense = everything(task)
    for case, ours in found.items():
        mine, other = pruned(ours), load_file(theirs[case.name])
        scores = perplexities(task, {**dense, **mine}), perplexities(task, other)
        untouched = all(torch.equal(other[name], dense[name]) for name in set(dense) - set(mine))
        if not untouched:
            raise SystemExit("llm-compressor changed other tensors than ours")
        total = sum(w.numel() for w in mine.values())
        masks, rounding = (
            sum(int(((w != 0) != (second[n] != 0)).sum()) for n, w in mine.items())
            for second in (other, again[case])
        )
        counts = max(
            abs(int(w.count_nonzero()) - int(other[n].count_nonzero())) for n, w in mine.items()
        )
        zeros = [1 - sum(int(w[n].count_nonzero()) for n in mine) / total for w in (mine, other)]
        same = max(
            float((w - other[n])[(w != 0) == (other[n] != 0)].abs().max()) for n, w in mine.items()
        )
        gap = float(np.abs(scores[0] / scores[1] - 1).max())
        yield (
            f"| {case.method} | {case.level} | {listed(scores[1])} | {listed(scores[0])} | "
            f"{gap:.3%} | {zeros[1]:.4%} | {zeros[0]:.4%} | {counts} | {masks} of {total} | "
            f"{rounding} | {same:.1e} |"
        )


# ---------------------------------------------------------------------- table


def errors(found: Run) -> list[float]:
    """‖XŴᵀ - XWᵀ‖² / ‖XŴᵀ‖² of each pruned layer, with the calibration inputs that the pruned
    blocks before it give."""
    weights, task = pruned(found), found.task
    assert isinstance(task, PruningTask)
    decoder, measured = Decoder(task.network()), []

    def size(weight: Tensor, gram: Tensor) -> float:
        return float(((weight @ gram).double() * weight.double()).sum())

    def solve(groups: Sequence[Group], devices: Devices) -> Mapping[str, Models]:
        for group in groups:
            gram = torch.stack(group.grams).sum(0)
            for name, dense in group.dense.items():
                measured.append(size(weights[name] - dense, gram) / size(dense, gram))
        names = [name for group in groups for name in group.dense]
        return {name: Models([weights[name]], [weights[name] != 0]) for name in names}

    layers = found.pareto_set.layers.values()
    patterns = {layer.name: pattern_of(layer.pattern) for layer in layers}
    segments = [task.calibration(k) for k in range(task.m)]
    with tempfile.TemporaryDirectory() as scratch:
        store = Store(Path(scratch))
        blockwise = Blockwise(decoder, patterns, segments, Devices(["cpu"]), store)
        blockwise.run(0, [0], [Stream(k) for k in range(task.m)], solve)
    return measured


def table(words: Sequence[str], work: Path) -> Iterator[str]:
    """Rows: perplexities, mean error of layers, seconds."""
    for number, case in enumerate(TABLE):
        found = run(case, words, work)
        task = found.task
        if number == 0:
            yield f"| | dense | {listed(perplexities(task))} | | |"
        dense = everything(task)
        scores = perplexities(task, {**dense, **pruned(found)})
        seconds = found.record["cost"]["solve_seconds"]
        yield (
            f"| {case.level} | {case.method} | {listed(scores)} | "
            f"{np.mean(errors(found)):.4f} | {seconds:.2f} |"
        )


def listed(values: np.ndarray) -> str:
    return " / ".join(f"{value:.3f}" for value in values)


# ---------------------------------------------------------------------- report


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("what", choices=["agreement", "table"], nargs="?", default="agreement")
    parser.add_argument(
        "--small",
        action="store_true",
        help="a tinier model, to try this program: what it prints is not kept",
    )
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args()
    one_thread("cpu")
    words = ["task=text_domains", *(SMALL if options.small else ())]
    with tempfile.TemporaryDirectory() as scratch:
        rows = list((agreement if options.what == "agreement" else table)(words, Path(scratch)))
    versions = ", ".join(f"{p} {metadata.version(p)}" for p in ("torch", "transformers"))
    judge = f" llm-compressor {VERSIONS['llmcompressor']} in its own environment." * (
        options.what == "agreement"
    )
    head = {
        "agreement": [
            "| method | level | perplexity, theirs | ours | largest difference | zeros, theirs | "
            "ours | counts differ by | masks differ in | by rounding | weights differ by |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
        ],
        "table": [
            "| level | method | perplexity | mean relative error of layers | solving, s |",
            "|---|---|---|---|---|",
        ],
    }[options.what]
    title = {"agreement": "Agreement with llm-compressor", "table": "Pruning side by side"}
    text = "\n".join(
        [
            f"# {title[options.what]}",
            "",
            f"`python benchmarks/pruning_agreement.py {options.what}`, "
            f"{datetime.now(UTC):%Y-%m-%d}, commit {_commit()}, {machine()['cpu']}, Python "
            f"{platform.python_version()}, {versions}.{judge}",
            "",
            NOTES[options.what],
            "",
            *head,
            *rows,
            "",
        ]
    )
    print(text)
    name = "pruning_agreement" if options.what == "agreement" else "pruning_table"
    if not options.small:
        files.write_text(options.out / f"{name}.md", text)


_MODEL = (
    "The tiny Llama of `task=text_domains` with its default settings; calibration on all three "
    "domains' segments together; perplexities of prose / code / arithmetic on the test split, "
    "computed by our code."
)
NOTES = {
    "agreement": f"{_MODEL} Ours has `method.rounding=truncate` where a sparsity is given. Counts: "
    "largest difference of a layer's non-zeros. By rounding: in how many entries our own mask "
    "differs if Gram matrices are summed segment by segment; where two scores are equal but for "
    "rounding, one choice changes all of a row's later weights. Weights: largest difference where "
    "masks agree.",
    "table": f"{_MODEL} Errors are ‖XŴᵀ - XWᵀ‖² / ‖XŴᵀ‖² with inputs from pruned blocks before the "
    "layer, averaged over layers. Seconds on one thread of a machine that others may use.",
}


if __name__ == "__main__":
    main()
