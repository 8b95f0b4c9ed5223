"""Bundle SQP on piecewise linear margins whose nearest point is known."""

import math

import pytest
import torch

from plica.solver.linearized.bundle import BundleSQP


def search(p, margin, n, steps, start=None, side=5.0, climbs=False):
    """The least norm found with a positive margin, and the state at the end."""
    low = torch.full((1, n), -side, dtype=torch.float64)
    solver = BundleSQP(p)
    state = solver.start(low, -low)
    if start is not None:
        reach = torch.tensor([math.inf]).double()
        solver.restart(state, torch.tensor([True]), start[None].double(), reach, torch.tensor([climbs]))
    best = torch.tensor([math.inf], dtype=torch.float64)
    for _ in range(steps):
        u = state.u.clone().requires_grad_()
        m = margin(u)
        (grad,) = torch.autograd.grad(m.sum(), u)
        size = torch.linalg.vector_norm(state.u, p, dim=1)
        best = torch.where((m > 0) & (size < best), size, best)
        solver.step(state, m.detach(), torch.full_like(best, 1e-9), grad, best)
    return float(best), state


@pytest.mark.parametrize(("p", "exact"), [(1, 2.0), (2, math.sqrt(2)), (math.inf, 1.0)])
def test_a_concave_corner(p, exact):
    """min(u_0, u_1) >= 1: two planes meet at the nearest point, which one averaged plane only nears."""
    best, state = search(p, lambda u: torch.minimum(u[:, 0], u[:, 1]) - 1, 3, 8)
    assert best == pytest.approx(exact, rel=1e-4)
    assert state.residual < 1e-5


@pytest.mark.parametrize("p", [1, 2, math.inf])
def test_a_convex_kink(p):
    """max(u_0 - 2, 3 u_1 - 3): the nearest point lies on the second plane, of which the image's gradient knows
    nothing."""
    best, state = search(p, lambda u: torch.maximum(u[:, 0] - 2, 3 * u[:, 1] - 3), 2, 12, torch.tensor([0.5, 1.5]))
    assert best == pytest.approx(1, rel=1e-4)
    assert state.residual < 1e-3  # for l_inf u_0 may lie anywhere in [-1, 1], and creeps


@pytest.mark.parametrize("p", [1, 2, math.inf])
def test_a_row_that_climbs_stays_on_its_hill(p):
    """Many low hills, and one at u_0 = u_1 = 4 that passes the boundary; its planes reach zero among the others too."""

    def margin(u):
        return torch.maximum(0.5 - 3 * (u - 4).abs().sum(1), -0.1 - 0.1 * torch.sin(9 * u).abs().sum(1))

    start = torch.tensor([4.0, 3.8])
    _, state = search(p, margin, 2, 2, start, climbs=True)
    assert state.outside_margin > 0
    _, state = search(p, margin, 2, 2, start)
    assert state.outside_margin.isnan()


def test_oscillating_steps_continue_from_a_point_in_between():
    """Flat, steep and flat again: each linear model leads past the steep part."""
    best, _ = search(2, lambda u: 0.1 * u[:, 0] + 10 * (u[:, 0] - 1).clamp(-0.2, 0.2), 2, 20)
    assert best == pytest.approx(1 - 0.1 / 10.1, rel=1e-3)


def test_without_a_gradient_past_the_boundary_the_way_to_the_image_is_bisected():
    def margin(u):
        return (u[:, 0] > 0.7).to(u) * 2 - 1 + 0 * u.sum(1)

    best, _ = search(2, margin, 2, 12, torch.tensor([2.0, 0.0]))
    assert best == pytest.approx(0.7, rel=2e-3)
    _, state = search(2, margin, 2, 1)
    assert state.failed.all()


def test_what_is_not_finite_ends_a_search():
    _, state = search(2, lambda u: u.sum(1) * torch.nan, 2, 1)
    assert state.failed.all()
    assert (state.u == 0).all()
