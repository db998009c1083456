"""Comparing fronts: conventions, refusals, tests, warnings and words."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from frontrunner.errors import FrontError
from frontrunner.front import Front, Objective, indicators, text
from frontrunner.front.collect import Entries, Entry, Skipped
from frontrunner.front.compare import compare, covered

LOSSES = (Objective("left", "min", "nats"), Objective("right", "min", "nats"))


def entry(
    label: str,
    seed: int | None = 0,
    shift: float = 0.0,
    *,
    n: int = 9,
    reference: Any = (2.0, 2.0),
    objectives: tuple[Objective, ...] = LOSSES,
    **info: Any,
) -> Entry:
    """A convex front moved outwards by ``shift``, with a little noise of its seed."""
    t = np.linspace(0.05, 0.95, n)
    noise = 0.01 * np.random.default_rng(0 if seed is None else seed).random()
    values = np.c_[(1 - t) ** 2, t**2] + shift + noise
    info = {"task": "toy", "split": "test", "evaluator": "objectives", **info}
    front = Front(
        objectives,
        values * [o.sign for o in objectives],
        np.c_[t, 1 - t],
        "weight",
        reference,
        info=info,
    )
    return Entry(front, label, seed, Path(f"{label}/{seed}/front.json"))


def in_cost(unit: str) -> tuple[Objective, ...]:
    return Objective("cost", "min", unit), Objective("class", "min", "error")


def passes(n: int) -> dict[str, float]:
    return {"forward_passes": n, "seconds": 1.0}


def groups(seeds: int, **shifts: float) -> list[Entry]:
    return [entry(k, s, shift) for (k, shift), s in product(shifts.items(), range(seeds))]


def edited(e: Entry, **changes: Any) -> Entry:
    return replace(e, front=replace(e.front, **changes))


# ---------------------------------------------------------------------- conventions


def test_hypervolumes_are_those_of_the_indicator_at_the_common_reference() -> None:
    entries = groups(3, A=0.0, B=0.2)
    c = compare(entries)
    assert c.reference_source == "common"
    runs = [r for g in c.groups for r in g.runs]
    for r, e in zip(runs, entries, strict=True):
        assert r.indicators["hypervolume"] == indicators.hypervolume(e.front.values, [2, 2])
    union = np.vstack([e.front.values for e in entries])
    assert c.union_hypervolume == pytest.approx(indicators.hypervolume(union, [2, 2]))
    a = c.group("A").statistics["hypervolume"]
    values = [r.indicators["hypervolume"] for r in c.group("A").runs]
    assert a is not None
    assert a.mean == pytest.approx(np.mean(values))
    assert a.std == pytest.approx(np.std(values, ddof=1))


def test_a_derived_reference_is_a_tenth_of_the_range_beyond_the_nadir() -> None:
    flat = [edited(e, reference_point=None) for e in groups(1, A=0.0, B=0.5)]
    c = compare(flat)
    best = flat[0].front.values  # B adds nothing to the joint front
    expected = best.max(axis=0) + 0.1 * np.ptp(best, axis=0)
    np.testing.assert_allclose(c.reference_point, expected)
    assert c.reference_source == "derived"
    assert any("derived" in w for w in c.warnings)


def test_maximising_an_objective_changes_signs_and_no_indicator() -> None:
    flipped = (LOSSES[0], Objective("right", "max", "nats"))
    pairs = [("A", 0.0), ("B", 0.2)]
    low = compare([entry(k, 1, s) for k, s in pairs])
    high = compare([entry(k, 1, s, objectives=flipped, reference=(2.0, -2.0)) for k, s in pairs])
    np.testing.assert_allclose(high.reference_point, low.reference_point * [1, -1])
    np.testing.assert_allclose(high.nadir, low.nadir * [1, -1])
    for a, b in zip(low.groups, high.groups, strict=True):
        for key, value in a.runs[0].indicators.items():
            other = b.runs[0].indicators[key]
            same = value is other or other == pytest.approx(value, rel=1e-9, abs=1e-12)
            assert same, (key, value, other)


def test_distances_do_not_depend_on_units_and_vanish_for_the_joint_front() -> None:
    entries = groups(2, A=0.0, B=0.3)
    scaled = [
        edited(e, values=e.front.values * [1000.0, 0.01], reference_point=[2000.0, 0.02])
        for e in entries
    ]
    one, two = compare(entries), compare(scaled)
    for key in ("igd_plus", "epsilon_additive", "spacing", "uniformity", "relative_hypervolume"):
        for g, h in zip(one.groups, two.groups, strict=True):
            assert g.statistics[key].mean == pytest.approx(h.statistics[key].mean), key
    alone = compare([entry("A")]).groups[0].statistics
    assert alone["igd_plus"].mean == pytest.approx(0.0, abs=1e-12)
    assert alone["relative_hypervolume"].mean == pytest.approx(1.0)


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (entry("B", objectives=(LOSSES[0], Objective("other"))), "different objectives"),
        (
            entry("B", objectives=(LOSSES[0], replace(LOSSES[1], direction="max"))),
            "different objectives",
        ),
        (entry("B", task="other"), "different tasks"),
        (entry("B", split="validation"), "different splits"),
        (entry("B", reference=(3.0, 2.0)), "different reference points"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_the_reason_and_both_files(
    second: Entry, said: str
) -> None:
    with pytest.raises(FrontError, match=said) as caught:
        compare([entry("A"), second])
    assert "A/0/front.json" in str(caught.value)
    assert "B/0/front.json" in str(caught.value)


def test_a_given_reference_point_resolves_different_ones() -> None:
    c = compare([entry("A"), entry("B", reference=(3.0, 2.0))], reference_point=[2.5, 2.5])
    assert c.reference_source == "given"
    assert c.reference_point.tolist() == [2.5, 2.5]


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(FrontError, match="no fronts"):
        compare([])
    with pytest.raises(FrontError, match="reference point"):
        compare([entry("A")], reference_point=[1.0])
    with pytest.raises(FrontError, match="'linear'"):
        compare([entry("linear"), entry("B")], baseline="linaer")


def test_two_fronts_under_one_label_and_seed_are_refused_but_a_copy_counts_once() -> None:
    with pytest.raises(FrontError, match="label"):
        compare([entry("A", 0), entry("A", 0, 0.1)])
    copy = replace(entry("A", 0), path=Path("copy/front.json"))
    c = compare([entry("A", 0), copy, entry("A", 1)])
    assert len(c.group("A").runs) == 2
    assert any("copy/front.json" in w for w in c.warnings)


# ---------------------------------------------------------------------- tests and words


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_too_few_seeds_are_said_to_be_too_few_whatever_the_data(seeds: int) -> None:
    c = compare(groups(seeds, A=0.0, B=0.5))
    (pair,) = c.pairs
    assert not pair.possible
    assert not pair.significant
    text = " ".join(c.conclusions)
    assert "whatever the data" in text
    assert f"{pair.test.smallest:.4g}" in text
    assert "At least 6 shared seeds" in text


def test_six_seeds_can_show_a_difference_between_two_but_not_among_three() -> None:
    two = compare(groups(6, A=0.0, B=0.2))
    assert two.pairs[0].significant
    assert two.pairs[0].adjusted == pytest.approx(1 / 32)
    assert any("'A' reaches a larger hypervolume than 'B'" in s for s in two.conclusions)
    three = compare(groups(6, A=0.0, B=0.2, C=0.4))
    assert len(three.pairs) == 3
    assert not any(p.possible for p in three.pairs)
    against = compare(groups(7, A=0.0, B=0.2, C=0.4), baseline="B")
    assert {(p.a, p.b) for p in against.pairs} == {("A", "B"), ("C", "B")}
    assert all(p.significant for p in against.pairs)
    assert any("'B' reaches a larger hypervolume than 'C'" in s for s in against.conclusions)


def test_many_tests_are_told_by_the_method_that_is_ahead() -> None:
    shifts = {name: 0.1 * k for k, name in enumerate("ABCDE")}
    c = compare(groups(9, **shifts))
    assert len(c.pairs) == 10
    assert all(p.significant for p in c.pairs)
    assert sum("reaches a larger hypervolume" in s for s in c.conclusions) == 10
    more = compare(groups(10, **shifts, F=0.5))
    ahead = [s for s in more.conclusions if "reaches a larger hypervolume" in s]
    assert len(ahead) == 5  # F is ahead of none
    assert ahead[0].startswith("'A' reaches a larger hypervolume than 'B', 'C', 'D', 'E' and 'F'")
    assert "15 tests" in ahead[0]


def test_conclusions_say_which_comparisons_rest_on_different_budgets() -> None:
    used = {"A": 100, "B": 105, "C": 1000}
    entries = [entry(k, s, cost=passes(n)) for (k, n), s in product(used.items(), range(3))]
    c = compare(entries)
    (said,) = [s for s in c.conclusions if "different budgets" in s]
    assert said.startswith("2 of 3 comparisons")
    assert "'A' and 'C' (100 : 1,000); 'B' and 'C' (105 : 1,000)" in said
    assert "'A' and 'B' (" not in said
    assert [text.budgets(c, p) for p in c.pairs] == ["equal", "1 : 10", "1 : 9.52"]
    alone = compare([e for e in entries if e.label != "B"])
    assert any(s.startswith("This comparison rests on different") for s in alone.conclusions)
    equal = compare([e for e in entries if e.label != "C"])
    assert not any("different budgets" in s for s in equal.conclusions)
    unknown = compare(groups(3, A=0.0, B=0.2))
    assert [text.budgets(unknown, p) for p in unknown.pairs] == ["unknown"]


def test_many_unlike_budgets_are_told_by_level() -> None:
    entries = [
        entry(name, s, cost=passes(100 * (1 + k % 3)))
        for (k, name), s in product(enumerate("ABCDEF"), range(2))
    ]
    (said,) = [s for s in compare(entries).conclusions if "different budgets" in s]
    assert "12 of 15 comparisons" in said
    assert "100 for 'A' and 'D'; 200 for 'B' and 'E'; 300 for 'C' and 'F'" in said


def test_an_open_outcome_is_not_called_equality() -> None:
    shifts = np.random.default_rng(1).normal(0, 0.05, size=7)
    entries = [entry("A", s) for s in range(7)]
    entries += [entry("B", s, 0.1 + float(x)) for s, x in enumerate(shifts - shifts.mean() - 0.1)]
    (pair,) = compare(entries).pairs
    assert pair.possible
    assert not pair.significant
    assert any("not evidence that they are equal" in s for s in compare(entries).conclusions)


def test_differences_are_paired_by_seed_and_only_shared_seeds_count() -> None:
    entries = [entry("A", s) for s in (0, 1, 2)] + [entry("B", s, 0.1) for s in (1, 2, 9)]
    c = compare(entries)
    (pair,) = c.pairs
    assert pair.seeds == (1, 2)
    volume = {(r.label, r.seed): r.indicators["hypervolume"] for g in c.groups for r in g.runs}
    expected = np.mean([volume["A", s] - volume["B", s] for s in (1, 2)])
    assert pair.difference is not None
    assert pair.difference.mean == pytest.approx(expected)
    assert any("'A' lacks seed 9" in w for w in c.warnings)
    assert any("'B' lacks seed 0" in w for w in c.warnings)


def test_without_shared_seeds_nothing_is_tested_and_coverage_still_is() -> None:
    c = compare([entry("A", None), entry("B", None, 0.3)])
    assert c.pairs[0].test.p is None
    assert c.pairs[0].adjusted is None
    assert any("share no seed" in s for s in c.conclusions)
    assert c.coverage["A"]["B"] == 1.0
    assert c.coverage["B"]["A"] == 0.0
    assert any("for any reference point" in s for s in c.conclusions)


def test_coverage_is_its_definition() -> None:
    a, b = np.array([[1.0, 1.0]]), np.array([[1.0, 1.0], [2.0, 2.0], [0.5, 3.0]])
    assert covered(a, b) == pytest.approx(2 / 3)
    assert covered(b, a) == 1.0


# ---------------------------------------------------------------------- warnings


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (
            [
                entry("A", cost={"forward_passes": 100}),
                entry("B", cost={"forward_passes": 111}),
            ],
            "budgets differ",
        ),
        ([entry("A", cost={"forward_passes": 100}), entry("B")], "unknown for 'B'"),
        ([entry("A"), entry("B", shift=1.9)], "hypervolume: 9 of 9 of 'B'"),
        ([entry("A"), entry("B", n=12)], "different numbers of points"),
        ([entry("A"), entry("B", evaluator="lm")], "different evaluators"),
        ([entry("A"), entry("B")], "fewer than 3 runs"),
        ([entry("A"), entry("B", None)], "without a seed"),
        ([entry("A"), entry("B", split=None)], "1 of 2 fronts do not say their split"),
        (
            [edited(entry("A"), values=[[0.1, 0.9], [0.2, 1.0]], preferences=None)],
            "dominated within their own run: 1 of 2 of 'A'",
        ),
        (
            [edited(entry("A"), values=[[0.1, 0.9], [0.1, 1.0]], preferences=None)],
            "same value of left",
        ),
        ([entry("A", shift=5.0)], "all hypervolumes are 0"),
        (
            [entry("A", 0), entry("A", 3, collapsed=[0.1, 0.2, 0.2]), entry("B", collapsed=[])],
            "training of 'A' collapsed, to hardly more than one answer for all samples: seed 3 at "
            "budget 0.1 and 0.2. These",
        ),
        ([entry("A", objectives=in_cost("s"))], "costs are seconds"),
    ],
)
def test_what_makes_a_comparison_weak_is_warned_of(entries: list[Entry], said: str) -> None:
    assert any(said in w for w in compare(entries).warnings), compare(entries).warnings


def test_budgets_that_are_an_objective_may_differ() -> None:
    entries = [
        entry(k, s, x, objectives=in_cost("of full training"), collapsed=[], cost=passes(n))
        for k, x, n in (("A", 0.0, 100), ("B", 0.1, 900))
        for s in range(3)
    ]
    assert compare(entries).warnings == ()


def test_a_sound_comparison_has_no_warnings() -> None:
    costs = {"cost": {"forward_passes": 100, "seconds": 1.0}}
    entries = [entry(k, s, x, **costs) for k, x in (("A", 0.0), ("B", 0.1)) for s in range(3)]
    assert compare(entries).warnings == ()


def test_skipped_runs_are_told() -> None:
    entries = Entries([entry("A")])
    entries.skipped = (Skipped(Path("x/front.json"), "its status is 'failed'"),)
    c = compare(entries)
    assert c.skipped == entries.skipped
    assert "x/front.json" in c.warnings[0]


# ---------------------------------------------------------------------- output


def test_the_result_is_json_without_nan_even_for_poor_fronts() -> None:
    poor = edited(
        entry("A", cost={"seconds": float("nan"), "forward_passes": True}, shift=5.0),
        values=[[7.0, 7.0]],
        preferences=None,
    )
    c = compare([poor, entry("B", None, 5.0)])
    data = json.loads(json.dumps(c.to_dict(), allow_nan=False))
    run = data["groups"][0]["runs"][0]["indicators"]
    assert run["seconds"] is None
    assert run["forward_passes"] is None
    assert run["spacing"] is None
    assert run["relative_hypervolume"] is None
    assert run["hypervolume"] == 0.0
    assert data["groups"][0]["seeds"] == [0]
    assert data["reference_point"] == [2.0, 2.0]
    assert c.table()
    assert c.table(markdown=True)


def test_the_same_input_gives_the_same_output() -> None:
    entries = groups(4, A=0.0, B=0.1)
    assert compare(entries, seed=3).to_dict() == compare(entries, seed=3).to_dict()


def test_the_table_marks_the_best_and_prints_its_conventions() -> None:
    c = compare(groups(3, good=0.0, bad=0.4))
    text = c.table()
    rows = [line for line in text.splitlines() if line.startswith(("good", "bad"))]
    assert " *" in rows[0]
    assert " *" not in rows[1]
    for convention in ("reference point: (2, 2)", "seeds: 0, 1, 2", "split: test", "nadir"):
        assert convention in text
    assert c.best("hypervolume") == {"good"}
    assert c.best("range:left") == set()


def test_markdown_tables_survive_any_label() -> None:
    c = compare([entry("a|b<script>", 0), entry("c", 0, 0.2)])
    lines = [x for x in c.table(markdown=True).splitlines() if x.startswith("|")]
    assert "<script>" not in "".join(lines)
    first = lines[: lines.index(next(x for x in lines if x.startswith("| c"))) + 1]
    assert len({x.replace("\\|", "").count("|") for x in first}) == 1


def test_the_model_before_pruning_is_named_where_all_fronts_agree():
    def entries(*dense):
        fronts = [
            Front(
                (Objective("a"), Objective("b")),
                np.array([[1.0, 2.0], [2.0, 1.0 + k]]),
                reference_point=np.array([3.0, 3.0]),
                info={"label": str(k), "seed": 0, "dense": said},
            )
            for k, said in enumerate(dense)
        ]
        return Entries([Entry(f, str(k), 0, Path(str(k))) for k, f in enumerate(fronts)])

    same = compare(entries({"a": 0.5, "b": 0.25}, {"a": 0.5, "b": 0.25}))
    assert "before pruning: a 0.5, b 0.25" in same.table()
    other = compare(entries({"a": 0.5, "b": 0.25}, {"a": 0.6, "b": 0.25}))
    assert other.dense is None
    assert "before pruning" not in other.table()
