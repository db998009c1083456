"""Configurations: errors that name the key, an identity of what matters, the user's own files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from frontrunner import config as configuration
from frontrunner import run as runs
from frontrunner.errors import ConfigError, DataError

COSMOS = "method=learning/cosmos"
EXPERIMENTS = sorted(
    p.relative_to(configuration.conf_dir() / "experiment").with_suffix("").as_posix()
    for p in (configuration.conf_dir() / "experiment").rglob("*.yaml")
)


@pytest.fixture(autouse=True)
def _elsewhere(work):
    """No test sees the repository's own conf/ as a user's."""


def refused(*overrides):
    with pytest.raises(ConfigError) as caught:
        configuration.compose(list(overrides))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def identity(*overrides):
    return runs.locate(configuration.compose([COSMOS, *overrides]))[1]


# ---------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.stepz=3", ["training.stepz", "'training.steps'"]),
        ("seeed=3", ["seeed", "'seed'"]),
        ("methods=learning/cosmos", ["methods", "'method'"]),
        ("+sead=3", ["sead", "'seed'"]),
        ("method=learning/cosmo", ["learning/cosmo ", "'learning/cosmos'"]),
        ("method=cosmos", ["cosmos", "'learning/cosmos'"]),
        ("task=multi_digit", ["multi_digit ", "'multi_digits'"]),
        ("runner.thread=1", ["runner.thread", "'runner.threads'"]),
        ("task.shfit=1", ["task.shfit", "'task.shift'"]),
    ],
)
def test_an_unknown_key_or_option_suggests_the_nearest(override, words):
    message = refused(COSMOS, override)
    for word in words:
        assert word in message
    assert "did you mean" in message


def test_a_missing_value_is_named_where_it_belongs():
    assert "no value for training.steps;" in refused(COSMOS, "training=base")


@pytest.mark.parametrize("override", ["seed=[", "seed", "=3", "seed={1"])
def test_a_malformed_override_is_one_line(override):
    refused(COSMOS, override)
    if override == "=3":  # Hydra's grammar allows a key of no letters
        return
    with pytest.raises(ConfigError) as caught:
        configuration.expand([COSMOS, override])
    assert override in str(caught.value)


def test_an_argument_that_the_target_does_not_take_is_named():
    config = configuration.compose([COSMOS, "+training.stepz=3"])
    with pytest.raises(ConfigError, match=r"unknown key 'method\.training\.stepz'"):
        runs.build(config)


def test_an_interpolation_that_leads_nowhere_is_one_line():
    assert "nowhere" in refused(COSMOS, "label=${nowhere}")


@pytest.mark.parametrize("method", [COSMOS, "method=merging/pareto_merging"])
def test_a_method_that_trains_is_refused_by_a_task_without_training(method):
    said = refused("task=text_domains", method)
    assert "task 'text_domains' goes without training, which the chosen method needs" in said


# ---------------------------------------------------------------------- identity


@pytest.mark.parametrize(
    "override",
    [
        "output=/elsewhere",
        "logger=none",
        "logger.project=other",
        "runner.progress=none",
        "runner.profiler=simple",
        "fresh=true",
        "label=mine",
    ],
)
def test_what_does_not_change_the_result_does_not_change_the_identity(override):
    assert identity(override) == identity()


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "points=5",
        "training.steps=17",
        "runner.precision=64-true",
        "model.network.hidden=[8,3]",
        "task.shift=5",
        "method.cosine_weight=1",
        "evaluator=accuracy",
    ],
)
def test_what_changes_the_result_changes_the_identity(override):
    assert identity(override) != identity()


def test_the_order_of_overrides_does_not_matter():
    assert identity("seed=3", "points=4") == identity("points=4", "seed=3")


def test_a_stored_configuration_has_the_same_identity(tmp_path):
    from omegaconf import OmegaConf

    config = configuration.compose([COSMOS, "training.learning_rate=3e-4"])
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True))
    loaded = configuration.load(tmp_path / "config.yaml")
    assert loaded == config
    assert runs.locate(loaded) == runs.locate(config)


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2\n", "\x00"])
def test_a_damaged_configuration_is_refused_by_name(text, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        configuration.load(path)
    with pytest.raises(ConfigError, match="does not exist"):
        configuration.load(tmp_path / "other.yaml")


# ---------------------------------------------------------------------- sweeps


@pytest.mark.parametrize(
    "overrides",
    [
        ["seed=1"],
        ["seed=1,2,3"],
        ["seed=range(0,4)", "points=3,4"],
        ["task.sizes=[1,2,3],[4,5,6]"],
        ["label='a,b'"],
        ["method=learning/cosmos,learning/gmooar", "seed=choice(1,2)", "points=5"],
    ],
)
def test_cells_are_those_of_hydras_own_sweeper(overrides, monkeypatch):
    import hydra

    seen = []

    def task(config):
        from hydra.core.hydra_config import HydraConfig

        seen.append(list(HydraConfig.get().overrides.task))

    monkeypatch.setattr("sys.argv", ["x", "--multirun", "hydra.sweep.dir=swept", *overrides])
    hydra.main(config_path=str(configuration.conf_dir()), config_name="config", version_base="1.3")(
        task
    )()
    assert configuration.expand(overrides) == seen


@pytest.mark.parametrize("parent", ["magnitude", "wanda", "sparsegpt", "alps", "mosp"])
def test_a_method_of_ones_own_starts_from_any_pruning_method(parent, tmp_path, monkeypatch):
    folder = tmp_path / "conf/method/pruning"
    folder.mkdir(parents=True)
    text = f"# @package _global_\ndefaults: [pruning/{parent}, _self_]\nmethod: {{sparsity: 0.4}}\n"
    (folder / "mine.yaml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    words = ["task=text_domains", "method.pattern=2:4"]
    own = configuration.compose([*words, "method=pruning/mine"])
    theirs = configuration.compose([*words, f"method=pruning/{parent}", "method.sparsity=0.4"])
    assert own == theirs


def test_a_method_of_ones_own_starts_from_any_merging_method(tmp_path, monkeypatch):
    folder = tmp_path / "conf/method/merging"
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for parent in configuration.options("method"):
        if parent.startswith("merging/"):
            text = f"# @package _global_\ndefaults: [{parent}, _self_]\nlabel: mine\n"
            (folder / "mine.yaml").write_text(text, encoding="utf-8")
            own = configuration.compose(["task=merge_digits", "method=merging/mine"])
            theirs = configuration.compose(["task=merge_digits", f"method={parent}", "label=mine"])
            assert own == theirs, parent


def test_in_a_sweep_of_methods_their_own_keys_become_choices_of_one():
    words = [
        "method=pruning/wanda,pruning/alps",
        "method.sparsity=0.7",
        "method.allocation={*.down_proj.weight:2:4}",
        "method.norm=none,trace",
        "~method.batch",
        "task.window=64",
    ]
    ready = configuration.with_choices(words)
    assert ready[1] == "method.sparsity=choice(0.7)"
    assert ready[2] == "method.allocation=choice({*.down_proj.weight:2:4})"
    assert [ready[0], *ready[3:]] == [words[0], *words[3:]]
    assert configuration.expand(ready) == configuration.expand(words)


def test_a_glob_stands_for_the_options_it_matches():
    pattern = "method=glob([learning/*chebyshev,learning/gm*],exclude=learning/ch*)"
    expected = [["method=learning/gmooar", f"seed={seed}"] for seed in (0, 1)]
    expected += [["method=learning/smooth_chebyshev", f"seed={seed}"] for seed in (0, 1)]
    assert configuration.expand([pattern, "seed=0,1"]) == expected


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("method=glob(learned/*)", "matches none of 'method'"),
        ("method=glob(learning/*,x=1)", "method=glob(learning/*,x=1): "),
    ],
)
def test_a_glob_that_cannot_be_used_is_refused(word, message):
    with pytest.raises(ConfigError) as caught:
        configuration.without_globs([word])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------- the user's own


@pytest.mark.parametrize("name", ["plain", "with space", "a (b), [c] 'd' = 100%"])
def test_a_conf_folder_in_the_working_directory_is_found(name, tmp_path, monkeypatch):
    folder = tmp_path / name / "conf" / "training"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("# My budget.\ndefaults:\n  - base\nsteps: 7\n")
    monkeypatch.chdir(tmp_path / name)
    assert configuration.compose([COSMOS, "training=mine"]).training.steps == 7
    assert configuration.describe("training")["mine"] == "My budget."
    assert "'mine'" in refused(COSMOS, "training=mime")


def test_a_group_of_the_users_own_is_a_group(tmp_path):
    (tmp_path / "conf" / "colour").mkdir(parents=True)
    (tmp_path / "conf" / "colour" / "red.yaml").write_text("# Red.\nhue: 0\n")
    assert configuration.compose([COSMOS, "+colour=red"]).colour.hue == 0
    assert configuration.describe("colour") == {"red": "Red."}


def test_composing_leaves_hydra_as_it_was():
    from hydra.core.global_hydra import GlobalHydra

    before = GlobalHydra.instance().hydra
    refused(COSMOS, "seeed=1")
    configuration.compose([COSMOS])
    assert GlobalHydra.instance().hydra is before


# ---------------------------------------------------------------------- what is shipped


@pytest.mark.parametrize("group", configuration.groups())
def test_every_option_is_described_in_its_first_comment(group):
    described = configuration.describe(group)
    assert described
    assert all(described.values()), [k for k, text in described.items() if not text]


EMBEDDED = {
    "learning": ["multi_digits", "synthetic"],
    "merging": ["merge_digits"],
    "pruning": ["text_domains"],
    "coresets": ["digits_full", "multi_digits"],
}


@pytest.mark.parametrize(
    ("method", "task"),
    [
        (method, task)
        for method in configuration.options("method")
        for task in EMBEDDED[method.partition("/")[0]]
    ],
)
def test_every_method_takes_the_embedded_tasks(method, task):
    two = ["task.experts=2"] if method == "merging/slerp" else []
    config = configuration.compose([f"method={method}", f"task={task}", "logger=none", *two])
    assert runs.check(config) == runs.locate(config)[0]
    assert not Path("runs").exists()


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_and_is_checked(experiment):
    config = configuration.compose([f"experiment={experiment}", "logger=none"])
    try:
        runs.check(config)
    except DataError as error:
        if "$FRONTRUNNER_DATA" not in str(error):  # some data are not part of this repository
            raise
    assert os.listdir() == []
