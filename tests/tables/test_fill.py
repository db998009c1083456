import json

import numpy as np
import pytest
from scipy import stats

from frontrunner.front import statistics
from frontrunner.tables.fill import fill
from frontrunner.tables.show import FORMATS, render, to_dict

KEY = ("", "COSMOS", "hypervolume")


def test_a_cell_is_the_mean_and_deviation_over_its_seeds(grid, runs) -> None:
    found = grid()
    sides = [0.5, 0.6, 0.8]
    runs.squares(found, "COSMOS", sides)
    cell = fill(runs.again(found)).cells[KEY]
    squares = np.square(sides)
    assert cell.statistic.mean == pytest.approx(squares.mean())
    assert cell.statistic.std == pytest.approx(squares.std(ddof=1))
    assert cell.text == f"{squares.mean():.2f} ± {squares.std(ddof=1):.2f}"
    assert cell.whole


def test_missing_seeds_are_counted_and_their_reasons_told(grid, runs) -> None:
    found = grid()
    runs.finish(runs.of(found, "COSMOS")[0], runs.square(0.5))
    runs.fail(runs.of(found, "COSMOS")[1], "out of memory")
    filled = fill(runs.again(found))
    cell = filled.cells[KEY]
    assert set(cell.values) == {("", 0)}
    assert cell.missing == {("", 1): "failed: out of memory", ("", 2): "planned"}
    assert not filled.whole
    text = render(filled, "text")
    assert "0.25 (1 of 3 runs) [1][2]" in text
    assert "failed: out of memory" in text
    assert "COSMOS / hypervolume" in text


def test_an_empty_cell_says_why_and_the_rest_of_the_table_stands(grid, runs) -> None:
    found = grid()
    runs.squares(found, "COSMOS", [0.5, 0.5, 0.5])
    filled = fill(runs.again(found))
    assert filled.cells["", "linear", "hypervolume"].statistic is None
    lines = render(filled, "text").splitlines()
    assert any(line.startswith("COSMOS") and "0.25" in line for line in lines)
    assert any(line.startswith("linear") and "— [1]" in line for line in lines)


@pytest.mark.parametrize(
    ("printed", "marked"),
    [("0.30 ± 0.03", False), ("0.30 ± 0.02", True), ("0.26", False), ("0.30", True)],
)
def test_a_mark_is_for_more_than_two_of_the_larger_deviation(grid, runs, printed, marked) -> None:
    found = grid(reported={"COSMOS": {"hypervolume": printed}})
    runs.squares(found, "COSMOS", np.sqrt([0.24, 0.25, 0.26]))  # deviation 0.01
    filled = fill(runs.again(found))
    assert filled.cells[KEY].marked is marked
    assert ("0.25 ± 0.01 *" in render(filled, "text")) is marked


def test_where_no_deviation_is_known_nothing_is_marked(grid, runs) -> None:
    found = grid(reported={"COSMOS": {"hypervolume": 9}}, scales={"smoke": {"seeds": 1}})
    runs.squares(found, "COSMOS", [0.5])
    assert fill(runs.again(found)).cells[KEY].marked is None


def test_numbers_of_other_models_are_shown_and_never_marked(grid, runs) -> None:
    found = grid(
        reported={"COSMOS": {"hypervolume": 9}},
        scales={"smoke": {"seeds": 2, "comparable": False}},
    )
    runs.squares(found, "COSMOS", [0.5, 0.6])
    filled = fill(runs.again(found))
    assert filled.cells[KEY].marked is None
    assert "not to be compared number by number" in render(filled, "text")


def test_differences_are_paired_and_have_the_bootstraps_interval(grid, runs) -> None:
    columns = {
        "gain": {"minus": "COSMOS", "show": "difference", "digits": 3},
        "p": {"minus": "COSMOS", "show": "p"},
        "wins": {"minus": "COSMOS", "show": "wins"},
    }
    found = grid(columns=columns, scales={"smoke": {"seeds": 6}})
    ours, theirs = np.array([5, 6, 7, 8, 7, 6]) / 10, np.array([4, 6.5, 5, 6, 5, 5]) / 10
    runs.squares(found, "linear", ours)
    runs.squares(found, "COSMOS", theirs)
    cells = fill(runs.again(found)).cells
    gains = ours**2 - theirs**2
    low, high = statistics.bootstrap(gains)
    assert cells["", "linear", "gain"].text == f"{gains.mean():+.3f} ({low:+.3f} to {high:+.3f})"
    flips = stats.permutation_test(
        (gains,), np.mean, permutation_type="samples", n_resamples=np.inf
    )
    assert float(cells["", "linear", "p"].text) == pytest.approx(flips.pvalue, abs=6e-4)
    assert cells["", "linear", "wins"].text == "5 of 6"
    assert cells["", "COSMOS", "gain"].text == ""  # a row is not compared with itself


def test_holm_corrects_over_the_rows_of_a_column(grid, runs) -> None:
    columns = {name: {"minus": "COSMOS", "show": name} for name in ("p", "holm")}
    rows = {
        "COSMOS": ["method=learning/cosmos"],
        "linear": ["method=learning/linear_scalarization"],
        "far": ["method=learning/chebyshev"],
    }
    found = grid(columns=columns, rows=rows, scales={"smoke": {"seeds": 6}})
    theirs = np.linspace(0.4, 0.5, 6)
    runs.squares(found, "COSMOS", theirs)
    runs.squares(found, "linear", theirs + np.array([3, 2, 1, 1, -1, 2]) / 100)
    runs.squares(found, "far", theirs + 0.3)
    filled = fill(runs.again(found))
    p = {row: float(filled.cells["", row, "p"].text) for row in ("linear", "far")}
    assert p["far"] < p["linear"] < 0.5
    assert float(filled.cells["", "far", "holm"].text) == pytest.approx(2 * p["far"], abs=2e-3)
    assert filled.cells["", "linear", "holm"].text == filled.cells["", "linear", "p"].text
    assert filled.cells["", "COSMOS", "holm"].text == ""
    assert "corrected over the rows" in render(filled, "text")


def test_a_difference_lacks_the_seeds_that_its_rival_lacks(grid, runs) -> None:
    found = grid(columns={"gain": {"minus": "COSMOS", "show": "difference"}})
    runs.squares(found, "linear", [0.5, 0.6, 0.7])
    runs.finish(runs.of(found, "COSMOS")[0], runs.square(0.4))
    cell = fill(runs.again(found)).cells["", "linear", "gain"]
    assert set(cell.values) == {("", 0)}
    assert cell.missing["", 1] == "'COSMOS' is planned"


def test_change_and_share_are_in_percent_of_other_rows(grid, runs) -> None:
    columns = {
        "change": {"over": "COSMOS", "digits": 1},
        "share": {"between": ["COSMOS", "best"], "digits": 1},
    }
    rows = {
        "COSMOS": ["method=learning/cosmos"],
        "linear": ["method=learning/linear_scalarization"],
        "best": ["method=learning/chebyshev"],
    }
    found = grid(columns=columns, rows=rows, scales={"smoke": {"seeds": 1}})
    for row, volume in (("COSMOS", 0.2), ("linear", 0.3), ("best", 0.6)):
        runs.squares(found, row, [volume**0.5])
    cells = fill(runs.again(found)).cells
    assert cells["", "linear", "change"].text == "+50.0 %"
    assert cells["", "linear", "share"].text == "25.0 %"
    assert cells["", "best", "share"].text == "100.0 %"
    assert cells["", "COSMOS", "share"].text == "0.0 %"


def test_roles_say_for_each_row_whom_it_is_compared_with(grid, runs) -> None:
    rows = {
        "COSMOS": {"overrides": ["method=learning/cosmos"], "beside": {"control": "c"}},
        "linear": ["method=learning/linear_scalarization"],
        "c": {"overrides": ["method=learning/chebyshev"], "hidden": True},
    }
    found = grid(
        rows=rows,
        columns={"gain": {"minus": "control", "show": "difference", "digits": 2}},
        scales={"smoke": {"seeds": 1}},
    )
    for row, side in (("COSMOS", 0.6), ("linear", 0.5), ("c", 0.5)):
        runs.squares(found, row, [side])
    filled = fill(runs.again(found))
    assert filled.cells["", "COSMOS", "gain"].text == "+0.11"
    assert filled.cells["", "linear", "gain"].text == ""
    assert {key[1] for key in filled.cells} == {"COSMOS", "linear"}


def test_panels_may_read_other_things_of_the_same_runs(grid, runs) -> None:
    panels = {
        "whole": {"value": {"reference": [1, 1]}},
        "half": {"value": {"reference": [0.5, 1]}},
    }
    found = grid(panels=panels, scales={"smoke": {"seeds": 1}})
    runs.finish(runs.of(found, "COSMOS")[0], runs.square(1.0))
    later = runs.again(found)
    assert len(later.runs()) == 2  # of two rows
    cells = fill(later).cells
    assert [cells[panel, *KEY[1:]].statistic.mean for panel in panels] == [1.0, 0.5]


def test_pooled_panels_are_repetitions(grid, runs) -> None:
    panels = {"few": ["training.steps=5"], "many": ["training.steps=6"]}
    found = grid(panels=panels, pool=True, panel="steps", scales={"smoke": {"seeds": 2}})
    runs.squares(found, "COSMOS", [0.2, 0.4, 0.6, 0.8])
    filled = fill(runs.again(found))
    cell = filled.cells[KEY]
    assert cell.statistic.n == 4
    assert cell.statistic.mean == pytest.approx(np.square([0.2, 0.4, 0.6, 0.8]).mean())
    assert "over steps few and many" in render(filled, "text")


def test_a_claim_counts_in_how_many_seeds_its_order_held(grid, runs) -> None:
    found = grid(
        claims=[{"says": "linear is ahead", "order": ["linear", "COSMOS"]}],
        scales={"smoke": {"seeds": 3}},
    )
    runs.squares(found, "linear", [0.5, 0.6, 0.7])
    runs.squares(found, "COSMOS", [0.4, 0.6, 0.3])  # a tie is not an order
    filled = fill(runs.again(found))
    assert [(h.held, h.of) for h in filled.claims] == [(2, 3)]
    assert "linear is ahead: held in 2 of 3" in render(filled, "text")


def test_a_claim_about_rows_that_a_scale_lacks_is_left_out(grid) -> None:
    found = grid(
        claims=[{"order": ["linear", "COSMOS"]}],
        scales={"smoke": {"rows": ["COSMOS"]}},
    )
    assert fill(found).claims == []


def test_a_value_that_raises_is_told_in_its_cell(grid, runs, written) -> None:
    folder = written().parent
    (folder / "mine.py").write_text("def odd(run, peers):\n    return [][1]\n")
    found = grid(
        columns={"odd": {"value": "mine.py:odd"}, "hypervolume": {"digits": 2}},
        scales={"smoke": {"seeds": 1}},
    )
    runs.squares(found, "COSMOS", [0.5])
    filled = fill(runs.again(found))
    assert filled.cells["", "COSMOS", "odd"].missing["", 0] == "IndexError: list index out of range"
    assert filled.cells[KEY].text == "0.25"


def test_reasons_of_runs_that_could_not_start_are_told(grid) -> None:
    found = grid(scales={"smoke": {"seeds": 1}})
    problems = {words: "no compas data" for words in found.runs()}
    assert fill(found, problems).cells[KEY].missing["", 0] == "cannot run: no compas data"


def test_every_format_has_every_number_and_its_conventions(grid, runs) -> None:
    found = grid(
        title="Hyper & volume_1",
        source="A paper, Table 2",
        reported={"COSMOS": {"hypervolume": "0.30 ± 0.02"}},
        notes=["a note"],
    )
    runs.squares(found, "COSMOS", [0.5, 0.5, 0.5])
    runs.squares(found, "linear", [0.6, 0.7, 0.8])
    filled = fill(runs.again(found))
    for form in FORMATS:
        text = render(filled, form)
        assert "COSMOS" in text, form
        assert "0.25" in text, form
        assert "0.3" in text, form
        if form != "csv":
            assert "reference point (1, 1)" in text, form
            assert "A paper, Table 2" in text, form
    latex = render(filled, "latex")
    assert r"Hyper \& volume\_1" in latex
    assert r"\toprule" in latex
    assert r"0.25 $\pm$ 0.00 $^{*}$" in latex
    data = json.loads(render(filled, "json"))
    assert data["cells"][0]["values"] == {"0": 0.25, "1": 0.25, "2": 0.25}
    assert data["cells"][0]["marked"] is True
    assert to_dict(filled)["references"] == {"hypervolume": "(1, 1)"}
    head, first, *_ = render(filled, "csv").splitlines()
    row = dict(zip(head.split(","), first.split(","), strict=True))
    assert (row["mean"], row["reported"], row["seeds"], row["marked"]) == (
        "0.25",
        "0.3",
        "3",
        "True",
    )


def test_panels_are_blocks_with_a_rule_between_them_in_latex(grid, runs) -> None:
    found = grid(
        panels={"5": ["training.steps=5"], "6": ["training.steps=6"]},
        panel="steps",
        rows={"COSMOS": ["method=learning/cosmos"]},
        scales={"smoke": {"seeds": 1}},
    )
    runs.squares(found, "COSMOS", [0.5, 0.6])
    filled = fill(runs.again(found))
    assert filled.cells["5", "COSMOS", "hypervolume"].text == "0.25"
    assert filled.cells["6", "COSMOS", "hypervolume"].text == "0.36"
    assert render(filled, "latex").count(r"\midrule") == 2
