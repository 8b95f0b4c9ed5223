"""Curved SQP on problems with a known answer: quadratic distances, a linear or curved boundary, a box."""

import pytest
import torch

from plica.solver.linearized.curved_sqp import CurvedSQP
from plica.solver.linearized.descent import Averaged, QuasiNewton, onto

NOISE = 1e-9


def solve(distance, margin, x, steps=25, quadratic=False, bounds=(0.0, 1.0), way=QuasiNewton):
    """The rows after so many steps; distance and margin: z (r, n) -> (r,)."""

    def gradient(fn, z):
        z = z.detach().requires_grad_(True)
        value = fn(z)
        (grad,) = torch.autograd.grad(value.sum(), z)
        return value.detach(), grad

    solver = CurvedSQP(way(bounds))
    rows = solver.start(x, torch.full((len(x),), quadratic))
    for _ in range(steps):
        value, grad = gradient(margin, rows.z)
        solver.step(rows, value, torch.full_like(value, NOISE), grad, lambda z: gradient(distance, z))
    return rows


def problem(r=4, n=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = 0.3 + 0.4 * torch.rand(r, n, generator=generator, dtype=torch.float64)
    g = torch.randn(r, n, generator=generator, dtype=torch.float64)
    w = torch.logspace(-1, 1, n, dtype=torch.float64)[torch.randperm(n, generator=generator)]
    return x, g, w


@pytest.mark.parametrize("way", [Averaged, QuasiNewton])
def test_a_quadratic_distance_and_a_linear_boundary(way):
    """min sqrt(delta.W delta) s.t. g.delta >= 0.1 is 0.1 / sqrt(g.W^-1 g), whether d or its square is told."""
    x, g, w = problem()
    exact = 0.1 / (g**2 / w).sum(1).sqrt()

    def margin(z):
        return ((z - x) * g).sum(1) - 0.1

    rows = solve(lambda z: ((z - x) ** 2 * w).sum(1).clamp(min=1e-30).sqrt(), margin, x, way=way)
    torch.testing.assert_close(
        rows.size, exact, rtol=1e-2, atol=0
    )  # aims a hundredth beyond the boundary after 25 steps
    assert (rows.size > exact).all()
    squared = solve(lambda z: ((z - x) ** 2 * w).sum(1), margin, x, steps=60, quadratic=True, way=way)
    torch.testing.assert_close(squared.size, exact**2, rtol=1e-3, atol=0)
    torch.testing.assert_close(squared.lam, 2 * exact**2 / 0.1, rtol=1e-2, atol=0)  # d radius^2 / d margin
    assert (squared.residual < (1e-3 if way is QuasiNewton else 2e-3)).all()  # averaged steps shrink as 1 / k


@pytest.mark.parametrize("way", [Averaged, QuasiNewton])
def test_the_box_is_kept_and_used(way):
    """Pixels that would leave it stop at its wall, and the others make up for them."""
    x, g, w = problem()
    x = x.clone()
    x[:, :10] = torch.where(g[:, :10] > 0, 0.99, 0.01)

    def margin(z):
        return ((z - x) * g).sum(1) - 1.0

    rows = solve(lambda z: ((z - x) ** 2 * w).sum(1), margin, x, steps=60, quadratic=True, way=way)
    assert (rows.z >= 0).all()
    assert (rows.z <= 1).all()
    # KKT by bisection on the multiplier of delta = clip(lam g / 2 w)
    low, high = torch.zeros(4, 1, dtype=x.dtype), torch.full((4, 1), 1e4, dtype=x.dtype)
    delta = torch.zeros_like(x)
    for _ in range(80):
        lam = (low + high) / 2
        delta = (x + lam * g / (2 * w)).clamp(0, 1) - x
        short = ((delta * g).sum(1) < 1.0)[:, None]
        low, high = torch.where(short, lam, low), torch.where(short, high, lam)
    torch.testing.assert_close(rows.size, (delta**2 * w).sum(1), rtol=1e-3, atol=0)


@pytest.mark.parametrize("way", [Averaged, QuasiNewton])
def test_a_curved_boundary(way):
    """The nearest point of a circle of radius 0.2 about a centre 0.3 away lies on the line to the centre."""
    x = torch.tensor([[0.5, 0.5], [0.4, 0.6]], dtype=torch.float64)
    centre = x + torch.tensor([[0.3, 0.0], [0.18, -0.24]], dtype=torch.float64)

    def margin(z):
        return 0.04 - ((z - centre) ** 2).sum(1)

    rows = solve(lambda z: ((z - x) ** 2).sum(1), margin, x, steps=40, quadratic=True, way=way)
    torch.testing.assert_close(rows.z, x + (centre - x) / 3, rtol=0, atol=1e-3)


def test_a_row_whose_model_is_not_finite_leaves_the_others_alone():
    x, g, w = problem()

    def margin(z, spoilt):
        value = ((z - x) * g).sum(1) - 0.1
        return value * torch.tensor([1, torch.nan if spoilt else 1, 1, 1], dtype=x.dtype)

    def distance(z):
        return ((z - x) ** 2 * w).sum(1)

    fine, spoilt = (solve(distance, lambda z, s=s: margin(z, s), x, quadratic=True) for s in (False, True))
    others = [0, 2, 3]
    assert torch.equal(spoilt.z[others], fine.z[others])
    assert torch.equal(spoilt.z[1], x[1])


def test_projections_onto_plane_and_box():
    """clip(z + u + lam v) meets the plane, with and without pixels at the walls."""
    generator = torch.Generator().manual_seed(5)
    z, u, v, plane = torch.rand(4, 6, 30, generator=generator, dtype=torch.float64)
    u, rise = 0.1 * u - 0.05, torch.linspace(0.01, 3, 6, dtype=torch.float64)
    out, lam = onto(z, u, plane * v, plane, rise, (0.0, 1.0), 12)
    torch.testing.assert_close((plane * (out - z)).sum(1), rise, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(out, (z + u + lam[:, None] * plane * v).clamp(0, 1))
