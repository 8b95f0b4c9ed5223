"""The direction against a search over all multipliers, and the fall of mu against Algorithm 1."""

import itertools
import math

import pytest
import torch

from plica.solver.bfgs_sqp.steering import Steering

TOL = 1e-6


def case(m, equalities=0, r=30, n=6, seed=0):
    """Constraints' values, gradients [df, dc] (r, 1 + m, n), and their products for H = I."""
    generator = torch.Generator().manual_seed(seed)
    c = torch.randn(r, m, generator=generator, dtype=torch.float64)
    G = torch.randn(r, 1 + m, n, generator=generator, dtype=torch.float64)
    return c, G, G @ G.transpose(1, 2)


def violation(c, equalities):
    split = c.shape[1] - equalities
    return c[:, :split].clamp(min=0).sum(1) + c[:, split:].abs().sum(1)


def ahead(c, G, w, equalities):
    """The linear model of the violation along d = -w G."""
    d = -(w[:, None] @ G)[:, 0]
    return violation(c + (G[:, 1:] @ d[:, :, None])[:, :, 0], equalities)


def model(c, G, w, mu, equalities):
    """What the direction minimises, Eq. (24): mu df.d + violation of the linear model + |d|^2 / 2."""
    d = -(w[:, None] @ G)[:, 0]
    return mu * (G[:, 0] * d).sum(1) + ahead(c, G, w, equalities) + (d * d).sum(1) / 2


@pytest.mark.parametrize(("m", "equalities"), [(1, 0), (2, 0), (3, 0), (1, 1), (2, 1), (3, 2)])
def test_no_other_direction_is_better(m, equalities):
    c, G, P = case(m)
    mu = torch.linspace(0.01, 2, len(c), dtype=torch.float64)
    w, mu = Steering()(c, equalities, P, mu, TOL)
    best = model(c, G, w, mu, equalities)
    assert torch.equal(w[:, 0], mu)
    low = [-1.0 if j >= m - equalities else 0.0 for j in range(m)]
    for lam in itertools.product(*(torch.linspace(lo, 1, 9).tolist() for lo in low)):
        other = torch.cat([mu[:, None], torch.tensor(lam, dtype=mu.dtype).expand(len(mu), -1)], 1)
        assert (model(c, G, other, mu, equalities) >= best - 1e-10).all()
    generator = torch.Generator().manual_seed(1)
    for size in (1e-3, 0.1, 1.0):  # and no direction outside the span of the gradients either
        nudge = torch.cat([w, torch.ones_like(mu)[:, None]], 1)
        free = torch.cat([G, size * torch.randn(len(c), 1, G.shape[2], generator=generator, dtype=mu.dtype)], 1)
        d = -(nudge[:, None] @ free)[:, 0]
        after = violation(c + (G[:, 1:] @ d[:, :, None])[:, :, 0], equalities)
        assert (mu * (G[:, 0] * d).sum(1) + after + (d * d).sum(1) / 2 >= best - 1e-10).all()


@pytest.mark.parametrize(("m", "equalities"), [(1, 0), (2, 1), (3, 0)])
def test_mu_falls_until_the_violation_falls_by_its_share(m, equalities):
    """Algorithm 1: to 0.9^k of itself, k <= 10, the first that gives a tenth of what is possible, or all ten."""
    c, G, P = case(m, r=200, seed=2)
    start = torch.full((200,), 30.0, dtype=torch.float64)
    steering = Steering()
    w, mu = steering(c, equalities, P, start, TOL)
    possible = violation(c, equalities) - ahead(c, G, Steering()(c, equalities, P, 0 * start, TOL)[0], equalities)
    reduced = violation(c, equalities) - ahead(c, G, w, equalities)
    power = (mu / start).log() / math.log(0.9)
    torch.testing.assert_close(power, power.round())
    assert (power.round() <= 10).all()
    feasible = violation(c, equalities) <= TOL
    assert ((reduced >= 0.1 * possible - 1e-9) | (power.round() == 10) | feasible).all()
    assert (power[feasible] == 0).all()
    assert 0 < int((power > 0.5).sum()) < 200
    for i in (power > 0.5).nonzero()[:, 0].tolist():  # one trial earlier it was not enough
        row = [i]
        earlier, _ = Steering(tries=0)(c[row], equalities, P[row], mu[row] / 0.9, TOL)
        assert violation(c[row], equalities) - ahead(c[row], G[row], earlier, equalities) < 0.1 * possible[i] + 1e-9


def test_feasible_rows_keep_mu():
    c, _, P = case(2)
    mu = torch.full((30,), 30.0, dtype=torch.float64)
    assert torch.equal(Steering()(-c.abs(), 0, P, mu, TOL)[1], mu)


def test_without_constraints_the_direction_is_minus_mu_df():
    _, _, P = case(0)
    mu = torch.rand(30, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    w, kept = Steering()(P[:, 0, :0], 0, P, mu, TOL)
    assert torch.equal(w, mu[:, None])
    assert torch.equal(kept, mu)


def test_rows_do_not_see_each_other():
    c, _, P = case(3, r=40, seed=4)
    mu = torch.full((40,), 20.0, dtype=torch.float64)
    w, fallen = Steering()(c, 1, P, mu, TOL)
    for rows in ([5], [30, 2], list(range(25))):
        part, some = Steering()(c[rows], 1, P[rows], mu[rows], TOL)
        assert torch.equal(part, w[rows])
        assert torch.equal(some, fallen[rows])


@pytest.mark.parametrize("name", ["c_viol", "c_mu"])
@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 2.0])
def test_constants(name, value):
    with pytest.raises(ValueError, match=name):
        Steering(**{name: value})
