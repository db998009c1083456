from dataclasses import replace

import numpy as np
import pytest

from frontrunner.errors import ConfigError, FrontError, RunError
from frontrunner.front import indicators
from frontrunner.tables import values
from frontrunner.tables.values import Result

EQUAL = [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]
VALUES = [[0.1, 0.9], [0.4, 0.3], [0.8, 0.2]]


@pytest.fixture
def run(grid, runs) -> Result:
    """A front of three models, by preference (1, 0), equal, and (0, 1)."""
    entry = runs.of(grid(), "COSMOS")[0]
    runs.finish(
        entry,
        VALUES,
        preferences=EQUAL,
        cost={"seconds": 3.5, "steps": 20},
        point_costs=[{"training_updates": 7.0}, {"training_updates": 8.0}, {}],
        models=[{"score": 0.25}],
        dense={"first": 0.05, "second": 0.15},
    )
    return Result(entry.place.directory)


def read(run: Result, name: str, peers=None, **arguments) -> float:
    return values.of({"name": name, **arguments})(run, peers)


def test_hypervolume_takes_a_point_the_fronts_own_or_another_rows(run) -> None:
    def by_moocore(point) -> float:
        return indicators.hypervolume(np.array(VALUES), np.array(point))

    assert read(run, "hypervolume") == pytest.approx(by_moocore([1, 1]))
    assert read(run, "hypervolume", reference=[2, 2]) == pytest.approx(by_moocore([2, 2]))
    other = read(run, "hypervolume", lambda row: run, reference={"row": "x", "factor": 2})
    assert other == pytest.approx(by_moocore([0.8, 0.6]))  # twice the model at equal preferences


@pytest.mark.parametrize(
    ("at", "first", "mean"),
    [
        ("equal", 0.4, 0.35),
        ("own", 0.1, 0.15),
        ("priority", 0.4, 0.35),  # of two objectives, half the weight is equal
        ("best", 0.1, 0.15),
        ([0.0, 1.0], 0.8, 0.5),
    ],
)
def test_an_objective_is_read_at_a_preference(run, at, first, mean) -> None:
    assert read(run, "objective", objective="first", at=at) == pytest.approx(first)
    assert read(run, "mean_objective", at=at) == pytest.approx(mean)


def test_an_objective_and_a_preference_that_are_not_there_are_named(run) -> None:
    with pytest.raises(FrontError, match="no objective 'frist'; did you mean 'first'"):
        read(run, "objective", objective="frist")
    with pytest.raises(FrontError, match=r"no model for the preference \(0.3, 0.7\)"):
        read(run, "objective", objective="first", at=[0.3, 0.7])
    with pytest.raises(ConfigError, match="at=middle; valid"):
        read(run, "objective", objective="first", at="middle")


def test_one_model_is_read_at_any_preference(grid, runs) -> None:
    entry = runs.of(grid(), "linear")[0]
    runs.finish(entry, [[0.2, 0.6]])
    for at in ("equal", "own", "priority", "best"):
        assert read(Result(entry.place.directory), "mean_objective", at=at) == pytest.approx(0.4)


def test_a_cost_of_all_points_is_summed(grid, runs) -> None:
    entry = runs.of(grid(), "COSMOS")[0]
    costs = [{"s": 1.0}, {"s": 2.5}, {"s": 4.0}]
    runs.finish(entry, VALUES, preferences=EQUAL, point_costs=costs)
    assert read(Result(entry.place.directory), "total", cost="s") == 7.5


def test_a_cost_that_not_all_points_have_is_told(run) -> None:
    with pytest.raises(FrontError, match="not all points"):
        read(run, "total", cost="training_updates")


def test_facts_are_looked_up_in_record_front_and_points(run) -> None:
    assert read(run, "fact", path="cost.seconds") == 3.5
    assert read(run, "fact", path="info.models.0.score") == 0.25
    assert read(run, "fact", path="points.1.cost.training_updates") == 8.0
    assert read(run, "fact", path="timings.total") == 12.0
    assert read(run, "dense", objective="second") == 0.15
    assert read(run, "mean_dense") == pytest.approx(0.1)
    for path in ("cost.minutes", "points.9.cost.x", "info.models.4.score", "status", "info"):
        with pytest.raises(RunError, match=f"no number '{path}'"):
            read(run, "fact", path=path)


def test_counts_and_gaps_are_those_of_the_indicators(run) -> None:
    assert read(run, "points") == 3
    assert read(run, "nondominated") == 3
    assert read(run, "gap") == pytest.approx(indicators.uniformity(np.array(VALUES)))
    assert read(run, "gap_deviation") == pytest.approx(indicators.gap_deviation(np.array(VALUES)))
    assert read(run, "rank_alignment") == pytest.approx(1.0)


def test_known_fronts_give_shares_of_the_truth(grid, runs, work) -> None:
    angles = np.linspace(0, np.pi / 2, 15)
    arc = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    found = grid(overrides=["task=synthetic", "task.problem=dtlz2"], scales={"smoke": {"seeds": 1}})
    entry = runs.of(found, "COSMOS")[0]
    runs.finish(entry, arc.tolist(), reference=[1.1, 1.1], names=["f1", "f2"])
    from omegaconf import OmegaConf

    from frontrunner import config

    composed = config.compose(entry.words)
    (entry.place.directory / "config.yaml").write_text(OmegaConf.to_yaml(composed, resolve=True))
    result = Result(entry.place.directory)
    assert read(result, "gap_share") == pytest.approx(100.0)
    # 15 equal angles: judges say 0.424602 whole, and 0.400931 for the best 15 points.
    volume = indicators.hypervolume(arc, np.array([1.1, 1.1]))
    assert read(result, "hypervolume_share") == pytest.approx(100 * volume / 0.424602, abs=1e-3)
    share = read(result, "hypervolume_share", of="points")
    assert share == pytest.approx(100 * volume / 0.400931, abs=1e-3)
    assert read(result, "scaled_hypervolume") == pytest.approx(volume)
    assert 0 < read(result, "igd_plus_to_truth") < 0.05
    assert read(result, "reach") == pytest.approx(100.0)
    assert read(result, "inner_points") == 13
    assert read(result, "inner_points", margin=0.2) == (arc.min(axis=1) >= 0.2).sum()


def test_angles_to_rays_leave_those_on_an_axis_out(run) -> None:
    front = run.front
    rays = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    points = np.array([[1.0, 1.0], [0.4, 0.4 * np.tan(np.radians(50))], [1.0, 1.0]])
    told = replace(front, values=points, preferences=rays, preference_kind="ray")
    object.__setattr__(run, "front", told)
    assert read(run, "ray_angle") == pytest.approx(5.0)
    object.__setattr__(run, "front", replace(told, preference_kind="weight"))
    with pytest.raises(FrontError, match="no rays"):
        read(run, "ray_angle")


def test_a_task_without_truth_is_named(run) -> None:
    from omegaconf import OmegaConf

    from frontrunner import config

    composed = config.compose(["task=multi_digits", "label=x"])
    (run.directory / "config.yaml").write_text(OmegaConf.to_yaml(composed, resolve=True))
    with pytest.raises(FrontError, match="true front of task"):
        read(run, "hypervolume_share")


def test_a_row_may_read_another_function_or_other_arguments(run) -> None:
    column = values.of({"name": "objective", "objective": "second", "at": "equal"})
    assert column(run, None) == pytest.approx(0.3)
    assert column.instead({"name": "dense"})(run, None) == 0.15
    assert column.instead({"at": "own"})(run, None) == 0.2
    assert column.instead(None) is column
