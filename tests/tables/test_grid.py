from pathlib import Path

import frontrunner.run as run_module
from frontrunner import config
from frontrunner.sweeps.launcher import State
from frontrunner.tables import index
from frontrunner.tables.grid import Grid, Slot


def test_every_run_is_where_the_run_command_would_put_it(grid) -> None:
    found = grid()
    for words, entry in found.runs().items():
        directory, identity = run_module.locate(config.compose(words))
        assert (entry.place.directory, entry.place.identity) == (directory, identity)
        assert entry.state == State.PLANNED
        assert entry.open
    assert len(found.runs()) == 2 * 3


def test_columns_without_overrides_share_their_runs(grid) -> None:
    found = grid(columns={"hypervolume": {}, "points": {"value": "points"}})
    assert len(found.runs()) == 2 * 3
    first = found.entry(Slot("", "COSMOS", "hypervolume", 0))
    assert found.entry(Slot("", "COSMOS", "points", 0)) is first


def test_runs_that_differ_in_their_label_alone_are_one(grid) -> None:
    panels = {"a": [], "b": []}
    found = grid(panels=panels, rows={"COSMOS": ["method=learning/cosmos"]})
    entries = {panel: found.entry(Slot(panel, "COSMOS", "hypervolume", 1)) for panel in panels}
    assert entries["a"] is entries["b"]
    assert len(found.runs()) == 3


def test_a_run_that_another_table_has_done_under_its_label_is_found(grid, runs) -> None:
    ours = grid(rows={"ours": ["method=learning/cosmos"]})
    for entry in runs.of(ours, "ours"):
        runs.finish(entry, runs.square(0.5))
    theirs = grid(rows={"theirs": ["method=learning/cosmos"], "linear": []})
    assert [e.state for e in runs.of(theirs, "theirs")] == [State.DONE] * 3
    places = [e.place.directory for e in runs.of(theirs, "theirs")]
    assert places == [e.place.directory for e in runs.of(ours, "ours")]
    assert [e.state for e in runs.of(theirs, "linear")] == [State.PLANNED] * 3


def test_a_later_override_replaces_an_earlier_one_and_a_tilde_takes_it_back(grid) -> None:
    found = grid(
        overrides=["task=multi_digits", "points=3", "training.steps=7"],
        rows={
            "fewer": ["method=learning/cosmos", "training.steps=5"],
            "the task's own": ["method=learning/cosmos", "~training.steps"],
        },
        scales={"smoke": {"seeds": 1}},
    )
    words = {entry.words for entry in found.runs().values()}
    (fewer,) = (w for w in words if "training.steps=5" in w)
    (own,) = (w for w in words if w != fewer)
    assert "training.steps=7" not in fewer
    assert not any("training.steps" in w for w in own)


def test_a_scales_overrides_come_last(grid) -> None:
    found = grid(
        rows={"COSMOS": ["method=learning/cosmos", "training.steps=50"]},
        scales={"smoke": {"overrides": ["training.steps=2"]}},
    )
    (words,) = found.runs()
    assert "training.steps=2" in words
    assert "training.steps=50" not in words


def test_a_row_like_another_has_its_runs(grid) -> None:
    found = grid(rows={"COSMOS": ["method=learning/cosmos"], "same": {"like": "COSMOS"}})
    assert len(found.runs()) == 3
    own = found.entry(Slot("", "COSMOS", "hypervolume", 2))
    assert found.entry(Slot("", "same", "hypervolume", 2)) is own


def test_what_follows_waits_and_then_takes_numbers_from_the_run_it_follows(grid, runs) -> None:
    rows = {
        "COSMOS": ["method=learning/cosmos"],
        "as long": {
            "follows": "COSMOS",
            "overrides": ["method=learning/linear_scalarization", "training.steps=<cost.steps>"],
        },
    }
    found = grid(rows=rows, scales={"smoke": {"seeds": 2}})
    assert found.waiting() == 2
    waiting = found.entry(Slot("", "as long", "hypervolume", 0))
    assert waiting.reason == "it follows 'COSMOS', which is not done"
    assert not waiting.open
    runs.finish(runs.of(found, "COSMOS")[0], runs.square(0.5), cost={"steps": 40})
    runs.finish(runs.of(found, "COSMOS")[1], runs.square(0.5))
    later = runs.again(found)
    assert "training.steps=40" in later.entry(Slot("", "as long", "hypervolume", 0)).words
    unknown = later.entry(Slot("", "as long", "hypervolume", 1))
    assert "has no number 'cost.steps'" in unknown.reason
    assert unknown.state is None


def test_what_follows_can_take_a_value_of_the_run_it_follows(grid, runs) -> None:
    words = ["method=learning/linear_scalarization", "training.steps=<points>"]
    rows = {
        "COSMOS": ["method=learning/cosmos"],
        "as many": {"follows": "COSMOS", "overrides": words},
    }
    columns = {"hypervolume": {}, "gap": {"value": "gap"}}  # the same runs
    found = grid(rows=rows, columns=columns, scales={"smoke": {"seeds": 1}})
    assert found.waiting() == 1
    front = runs.square(0.5)
    runs.finish(runs.of(found, "COSMOS")[0], front)
    later = runs.again(found).entry(Slot("", "as many", "hypervolume", 0))
    assert f"training.steps={len(front)}" in later.words


def test_what_cannot_be_composed_is_told_and_the_rest_stands(grid) -> None:
    found = grid(
        rows={"COSMOS": ["method=learning/cosmos"], "typo": ["method=learning/cosmoss"]},
        scales={"smoke": {"seeds": 1}},
    )
    bad = found.entry(Slot("", "typo", "hypervolume", 0))
    assert bad.state is None
    assert "learning/cosmoss does not exist" in bad.reason
    assert found.entry(Slot("", "COSMOS", "hypervolume", 0)).open


def test_failed_runs_are_open_and_done_ones_are_not(grid, runs) -> None:
    found = grid()
    first, second, _ = runs.of(found, "COSMOS")
    runs.finish(first, runs.square(0.5))
    runs.fail(second, "out of memory")
    states = runs.of(runs.again(found), "COSMOS")
    assert [e.state for e in states] == [State.DONE, State.FAILED, State.PLANNED]
    assert [e.open for e in states] == [False, True, True]
    assert states[1].reason == "out of memory"


def test_places_are_remembered_until_a_configuration_changes(work, monkeypatch) -> None:
    cell = ["task=multi_digits", "method=mine", "label=x"]
    own = work / "conf" / "method" / "mine.yaml"
    own.parent.mkdir(parents=True)
    text = (config.conf_dir() / "method" / "learning" / "cosmos.yaml").read_text()
    own.write_text(text)
    (first,) = index.places([cell])
    assert not first.problem
    with monkeypatch.context() as patch:
        patch.setattr(index, "_locate", lambda cells: [1 / 0 for _ in cells])
        assert index.places([cell]) == [first]  # nothing is composed
    own.write_text(
        text.replace("method:\n", "method:\n  cosine_weight: 0.25\n", 1).replace(
            "  cosine_weight: ${training.cosine_weight}\n", ""
        )
    )
    (second,) = index.places([cell])
    assert not second.problem
    assert second.identity != first.identity


def test_an_unwritable_cache_only_costs_time(work, monkeypatch) -> None:
    (work / "file").write_text("")
    monkeypatch.setenv("FRONTRUNNER_CACHE", str(work / "file"))
    (place,) = index.places([["task=multi_digits", "label=x"]])
    assert place.directory.name.startswith("x-s0-")


def test_labels_are_names_of_folders(grid) -> None:
    found = grid(rows={"A/B 'c'": ["method=learning/cosmos"]}, scales={"smoke": {"seeds": 1}})
    (entry,) = found.runs().values()
    assert entry.place.directory.parent == Path("runs/multi_digits")
    assert entry.place.directory.name.startswith("A-B -c--s0-")


def test_a_grid_is_read_from_another_output_without_mixing(table) -> None:
    one, other = Grid(table(), Path("runs")), Grid(table(), Path("elsewhere"))
    assert not set(one.runs()) & set(other.runs())
