"""l_2 balls inside a network: norms of operations; ReLUs that are not all at the ends of their intervals at once."""

from dataclasses import replace

import pytest
import torch

import plica
from certify.zoo import BUILDERS, images, network
from plica.certify.affine import Convolution, Matrix
from plica.certify.balls import Ball, offset
from plica.certify.capture import capture
from plica.certify.norms import with_norms
from plica.certify.prove import Networks, Region
from plica.certify.radius import crown_margin
from plica.certify.transposed import TransposedConvolution
from plica.trust.audit.layers import trace
from plica.trust.audit.stretch import stretches


@pytest.mark.parametrize("slope", [0.0, 0.2, -0.3])
def test_an_offset_holds_at_every_point_and_is_met_by_some(slope):
    torch.manual_seed(0)
    rows, n = 20, 5
    a, g, centre = (torch.randn(rows, n, dtype=torch.float64) for _ in range(3))
    low, high = centre - torch.rand(rows, n), centre + torch.rand(rows, n)
    spread = 2 * torch.rand(rows, dtype=torch.float64)
    bound, _ = offset(a, g, slope, Ball(low, high, centre, spread))
    step = torch.randn(4000, rows, n, dtype=torch.float64)
    step = step / step.norm(dim=2, keepdim=True) * spread[:, None] * torch.rand(4000, rows, 1) ** 0.2
    z = torch.minimum(torch.maximum(centre + step, low), high)  # nearer to the centre than the step: in the ball too
    least = (a * torch.maximum(z, slope * z) - g * z).sum(2).amin(0)
    assert (bound <= least).all()
    assert ((least - bound) / (1 + least.abs())).median() < 0.2


@pytest.mark.parametrize("slope", [0.0, 0.2, -0.3])
def test_an_offset_is_near_the_best_of_all_multipliers(slope):
    torch.manual_seed(0)
    rows, n = 30, 6
    a, g, centre = (torch.randn(rows, n, dtype=torch.float64) for _ in range(3))
    low, high = centre - torch.rand(rows, n), centre + torch.rand(rows, n)
    spread = torch.rand(rows, dtype=torch.float64)
    bound, _ = offset(a, g, slope, Ball(low, high, centre, spread))
    z = low + (high - low) * torch.linspace(0, 1, 501, dtype=torch.float64)[:, None, None]
    value, square = a * torch.maximum(z, slope * z) - g * z, (z - centre) ** 2
    best = torch.stack(
        [(value + m / 2 * square).amin(0).sum(1) - m / 2 * spread**2 for m in torch.logspace(-3, 3, 300).double()]
    ).amax(0)
    short = (best - bound) / (1e-3 + best.abs())
    assert (short < 0.01).sum() >= 27


@pytest.mark.parametrize("name", BUILDERS)
def test_no_operation_stretches_a_distance_by_more_than_its_norm(name):
    net, x = network(name), images(2)
    graph = with_norms(capture(net, x))
    assert graph.norms is not None
    torch.manual_seed(0)
    for k, node in enumerate(graph.nodes[1:], 1):
        shapes = [graph.nodes[parent].shape for parent in node.parents]
        z, other = ([torch.randn(50, *shape, dtype=torch.float64) for shape in shapes] for _ in range(2))
        for _ in range(20):  # towards the direction that is stretched most
            moved = node.op.forward(*z) - node.op.forward(*other)
            apart = torch.cat([(p - q).flatten(1) for p, q in zip(z, other, strict=True)], 1).norm(dim=1)
            assert (moved.flatten(1).norm(dim=1) <= graph.norms[k] * apart).all()
            if not hasattr(node.op, "transpose"):
                break
            steps = node.op.transpose(moved / moved.norm().clamp(min=1e-9), tuple(shapes))
            z = [q + p for p, q in zip(steps, other, strict=True)]
    dense = (Convolution, TransposedConvolution, Matrix)
    ours = [norm for norm, node in zip(graph.norms, graph.nodes, strict=True) if isinstance(node.op, dense)]
    steps = trace(net, x[:1])
    exact = [norm for norm, step in zip(stretches(steps), steps, strict=True) if getattr(step.op, "dense", False)]
    # the audit's must not be larger; a periodic grid stretches more than the few places of a small image
    assert len(exact) == len(ours)
    assert all(norm <= our <= 3 * norm for norm, our in zip(exact, ours, strict=True))


@pytest.mark.parametrize("name", ["relu", "leaky", "strides", "residual"])
def test_a_ball_inside_the_network_makes_bounds_tighter(name):
    net, x = network(name), images(3)
    y = net(x).argmax(1)
    a = torch.nn.functional.one_hot(y, 3).double()
    a = (a - a.roll(1, 1))[:, None]
    region = Region(plica.Lp(2), torch.zeros(x.shape[1:]), torch.ones(x.shape[1:]))
    radius = torch.full((3,), 0.8, dtype=torch.float64)
    graph = with_norms(capture(net, x))
    with_balls, without = (
        crown_margin(Networks(g, g), region, x, a, radius, rigorous=True)[0]
        for g in (graph, replace(graph, norms=None))
    )
    assert with_balls.mean() > without.mean()  # not in every row: other bounds choose other lines
    step = torch.randn(2000, *x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    step = 0.8 * step / step.flatten(2).norm(dim=2).view(2000, 3, 1, 1, 1)
    inside = (x.double() + step).clamp(0, 1)
    seen = (graph.forward(inside.flatten(0, 1))[-1].view(2000, 3, 3) * a[:, 0]).sum(2).amin(0)
    assert (with_balls <= seen).all()
