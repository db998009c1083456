"""A training step through the Lightning runner, against the bare loop of the same learner.

The learner is COSMOS on ``multi_digits``. Both ways take the same steps on the same mini-batches
from the same weights; both must end at the same weights. Steps are timed from the first update
after a warm-up to the last, so that what the runner spends once (Trainer, checkpoint, teardown)
does not enter the ratio; it is reported by itself. ``data`` is the loader alone.
"""

from __future__ import annotations

import statistics
import tempfile
from typing import Any

import torch
from _common import arguments, clock, one_thread, ratio, spread, write
from torch.optim import Optimizer

from frontrunner import config
from frontrunner.methods.learning.cosmos import Cosmos, _CosmosLearner
from frontrunner.run import build_task
from frontrunner.runner.batches import StepSampler, step_loader
from frontrunner.runner.learner import Learner, Update
from frontrunner.runner.runner import Runner
from frontrunner.tasks.base import Batch, Task

WARM_UP = 20


class Clocked(Learner):
    """A learner that notes when its timed stretch begins and ends."""

    def __init__(self, learner: Learner, steps: int, device: str) -> None:
        super().__init__()
        self.inner, self.schedule = learner, learner.schedule
        self.last, self.device = steps - 1, device
        self.begin = self.end = 0.0

    def optimizers(self) -> dict[str, Optimizer]:
        return self.inner.optimizers()

    def turn(self, step: int) -> str:
        return self.inner.turn(step)

    def update(self, batch: Batch, step: int) -> Update:
        if step in (WARM_UP, self.last):
            now = clock(self.device)
            self.begin, self.end = (now, 0.0) if step == WARM_UP else (self.begin, now)
        return self.inner.update(batch, step)

    @property
    def seconds_per_step(self) -> float:
        """Over the timed stretch."""
        return (self.end - self.begin) / (self.last - WARM_UP)

    def after_step(self, turn: str, step: int) -> None:
        self.inner.after_step(turn, step)


def bare(learner: Clocked, task: Task, steps: int, batch_size: int, device: str) -> None:
    """The loop that anyone would write."""
    learner.to(device).train()
    optimizers = learner.optimizers()
    dataset = task.data("train")
    sampler = StepSampler(len(dataset), batch_size, 0, steps, steps)  # type: ignore[arg-type]
    rates = {n: [g["lr"] for g in o.param_groups] for n, o in optimizers.items()}
    for step in range(steps):
        batch = tuple(t.to(device) for t in dataset[sampler.indices(step)])
        turn = learner.turn(step)
        for group, rate in zip(optimizers[turn].param_groups, rates[turn], strict=True):
            group["lr"] = rate * learner.schedule(step / steps)
        update = learner.update(batch, step)
        optimizers[turn].zero_grad()
        update.loss.backward()
        optimizers[turn].step()
        with torch.no_grad():
            learner.after_step(turn, step)


def through_runner(
    learner: Clocked, task: Task, steps: int, batch_size: int, device: str, **options: Any
) -> None:
    """The same through the runner, in one round and without validation."""
    accelerator = "gpu" if device == "cuda" else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(
            directory=folder, accelerator=accelerator, progress="none", seed=0, **options
        )
        runner.fit(learner, task.data("train"), steps=steps, batch_size=batch_size, rounds=1)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    repeats, steps, device = options.repeats or 24, options.steps, options.device
    one_thread(device)
    configuration = config.compose(["task=multi_digits", "method=learning/cosmos"])
    task = build_task(configuration)
    method: Cosmos = config.build(configuration.method)
    size = method.training.batch_size
    dataset = task.data("train")

    def learner() -> Clocked:
        return Clocked(_CosmosLearner(task, method), steps, device)

    step_seconds: dict[str, list[float]] = {"bare": [], "runner": [], "data": []}
    once: list[float] = []
    ways = {"bare": bare, "runner": through_runner}
    weights = {}
    for repeat in range(-1, repeats):
        for name in ("bare", "runner") if repeat % 2 else ("runner", "bare"):
            clocked = learner()
            start = clock(device)
            ways[name](clocked, task, steps, size, device)
            whole = clock(device) - start
            weights[name] = torch.cat([p.detach().cpu().view(-1) for p in clocked.parameters()])
            if repeat >= 0:
                step_seconds[name].append(clocked.seconds_per_step)
            if repeat >= 0 and name == "runner":
                once.append(whole - steps * step_seconds[name][-1])
        loader = step_loader(dataset, StepSampler(len(dataset), size, 0, steps, steps), 0)  # type: ignore[arg-type]
        start = clock(device)
        for _ in loader:
            pass
        if repeat >= 0:
            step_seconds["data"].append((clock(device) - start) / steps)
    if not torch.allclose(weights["bare"], weights["runner"], rtol=1e-4, atol=1e-5):
        raise SystemExit("the two ways ended at different weights")

    results: dict[str, Any] = {}
    print(f"{'':10}{'us a step':>10}   times the bare loop")
    for name, times in step_seconds.items():
        median = 1e6 * statistics.median(times)
        results[name] = {
            "microseconds_per_step": round(median, 1),
            "ratio": ratio(times, step_seconds["bare"]),
        }
        print(f"{name:10}{median:10.0f}   {spread(results[name]['ratio'])}")
    results["runner_once_seconds"] = round(statistics.median(once), 3)
    print(f"\nonce per fit: {results['runner_once_seconds']:.3f} s")
    settings = {"device": device, "steps": steps, "batch_size": size, "task": "multi_digits"}
    write(f"overhead-{device}", options.out, {**settings, "method": "cosmos"}, results)


if __name__ == "__main__":
    main()
