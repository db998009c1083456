"""What each method of conf/method/learning stores, with the papers' networks and on one.

    python experiments/learning_fronts/reproduce.py

The table goes to standard output, and with every figure behind it to
experiments/learning_fronts/results/. The other tables of this folder are files of
``frontrunner table``.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

from frontrunner.errors import FrontrunnerError
from frontrunner.front import text

HERE = Path(__file__).parent
COMMAND = "python experiments/learning_fronts/reproduce.py"

# What the papers' tables have, by which kernels of the LeNet: Chen & Kwok (NeurIPS 2022).
PUBLISHED = {
    "EPO, MOO-SVGD: 15 networks": (478_650, (9, 5)),
    "COSMOS (channels)": (43_058, (5, 5)),
    "PHN (hypernetwork)": (3_243_410, (9, 5)),
    "GMOOAR (FiLM, 15 angles)": (43_685, (5, 5)),
}


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=HERE / "results")
    results = parser.parse_args().results
    try:
        table, rows = parameters()
    except FrontrunnerError as error:
        print(error, file=sys.stderr)
        return 1
    table = f"<!-- {COMMAND} -->\n\n{table}\n"
    results.mkdir(parents=True, exist_ok=True)
    (results / "parameters.md").write_text(table, encoding="utf-8")
    facts = json.dumps({"command": COMMAND, "rows": rows}, indent=1)
    (results / "parameters.json").write_text(facts + "\n", encoding="utf-8")
    print(table, flush=True)
    return 0


def parameters() -> tuple[str, list[dict[str, Any]]]:
    """Numbers that two digits' front of 15 points stores, by the network that is conditioned."""
    from frontrunner.models import conditioning, weights
    from frontrunner.models.networks import LeNet

    kinds: dict[str, tuple[Any, int]] = {
        "COSMOS (channels)": (conditioning.ChannelConditioning, 0),
        "COSMOS, PSL (FiLM)": (conditioning.FiLM, 0),
        "GMOOAR (FiLM, 15 angles)": (conditioning.FiLM, 15),
        "PHN (hypernetwork)": (weights.HyperNetwork, 0),
        "PaMaL (ensemble)": (weights.Ensemble, 0),
        "LORPMAN (low rank, 4)": (weights.LowRankUpdates, 0),
    }
    shapes = {"input_shape": (1, 36, 36), "output_sizes": (10, 10)}

    def size(network: torch.nn.Module) -> int:
        return sum(p.numel() for p in network.parameters())

    rows: list[dict[str, Any]] = []
    for name in ["EPO, MOO-SVGD: 15 networks", *kinds]:
        row: dict[str, Any] = {"method": name}
        for kernels in ((9, 5), (5, 5)):
            factory = partial(LeNet, kernel=list(kernels))
            if name in kinds:
                kind, more = kinds[name]
                row[str(kernels)] = size(kind(factory, **shapes, m=2)) + more
            else:
                row[str(kernels)] = 15 * size(factory(**shapes))
        published, kernels = PUBLISHED.get(name, (None, (0, 0)))
        row["published"] = published
        if published not in (None, row.get(str(kernels))):
            raise FrontrunnerError(f"{name}: {row}, but the paper has {published}")
        rows.append(row)
    lines = [
        [
            row["method"],
            "" if row["published"] is None else f"{row['published']:,}",
            *(f"{row[str(kernels)]:,}" for kernels in ((9, 5), (5, 5))),
        ]
        for row in rows
    ]
    head = ["method", "published", "LeNet, kernels 9 and 5 (31,910)", "kernels 5 (42,350)"]
    intro = (
        "Stored numbers for two objectives and 15 points. Published: on one of the two networks."
    )
    return f"{intro}\n\n{text.grid(head, lines, markdown=True)}", rows


if __name__ == "__main__":
    sys.exit(main())
