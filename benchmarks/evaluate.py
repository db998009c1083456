"""Evaluating 100 preferences of one Pareto set, against 100 models loaded one after the other.

Variants, all scored by the same code on the same data:

- ``conditioned``: one network that takes the preference (FiLM), in memory throughout;
- ``finite``: 100 models stacked in memory as a stored set leaves them, copied into one network in
  turn;
- ``separate``: for every preference build the network, read its safetensors file, score it;
- ``held``: 100 networks built and read first, then scored (memory only).

Time is measured in one process, the variants in turn. Memory is the peak of a fresh process per
variant above what it held when data, libraries and a first scored model were in place.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import arguments, interleave, one_thread, ratio, spread, write
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from frontrunner import config
from frontrunner.evaluators.objectives import Objectives
from frontrunner.front.objective import Objective
from frontrunner.pareto_sets.base import load
from frontrunner.pareto_sets.conditioned import ConditionedNetwork
from frontrunner.pareto_sets.finite import FiniteSet
from frontrunner.preferences import grid
from frontrunner.run import build_task
from frontrunner.tasks.base import Batch, Model, Split, Task, tensor_splits
from frontrunner.tracking.manifest import peak_memory_bytes, reset_peak_memory

VARIANTS = ("conditioned", "finite", "separate", "held")


class RandomImages(Task):
    """Grey 36x36 images of noise with two labels: the shape of the digit benchmarks, no files."""

    objectives = (Objective("left", "min", "nats"), Objective("right", "min", "nats"))
    reference_point = (2.5, 2.5)
    input_shape = (1, 36, 36)
    output_sizes = (10, 10)

    def __init__(self, images: int, model: Model) -> None:
        super().__init__(model)
        self.name, self.images = "random_images", images

    def load(self) -> dict[Split, Any]:
        random = torch.Generator().manual_seed(0)
        labels = [torch.randint(10, (self.images,), generator=random) for _ in range(2)]
        part: Batch = (torch.randn(self.images, *self.input_shape, generator=random), *labels)
        return tensor_splits({"test": part})

    def losses(self, outputs: tuple[Tensor, ...], batch: Batch) -> Tensor:
        pairs = zip(outputs, batch[1:], strict=True)
        return torch.stack([cross_entropy(logits, labels) for logits, labels in pairs])


def make_task(case: str, images: int) -> Task:
    """The task of a case: ``lenet`` on noise, or ``multi_digits`` with its own narrow MLP."""
    if case == "multi_digits":
        words = [f"task.sizes=[1000,1000,{images}]", "method=learning/cosmos"]
        return build_task(config.compose(["task=multi_digits", *words]))
    chosen = config.compose(["model=lenet", "method=learning/cosmos", "task=multi_mnist"])
    return RandomImages(images, config.build(chosen.model))


def stacked(task: Task, models: int) -> dict[str, Tensor]:
    """The weights of differently initialised networks, stacked; the same on every call."""
    torch.manual_seed(0)
    states = [task.network().state_dict() for _ in range(models)]
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}


def prepare(
    variant: str, task: Task, models: int, folder: Path, device: str
) -> Callable[[], np.ndarray]:
    """A call that scores every preference and returns the objectives, (models, m)."""
    preferences = grid(task.m, models)
    evaluator = Objectives()
    if variant == "conditioned":
        torch.manual_seed(0)
        network = task.conditioned_network()
        conditioned = ConditionedNetwork(network, preferences, "weight")
        return lambda: evaluator.evaluate(conditioned, task, device=device).values
    if variant == "finite":
        finite = load(folder / "set", task)
        return lambda: evaluator.evaluate(finite, task, device=device).values

    def read(path: Path) -> torch.nn.Module:
        network = task.network()
        network.load_state_dict(load_file(str(path)))
        return network.to(device).eval()

    files = [folder / f"{k}.safetensors" for k in range(models)]

    def separate() -> np.ndarray:
        networks = map(read, files) if variant == "separate" else [read(f) for f in files]
        return np.array([task.measure(n, "test", device=device) for n in networks])

    return separate


def memory(variant: str, case: str, images: int, models: int, folder: Path, device: str) -> int:
    """Bytes that scoring takes at its peak, above what one scored model leaves behind."""
    one_thread(device)
    task = make_task(case, images)
    task.measure(task.network().to(device).eval(), "test", device=device)
    before = in_use(device)
    score = prepare(variant, task, models, folder, device)
    reset_peak_memory()
    score()
    return peak_memory_bytes() - before


def in_use(device: str) -> int:
    """Bytes in use now: of the GPU, or of the process."""
    if device == "cuda":
        return torch.cuda.memory_allocated()
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * int(next(x for x in status if x.startswith("VmRSS:")).split()[1])


def run_case(case: str, images: int, models: int, repeats: int, device: str) -> dict[str, Any]:
    task = make_task(case, images)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = stacked(task, models)
        for k in range(models):
            state = {n: t[k].clone() for n, t in weights.items()}
            save_file(state, str(folder / f"{k}.safetensors"))
        FiniteSet(task.network(), weights, grid(task.m, models), "weight").save(folder / "set")
        calls = {v: prepare(v, task, models, folder, device) for v in VARIANTS[:3]}
        if not np.allclose(calls["finite"](), calls["separate"](), rtol=1e-5):
            raise SystemExit(f"{case}: stacked and separately read models score differently")
        seconds = interleave(calls, repeats, device)
        peaks = {}
        for variant in VARIANTS:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                given = (variant, case, images, models, folder, device)
                peaks[variant] = pool.apply(memory, given)
    single = sum(p.numel() for p in task.network().parameters())
    parameters = dict.fromkeys(VARIANTS, single * models)
    parameters["conditioned"] = sum(p.numel() for p in task.conditioned_network().parameters())
    print(f"\n{case}, {images} samples, {models} preferences")
    print(f"{'':14}{'seconds':>9}{'stored numbers':>16}{'peak MiB':>10}   time against conditioned")
    results: dict[str, Any] = {}
    for variant in VARIANTS:
        times = seconds.get(variant)
        results[variant] = {
            "stored_parameters": parameters[variant],
            "peak_mebibytes": round(peaks[variant] / 2**20, 1),
        }
        line = f"{variant:14}"
        if times:
            results[variant]["seconds"] = round(sorted(times)[len(times) // 2], 4)
            results[variant]["time_ratio"] = ratio(times, seconds["conditioned"])
        line += f"{results[variant]['seconds']:9.2f}" if times else f"{'':9}"
        line += f"{parameters[variant]:16,}{peaks[variant] / 2**20:10.1f}"
        print(line + (f"   {spread(results[variant]['time_ratio'])}" if times else ""))
    return results


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--models", type=int, default=100)
    parser.add_argument("--images", type=int, default=100, help="36x36 images for the LeNet")
    parser.add_argument(
        "--samples", type=int, default=2000, help="overlays for the multi_digits MLP"
    )
    options = parser.parse_args()
    one_thread(options.device)
    case = partial(run_case, models=options.models, device=options.device)
    results = {
        "lenet": case("lenet", options.images, repeats=options.repeats or 3),
        "multi_digits": case("multi_digits", options.samples, repeats=options.repeats or 9),
    }
    names = ("device", "models", "images", "samples")
    settings = {name: getattr(options, name) for name in names}
    write(f"evaluate-{options.device}", options.out, settings, results)


if __name__ == "__main__":
    main()
