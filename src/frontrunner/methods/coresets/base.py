"""What coreset methods share: one model for each budget and preference, and what each cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer
from torch.utils._pytree import tree_map

from frontrunner.coresets.coreset import Coreset, check_budget
from frontrunner.coresets.pool import Pool
from frontrunner.coresets.select import Selector
from frontrunner.coresets.trigger import Trigger
from frontrunner.errors import ConfigError
from frontrunner.methods.base import Method
from frontrunner.methods.learning.training import Training
from frontrunner.pareto_sets.base import ParetoSet, as_own_dtype
from frontrunner.pareto_sets.budgets import BudgetSet, preference_of
from frontrunner.preferences import grid
from frontrunner.runner.coreset import CoresetCallback, Share
from frontrunner.runner.learner import Learner, Update
from frontrunner.runner.runner import Runner
from frontrunner.seeds import derive
from frontrunner.tasks.base import Batch, Split, Task, rows
from frontrunner.tasks.merging import MergingTask
from frontrunner.tasks.pruning import PruningTask
from frontrunner.weights.networks import named_state

# A pass forward and back costs about three passes forward.
FORWARD_SHARE = 1.0 / 3.0
# Training failed where neither loss nor error is below this share of the best constant answer's.
COLLAPSED = 0.9


class CoresetMethod(Method):
    """Trains on a coreset, for each of one or several budgets.

    An epoch is one pass over the coreset, and there are as many as ``training.steps`` make on all
    of the data: a budget of 0.1 takes about a tenth of the steps. The models are those of the last
    step.

    Args:
        training: the task's budget; its steps are those on all of the data.
        seed: of the initial weights, the order of samples and the selections.
        points: preferences over the task's objectives, where it has several.
        budget: share of the training samples, or a list of them.
        settings: of the `Trigger` (``trigger``, ``threshold``, ``every``, ``count``) and of the
            `Coreset`.
    """

    counts_costs = True

    def __init__(
        self,
        training: Training,
        seed: int,
        points: int,
        budget: float | Sequence[float] = 0.1,
        trigger: str = "never",
        threshold: float = 0.3,
        every: int = 20,
        count: int | None = None,
        **settings: Any,
    ) -> None:
        self.training, self.seed, self.points = training, seed, points
        self.budgets = _budgets(budget)
        self.trigger = Trigger(trigger, threshold, every, count)
        self.settings = settings
        self._weighting = Coreset(None, self.trigger, 1.0, 1, 0, **settings).weighting

    def selector(self) -> Selector | None:
        """The selection rule; None trains on all of the data."""
        raise NotImplementedError

    def check(self, task: Task) -> None:
        if isinstance(task, MergingTask | PruningTask) or not task.output_sizes:
            raise ConfigError(f"task '{task.name}' is not one that coresets are trained on")
        if task.m > 1:
            grid(task.m, self.points)
        size = _length(task, "train")
        if size < 2:
            raise ConfigError(f"task '{task.name}' has no data to choose a coreset from")
        network = task.network()
        pool = _pool(task, network, "train", validation=_pool(task, network, "validation"))
        for budget in self.budgets:
            self._coreset(budget, size, [1.0 / task.m] * task.m).check(pool)
        if self._weighting == "loss":
            _check_weights(task, network)

    def switches(self) -> dict[str, Any]:
        return {"trigger": self.trigger.rule, **self.settings}

    def fit(self, task: Task, runner: Runner) -> ParetoSet:
        preferences = [[1.0]] if task.m == 1 else grid(task.m, self.points).tolist()
        total: dict[str, float] = {"seconds": 0.0, "forward_passes": 0.0, "steps": 0.0}
        asked, states, costs, record = [], [], [], []
        for budget in self.budgets:
            for index, preference in enumerate(preferences):
                name = f"budget-{budget:.6g}" + (f"-{index}" if task.m > 1 else "")
                inner = runner.nested(name)
                learner, coreset = self._one(task, inner, budget, preference)
                final = task.measure(learner.network.eval(), "validation")
                facts, cost = self._facts(task, inner, coreset)
                facts["collapsed"] = collapsed(task, learner.network, preference)
                facts["validation_losses"] = final.tolist()
                asked.append(preference_of(budget, preference))
                state = named_state(learner.network)
                states.append({key: tensor.detach().cpu() for key, tensor in state.items()})
                costs.append(cost)
                record.append({"budget": budget, "preference": preference, **facts})
                for key in total:
                    total[key] += inner.cost[key]
        runner.cost, runner.device = total, inner.device
        return BudgetSet.of(learner.network.cpu(), states, np.array(asked), costs, record)

    def _coreset(self, budget: float, size: int, preference: Sequence[float]) -> Coreset:
        """The coreset of a model, of ``size`` samples in all."""
        epochs = max(1, round(self.training.steps * self.training.batch_size / size))
        return Coreset(
            self.selector(),
            self.trigger,
            budget,
            epochs,
            self.seed,
            preference=preference,
            **self.settings,
        )

    def _one(
        self, task: Task, runner: Runner, budget: float, preference: list[float]
    ) -> tuple[CoresetLearner, CoresetCallback]:
        """One model, trained to the end."""
        data, size = task.data("train"), _length(task, "train")
        coreset = self._coreset(budget, size, preference)
        learner = CoresetLearner(task, preference, self.training, self.seed, coreset.weighting)

        def pool(share: Share | None) -> Pool:
            device = next(learner.parameters()).device
            validation = _pool(task, learner.network, "validation", device)
            return _pool(task, learner.network, "train", device, share, validation)

        callback = CoresetCallback(coreset, pool)

        def validate() -> float:
            device = next(learner.parameters()).device
            losses = task.measure(learner.network.eval(), "validation", device=device)
            return -float(np.dot(losses, preference))

        batch_size = self.training.batch_size
        runner.fit(
            learner,
            data,
            steps=coreset.epochs * callback.pace(size, batch_size),
            batch_size=batch_size,
            rounds=self.training.rounds,
            clip=self.training.clip,
            validate=validate,
            score="score",
            keep="last",
            coreset=callback,
        )
        learner.cpu()
        return learner, callback

    def _facts(
        self, task: Task, runner: Runner, callback: CoresetCallback
    ) -> tuple[dict[str, Any], dict[str, float]]:
        """What is recorded of a model's training, and what it cost."""
        coreset, size = callback.coreset, _length(task, "train")
        looked = coreset.passes["select"] + coreset.passes["check"]
        trained = coreset.epochs * coreset.count(size)
        seconds = coreset.seconds
        cost = {
            "share": (trained + FORWARD_SHARE * looked) / (coreset.epochs * size),
            "seconds": callback.seconds + seconds["select"] + seconds["check"],
            "train_seconds": callback.seconds,
            "select_seconds": seconds["select"],
            "check_seconds": seconds["check"],
            "updates": float(coreset.updates),
            "checks": float(coreset.checks),
        }
        facts = {
            "samples": coreset.count(size),
            "epochs": coreset.epochs,
            "updates": coreset.updates,
            "checks": coreset.checks,
            "history": [_plain(entry) for entry in coreset.history],
        }
        return facts, cost


class CoresetLearner(Learner):
    """A network that minimises Σ_j λ_j f_j over mini-batches that may end with weights.

    Args:
        task: supplies the network and the objectives.
        preference: λ, (m,).
        training: optimiser and schedule.
        seed: of the initial weights.
        weighting: ``loss``, or ``sampling`` for batches without weights.
    """

    preference: Tensor

    def __init__(
        self,
        task: Task,
        preference: Sequence[float],
        training: Training,
        seed: int,
        weighting: str,
    ) -> None:
        super().__init__()
        torch.manual_seed(derive(seed, "network"))
        self.network = task.network()
        self.network.register_forward_pre_hook(as_own_dtype)
        self._task, self._optimize = task, training.optimize
        self._weighted = weighting == "loss"
        self.schedule = training.rate_schedule()
        self.register_buffer("preference", torch.tensor(preference, dtype=torch.float32))

    def optimizers(self) -> dict[str, Optimizer]:
        return {"weights": self._optimize(self.network.parameters())}

    def update(self, batch: Batch, step: int) -> Update:
        if not self._weighted:
            losses = self._task.losses(self.network(batch[0]), batch)
            return Update((losses * self.preference).sum(), passes=1)
        *batch, weights = batch  # type: ignore[assignment]
        outputs = self.network(batch[0])
        each = sample_losses(self._task, outputs, tuple(batch))
        return Update((weights[:, None] * each * self.preference).sum() / len(weights), passes=1)


def sample_losses(task: Task, outputs: Any, batch: Batch) -> Tensor:
    """Objectives of each sample by itself: (B, m). Their mean is the batch's where objectives are
    means over samples."""

    def one(outputs: Any, *sample: Tensor) -> Tensor:
        alone = tree_map(lambda t: t[None], outputs)
        return task.losses(alone, tuple(t[None] for t in sample))

    return torch.vmap(one)(outputs, *batch)


def collapsed(task: Task, network: nn.Module, preference: Sequence[float]) -> bool:
    """Whether training failed: on the validation split, neither losses nor errors of the objectives
    that were trained for are a tenth below those of the best constant answer.

    An error counts beside the loss since a network that has learned a few samples by heart may be
    confident, often wrong, and still far from a constant answer.
    """
    answer, batch = constant_answer(task)
    trained = np.asarray(preference) > 0
    found, least = task.measure(network, "validation"), task.losses(answer, batch)
    failed = found >= COLLAPSED * least.double().numpy()
    if "accuracies" in task.measures():
        error = 1.0 - task.measure(network, "validation", what="accuracies")
        failed &= error >= COLLAPSED * (1.0 - task.accuracies(answer, batch).double().numpy())
    return bool(failed[trained].all())


def constant_losses(task: Task) -> np.ndarray:
    """(m,): objectives on the validation split of the best answer that is the same for all
    samples."""
    return task.losses(*constant_answer(task)).double().numpy()


def constant_answer(task: Task) -> tuple[Any, Batch]:
    """The validation split, and the outputs that are the same for all of its samples and have the
    least sum of objectives."""
    network = task.network().eval()
    batch = rows(task.data("validation"), range(_length(task, "validation")))
    with torch.no_grad():
        outputs = network(batch[0][:2])
    answer = tree_map(lambda t: torch.zeros_like(t[:1]).requires_grad_(), outputs)
    leaves = [answer] if isinstance(answer, Tensor) else list(answer)
    optimizer = LBFGS(leaves, max_iter=50, line_search_fn="strong_wolfe")

    def expanded() -> Any:
        return tree_map(lambda t: t.expand(len(batch[0]), *t.shape[1:]), answer)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = task.losses(expanded(), batch).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return tree_map(lambda t: t.detach(), expanded()), batch


# ---------------------------------------------------------------------- pieces


def _budgets(budget: Any) -> list[float]:
    """One budget or several as a list.

    Raises:
        ConfigError: none, one that is no share, or two that are the same.
    """
    several = isinstance(budget, Sequence) and not isinstance(budget, str)
    budgets = list(budget) if several else [budget]
    for b in budgets:
        check_budget(b)
    # As close as 1e-6 they would be one preference.
    if not budgets or len({round(b, 5) for b in budgets}) < len(budgets):
        raise ConfigError(f"method.budget={budgets} must be one or more different numbers")
    return [float(b) for b in budgets]


def _pool(
    task: Task,
    network: nn.Module,
    split: Split,
    device: torch.device | str = "cpu",
    share: Share | None = None,
    validation: Pool | None = None,
) -> Pool:
    return Pool(
        network,
        lambda indices: rows(task.data(split), list(indices)),
        _length(task, split),
        task.losses,
        device=device,
        validation=validation,
        share=share,
    )


@torch.no_grad()
def _check_weights(task: Task, network: nn.Module) -> None:
    """Refuse weights on the loss where an objective is not a mean over samples."""
    batch = rows(task.data("train"), range(min(256, _length(task, "train"))))
    outputs = network.eval()(batch[0])
    each = sample_losses(task, outputs, batch).mean(0)
    if not torch.allclose(each, task.losses(outputs, batch), rtol=1e-3, atol=1e-5):
        raise ConfigError(
            f"task '{task.name}' has an objective that is not a mean over samples, so that weights "
            "cannot act on it: set method.weighting=sampling"
        )


def _plain(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of a coreset's history for JSON, which has no infinite numbers: null."""

    def finite(value: Any) -> Any:
        if isinstance(value, list):
            return [finite(x) for x in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return {key: finite(value) for key, value in entry.items()}


def _length(task: Task, split: Split) -> int:
    return len(task.data(split))  # type: ignore[arg-type]
