"""A training step of every method that learns fronts, against plain training of the same network.

One task at 2, 3 and 10 objectives (classes of the embedded digits, each against all others) and one
network of some 34,000 weights. Plain training is that network alone on the mean of the objectives.
Methods with one network for all preferences draw one preference a step; those with a network for
each point train ten. All take turns on the same mini-batches, without the runner around them: an
epoch is as many steps for every method, so its ratio is the step's. Peak memory is what tensors
take at most while a learner is made and takes its first steps, optimiser and gradients included.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from _common import arguments, interleave, one_thread, ratio, spread, write
from torch.optim import Optimizer

from frontrunner import config
from frontrunner.errors import ConfigError
from frontrunner.methods.learning.training import Training
from frontrunner.run import build_task
from frontrunner.runner.learner import Learner, Update
from frontrunner.runner.runner import Runner
from frontrunner.tasks.base import Batch, Task, rows

OBJECTIVES = (2, 3, 10)
BATCHES, BATCH_SIZE, POINTS = 4, 128, 10


class Plain(Learner):
    """The network of a task on the mean of its objectives."""

    def __init__(self, task: Task, training: Training) -> None:
        super().__init__()
        self.network, self.schedule = task.network(), training.rate_schedule()
        self._task, self._optimize = task, training.optimize

    def optimizers(self) -> dict[str, Optimizer]:
        return {"weights": self._optimize(self.network.parameters())}

    def update(self, batch: Batch, step: int) -> Update:
        return Update(self._task.losses(self.network(batch[0]), batch).mean(), passes=1)


class Handed(Exception):
    """A method has made its learner."""


class Catcher(Runner):
    """Takes the learner from a method instead of training it."""

    learner: Learner

    def fit(self, learner: Learner, *_: Any, **__: Any) -> None:
        self.learner = learner
        raise Handed


def composed(words: list[str], m: int) -> Any:
    network = "model.network.hidden=[200,100]"
    chosen = ["task=ten_digits", *words, f"task.classes={m}", f"points={POINTS}"]
    return config.compose([*chosen, "model=mlp", network, f"training.batch_size={BATCH_SIZE}"])


def maker(words: list[str], m: int) -> tuple[Callable[[], Learner], str]:
    """What makes a method's learner, and its label.

    Raises:
        ConfigError: the method does not take this task.
    """
    chosen = composed(words, m)
    task, method = build_task(chosen), config.build(chosen.method)
    method.check(task)

    def make() -> Learner:
        runner = Catcher(directory="unused", seed=0, progress="none")
        try:
            method.fit(task, runner)
        except Handed:
            return runner.learner
        raise AssertionError("the method trains without a learner")

    return make, str(chosen.label)


def stepper(learner: Learner, batches: list[Batch], device: str) -> Callable[[], None]:
    """What takes one step on each mini-batch; the learner moves on from call to call."""
    learner.to(device).train()
    optimizers, steps = learner.optimizers(), iter(range(10**9))

    def run() -> None:
        for batch in batches:
            step = next(steps)
            turn = learner.turn(step)
            loss = learner.update(batch, step).loss
            optimizers[turn].zero_grad()
            loss.backward()
            optimizers[turn].step()
            with torch.no_grad():
                learner.after_step(turn, step)

    return run


def peak(make: Callable[[], Learner], batches: list[Batch], device: str) -> int:
    """Most bytes in tensors while a learner is made and takes its first steps."""
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        stepper(make(), batches[:2], device)()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profiler:
        stepper(make(), batches[:2], device)()
    assert profiler.profiler is not None
    events = profiler.profiler.kineto_results.events()
    total = most = 0
    for event in sorted((e for e in events if e.name() == "[memory]"), key=_when):
        total += event.nbytes()
        most = max(most, total)
    return most


def _when(event: Any) -> int:
    return int(event.start_ns())


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--objectives", type=int, nargs="+", default=list(OBJECTIVES))
    parser.add_argument("--methods", nargs="+", help="of conf/method/learning; default: all")
    parser.add_argument(
        "--aggregators", nargs="+", default=["mgda"], help="of method=learning/mgda"
    )
    options = parser.parse_args()
    repeats, device = options.repeats or 5, options.device
    one_thread(device)
    folder = config.conf_dir() / "method" / "learning"
    names = options.methods or sorted(path.stem for path in folder.glob("*.yaml"))
    variants = {
        "gmooar": ("method.upper=hv", "method.upper=u"),
        "mgda": [f"method.aggregator={a}" for a in options.aggregators],
        "phn": ("method.solver=linear", "method.solver=epo"),
    }
    configurations = [
        [f"method=learning/{name}", *([word] if word else [])]
        for name in names
        for word in variants.get(name, ("",))
    ]
    results: dict[str, Any] = {}
    for m in options.objectives:
        results[str(m)] = _measured(m, configurations, repeats, device)
    settings = {"device": device, "task": "ten_digits", "classes": options.objectives}
    settings |= {"network": [200, 100], "points": POINTS, "batch_size": BATCH_SIZE}
    write(f"learning-{device}", options.out, settings, results)


def _measured(m: int, configurations: list[list[str]], repeats: int, device: str) -> dict[str, Any]:
    plain = composed(["method=learning/cosmos"], m)
    task = build_task(plain)
    training = config.build(plain.training)
    data = task.data("train")
    batches: list[Batch] = [
        tuple(t.to(device) for t in rows(data, range(i * BATCH_SIZE, (i + 1) * BATCH_SIZE)))
        for i in range(BATCHES)
    ]
    makers: dict[str, Callable[[], Learner]] = {"plain": lambda: Plain(task, training)}
    results: dict[str, Any] = {}
    for words in configurations:
        try:
            make, label = maker(words, m)
        except ConfigError as error:
            results[" ".join(words)] = {"refused": str(error)}
            continue
        makers[label] = make
    memory, counts = {}, {}
    for label, make in makers.items():
        memory[label] = peak(make, batches, device)
        counts[label] = sum(p.numel() for p in make().parameters())
    steps = {label: stepper(make(), batches, device) for label, make in makers.items()}
    seconds = interleave(steps, repeats, device)
    print(f"\n{m} objectives{'':18}{'ms a step':>10}{'of plain':>24}{'memory':>10}{'weights':>12}")
    for label, times in seconds.items():
        milliseconds = 1e3 * statistics.median(times) / len(batches)
        against = ratio(times, seconds["plain"])
        results[label] = {
            "milliseconds_per_step": round(milliseconds, 3),
            "time": against,
            "peak_bytes": memory[label],
            "memory": round(memory[label] / memory["plain"], 2),
            "learned_numbers": counts[label],
        }
        print(
            f"{label:30}{milliseconds:10.2f}{spread(against):>24}"
            f"{memory[label] / memory['plain']:10.1f}{counts[label]:12,}"
        )
    for label, facts in results.items():
        if "refused" in facts:
            print(f"{label:30}{facts['refused']}")
    return results


if __name__ == "__main__":
    main()
