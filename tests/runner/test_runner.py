"""The runner: exact resuming, the best state, and failures that leave something to go on from."""

from __future__ import annotations

import errno
import json
import os
import signal

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.utils.data import TensorDataset

from frontrunner.errors import ConfigError, DivergenceError, RunError
from frontrunner.runner.learner import Learner, Update, learning_rate_schedule
from frontrunner.runner.runner import Runner
from frontrunner.seeds import generator

DATA = TensorDataset(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)))
BUDGET = {"steps": 24, "batch_size": 8, "rounds": 6}


class Bowl(Learner):
    """Two blocks of weights that take turns, with momentum, noise of the step, and a buffer."""

    count: torch.Tensor

    def __init__(self, size=3, schedule="cosine"):
        super().__init__()
        self.a = nn.Parameter(torch.linspace(1.0, 2.0, size))
        self.b = nn.Parameter(torch.ones(size))
        self.register_buffer("count", torch.zeros(()))
        self.schedule = learning_rate_schedule(schedule)

    def optimizers(self):
        return {
            "weights": torch.optim.Adam([self.a], lr=0.1),
            "vectors": torch.optim.SGD([self.b], lr=0.05, momentum=0.9),
        }

    def turn(self, step):
        return "vectors" if step % 3 == 2 else "weights"

    def update(self, batch, step):
        noise = torch.randn(len(self.a), generator=generator(0, "noise", step))
        rows = batch[0] - self.a * self.b + 0.1 * noise
        return Update(rows.square().mean(), passes=2, log={"noise": noise.mean()})

    def after_step(self, turn, step):
        self.count += 1 + step
        self.b.clamp_(0.5, 3.0)

    def score(self):
        return -float(self.a.detach().square().sum())


def runner(directory, **options):
    options = {"accelerator": "cpu", "progress": "none", "threads": 1, **options}
    return Runner(directory=directory, seed=1, **options)


def fit(directory, learner=None, validate=None, budget=BUDGET, **options):
    learner = learner or Bowl()
    used = runner(directory, **options)
    used.fit(learner, DATA, validate=validate or learner.score, **budget)
    return learner, used


def state(learner):
    return {k: v.clone() for k, v in learner.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[k], other[k]) for k in one | other)


def no_leftovers(directory):
    return not [p for p in directory.rglob("*") if ".tmp" in p.name]


# ---------------------------------------------------------------------- training


def test_training_is_the_plain_loop_over_the_same_batches(tmp_path):
    learner, used = fit(tmp_path, validate=lambda: 0.0)
    from frontrunner.runner.batches import StepSampler

    plain = Bowl()
    optimizers = plain.optimizers()
    sampler = StepSampler(len(DATA), 8, seed=1, total=24, every=4)
    for step in range(24):
        optimizer = optimizers[plain.turn(step)]
        for group in optimizer.param_groups:
            base = 0.1 if plain.turn(step) == "weights" else 0.05
            group["lr"] = base * plain.schedule(step / 24)
        optimizer.zero_grad()
        plain.update(DATA[sampler.indices(step)], step).loss.backward()
        optimizer.step()
        with torch.no_grad():
            plain.after_step(plain.turn(step), step)
    for name, value in state(plain).items():
        torch.testing.assert_close(learner.state_dict()[name], value)
    assert used.cost["steps"] == 24
    assert used.cost["forward_passes"] == 2 * 24
    assert used.cost["seconds"] > 0
    assert used.device == "1 x cpu"


def test_the_state_of_the_best_validation_is_what_remains(tmp_path):
    states, scores = [], iter([1.0, 5.0, 2.0, 5.0, 4.0, float("-inf")])
    learner = Bowl()

    def validate():
        states.append(state(learner))
        return next(scores)

    _, used = fit(tmp_path, learner, validate)
    assert used.best_score == 5.0
    assert same(state(learner), states[3])  # of equal scores the later
    assert not same(states[3], states[5])


def test_without_validation_the_last_state_remains(tmp_path):
    learner = Bowl()
    runner(tmp_path).fit(learner, DATA, **BUDGET)
    assert learner.count == sum(range(1, 25))


def test_uneven_rounds_take_every_step_once(tmp_path):
    learner, used = fit(tmp_path, validate=lambda: 0.0, budget=BUDGET | {"steps": 23, "rounds": 5})
    assert learner.count == sum(range(1, 24))
    assert used.cost["steps"] == 23


def test_curves_report_means_over_a_round_and_the_validation(tmp_path):
    rows = []
    fit(tmp_path, validate=lambda: 7.0, log=lambda metrics, step: rows.append((step, metrics)))
    assert [step for step, _ in rows] == [4, 8, 12, 16, 20, 24]
    noises = [torch.randn(3, generator=generator(0, "noise", s)).mean() for s in range(4)]
    assert rows[0][1]["noise"] == pytest.approx(float(sum(noises)) / 4, abs=1e-6)
    assert set(rows[0][1]) == {
        "train/weights_loss", "train/vectors_loss", "noise", "validation/hypervolume"
    }  # fmt: skip


def test_clipping_bounds_a_step_of_gradient_descent(tmp_path):
    class Steep(Bowl):
        def optimizers(self):
            return {"weights": torch.optim.SGD([self.a], lr=1.0)}

        def turn(self, step):
            return "weights"

        def update(self, batch, step):
            return Update(1e6 * self.a.sum(), passes=1)

    moved = {}
    for clip in (None, 0.25):
        learner = Steep(schedule="constant")
        before = learner.a.detach().clone()
        runner(tmp_path / str(clip)).fit(learner, DATA, steps=1, batch_size=4, rounds=1, clip=clip)
        moved[clip] = float((learner.a.detach() - before).norm())
    assert moved[0.25] == pytest.approx(0.25, rel=1e-4)
    assert moved[None] > 1e5


# ---------------------------------------------------------------------- resuming


@pytest.mark.parametrize("stop", [1, 2, 5, 6])
def test_a_stopped_training_continues_to_the_same_bits(stop, tmp_path):
    scores = [3.0, 1.0, 9.0, 2.0, 2.0, 4.0]

    def scripted(learner, until):
        calls = iter(range(100))

        def validate():
            k = next(calls) + offset
            if k == until:
                raise KeyboardInterrupt
            return scores[k]

        return validate

    offset = 0
    whole = Bowl()
    _, used = fit(tmp_path / "whole", whole, scripted(whole, None))
    part = Bowl()
    if stop < 6:
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path / "part", part, scripted(part, stop))
    else:
        fit(tmp_path / "part", part, scripted(part, None))
    offset = stop
    rest = Bowl()
    with torch.no_grad():  # nothing of a fresh learner may survive
        rest.a += 7.0
    torch.manual_seed(stop)
    _, again = fit(tmp_path / "part", rest, scripted(rest, None))
    assert same(state(rest), state(whole))
    assert again.best_score == used.best_score == 9.0
    assert again.cost["forward_passes"] == used.cost["forward_passes"]


def test_time_counts_earlier_attempts(tmp_path):
    _, first = fit(tmp_path, validate=lambda: 0.0)
    _, again = fit(tmp_path, validate=lambda: 0.0)
    assert again.cost["seconds"] >= first.cost["seconds"] - 0.05


def test_ctrl_c_comes_out_as_such_and_leaves_the_signal_as_it_was(tmp_path):
    class Interrupted(Bowl):
        def update(self, batch, step):
            if step == 9:
                signal.raise_signal(signal.SIGINT)
            return super().update(batch, step)

    # A shell's background jobs ignore Ctrl-C; a terminal's do not.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path, Interrupted())
        assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    whole, _ = fit(tmp_path / "whole")
    rest, _ = fit(tmp_path)
    assert same(state(rest), state(whole))


# ---------------------------------------------------------------------- failures


@pytest.mark.parametrize("kind", ["loss", "weights"])
def test_divergence_names_the_step_and_keeps_the_checkpoint_before_it(kind, tmp_path):
    class Diverging(Bowl):
        def update(self, batch, step):
            done = super().update(batch, step)
            if step != 18 or kind != "loss":
                return done
            return Update(done.loss * float("nan"), done.passes)

        def after_step(self, turn, step):
            super().after_step(turn, step)
            if step == 19 and kind == "weights":  # the round's last, so that no loss shows it
                self.a[0] = float("nan")

    with pytest.raises(DivergenceError, match=str(18 if kind == "loss" else 20)) as caught:
        fit(tmp_path, Diverging())
    assert caught.value.step == (18 if kind == "loss" else 20)
    kept = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert kept["frontrunner"]["step"] == 16
    assert all(torch.isfinite(v).all() for v in kept["state_dict"].values())
    rest, _ = fit(tmp_path)
    assert same(state(rest), state(fit(tmp_path / "whole")[0]))


def damaged(content, kind):
    if kind == "foreign":
        return None
    return {"empty": b"", "text": b"not a checkpoint", "cut": content[: len(content) // 2]}[kind]


@pytest.mark.parametrize("kind", ["empty", "text", "cut", "foreign"])
def test_a_damaged_checkpoint_is_refused_in_one_line_that_names_it(kind, tmp_path):
    path = fit(tmp_path)[1].checkpoint
    if kind == "foreign":
        torch.save({"weights": torch.zeros(3)}, path)
    else:
        path.write_bytes(damaged(path.read_bytes(), kind))
    with pytest.raises(RunError, match="remove it to start again") as caught:
        fit(tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_another_budget_is_refused(tmp_path):
    fit(tmp_path)
    with pytest.raises(RunError, match="other steps or rounds, or on data of another length"):
        fit(tmp_path, budget=BUDGET | {"steps": 30})


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    fit(tmp_path)
    with pytest.raises(RunError, match="another model"):
        fit(tmp_path, Bowl(size=1))


@pytest.mark.parametrize("failing", ["torch", "fsync"])
def test_a_disk_that_fills_up_is_one_line_and_keeps_the_checkpoint(failing, tmp_path, monkeypatch):
    path = runner(tmp_path).checkpoint
    seen, original_save, original_sync = [], torch.save, os.fsync

    def save(content, target, **options):
        original_save(content, target, **options)
        if failing == "torch" and len(seen) == 3:
            raise RuntimeError("[enforce fail at inline_container.cc:603] file write failed")
        seen.append(1)

    def fsync(descriptor):
        if failing == "fsync" and len(seen) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original_sync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", save)
        patched.setattr(os, "fsync", fsync)
        with pytest.raises(RunError, match=r"last\.ckpt could not be written") as caught:
            fit(tmp_path)
    assert "\n" not in str(caught.value)
    steps = torch.load(path, weights_only=True)["frontrunner"]["step"]
    assert steps == (12 if failing == "torch" else 8)
    assert no_leftovers(tmp_path)
    rest, _ = fit(tmp_path)
    assert same(state(rest), state(fit(tmp_path / "whole")[0]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "33"}, "33"),
        ({"accelerator": "abacus"}, "abacus"),
        ({"strategy": "hope"}, "hope"),
        ({"devices": 0}, "devices"),
        ({"profiler": "simpel"}, "did you mean 'simple'"),
        ({"progress": "loud"}, "auto, bar, plain, none"),
        ({"threads": 0}, "threads=0"),
    ],
)
def test_settings_that_cannot_be_run_are_refused_in_one_line(options, message, tmp_path):
    with pytest.raises(ConfigError, match=message) as caught:
        fit(tmp_path, **options)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------- precision, profile


def test_double_precision_trains_in_double(tmp_path):
    single, _ = fit(tmp_path / "32")
    double, _ = fit(tmp_path / "64", precision="64-true")
    assert double.a.dtype == torch.float64
    torch.testing.assert_close(double.a.float(), single.a, rtol=1e-4, atol=1e-5)
    rest, _ = fit(tmp_path / "64", precision="64-true")
    assert same(state(rest), state(double))


def test_bf16_mixed_precision_keeps_the_weights_in_single(tmp_path):
    mixed, _ = fit(tmp_path, precision="bf16-mixed")
    assert mixed.a.dtype == torch.float32
    assert torch.isfinite(mixed.a).all()


def test_a_profile_is_written_into_the_run_directory(tmp_path):
    fit(tmp_path, profiler="simple")
    (report,) = tmp_path.glob("*profile*.txt")
    assert "run_training_batch" in report.read_text() or "training_step" in report.read_text()


def test_plain_progress_reports_the_end(tmp_path, capsys):
    fit(tmp_path, progress="plain", label="mine", validate=lambda: 1.5)
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "mine" in last
    assert "24/24" in last
    assert "1.5" in last


def test_only_whole_files_are_left(tmp_path):
    fit(tmp_path)
    found = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert found == {"checkpoints/last.ckpt", "progress.json"}
    told = json.loads((tmp_path / "progress.json").read_text())
    assert told["done"] == told["total"] == BUDGET["steps"]


def test_a_fit_inside_a_fit_has_its_own_checkpoint_cost_and_curves(tmp_path):
    rows = []
    outer = runner(tmp_path, log=lambda metrics, step: rows.append((set(metrics), step)))
    inner = outer.nested("base")
    inner.fit(Bowl(), DATA, **BUDGET)
    assert outer.cost == {}
    assert inner.checkpoint.is_relative_to(tmp_path / "base")
    assert rows[-1][1] == 24
    assert all(key.startswith("base/") for names, _ in rows for key in names)


def devices_of(wanted, monkeypatch, gpus):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    return Runner(devices=wanted).one_shot_devices


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        (1, [0]),
        ("2", [0, 1]),
        ("auto", [0, 1, 2]),
        (-1, [0, 1, 2]),
        ("0,2", [0, 2]),
        ([2], [2]),
        (OmegaConf.create([0, 2]), [0, 2]),
    ],
)
def test_a_fit_in_one_process_has_the_devices_that_lightning_would(wanted, chosen, monkeypatch):
    assert devices_of(wanted, monkeypatch, gpus=3) == [f"cuda:{i}" for i in chosen]
    cpus = 1 if wanted in ("auto", -1) else len(chosen)
    assert devices_of(wanted, monkeypatch, gpus=0) == ["cpu"] * cpus


@pytest.mark.parametrize("wanted", [4, [3], "0,3", 0, [], -2, "two"])
def test_devices_that_are_not_there_are_refused(wanted, monkeypatch):
    with pytest.raises(ConfigError, match=r"runner\.devices="):
        devices_of(wanted, monkeypatch, gpus=3)


# ---------------------------------------------------------------------- schedulers


def test_whoever_listens_to_signals_is_heard_while_lightning_trains(tmp_path, monkeypatch):
    """In a job of Slurm too, where Lightning would requeue by itself."""
    for name, value in {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "x", "SLURM_JOB_ID": "1"}.items():
        monkeypatch.setenv(name, value)
    heard, listening = [], {}
    own = (signal.SIGTERM, signal.SIGUSR2)
    before = {number: signal.signal(number, lambda n, _: heard.append(n)) for number in own}
    try:

        def validate():
            listening.update({n: signal.getsignal(n) for n in (signal.SIGUSR1, *own)})
            os.kill(os.getpid(), signal.SIGTERM)
            return 0.0

        learner, _ = fit(tmp_path, validate=validate)
        assert learner.count == sum(range(1, 25))  # SIGTERM is theirs to act upon
        assert set(heard) == {signal.SIGTERM}
        assert listening[signal.SIGUSR1] == signal.SIG_DFL
        assert [signal.getsignal(n) for n in own] == [listening[n] for n in own]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_one_device_needs_no_strategy_for_several(tmp_path):
    _, used = fit(tmp_path, strategy="ddp_find_unused_parameters_true", devices="auto")
    assert used.device == "1 x cpu"
    assert not torch.distributed.is_initialized()


def test_an_unknown_shard_is_refused():
    with pytest.raises(ConfigError, match="data, members"):
        Runner(shard="rows")
