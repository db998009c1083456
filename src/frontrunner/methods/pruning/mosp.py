"""MOSP (Chen et al., NeurIPS 2025): a primary model, its core, and a specialist per objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from torch import Tensor

from frontrunner.errors import ConfigError
from frontrunner.methods.base import choice, positive, switch, whole
from frontrunner.methods.pruning.alps import ALPS
from frontrunner.methods.pruning.base import Array
from frontrunner.methods.pruning.blockwise import Blockwise, Devices, Group, Stream
from frontrunner.pareto_sets.sparse import Interpolation, Refit, Scores
from frontrunner.sparse.admm import Job, follow
from frontrunner.sparse.quadratic import refine, weighted
from frontrunner.sparse.store import Models


class MOSP(ALPS):
    """One pass makes a primary model on all data, the core of its support, and for each objective a
    specialist whose support holds that core; any preference's model lies between them.

    Args:
        alpha: α, the core's share of the support, in [0, 1].
        core: ``admm`` (the paper's nested chain), or ``magnitude``: the largest entries of the
            primary's solution, which costs nothing.
        power: p of the map λ -> λ'.
        scores: ``raw`` or ``scaled``, see `Interpolation`.
        refit: ``none``, ``pcg`` or ``admm``, see `Interpolation`. Gram matrices are then kept on
            disk: m c² numbers in float32 for each group of layers with c inputs. ``admm`` uses no
            specialists, and none are made.
        keep_core: whether models that are not stored keep the core (as printed).
        refit_steps: of conjugate gradients in a refit.
        refit_iterations: of ADMM in a refit.
        refit_rho: ρ of ADMM in a refit at the start.
        task_rho: ρ of the specialists' ADMM.
        task_steps: its iterations.
        prefix: what blocks before it give the data of a specialist: those of the ``primary`` model,
            or its own (``task``).

    See `ALPS` for the others.
    """

    answers_any = True

    def __init__(
        self,
        points: int,
        alpha: float = 0.5,
        core: Literal["admm", "magnitude"] = "admm",
        power: float = 0.5,
        scores: Scores = "raw",
        refit: Refit = "none",
        keep_core: bool = True,
        refit_steps: int = 10,
        refit_iterations: int = 15,
        refit_rho: float = 0.2,
        task_rho: float = 0.5,
        task_steps: int = 10,
        prefix: Literal["primary", "task"] = "primary",
        **shared: Any,
    ) -> None:
        super().__init__(points, calibration="concatenated", **shared)
        if not 0 <= alpha <= 1:
            raise ConfigError(f"method.alpha={alpha} must lie in [0, 1]")
        self.alpha = alpha
        self.core = choice("method.core", core, ("admm", "magnitude"))
        choice("method.scores", scores, ("raw", "scaled"))
        choice("method.refit", refit, ("none", "pcg", "admm"))
        self.interpolation = Interpolation(
            power=positive("method.power", power),
            scores=scores,
            refit=refit,
            keep_core=switch("method.keep_core", keep_core),
            steps=whole("method.refit_steps", refit_steps),
            iterations=whole("method.refit_iterations", refit_iterations),
            rho=positive("method.refit_rho", refit_rho),
            damping=self.damping,
            ridge=self.ridge,
            scaled=self.scaled,
        )
        self.task_rho = positive("method.task_rho", task_rho)
        self.task_steps = whole("method.task_steps", task_steps, zero=True)
        self.prefix = choice("method.prefix", prefix, ("primary", "task"))
        self.specialised = refit != "admm"
        if prefix == "task" and not self.specialised:
            raise ConfigError(
                "method.prefix=task is of specialists, and method.refit=admm has none"
            )

    def switches(self) -> dict[str, Any]:
        return {
            **super().switches(),
            "core": self.core,
            "scores": self.interpolation.scores,
            "refit": self.interpolation.refit,
            "core kept": self.interpolation.keep_core,
            "prefix": self.prefix,
        }

    def check(self, task: Any) -> None:
        super().check(task)
        self.lattice(task.m)

    def anchors(self, m: int) -> Array:
        primary = np.full((1, m), 1.0 / m)
        return np.vstack([primary, np.eye(m)]) if self.specialised else primary

    def passes(self, anchors: Array) -> int:
        return 1

    def answers(self, anchors: Array) -> tuple[Array, Interpolation | None]:
        return self.lattice(anchors.shape[1]), self.interpolation

    def go(self, blockwise: Blockwise, anchors: Array) -> None:
        m = anchors.shape[1]
        streams = [Stream(j) for j in range(m)]
        if self.prefix == "task":
            streams += [Stream(j, j + 1) for j in range(m)]

        def solve(groups: Sequence[Group], devices: Devices) -> Mapping[str, Models]:
            return self.solve_block(groups, devices, m)

        keep = self.interpolation.refit != "none"
        blockwise.run(0, range(len(anchors)), streams, solve, keep)

    def solve_block(
        self, groups: Sequence[Group], devices: Devices, m: int
    ) -> Mapping[str, Models]:
        """The primary of every group of layers, and then every specialist."""
        # The core's share; nothing but specialists and `keep_core` looks at the core.
        alpha = self.alpha if self.specialised or self.interpolation.keep_core else 0.0

        def shared(group: Group, device: str) -> dict[str, Models]:
            gram = weighted(group.grams[:m], np.ones(m), device)
            problem = self.problem(gram, group.name)
            found = {}
            for name, dense in group.dense.items():
                nested = alpha if self.core == "admm" else 0.0
                models = self.primary(problem, dense, group.patterns[name], nested)
                if models.core is None and alpha > 0:
                    scores = problem.scaled(models.weights[0]).abs()
                    models.core, _ = group.patterns[name].core(scores, models.supports[0], alpha)
                found[name] = models
            return found

        # Those of the specialists' own streams come last, if there are any.
        def special(item: tuple[Group, dict[str, Models], int], device: str) -> dict[str, Models]:
            group, primary, j = item
            return self.specialists(group, group.grams[-m:][j].to(device), primary, device)

        primaries = devices.map(shared, groups)
        jobs = [
            (group, primary, j)
            for group, primary in zip(groups, primaries, strict=True)
            for j in range(m if self.specialised else 0)
        ]
        for (_, primary, _), own in zip(jobs, devices.map(special, jobs), strict=True):
            for name, models in own.items():
                primary[name].weights += models.weights
                primary[name].supports += models.supports
        return {name: models for primary in primaries for name, models in primary.items()}

    def specialists(
        self, group: Group, gram: Tensor, primary: Mapping[str, Models], device: str
    ) -> dict[str, Models]:
        """The specialist of one objective, for every layer of a group (stages 2 and 3)."""
        problem = self.problem(gram, group.name)
        jobs, supports = [], []
        for name, dense in group.dense.items():
            core = primary[name].core
            jobs.append(
                Job(
                    problem.scaled(dense),
                    problem.scaled(primary[name].weights[0]),
                    group.patterns[name],
                    core.to(device) if core is not None else None,
                )
            )
            supports.append(primary[name].supports[0].to(device))
        starts = [job.start for job in jobs]
        if self.task_steps:
            found = follow(problem, jobs, [self.task_rho] * self.task_steps)
            starts, supports = [x.weight for x in found], [x.support for x in found]
        models = {}
        for name, job, start, support in zip(group.dense, jobs, starts, supports, strict=True):
            target = job.dense @ problem.matrix
            refined = refine(problem, target, start, support, self.refinement)
            models[name] = Models([problem.unscaled(refined)], [support])
        return models
