"""The nearest point past several planes, beside scipy's linear programs and the conditions of optimality."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize

from plica.solver.linearized.planes import nearest


def case(n, k, seed, rows=17, dead=0.3):
    """Planes of unit length through points inside of the box, of which some do not count; all can be met at once."""
    generator = torch.Generator().manual_seed(seed)
    planes = torch.randn(rows, k, n, generator=generator, dtype=torch.float64)
    planes /= torch.linalg.vector_norm(planes, dim=2, keepdim=True)
    low = -torch.rand(rows, n, generator=generator, dtype=torch.float64)
    high = torch.rand(rows, n, generator=generator, dtype=torch.float64)
    inner = low + torch.rand(rows, n, generator=generator, dtype=torch.float64) * (high - low)
    rise = (planes * inner[:, None]).sum(2) - 0.1 * torch.rand(rows, k, generator=generator, dtype=torch.float64)
    counts = torch.rand(rows, k, generator=generator) > dead
    return planes * counts[:, :, None], rise, low, high


def exact(p, planes, rise, low, high):
    """The least norm, by scipy."""
    k, n = planes.shape
    box = list(zip(low, high, strict=True))
    if p == 2:
        rules = {"type": "ineq", "fun": lambda z: planes @ z - rise, "jac": lambda z: planes}
        start = np.clip(0, low, high)
        options = {"maxiter": 500, "ftol": 1e-14}
        found = minimize(lambda z: z @ z / 2, start, jac=lambda z: z, bounds=box, constraints=rules, options=options)
        return np.sqrt(2 * found.fun)
    if p == 1:
        sides = [(0, max(0, b)) for b in high] + [(0, max(0, -a)) for a in low]
        return linprog(np.ones(2 * n), -np.hstack([planes, -planes]), -rise, bounds=sides).fun
    one = np.ones((n, 1))
    rows = [[-planes, np.zeros((k, 1))], [np.eye(n), -one], [-np.eye(n), -one]]
    limits = np.concatenate([-rise, np.zeros(2 * n)])
    return linprog(np.append(np.zeros(n), 1), np.block(rows), limits, bounds=[*box, (0, None)]).fun


@pytest.mark.parametrize("p", [1, 2, math.inf])
@pytest.mark.parametrize(("n", "k"), [(2, 3), (5, 8), (30, 4)])
def test_the_optimum_that_scipy_finds(p, n, k):
    planes, rise, low, high = case(n, k, seed=n)
    z, slack = nearest(p, planes, rise, low, high, torch.zeros_like(low))
    counts = (planes != 0).any(2)
    assert (slack < 1e-6).all()
    assert ((planes * z[:, None]).sum(2) >= rise - 1e-6)[counts].all()
    assert ((z >= low - 1e-6) & (z <= high + 1e-6)).all()
    for i in range(len(z)):
        keep = counts[i].numpy()
        best = exact(p, planes[i].numpy()[keep], rise[i].numpy()[keep], low[i].numpy(), high[i].numpy())
        size = float(torch.linalg.vector_norm(z[i], p))
        assert size == pytest.approx(best, rel=1e-4, abs=1e-4)  # the ridge, and SLSQP's own tolerance


@pytest.mark.parametrize("p", [1, 2, math.inf])
def test_planes_that_the_box_cannot_meet_take_up_the_slack(p):
    plane = torch.tensor([[[1.0, 0.0]]], dtype=torch.float64)
    side = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    rise = torch.tensor([[2.0]], dtype=torch.float64)
    z, slack = nearest(p, plane, rise, -side, side, torch.zeros_like(side))
    assert z[0, 0] == pytest.approx(0.5, abs=1e-5)
    assert slack[0] == pytest.approx(1.5, abs=1e-5)


@pytest.mark.parametrize("p", [1, 2, math.inf])
def test_a_fixed_entry_stays(p):
    planes, rise, low, high = case(4, 3, seed=1)
    low[:, 2] = high[:, 2] = 0
    z, _ = nearest(p, planes, rise, low, high, torch.zeros_like(low))
    assert (z[:, 2].abs() < 1e-6).all()


@pytest.mark.parametrize("p", [1, 2, math.inf])
def test_a_row_does_not_depend_on_the_others(p):
    """In whole vectors of the processor, as the caller pads rows."""
    inputs = (*case(6, 4, seed=2, rows=48), torch.zeros(48, 6, dtype=torch.float64))
    together = nearest(p, *inputs)[0]
    alone = nearest(p, *(t[16:32] for t in inputs))[0]
    assert torch.equal(together[16:32], alone)
