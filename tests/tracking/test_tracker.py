"""The W&B tracker, checked against what lies on disk afterwards."""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from frontrunner.errors import ConfigError
from frontrunner.front.front import Front
from frontrunner.front.objective import Objective
from frontrunner.tracking import offline
from frontrunner.tracking.tracker import NoTracker, WandbTracker, front_rows, is_rank_zero

pytest.importorskip("wandb")

CONF = Path(__file__).parents[2] / "conf" / "logger"
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
KEYS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
COST = {"seconds": 12.5, "forward_passes": 300, "peak_memory_bytes": 1 << 20}


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No ranks, no keys, no server and no home directory but those a test sets."""
    for name in (*RANKS, *KEYS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))


def make_front(seed: int = 0, n: int = 7) -> Front:
    rng = np.random.default_rng(seed)
    weight = np.linspace(0, 1, n)
    return Front(
        objectives=(Objective("left", "min", "nats"), Objective("right", "max")),
        values=rng.random((n, 2)),
        preferences=np.stack([weight, 1 - weight], axis=1),
        preference_kind="weight",
        reference_point=np.array([2.0, -1.0]),
        costs=tuple({"seconds": float(s)} for s in rng.random(n)),
    )


def only(directory: Path) -> tuple[Path, offline.Record]:
    (path,) = offline.records(directory)
    return path, offline.read(path, wait=5)


def test_offline_record_holds_the_front(tmp_path: Path) -> None:
    front = make_front()
    with WandbTracker(directory=tmp_path, run_id="abc") as tracker:
        tracker.log_front(front, cost=COST)
    path, record = only(tmp_path)
    columns, rows = offline.table(record, path, "front/table")
    by_name = {name: [row[i] for row in rows] for i, name in enumerate(columns)}
    logged = np.array([by_name["left"], by_name["right"]]).T
    np.testing.assert_array_equal(logged, front.values)
    preferences = np.array([by_name["preference left"], by_name["preference right"]]).T
    np.testing.assert_array_equal(preferences, front.preferences)
    assert by_name["dominated"] == (~front.nondominated()).tolist()
    assert by_name["cost seconds"] == [c["seconds"] for c in front.costs]
    assert record["exit"] == 0


def test_summary_holds_indicators_with_their_reference_point_and_the_cost(tmp_path: Path) -> None:
    front = make_front()
    with WandbTracker(directory=tmp_path, run_id="abc") as tracker:
        tracker.log_front(front, cost=COST)
    summary = only(tmp_path)[1]["summary"]
    assert summary["front/hypervolume"] == pytest.approx(front.indicators()["hypervolume"])
    assert summary["front/reference_point"] == [2.0, -1.0]
    assert summary["front/points"] == len(front)
    assert {k: summary[f"cost/{k}"] for k in COST} == COST


def test_scatter_plot_draws_the_first_two_objectives(tmp_path: Path) -> None:
    with WandbTracker(directory=tmp_path, run_id="abc") as tracker:
        tracker.log_front(make_front())
    config = only(tmp_path)[1]["config"]
    shown = str({k: v for k, v in config.items() if k.startswith("_wandb")})
    assert "front/scatter" in shown
    assert "'x': 'left', 'y': 'right'" in shown


def test_png_is_logged_as_an_image(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    png = tmp_path / "front.png"
    image.new("RGB", (5, 4), "red").save(png)
    with WandbTracker(directory=tmp_path, run_id="abc") as tracker:
        tracker.log_front(make_front(), png=png)
    path, record = only(tmp_path)
    assert record["summary"]["front/plot._type"] == "image-file"
    stored = path.parent / "files" / record["summary"]["front/plot.path"]
    assert stored.read_bytes() == png.read_bytes()


def test_front_without_preferences_or_costs_is_logged_with_gaps(tmp_path: Path) -> None:
    full = make_front()
    front = Front(objectives=full.objectives, values=full.values)
    with WandbTracker(directory=tmp_path, run_id="abc") as tracker:
        tracker.log_front(front)
    path, record = only(tmp_path)
    columns, rows = offline.table(record, path, "front/table")
    assert all(row[columns.index("cost seconds")] is None for row in rows)
    assert all(row[columns.index("preference left")] is None for row in rows)
    assert "front/reference_point" not in record["summary"]


def test_learning_curves_keep_the_runs_own_step_over_two_attempts(tmp_path: Path) -> None:
    for steps in (range(0, 30, 10), range(30, 60, 10)):
        with WandbTracker(directory=tmp_path, run_id="abc") as tracker:
            for step in steps:
                tracker.log({"validation/hypervolume": step / 100}, step)
    attempts = [offline.read(path, wait=5) for path in offline.records(tmp_path)]
    assert len(attempts) == 2
    rows = [row for attempt in attempts for row in attempt["history"]]
    assert [row["train/step"] for row in rows] == [0, 10, 20, 30, 40, 50]
    assert [row["validation/hypervolume"] for row in rows] == [0, 0.1, 0.2, 0.3, 0.4, 0.5]
    # The reason for a step of our own: W&B's restarts.
    assert [row["_step"] for row in rows] == [0, 1, 2, 0, 1, 2]


def test_error_marks_exit_1_and_is_not_swallowed(tmp_path: Path) -> None:
    with pytest.raises(KeyError), WandbTracker(directory=tmp_path, run_id="abc") as tracker:  # noqa: PT012
        tracker.log({"loss": 1.0}, 0)
        raise KeyError("boom")
    assert only(tmp_path)[1]["exit"] == 1


@pytest.mark.parametrize(("code", "expected"), [(None, 0), (0, 0), (3, 1)])
def test_system_exit_counts_as_failure_only_with_a_code(
    tmp_path: Path, code: int | None, expected: int
) -> None:
    with pytest.raises(SystemExit), WandbTracker(directory=tmp_path, run_id="abc"):
        sys.exit(code)
    assert only(tmp_path)[1]["exit"] == expected


def test_two_open_trackers_do_not_leak_into_one_another(tmp_path: Path) -> None:
    first = WandbTracker(directory=tmp_path / "a", run_id="a", configuration={"seed": 1})
    second = WandbTracker(directory=tmp_path / "b", run_id="b", configuration={"seed": 2})
    with first, second:
        first.log({"loss": 1.0}, 5)
        second.log({"loss": 2.0}, 6)
    records = [only(tmp_path / name)[1] for name in "ab"]
    assert [record["config"]["seed"] for record in records] == [1, 2]
    assert [record["history"][0]["loss"] for record in records] == [1.0, 2.0]
    assert [len(record["history"]) for record in records] == [1, 1]


def test_run_left_open_by_other_code_stays_apart(tmp_path: Path) -> None:
    import wandb

    foreign = wandb.init(
        dir=tmp_path, mode="offline", config={"seed": 9}, settings=wandb.Settings(silent=True)
    )
    try:
        with WandbTracker(
            directory=tmp_path / "mine", run_id="b", configuration={"seed": 2}
        ) as tracker:
            tracker.log({"loss": 2.0}, 0)
    finally:
        foreign.finish()
    record = only(tmp_path / "mine")[1]
    assert record["config"]["seed"] == 2
    assert record["history"][0]["loss"] == 2.0


def test_nested_configuration_reads_back(tmp_path: Path) -> None:
    config = {"method": {"_target_": "pkg.Method", "lr": 0.1}, "layers": [3, 4], "none": None}
    with WandbTracker(directory=tmp_path, run_id="abc", configuration=config):
        pass
    stored = only(tmp_path)[1]["config"]
    assert {key: stored[key] for key in config} == config


def test_pareto_set_becomes_an_artifact_only_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    files = tmp_path / "pareto_set"
    files.mkdir()
    (files / "pareto_set.json").write_text('{"kind": "list"}')
    for name, asked in (("with", True), ("without", False)):
        with WandbTracker(directory=tmp_path / name, run_id="abc", artifact=asked) as tracker:
            tracker.log_pareto_set(files)
    raw = {name: only(tmp_path / name)[0].read_bytes() for name in ("with", "without")}
    assert b"pareto-set-abc" in raw["with"]
    assert b"pareto_set.json" in raw["with"]
    assert b"pareto-set-abc" not in raw["without"]


@pytest.mark.parametrize("variable", RANKS)
def test_other_ranks_are_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    assert is_rank_zero()
    monkeypatch.setenv(variable, "0")
    assert is_rank_zero()
    monkeypatch.setenv(variable, "1")
    with WandbTracker(directory=tmp_path, run_id="abc") as tracker:
        tracker.log({"loss": 1.0}, 0)
        tracker.log_front(make_front())
    assert offline.records(tmp_path) == []


def test_wandb_trouble_is_a_warning_and_the_run_goes_on(tmp_path: Path) -> None:
    with WandbTracker(directory=tmp_path, run_id="abc") as tracker:
        with pytest.warns(RuntimeWarning, match="the run goes on"):
            tracker.log_front(make_front(), png=tmp_path / "missing.png")
        tracker.log({"loss": 1.0}, 3)
    record = only(tmp_path)[1]
    assert record["summary"]["front/table._type"] == "table-file"
    assert record["history"][-1]["loss"] == 1.0


def test_finishing_twice_and_logging_afterwards_do_nothing(tmp_path: Path) -> None:
    with WandbTracker(directory=tmp_path, run_id="abc") as tracker:
        tracker.finish(7)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tracker.log({"loss": 1.0}, 0)
            tracker.finish(0)
    record = only(tmp_path)[1]
    assert record["exit"] == 7
    assert record["history"] == []


def test_online_without_a_key_fails_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE")
    began = time.perf_counter()
    with pytest.raises(ConfigError, match="no API key") as caught:
        WandbTracker(directory=tmp_path, run_id="abc", mode="online").check()
    assert time.perf_counter() - began < 5
    assert "\n" not in str(caught.value)


def test_online_against_the_environment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="WANDB_MODE=offline"):
        WandbTracker(directory=tmp_path, run_id="abc", mode="online").check()


def test_missing_wandb_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with (
        pytest.raises(ConfigError, match="logger=none"),
        WandbTracker(directory=tmp_path, run_id="abc"),
    ):
        pass


def test_wandb_that_cannot_start_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    def broken(**_: Any) -> None:
        raise ConnectionResetError("Connection\nlost")

    monkeypatch.setattr(wandb, "init", broken)
    with (
        pytest.raises(ConfigError, match=r"could not start \(Connection lost\); use logger=none$"),
        WandbTracker(directory=tmp_path, run_id="abc"),
    ):
        pass


def test_unknown_mode_names_the_valid_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'offline'"):
        WandbTracker(directory=tmp_path, run_id="abc", mode="ofline")


def test_front_rows_follow_the_fronts_order() -> None:
    front = make_front(seed=3)
    columns, rows = front_rows(front)
    assert columns == [
        *("preference left", "preference right", "left", "right", "dominated", "cost seconds")
    ]
    np.testing.assert_array_equal([row[2:4] for row in rows], front.values)


@pytest.mark.parametrize("name", ["wandb", "wandb_online", "none"])
def test_hydra_builds_each_logger_and_instantiates_nothing_inside_the_config(
    tmp_path: Path, name: str
) -> None:
    omegaconf = pytest.importorskip("omegaconf")
    hydra = pytest.importorskip("hydra.utils")
    config: dict[str, Any] = {"method": {"_target_": "no.such.Method", "lr": 0.1}}
    tracker = hydra.instantiate(
        omegaconf.OmegaConf.load(CONF / f"{name}.yaml"),
        directory=str(tmp_path),
        run_id="abc",
        name="n",
        group="g",
        job_type="train",
        configuration=config,
    )
    if name == "none":
        assert isinstance(tracker, NoTracker)
        with tracker:
            tracker.log({"loss": 1.0}, 0)
            tracker.log_front(make_front())
        assert list(tmp_path.iterdir()) == []
    else:
        assert tracker.configuration == config
        assert type(tracker.configuration["method"]) is dict
        assert (tracker.mode, tracker.group) == ("offline" if name == "wandb" else "online", "g")
