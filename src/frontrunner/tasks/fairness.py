"""Adult, COMPAS and Credit: accuracy against equal opportunity between women and men.

Objectives and reference point follow COSMOS (Ruchte & Grabocka, ICDM 2021), whose public code the
fairness tables of GMOOAR build on. Which preprocessing is theirs and which ours: docs/tasks.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import Dataset

from frontrunner.errors import ConfigError, DataError, nearest
from frontrunner.front.objective import Objective
from frontrunner.tasks.base import Batch, Model, Split, Task, tensor_splits
from frontrunner.tasks.synthetic import only_head
from frontrunner.tasks.tabular import (
    Array,
    Table,
    data_root,
    one_hot,
    read_csv,
    read_hub,
    standardise,
)


class Fairness(Task):
    """Binary classification: cross-entropy (nats) against the difference of equal opportunity.

    A batch is ``(x (B, d), y (B,), a (B,))``, all float32; y = 1 is the positive class (earns over
    50,000; reoffends; defaults) and a = 1 marks women. Networks return one logit per row.

    Args:
        dataset: ``adult``, ``compas`` or ``credit``.
        path: the CSV file, or the folder that holds ``<dataset>.csv``. Default:
            ``$FRONTRUNNER_DATA/<dataset>/<dataset>.csv`` if it exists, else the hub.
        reference_point: (2,) cross-entropy and difference.
        split_seed: seed of the random split, apart from the run's seed so that runs share it.
        fractions: train, validation and test share, summing to 1.
        include_is_recid: COMPAS only: keep the column ``is_recid`` among the features. It very
            nearly *is* the label; published cross-entropies are reached only with it, an honest
            model has to do without. See docs/tasks.md.
        hub: data set id on the hub, or a local folder in the hub's format.
        name: what runs and reports call the task; default the data set's name.
        model: how to build networks.

    Raises:
        ConfigError: an unknown data set, or fractions that are no split.
    """

    objectives = (Objective("cross_entropy", "min", "nats"), Objective("deo", "min"))
    output_sizes = (1,)

    def __init__(
        self,
        dataset: str,
        path: str | os.PathLike[str] | None = None,
        reference_point: Sequence[float] = (2.0, 2.0),
        split_seed: int = 0,
        fractions: Sequence[float] = (0.7, 0.1, 0.2),
        include_is_recid: bool = True,
        hub: str | None = None,
        name: str | None = None,
        model: Model | None = None,
    ) -> None:
        super().__init__(model)
        if dataset not in RECIPES:
            raise ConfigError(f"unknown fairness data set '{dataset}'{nearest(dataset, RECIPES)}")
        if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1.0) > 1e-9:
            raise ConfigError(
                f"task '{dataset}': fractions are three positive numbers that sum to 1, "
                f"not {list(fractions)}"
            )
        if len(reference_point) != 2:
            raise ConfigError(f"task '{dataset}': reference_point needs 2 entries")
        self.name = name or dataset
        self.reference_point = tuple(float(r) for r in reference_point)
        self.split_seed = split_seed
        self.fractions = tuple(float(f) for f in fractions)
        self.include_is_recid = include_is_recid
        self._path, self._hub = path, hub

    @property
    def input_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """(number of features,); reads the data."""
        first: Batch = self.data("train")[[0]]
        return (first[0].shape[1],)

    def check(self) -> None:
        """Read the table and make the splits.

        Raises:
            DataError: a missing file or column, a malformed cell, too few rows.
        """
        self.data("train")

    def load(self) -> dict[Split, Dataset[Batch]]:
        table = read(self.name, self._path, self._hub)
        left_out = () if self.include_is_recid else ("is_recid",)
        numbers, indicators, y, a = encode(self.name, table, left_out=left_out)
        n = len(y)
        order = np.random.default_rng(self.split_seed).permutation(n)
        ends = [round(self.fractions[0] * n), round((self.fractions[0] + self.fractions[1]) * n)]
        parts = np.split(order, ends)
        if min(len(part) for part in parts) == 0:
            raise DataError(f"{table.source}: {n} usable rows are too few to split")
        x = np.concatenate([standardise(numbers, parts[0]), indicators], axis=1)

        def batch(rows: np.ndarray[Any, Any]) -> Batch:
            return tuple(torch.tensor(v[rows], dtype=torch.float32) for v in (x, y, a))

        return tensor_splits(
            {"train": batch(parts[0]), "validation": batch(parts[1]), "test": batch(parts[2])}
        )

    def losses(self, outputs: Any, batch: Batch) -> Tensor:
        """(2,): mean binary cross-entropy in nats, and `deo`."""
        logits = only_head(outputs)[:, 0]
        _, y, a = batch
        return torch.stack([binary_cross_entropy_with_logits(logits, y), deo(logits, y, a)])


def deo(logits: Tensor, y: Tensor, a: Tensor) -> Tensor:
    """Smooth difference of equal opportunity between the groups a = 1 and a = 0; all (B,) -> ().

    (1/B) |Σ_{y=1, a=1} tanh(relu(σ(z))) - Σ_{y=1, a=0} tanh(relu(σ(z)))|, the hyperbolic-tangent
    relaxation of Padh et al. (UAI 2021) as COSMOS's public code has it. Two things follow from its
    letter. The relu does nothing, as σ > 0. And sums are compared, not rates: with more positives
    in one group, equal treatment is not 0; only predicting 0 for every positive is for certain.
    """
    score = torch.tanh(torch.relu(torch.sigmoid(logits)))
    return (score * y * (2.0 * a - 1.0)).sum().abs() / len(y)


# ---------------------------------------------------------------------- the three tables


@dataclass(frozen=True)
class Recipe:
    """How a table becomes features. Column names are lower case with underscores."""

    hub: str | None
    label: str
    negative: str
    positive: str
    men: str
    women: str
    numbers: tuple[str, ...]
    categories: tuple[str, ...]
    clean: Callable[[Table], Table] = lambda table: table


_ADULT_COLUMNS = (
    "age",
    "workclass",
    "fnlwgt",
    "education",
    "education_num",
    "marital_status",
    "occupation",
    "relationship",
    "race",
    "sex",
    "capital_gain",
    "capital_loss",
    "hours_per_week",
    "native_country",
    "income",
)


def _clean_adult(table: Table) -> Table:
    columns = dict(table.columns)
    columns["income"] = [cell.rstrip(".") for cell in table.column("income")]
    table = Table(table.source, columns, table.lines)
    used = [table.column(name) for name in ("workclass", "occupation", "native_country")]
    return table.where(["?" not in row for row in zip(*used, strict=True)])


def _clean_compas(table: Table) -> Table:
    # ProPublica's own filter: the charge lies within 30 days of the arrest that was scored, and
    # offence and score are known. Rows it drops may lack the dates, so it comes first.
    days = table.column("days_b_screening_arrest")
    near = np.array([_within(cell, 30.0) for cell in days])
    known = [
        recid != "-1" and charge != "O" and score != "N/A"
        for recid, charge, score in zip(
            table.column("is_recid"),
            table.column("c_charge_degree"),
            table.column("score_text"),
            strict=True,
        )
    ]
    table = table.where(near & np.array(known))
    stay = [
        str((_moment(table, i, "c_jail_out") - _moment(table, i, "c_jail_in")).total_seconds())
        for i in range(len(table))
    ]
    return Table(table.source, {**table.columns, "length_of_stay": stay}, table.lines)


def _within(cell: str, days: float) -> bool:
    try:
        return abs(float(cell)) <= days
    except ValueError:
        return False


def _moment(table: Table, row: int, name: str) -> datetime:
    try:
        return datetime.fromisoformat(table.column(name)[row])
    except ValueError:
        raise table.error(row, name, "a date and time") from None


_STATUS = tuple(f"pay_{i}" for i in (0, 2, 3, 4, 5, 6))

RECIPES: dict[str, Recipe] = {
    "adult": Recipe(
        hub="scikit-learn/adult-census-income",
        label="income",
        negative="<=50K",
        positive=">50K",
        men="Male",
        women="Female",
        numbers=("age", "education_num", "capital_gain", "capital_loss", "hours_per_week"),
        categories=(
            "workclass",
            "marital_status",
            "occupation",
            "relationship",
            "race",
            "sex",
            "native_country",
        ),
        clean=_clean_adult,
    ),
    "compas": Recipe(
        hub=None,
        label="two_year_recid",
        negative="0",
        positive="1",
        men="Male",
        women="Female",
        numbers=(
            "age",
            "juv_fel_count",
            "juv_misd_count",
            "juv_other_count",
            "decile_score",
            "priors_count",
            "days_b_screening_arrest",
            "length_of_stay",
            "is_recid",
        ),
        categories=("sex", "age_cat", "race", "c_charge_degree", "score_text"),
        clean=_clean_compas,
    ),
    "credit": Recipe(
        hub="scikit-learn/credit-card-clients",
        label="default_payment_next_month",
        negative="0",
        positive="1",
        men="1",
        women="2",
        numbers=(
            "limit_bal",
            "age",
            *(f"bill_amt{i}" for i in range(1, 7)),
            *(f"pay_amt{i}" for i in range(1, 7)),
        ),
        categories=("sex", "education", "marriage", *_STATUS),
    ),
}

# Names under which copies of these tables circulate.
_SYNONYMS = {"educational_num": "education_num", "gender": "sex", "class": "income"}


def read(dataset: str, path: str | os.PathLike[str] | None, hub: str | None) -> Table:
    """The raw table of ``dataset`` from ``path``, $FRONTRUNNER_DATA or the hub, in that order.

    Raises:
        DataError: it is in none of them, or cannot be read.
    """
    source: Path | None = Path(path) if path is not None else None
    if source is not None and source.is_dir():
        source = source / f"{dataset}.csv"
    root = data_root()
    if source is None and hub is None and root is not None:
        candidate = root / dataset / f"{dataset}.csv"
        source = candidate if candidate.exists() else None
    if source is None:
        table = _read_hub(dataset, hub or RECIPES[dataset].hub)
    elif dataset == "adult" and _headless(source):
        table = read_csv(source, names=_ADULT_COLUMNS)
    else:
        table = read_csv(source)
    columns = {}
    for name, cells in table.columns.items():
        plain = name.lower().replace(".", "_").replace("-", "_").replace(" ", "_")
        columns[_SYNONYMS.get(plain, plain)] = cells
    return Table(table.source, columns, table.lines)


def _read_hub(dataset: str, hub: str | None) -> Table:
    where = (
        f"give task.path=…, or put {dataset}/{dataset}.csv under the folder $FRONTRUNNER_DATA names"
    )
    if hub is None:
        raise DataError(f"no {dataset} data: {where}, or name a hub data set with task.hub=…")
    try:
        return read_hub(hub)
    except DataError as error:
        raise DataError(f"no {dataset} data: {where}; {error}") from None


def _headless(path: Path) -> bool:
    """Whether this is UCI's own ``adult.data`` or ``adult.test``, which have no header line."""
    try:
        with open(path, encoding="utf-8-sig") as handle:
            first = handle.readline()
    except (OSError, UnicodeDecodeError):
        return False  # the reader says what is wrong
    return first[:1].isdigit() or first.startswith("|")


def encode(
    dataset: str, table: Table, *, left_out: Sequence[str] = ()
) -> tuple[Array, Array, Array, Array]:
    """Numbers (n, k), indicators (n, l), labels (n,) and sensitive attribute (n,), in table order.

    Args:
        dataset: whose recipe.
        table: as `read` returns it.
        left_out: columns that are not to become features.

    Raises:
        DataError: a missing column, or a cell that is not what its column holds.
    """
    recipe = RECIPES[dataset]
    table = recipe.clean(table)
    numbers = [table.numbers(name) for name in recipe.numbers if name not in left_out]
    indicators = [one_hot(table.column(name)) for name in recipe.categories if name not in left_out]
    y = _binary(table, recipe.label, recipe.negative, recipe.positive)
    a = _binary(table, "sex", recipe.men, recipe.women)
    return np.stack(numbers, axis=1), np.concatenate(indicators, axis=1), y, a


def _binary(table: Table, name: str, zero: str, one: str) -> Array:
    cells = table.column(name)
    for i, cell in enumerate(cells):
        if cell not in (zero, one):
            raise table.error(i, name, f"{zero!r} or {one!r}")
    return np.array([float(cell == one) for cell in cells])
