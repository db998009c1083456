"""Whole runs on the embedded digits: every method, killed and continued, to the same front."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from frontrunner import run
from frontrunner.front.front import Front

METHODS = ["mgda", "epo", "pareto_mtl", "moo_svgd", "hv_maximization"]


def only_run(folder: Path) -> tuple[Path, dict]:
    (record,) = folder.rglob("run.json")
    return record.parent, json.loads(record.read_text())


def result(directory: Path) -> tuple:
    """All that has to be equal, bit for bit."""
    weights = (directory / "pareto_set" / "weights.safetensors").read_bytes()
    return Front.load(directory / "front.json").values.tobytes(), weights


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_run_continues_to_the_same_front_and_record(method, tiny, command, work) -> None:
    if method == "mgda" and importlib.util.find_spec("torchjd") is None:
        pytest.skip("torchjd is not installed")
    words = [*tiny, f"method=learning/{method}", "seed=1"]
    assert command(["run", *words, "output=killed"], work, ("kill", "step", 14)) == -9
    assert command(["run", *words, "output=killed"], work) == 0
    directory, record = only_run(work / "killed")
    assert record["attempt"] == 2
    whole = run([*words, "output=whole"])
    assert result(directory) == result(whole.directory)
    counts = record["switches"]["fallbacks"]
    assert counts == whole.record["switches"]["fallbacks"] == whole.front.info["fallbacks"]
    assert set(counts) > {"vanished_gradients"}
    assert whole.record["cost"]["forward_passes"] == 20 * 3
    for preference, values in zip(whole.pareto_set.preferences, whole.front.values, strict=True):
        network = whole.pareto_set.materialize(preference)
        measured = whole.task.measure(network, "test")
        np.testing.assert_allclose(measured, values, rtol=1e-5)
