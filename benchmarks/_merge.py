"""Merging checkpoints from files into files. As a program, one merge, for another to measure."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from frontrunner.methods.merging.average import Averaging
from frontrunner.methods.merging.dare import Dare
from frontrunner.methods.merging.pcb import ParameterCompetition
from frontrunner.methods.merging.slerp import Slerp
from frontrunner.methods.merging.task_arithmetic import TaskVectors
from frontrunner.methods.merging.ties import Ties
from frontrunner.pareto_sets.merged import MergedSet, Rule
from frontrunner.weights.files import Safetensors
from frontrunner.weights.parents import Parents
from frontrunner.weights.writer import SHARD_SIZE, write_checkpoint

RULES: dict[str, type[Rule]] = {
    "linear": Averaging,
    "task_arithmetic": TaskVectors,
    "ties": Ties,
    "slerp": Slerp,
    "dare": Dare,
    "pcb": ParameterCompetition,
}


class Opened:
    """As much of a merging task as a merged set needs: models that are files."""

    def __init__(self, base: Path, experts: Sequence[Path]) -> None:
        self._parents = Parents(Safetensors(base), [Safetensors(e) for e in experts])

    def parents(self) -> Parents:
        return self._parents


def merge(
    rule: Rule,
    base: Path,
    experts: Sequence[Path],
    preference: Sequence[float],
    scale: float,
    out: Path,
) -> None:
    """Merge checkpoints into ``model.safetensors`` in ``out``."""
    opened: Any = Opened(base, experts)
    weights = opened.parents().base
    layout = {key: (shape, weights.dtype(key)) for key, shape in weights.shapes().items()}
    state = MergedSet(opened, rule, [preference], scale).state(preference)
    out.mkdir(parents=True, exist_ok=True)
    write_checkpoint(out, state, layout, SHARD_SIZE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rule", choices=RULES)
    parser.add_argument("out", type=Path)
    parser.add_argument("base", type=Path)
    parser.add_argument("experts", type=Path, nargs="+")
    parser.add_argument("--settings", type=json.loads, default={}, help="of the rule, as JSON")
    parser.add_argument("--preference", type=float, nargs="+")
    parser.add_argument("--scale", type=float, default=1.0)
    o = parser.parse_args()
    k = len(o.experts)
    preference = o.preference or [1 / k] * k
    merge(RULES[o.rule](**o.settings), o.base, o.experts, preference, o.scale, o.out)


if __name__ == "__main__":
    main()
