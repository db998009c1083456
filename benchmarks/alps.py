"""ADMM of ALPS on one layer: an iteration against its bare matrix products, convergence, memory.

An iteration solves with (H + ρI) and selects a support. Its bare products are those it cannot do
without: one of d c² with the inverse, or two with the eigenvectors, and the inverse itself (c³)
each time ρ changes. Both are timed on the same matrices, in turn. Convergence and memory are those
of whole solves to the stopping rule, each in a process of its own; memory is what a solve takes
beyond the weight and the Gram matrix it is given, also stated in matrices of the weight's size.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

import torch
from _common import arguments, clock, interleave, one_thread, ratio, spread, write
from torch import Tensor

from frontrunner.sparse.admm import Schedule, admm
from frontrunner.sparse.patterns import Unstructured
from frontrunner.sparse.quadratic import Quadratic, refine
from frontrunner.tracking import manifest

SHAPES = {"wide": (1024, 4096), "square": (1024, 1024), "tall": (4096, 1024)}  # inputs, outputs
ITERATIONS, SPARSITY = 30, 0.7


def layer(c: int, d: int, device: str) -> tuple[Tensor, Tensor]:
    """A weight (d, c) and the Gram matrix of correlated inputs with a decaying spectrum."""
    stream = torch.Generator().manual_seed(0)
    spectrum = torch.arange(1, c + 1).float().pow(-0.5)
    mixing = torch.linalg.qr(torch.randn(c, c, generator=stream))[0]
    inputs = (torch.randn(2 * c, c, generator=stream) * spectrum) @ mixing
    inputs = inputs * torch.randn(c, generator=stream).exp()
    weight = torch.randn(d, c, generator=stream)
    return weight.to(device), (inputs.mT @ inputs).to(device)


def products(problem: Quadratic, dense: Tensor, iterations: int, every: int) -> None:
    """What ``iterations`` of ADMM multiply, and nothing else."""
    formed = dense.shape[1] <= every * len(dense)
    values, vectors = problem.eigen
    out = torch.empty_like(dense)
    for i in range(iterations):
        if not formed:
            torch.mm((dense @ vectors).div_(values + 0.1), vectors.mT, out=out)
            continue
        if i % every == 0:
            inverse = (vectors / (values + 0.1 + i)) @ vectors.mT
        torch.mm(dense, inverse, out=out)


def iteration(c: int, d: int, repeats: int, device: str) -> dict[str, Any]:
    weight, gram = layer(c, d, device)
    problem = Quadratic(gram)
    dense, pattern = problem.scaled(weight), Unstructured(SPARSITY)
    _ = problem.eigen
    # A limit that is reached: the support still changes.
    schedule = Schedule(limit=ITERATIONS)
    seconds = interleave(
        {
            "admm": lambda: admm(problem, dense, pattern, schedule),
            "products": lambda: products(problem, dense, ITERATIONS, schedule.every),
        },
        repeats,
        device,
    )
    found = ratio(seconds["admm"], seconds["products"])
    per = {k: min(v) / ITERATIONS for k, v in seconds.items()}
    return {"ratio": found, "seconds_per_iteration": per}


def solve(c: int, d: int, device: str) -> dict[str, Any]:
    """One whole solve, in a fresh process."""
    one_thread(device)
    weight, gram = layer(c, d, device)
    manifest.reset_peak_memory()
    before = _memory(device)
    start = clock(device)
    problem = Quadratic(gram)
    _ = problem.eigen
    decomposed = clock(device)
    dense = problem.scaled(weight)
    found = admm(problem, dense, Unstructured(SPARSITY), Schedule(), traced=False)
    solved = clock(device)
    refined = refine(problem, dense @ problem.matrix, found.weight, found.support)
    refined = problem.unscaled(refined)
    end = clock(device)
    zero = torch.zeros_like(weight)
    extra = _memory(device) - before
    return {
        "iterations": found.iterations,
        "relative_error": problem.error(refined, weight) / problem.error(zero, weight),
        "seconds": {
            "eigh": decomposed - start,
            "admm": solved - decomposed,
            "refinement": end - solved,
        },
        "memory_mb": round(extra / 1e6),
        "memory_in_weights": round(extra / (4 * c * d), 1),
    }


def _memory(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return manifest.peak_memory_bytes()


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--solve", nargs=2, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.solve:
        print(json.dumps(solve(*options.solve, options.device)))
        return
    one_thread(options.device)
    results: dict[str, Any] = {}
    for name, (c, d) in SHAPES.items():
        found = iteration(c, d, options.repeats or 5, options.device)
        command = [sys.executable, __file__, "--solve", str(c), str(d), "--device", options.device]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found |= json.loads(done.stdout)
        results[f"{name}: {c} inputs, {d} outputs"] = found
        seconds = found["seconds"]
        print(
            f"{name:7s} c={c} d={d}: iteration / products {spread(found['ratio'])}; "
            f"{found['iterations']} iterations in {seconds['admm']:.1f} s, eigh "
            f"{seconds['eigh']:.1f} s, refinement {seconds['refinement']:.1f} s; "
            f"{found['memory_mb']} MB beyond its inputs ({found['memory_in_weights']} weights)",
            flush=True,
        )
    settings = {"sparsity": SPARSITY, "iterations timed": ITERATIONS}
    write(f"alps-{options.device}", options.out, settings, results)


if __name__ == "__main__":
    main()
