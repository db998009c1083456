"""Training K small networks as one vmapped step, against training them one after the other.

Three ways to take the same step of K networks that see the same mini-batch and start from the same
weights: the population (`methods.learning.population`, one vmapped pass, one Adam), K networks in
plain PyTorch with an Adam each, and the population with ``vectorize=never``. First all three must
reach the same losses; then their steps are timed in turn.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from _common import arguments, interleave, one_thread, ratio, spread, write
from torch import Tensor

from frontrunner import config
from frontrunner.methods.learning import scalarization
from frontrunner.methods.learning.population import Population
from frontrunner.methods.learning.training import Training, adam
from frontrunner.preferences import grid
from frontrunner.run import build_task
from frontrunner.tasks.base import Batch, Task

Step = Callable[[Batch], Tensor]


def population_step(learner: Population) -> Step:
    """One step of a population; returns the (K, m) losses before it."""
    optimizer = learner.optimizers()["weights"]

    def step(batch: Batch) -> Tensor:
        losses = learner.objectives(batch)
        optimizer.zero_grad()
        scalarization.linear(losses, learner.preferences).sum().backward()
        optimizer.step()
        return losses.detach()

    return step


def separate_step(task: Task, learner: Population, rate: float) -> Step:
    """One step of each of K networks that start as the population's do, with an Adam each."""
    models = []
    for k, preference in enumerate(learner.preferences):
        network = task.network().to(preference.device)
        network.load_state_dict({n: t[k].detach() for n, t in learner.state().items()})
        models.append((network, preference, adam(network.parameters(), rate)))

    def step(batch: Batch) -> Tensor:
        losses = []
        for network, preference, optimizer in models:
            f = task.losses(network(batch[0]), batch)
            optimizer.zero_grad()
            scalarization.linear(f, preference).backward()
            optimizer.step()
            losses.append(f.detach())
        return torch.stack(losses)

    return step


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--networks", type=int, default=16, help="K")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10, help="steps per repetition")
    options = parser.parse_args()
    repeats = options.repeats or 40
    device, k = options.device, options.networks

    one_thread(device)
    task = build_task(config.compose(["task=multi_digits", "method=learning/linear_scalarization"]))
    dataset = task.data("train")
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0)).tolist()  # type: ignore[arg-type]
    size = options.batch_size
    batches: list[Batch] = [
        tuple(t.to(device) for t in dataset[order[i * size : (i + 1) * size]])
        for i in range(options.steps)
    ]
    training = Training(steps=options.steps, batch_size=size, learning_rate=5e-3)

    def population(vectorize: str) -> Population:
        weights = grid(task.m, k)
        linear = scalarization.linear
        return Population(task, weights, linear, training, seed=0, vectorize=vectorize).to(device)

    def steps() -> dict[str, Step]:
        return {
            "vmapped": population_step(population("always")),
            "separate": separate_step(task, population("always"), training.learning_rate),
            "loop": population_step(population("never")),
        }

    reached = {}
    for name, step in steps().items():
        for batch in batches:
            reached[name] = step(batch)
    difference = max((r - reached["vmapped"]).abs().max().item() for r in reached.values())
    target = reached["vmapped"]
    if not all(torch.allclose(r, target, rtol=1e-3, atol=1e-4) for r in reached.values()):
        raise SystemExit(f"the losses differ by {difference:.2g}; nothing was timed")
    print(f"losses after {options.steps} steps agree to {difference:.1g}\n")

    def repetition(step: Step) -> Callable[[], None]:
        def run() -> None:
            for batch in batches:
                step(batch)

        return run

    seconds = interleave({n: repetition(s) for n, s in steps().items()}, repeats, device)
    results = {}
    names = {
        "vmapped": "population, one vmapped pass",
        "separate": f"{k} networks one after the other",
        "loop": "population, vectorize=never",
    }
    print(f"{'':36}{'ms a step':>10}   times the vmapped step")
    for name, times in seconds.items():
        milliseconds = 1e3 * sorted(times)[len(times) // 2] / options.steps
        against = ratio(times, seconds["vmapped"])
        results[name] = {"milliseconds_per_step": round(milliseconds, 3), "ratio": against}
        print(f"{names[name]:36}{milliseconds:10.2f}   {spread(against)}")
    settings = {"device": device, "networks": k, "batch_size": size, "steps": options.steps}
    write(
        f"population-{device}",
        options.out,
        {**settings, "task": "multi_digits", "parameters": training_parameters(task)},
        {**results, "largest_loss_difference": difference},
    )


def training_parameters(task: Task) -> int:
    """Parameters of one network of the task."""
    return sum(p.numel() for p in task.network().parameters())


if __name__ == "__main__":
    main()
