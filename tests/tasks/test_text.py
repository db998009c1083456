"""Text domains: embedded, from files and from the hub; windows and what a loss in them means."""

from __future__ import annotations

import gzip
import json
import math
import os
import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from frontrunner import config
from frontrunner.errors import ConfigError, DataError
from frontrunner.tasks import text
from frontrunner.tasks.text import TextSource, split_text
from frontrunner.tasks.text_files import Fields, read_rows, read_text

SENTENCE = re.compile(r"^(\d+) ([-+*/]) (\d+) = (\d+)$")
REAL = os.environ.get("FRONTRUNNER_DATA", "")
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


@pytest.fixture(autouse=True)
def _no_data(monkeypatch):
    monkeypatch.delenv("FRONTRUNNER_DATA", raising=False)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A data set in the hub's format: 60 rows in each split, and an empty one before them."""
    datasets = pytest.importorskip("datasets", reason="the package 'datasets' is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "repository" / "data"
    folder.mkdir(parents=True)
    for split in text.SPLITS:
        rows = ["", *(f"{split} row {i}" for i in range(60))]
        numbers = [None, *map(str, range(60))]
        table = datasets.Dataset.from_dict({"content": rows, "number": numbers})
        table.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
    return str(tmp_path / "repository")


@pytest.mark.parametrize("fractions", [(0.8, 0.1, 0.1), (0.34, 0.33, 0.33), (0.9, 0.1)])
def test_splits_are_contiguous_blocks_that_make_up_the_text(fractions):
    parts = split_text(LINES, fractions)
    lines = {split: part.splitlines() for split, part in parts.items()}
    every = [line for part in lines.values() for line in part]
    assert sorted(every) == sorted(LINES.splitlines())
    assert len(parts) == len(fractions)
    for split, share in zip(text.SPLITS, fractions, strict=False):
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


def test_a_data_set_in_hub_format(repository):
    hub = {"hub": repository, "field": "content"}
    own = TextSource("mine", {**hub, **{s: s for s in text.SPLITS}}).texts()
    assert own == {s: "\n\n".join(f"{s} row {i}" for i in range(60)) for s in text.SPLITS}
    assert TextSource("mine", hub).texts() == split_text(own["train"])
    with pytest.raises(DataError, match="no text field 'contents'; did you mean 'content'"):
        TextSource("mine", {**hub, "field": "contents"}).texts()
    with pytest.raises(DataError, match="split 'dev' cannot be loaded"):
        TextSource("mine", {**hub, "train": "dev", "validation": "x", "test": "y"}).texts()


@pytest.mark.parametrize("streaming", [None, True, False])
def test_only_the_first_rows_of_a_data_set_are_read(repository, streaming, monkeypatch):
    hub = {"hub": repository, "train": "train", "validation": "validation", "test": "test"}
    source = {**hub, "fields": ["content", "number"], "rows": {"train": 3, "test": 2}}
    found = TextSource("mine", {**source, "streaming": streaming}).texts()
    assert found["train"] == "train row 0\n0\n\ntrain row 1\n1"  # the first row is empty
    assert found["test"] == "test row 0\n0"
    assert found["validation"].endswith("validation row 59\n59")


def test_rows_of_a_stream_are_fetched_as_they_are_read(repository, monkeypatch):
    import datasets

    seen = []

    def endless(*args, streaming, **named):
        assert streaming
        for i in range(10**9):
            seen.append(i)
            yield {"text": f"row {i}"}

    monkeypatch.setattr(datasets, "load_dataset", endless)
    assert read_rows("large", "train", rows=3, streaming=True) == "row 0\n\nrow 1\n\nrow 2"
    assert len(seen) == 3


def test_a_stream_that_breaks_off_is_named(repository, monkeypatch):
    import datasets

    def broken(*args, **named):
        yield {"text": "row"}
        raise ConnectionError("the other side went away\nand more")

    monkeypatch.setattr(datasets, "load_dataset", broken)
    with pytest.raises(DataError, match=r"'large', split 'train' cannot be read: the other side"):
        read_rows("large", "train")


ROWS = [{"question": f"What is {i}?", "answer": f"{i}.", "hint": ""} for i in range(300)]
TEXTS = [f"What is {i}?\n{i}." for i in range(300)]


@pytest.mark.parametrize("fields", [["question", "hint", "answer"], "{question}\n{answer}"])
@pytest.mark.parametrize("name", ["r.json", "r.jsonl", "lines.json", "r.jsonl.gz", "r.json.gz"])
def test_fields_of_records_are_joined(name, fields, tmp_path):
    lines = "lines" in name or "jsonl" in name
    content = "\n".join(map(json.dumps, ROWS)) if lines else json.dumps(ROWS, indent=4)
    raw = content.encode()
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    one = Fields(fields)
    assert read_text(tmp_path / name, one) == "\n\n".join(TEXTS)
    assert read_text(tmp_path / name, one, rows=7) == "\n\n".join(TEXTS[:7])
    source = TextSource("mine", {"path": tmp_path / name, "fields": fields, "rows": 200})
    assert source.texts() == split_text("\n\n".join(TEXTS[:200]))


def test_no_more_of_a_file_is_read_than_is_asked_for(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"text": "two"}\nnot json\n')
    assert read_text(tmp_path / "a.jsonl", rows=2) == "one\n\ntwo"
    with pytest.raises(DataError, match="line 3: not JSON"):
        read_text(tmp_path / "a.jsonl")


@pytest.mark.parametrize("fractions", [None, (0.5, 0.5)])
def test_a_test_file_is_the_test_split_and_the_train_file_is_divided(fractions, tmp_path):
    (tmp_path / "train.txt").write_text(LINES)
    (tmp_path / "test.txt").write_text("of the test")
    files = {s: str(tmp_path / f"{s}.txt") for s in ("train", "test")}
    parts = TextSource("mine", {**files, "fractions": fractions}).texts()
    assert parts == {**split_text(LINES, fractions or (0.9, 0.1)), "test": "of the test"}


def test_a_relative_path_is_looked_for_here_and_then_in_the_data_folder(tmp_path, monkeypatch):
    for folder in ("here", "data"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "both.txt").write_text(folder)
    (tmp_path / "data" / "only.txt").write_text("only")
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(DataError, match=r"only.txt does not exist, nor .* which is not set"):
        read_text("only.txt")
    monkeypatch.setenv("FRONTRUNNER_DATA", str(tmp_path / "data"))
    assert (read_text("only.txt"), read_text("both.txt")) == ("only", "here")
    with pytest.raises(DataError, match=f"none.txt does not exist, nor under {tmp_path}/data"):
        read_text("none.txt")


LOCAL = {
    "wikitext-2/valid.txt": LINES,
    "wikitext-2/test.txt": "wikitext test\n",
    "gsm8k/train.jsonl": "\n".join(map(json.dumps, ROWS)),
    "gsm8k/test.jsonl": json.dumps({"question": "gsm8k", "answer": "test"}),
    "code_alpaca/new_codealpaca.json": json.dumps(
        [{"instruction": f"Print {i}.", "input": "", "output": f"print({i})"} for i in range(99)]
    ),
    "code_alpaca/code_alpaca_2k.json": json.dumps(
        [{"instruction": "code", "input": "of the", "output": "test"}]
    ),
}


def local_sources(folder, monkeypatch):
    monkeypatch.setenv("FRONTRUNNER_DATA", str(folder))
    texts = config.compose(["task=text_domains_local", "method=pruning/magnitude"]).task.texts
    return {name: TextSource(name, config.plain(source)) for name, source in texts.items()}


def test_the_local_domains_keep_their_test_files_for_the_test(tmp_path, monkeypatch):
    for name, content in LOCAL.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    sources = local_sources(tmp_path, monkeypatch)
    tests = {name: source.texts()["test"] for name, source in sources.items()}
    assert tests == {
        "wikitext": "wikitext test\n",
        "gsm8k": "gsm8k\ntest",
        "code": "code\nof the\ntest",
    }
    train = sources["code"].texts()["train"]
    assert "Print 5.\nprint(5)" in train + sources["code"].texts()["validation"]
    assert not any("test" in source.texts()["train"] for source in sources.values())


@pytest.mark.skipif(
    not all((Path(REAL) / name).is_file() for name in LOCAL) or not REAL,
    reason="FRONTRUNNER_DATA names no folder with wikitext-2/, gsm8k/ and code_alpaca/",
)
def test_no_question_of_the_real_test_files_is_in_a_train_text(monkeypatch):
    sources = local_sources(REAL, monkeypatch)
    for name in ("gsm8k", "code"):
        file = Path(REAL) / str(sources[name].options["test"])
        records = json.loads(file.read_text()) if file.suffix == ".json" else None
        records = records or [json.loads(line) for line in file.read_text().splitlines()]
        parts = sources[name].texts()
        first = [record.get("question") or record["instruction"] for record in records]
        assert all(question in parts["test"] for question in first)
        learned = set(parts["train"].split("\n"))
        assert not [q for q in first if len(q) > 80 and q in learned]
    assert " = Robert <unk> = " in sources["wikitext"].texts()["test"]
    assert " = Robert <unk> = " not in sources["wikitext"].texts()["train"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("embedded", "no embedded text 'mine'"),
        ({"pat": "x"}, "unknown key 'pat'; did you mean 'path'"),
        ({"train": "a", "validation": "b"}, "but not test"),
        ({"validation": "a", "test": "b"}, "but not train"),
        (
            {"train": "a", "test": "b", "fractions": [0.8, 0.1, 0.1]},
            "those of train and validation",
        ),
        ({"path": "a", "fractions": [0.9, 0.1]}, "those of train, validation and test"),
        ({"path": "a", "fractions": 0.9}, "those of train, validation and test, not 0.9"),
        ({"path": "a", "field": "x", "fields": ["y"]}, "leave one out"),
        ({"path": "a", "fields": []}, "name no field"),
        ({"path": "a", "fields": "{a"}, "template '{a'"),
        ({"path": "a", "fields": "{a.b}"}, "may hold only names"),
        ({"path": "a", "fields": "{0} {}"}, "may hold only names"),
        ({"path": "a", "rows": 0}, "rows=0 must be"),
        ({"path": "a", "rows": {"tests": 3}}, "unknown split 'tests'; did you mean 'test'"),
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
        ("absent.txt", None, "does not exist"),
        ("absent", None, "does not exist"),
        ("table.csv", b"a,b", "is not a .txt, .jsonl, .json file"),
        ("latin.txt", b"caf\xe9", "not UTF-8"),
        ("empty.txt", b" \n", "is empty"),
        ("bad.jsonl", b'{"text": "a"}\n{"text": ', "line 2: not JSON"),
        ("other.jsonl", b'{"text": "a"}\n{"txt": "b"}', "line 2: no text field 'text'"),
        ("list.jsonl", b"[1]", "line 1: no text field"),
        ("mark.txt", b"\xef\xbb\xbf \n", "is empty"),
        ("list.json", b"[1]", "record 1: no text field 'text'"),
        ("number.jsonl", b'{"text": 1}', "line 1: no text field 'text'"),
        ("bad.json", b'[{"text": "a"', "not JSON"),
        ("none.json", b"[]", "is empty"),
        ("plain.txt.gz", b"text", "cannot be read"),
        ("cut.jsonl.gz", gzip.compress(b'{"text": "a"}' * 50, mtime=0)[:-9], "is damaged"),
    ],
)
def test_files_that_cannot_be_read_are_named(name, content, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        TextSource("mine", str(tmp_path / name)).check()
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fractions", [(1.0,), (0.5, 0.6), (0.5, 0.5, 0.5), (1.2, -0.1, -0.1)])
def test_fractions_that_are_not_are_refused(fractions):
    with pytest.raises(ConfigError, match="positive numbers of sum 1"):
        split_text(LINES, fractions)


def test_an_unknown_embedded_domain_suggests_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'prose'"):
        text.embedded("prosa")
