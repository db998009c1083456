"""The mechanics: per-network gradients, their inner products, and steps down combinations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from frontrunner.errors import ConfigError, DivergenceError
from frontrunner.methods.learning.gradients import (
    VANISHED,
    Combination,
    GradientPopulation,
    Moment,
    fit_gradients,
)
from frontrunner.methods.learning.training import Training
from frontrunner.models.networks import MLP
from frontrunner.pareto_sets import base as pareto_sets
from frontrunner.runner.runner import Runner
from frontrunner.tasks.base import Model
from frontrunner.tasks.multi_digits import MultiDigits

GRID = np.array([[1.0, 0.0], [0.5, 0.5], [0.2, 0.8]])
TRAINING = Training(steps=12, batch_size=20, learning_rate=1e-2, rounds=3)


def mlp(**shapes: object) -> MLP:
    return MLP(**shapes, hidden=[7, 5])  # type: ignore[arg-type]


class Frozen(MLP):
    """Nothing of it learns."""

    def __init__(self, **shapes: object) -> None:
        super().__init__(**shapes, hidden=[4])  # type: ignore[arg-type]

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(o.detach() for o in super().forward(inputs))


class HalfFrozen(Frozen):
    """Only the first head's objective depends on weights."""

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        first, second = MLP.forward(self, inputs)
        return first, second.detach()


class Exploding(nn.Module):
    def __init__(self, **shapes: object) -> None:
        super().__init__()
        self.body = mlp(**shapes)

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(o * float("inf") for o in self.body(inputs))


class Branching(nn.Module):
    """Looks at its numbers in Python, which vmap refuses."""

    def __init__(self, **shapes: object) -> None:
        super().__init__()
        self.body = mlp(**shapes)

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = self.body(inputs)
        return tuple(o if float(o.detach().sum()) > -1e9 else 0 * o for o in outputs)


def task(network: Callable[..., nn.Module] = mlp) -> MultiDigits:
    return MultiDigits(sizes=(60, 40, 20), model=Model(network))


def by_preference(moment: Moment) -> Combination:
    return Combination(moment.preferences)


def neighbours(moment: Moment) -> Combination:
    """Each network descends its own gradients and, at half the weight, the next one's."""
    k, m = moment.losses.shape
    weights = np.zeros((k, k, m))
    each = np.arange(k)
    weights[each, each] = moment.preferences
    weights[each, (each + 1) % k] = 0.5
    return Combination(weights)


def population(
    network: Callable[..., nn.Module] = mlp,
    combine: Callable[[Moment], Combination] = by_preference,
    vectorize: str = "auto",
    **options: object,
) -> GradientPopulation:
    options.setdefault("spread", True)
    return GradientPopulation(
        task(network),
        GRID,
        combine,
        TRAINING,
        seed=3,
        vectorize=vectorize,
        **options,  # type: ignore[arg-type]
    )


def batch() -> tuple[torch.Tensor, ...]:
    return task().data("train")[list(range(20))]


def member_gradients(learner: GradientPopulation, k: int) -> list[list[torch.Tensor]]:
    """By objective, by parameter: what autograd says of network k alone."""
    network = task().network()
    network.load_state_dict({name: t[k].detach() for name, t in learner.state().items()})
    losses = task().losses(network(batch()[0]), batch())
    parameters = list(network.parameters())
    return [list(torch.autograd.grad(f, parameters, retain_graph=True)) for f in losses]


def stepped(learner: GradientPopulation) -> list[torch.Tensor]:
    learner.zero_grad()
    learner.update(batch(), 0).loss.backward()
    return [p.grad.clone() for p in learner.stacked if p.grad is not None]


def test_every_network_s_step_is_the_weighted_sum_of_its_own_gradients() -> None:
    learner = population()
    found = stepped(learner)
    for k in range(3):
        first, second = member_gradients(learner, k)
        for p, (a, b) in enumerate(zip(first, second, strict=True)):
            expected = GRID[k, 0] * a + GRID[k, 1] * b
            torch.testing.assert_close(found[p][k], expected, rtol=1e-4, atol=1e-6)


def test_gradients_of_other_networks_are_mixed_in_as_the_weights_say() -> None:
    learner = population(combine=neighbours)
    found = stepped(learner)
    own = [member_gradients(learner, k) for k in range(3)]
    for k in range(3):
        following = own[(k + 1) % 3]
        for p in range(len(found)):
            expected = sum(GRID[k, j] * own[k][j][p] + 0.5 * following[j][p] for j in range(2))
            torch.testing.assert_close(found[p][k], expected, rtol=1e-4, atol=1e-6)


def test_inner_products_are_those_of_whole_gradients() -> None:
    seen: list[Moment] = []

    def look(moment: Moment) -> Combination:
        seen.append(moment)
        return by_preference(moment)

    learner = population(combine=look)
    learner.update(batch(), 5)
    (moment,) = seen
    assert (moment.step, moment.members.tolist()) == (5, [0, 1, 2])
    np.testing.assert_allclose(moment.losses, learner.objectives(batch()).detach(), rtol=1e-5)
    for k in range(3):
        flat = torch.stack(
            [torch.cat([g.flatten() for g in row]) for row in member_gradients(learner, k)]
        )
        np.testing.assert_allclose(moment.gramians[k], flat @ flat.T, rtol=1e-4)


def test_one_pass_a_loop_and_a_network_that_cannot_be_vectorised_agree() -> None:
    expected = stepped(population(vectorize="always"))
    for learner in (population(vectorize="never"), population(Branching)):
        for one, other in zip(expected, stepped(learner), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_an_update_counts_one_forward_pass_a_network_and_reports_the_mean_objective() -> None:
    learner = population()
    update = learner.update(batch(), 0)
    assert update.passes == 3
    torch.testing.assert_close(update.loss.detach(), learner.objectives(batch()).mean())


def test_networks_start_apart_only_where_they_have_to() -> None:
    apart, together = population().state(), population(spread=False).state()
    for name, tensor in together.items():
        assert torch.equal(tensor[0], tensor[1])
        assert torch.equal(tensor[0], apart[name][0])
        assert not torch.equal(apart[name][1], apart[name][2])


def test_networks_without_gradient_weigh_equally_and_are_counted() -> None:
    def refuses_zeros(moment: Moment) -> Combination:
        assert (np.trace(moment.gramians, axis1=1, axis2=2) > 0).all()
        return by_preference(moment)

    learner = population(combine=refuses_zeros)
    jacobians = learner._jacobians
    second_has_none = torch.tensor([1.0, 0.0, 1.0]).view(1, 3, 1)
    learner._jacobians = lambda losses: [  # type: ignore[method-assign]
        second_has_none * j for j in jacobians(losses)
    ]
    assert learner.fallbacks() == {VANISHED: 0}
    learner.update(batch(), 1).loss.backward()
    assert learner.fallbacks() == {VANISHED: 1}
    gradients = [p.grad for p in learner.stacked if p.grad is not None]
    assert all(not g[1].any() for g in gradients)
    assert any(g[0].any() for g in gradients)


def test_what_a_combination_makes_do_with_is_counted_by_network_and_kept() -> None:
    def sometimes(moment: Moment) -> Combination:
        return Combination(moment.preferences, {"tired": moment.members == moment.step})

    learner = population(combine=sometimes, fallbacks=("tired",))
    for step in (0, 2, 2, 9):
        learner.update(batch(), step)
    assert learner.fallbacks() == {VANISHED: 0, "tired": 3}
    other = population(combine=sometimes, fallbacks=("tired",))
    other.load_state_dict(learner.state_dict())
    assert other.fallbacks() == learner.fallbacks()


def test_an_objective_that_depends_on_no_weight_has_no_gradient_and_does_no_harm() -> None:
    learner = population(HalfFrozen)
    learner.update(batch(), 0).loss.backward()
    assert learner.fallbacks() == {VANISHED: 0}


def test_a_network_of_which_nothing_learns_is_named() -> None:
    with pytest.raises(ConfigError, match=r"multi_digits.*no objective depends on a weight"):
        population(Frozen).update(batch(), 0)


def test_a_task_whose_losses_have_another_number_is_named(monkeypatch) -> None:
    learner = population()
    monkeypatch.setattr(learner._task, "losses", lambda outputs, batch: outputs[0].mean().expand(3))
    with pytest.raises(ConfigError, match=r"has 2 objectives, but its losses have shape \(3,\)"):
        learner.update(batch(), 0)


def test_numbers_that_are_not_finite_end_training_and_reach_no_solver() -> None:
    def never(moment: Moment) -> Combination:
        raise AssertionError("called")

    with pytest.raises(DivergenceError, match="step 4"):
        population(Exploding, combine=never).update(batch(), 4)


@pytest.mark.parametrize("vectorize", ["always", "never"])
def test_processes_that_divide_the_networks_do_together_what_one_does(vectorize: str) -> None:
    def counted(moment: Moment) -> Combination:
        return Combination(moment.preferences, {"odd": moment.members % 2 == 1})

    def made() -> GradientPopulation:
        return population(combine=counted, vectorize=vectorize, fallbacks=("odd",))

    whole, shares = made(), [made(), made()]
    sent: list[torch.Tensor] = []
    for rank, share in enumerate(shares):
        share.divide(rank, 2, sent.append)
    everyone = [whole, *shares]
    optimizers = [learner.optimizers()["weights"] for learner in everyone]
    for step in range(3):
        updates = [learner.update(batch(), step) for learner in everyone]
        for update, optimizer in zip(updates, optimizers, strict=True):
            optimizer.zero_grad()
            update.loss.backward()
        for one, other in zip(*(share.stacked for share in shares), strict=True):
            assert one.grad is not None
            assert other.grad is not None
            one.grad = other.grad = (one.grad + other.grad) / 2
        for learner, optimizer in zip(everyone, optimizers, strict=True):
            optimizer.step()
            with torch.no_grad():
                learner.after_step("weights", step)
        for one, other in zip(sent[: len(sent) // 2], sent[len(sent) // 2 :], strict=True):
            one += other
            other.copy_(one)
        sent.clear()
    for share in shares:
        assert share.fallbacks() == whole.fallbacks() == {VANISHED: 0, "odd": 3}
        for name, tensor in share.state().items():
            torch.testing.assert_close(tensor, whole.state()[name], rtol=1e-3, atol=2e-5)


def test_networks_that_need_one_another_are_not_divided() -> None:
    with pytest.raises(ConfigError, match=r"runner\.shard=data"):
        population(independent=False).divide(0, 2, lambda tensor: None)


def test_the_set_that_comes_out_says_what_was_made_do_with(tmp_path) -> None:
    learner = population(kind="ray")
    runner = Runner(directory=tmp_path, seed=3, accelerator="cpu", progress="none", threads=1)
    found, counted = fit_gradients(learner, task(), runner, TRAINING)
    assert found.preference_kind == "ray"
    assert found.facts() == {"fallbacks": counted} == {"fallbacks": {VANISHED: 0}}
    found.save(tmp_path / "set")
    again = pareto_sets.load(tmp_path / "set", task())
    assert again.facts() == found.facts()
    for preference in GRID:
        assert again.materialize(preference) is again.materialize(preference)
    assert runner.cost["forward_passes"] == 36


def test_frozen_weights_are_shared_and_neither_weighed_nor_moved() -> None:
    def frozen_body(**shapes: object) -> MLP:
        network = mlp(**shapes)
        network.linears.requires_grad_(False)
        return network

    seen: list[Moment] = []

    def noted(moment: Moment) -> Combination:
        seen.append(moment)
        return by_preference(moment)

    learner = population(frozen_body, combine=noted, spread=True)
    state = {name: tensor.detach().clone() for name, tensor in learner.state().items()}
    assert all(
        torch.equal(tensor[0], tensor[1]) == name.startswith("linears")
        for name, tensor in state.items()
    )
    optimizer = learner.optimizers()["weights"]
    learner.update(batch(), 0).loss.backward()
    optimizer.step()
    for name, tensor in learner.state().items():
        assert torch.equal(tensor, state[name]) == name.startswith("linears")
    # Each head has an objective of its own, so that nothing is shared that learns.
    np.testing.assert_allclose(seen[0].gramians[:, 0, 1], 0, atol=1e-12)
