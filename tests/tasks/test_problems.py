"""Synthetic problems: judged by pymoo, moocore, closed forms and the definitions themselves."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from frontrunner.errors import ConfigError, FrontError
from frontrunner.tasks import truth
from frontrunner.tasks.problems import NAMES, problem

TWO = [name for name in NAMES if name != "maf1"]
IN_PYMOO = [
    *((f"zdt{i}", 2) for i in (1, 2, 3, 4, 6)),
    *((f"dtlz{i}", m) for i in (1, 2, 3, 4) for m in (2, 3)),
]


def inside(p, count, seed=0, dtype=torch.float64):
    """``count`` uniform points of the box."""
    u = torch.rand(count, p.n_var, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return torch.as_tensor(p.lower, dtype=dtype) * (1 - u) + torch.as_tensor(p.upper).to(dtype) * u


def pareto_set(p, count, seed=0):
    """Random points on which ``distance`` is 0 by each problem's own definition."""
    x = inside(p, count, seed)
    if p.name.startswith("zdt"):
        x[:, 1:] = 0.0
    elif p.name == "vlmop2":
        t = torch.linspace(-1.0, 1.0, count, dtype=x.dtype)
        x = (t / math.sqrt(p.n_var))[:, None].expand(count, p.n_var).clone()
    else:
        x[:, p.m - 1 :] = 0.5
    return x


# ---------------------------------------------------------------------- objectives


@pytest.mark.parametrize(("name", "m"), IN_PYMOO)
def test_objectives_agree_with_pymoo(name, m):
    pymoo_problems = pytest.importorskip("pymoo.problems")
    p = problem(name, m=m)
    size = {"n_var": p.n_var} if m == 2 and name[0] == "z" else {"n_var": p.n_var, "n_obj": m}
    peer = pymoo_problems.get_problem(name, **size)
    np.testing.assert_array_equal(p.lower, peer.xl)
    np.testing.assert_array_equal(p.upper, peer.xu)
    corners = torch.tensor(np.stack([p.lower, p.upper]))
    x = torch.cat([inside(p, 200), pareto_set(p, 20), corners])
    expected = peer.evaluate(x.numpy())
    np.testing.assert_allclose(p(x).numpy(), expected, rtol=1e-12, atol=1e-12)


def test_maf1_is_the_inverted_simplex_of_its_definition():
    p = problem("maf1", n_var=30)
    x = inside(p, 100)
    g = ((x[:, 2:] - 0.5) ** 2).sum(1)
    written_out = (
        torch.stack([1 - x[:, 0] * x[:, 1], 1 - x[:, 0] * (1 - x[:, 1]), x[:, 0]], dim=1)
        * (1 + g)[:, None]
    )
    torch.testing.assert_close(p(x), written_out, rtol=1e-14, atol=0)


@pytest.mark.parametrize("n_var", [1, 2, 20])
def test_vlmop2_front_does_not_depend_on_the_number_of_variables(n_var):
    p = problem("vlmop2", n_var=n_var)
    t = torch.linspace(-1, 1, 50, dtype=torch.float64)
    f = p(pareto_set(p, 50))
    torch.testing.assert_close(f[:, 0], 1 - torch.exp(-((t - 1) ** 2)), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(f[:, 1], 1 - torch.exp(-((t + 1) ** 2)), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_distance_is_zero_on_the_pareto_set_and_positive_elsewhere(name):
    p = problem(name)
    assert p.distance(pareto_set(p, 30)).abs().max() < 1e-12
    assert (p.distance(inside(p, 30)) > 1e-3).all()


def test_vlmop2_distance_beyond_the_end_of_the_segment_is_that_to_the_end():
    p = problem("vlmop2", n_var=4)
    beyond = torch.full((4,), 0.75, dtype=torch.float64)  # the segment ends at ½ in every entry
    assert p.distance(torch.stack([beyond, -beyond])).tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("name", NAMES)
def test_points_at_distance_zero_lie_on_the_closed_form_front(name):
    p = problem(name)
    f = p(pareto_set(p, 100)).numpy() / p.scales
    if p.m == 2:
        curve = p._truth
        np.testing.assert_allclose(f[:, 1], curve.height(f[:, 0]), atol=1e-7)
    else:
        np.testing.assert_allclose(f.sum(1), p.m - 1, atol=1e-12)


@pytest.mark.parametrize("m", [2, 3, 4])
def test_dtlz_fronts_are_the_simplex_and_the_sphere(m):
    one, two = problem("dtlz1", m=m), problem("dtlz2", m=m)
    np.testing.assert_allclose(one(pareto_set(one, 50)).sum(1), 0.5, rtol=1e-12)
    np.testing.assert_allclose((two(pareto_set(two, 50)) ** 2).sum(1), 1.0, rtol=1e-12)
    np.testing.assert_allclose(one.front(21).sum(1), 0.5, rtol=1e-12)
    np.testing.assert_allclose((two.front(21) ** 2).sum(1), 1.0, rtol=1e-12)


# ---------------------------------------------------------------------- gradients


@pytest.mark.parametrize("name", NAMES)
def test_gradients_agree_with_finite_differences(name):
    p = problem(name)
    x = inside(p, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(p, (x,), eps=1e-7, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_values_and_gradients_are_finite_on_every_face_of_the_box(name, dtype):
    p = problem(name)
    x = inside(p, 8, seed=2, dtype=dtype)
    lower, upper = (torch.as_tensor(b, dtype=dtype) for b in (p.lower, p.upper))
    x[0], x[1], x[2], x[3] = lower, upper, lower.clamp(min=0.0), x[3]
    x[4, 0], x[5, 0], x[6, 1:] = lower[0], upper[0], lower[1:].clamp(min=0.0)
    x[7] = pareto_set(p, 8)[0].to(dtype)
    jacobian = torch.func.vmap(torch.func.jacrev(p))(x)
    assert p(x).dtype == dtype
    assert torch.isfinite(p(x)).all()
    assert torch.isfinite(jacobian).all()
    assert jacobian.dtype == dtype
    for row, single in zip(x, jacobian, strict=True):
        # Forward mode turns the scalars of a single row into float64: only values are compared.
        forward = torch.func.jacfwd(p)(row).to(dtype)
        torch.testing.assert_close(forward, single, rtol=1e-4, atol=1e-4)


def test_the_infinite_slope_of_zdt1_at_its_corner_keeps_its_sign():
    p = problem("zdt1")
    x = torch.zeros(30, dtype=torch.float64, requires_grad=True)
    p(x)[1].backward()
    assert x.grad[0] < 0
    assert p(x.detach()).tolist() == [0.0, 1.0]


# ---------------------------------------------------------------------- fronts and hypervolumes


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [1, 2, 36])
def test_front_points_are_as_many_as_asked_and_none_dominates_another(name, n):
    front = problem(name).front(n)
    assert front.shape == (n, problem(name).m)
    weakly = (front[:, None] <= front[None] + 1e-9).all(-1)
    strictly = (front[:, None] < front[None] - 1e-6).any(-1)
    assert not (weakly & strictly).any()


def test_two_objective_fronts_have_equal_steps_and_both_ends():
    front = problem("dtlz2").front(15)
    gaps = np.linalg.norm(np.diff(front, axis=0), axis=1)
    # Equal angles on the quarter circle: 2 sin(π/(4(n-1))).
    np.testing.assert_allclose(gaps, 2 * math.sin(math.pi / 56), rtol=1e-5)
    np.testing.assert_allclose(front[[0, -1]], [[0, 1], [1, 0]], atol=1e-9)


def test_three_objective_fronts_hold_the_corners_and_leave_no_hole():
    front = problem("dtlz2", m=3).front(100)
    for corner in np.eye(3):
        assert np.linalg.norm(front - corner, axis=1).min() < 1e-12
    anywhere = np.abs(np.random.default_rng(0).normal(size=(2000, 3)))
    anywhere /= np.linalg.norm(anywhere, axis=1, keepdims=True)
    hole = np.linalg.norm(anywhere[:, None] - front[None], axis=-1).min(1).max()
    apart = np.linalg.norm(front[:, None] - front[None], axis=-1)[~np.eye(100, dtype=bool)].min()
    assert hole < 0.13
    assert apart > 0.08


def test_zdt3_pieces_end_where_the_curve_turns_and_resume_at_the_same_height():
    pieces, h = truth.WAVE.pieces, truth.WAVE.height
    for (_, end), (start, _) in itertools.pairwise(pieces):
        assert abs(h(np.array(start)) - h(np.array(end))) < 1e-14
    for _, end in pieces:
        slope = (h(np.array(end + 1e-6)) - h(np.array(end - 1e-6))) / 2e-6
        assert abs(slope) < 1e-8


def test_zdt6_begins_at_the_least_f1_of_the_box():
    x = torch.zeros(200_001, 10, dtype=torch.float64)
    x[:, 0] = torch.linspace(0, 1, 200_001)
    assert problem("zdt6")(x)[:, 0].min().item() == pytest.approx(
        problem("zdt6").front(5)[0, 0], abs=1e-8
    )


# Reference 1.1 (a row of its own for 2): the whole front, and the best with 5, 10, 15, 25 points.
# Origin: closed forms, and two methods that agree to 2e-6 (multi-start L-BFGS, a grid's dynamic
# programme), computed independently of this package.
KNOWN = [
    ("maf1", 1.1, 0.710000, (0.600000, 0.654545, 0.674286, 0.689167)),
    ("zdt1", 1.1, 0.876667, (0.778960, 0.827446, 0.844463, 0.857857)),
    ("zdt4", 1.1, 0.876667, (0.778960, 0.827446, 0.844463, 0.857857)),
    ("zdt2", 1.1, 0.543333, (0.445978, 0.496820, 0.512897, 0.525311)),
    ("dtlz2", 1.1, 0.424602, (0.351536, 0.388966, 0.400931, 0.410403)),
    ("dtlz2", 2.0, 3.214602, (3.141536, 3.178966, 3.190931, 3.200403)),
    ("vlmop2", 1.1, 0.552116, (0.455362, 0.505595, 0.521713, 0.534224)),
]


@pytest.mark.parametrize(("name", "reference", "whole", "best"), KNOWN)
def test_hypervolumes_agree_with_the_known_table(name, reference, whole, best):
    p = problem(name, m=2)
    assert p.hypervolume(reference) == pytest.approx(whole, abs=1e-6)
    for n, value in zip((5, 10, 15, 25), best, strict=True):
        assert p.best_hypervolume(n, reference) == pytest.approx(value, abs=2e-6)


def test_quadrature_agrees_with_antiderivatives():
    r = 1.1
    assert problem("zdt1").hypervolume(r) == pytest.approx(r * r - 1 / 3, abs=1e-12)
    assert problem("zdt2").hypervolume(r) == pytest.approx(r * r - 2 / 3, abs=1e-12)
    assert problem("dtlz2").hypervolume(r) == pytest.approx(r * r - math.pi / 4, abs=1e-12)
    assert problem("dtlz1").hypervolume(r) == pytest.approx(r * r - 1 / 8, abs=1e-12)
    a = problem("zdt6").front(2)[0, 0]
    assert problem("zdt6").hypervolume(r) == pytest.approx(
        (r - 1) * r + (r - 1) * (1 - a) + (1 - a**3) / 3, abs=1e-12
    )
    assert problem("zdt3").hypervolume(r) == pytest.approx(1.331763, abs=1e-6)


@pytest.mark.parametrize("reference", [(1.1, 1.1), (0.6, 0.7), (0.3, 3.0), (2.0, 0.2)])
@pytest.mark.parametrize("name", TWO)
def test_whole_hypervolume_is_the_limit_of_finely_sampled_fronts(name, reference):
    moocore = pytest.importorskip("moocore")
    p = problem(name)
    sampled = moocore.hypervolume(p.front(4000), ref=list(reference))
    exact = p.hypervolume(reference)
    assert sampled - 1e-12 <= exact
    assert exact <= sampled + 4e-3 * max(p.scales) * max(reference)


@pytest.mark.parametrize("name", TWO)
def test_best_hypervolume_is_reached_by_no_even_front_and_bounded_by_the_whole(name):
    moocore = pytest.importorskip("moocore")
    p = problem(name)
    values = [p.best_hypervolume(n, p.reference_point) for n in (1, 2, 7, 12)]
    assert values == sorted(values)
    assert values[-1] < p.hypervolume(p.reference_point)
    assert moocore.hypervolume(p.front(7), ref=list(p.reference_point)) <= values[2] + 1e-12


def test_best_hypervolume_of_one_point_is_the_largest_rectangle():
    # (r - x)(r - 1 + x) is largest at x = ½.
    assert problem("maf1", m=2).best_hypervolume(1, 1.1) == pytest.approx(0.36, abs=1e-12)
    # ZDT2: (1.1 - x)(0.1 + x²), stationary at 3x² - 2.2x + 0.1 = 0.
    x = (2.2 + math.sqrt(2.2**2 - 1.2)) / 6
    assert problem("zdt2").best_hypervolume(1, 1.1) == pytest.approx(
        (1.1 - x) * (0.1 + x * x), abs=1e-12
    )


def test_best_hypervolume_of_disconnected_zdt3_withstands_a_multi_start_search():
    optimize = pytest.importorskip("scipy.optimize")
    h, rng = truth.WAVE.height, np.random.default_rng(0)

    def negative(x):
        x = np.sort(x)
        return -((1.1 - x) * np.diff(-h(x), prepend=-1.1)).sum()

    best = 0.0
    for chosen in itertools.combinations_with_replacement(truth.WAVE.pieces, 3):
        lower, upper = np.array(chosen).T
        for _ in range(2):
            start = rng.uniform(lower, upper)
            found = optimize.minimize(negative, start, bounds=list(chosen))
            best = max(best, -found.fun)
    assert problem("zdt3").best_hypervolume(3, 1.1) == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize(
    "reference", [(1.1, 1.1, 1.1), (1.0, 1.0, 1.0), (0.9, 1.3, 0.7), (0.4, 0.3, 0.6)]
)
@pytest.mark.parametrize("name", ["dtlz1", "dtlz2", "maf1"])
def test_volumes_of_three_objectives_agree_with_counting(name, reference):
    p = problem(name, m=3)
    if name == "dtlz2" and min(reference) < 1:
        with pytest.raises(FrontError, match="at least 1"):
            p.hypervolume(reference)
        return
    f = np.random.default_rng(1).uniform(0, reference, size=(400_000, 3))
    dominated = {
        "dtlz1": f.sum(1) >= 0.5,
        "dtlz2": (f**2).sum(1) >= 1.0,
        "maf1": np.minimum(f, 1).sum(1) >= 2.0,
    }[name]
    box, share = math.prod(reference), dominated.mean()
    assert abs(p.hypervolume(reference) - box * share) <= 5 * box * 0.5 / math.sqrt(len(f))


def test_volumes_of_three_objectives_in_closed_form():
    assert problem("dtlz2", m=3).hypervolume(1.1) == pytest.approx(1.331 - math.pi / 6, abs=1e-12)
    assert problem("dtlz1", m=3).hypervolume(1.0) == pytest.approx(1 - 1 / 48, abs=1e-12)
    assert problem("maf1").hypervolume(1.0) == pytest.approx(1 / 6, abs=1e-12)
    assert problem("maf1").hypervolume(1.1) == pytest.approx(0.347667, abs=1e-6)


def test_a_reference_that_the_front_does_not_reach_gives_zero():
    assert problem("zdt1").hypervolume((0.0, 5.0)) == 0.0
    assert problem("dtlz2").best_hypervolume(3, 0.5) == 0.0
    assert problem("maf1").hypervolume((0.3, 0.3, 0.3)) == 0.0


def test_scales_stretch_values_front_and_hypervolume_alike():
    plain, scaled = problem("dtlz2"), problem("scaled_dtlz2", scales=(1, 5))
    x = inside(plain, 10)
    torch.testing.assert_close(scaled(x), plain(x) * torch.tensor([1.0, 5.0]))
    np.testing.assert_allclose(scaled.front(9), plain.front(9) * [1, 5])
    assert scaled.reference_point == pytest.approx((1.1, 5.5))
    assert scaled.hypervolume((1.1, 5.5)) == pytest.approx(5 * plain.hypervolume(1.1))
    assert scaled.best_hypervolume(6, (1.1, 5.5)) == pytest.approx(
        5 * plain.best_hypervolume(6, 1.1)
    )
    assert problem("scaled_dtlz2").scales == (1.0, 2.0)


# ---------------------------------------------------------------------- mistakes


def test_wrong_names_and_sizes_are_refused_with_what_to_change():
    with pytest.raises(ConfigError, match="did you mean 'dtlz2'"):
        problem("dltz2")
    with pytest.raises(ConfigError, match="cannot have 3 objectives"):
        problem("zdt1", m=3)
    with pytest.raises(ConfigError, match="at least 3 variables"):
        problem("dtlz2", m=3, n_var=2)
    with pytest.raises(ConfigError, match="2 positive numbers"):
        problem("dtlz2", scales=(1, 0))
    with pytest.raises(FrontError, match="known for 2 objectives only"):
        problem("maf1").best_hypervolume(5, 1.1)
    with pytest.raises(FrontError, match="2 finite entries"):
        problem("zdt1").hypervolume((1.0, math.nan))
