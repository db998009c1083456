"""How the embedded task was designed: fronts of the chosen network and of those that degenerate.

    python experiments/multi_digits/design.py [--seeds 3] [--output runs/design]

Prints, for each trunk and method, the hypervolume, the range of each objective along the front and
the share of non-dominated points; and, for the chosen trunk, what λ does to COSMOS.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

import frontrunner

HERE = Path(__file__).parent
QUIET = ["task=multi_digits", "logger=none", "runner.progress=none", "runner.threads=1"]
TRUNKS = {
    "chosen: linear 32, tanh 6": [],
    "linear 32, tanh 8": ["model.network.hidden=[32,8]"],
    "relu 32, tanh 4": ["model.network.hidden=[32,4]", "model.network.activation=[relu,tanh]"],
    "relu 32, tanh 6": ["model.network.activation=[relu,tanh]"],
    "wide: relu 64, relu 32": [
        "model.network.hidden=[64,32]",
        "model.network.activation=[relu,relu]",
    ],
}
METHODS = {
    "linear": ["method=learning/linear_scalarization"],
    "chebyshev": ["method=learning/chebyshev"],
    "cosmos, λ = 0": ["method=learning/cosmos", "method.cosine_weight=0"],
}


def main() -> int:
    """Print the two tables and write them to design.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("runs/design"))
    options = parser.parse_args()
    head = ["| {} | method | hypervolume | range left | range right | non-dominated |"]
    rule = "|---|---|---|---|---|---|"
    lines = [
        f"<!-- python experiments/multi_digits/design.py --seeds {options.seeds} -->",
        "",
        f"Test losses in nats, reference (2.5, 2.5), 15 points, mean ± deviation over seeds "
        f"0–{options.seeds - 1}.",
        "",
        head[0].format("trunk"),
        rule,
    ]
    for trunk, network in TRUNKS.items():
        for name, method in METHODS.items():
            lines.append(line(trunk, name, [*network, *method], options))
    lines += ["", head[0].format("trunk"), rule]
    for weight in (0, 0.5, 1, 2, 5):
        words = ["method=learning/cosmos", f"method.cosine_weight={weight}"]
        lines.append(line("chosen", f"cosmos, λ = {weight}", words, options))
    text = "\n".join(lines) + "\n"
    (HERE / "design.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def line(trunk: str, name: str, words: list[str], options: argparse.Namespace) -> str:
    """One row: a configuration over seeds."""
    fronts = []
    for seed in range(options.seeds):
        print(f"  {trunk}, {name}, seed {seed}", file=sys.stderr, flush=True)
        run = frontrunner.run([*QUIET, *words, f"seed={seed}", f"output={options.output}"])
        fronts.append(run.front)
    hypervolume = [f.hypervolume() for f in fronts]
    ranges = np.array([f.indicators()["range"] for f in fronts])
    share = np.mean([f.nondominated().mean() for f in fronts])
    cells = [f"{np.mean(hypervolume):.3f} ± {np.std(hypervolume, ddof=1):.3f}"]
    cells += [f"{r.mean():.2f} ± {r.std(ddof=1):.2f}" for r in ranges.T]
    return f"| {trunk} | {name} | " + " | ".join(cells) + f" | {share:.0%} |"


if __name__ == "__main__":
    sys.exit(main())
