"""Bounds of every node hold at every point of the set that is tried; optimised bounds of margins likewise."""

import math

import pytest
import torch

import plica
from certify.zoo import BUILDERS, images, network
from plica.certify.backward import Pass
from plica.certify.capture import capture
from plica.certify.intermediate import node_bounds
from plica.certify.sets import input_set
from plica.certify.slopes import Ascent, Rows, optimise
from plica.trust.audit.balls import Ball
from plica.trust.audit.bounds import Enclosure
from plica.trust.audit.layers import trace

NETWORKS = pytest.mark.parametrize("name", list(BUILDERS))
SETS = (("inf", 0.2), (2, 0.3), (1, 0.8))
# Each network with one of the norms; with the other two in the slow tests.
IN_TURN = pytest.mark.parametrize(
    ("name", "p", "radius"),
    [
        pytest.param(name, *ball, marks=pytest.mark.slow if (i + k) % 3 else [])
        for i, name in enumerate(BUILDERS)
        for k, ball in enumerate(SETS)
    ],
)
LOW, HIGH = torch.tensor(0.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)


def points(inputs, graph, n=90):
    """Points of each set: random ones, corners, and steps along gradients of random combinations of the logits.

    (n, b, *image)
    """
    g = torch.Generator().manual_seed(0)
    shape = (n, *inputs.x.shape)
    u = torch.rand(shape, generator=g, dtype=inputs.x.dtype)
    corner = inputs.low + (inputs.high - inputs.low) * u.round()
    z = inputs.low + (inputs.high - inputs.low) * u
    z[: n // 3] = corner[: n // 3]
    x = inputs.x.clone().requires_grad_(True)
    for k in range(n // 3, n // 3 + 20):
        logits = graph.forward(x)[-1]
        (grad,) = torch.autograd.grad((logits * torch.randn(logits.shape, generator=g).double()).sum(), x)
        steep = grad.sign() if k % 2 else 1e6 * grad
        z[k] = (inputs.x + steep).clamp(inputs.low, inputs.high)
    delta = (z - inputs.x).flatten(2)
    size = torch.linalg.vector_norm(delta, inputs.p, dim=2)
    scale = (inputs.radius / size.clamp(min=1e-12)).clamp(max=1) * (1 - 1e-12)
    return inputs.x + (delta * scale[..., None]).view(shape)


@IN_TURN
def test_bounds_of_every_node_hold(name, p, radius):
    x = images().double()
    graph = capture(network(name), images())
    inputs = input_set(plica.Lp(p), x, torch.full((4,), radius).double(), LOW, HIGH)
    crown, intervals = (node_bounds(graph, inputs, crown=crown, rigorous=True) for crown in (True, False))
    z = points(inputs, graph)
    for k, value in enumerate(graph.forward(z.flatten(0, 1))):
        value = value.view(len(z), 4, *value.shape[1:])
        for bounds in (crown, intervals):
            assert (bounds.low[k] <= value).all()
            assert (value <= bounds.high[k]).all()
    search = node_bounds(graph.to(torch.float32), input_set(plica.Lp(p), x.float(), inputs.radius.float(), LOW, HIGH))
    for k in crown.low:  # float32 and float64 agree to roundings of float32
        torch.testing.assert_close(search.low[k].double(), crown.low[k], rtol=1e-3, atol=1e-4)


@NETWORKS
def test_crown_is_at_least_as_tight_as_intervals(name):
    graph = capture(network(name), images())
    inputs = input_set(plica.Lp("inf"), images().double(), torch.full((4,), 0.05).double(), LOW, HIGH)
    crown, intervals = node_bounds(graph, inputs), node_bounds(graph, inputs, crown=False)
    for k in crown.low:
        assert (crown.low[k] >= intervals.low[k] - 1e-12).all()
        assert (crown.high[k] <= intervals.high[k] + 1e-12).all()
    deeper = graph.activated() & graph.behind_activations() - {k for k, _ in graph.activations()}
    # a limit that is subtracted and added again leaves the interval of some nodes as exact as it was
    tighter = any if name == "clamped" else all
    assert tighter((crown.low[k] > intervals.low[k] + 1e-6).any() for k in deeper)


@IN_TURN
def test_optimised_bounds_of_margins_hold_and_are_no_worse(name, p, radius):
    """Also under settled signs with multipliers, at the points where the signs are so."""
    graph = capture(network(name), images())
    x, g = images().double(), torch.Generator().manual_seed(0)
    inputs = input_set(plica.Lp(p), x, torch.full((4,), radius).double(), LOW, HIGH)
    bounds = node_bounds(graph, inputs, rigorous=True)
    a = torch.randn(4, 3, generator=g, dtype=torch.float64)
    divided = [graph.nodes[k].parents[0] for k, op in graph.activations() if op.splits]
    signs = {k: torch.randint(-1, 2, bounds.low[k].shape, generator=g).double() for k in divided[-1:]}
    z = points(inputs, graph)
    values = graph.forward(z.flatten(0, 1))
    margin = (values[-1].view(len(z), 4, 3) * a).sum(-1)
    for settled in ({}, signs):
        agrees = torch.ones(len(z), 4, dtype=torch.bool)
        if settled:  # settled as at some point of each set, so that it is not empty
            for k, sign in settled.items():
                value = values[k].view(len(z), *sign.shape)
                sign *= 0
                sign += value[60].sign() * (torch.rand(sign.shape, generator=g) < 0.3)
                agrees &= ((value * sign) >= 0).flatten(2).all(2)
            assert agrees[60].all()
        slack = bounds.slack
        rows = Rows(graph, a, inputs, bounds, settled, slack)
        start, beta = rows.start(), {k: torch.zeros_like(sign) for k, sign in settled.items()}
        first = rows.lower(start, beta)
        best, parameters, multipliers = optimise(rows, start, beta, Ascent(steps=15))
        assert (best >= first).all()
        torch.testing.assert_close(rows.lower(parameters, multipliers), best)
        assert (best <= torch.where(agrees, margin, torch.inf).amin(0)).all()
        random = {k: torch.rand(v.shape, generator=g, dtype=torch.float64) for k, v in start.items()}
        pulls = {k: torch.rand(v.shape, generator=g, dtype=torch.float64) for k, v in beta.items()}
        assert (rows.lower(random, pulls) <= torch.where(agrees, margin, torch.inf).amin(0)).all()


def test_a_bound_allows_for_the_roundings_of_a_long_sum():
    """1 - 1 + tiny in another order: the bound in float64 is below the exact value, which Python's fsum gives."""
    torch.manual_seed(0)
    net = torch.nn.Linear(4096, 2, bias=False).double()
    with torch.no_grad():
        net.weight[:, 1::2] = -net.weight[:, ::2] * (1 + 1e-7)
        net.weight *= 1e6
    x = torch.rand(1, 4096).double()
    x[:, 1::2] = x[:, ::2]
    graph = capture(net, x)
    inputs = input_set(plica.Lp("inf"), x.double(), torch.zeros(1).double(), LOW, HIGH)
    bounds = node_bounds(graph, inputs, rigorous=True)
    exact = [math.fsum(w * v for w, v in zip(row, x[0].tolist(), strict=True)) for row in net.weight.tolist()]
    slack = bounds.slack
    for sign in (1.0, -1.0):
        a = sign * torch.eye(2, dtype=torch.float64)
        low = Pass(graph, inputs, {}, slack=slack).lower(a, 1, torch.zeros(2).long())
        for bound, value in zip(low.tolist(), exact, strict=True):
            assert bound < sign * value < bound + 1e-3
        # at least n units of rounding of the sum of the terms' absolute values, whatever this sum's own error is
        terms = (net.weight.abs() @ x[0]).detach()
        moved = Pass(graph, inputs, {}).lower(a, 1, torch.zeros(2).long()) - low
        assert (moved >= 4096 * 2**-53 * terms).all()
    audit = Enclosure(trace(net, x), Ball.around(x[0], LOW, HIGH, 0.0, math.inf), {})
    value = net(x).detach()
    for low, high in ((bounds.low[1], bounds.high[1]), (audit.low[1], audit.high[1])):
        assert (value - low >= 4096 * 2**-53 * terms).all()
        assert (high - value >= 4096 * 2**-53 * terms).all()
