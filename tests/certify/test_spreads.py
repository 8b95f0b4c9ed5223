"""Distances from the image inside a network, of the neurons whose sign is open: ours and the audit's."""

import math

import pytest
import torch
from torch import nn

import plica
from certify.zoo import BUILDERS, images, network
from plica.certify.capture import capture
from plica.certify.intermediate import node_bounds
from plica.certify.norms import with_norms
from plica.certify.relax import ReLU
from plica.certify.rounding import FLOAT32
from plica.certify.sets import input_set
from plica.certify.spreads import norm_above, side_by_side, slopes_between
from plica.trust.audit.balls import Ball
from plica.trust.audit.bounds import Enclosure
from plica.trust.audit.layers import trace


@pytest.mark.parametrize("slope", [0.0, 0.2, -0.3])
def test_slopes_from_the_centre_lie_between_two_that_are_met(slope):
    torch.manual_seed(0)
    centre = torch.randn(1, 200, dtype=torch.float64)
    low, high = centre - torch.rand(1, 200), centre + torch.rand(1, 200)
    middle, half = slopes_between(ReLU(slope), low, high, centre)
    z = low + torch.linspace(0, 1, 101, dtype=torch.float64)[:, None] * (high - low)
    apart = (z - centre).abs() > 1e-9
    f = ReLU(slope).forward
    seen = torch.where(apart, (f(z) - f(centre)) / torch.where(apart, z - centre, 1), middle)
    assert (seen >= middle - half - 1e-12).all()
    assert (seen <= middle + half + 1e-12).all()
    torch.testing.assert_close(torch.stack([seen.amin(0), seen.amax(0)]), torch.cat([middle - half, middle + half]))
    assert ((half > 0) == ((low < 0) & (high > 0))).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_norm_is_bounded_from_above_and_nearly_met(dtype):
    torch.manual_seed(0)
    plain = torch.randn(30, 50, dtype=dtype)
    turned = torch.linalg.qr(torch.randn(30, 30, dtype=dtype))[0]
    # two equal largest; one far above the others, with a start of the power method that is orthogonal to it
    equal = turned * torch.tensor([3.0, 3.0] + 28 * [1.0], dtype=dtype)
    hidden = torch.diag(torch.ones(30, dtype=dtype))
    hidden[:2, :2] = torch.tensor([[1.0, -0.9], [-0.9, 1.0]])
    for a, most in ((plain, 1.01), (equal, 1.01), (hidden, 1.03), (plain[:0], 1.0), (0 * plain, 1.0)):
        exact = float(torch.linalg.matrix_norm(a, 2)) if len(a) else 0.0
        bound = norm_above(a @ a.T)
        assert exact * (1 - 1e-6) <= bound <= most * exact + 1e-6
    assert norm_above(torch.full((2, 2), torch.nan, dtype=dtype)) == torch.inf
    assert norm_above(torch.full((2, 2), torch.inf, dtype=dtype)) == torch.inf


def test_the_norm_of_a_sum_is_bounded_for_all_its_terms_together():
    torch.manual_seed(0)
    parts = [torch.randn(20, n, dtype=torch.float64) * 4**-k for k, n in enumerate((30, 5, 12))]
    bound = side_by_side([a @ a.T for a in parts])
    u = [torch.randn(n, 1000, dtype=torch.float64) for n in (30, 5, 12)]
    for _ in range(50):  # an ascent on the norm of the sum over all vectors of length 1
        u = [a.T @ sum(b @ v for b, v in zip(parts, u, strict=True)) for a in parts]
        u = [v / v.norm(dim=0) for v in u]
    seen = float(sum(a @ v for a, v in zip(parts, u, strict=True)).norm(dim=0).max())
    alone = [float(torch.linalg.matrix_norm(a, 2)) for a in parts]
    assert seen <= bound <= 1.1 * seen
    assert bound < 0.95 * sum(alone)
    # of two at right angles the lengths are the legs of a triangle; one alone has its own norm
    legs = torch.diag(torch.tensor([9.0, 0.0])), torch.diag(torch.tensor([0.0, 9.0]))
    assert side_by_side(list(legs)) == pytest.approx(math.sqrt(18), rel=0.02)
    assert side_by_side([legs[0]]) == pytest.approx(3, rel=0.02)
    assert side_by_side([legs[0], torch.full((2, 2), torch.inf)]) == math.inf
    assert side_by_side([1e4 * legs[0], 0 * legs[0]]) == pytest.approx(300, rel=0.02)
    assert side_by_side([]) == 0


def stacked():
    """Deep enough, and with biases, for many open and many closed ReLUs."""
    torch.manual_seed(3)
    layers = [nn.Flatten(), nn.Linear(72, 30)]
    for _ in range(3):
        layers += [nn.ReLU(), nn.Linear(30, 30)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Linear(30, 3)).eval().requires_grad_(False)


NETWORKS = {"stacked": stacked} | {
    name: lambda name=name: network(name) for name in BUILDERS if name not in ("sigmoid", "smooth", "tanh")
}


# In turn small and large; the other radius of each in the slow tests.
@pytest.mark.parametrize(
    ("name", "radius"),
    [
        pytest.param(name, radius, marks=pytest.mark.slow if (i + k) % 2 else [])
        for i, name in enumerate(NETWORKS)
        for k, radius in enumerate((0.2, 1.0))
    ],
)
def test_no_input_is_farther_inside_than_the_bounds(name, radius):
    net, x = NETWORKS[name](), images(1)
    graph = with_norms(capture(net, x))
    ends = torch.zeros(x.shape[1:]).double(), torch.ones(x.shape[1:]).double()
    inputs = input_set(plica.Lp(2), x.double(), torch.tensor([radius]).double(), *ends)
    bounds = node_bounds(graph, inputs, rigorous=True)
    steps = trace(net, x)
    slopes = dict(enumerate(bounds.start.values()))
    audit = Enclosure(steps, Ball.around(x[0], *ends, radius, 2), slopes)
    theirs = iter(audit.near.values())
    assert bounds.balls
    assert len(bounds.balls) == len(audit.near)
    for k, ball in bounds.balls.items():
        is_open = (ball.low < 0) & (ball.high > 0)
        seen = farthest(graph, inputs, graph.nodes[k].parents[0], is_open)
        other = float(next(theirs))
        assert seen <= float(ball.spread) * (1 + 1e-12)
        assert seen <= other * (1 + 1e-12)
        # the audit must not be looser, or it would refuse proofs; their matrices are the same but for roundings
        assert other <= float(ball.spread)
    if name == "stacked":
        assert seen > 0.2 * float(ball.spread)
        assert float(ball.spread) < 0.5 * float(bounds.spread[graph.nodes[k].parents[0]])


def farthest(graph, inputs, node, is_open):
    """The largest distance that an ascent from 100 inputs finds."""
    torch.manual_seed(0)
    step = torch.randn(100, *inputs.x.shape[1:], dtype=torch.float64)
    found, centre = 0.0, graph.forward(inputs.x)[node]
    for _ in range(60):
        size = step.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        point = (inputs.x + step / size * inputs.radius).clamp(0, 1).requires_grad_(True)
        values = graph.forward(point)[node] - centre
        apart = (values * is_open).flatten(1).norm(dim=1)
        found = max(found, float(apart.detach().max()))
        (grad,) = torch.autograd.grad(apart.sum(), point)
        step = (point - inputs.x).detach() + 0.3 * inputs.radius * grad / grad.norm().clamp(min=1e-12) * 10
    return found


@pytest.mark.parametrize("name", ["relu", "residual"])
def test_many_images_at_once_have_the_distances_of_each(name):
    net, x = NETWORKS[name](), images(3)
    graph = with_norms(capture(net, x))
    ends = torch.zeros(x.shape[1:]).double(), torch.ones(x.shape[1:]).double()
    radius = torch.tensor([0.1, 0.5, 1.0]).double()

    def balls(rows):
        return node_bounds(graph, input_set(plica.Lp(2), x[rows].double(), radius[rows], *ends)).balls

    together, alone = balls(slice(None)), [balls(slice(row, row + 1)) for row in range(3)]
    for k, ball in together.items():
        for part, own in zip(ball, zip(*(each[k] for each in alone), strict=True), strict=True):
            torch.testing.assert_close(part, torch.cat(own))


def test_a_smaller_weight_is_a_larger_distance():
    net, x = NETWORKS["residual"](), images(1)
    graph = with_norms(capture(net, x))
    ends = torch.zeros(x.shape[1:]).double(), torch.ones(x.shape[1:]).double()
    plain, weighted = (
        node_bounds(graph, input_set(metric, x.double(), torch.tensor([radius]).double(), *ends)).balls
        for metric, radius in ((plica.Lp(2), 0.4), (plica.WeightedLp(2, torch.tensor(0.5)), 0.2))
    )
    for k, ball in plain.items():
        torch.testing.assert_close(weighted[k].spread, ball.spread)


def test_values_as_they_run_lie_as_far_away_as_roundings_can_move_them():
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(72, 5), nn.ReLU(), nn.Linear(5, 3)), images(1)
    net.double().requires_grad_(False)
    net[1].bias -= net[:2](x.double())[0]  # all signs are open
    graph, ends = with_norms(capture(net, x.double())), (torch.zeros(2, 6, 6).double(), torch.ones(2, 6, 6).double())
    inputs = input_set(plica.Lp(2), x.double(), torch.tensor([1e-12]).double(), *ends)
    bounds = node_bounds(graph, inputs, rigorous=True, unit=FLOAT32)
    ((k, ball),) = bounds.balls.items()
    taken = graph.nodes[k].parents[0]
    moved = float(bounds.slack.error[taken].norm())
    assert moved > 1e-6
    assert float(ball.spread) > moved
    assert float(bounds.spread[taken]) > moved
    slopes = dict(enumerate(bounds.start.values()))
    audit = Enclosure(trace(net, x.double()), Ball.around(x[0], *ends, 1e-12, 2), slopes, executed=True)
    ((at, near),) = audit.near.items()
    assert float(near) > float(audit.errors[at].norm()) > 1e-6
    assert float(audit.spreads[at]) > float(audit.errors[at].norm())
