"""The point log under kills, full disks, foreign files and damage."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from frontrunner.errors import FrontError, RunError
from frontrunner.front.points import PointLog


def filled(path: Path, n: int = 3, key: str = "k") -> PointLog:
    log = PointLog(path, key, 2)
    for i in range(n):
        log.append(i, [i / 4, 1 - i / 4], [0.1 + i, 1 / (3 + i)], {"seconds": 0.5})
    return log


def test_reopening_returns_every_point_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "run" / "points.jsonl"
    log = filled(path)
    assert PointLog(path, "k", 2).done() == log.done()
    assert log.done()[2] == {
        "index": 2,
        "preference": [0.5, 0.5],
        "values": [2.1, 1 / 5],
        "cost": {"seconds": 0.5},
    }


def test_the_file_is_json_lines_with_a_header(tmp_path: Path) -> None:
    path = tmp_path / "points.jsonl"
    filled(path, 2)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0] == {"schema_version": 1, "key": "k"}
    assert [line["index"] for line in lines[1:]] == [0, 1]


def test_a_new_log_is_empty_and_points_may_come_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "points.jsonl"
    log = PointLog(path, "k", 2)
    assert log.done() == {}
    log.append(7, None, np.array([1.0, 2.0], dtype=np.float32))
    log.append(3, np.array([0.5, 0.5]), (1, 2))
    assert list(PointLog(path, "k", 2).done()) == [7, 3]
    assert PointLog(path, "k", 2).done()[7]["preference"] is None


def test_a_caller_cannot_change_the_log_through_done(tmp_path: Path) -> None:
    log = filled(tmp_path / "points.jsonl", 1)
    log.done().clear()
    log.done()[0]["index"] = 99
    assert log.done()[0]["index"] == 0


def test_an_index_written_twice_holds_its_later_values(tmp_path: Path) -> None:
    path = tmp_path / "points.jsonl"
    log = filled(path, 2)
    log.append(0, None, [8.0, 9.0])
    assert log.done()[0]["values"] == [8.0, 9.0]
    assert PointLog(path, "k", 2).done() == log.done()


def test_a_kill_at_any_byte_loses_at_most_the_line_being_written(tmp_path: Path) -> None:
    whole = tmp_path / "whole.jsonl"
    filled(whole, 3)
    content = whole.read_bytes()
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    for cut in range(ends[0], len(content) + 1):
        path = tmp_path / "points.jsonl"
        path.write_bytes(content[:cut])
        log = PointLog(path, "k", 2)
        kept = sum(end <= cut for end in ends) - 1
        assert sorted(log.done()) == list(range(kept))
        assert path.read_bytes() == content[: ends[kept]]  # truncated, so appending is safe
    log.append(5, None, [1.0, 1.0])
    assert sorted(PointLog(path, "k", 2).done()) == [0, 1, 2, 5]


def test_points_survive_a_killed_process(tmp_path: Path) -> None:
    path = tmp_path / "points.jsonl"
    code = (
        "import os, sys; from frontrunner.front.points import PointLog; "
        "log = PointLog(sys.argv[1], 'k', 2); "
        "[log.append(i, None, [i, i]) for i in range(4)]; os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -9
    assert sorted(PointLog(path, "k", 2).done()) == [0, 1, 2, 3]


@pytest.mark.parametrize("content", [b"", b'{"schema_ver', b"no log at all"])
def test_a_file_without_a_whole_line_starts_anew(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "points.jsonl"
    path.write_bytes(content)
    assert PointLog(path, "k", 2).done() == {}
    assert (tmp_path / "points.jsonl.previous").read_bytes() == content
    assert json.loads(path.read_text()) == {"schema_version": 1, "key": "k"}


def test_a_log_of_another_key_is_set_aside_not_mixed(tmp_path: Path) -> None:
    path = tmp_path / "points.jsonl"
    filled(path, 3, key="old")
    before = path.read_bytes()
    assert PointLog(path, "new", 2).done() == {}
    assert (tmp_path / "points.jsonl.previous").read_bytes() == before
    assert sorted(PointLog(tmp_path / "points.jsonl.previous", "old", 2).done()) == [0, 1, 2]


def test_a_log_of_another_schema_version_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "points.jsonl"
    path.write_text('{"schema_version": 2, "key": "k"}\n{"anything": 1}\n')
    assert PointLog(path, "k", 2).done() == {}


GOOD = '{"index": 0, "preference": null, "values": [1, 2], "cost": {}}'


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{broken", "not JSON"),
        ("", "not JSON"),
        ("\x00\x00\x00", "not JSON"),
        ("[1, 2]", "not a JSON object"),
        ('{"index": "0", "preference": null, "values": [1, 2], "cost": {}}', "index must be"),
        ('{"index": -1, "preference": null, "values": [1, 2], "cost": {}}', "index must be"),
        ('{"index": 0, "preference": null, "values": [1], "cost": {}}', "values must be 2"),
        ('{"index": 0, "preference": null, "values": [1, NaN], "cost": {}}', "values must be 2"),
        ('{"index": 0, "preference": [1], "values": [1, 2], "cost": {}}', "preference must be"),
        ('{"index": 0, "preference": null, "values": [1, 2], "cost": {"s": "x"}}', "cost must be"),
        ('{"index": 0, "preference": null, "values": [1, 2]}', "cost must be"),
    ],
)
def test_a_malformed_line_is_named_and_the_file_left_alone(
    tmp_path: Path, line: str, problem: str
) -> None:
    path = tmp_path / "points.jsonl"
    path.write_text(f'{{"schema_version": 1, "key": "k"}}\n{GOOD}\n{line}\n{GOOD}\n')
    before = path.read_bytes()
    with pytest.raises(RunError, match=problem) as error:
        PointLog(path, "k", 2)
    assert str(path) in str(error.value)
    assert "line 3" in str(error.value)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == before


def test_a_malformed_header_is_named(tmp_path: Path) -> None:
    path = tmp_path / "points.jsonl"
    path.write_text(f"oops\n{GOOD}\n")
    with pytest.raises(RunError, match="line 1"):
        PointLog(path, "k", 2)


@pytest.mark.parametrize(
    ("preference", "values", "cost", "message"),
    [
        (None, [1.0, np.nan], {}, "point 4: values"),
        (None, [np.inf, 1.0], {}, "point 4: values"),
        (None, [1.0], {}, "point 4: values must be 2"),
        ([np.nan, 1.0], [1.0, 1.0], {}, "point 4: preference"),
        ([1.0, 0.0, 0.0], [1.0, 1.0], {}, "point 4: preference"),
        (None, [1.0, 1.0], {"seconds": np.inf}, "point 4: cost"),
    ],
)
def test_a_point_that_is_not_finite_is_refused_before_anything_is_written(
    tmp_path: Path, preference: object, values: object, cost: dict, message: str
) -> None:
    path = tmp_path / "points.jsonl"
    log = filled(path, 2)
    before = path.read_bytes()
    with pytest.raises(FrontError, match=message):
        log.append(4, preference, values, cost)  # type: ignore[arg-type]
    assert path.read_bytes() == before
    assert sorted(log.done()) == [0, 1]


def test_a_full_disk_is_one_line_and_leaves_a_readable_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "points.jsonl"
    log = filled(path, 2)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)  # the line itself has already gone out
        with pytest.raises(RunError, match="No space left on device") as error:
            log.append(2, None, [1.0, 1.0])
    message = str(error.value)
    assert "\n" not in message
    assert "point 2" in message
    assert "2 earlier points" in message
    assert path.read_bytes() == before
    assert sorted(log.done()) == [0, 1]
    log.append(2, None, [1.0, 1.0])
    assert sorted(PointLog(path, "k", 2).done()) == [0, 1, 2]


def test_a_disk_that_fills_up_in_the_middle_of_a_line_leaves_a_readable_file(
    tmp_path: Path,
) -> None:
    """A limit on the file size stops a real write half way through the line."""
    pytest.importorskip("resource")
    path = tmp_path / "points.jsonl"
    size = len(filled(path, 2).path.read_bytes())
    code = (
        "import resource, signal, sys\n"
        "from frontrunner.front.points import PointLog\n"
        "from frontrunner.errors import RunError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "log = PointLog(sys.argv[1], 'k', 2)\n"
        "limit = int(sys.argv[2])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\n"
        "try:\n"
        "    log.append(2, None, [1.0, 1.0])\n"
        "except RunError as error:\n"
        "    print(error)\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(path), str(size + 10)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "point 2 could not be written" in out.stdout
    assert path.stat().st_size == size
    assert sorted(PointLog(path, "k", 2).done()) == [0, 1]


def test_a_deleted_log_does_not_come_back_without_its_header(tmp_path: Path) -> None:
    path = tmp_path / "points.jsonl"
    log = filled(path, 1)
    path.unlink()
    with pytest.raises(RunError, match="point 1 could not be written"):
        log.append(1, None, [1.0, 1.0])
    assert not path.exists()


def test_a_log_that_cannot_be_opened_is_a_run_error(tmp_path: Path) -> None:
    (tmp_path / "points.jsonl").mkdir()
    with pytest.raises(RunError, match=r"points\.jsonl cannot be opened"):
        PointLog(tmp_path / "points.jsonl", "k", 2)


# ---------------------------------------------------------------------- several processes


def test_each_process_writes_a_file_of_its_own_and_knows_the_points_of_all(tmp_path):
    path = tmp_path / "points.jsonl"
    PointLog(path, "k", 2).append(0, None, [0.0, 1.0])
    second = PointLog(path, "k", 2, rank=1)
    assert second.path == tmp_path / "points.1.jsonl"
    second.append(1, None, [1.0, 1.0])
    PointLog(path, "k", 2, rank=12).append(2, None, [2.0, 1.0])
    for rank in (0, 1, 5):
        assert sorted(PointLog(path, "k", 2, rank=rank).done()) == [0, 1, 2]
    assert len(path.read_text().splitlines()) == 2


def test_files_of_others_are_only_read(tmp_path):
    path = tmp_path / "points.jsonl"
    PointLog(path, "k", 2, rank=1).append(1, None, [1.0, 1.0])
    other = tmp_path / "points.1.jsonl"
    torn = other.read_bytes() + b'{"index": 3, "val'  # its writer is in the middle of a line
    other.write_bytes(torn)
    PointLog(path, "old", 2, rank=2).append(2, None, [2.0, 1.0])
    assert sorted(PointLog(path, "k", 2).done()) == [1]
    assert other.read_bytes() == torn
    assert (tmp_path / "points.2.jsonl").exists()


def test_a_malformed_line_of_another_process_is_named(tmp_path):
    path = tmp_path / "points.jsonl"
    PointLog(path, "k", 2, rank=1)
    with open(tmp_path / "points.1.jsonl", "a") as handle:
        handle.write("{}\n")
    with pytest.raises(RunError, match=r"points\.1\.jsonl, line 2"):
        PointLog(path, "k", 2)
