"""Proximal SQP on linear and curved margins: exact answers, boxes, other rows, and the residual."""

import math

import pytest
import torch

from plica.solver.linearized.prox import LpProx
from plica.solver.linearized.proximal_sqp import ProximalSQP
from plica.solver.linearized.state import ProximalState
from plica.solver.rows import take

P = (1.0, 1.5, 2.0, 3.0, 8.0, math.inf)


def solve(solver: ProximalSQP, margin, low, high, start=None, steps=60):
    """The least norm among the points with margin >= 0, and the state at the end.  margin(u) -> value (r,), gradient
    (r, n)."""
    rows = solver.start(low, high, torch.zeros_like(low) if start is None else start)
    best = torch.full_like(rows.size, torch.inf)
    for _ in range(steps):
        value, grad = margin(rows.u)
        best = torch.where((value >= 0) & (rows.size < best), rows.size, best)
        solver.step(rows, value, torch.zeros_like(value), grad)
    return best, rows


def linear(r=5, n=40, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    g = torch.randn(r, n, generator=generator, dtype=dtype)
    c = -1 - torch.rand(r, generator=generator, dtype=dtype)
    return g, c


@pytest.mark.parametrize("p", P)
def test_linear_margin_has_radius_margin_over_dual_norm(p):
    g, c = linear()
    wide = torch.full_like(g, 100.0)
    best, _ = solve(ProximalSQP(LpProx(p)), lambda u: (c + (g * u).sum(1), g), -wide, wide, steps=150)
    exact = -c / LpProx(p).dual(g)
    # the boundary is passed by the floor of kappa, 3e-4 of the first margin; the rest is convergence
    assert (best >= exact * (1 - 1e-12)).all()
    torch.testing.assert_close(best, exact, rtol=2e-3, atol=0)


def test_a_multiplier_near_0_rises_in_one_step():
    """It falls towards 0 while the linear model says that the margin is larger than wanted even at the image."""
    g, c = linear()
    wide = torch.full_like(g, 100.0)
    solver = ProximalSQP(LpProx(2))
    rows = solver.start(-wide, wide, torch.zeros_like(g))
    for value in (c, -c):  # the image, then a point far beyond the boundary
        solver.step(rows, value, torch.zeros_like(value), g)
    rows.lam *= 1e-9
    before = rows.u.clone()
    solver.step(rows, c, torch.zeros_like(c), g)
    gained = ((rows.u - before) * rows.plane).sum(1)
    assert (gained > -0.5 * c).all()


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_box_that_binds(p):
    """Against the exact answer of the box-constrained linear problem, by bisection on the multiplier."""
    g, c = linear()
    # half of what the free answer moves its most mobile entries by
    limit = 0.5 * -c / {1: g.abs().amax(1), 2: g.norm(dim=1), math.inf: 0.5 * g.abs().sum(1)}[p]
    high = limit[:, None].expand_as(g).clone()
    if p == math.inf:
        high[:, ::2] = 0.5 * limit[:, None]
    reach = {1: 1.0, 2: 0.5, math.inf: 1.5}[p]
    high *= reach
    best, rows = solve(ProximalSQP(LpProx(p)), lambda u: (c + (g * u).sum(1), g), -high, high, steps=300)
    torch.testing.assert_close(best, exact_in_box(p, g, c, high), rtol=5e-3, atol=0)
    assert (rows.u.abs() <= high).all()


def exact_in_box(p, g, c, high):
    """min ||u||_p with g.u = -c and |u| <= high: greedy for p = 1, water-filling for the others."""
    answers = []
    for row, need, top in zip(g.abs(), -c, high, strict=True):
        if p == 1:
            left, total = float(need), 0.0
            for i in row.argsort(descending=True).tolist():
                move = min(left / float(row[i]), float(top[i]))
                total, left = total + move, left - move * float(row[i])
                if left <= 0:
                    break
            answers.append(total)
            continue
        lo, hi = 0.0, 1e6
        for _ in range(200):
            t = (lo + hi) / 2
            u = torch.minimum(t * row if p == 2 else torch.full_like(row, t), top)
            lo, hi = (t, hi) if float((u * row).sum()) < float(need) else (lo, t)
        u = torch.minimum(hi * row if p == 2 else torch.full_like(row, hi), top)
        answers.append(float(torch.linalg.vector_norm(u, ord=p)))
    return torch.tensor(answers, dtype=g.dtype)


def test_kink_is_settled_on():
    """m = min of two planes: the nearest feasible point is where they cross, where no single plane holds."""
    planes = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)

    def margin(u):
        values = u @ planes.T - 3
        which = values.argmin(1)
        return values.gather(1, which[:, None])[:, 0], planes[which]

    wide = torch.full((1, 2), 10.0, dtype=torch.float64)
    best, _ = solve(
        ProximalSQP(LpProx(2.0), eta=3.0),
        margin,
        -wide,
        wide,
        start=torch.tensor([[0.3, 0.0]], dtype=torch.float64),
        steps=200,
    )
    # (1, 1); within a hundredth, as the planes are averaged and not kept apart
    assert math.sqrt(2) <= float(best) <= 1.01 * math.sqrt(2)


@pytest.mark.parametrize("p", P)
def test_rows_are_strangers_to_the_last_bit(p):
    g, c = linear(r=70, n=100, dtype=torch.float32)
    wide = torch.full_like(g, 0.05)
    solver = ProximalSQP(LpProx(p), inertia=0.3)

    def run(some):
        gs, cs = g[some], c[some]
        return solve(
            solver, lambda u: (cs + ((u + u * u) * gs).sum(1), (1 + 2 * u) * gs), -wide[some], wide[some], steps=12
        )[1].u

    every = run(torch.arange(70))
    for some in ([3], [69, 3], list(range(40, 57)), list(range(69, -1, -1))):
        assert torch.equal(run(torch.tensor(some)), every[some])


def test_norms_of_an_odd_number_of_entries_do_not_depend_on_the_place_of_the_row():
    """16 rows of 11 entries have 16 more than a multiple of 32, of which pow rounded some in another way."""
    u = torch.randn(400, 16, 11, generator=torch.Generator().manual_seed(0))
    wide, solver = torch.full_like(u[0], 10.0), ProximalSQP(LpProx(1.5))
    for rows in u:
        there, back = (solver.start(-wide, wide, some).size for some in (rows, rows.flip(0)))
        assert torch.equal(there, back.flip(0))


def test_residual_vanishes_at_the_answer_and_not_before():
    g, c = linear()
    wide = torch.full_like(g, 100.0)
    solver = ProximalSQP(LpProx(2.0))
    early = solve(solver, lambda u: (c + (g * u).sum(1), g), -wide, wide, steps=3)[1].residual
    late = solve(solver, lambda u: (c + (g * u).sum(1), g), -wide, wide, steps=60)[1].residual
    assert (early > 1e-2).all()
    assert (late < 1e-4).all()


def test_rows_can_be_taken_apart():
    g, c = linear()
    wide = torch.full_like(g, 100.0)
    solver = ProximalSQP(LpProx(2.0))
    rows = solver.start(-wide, wide, torch.zeros_like(g))
    solver.step(rows, c, torch.zeros_like(c), g)
    part = take(rows, torch.tensor([4, 1]))
    assert isinstance(part, ProximalState)
    for state, gs, cs in ((rows, g, c), (part, g[[4, 1]], c[[4, 1]])):
        solver.step(state, cs + (gs * state.u).sum(1), torch.zeros_like(cs), gs)
    assert torch.equal(part.u, rows.u[[4, 1]])


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_the_margin_aimed_at_is_twice_its_noise(p):
    g, c = linear()
    wide, noise = torch.full_like(g, 100.0), 0.02 * c.abs()
    solver = ProximalSQP(LpProx(p))
    rows = solver.start(-wide, wide, torch.zeros_like(g))
    margins = []
    for _ in range(300):
        margin = c + (g * rows.u).sum(1)
        margins.append(margin)
        solver.step(rows, margin, noise, g)
    late = torch.stack(margins[-50:]).mean(0)
    assert (late > 1.8 * noise).all()
    assert (late < 2.5 * noise).all()


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, math.inf])
def test_a_row_without_a_gradient_stays_finite_and_harms_no_other(p):
    g, c = linear()
    wide = torch.full_like(g, 100.0)
    g[0] = 0
    best, rows = solve(ProximalSQP(LpProx(p)), lambda u: (c + (g * u).sum(1), g), -wide, wide)
    assert rows.u.isfinite().all()
    assert rows.lam.isfinite().all()
    assert best[0] == torch.inf
    alone, _ = solve(ProximalSQP(LpProx(p)), lambda u: (c[1:] + (g[1:] * u).sum(1), g[1:]), -wide[1:], wide[1:])
    torch.testing.assert_close(best[1:], alone, rtol=1e-9, atol=0)


@pytest.mark.parametrize("p", P)
@pytest.mark.parametrize("inertia", [0.0, 0.5])
def test_limits_of_a_step(p, inertia):
    """No step is longer than `reach`, lost rows go halfway to 0, and without limits nothing changes, to the bit."""
    g, c = linear()
    wide = torch.full_like(g, 100.0)
    solver = ProximalSQP(LpProx(p), inertia=inertia)
    free, unlimited, limited = (solver.start(-wide, wide, torch.zeros_like(g)) for _ in range(3))
    unlimited.limited = limited.limited = True
    limited.reach.fill_(0.01)
    for number in range(6):
        limited.lost[1] = number == 5
        for rows in (free, unlimited, limited):
            before = rows.u.clone()
            solver.step(rows, c + (g * rows.u).sum(1), torch.zeros_like(c), g)
        assert torch.equal(free.u, unlimited.u)
        assert number or (free.size > 0.02).all()  # the limit counts
        step, size = (LpProx(p).norm(u, torch.empty_like(g)) for u in (limited.u - before, limited.u))
        torch.testing.assert_close(limited.size, size)
        if not inertia:  # which leads beyond the step
            assert (step <= 0.01 + 1e-9)[~limited.lost].all()
            torch.testing.assert_close(limited.u[limited.lost], before[limited.lost] / 2)
