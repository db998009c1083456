"""Text domains: embedded, from files and from the hub; windows and what a loss in them means."""

from __future__ import annotations

import json
import math
import re
from itertools import pairwise

import pytest
import torch

from frontrunner.errors import ConfigError, DataError
from frontrunner.tasks import text
from frontrunner.tasks.text import TextSource, split_text

SENTENCE = re.compile(r"^(\d+) ([-+*/]) (\d+) = (\d+)$")
LINES = "".join(f"line {i} of a text that is divided by blocks\n" for i in range(400))


@pytest.mark.parametrize("name", list(text.EMBEDDED))
def test_an_embedded_text_is_the_same_every_time(name):
    first = text.embedded(name)
    text._embedded.cache_clear()
    assert text.embedded(name) == first
    assert set(first) == {"train", "validation", "test"}
    assert sum(map(len, first.values())) <= text.CHARACTERS
    assert len(first["train"]) > 200_000
    assert min(map(len, first.values())) > 20_000


@pytest.mark.parametrize("name", ["prose", "arithmetic"])
def test_no_line_of_an_embedded_split_is_in_another(name):
    splits = {split: set(part.splitlines()) for split, part in text.embedded(name).items()}
    assert splits["train"] & splits["test"] == set()
    assert splits["train"] & splits["validation"] == set()
    assert splits["validation"] & splits["test"] == set()


def test_arithmetic_is_right():
    operations = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__, "/": int.__floordiv__}
    seen = set()
    for line in text.embedded("arithmetic")["train"].splitlines():
        a, sign, b, result = SENTENCE.match(line).groups()
        assert operations[sign](int(a), int(b)) == int(result)
        seen.add(sign)
    assert seen == set(operations)


def test_prose_is_prose_and_code_is_code():
    prose, code = text.embedded("prose")["train"], text.embedded("code")["train"]
    assert "    def " in code
    assert "    def " not in prose
    assert not re.search(r"^(\W)\1+$", prose, re.MULTILINE)  # no underlines


@pytest.mark.parametrize("fractions", [(0.8, 0.1, 0.1), (0.34, 0.33, 0.33)])
def test_splits_are_contiguous_blocks_that_make_up_the_text(fractions):
    parts = split_text(LINES, fractions)
    lines = {split: part.splitlines() for split, part in parts.items()}
    every = [line for part in lines.values() for line in part]
    assert sorted(every) == sorted(LINES.splitlines())
    for split, share in zip(text.SPLITS, fractions, strict=True):
        numbers = [int(line.split()[1]) for line in lines[split]]
        assert numbers == sorted(numbers)
        assert len(numbers) == pytest.approx(share * 400, abs=20)
        breaks = sum(b != a + 1 for a, b in pairwise(numbers))
        assert breaks < len(numbers) / 4
    assert split_text(LINES, fractions) == parts


@pytest.mark.parametrize("content", ["word " * 300, "a\n" * 3, "é" * 50])
def test_a_text_without_line_ends_or_a_short_one_is_divided_too(content):
    parts = split_text(content)
    assert sum(map(len, parts.values())) == len(content)
    assert min(map(len, parts.values())) > 0


@pytest.mark.parametrize("content", ["", "ab", "a\n"])
def test_what_cannot_be_divided_in_three_is_refused(content):
    with pytest.raises(DataError, match=r"a\.txt has \d characters, too few to divide"):
        split_text(content, what="a.txt")


# ---------------------------------------------------------------------- windows


def test_windows_do_not_overlap_and_the_rest_is_dropped():
    ids = text.windows("x" * 23, lambda t: list(range(len(t))), 5, "x")
    assert ids.tolist() == [list(range(i, i + 5)) for i in (0, 5, 10, 15)]


def test_the_loss_is_total_negative_log_likelihood_per_predicted_token():
    stream = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 6, 11, generator=stream)
    ids = torch.randint(11, (3, 6), generator=stream)
    total, count = 0.0, 0
    for b in range(3):
        for t in range(1, 6):
            scores = logits[b, t - 1].double()
            total -= float(scores[ids[b, t]] - scores.exp().sum().log())
            count += 1
    assert float(text.next_token_loss(logits, ids)) == pytest.approx(total / count, rel=1e-6)
    uniform = text.next_token_loss(torch.zeros(3, 6, 11), ids)
    assert math.exp(float(uniform)) == pytest.approx(11)


def test_a_text_shorter_than_a_window_is_refused_by_name():
    with pytest.raises(DataError, match="the test text of 'law' has 4 tokens, fewer than one"):
        text.windows("abcd", lambda t: list(t.encode()), 5, "the test text of 'law'")


# ---------------------------------------------------------------------- sources


def test_files_folders_and_lines_of_json(tmp_path):
    (tmp_path / "a.txt").write_text(LINES)
    rows = [json.dumps({"body": line}) for line in LINES.splitlines()]
    (tmp_path / "b.jsonl").write_text("\n".join(rows) + "\n\n")
    assert TextSource("a", str(tmp_path / "a.txt")).texts() == split_text(LINES)
    of_json = TextSource("b", {"path": tmp_path / "b.jsonl", "field": "body"}).texts()
    assert of_json == split_text(LINES.strip().replace("\n", "\n\n"))
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    for name, content in (("2.txt", "two\n" * 200), ("deep/3.txt", "three\n" * 200)):
        (tmp_path / "folder" / name).write_text(content)
    (tmp_path / "folder" / "picture.png").write_bytes(b"\xff")
    together = TextSource("f", str(tmp_path / "folder")).texts()
    assert together == split_text("two\n" * 200 + "\n\n" + "three\n" * 200)


def test_splits_in_files_of_their_own_stay_what_they_are(tmp_path):
    for split in text.SPLITS:
        (tmp_path / f"{split}.txt").write_text(f"{split} text")
    source = TextSource("mine", {s: tmp_path / f"{s}.txt" for s in text.SPLITS})
    assert source.texts() == {s: f"{s} text" for s in text.SPLITS}


def test_a_data_set_in_hub_format(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="the package 'datasets' is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "repository" / "data"
    folder.mkdir(parents=True)
    for split in text.SPLITS:
        rows = [f"{split} row {i}" for i in range(60)]
        table = datasets.Dataset.from_dict({"content": ["", *rows]})
        table.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
    hub = {"hub": str(tmp_path / "repository"), "field": "content"}
    own = TextSource("mine", {**hub, **{s: s for s in text.SPLITS}}).texts()
    assert own == {s: "\n\n".join(f"{s} row {i}" for i in range(60)) for s in text.SPLITS}
    assert TextSource("mine", hub).texts() == split_text(own["train"])
    with pytest.raises(DataError, match="no field 'contents'; did you mean 'content'"):
        TextSource("mine", {**hub, "field": "contents"}).texts()
    with pytest.raises(DataError, match="split 'dev' cannot be loaded"):
        TextSource("mine", {**hub, "train": "dev", "validation": "x", "test": "y"}).texts()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("embedded", "no embedded text 'mine'"),
        ({"pat": "x"}, "unknown key 'pat'; did you mean 'path'"),
        ({"train": "a", "test": "b"}, "but not validation"),
        ({"path": "a", "hub": "b"}, "needs one of"),
        ({"field": "text"}, "needs one of"),
        ({"train": "a", "validation": "b", "test": "c", "fractions": [1, 1, 1]}, "leave fractions"),
    ],
)
def test_sources_that_make_no_sense_are_refused(source, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        TextSource("mine", source)
    assert "mine" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.txt", None, "cannot be read: No such file"),
        ("absent", None, "does not exist"),
        ("table.csv", b"a,b", "neither a .txt nor a .jsonl"),
        ("latin.txt", b"caf\xe9", "not UTF-8"),
        ("empty.txt", b" \n", "is empty"),
        ("bad.jsonl", b'{"text": "a"}\n{"text": ', "line 2: not JSON"),
        ("other.jsonl", b'{"text": "a"}\n{"txt": "b"}', "line 2: no text field 'text'"),
        ("list.jsonl", b"[1]", "line 1: no text field"),
    ],
)
def test_files_that_cannot_be_read_are_named(name, content, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        TextSource("mine", str(tmp_path / name)).check()
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.5, 0.5, 0.5), (1.2, -0.1, -0.1)])
def test_fractions_that_are_not_are_refused(fractions):
    with pytest.raises(ConfigError, match="3 positive numbers of sum 1"):
        split_text(LINES, fractions)


def test_an_unknown_embedded_domain_suggests_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'prose'"):
        text.embedded("prosa")
