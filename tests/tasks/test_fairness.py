"""Fairness tasks: the surrogate by hand, the formats as they circulate, and the real tables."""

from __future__ import annotations

import math
import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from frontrunner.errors import ConfigError, DataError
from frontrunner.tasks.fairness import Fairness, deo, encode, read
from frontrunner.tasks.tabular import one_hot, standardise

REAL = os.environ.get("FRONTRUNNER_DATA", "")


@pytest.fixture(autouse=True)
def no_data_root(monkeypatch):
    monkeypatch.delenv("FRONTRUNNER_DATA", raising=False)


# ---------------------------------------------------------------------- tables in their formats


def adult_rows(n, seed=0):
    """Rows of Adult: 15 cells each, a third of them with an unknown cell."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        work = "?" if i % 3 == 2 else str(rng.choice(["Private", "State-gov"]))
        sex = str(rng.choice(["Male", "Female"]))
        income = str(rng.choice(["<=50K", ">50K"]))
        rows.append(
            [
                str(rng.integers(17, 90)),
                work,
                "77516",
                "Bachelors",
                str(rng.integers(1, 17)),
                "Never-married",
                "Sales",
                str(rng.choice(["Wife", "Husband", "Own-child"])),
                "White",
                sex,
                str(rng.integers(0, 9999)),
                "0",
                "40",
                "United-States",
                income,
            ]
        )
    return rows


ADULT_HEADERS = {
    "dots": "age,workclass,fnlwgt,education,education.num,marital.status,occupation,relationship,"
    "race,sex,capital.gain,capital.loss,hours.per.week,native.country,income",
    "dashes": "age,workclass,fnlwgt,education,educational-num,marital-status,occupation,"
    "relationship,race,gender,capital-gain,capital-loss,hours-per-week,native-country,income",
}


def write_adult(path, style, rows):
    if style == "uci":
        lines = [", ".join(row) for row in rows] + [""]
    elif style == "uci test":
        lines = ["|1x3 Cross validator", *(", ".join(row) + "." for row in rows), ""]
    else:
        lines = [ADULT_HEADERS[style], *(",".join(row) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


COMPAS_HEADER = (
    "sex,age,age_cat,race,juv_fel_count,decile_score,juv_misd_count,juv_other_count,priors_count,"
    "days_b_screening_arrest,c_jail_in,c_jail_out,c_charge_degree,is_recid,score_text,two_year_recid"
)
MAN = (
    "Male,69,Greater than 45,Other,0,1,0,0,0,-1.0,2013-08-13 06:03:42,2013-08-14 06:03:42,F,0,Low,0"
)
WOMAN = (
    "Female,24,Less than 25,Asian,0,4,0,1,4,30,2013-04-13 04:00:00,2013-04-13 16:00:00,M,1,High,1"
)
DROPPED = [
    MAN.replace("-1.0", "31"),  # arrested too long before the scoring
    MAN.replace("-1.0", "").replace("2013-08-13 06:03:42", ""),  # no arrest known
    MAN.replace(",F,0,", ",F,-1,"),
    MAN.replace(",F,0,", ",O,0,"),
    MAN.replace(",Low,", ",N/A,"),
]


def write_compas(path, rows):
    path.write_text("\n".join([COMPAS_HEADER, *rows]) + "\n", encoding="utf-8")


# ---------------------------------------------------------------------- objectives


def test_deo_is_the_sum_over_positives_of_one_group_less_the_other():
    z, y, a = [0.3, -2.0, 5.0, 0.0, 1.0], [1, 1, 0, 1, 1], [1, 0, 0, 0, 1]

    def s(v):
        return math.tanh(1 / (1 + math.exp(-v)))

    by_hand = abs((s(0.3) + s(1.0)) - (s(-2.0) + s(0.0))) / 5
    got = deo(torch.tensor(z), torch.tensor(y).float(), torch.tensor(a).float())
    assert got.item() == pytest.approx(by_hand, rel=1e-6)


def test_deo_does_not_depend_on_which_group_is_which_nor_on_negatives():
    g = torch.Generator().manual_seed(0)
    z = torch.randn(50, generator=g)
    y, a = (torch.randint(0, 2, (50,), generator=g).float() for _ in range(2))
    torch.testing.assert_close(deo(z, y, a), deo(z, y, 1 - a))
    torch.testing.assert_close(deo(z, y, a), deo(torch.where(y > 0, z, z + 9), y, a))
    assert deo(torch.full((50,), -50.0), y, a) < 1e-12  # never saying yes is "fair"


def test_losses_take_a_tensor_or_a_one_tuple_and_work_under_vmap(tmp_path):
    write_compas(tmp_path / "compas.csv", [MAN, WOMAN] * 20)
    task = Fairness("compas", tmp_path)
    batch = task.data("train")[list(range(28))]
    z = torch.randn(3, 28, 1, generator=torch.Generator().manual_seed(0))
    together = torch.func.vmap(lambda one: task.losses((one,), batch))(z)
    for one, losses in zip(z, together, strict=True):
        torch.testing.assert_close(task.losses(one, batch), losses)
    p = torch.sigmoid(z[0, :, 0])
    entropy = -(batch[1] * p.log() + (1 - batch[1]) * (1 - p).log()).mean()
    torch.testing.assert_close(together[0, 0], entropy)


# ---------------------------------------------------------------------- reading


@pytest.mark.parametrize("style", ["dots", "dashes", "uci", "uci test"])
def test_adult_is_read_alike_in_every_form_it_circulates_in(tmp_path, style):
    rows = adult_rows(60)
    write_adult(tmp_path / "reference.csv", "dots", rows)
    write_adult(tmp_path / "adult.csv", style, rows)
    reference = encode("adult", read("adult", tmp_path / "reference.csv", None))
    got = encode("adult", read("adult", tmp_path, None))
    for one, other in zip(reference, got, strict=True):
        np.testing.assert_array_equal(one, other)
    known = [row for row in rows if "?" not in row]
    assert got[2].tolist() == [float(row[14] == ">50K") for row in known]
    assert got[3].tolist() == [float(row[9] == "Female") for row in known]
    assert got[0][:, 0].tolist() == [float(row[0]) for row in known]
    # Indicators: workclass 1, relationship 3, sex 1; the other categories take a single value.
    assert got[1].shape == (40, 5)


def test_compas_rows_are_filtered_as_propublica_does_and_the_stay_is_derived(tmp_path):
    write_compas(tmp_path / "compas.csv", [MAN, *DROPPED, WOMAN])
    numbers, indicators, y, a = encode("compas", read("compas", tmp_path, None))
    assert y.tolist() == [0.0, 1.0]
    assert a.tolist() == [0.0, 1.0]
    assert numbers[:, 7].tolist() == [86400.0, 43200.0]  # one day, half a day
    # Male, Less than 25, Other, M and Low come second in their columns' sorted categories.
    assert indicators.tolist() == [[1, 0, 1, 0, 1], [0, 1, 0, 1, 0]]


def test_credit_takes_every_column_but_the_id_and_repayment_codes_as_categories(tmp_path):
    header = (
        '"ID","LIMIT_BAL","SEX","EDUCATION","MARRIAGE","AGE","PAY_0","PAY_2","PAY_3","PAY_4",'
        '"PAY_5","PAY_6","BILL_AMT1","BILL_AMT2","BILL_AMT3","BILL_AMT4","BILL_AMT5","BILL_AMT6",'
        '"PAY_AMT1","PAY_AMT2","PAY_AMT3","PAY_AMT4","PAY_AMT5","PAY_AMT6",'
        '"default.payment.next.month"'
    )
    rows = [
        "1,20000,2,2,1,24,2,2,-1,-1,-2,-2,3913,3102,689,0,0,0,0,689,0,0,0,0,1",
        "2,120000,1,2,2,26,-1,2,0,0,0,2,2682,1725,2682,3272,3455,3261,0,1000,1000,1000,0,2000,0",
    ]
    (tmp_path / "credit.csv").write_text("\n".join([header, *rows]) + "\n")
    numbers, indicators, y, a = encode("credit", read("credit", tmp_path, None))
    assert y.tolist() == [1.0, 0.0]
    assert a.tolist() == [1.0, 0.0]
    assert numbers[0].tolist() == [20000, 24, 3913, 3102, 689, 0, 0, 0, 0, 689, 0, 0, 0, 0]
    # sex, marriage and five of the six repayment codes differ between these two rows.
    assert indicators.shape == (2, 7)


def test_is_recid_is_a_feature_only_when_asked_for(tmp_path):
    write_compas(tmp_path / "compas.csv", [MAN, WOMAN] * 20)
    with_it = Fairness("compas", tmp_path)
    without = Fairness("compas", tmp_path, include_is_recid=False)
    assert with_it.input_shape[0] == without.input_shape[0] + 1


def test_splits_are_seeded_disjoint_and_standardised_by_the_training_rows_alone(tmp_path):
    rows = [
        WOMAN.replace("Female,24", f"{s},{18 + i}") for i, s in enumerate(["Male", "Female"] * 50)
    ]
    write_compas(tmp_path / "compas.csv", rows)
    task = Fairness("compas", tmp_path, split_seed=5)
    parts = [task.data(s).tensors[0] for s in ("train", "validation", "test")]
    assert [len(p) for p in parts] == [70, 10, 20]
    ages = [p[:, 0] for p in parts]
    assert ages[0].mean().abs() < 1e-6
    assert abs(ages[0].std(correction=0) - 1) < 1e-6
    assert len(set(torch.cat(ages).tolist())) == 100  # every age is in exactly one split
    again = Fairness("compas", tmp_path, split_seed=5).data("test").tensors[0]
    other = Fairness("compas", tmp_path, split_seed=6).data("test").tensors[0]
    assert torch.equal(parts[2], again)
    assert not torch.equal(parts[2], other)


def test_one_hot_marks_each_row_once_and_halves_two_categories():
    assert one_hot(["b", "a", "c", "a"]).tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1], [1, 0, 0]]
    assert one_hot(["no", "yes", "no"]).tolist() == [[0], [1], [0]]
    assert one_hot(["same", "same"]).shape == (2, 0)


def test_standardise_leaves_constant_columns_finite():
    values = np.array([[1.0, 7.0], [3.0, 7.0], [9.0, 8.0]])
    np.testing.assert_allclose(standardise(values, np.array([0, 1])), [[-1, 0], [1, 0], [7, 1]])


# ---------------------------------------------------------------------- mistakes


def test_malformed_cells_are_named_by_file_line_and_column(tmp_path):
    path = tmp_path / "compas.csv"
    write_compas(path, [MAN, WOMAN, MAN.replace("Male,69", "Male,old")])
    with pytest.raises(DataError, match=r"compas.csv, line 4, column 'age': 'old' is not a number"):
        Fairness("compas", path).check()
    write_compas(path, [MAN, WOMAN.replace("Female", "F")])
    with pytest.raises(DataError, match="line 3, column 'sex': 'F' is not 'Male' or 'Female'"):
        Fairness("compas", path).check()
    write_compas(path, [MAN.replace("2013-08-14 06:03:42", "soon")])
    with pytest.raises(DataError, match="line 2, column 'c_jail_out': 'soon' is not a date"):
        Fairness("compas", path).check()
    write_compas(path, [MAN, WOMAN + ",extra"])
    with pytest.raises(DataError, match="line 3: 17 cells under 16 columns"):
        Fairness("compas", path).check()


def test_missing_files_columns_and_rows_say_what_to_change(tmp_path):
    path = tmp_path / "compas.csv"
    with pytest.raises(DataError, match=r"nowhere.csv cannot be read: No such file"):
        Fairness("compas", tmp_path / "nowhere.csv").check()
    path.write_text(COMPAS_HEADER.replace("priors_count", "prior_count") + "\n" + MAN + "\n")
    with pytest.raises(DataError, match="no column 'priors_count'; did you mean 'prior_count'"):
        Fairness("compas", path).check()
    write_compas(path, [])
    with pytest.raises(DataError, match="has no rows"):
        Fairness("compas", path).check()
    write_compas(path, DROPPED)
    with pytest.raises(DataError, match="none of its 5 rows can be used"):
        Fairness("compas", path).check()
    write_compas(path, [MAN, WOMAN])
    with pytest.raises(DataError, match="2 usable rows are too few to split"):
        Fairness("compas", path).check()
    path.write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(DataError, match="is not a CSV file"):
        Fairness("compas", path).check()
    with pytest.raises(ConfigError, match="did you mean 'adult'"):
        Fairness("adults")
    with pytest.raises(ConfigError, match="three positive numbers that sum to 1"):
        Fairness("adult", fractions=(0.7, 0.2, 0.2))


# ---------------------------------------------------------------------- where data come from


def test_the_data_root_is_used_before_the_hub(tmp_path, monkeypatch):
    (tmp_path / "adult").mkdir()
    write_adult(tmp_path / "adult" / "adult.csv", "dots", adult_rows(60))
    monkeypatch.setenv("FRONTRUNNER_DATA", str(tmp_path))
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert len(Fairness("adult").data("train")) == 28


def test_the_hub_gives_the_same_task_as_the_file(tmp_path, monkeypatch):
    rows = adult_rows(60)
    write_adult(tmp_path / "adult.csv", "dots", rows)
    names, asked = ADULT_HEADERS["dots"].split(","), []

    class Loaded(dict):
        column_names = names

        def __len__(self):
            return 60

    def load_dataset(name, split):
        asked.append((name, split))
        cells = Loaded(zip(names, map(list, zip(*rows, strict=True)), strict=True))
        cells["age"] = [int(age) for age in cells["age"]]  # the hub types its columns
        return cells

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    hub = Fairness("adult", hub="someone/adult").data("train").tensors
    for one, other in zip(hub, Fairness("adult", tmp_path).data("train").tensors, strict=True):
        assert torch.equal(one, other)
    assert asked == [("someone/adult", "train")]


def test_without_file_or_hub_package_the_error_says_both_ways(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"adult/adult.csv.*FRONTRUNNER_DATA.*pip install datasets"):
        Fairness("adult").check()
    with pytest.raises(DataError, match=r"compas/compas.csv.*name a hub data set with task.hub="):
        Fairness("compas").check()


def test_a_failing_hub_is_reported_in_one_line(monkeypatch):
    module = types.ModuleType("datasets")

    def load_dataset(name, split):
        raise ConnectionError("offline mode is enabled\nand a second line")

    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    with pytest.raises(DataError, match="ConnectionError offline mode is enabled") as caught:
        Fairness("credit").check()
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------- the real tables


def needs(dataset):
    return pytest.mark.skipif(
        not REAL or not (Path(REAL) / dataset / f"{dataset}.csv").exists(),
        reason=f"FRONTRUNNER_DATA names no folder with {dataset}/{dataset}.csv",
    )


@needs("compas")
def test_real_compas_keeps_propublicas_6172_rows_and_is_recid_gives_the_label_away():
    table = read("compas", Path(REAL) / "compas", None)
    numbers, _, y, a = encode("compas", table)
    assert len(y) == 6172  # ProPublica's published count after the same filter
    is_recid = numbers[:, 8]
    # Nobody reoffends within two years without reoffending, and few reoffend only later: knowing
    # is_recid alone leaves far less entropy than the 0.14 nats published fronts need.
    assert y[is_recid == 0].sum() == 0
    share = y[is_recid == 1].mean()
    entropy = -(share * math.log(share) + (1 - share) * math.log(1 - share)) * is_recid.mean()
    assert share > 0.9
    assert entropy < 0.145
    assert 0.18 < a.mean() < 0.2


@needs("credit")
def test_real_credit_has_all_its_rows_and_its_published_default_rate():
    task = Fairness("credit", Path(REAL) / "credit")
    splits = [task.data(s) for s in ("train", "validation", "test")]
    assert [len(s) for s in splits] == [21000, 3000, 6000]
    y = torch.cat([s.tensors[1] for s in splits])
    assert y.mean().item() == pytest.approx(0.2212, abs=1e-4)  # 6,636 of 30,000
    assert all(torch.isfinite(s.tensors[0]).all() for s in splits)
