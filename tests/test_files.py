"""Files are whole or absent, and errors name the file."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path

import pytest

from frontrunner import files
from frontrunner.errors import RunError


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_json_round_trips_and_folders_are_made(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None, True], "ü": "é"}
    files.write_json(tmp_path / "x" / "y" / "v.json", value)
    assert files.read_json(tmp_path / "x" / "y" / "v.json") == value
    assert names(tmp_path / "x" / "y") == ["v.json"]


def test_floats_round_trip_bit_for_bit(tmp_path: Path) -> None:
    values = [0.1, 1 / 3, 1e-308, 5e-324, math.pi * 1e200, -0.0]
    files.write_json(tmp_path / "v.json", values)
    read = files.read_json(tmp_path / "v.json")
    assert [x.hex() for x in read] == [x.hex() for x in values]


def test_writing_replaces_the_old_content(tmp_path: Path) -> None:
    files.write_text(tmp_path / "t.txt", "a long first text")
    files.write_text(tmp_path / "t.txt", "second")
    assert (tmp_path / "t.txt").read_text() == "second"


@pytest.mark.parametrize("value", [math.nan, math.inf, {"x": [-math.inf]}])
def test_what_is_not_json_is_refused_and_the_old_file_kept(tmp_path: Path, value: object) -> None:
    path = tmp_path / "v.json"
    files.write_json(path, 1)
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(path, value)
    assert files.read_json(path) == 1
    assert names(tmp_path) == ["v.json"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_keeps_the_old_file_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "v.json"
    files.write_json(path, "old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, step, full)
        with pytest.raises(OSError, match="No space left"):
            files.write_json(path, "new")
    assert files.read_json(path) == "old"
    assert names(tmp_path) == ["v.json"]


def test_an_interrupt_while_writing_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "v.bin"
    path.write_bytes(b"old")

    def interrupted() -> None:
        with files.atomic_path(path) as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["v.bin"]


def test_nothing_appears_under_the_name_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    with files.atomic_path(path) as temporary:
        temporary.write_bytes(b"x")
        assert not path.exists()
        assert temporary.parent == path.parent
        assert temporary.suffix == ".png"
    assert path.read_bytes() == b"x"


def test_a_writer_that_wrote_nothing_is_an_error_not_an_empty_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), files.atomic_path(tmp_path / "v.json"):
        pass
    assert names(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff\xfe\x00bad"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "v.json"
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"v\.json is not readable as JSON"):
        files.read_json(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"v\.json does not exist"):
        files.read_json(tmp_path / "v.json")
