"""Projections onto ball and box: optimality, scipy's answer, other rows, and what the sequential projection misses."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from plica import Unsupported
from plica.attacks.pgd import steepest
from plica.attacks.projections import project, safely_inside

P = (1, 2, math.inf)


def case(b=40, n=12, seed=0, dtype=torch.float64):
    """Images near the walls as well, points on all sides of the box, radii from tiny to idle."""
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(b, n, generator=g, dtype=torch.float64)
    z = x + torch.randn(b, n, generator=g, dtype=torch.float64)
    radius = 3 * torch.rand(b, generator=g, dtype=torch.float64) ** 2
    return z.to(dtype), x.to(dtype), radius.to(dtype)


@pytest.mark.parametrize("p", P)
@pytest.mark.parametrize(("dtype", "tol"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_inside_ball_and_box(p, dtype, tol):
    z, x, radius = case(dtype=dtype)
    found = project(z, x, radius, p)
    assert found.min() >= 0
    assert found.max() <= 1
    assert (torch.linalg.vector_norm(found - x, ord=p, dim=1) <= radius + tol).all()


@pytest.mark.parametrize("p", P)
def test_no_point_of_the_set_is_nearer(p):
    """The variational inequality <z - P, v - P> <= 0 for all v of the set: necessary and sufficient."""
    z, x, radius = case()
    found = project(z, x, radius, p)
    g = torch.Generator().manual_seed(1)
    for spread in (0.01, 0.3, 3.0):
        for _ in range(100):
            v = (found + spread * torch.randn(x.shape, generator=g, dtype=x.dtype)).clamp(0, 1)
            size = torch.linalg.vector_norm(v - x, ord=p, dim=1)
            v = x + (v - x) * (radius / size).clamp(max=1)[:, None]  # towards x: stays in the box
            assert (((z - found) * (v - found)).sum(1) <= 1e-12).all()


@pytest.mark.parametrize("p", P)
def test_a_projected_point_stays(p):
    z, x, radius = case()
    once = project(z, x, radius, p)
    torch.testing.assert_close(project(once, x, radius, p), once, rtol=0, atol=1e-12)


@pytest.mark.parametrize("p", [1, 2])
def test_scipy_finds_no_nearer_point(p):
    z, x, radius = (t.numpy() for t in case(b=6, n=5, seed=2))
    found = project(*(torch.from_numpy(t) for t in (z, x, radius)), p).numpy()
    for row in range(len(z)):
        # z' = x + u - v with u, v >= 0 makes the l_1 ball smooth; for l_2 it does no harm
        def split(w, row=row):
            return x[row] + w[:5] - w[5:]

        def room(w, row=row):
            size = w.sum() if p == 1 else np.sqrt(((w[:5] - w[5:]) ** 2).sum() + 1e-300)
            return radius[row] - size

        walls = [(0, 1 - v) for v in x[row]] + [(0, v) for v in x[row]]
        answer = minimize(
            lambda w, row=row: ((split(w) - z[row]) ** 2).sum(),
            np.full(10, 1e-3),
            method="SLSQP",
            bounds=walls,
            constraints={"type": "ineq", "fun": room},
            options=dict(ftol=1e-14, maxiter=500),
        )
        ours = ((found[row] - z[row]) ** 2).sum()
        assert ours == pytest.approx(answer.fun, rel=1e-6, abs=1e-8)  # SLSQP's own accuracy


def test_a_point_of_the_set_stays():
    z, x, _ = case()
    z = z.clamp(0, 1)
    for p in P:
        radius = 1.01 * torch.linalg.vector_norm(z - x, ord=p, dim=1)
        assert torch.allclose(project(z, x, radius, p), z, rtol=0, atol=1e-15)


@pytest.mark.parametrize("p", P)
def test_radius_zero_is_the_image(p):
    z, x, radius = case()
    assert torch.equal(project(z, x, 0 * radius, p), x)


@pytest.mark.parametrize("p", P)
def test_alone_equals_in_a_batch(p):
    z, x, radius = case(dtype=torch.float32)
    together = project(z, x, radius, p)
    alone = torch.cat([project(z[i : i + 1], x[i : i + 1], radius[i : i + 1], p) for i in range(len(x))])
    assert torch.equal(together, alone)


@pytest.mark.parametrize("p", [1, 2])
def test_ball_then_box_is_not_exact(p):
    """A pixel at the wall leaves its share of the radius to the others."""
    x, z = torch.tensor([[1.0, 0.5]], dtype=torch.float64), torch.tensor([[3.0, 0.9]], dtype=torch.float64)
    found = project(z, x, torch.tensor([0.3], dtype=torch.float64), p)
    assert torch.allclose(found, torch.tensor([[1.0, 0.8]], dtype=torch.float64))


def test_other_bounds():
    z, x, radius = case()
    for p in P:
        wide = project(255 * z, 255 * x, 255 * radius, p, (0, 255))
        assert torch.allclose(wide, 255 * project(z, x, radius, p), rtol=1e-10)


def test_a_radius_too_small_for_pixels_is_none():
    """Not a negative one, whatever rounding takes from it."""
    radius = torch.tensor([0.0, 1e-9, 1e-8, 1.0], dtype=torch.float64)
    inside = safely_inside(radius, torch.rand(4, 3), (0.0, 1.0))
    assert (inside >= 0).all()
    assert (inside.double() <= radius).all()
    assert inside[0] == 0
    assert inside[3] > 0.999


def test_other_norms_are_refused():
    z, x, radius = case()
    with pytest.raises(Unsupported, match=r"l1\.5"):
        project(z, x, radius, 1.5)


def test_the_l1_projection_of_many_pixels_lies_on_the_ball_at_the_multiplier_that_bisection_finds():
    g = torch.Generator().manual_seed(0)
    x = torch.rand(20, 3000, generator=g, dtype=torch.float64).round(decimals=1)
    z = x + torch.randn(x.shape, generator=g, dtype=torch.float64) ** 3
    radius = torch.logspace(-3, 3, 20, dtype=torch.float64)  # hundreds of pixels at their walls, up to all of them
    delta = z - x
    room = torch.where(delta > 0, 1 - x, x)

    def moved(t):
        return torch.minimum((delta.abs() - t[:, None]).clamp(min=0), room)

    low, high = torch.zeros_like(radius), delta.abs().amax(1)
    for _ in range(200):
        middle = (low + high) / 2
        fits = moved(middle).sum(1) <= radius
        low, high = torch.where(fits, low, middle), torch.where(fits, middle, high)
    expected = torch.where((moved(0 * high).sum(1) <= radius)[:, None], moved(0 * high), moved(high))
    torch.testing.assert_close((project(z, x, radius, 1) - x).abs(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("length", [0.5, 5.0, 40.0, 150.0, 1000.0])
def test_a_long_l1_step_fills_pixels_in_the_order_of_the_gradient(length):
    """However many they are: fewer than are sorted at first, and all."""
    g = torch.Generator().manual_seed(0)
    grad, z = torch.randn(3, 500, generator=g).double(), torch.rand(3, 500, generator=g).double()
    step = steepest(grad, z, torch.tensor([length, 0.1, length], dtype=torch.float64), 1, (0.0, 1.0))
    for row, left in enumerate((length, 0.1, length)):
        for pixel in grad[row].abs().argsort(descending=True).tolist():
            wall = 1 - z[row, pixel] if grad[row, pixel] > 0 else z[row, pixel]
            share = min(left, float(wall))
            assert float(step[row, pixel]) == pytest.approx(math.copysign(share, grad[row, pixel]), abs=1e-12)
            left -= share


N = 6
few = settings(max_examples=25, deadline=None)
every_p = pytest.mark.parametrize("p", P)
# ties, walls and points that do not move are as likely as any others
pixel = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0, 1, width=32))
anywhere = st.one_of(st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0]), st.floats(-3, 4, width=32))
images = st.lists(pixel, min_size=N, max_size=N).map(lambda v: torch.tensor([v], dtype=torch.float64))
points = st.lists(anywhere, min_size=N, max_size=N).map(lambda v: torch.tensor([v], dtype=torch.float64))
radii = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 4)).map(lambda r: torch.tensor([r]).double())


def distance(u, p):
    return torch.linalg.vector_norm(u, ord=p, dim=1)


@every_p
@few
@given(z=points, x=images, radius=radii, v=points)
def test_the_projection_is_the_nearest_point_of_the_set(p, z, x, radius, v):
    """<z - P, v - P> <= 0 for every v of the set, whatever lies at a wall, at another pixel's value or at radius 0."""
    found = project(z, x, radius, p)
    assert ((found >= 0) & (found <= 1)).all()
    assert (distance(found - x, p) <= radius + 1e-12).all()
    v = v.clamp(0, 1)
    v = x + (v - x) * (radius / distance(v - x, p).clamp(min=1e-300)).clamp(max=1)[:, None]
    assert ((z - found) * (v - found)).sum() <= 1e-10


@every_p
@few
@given(z=points, other=points, x=images, radius=radii)
def test_the_projection_brings_no_points_apart(p, z, other, x, radius):
    moved = project(z, x, radius, p) - project(other, x, radius, p)
    assert moved.norm() <= (z - other).norm() * (1 + 1e-9) + 1e-10


@every_p
@few
@given(z=points, x=images, radius=radii, order=st.permutations(range(N)))
def test_the_projection_knows_no_order_of_pixels_and_no_side_of_the_box(p, z, x, radius, order):
    found = project(z, x, radius, p)
    torch.testing.assert_close(project(z[:, order], x[:, order], radius, p), found[:, order], rtol=0, atol=1e-10)
    torch.testing.assert_close(1 - project(1 - z, 1 - x, radius, p), found, rtol=0, atol=1e-10)


@every_p
@few
@given(z=points, x=images, radius=st.floats(1e-3, 4), scale=st.sampled_from([1.0, 255.0]))
def test_float32_pixels_projected_safely_inside_are_inside_in_float64(p, z, x, radius, scale):
    """What the judge measures: the distance of the rounded pixels in float64 is at most the radius."""
    z, x, radius = (scale * z).float(), (scale * x).float(), torch.tensor([scale * radius])
    bounds = (0.0, scale)
    found = project(z, x, safely_inside(radius, x, bounds), p, bounds)
    assert (distance(found.double() - x.double(), p) <= radius.double()).all()


def test_a_point_far_beyond_a_small_l1_ball_is_projected_into_it():
    """The multiplier is near the largest entry, 765, whose last bit is 5e-4 of this ball."""
    z, x = torch.tensor([[-1.0, -1, -1, -1, 3, 3]]) * 255, torch.zeros(1, 6)
    found = project(z, x, torch.tensor([0.255]), 1, (0.0, 255.0))
    length = float(found.double().sum())
    assert length <= 0.255
    assert length == pytest.approx(0.255, rel=1e-3)


@every_p
@few
@given(grad=points, z=images, reach=radii, v=points)
def test_no_other_step_is_steeper(p, grad, z, reach, v):
    """<grad, s> >= <grad, v> for every v with ||v||_p <= length, for l1 among those that stay in the box."""
    step = steepest(grad, z, reach, p, (0, 1))
    assert (distance(step, p) <= reach * (1 + 1e-12)).all()
    if p == 1:
        assert ((z + step >= -1e-12) & (z + step <= 1 + 1e-12)).all()
        v = (z + v).clamp(0, 1) - z
    v = v * (reach / distance(v, p).clamp(min=1e-300)).clamp(max=1)[:, None]
    assert (grad * v).sum() <= (grad * step).sum() + 1e-9
