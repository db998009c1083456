"""Synthetic problems as tasks: network outputs are decision variables, and there is no data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from frontrunner.errors import ConfigError
from frontrunner.front.objective import Objective
from frontrunner.tasks.base import Batch, Model, Split, Task, tensor_splits
from frontrunner.tasks.problems import problem as build_problem


class Synthetic(Task):
    """A problem of `frontrunner.tasks.problems`, whose true front is known: ``task.problem``.

    Each split is one row without columns, so a batch is a tensor (B, 0) and a conditioned network
    sees nothing but the preference. Outputs (B, n_var) are free numbers; `decision` maps them into
    the box.

    Args:
        problem: a name of `frontrunner.tasks.problems.NAMES`.
        n_var, m, scales: as in `frontrunner.tasks.problems.problem`.
        reference_point: (m,); default the problem's own, 1.1 per unscaled objective.
        name: what runs and reports call the task; default the problem's name.
        model: how to build networks.

    Raises:
        ConfigError: an unknown problem, or sizes it cannot have.
    """

    input_shape = (0,)

    def __init__(
        self,
        problem: str,
        n_var: int | None = None,
        m: int | None = None,
        scales: Sequence[float] | None = None,
        reference_point: Sequence[float] | None = None,
        name: str | None = None,
        model: Model | None = None,
    ) -> None:
        super().__init__(model)
        self.problem = build_problem(problem, n_var=n_var, m=m, scales=scales)
        self.name = name or self.problem.name
        self.objectives = tuple(Objective(f"f{j + 1}") for j in range(self.problem.m))
        reference = self.problem.reference_point if reference_point is None else reference_point
        self.reference_point = tuple(float(r) for r in reference)
        if len(self.reference_point) != self.problem.m:
            raise ConfigError(
                f"task '{self.name}': reference_point needs {self.problem.m} entries, "
                f"not {len(self.reference_point)}"
            )
        self.output_sizes = (self.problem.n_var,)

    def load(self) -> dict[Split, Dataset[Batch]]:
        row = torch.zeros(1, 0)
        return tensor_splits({"train": (row,), "validation": (row,), "test": (row,)})

    def decision(self, outputs: Any) -> Tensor:
        """Decision variables (B, n_var), always inside the box, of network outputs.

        An output of 0 is the middle of the box, -½ its lower bound and ½ its upper bound; beyond,
        the bound holds, exactly. See `into_unit_box` for the gradient there.

        Args:
            outputs: (B, n_var), or a tuple of one such tensor, as networks with heads return.
        """
        z = only_head(outputs)
        # Written so that a share of 1 gives the upper bound without rounding.
        lower = torch.tensor(self.problem.lower, dtype=z.dtype, device=z.device)
        upper = torch.tensor(self.problem.upper, dtype=z.dtype, device=z.device)
        return torch.lerp(lower.expand_as(z), upper.expand_as(z), into_unit_box(z + 0.5))

    def losses(self, outputs: Any, batch: Batch) -> Tensor:
        """The objectives (m,), averaged over the batch."""
        return self.problem(self.decision(outputs)).mean(dim=0)


def only_head(outputs: Any) -> Tensor:
    """The tensor of a network with one head, whether or not it comes in a tuple."""
    return outputs if isinstance(outputs, Tensor) else outputs[0]


def into_unit_box(z: Tensor) -> Tensor:
    """Clamp to [0, 1] as a projection of the *gradient descent step*, not only of the value.

    The gradient passes inside the box. On a bound and beyond, it passes only where descent leads
    back inside, so no coordinate is ever stuck outside (as with ``clamp``) and none drifts away.
    Under several objectives each one's gradient is projected for itself when each is
    differentiated for itself; the gradient of a weighted sum is projected as one.
    """
    return _Projection.apply(z)


class _Projection(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor) -> Tensor:
        return z.clamp(0.0, 1.0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        outwards = ((z <= 0.0) & (gradient > 0.0)) | ((z >= 1.0) & (gradient < 0.0))
        return torch.where(outwards, torch.zeros_like(gradient), gradient)
