"""The prox of each norm against brute force, and its norm and dual norm against their definitions."""

import math

import pytest
import torch

from plica.solver.linearized.prox import LpProx

P = (0.5, 2 / 3, 1.0, 1.5, 2.0, 3.0, 8.0, math.inf)


def settled(p: float, w: torch.Tensor, eta: torch.Tensor) -> torch.Tensor:
    """The prox once its memory has settled: theta for l_inf, the norm of the answer for other p."""
    prox, level, work = LpProx(p), w.abs().amax(1) / 2, torch.empty_like(w)
    wide = torch.full_like(w, 100)
    u = w.clone()
    for _ in range(100):
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
