"""The prox of each norm against brute force and its optimality conditions, its norm and dual norm against their
definitions."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from plica.solver.linearized.prox import LpProx

P = (0.5, 2 / 3, 1.0, 1.5, 2.0, 3.0, 8.0, math.inf)


def settled(p: float, w: torch.Tensor, eta: torch.Tensor) -> torch.Tensor:
    """The prox once its memory has settled: theta for l_inf, the norm of the answer for other p."""
    prox, level, work = LpProx(p), w.abs().amax(1) / 2, torch.empty_like(w)
    wide = torch.full_like(w, 100)
    u = w.clone()
    for _ in range(1 if p in (1, 2) else 100):  # those have no memory
        u.copy_(w)
        prox.apply(u, eta, level, -wide, wide, (work, torch.empty_like(w)))
        if prox.remembers_norm:
            level = prox.norm(u, work)
    return u


@pytest.mark.parametrize("p", [p for p in P if p >= 1])
def test_no_other_point_is_better(p):
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(5, 9, generator=generator, dtype=torch.float64)
    eta = torch.tensor([0.05, 0.2, 0.5, 1.0, 1.5], dtype=torch.float64)
    u = settled(p, w, eta)

    def value(v):
        return torch.linalg.vector_norm(v, ord=p, dim=1) + (v - w).square().sum(1) / (2 * eta)

    best = value(u)
    for size in (1e-1, 1e-2, 1e-3):
        for _ in range(300):
            other = value(u + size * torch.randn(5, 9, generator=generator, dtype=torch.float64))
            assert (other >= best - 1e-12).all()


@pytest.mark.parametrize("p", [0.5, 2 / 3, 0.9])
def test_below_one_each_entry_is_the_global_minimiser(p):
    """About the norm r the prox is separable: weight |t|^p / p + (t - c)^2 / 2, weight = eta r^(1 - p); t on a fine
    grid."""
    c = torch.linspace(-3, 3, 61, dtype=torch.float64)[None]
    u, r, eta = c.clone(), torch.full((1,), 2.0, dtype=torch.float64), torch.full((1,), 0.5, dtype=torch.float64)
    LpProx(p).apply(u, eta, r, c - 10, c + 10, (torch.empty_like(u), torch.empty_like(u)))
    grid = torch.linspace(-3, 3, 60001, dtype=torch.float64)[:, None]
    weight = eta * r ** (1 - p)

    def value(t):
        return weight * t.abs() ** p / p + (t - c) ** 2 / 2

    assert (value(u)[0] <= value(grid).amin(0) + 1e-8).all()
    assert (u == 0).any()
    assert (u != 0).any()


@pytest.mark.parametrize("p", P)
def test_norm_is_the_norm(p):
    u = torch.randn(4, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = u.abs().amax(1) if p == math.inf else u.abs().pow(p).sum(1) ** (1 / p)
    torch.testing.assert_close(LpProx(p).norm(u, torch.empty_like(u)), expected)


@pytest.mark.parametrize("p", [p for p in P if p >= 1])
def test_dual_norm(p):
    generator = torch.Generator().manual_seed(2)
    g, u = torch.randn(2, 200, 6, generator=generator, dtype=torch.float64)
    u /= LpProx(p).norm(u, torch.empty_like(u))[:, None]
    dual = LpProx(p).dual(g)
    assert ((g * u).sum(1) <= dual + 1e-12).all()
    q = 1 if p == math.inf else math.inf if p == 1 else p / (p - 1)
    torch.testing.assert_close(dual, torch.linalg.vector_norm(g, ord=q, dim=1))


N = 5
few = settings(max_examples=25, deadline=None)
number = st.floats(-10, 10).map(lambda v: 0.0 if abs(v) < 1e-9 else v)  # squares of what is left are far from underflow
vector = st.lists(number, min_size=N, max_size=N).map(lambda v: torch.tensor([v], dtype=torch.float64))
length = st.floats(0.01, 20).map(lambda v: torch.tensor([v], dtype=torch.float64))
wall = st.lists(st.floats(0, 10), min_size=N, max_size=N).map(lambda v: torch.tensor([v], dtype=torch.float64))
exact_p = pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
separable_p = st.one_of(st.sampled_from([1.5, 3.0]), st.floats(1.1, 8).filter(lambda p: p != 2))  # 2: not separable


def one_call(p, w, eta, r, low, high):
    """The prox about the norm r (r,), for p where one call is exact at a given r."""
    u = w.clone()
    LpProx(p).apply(u, eta, r.clone(), low, high, (torch.empty_like(u), torch.empty_like(u)))
    return u


def free(w):
    return torch.full_like(w, 1e3)


@exact_p
@few
@given(w=vector, eta=length)
def test_what_the_prox_takes_away_is_a_subgradient(p, w, eta):
    """u = prox(w) exactly when (w - u) / eta is a subgradient of the norm at u: <w - u, u> = eta ||u||_p and
    ||w - u||_q <= eta."""
    u = settled(p, w, eta)
    rounding = 1e-12 * (w.abs().sum(1) + eta)
    assert LpProx(p).dual(w - u) <= eta + rounding
    missing = ((w - u) * u).sum(1) - eta * LpProx(p).norm(u, torch.empty_like(u))
    assert missing.abs() <= rounding * w.abs().sum(1)


@exact_p
@few
@given(w=vector, other=vector, eta=length)
def test_the_prox_is_firmly_nonexpansive(p, w, other, eta):
    """|prox(w) - prox(v)|_2^2 <= <prox(w) - prox(v), w - v>."""
    moved = settled(p, w, eta) - settled(p, other, eta)
    assert moved.square().sum() <= (moved * (w - other)).sum() + 1e-10


@few
@given(p=separable_p, w=vector, other=vector, eta=length, r=length)
def test_about_a_norm_the_prox_is_firmly_nonexpansive(p, w, other, eta, r):
    moved = one_call(p, w, eta, r, -free(w), free(w)) - one_call(p, other, eta, r, -free(w), free(w))
    assert moved.square().sum() <= (moved * (w - other)).sum() + 1e-6


@pytest.mark.parametrize("p", P)
@few
@given(w=vector, eta=length, r=length, t=st.floats(0.01, 100))
def test_the_prox_has_no_scale_of_its_own(p, w, eta, r, t):
    """prox(t w) with t eta about t r is t prox(w), but for an entry at the jump of p < 1."""
    once = one_call(p, w, eta, r, -free(w), free(w))
    scaled = one_call(p, t * w, t * eta, t * r, -t * free(w), t * free(w))
    same = ((scaled - t * once).abs() <= 1e-9 * t * (w.abs() + eta)) | ((p < 1) & ((once == 0) != (scaled == 0)))
    assert same.all()


@few
@given(p=separable_p, w=vector, eta=length, r=length, below=wall, above=wall)
def test_no_search_of_an_entry_finds_a_better_one(p, w, eta, r, below, above):
    """eta r^(1-p) |t|^p / p + (t - w)^2 / 2 over the box, entry by entry, against scipy's minimiser."""
    u = one_call(p, w, eta, r, -below, above)
    assert ((u >= -below) & (u <= above)).all()

    def value(t, i):
        return float(eta * r ** (1 - p)) * abs(t) ** p / p + (t - float(w[0, i])) ** 2 / 2

    for i in range(N):
        low, high = -float(below[0, i]), float(above[0, i])
        found = value(float(u[0, i]), i)
        best = minimize_scalar(value, bounds=(low, high), args=(i,), method="bounded", options={"xatol": 1e-10}).fun
        assert found <= min(best, value(low, i), value(high, i)) + 1e-8 * (1 + abs(best))


@few
@given(w=vector, eta=length)
def test_no_other_threshold_of_l_inf_is_better(w, eta):
    """theta + |u - w|^2 / (2 eta) over u with |u| <= theta: one unknown, theta, against scipy's minimiser."""

    def value(theta):
        return theta + float((w.clamp(-theta, theta) - w).square().sum() / (2 * eta))

    u = settled(math.inf, w, eta)
    best = minimize_scalar(value, bounds=(0, 11), method="bounded", options={"xatol": 1e-10}).fun
    assert value(float(u.abs().amax())) <= best + 1e-8 * (1 + best)
