"""What the README and the pages quote is what was computed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

TABLES = """
| method | a | b |
| ------ | --: | --: |
| one | 1.0 ± 0.1 | 2 |
| two \\| three | 3 | 4 |

words

| x | y |
| - | - |
| p | q |
"""


@pytest.fixture(scope="module")
def program(script):
    return script("quote")


@pytest.fixture
def page(tmp_path, program, monkeypatch):
    """``page(words, body)`` writes a page that quotes results.md, and runs the program on it."""
    (tmp_path / "results.md").write_text(TABLES)
    monkeypatch.setattr(program, "ROOT", tmp_path)

    def run(words: str = "", body: str = "old", *options: str) -> tuple[int, str]:
        path = tmp_path / "page.md"
        quote = f"<!-- quote results.md{words} -->\n{body}\n<!-- end of quote -->"
        path.write_text(f"before\n\n{quote}\n\nafter\n")
        monkeypatch.setattr(sys, "argv", ["quote.py", str(path), *options])
        return program.main(), path.read_text()

    return run


def test_the_project_quotes_what_was_computed(program, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["quote.py", "--check"])
    code = program.main()
    assert code == 0, capsys.readouterr().err
    quotes = int(capsys.readouterr().err.split()[0])
    assert quotes > 0


def test_a_quote_becomes_the_table_of_its_file(page) -> None:
    code, text = page()
    assert code == 0
    assert "| one | 1.0 ± 0.1 | 2 |\n| two \\| three | 3 | 4 |" in text
    assert text.startswith("before\n\n<!-- quote results.md -->\n\n| method | a | b |")
    assert text.endswith("<!-- end of quote -->\n\nafter\n")


def test_rows_columns_and_the_number_of_a_table_are_chosen(page) -> None:
    _, text = page(" rows=one columns=b")
    assert "| method | b |\n| --- | ---: |\n| one | 2 |\n\n<!-- end" in text
    _, text = page(" table=2")
    assert "| p | q |" in text
    _, text = page(" table=2 rows=q")  # of a panel
    assert "| p | q |" in text


def test_check_changes_nothing_and_fails_where_they_differ(page, capsys) -> None:
    code, text = page("", "old", "--check")
    assert code == 1
    assert "old" in text
    assert "a quote differs from its file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (" rows=none", "results.md has no 'none'; there are: one"),
        (" columns=c", "has no 'c'"),
        (" table=3", "has 2 tables, not 3"),
        (" row=one", "unknown option 'row'"),
    ],
)
def test_a_quote_of_what_is_not_there_is_told(page, capsys, words, message) -> None:
    code, text = page(words)
    assert code == 1
    assert "old" in text
    assert message in capsys.readouterr().err


def test_code_blocks_are_left_alone(program) -> None:
    text = "```\n<!-- quote none.md -->\n…\n<!-- end of quote -->\n```\n"
    assert program.rewritten(text, ROOT) == (text, 0)
