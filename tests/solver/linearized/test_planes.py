"""The nearest point past several planes, beside scipy's linear programs and the conditions of optimality."""

import math

import pytest
import torch

from plica.solver.linearized.planes import nearest
from programs import least_norm


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
        best = least_norm(p, planes[i].numpy()[keep], rise[i].numpy()[keep], low[i].numpy(), high[i].numpy())
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
