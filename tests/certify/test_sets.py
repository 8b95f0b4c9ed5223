"""The least value of a linear function over a ball cut by a box: never above the true one, and near it."""

import itertools
import math
from fractions import Fraction

import pytest
import torch

import plica
from plica.certify.sets import check_metric, input_set
from plica.trust.audit.balls import Ball

N = 6


def cases(dtype=torch.float64):
    """Centres with pixels on the walls, coefficients some of which are 0, radii from none to more than the box."""
    g = torch.Generator().manual_seed(0)
    x = (1.4 * torch.rand(40, N, generator=g, dtype=dtype) - 0.2).clamp(0, 1)
    a = torch.randn(40, N, generator=g, dtype=dtype) * (torch.rand(40, N, generator=g) < 0.8)
    radius = torch.cat([torch.zeros(2), 3 * torch.rand(38, generator=g) ** 2]).to(dtype)
    return x, a, radius


def best_sampled(metric, x, a, radius, low=0.0, high=1.0):
    """The least <a, x'> of many points of the set: random ones, corners, and steps against a, scaled into the ball."""
    g = torch.Generator().manual_seed(1)
    best = torch.full((len(x),), torch.inf, dtype=x.dtype)
    steps = [-a * t for t in 10 ** torch.linspace(-2, 3, 60)]
    steps += [torch.where(a > 0, low - x, high - x) * t for t in torch.linspace(0, 1, 30)]
    steps += [torch.randn(x.shape, generator=g, dtype=x.dtype) for _ in range(200)]
    steps += [-a.sign() * radius[:, None]]
    steps += [-a * torch.tensor(mask) * 100 for mask in itertools.product((0.0, 1.0), repeat=N)]
    for step in steps:
        inside = (x + step).clamp(low, high)
        size = metric(x, inside).clamp(min=1e-300)
        size = torch.where(size.isfinite(), size, 1e300)
        point = torch.lerp(x, inside, (radius / size).clamp(max=1)[:, None] * (1 - 1e-12))
        best = torch.minimum(best, (a * point).sum(1))
    return best


@pytest.mark.parametrize("p", [1, 2, "inf"])
@pytest.mark.parametrize("kind", ["plain", "weighted", "held"])
def test_the_bound_is_below_every_point_and_near_the_least(p, kind):
    x, a, radius = cases()
    weights = torch.linspace(0.5, 3, N, dtype=torch.float64)
    pixels = torch.arange(N) % 3 == 1
    metric = {
        "plain": plica.Lp(p),
        "weighted": plica.WeightedLp(p, weights.masked_fill(torch.arange(N) == 2, torch.inf)),
        "held": plica.Held(plica.WeightedLp(p, weights), pixels),
    }[kind]
    zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    inputs = input_set(metric, x, radius, zero, one)
    bound, size = inputs.minimum(a, None)
    if kind != "plain":  # held pixels do not move at all
        fixed = (torch.arange(N) == 2) if kind == "weighted" else pixels
        sampled = best_sampled(lambda x, z: plica.Lp(p)(x * weights, z * weights), x, a * ~fixed, radius)
        sampled = sampled + (a * fixed * x).sum(1)
        torch.testing.assert_close(inputs.minimum(a * fixed, None)[0], (a * fixed * x).sum(1))
    else:
        sampled = best_sampled(metric, x, a, radius)
    assert (bound <= sampled + 1e-12).all()
    if kind == "plain":
        centre = (a * x).sum(1)
        assert (bound >= sampled - 0.1 * (centre - sampled) - 1e-9).all()
    assert (size >= (a * x).sum(1).abs() - 1e-12).all()


@pytest.mark.parametrize("p", [1, 2, "inf"])
def test_bounds_of_each_feature(p):
    x, a, radius = cases()
    low, high = x[0] * 0 + 0.1, x[0] * 0 + 0.9
    low[2] = high[2] = 0.5
    x = x.clamp(low, high)
    bound, _ = input_set(plica.Lp(p), x, radius, low, high).minimum(a, None)
    assert (bound <= best_sampled(plica.Lp(p), x, a, radius, low, high) + 1e-12).all()
    only = torch.zeros_like(a)
    only[:, 2] = 1
    torch.testing.assert_close(input_set(plica.Lp(p), x, radius, low, high).minimum(only, None)[0], x[:, 2])


def test_the_box_reaches_as_far_as_the_ball_in_real_arithmetic():
    """An end that is rounded to the nearest number may lie inside; the ball moves nothing where x is large."""
    x, _, radius = cases()
    x, weights = x + torch.tensor([0, 0, 1, 1e3, 1e9, -1e9]).double(), torch.linspace(0.3, 3, N).double()
    wide = torch.tensor(-1e10), torch.tensor(1e10)
    inputs = input_set(plica.WeightedLp("inf", weights), x, radius, *wide)
    for row, r in enumerate(radius.tolist()):
        ball = Ball.around(x[row], *wide, r, math.inf)
        for k, (w, z) in enumerate(zip(weights.tolist(), x[row].tolist(), strict=True)):
            extent = Fraction(r) / Fraction(w)
            assert Fraction(inputs.low[row, k].item()) <= Fraction(z) - extent
            assert Fraction(inputs.high[row, k].item()) >= Fraction(z) + extent
            assert Fraction(ball.low[0, k].item()) <= Fraction(z) - Fraction(r)
            assert Fraction(ball.high[0, k].item()) >= Fraction(z) + Fraction(r)


@pytest.mark.parametrize("p", [1, 2, "inf"])
def test_far_from_the_walls_the_bound_is_the_dual_norm(p):
    x, a, _ = cases()
    x, radius = x * 0 + 0.5, torch.full((40,), 0.3, dtype=torch.float64)
    wide = torch.tensor(-9.0), torch.tensor(9.0)
    bound, _ = input_set(plica.Lp(p), x, radius, *wide).minimum(a, None)
    dual = torch.linalg.vector_norm(a, {1: math.inf, 2: 2, "inf": 1}[p], dim=1)
    torch.testing.assert_close(bound, (a * x).sum(1) - 0.3 * dual)


@pytest.mark.parametrize("p", [1, 2, "inf"])
def test_the_gradient_is_a_point_of_the_box(p):
    """Differentiated through fixed minimisers, the bound's gradient in a is where it is attained."""
    x, a, radius = cases()
    a.requires_grad_(True)
    inputs = input_set(plica.Lp(p), x, radius, torch.tensor(0.0), torch.tensor(1.0))
    (point,) = torch.autograd.grad(inputs.minimum(a, None)[0].sum(), a)
    assert (point >= inputs.low - 1e-9).all()
    assert (point <= inputs.high + 1e-9).all()


@pytest.mark.parametrize("reach", [0.3, 0.9, 2.5])
def test_the_gradient_under_l1_is_the_minimiser(reach):
    """The last entry to move moves by what the radius leaves. Without it the gradient of a ball that no entry fills the
    box in was 0: multipliers and lines were not optimised there."""
    x, a, radius = cases()
    radius, a = torch.full_like(radius, reach), a.requires_grad_(True)
    bound, _ = input_set(plica.Lp(1), x, radius, torch.tensor(0.0), torch.tensor(1.0)).minimum(a, None)
    (point,) = torch.autograd.grad(bound.sum(), a)
    assert ((point - x).abs().flatten(1).sum(1) <= radius + 1e-9).all()
    assert ((point >= -1e-9) & (point <= 1 + 1e-9)).all()
    torch.testing.assert_close((a * point).flatten(1).sum(1), bound)


@pytest.mark.parametrize(
    "metric",
    [plica.Lp(3), plica.Lp(1.5), lambda x, z: (x - z).abs().flatten(1).sum(1)],
    ids=["l3", "l1.5", "a function"],
)
def test_other_metrics_are_refused(metric):
    with pytest.raises(plica.Unsupported, match="linf, l2 and l1"):
        check_metric(metric)


def test_nan_is_not_swallowed():
    x, a, radius = cases()
    a[0, 0], a[1] = torch.nan, torch.nan
    for p in (1, 2, "inf"):
        bound, _ = input_set(plica.Lp(p), x, radius, torch.tensor(0.0), torch.tensor(1.0)).minimum(a, None)
        assert not (bound[:2] > -torch.inf).any()
