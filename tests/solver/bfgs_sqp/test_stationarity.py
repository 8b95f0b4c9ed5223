"""The measure of stationarity: kept gradients, and the shortest vector of their hull."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from plica.solver.bfgs_sqp.memory import Dense
from plica.solver.bfgs_sqp.stationarity import Samples, Stationarity
from plica.solver.problem import Evaluation

N = 4


def samples(points, grads):
    """One row's samples, in slots enough for them."""
    kept = Samples.start(1, len(points), torch.zeros(1, grads.shape[1], N, dtype=torch.float64))
    for x, g in zip(points, grads, strict=True):
        kept.add(torch.tensor([0]), x[None], g[None])
    return kept


def test_the_oldest_is_replaced_row_by_row():
    kept = Samples.start(2, 3, torch.zeros(2, 1, N, dtype=torch.float64))
    for i in range(5):
        kept.add(torch.tensor([1]), torch.full((1, N), float(i)).double(), torch.full((1, 1, N), 10.0 * i).double())
    kept.add(torch.tensor([0, 1]), torch.full((2, N), 7.0).double(), torch.full((2, 1, N), 70.0).double())
    assert sorted(kept.x[1, :, 0].tolist()) == [3, 4, 7]
    assert sorted(kept.grads[1, :, 0, 0].tolist()) == [30, 40, 70]
    assert sorted(kept.x[0, :, 0].tolist()) == [7, torch.inf, torch.inf]


def test_nothing_is_kept_where_nothing_is_asked_for():
    kept = Samples.start(2, 0, torch.zeros(2, 1, N, dtype=torch.float64))
    kept.add(torch.tensor([0, 1]), torch.zeros(2, N).double(), torch.zeros(2, 1, N).double())
    assert kept.x.shape == (2, 0, N)


def test_near_is_within_the_radius_times_root_n():
    measure = Stationarity(radius=0.1)
    away = torch.tensor([0.0, 0.19, 0.21], dtype=torch.float64)  # sqrt(4) * 0.1 = 0.2
    points = torch.zeros(3, N, dtype=torch.float64)
    points[:, 0] = away
    kept = samples(points, torch.zeros(3, 1, N, dtype=torch.float64))
    assert measure.near(kept, torch.zeros(1, N, dtype=torch.float64)).tolist() == [[True, True, False]]


def shortest(grads, c, mu):
    """min over sigma of the simplex, lam in [0, 1]^l of |mu sigma F + lam C|^2 / 2 - c sum(lam) by scipy; returns that
    vector's length.

    grads: (l, k, n), of the objective and of at most one constraint c.
    """
    l, k, _ = grads.shape
    rows = torch.cat([mu * grads[:, 0], grads[:, 1] if k > 1 else grads[:0, 0]]).numpy()
    linear = np.repeat([0.0, c], [l, len(rows) - l])
    found = minimize(
        lambda w: (w @ rows) @ (w @ rows) / 2 - linear @ w,
        np.repeat([1 / l, 0.0], [l, len(rows) - l]),
        jac=lambda w: rows @ (w @ rows) - linear,
        method="SLSQP",
        bounds=[(0, 1)] * len(rows),
        constraints={"type": "eq", "fun": lambda w: w[:l].sum() - 1},
        options={"ftol": 1e-15, "maxiter": 1000},
    )
    return float(np.linalg.norm(found.x @ rows))


@pytest.mark.parametrize(("l", "k"), [(2, 1), (3, 1), (1, 2), (2, 2)])
def test_the_shortest_vector_of_the_hull(l, k):
    """H = I, where the norm of the Hessian is the plain one."""
    generator = torch.Generator().manual_seed(l + 10 * k)
    grads = torch.randn(l, k, N, generator=generator, dtype=torch.float64)
    x = torch.zeros(1, N, dtype=torch.float64)
    values = torch.tensor([[1.0, 0.2][:k]], dtype=torch.float64)
    at, mu = Evaluation(values, grads[:1]), torch.tensor([0.7], dtype=torch.float64)
    kept = samples(x.expand(l, N), grads)
    measure = Stationarity()
    length, d = measure(at, kept, measure.near(kept, x), mu, Dense.start(1, x), torch.tensor([0]))
    assert length.item() == pytest.approx(d.norm().item(), rel=1e-6)
    assert length.item() == pytest.approx(shortest(grads, 0.2, 0.7), abs=1e-5)  # SLSQP's own accuracy


def test_at_a_kink_two_gradients_see_what_one_does_not():
    """|x_0| + x_1^2 at 0: each side's gradient has length 1, their hull contains 0."""
    x = torch.zeros(1, N, dtype=torch.float64)
    left, right = -torch.eye(N, dtype=torch.float64)[:1, None], torch.eye(N, dtype=torch.float64)[:1, None]
    at, mu, row = Evaluation(torch.zeros(1, 1).double(), right), torch.ones(1).double(), torch.tensor([0])
    measure, memory = Stationarity(radius=1e-3), Dense.start(1, x)
    both = samples(torch.cat([x, x]), torch.cat([left, right]))
    assert measure(at, both, measure.near(both, x), mu, memory, row)[0].item() < 1e-6
    far = samples(torch.cat([x + 1, x]), torch.cat([left, right]))  # too far away to count
    assert measure(at, far, measure.near(far, x), mu, memory, row)[0].item() == pytest.approx(1, rel=1e-6)
