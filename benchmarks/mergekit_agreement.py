"""Largest difference between merged tensors of mergekit and ours, on small Llama checkpoints.

Both read the same files, merge in float32 and write files, which are compared. DARE draws its own
random numbers in each, so there the share of numbers kept, their factor and moments are compared.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from _common import HERE, _commit, machine, one_thread
from _merge import merge
from _mergekit import VERSIONS, Llama, environment, mergekit_command, write_family
from torch import Tensor

from frontrunner import files
from frontrunner.methods.merging.average import Averaging
from frontrunner.methods.merging.dare import Dare
from frontrunner.methods.merging.slerp import Slerp
from frontrunner.methods.merging.task_arithmetic import TaskVectors
from frontrunner.methods.merging.ties import Ties
from frontrunner.pareto_sets.merged import Rule
from frontrunner.weights.files import Safetensors

MODEL = Llama(hidden=128, intermediate=344, layers=4, heads=4, vocabulary=2048)
EQUAL, UNEQUAL, THREE = (0.5, 0.5), (0.7, 0.3), (0.5, 0.3, 0.2)


@dataclass(frozen=True)
class Case:
    """One merge: what we call it, our rule and its coefficient, and mergekit's recipe."""

    name: str
    rule: Rule
    weights: Sequence[float]
    method: str
    scale: float = 1.0
    settings: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def recipe(self, folder: Path, experts: Sequence[str], dtype: str) -> dict[str, Any]:
        models = [
            {"model": str(folder / e), "parameters": {"weight": w, **self.options}}
            for e, w in zip(experts, self.weights, strict=True)
        ]
        recipe = {
            "merge_method": self.method,
            "models": models,
            "parameters": self.settings,
            "dtype": "float32",
            "out_dtype": dtype,
        }
        if self.method == "slerp":  # its base is the model at t = 0, its first
            models[:] = [{"model": str(folder / e)} for e in experts]
            return recipe | {"base_model": models[0]["model"], "parameters": {"t": self.weights[1]}}
        return recipe if self.method == "linear" else recipe | {"base_model": str(folder / "base")}


def ties(weights: Sequence[float], density: float, scale: float = 1.0) -> Case:
    name = f"TIES, density {density}, λ {scale}"
    settings = {"normalize": True, "lambda": scale}
    rule = Ties(density, "tensor")
    return Case(name, rule, weights, "ties", scale, settings, {"density": density})


CASES = [
    *(Case("linear", Averaging(), w, "linear") for w in (EQUAL, UNEQUAL, THREE)),
    # mergekit adds w_k τ_k; weights that sum to 1 make this our s = 1, λ = 1.5 our s = 1.5.
    *(Case("task arithmetic", TaskVectors(), w, "task_arithmetic") for w in (EQUAL, THREE)),
    Case("task arithmetic", TaskVectors(), UNEQUAL, "task_arithmetic", 1.5, {"lambda": 1.5}),
    *(ties(w, 0.2) for w in (EQUAL, UNEQUAL, THREE)),
    *(ties(w, 0.5, 0.3) for w in (EQUAL, THREE)),
    *(Case("SLERP", Slerp(), w, "slerp") for w in (EQUAL, UNEQUAL)),
]


def merged(
    case: Case, folder: Path, commands: Path, work: Path, dtype: str
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, mergekit's tensor and ours."""
    experts = ["a", "b", "c"][: len(case.weights)]
    work.mkdir()
    command = mergekit_command(commands, case.recipe(folder, experts, dtype), work)
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"mergekit: {done.stderr[-2000:]}")
    paths = [folder / e for e in experts]
    merge(case.rule, folder / "base", paths, case.weights, case.scale, work / "ours")
    theirs, ours = Safetensors(work / "out"), Safetensors(work / "ours")
    if set(theirs.shapes()) != set(ours.shapes()):
        raise SystemExit("mergekit and ours wrote different tensors")
    for key in ours.shapes():
        yield key, theirs.read(key), ours.read(key)


def differences(folder: Path, commands: Path, work: Path, dtype: str) -> Iterator[str]:
    """Rows of the table: largest difference, and the share of numbers that differ."""
    for i, case in enumerate(CASES):
        largest, unequal, total = 0.0, 0, 0
        for _, theirs, ours in merged(case, folder, commands, work / f"{dtype}-{i}", dtype):
            largest = max(largest, float((theirs.double() - ours.double()).abs().max()))
            unequal, total = unequal + int((theirs != ours).sum()), total + ours.numel()
        weights = ", ".join(f"{w:g}" for w in case.weights)
        yield f"| {case.name} | {weights} | {dtype} | {largest:.1e} | {unequal / total:.2%} |"


def distributions(folder: Path, commands: Path, work: Path) -> Iterator[str]:
    """Rows of DARE's table: of one expert's task vector, what was kept and how."""
    base, expert = Safetensors(folder / "base"), Safetensors(folder / "a")
    for density in (0.8, 0.3, 0.1):
        case = Case("DARE", Dare(density, "none", 0), (1.0,), "dare_linear")
        case.options["density"] = density
        found: list[list[Tensor]] = [[], [], []]
        for key, theirs, ours in merged(
            case, folder, commands, work / f"dare-{density}", "float32"
        ):
            start = base.read(key)
            for rows, tensor in zip(found, (expert.read(key), theirs, ours), strict=True):
                rows.append((tensor - start).double().reshape(-1))
        delta, *both = (torch.cat(rows) for rows in found)
        changed = delta != 0
        for name, sparse in zip(("mergekit", "ours"), both, strict=True):
            kept = changed & (sparse != 0)
            share = float(kept.sum() / changed.sum())
            error = math.sqrt(density * (1 - density) / int(changed.sum()))
            factor = (sparse[kept] * delta[kept]).sum() / delta[kept].square().sum()
            values = sparse[kept]
            yield (
                f"| {density} | {name} | {share:.4f} ({(share - density) / error:+.1f}) | "
                f"{factor:.4f} | {values.mean():+.1e} | {values.var():.3e} | "
                f"{sparse.mean():+.1e} | {delta.mean():+.1e} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args()
    one_thread("cpu")
    commands = environment()
    lines = []
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        for dtype in ("float32", "bfloat16"):
            write_family(work / f"models-{dtype}", MODEL, ["base", "a", "b", "c"], dtype, 2)
            lines += differences(work / f"models-{dtype}", commands, work, dtype)
        rows = list(distributions(work / "models-float32", commands, work))
    versions = {p: metadata.version(p) for p in ("torch", "numpy")}
    text = "\n".join(
        [
            "# Agreement with mergekit",
            "",
            f"`python benchmarks/mergekit_agreement.py`, {datetime.now(UTC):%Y-%m-%d}, commit "
            f"{_commit()}, {machine()['cpu']}, Python {platform.python_version()}, "
            f"torch {versions['torch']}, NumPy {versions['numpy']}; mergekit "
            f"{VERSIONS['mergekit']} with torch {VERSIONS['torch']}, in its own environment.",
            "",
            f"Llama checkpoints of {MODEL.parameters:,} parameters in two shards: a random base, "
            "and experts that differ from it by random task vectors, except in the norms, which "
            "all share. Merged in float32, written in the dtype given.",
            "",
            "| method | weights | files | largest difference | numbers that differ |",
            "|---|---|---|---|---|",
            *lines,
            "",
            "DARE, one expert, weight 1 (numbers where expert and base differ). In brackets: "
            "standard errors from the density. mergekit rescales what is kept so that each "
            "tensor's sum of magnitudes is unchanged, ours by 1/density as published.",
            "",
            "| density | | share kept | factor | mean kept | variance kept | mean | "
            "task vector's |",
            "|---|---|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )
    print(text)
    files.write_text(options.out / "mergekit_agreement.md", text)


if __name__ == "__main__":
    main()
