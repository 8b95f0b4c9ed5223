"""Lines lie on their side of an activation for every value of their parameter, and planes of max pooling likewise."""

import pytest
import torch

from plica.certify import curves
from plica.certify.maxpool import MaxPool
from plica.certify.relax import ReLU

CURVES = [
    curves.SIGMOID, curves.TANH, curves.SILU, curves.MISH, curves.GELU, curves.GELU_TANH, curves.LOG_SIGMOID,
    curves.SOFTSIGN, curves.HARDSWISH, curves.softplus(), curves.softplus(30.0), curves.elu(0.5), curves.elu(-0.5),
    curves.elu(1.6732632423543772, 1.0507009873554805), curves.elu(0.7, 1.0, 1 / 0.7),
]  # fmt: skip
ACTIVATIONS = [ReLU(), ReLU(0.1), ReLU(-0.5), ReLU(1.0), *CURVES]
KINDS = pytest.mark.parametrize("op", ACTIVATIONS, ids=str)


def intervals(n: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """Wide and narrow ones, of one sign and of both, some a point, some with an end at 0."""
    g = torch.Generator().manual_seed(0)
    middle = 6 * torch.randn(n, generator=g, dtype=torch.float64)
    half = 10 ** (4 * torch.rand(n, generator=g, dtype=torch.float64) - 3)
    low, high = middle - half, middle + half
    low[:20], high[20:40], high[40:60] = 0, 0, low[40:60]
    low, high = torch.minimum(low, high), torch.maximum(low, high)
    return low[:, None], high[:, None]


@KINDS
def test_lines_bound_the_activation_for_every_parameter(op):
    low, high = intervals()
    start = op.start(low, high)
    at = low + (high - low) * torch.linspace(0, 1, 301, dtype=torch.float64)
    at = at.clamp(low, high)
    for parameter in (start, start * 0, start * 0 + 1, torch.rand(start.shape, dtype=torch.float64)):
        lines = op.lines(op.prepare(low, high), parameter)
        assert (lines.low_slope * at + lines.low_offset <= op.forward(at)).all()
        assert (lines.up_slope * at + lines.up_offset >= op.forward(at)).all()
        size = op.magnitude(torch.maximum(low.abs(), high.abs()))
        for slope, offset in (lines[:2], lines[2:]):
            assert (slope.abs() * torch.maximum(low.abs(), high.abs()) + offset.abs() <= size + 1e-12).all()
    least, most = op.interval(low, high)
    assert (least <= op.forward(at)).all()
    assert (most >= op.forward(at)).all()


@KINDS
def test_lines_touch_the_activation_at_both_ends_or_inside(op):
    """Valid lines could be far away; these are not: each comes within roundings of the curve somewhere."""
    low, high = intervals()
    at = low + (high - low) * torch.linspace(0, 1, 2001, dtype=torch.float64)
    kinks = [torch.full_like(low, z).clamp(low, high) for z in getattr(op, "breaks", ())]
    at = torch.cat([at, *kinks], 1)
    parameter = (op.start(low, high) * curves.GAPS).round() / curves.GAPS  # lines of curves between these are mixed
    lines = op.lines(op.prepare(low, high), parameter)
    for slope, offset in (lines[:2], lines[2:]):
        gap = (slope * at + offset - op.forward(at)).abs().amin(1)
        assert (gap <= 1e-5 * (1 + (high - low)[:, 0] ** 2)).all()  # a grid of 2001 points


@KINDS
def test_a_bound_that_is_nan_stays_nan(op):
    low, high = torch.tensor([[torch.nan, -1.0]]), torch.tensor([[1.0, torch.nan]])
    lines = op.lines(op.prepare(low, high), op.start(low, high))
    a, constant = op.backward(torch.ones(1, 2), lines)
    assert (a.isnan() | constant.isnan()[:, None]).all()


@pytest.mark.parametrize(
    "pool",
    [
        MaxPool((2, 2), (2, 2), (0, 0), (1, 1), (6, 6)),
        MaxPool((3, 3), (2, 2), (1, 1), (1, 1), (6, 6)),
        MaxPool((3, 2), (1, 2), (1, 0), (1, 1), (6, 6)),
        MaxPool((2, 2), (1, 1), (0, 0), (2, 2), (6, 6)),
    ],
    ids=str,
)
def test_planes_bound_the_largest_of_a_window_for_every_parameter(pool):
    g = torch.Generator().manual_seed(0)
    low = 2 * torch.randn(4, 3, 6, 6, generator=g, dtype=torch.float64)
    high = low + 3 * torch.rand(low.shape, generator=g, dtype=torch.float64) ** 3
    z = low + (high - low) * torch.rand(200, *low.shape, generator=g, dtype=torch.float64).round(decimals=0)
    z[:100] = low + (high - low) * torch.rand(100, *low.shape, generator=g, dtype=torch.float64)
    z = z.flatten(0, 1)
    rows = torch.arange(4).repeat(200)
    start = pool.start(low, high)
    for parameter in (start, start * 0, start * 0 + 1, torch.rand(start.shape, dtype=torch.float64)):
        lines = pool.lines(pool.prepare(low, high), parameter.flatten(2))
        a = torch.randn(800, *pool.forward(low).shape[1:], generator=g, dtype=torch.float64)
        pulled, constant = pool.backward(a, lines.take(rows))
        bound = (pulled * z).flatten(1).sum(1) + constant
        exact = (a * pool.forward(z)).flatten(1).sum(1)
        assert (bound <= exact + 1e-12).all()
        assert (bound >= exact - 1e3).all()


def test_a_dominating_input_is_the_maximum_itself():
    pool = MaxPool((2, 2), (2, 2), (0, 0), (1, 1), (2, 2))
    low = torch.tensor([[[[0.0, 1.0], [5.0, 2.0]]]])
    lines = pool.lines(pool.prepare(low, low + 1), pool.start(low, low + 1))
    a, constant = pool.backward(torch.tensor([[[[-2.0]]]]), lines)
    torch.testing.assert_close(a, torch.tensor([[[[0.0, 0.0], [-2.0, 0.0]]]]))
    torch.testing.assert_close(constant, torch.zeros(1))
