"""The reader of W&B's offline records, on whole and on torn files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from frontrunner.errors import RunError
from frontrunner.tracking import offline
from frontrunner.tracking.tracker import WandbTracker

pytest.importorskip("wandb")

ROWS = 400


@pytest.fixture(scope="module")
def record_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record of several blocks, with one row longer than a block."""
    directory = tmp_path_factory.mktemp("run")
    with WandbTracker(
        directory=directory, run_id="abc", configuration={"note": "x" * 50_000}
    ) as tracker:
        for step in range(ROWS):
            tracker.log({f"curve/{k}": step + k / 10 for k in range(10)}, step)
    (path,) = offline.records(directory)
    assert offline.read(path, wait=5)["exit"] == 0
    return path


def test_rows_are_read_across_block_boundaries(record_file: Path) -> None:
    assert record_file.stat().st_size > 4 * offline.BLOCK
    record = offline.read(record_file)
    assert [row["train/step"] for row in record["history"]] == list(range(ROWS))
    assert all(row["curve/7"] == row["train/step"] + 0.7 for row in record["history"])
    assert record["config"]["note"] == "x" * 50_000
    assert record["exit"] == 0


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9])
def test_torn_file_gives_a_prefix_and_no_exit(
    record_file: Path, tmp_path: Path, share: float
) -> None:
    raw = record_file.read_bytes()
    torn = tmp_path / "run-abc.wandb"
    torn.write_bytes(raw[: int(share * len(raw))])
    record = offline.read(torn)
    steps = [row["train/step"] for row in record["history"]]
    assert steps == list(range(len(steps)))
    assert record["exit"] is None
    assert (len(steps) > 0) == (share > 0)
    assert len(steps) <= share * ROWS


def test_reading_stops_at_a_damaged_chunk(record_file: Path, tmp_path: Path) -> None:
    raw = bytearray(record_file.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    damaged = tmp_path / "run-abc.wandb"
    damaged.write_bytes(raw)
    assert 0 < len(offline.read(damaged)["history"]) < ROWS


def test_killed_run_has_no_exit_code(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from frontrunner.tracking.tracker import WandbTracker\n"
        "with WandbTracker(directory=sys.argv[1], run_id='abc') as tracker:\n"
        "    for step in range(50):\n"
        "        tracker.log({'loss': 1.0}, step)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    # Without WANDB_SERVICE, which would have the child share this process's W&B service.
    environment = {k: v for k, v in os.environ.items() if k != "WANDB_SERVICE"}
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], env=environment)
    assert done.returncode == -signal.SIGKILL
    (path,) = offline.records(tmp_path)
    assert offline.read(path)["exit"] is None


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    other = tmp_path / "run-abc.wandb"
    other.write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(RunError, match=r"run-abc\.wandb is not a W&B record"):
        offline.read(other)
    with pytest.raises(RunError, match="cannot be read"):
        offline.read(tmp_path / "missing.wandb")


def test_table_that_was_never_logged_is_named(record_file: Path) -> None:
    with pytest.raises(RunError, match="no table 'front/table'"):
        offline.table(offline.read(record_file), record_file, "front/table")
