"""What the README and the pages say in sentences is what was computed."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def figures(script):
    return script("figures")


@pytest.fixture
def root(tmp_path) -> Path:
    """A folder with a table's results and a benchmark's."""
    results = tmp_path / "experiments" / "paper" / "results"
    results.mkdir(parents=True)
    (results / "gains.md").write_text("| a | b |\n| --- | ---: |\n| one | 0.606 ± 0.138 |\n")
    (results / "other.md").write_text("| a | b |\n| --- | ---: |\n| one | 2.37 |\n")
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    (tmp_path / "benchmarks" / "results" / "steps-cpu.json").write_text('{"share": 0.0859}')
    return tmp_path


NAMED = "## Measured\n\n`frontrunner table paper/gains`: "


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        (f"{NAMED}a gain of +0.606 (deviation 0.14).", []),
        (f"{NAMED}a gain of +0.607.", ["0.607"]),
        (f"{NAMED}2.37 is of a table that is not named.", ["2.37"]),
        ("`frontrunner table paper/gains`, `other`: 2.37 and 0.61.", []),
        ("`frontrunner table paper/gains|other`: 2.37 and 0.61.", []),
        (f"{NAMED}0.61.\n\n## Next\n\nSections name for themselves: 0.61.", ["0.61"]),
        ("`python benchmarks/steps.py`: 8.6 %.", []),
        ("([all](../experiments/paper/results/other.md)) 2.4, −2.37.", []),
        ("`0.5` in code, $0.5$ in formulas, [0.5](0.5.md)'s address, v1.2.3, Apache-2.0", ["0.5"]),
        ("<!-- quote x.md -->\n| 0.1 |\n<!-- end of quote -->", []),
        ("| a table | 0.25 |", ["0.25"]),
        ("λ = 0.25 <!-- constants: 0.25 -->", []),
        ("27.7 s <!-- by hand: 27.7 -->", []),
        ("27.7 s, as in `<!-- by hand: 27.7 -->`", ["27.7"]),
    ],
)
def test_numbers_are_looked_up_where_their_section_says(figures, root, text, unknown) -> None:
    _, missing, unused = figures.check(text, root)
    assert [number for number, _ in missing] == unknown
    assert not unused


def test_what_is_listed_is_needed(figures, root) -> None:
    text = f"{NAMED}0.61 and 0.3.\n\n<!-- constants: 0.3 0.61 -->\n<!-- by hand: 0.4 -->"
    assert figures.check(text, root) == (1, [], ["0.4", "0.61"])


def test_the_project_says_what_was_computed(figures, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["figures.py"])
    assert figures.main() == 0, capsys.readouterr().out
