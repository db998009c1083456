"""Pareto merging: a merged base, and a low-rank tensor that a preference is contracted with."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

from frontrunner.errors import ConfigError
from frontrunner.methods.base import Method, choice, whole
from frontrunner.methods.merging.base import merging_task, preferences_of
from frontrunner.methods.merging.coefficients import Coefficients
from frontrunner.methods.merging.factors import Factors, Settings, differences
from frontrunner.methods.merging.tucker import closed_form
from frontrunner.pareto_sets.base import ParetoSet
from frontrunner.pareto_sets.low_rank import LowRank, LowRankSet
from frontrunner.runner.runner import Runner
from frontrunner.seeds import generator
from frontrunner.tasks.base import Task
from frontrunner.tasks.merging import MergingTask
from frontrunner.weights.networks import named_state, place, target_layers
from frontrunner.weights.parents import Parents


class ParetoMerging(Method):
    """θ(γ) = θ_0 + A (Σ_k γ_k G_k) Bᵀ on chosen layers, θ_0 what any other merger returns.

    Source: Chen & Kwok, "Pareto merging: multi-objective optimization for preference-aware model
    merging", ICML 2025. What of it is reconstructed, see docs/methods/pareto_merging.md.

    Args:
        base: the merger whose model at equal preferences is θ_0; None takes the pre-trained base.
        points: size of the lattice of preferences that makes up the front.
        seed: of factors and sampled preferences.
        joint: None keeps θ_0 as it is; ``task`` or ``layer`` learns AdaMerging's coefficients
            of the task vectors together with the factors, from 0.3 (``base`` is then None).
        rank: r of A (c, r), B (d, r) and the cores (r, r).
        layers: patterns of the names of the layers it acts on.
        vectors: whether all other tensors (biases, norms, embeddings) follow the preference as
            Σ_k γ_k v_k, of which K are stored; the paper keeps them at θ_0.
        objective: ``entropy`` of predictions on unlabelled inputs (the paper, with data),
            ``distance`` to the experts in parameters, as a share of θ_0's (without data); not in
            the paper: ``distillation``, the divergence KL(expert k ‖ model) on unlabelled inputs of
            objective k, and ``loss`` with labels.
        scalarization: ``stch`` (smooth Chebyshev), ``tch`` (Chebyshev) or ``linear``.
        mu: smoothing of ``stch``.
        initial: ``zero`` (orthonormal factors, cores of zeros: the set starts as θ_0) or ``tucker``
            (the closed form of the data-free linear case).
        sampling: ``dirichlet``, ``corner_stratified`` (half of the draws pulled to a corner) or
            ``quasi_random``; one preference for each step.
        concentration: of the Dirichlet distribution.
        orthogonality: β of β Σ (‖AᵀA - I‖² + ‖BᵀB - I‖²).
        preference_rate: ρ, what of the cores' gradients is each core's own: g_k becomes
            mean(g) + ρ (g_k - mean(g)). 1 is the method itself; 0, a control, moves all cores
            alike, so that only where they start depends on the preference. Adam gives every core
            the same step however rarely its preference is drawn; below 1, what all preferences
            agree on is learned faster than what they do not.
        conditioned: False has one core for all, hence one model: what the module's capacity and
            training do without the preference.
        steps, batch_size, learning_rate, schedule, rounds: of Adam; 0 steps keep the start.
        select: what decides which round is kept, the start included: ``objective`` (scalarised, on
            the validation split, without its labels unless the objective takes them),
            ``validation`` (the hypervolume of what the task selects by) or ``last``.

    Raises:
        ConfigError: an unknown choice, or a number out of range.
    """

    def __init__(
        self,
        base: Method | None,
        points: int,
        seed: int,
        joint: str | None = None,
        rank: int = 64,
        layers: Sequence[str] = ("*",),
        vectors: bool = True,
        objective: str = "entropy",
        scalarization: str = "stch",
        mu: float = 0.1,
        initial: str = "tucker",
        sampling: str = "dirichlet",
        concentration: float = 0.5,
        orthogonality: float = 0.0,
        preference_rate: float = 1.0,
        conditioned: bool = True,
        steps: int = 300,
        batch_size: int = 64,
        learning_rate: float = 3e-5,
        schedule: str = "constant",
        rounds: int = 10,
        select: str = "validation",
    ) -> None:
        if base is not None and not isinstance(base, Method):
            raise ConfigError("method.base must be a merging method, or null")
        self.base, self.points = base, points
        self.joint = None if joint is None else choice("method.joint", joint, ("task", "layer"))
        if joint is not None and (base is not None or objective == "distance"):
            raise ConfigError(
                f"method.joint={joint} needs method.base=null and an objective on data"
            )
        self.rank = whole("method.rank", rank)
        self.layers, self.vectors = list(layers), vectors
        self.initial = choice("method.initial", initial, ("zero", "tucker"))
        self.settings = Settings(
            objective=objective,
            scalarization=scalarization,
            mu=mu,
            sampling=sampling,
            concentration=concentration,
            orthogonality=orthogonality,
            preference_rate=preference_rate,
            conditioned=conditioned,
            steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            schedule=schedule,
            rounds=rounds,
            select=select,
            seed=seed,
        )

    def check(self, task: Task) -> None:
        merging = merging_task(task)
        preferences_of("grid", merging.m, self.points)
        if self.base is not None:
            self.base.check(task)
        settings = self.settings
        if settings.steps and settings.needs_data and not merging.has_data:
            raise ConfigError(
                f"method.objective={settings.objective} needs data, task '{task.name}' has none; "
                "use method.objective=distance"
            )

    def switches(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "scalarization": settings.scalarization,
            "initial": self.initial,
            "sampling": f"{settings.sampling}, concentration {settings.concentration:g}",
            "regulariser": f"orthogonality, weight {settings.orthogonality:g}",
            "base": self._base_in_words(),
            "other tensors": "follow the preference" if self.vectors else "stay at the base",
            "select": settings.select,
            "preference rate": settings.preference_rate,
        }

    def _base_in_words(self) -> str:
        if self.joint:
            return f"coefficients per {self.joint}, learned with the factors"
        return f"{'pre-trained' if self.base is None else type(self.base).__name__}, frozen"

    def fit(self, task: Task, runner: Runner) -> ParetoSet:
        merging = merging_task(task)
        kind = "grid" if self.settings.conditioned else "equal"
        preferences = preferences_of(kind, merging.m, self.points)
        parents = merging.parents()
        network, names, cost = self._start(merging, runner)
        coefficients = Coefficients(parents, self.joint) if self.joint else None
        if coefficients is not None:
            place(network, coefficients.compose().items())
        change = self._change(network, parents)
        network.eval().requires_grad_(False)
        pareto_set = LowRankSet(network, names, change, preferences)
        settings = self.settings
        if settings.steps == 0:
            with runner.one_shot():
                pass
        else:
            learner = Factors(settings, merging, pareto_set, parents, coefficients)
            validate = None if settings.select == "last" else learner.validate
            start = copy.deepcopy(learner.state_dict())
            score = validate() if validate else None
            runner.fit(
                learner,
                merging.data("train") if settings.needs_data else TensorDataset(torch.zeros(1, 1)),
                steps=settings.steps,
                batch_size=settings.batch_size,
                rounds=settings.rounds,
                validate=validate,
                score="hypervolume" if settings.select == "validation" else "objective",
            )
            if score is not None and (runner.best_score is None or score > runner.best_score):
                learner.load_state_dict(start)
                runner.best_score = score
            learner.rebase()
        for name, spent in cost.items():
            runner.cost[name] = runner.cost.get(name, 0) + spent
        return pareto_set.to("cpu")

    def _start(
        self, task: MergingTask, runner: Runner
    ) -> tuple[nn.Module, list[str], dict[str, float]]:
        """The network at θ_0, the names of what is merged, and what θ_0 cost."""
        network, parents = task.network(), task.parents()
        own = named_state(network)
        names = [key for key in parents.base.shapes() if key in own]
        if self.base is None:
            return network, names, {}
        inner = runner.nested("base")
        merged = self.base.fit(task, inner)
        state = merged.state(np.full(task.m, 1.0 / task.m))
        place(network, ((key, tensor) for key, tensor in state if key in own))
        return network, names, {k: inner.cost[k] for k in ("seconds", "forward_passes")}

    def _change(self, network: nn.Module, parents: Parents) -> LowRank:
        keys = {key for key in parents.base.shapes() if parents.mergeable(key)}
        shapes = {
            name: shape
            for name, shape in target_layers(network, self.layers).items()
            if f"{name}.weight" in keys
        }
        rest = sorted(keys - {f"{name}.weight" for name in shapes})
        state = named_state(network)
        vectors = {key: state[key].shape for key in rest if key in state} if self.vectors else {}
        m = len(parents)
        cores = m if self.settings.conditioned else 1
        change = LowRank(shapes, self.rank, cores, vectors)
        with torch.no_grad():
            for i, (name, shape) in enumerate(shapes.items()):
                if self.initial == "zero":
                    source = generator(self.settings.seed, "factors", i)
                    for factor in (change.left[i], change.right[i]):
                        drawn = torch.randn(factor.shape, generator=source, dtype=torch.float64)
                        factor.copy_(torch.linalg.qr(drawn).Q)
                    continue
                d = differences(parents, state, f"{name}.weight").view(m, *shape)
                left, right, core = closed_form(d, self.rank, self.settings.concentration)
                change.left[i].copy_(left)
                change.right[i].copy_(right)
                change.core[i].copy_(core if cores > 1 else core.mean(0))
            if self.initial == "tucker":
                for i, key in enumerate(vectors):
                    d = differences(parents, state, key)
                    change.vectors[i].copy_(d if cores > 1 else d.mean(0))
        return change
