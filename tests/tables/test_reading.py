import pytest

from frontrunner.errors import ConfigError
from frontrunner.tables.reading import described, load


def test_a_list_is_overrides_and_a_number_of_seeds_counts_from_zero(table) -> None:
    found = table()
    assert [r.overrides for r in found.rows] == [
        ("method=learning/cosmos",),
        ("method=learning/linear_scalarization",),
    ]
    assert found.seeds == (0, 1, 2)
    assert found.columns[0].value.name == "hypervolume"
    assert found.name == "paper/table"


def test_reported_numbers_keep_the_digits_they_were_printed_with(written) -> None:
    path = written()
    text = path.read_text() + "reported:\n  COSMOS: {hypervolume: 91.40}\n"
    text += "  linear: {hypervolume: 3.10 ± 0.02}\n"
    path.write_text(text)
    found = load(path, "smoke").reported
    assert found["", "COSMOS", "hypervolume"].text == "91.40"
    assert found["", "COSMOS", "hypervolume"].deviation is None
    assert found["", "linear", "hypervolume"].mean == 3.1
    assert found["", "linear", "hypervolume"].deviation == 0.02


def test_a_scale_takes_some_rows_by_name_or_brings_its_own(written) -> None:
    path = written(
        scales={
            "smoke": {"rows": ["linear"], "seeds": [4, 7]},
            "cpu": {"rows": {"EPO": ["method=learning/epo"]}},
        }
    )
    assert [r.name for r in load(path, "smoke").rows] == ["linear"]
    assert load(path, "smoke").seeds == (4, 7)
    assert [r.name for r in load(path, "cpu").rows] == ["EPO"]
    assert described(path) == ("A table", ("smoke", "cpu"))


def test_overrides_of_one_scale_may_stand_with_a_row_or_a_column(written) -> None:
    path = written(
        rows={"COSMOS": {"overrides": ["method=learning/cosmos"], "smoke": ["training.steps=3"]}},
        columns={"hypervolume": {"smoke": ["points=5"]}},
        scales={"smoke": {}, "cpu": {}},
    )
    small, whole = load(path, "smoke"), load(path, "cpu")
    assert small.rows[0].overrides == ("method=learning/cosmos", "training.steps=3")
    assert whole.rows[0].overrides == ("method=learning/cosmos",)
    assert small.columns[0].overrides == ("points=5",)
    assert whole.columns[0].overrides == ()


def test_a_file_extends_another_by_rows_and_other_keys(written) -> None:
    written("whole")
    path = written(
        extends="whole.yaml",
        overrides=None,
        rows={"EPO": ["method=learning/epo"], "linear": ["method=learning/chebyshev"]},
        hidden=["COSMOS"],
        title="Another",
        columns={"p": {"minus": "COSMOS", "show": "p"}},
        scales=None,
    )
    found = load(path, "smoke")
    assert [(r.name, r.overrides, r.hidden) for r in found.rows] == [
        ("COSMOS", ("method=learning/cosmos",), True),
        ("linear", ("method=learning/chebyshev",), False),
        ("EPO", ("method=learning/epo",), False),
    ]
    assert found.title == described(path)[0] == "Another"
    assert found.overrides == ("task=multi_digits", "points=3")
    assert [c.name for c in found.columns] == ["p"]


def test_what_is_extended_must_be_there_and_not_extend_it(written) -> None:
    with pytest.raises(ConfigError, match=r"it extends .*absent.yaml: there is no such file"):
        load(written(extends="absent.yaml"), "smoke")
    written("whole", extends="absent.yaml")
    with pytest.raises(ConfigError, match=r"it extends .*whole.yaml: it extends .*absent.yaml"):
        load(written(extends="whole.yaml"), "smoke")
    written("absent")
    assert load(written(extends="whole.yaml"), "smoke").rows
    written("absent", extends="table.yaml")
    with pytest.raises(
        ConfigError, match=r"absent.yaml: it extends .*table.yaml, which extends it"
    ):
        load(written(extends="whole.yaml"), "smoke")


def test_a_mapping_may_start_from_another(written) -> None:
    path = written(columns=None)
    text = "columns:\n  one: &one {digits: 2, factor: 10}\n  two: {<<: *one, digits: 4}\n"
    path.write_text(path.read_text() + text)
    one, two = load(path, "smoke").columns
    assert (one.digits, one.factor) == (2, 10)
    assert (two.digits, two.factor) == (4, 10)


def test_a_column_has_more_overrides_for_some_rows(grid) -> None:
    columns = {"few": {"rows": {"linear": ["points=5"]}}, "many": {}}
    found = grid(columns=columns, scales={"smoke": {"seeds": 1}})
    points = [[w for w in words if w.startswith("points=")] for words in found.runs()]
    assert points == [["points=3"], ["points=5"], ["points=3"]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"titel": "x"}, "unknown key 'titel'; did you mean 'title'"),
        ({"rows": None}, "'rows' is missing"),
        ({"rows": {}}, "there are no rows"),
        ({"rows": {"a": "method=x"}}, "rows.a is a list of overrides"),
        ({"columns": {"c": {"value": "hypervolum"}}}, "columns.c: no value 'hypervolum'; did you"),
        ({"columns": {"c": {"value": {"name": "hypervolume", "ref": 1}}}}, "unexpected keyword"),
        ({"columns": {"c": {"value": {"name": "objective"}}}}, "missing a required argument"),
        ({"columns": {"c": {"show": "men"}}}, "show=men; did you mean 'mean'"),
        ({"columns": {"c": {"show": "p"}}}, "needs a row to compare with"),
        ({"columns": {"c": {"show": "holm"}}}, "needs a row to compare with"),
        ({"columns": {"c": {"rows": {"COSMO": []}}}}, "columns.c.rows: no row 'COSMO'"),
        ({"hidden": ["COSMO"]}, "hidden: no row 'COSMO'; did you mean 'COSMOS'"),
        ({"columns": {"c": {"minus": "COSMO"}}}, "no row 'COSMO'; did you mean 'COSMOS'"),
        ({"columns": {"c": {"between": ["COSMOS"]}}}, "between needs two rows"),
        ({"columns": {"c": {"minus": "COSMOS", "over": "linear"}}}, "only one of"),
        (
            {"columns": {"c": {"value": {"name": "hypervolume", "reference": {"row": "none"}}}}},
            "no row 'none'",
        ),
        ({"columns": {"c": {"value": "os.path.nothing"}}}, "value os.path.nothing"),
        ({"columns": {"c": {"value": "absent.py:f"}}}, "absent.py"),
        ({"rows": {"a": {"like": "b"}}}, "rows.a: no other row 'b'"),
        ({"rows": {"a": {"like": "a"}}}, "rows.a: no other row 'a'"),
        (
            {"rows": {"a": [], "b": {"like": "a", "overrides": ["x=1"]}}},
            "it has no overrides",
        ),
        (
            {"rows": {"a": [], "b": {"follows": "a"}, "c": {"follows": "b"}}},
            "which follows another row",
        ),
        ({"rows": {"a": {"beside": {"even": "b"}}}}, "rows.a: no row 'b'"),
        ({"panels": {"a": {"values": {}}}}, "unknown key 'panels.a.values'; did you mean 'value'"),
        ({"panels": {"a": {"value": "gap"}}}, "panels.a.value is a mapping"),
        ({"panels": {"a": {"value": {"name": "gapp"}}}}, "no value 'gapp'; did you mean 'gap'"),
        ({"reported": {"COSMO": {"hypervolume": 1}}}, "no row 'COSMO'; did you mean 'COSMOS'"),
        ({"reported": {"COSMOS": {"hv": 1}}}, "no column 'hv'"),
        ({"reported": {"COSMOS": {"hypervolume": "good"}}}, "'good' is not a number"),
        ({"claims": [{"order": ["COSMOS"]}]}, "order of at least two rows"),
        ({"claims": [{"order": ["COSMOS", "liner"]}]}, "no row 'liner'; did you mean 'linear'"),
        ({"scales": {"tiny": {}}}, "unknown key 'scales.tiny'"),
        ({"scales": {"cpu": {}}}, "it has no scale 'smoke'"),
        ({"scales": {"smoke": {"seeds": 0}}}, "seeds is a number of seeds"),
        ({"scales": {"smoke": {"seeds": [1, 1]}}}, "seeds is a number of seeds"),
        ({"scales": {"smoke": {"rows": ["linaer"]}}}, "not one of its rows; did you mean 'linear'"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name_and_what_to_change(
    written, changes, message
) -> None:
    path = written(**changes)
    with pytest.raises(ConfigError) as caught:
        load(path, "smoke")
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_a_key_that_stands_twice_is_refused_with_its_line(written) -> None:
    path = written()
    path.write_text(path.read_text() + "title: another\n")
    with pytest.raises(ConfigError, match=r"line \d+: 'title' stands there twice"):
        load(path, "smoke")


def test_a_missing_file_and_one_that_is_no_yaml_are_named(work) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: there is no such file"):
        load(work / "none.yaml", "cpu")
    (work / "bad.yaml").write_text("rows: [")
    with pytest.raises(ConfigError, match=r"bad\.yaml: not readable"):
        load(work / "bad.yaml", "cpu")
