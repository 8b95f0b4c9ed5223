"""Bounds of the network as it runs in float32: they hold whatever the order of its sums, and proofs allow for them."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import plica
from certify.zoo import BUILDERS, FLAT, images, network
from plica.certify.affine import Convolution, Matrix, Scale
from plica.certify.capture import capture
from plica.certify.intermediate import node_bounds
from plica.certify.rounding import FLOAT32, Slack
from plica.certify.sets import input_set
from plica.metrics import Unsupported
from plica.runs.encode import leaf_table
from plica.trust.audit.balls import Ball
from plica.trust.audit.bounds import Enclosure
from plica.trust.audit.certificates import RefusedError, check
from plica.trust.audit.executed import error
from plica.trust.audit.layers import trace

LOW, HIGH = torch.tensor(0.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)


def executed(graph, x):
    """Bounds of every node at x alone, so that nothing but roundings makes them differ."""
    inputs = input_set(plica.Lp("inf"), x.double(), torch.zeros(len(x)).double(), LOW, HIGH)
    return node_bounds(graph, inputs, rigorous=True, unit=FLOAT32)


def in_order(op, z, order):
    """A matrix or a convolution in float32, its sums added one by one in an order of the inputs' channels."""
    total = None
    for i in order(z.shape[-1] if isinstance(op, Matrix) else z.shape[1]).tolist():
        if isinstance(op, Matrix):
            part = z[..., i : i + 1] * op.right[i]
        else:
            weight = op.weight[:, i : i + 1] if isinstance(op, Convolution) else op.weight[i : i + 1]
            part = replace(op, weight=weight).linear(z[:, i : i + 1])
        total = part if total is None else total + part
    return total if op.offset is None else total + op.offset


@pytest.mark.parametrize("name", list(BUILDERS))
def test_values_in_float32_lie_within_the_bounds(name):
    """By torch for the model, alone and in a batch, and step by step with sums in three other orders."""
    net, x = network(name), images(6)
    graph = capture(net, x)
    bounds, single = executed(graph, x), graph.to(torch.float32)
    last = len(graph.nodes) - 1
    for logits in (net(x), torch.cat([net(row[None]) for row in x])):
        assert (bounds.low[last] <= logits.double()).all()
        assert (logits.double() <= bounds.high[last]).all()
    shuffle = lambda n: torch.randperm(n, generator=torch.Generator().manual_seed(0))  # noqa: E731
    for order in (torch.arange, lambda n: torch.arange(n).flip(0), shuffle):
        values = [x]
        for k, node in enumerate(single.nodes[1:], 1):
            z = [values[parent] for parent in node.parents]
            direct = (isinstance(node.op, Matrix) and node.op.left is None) or getattr(node.op, "groups", 2) == 1
            values.append(in_order(node.op, *z, order) if direct else node.op.forward(*z))
            assert (bounds.low[k] <= values[k].double()).all()
            assert (values[k].double() <= bounds.high[k]).all()
    assert (bounds.high[last] - bounds.low[last]).max() < 1e-2


def test_a_sum_in_the_worst_order_lies_within_the_bounds():
    """1 and many numbers of half a rounding each, which are all lost where 1 comes first."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(FLAT, 2, bias=False)).requires_grad_(False)
    net[1].weight[:] = 2.0**-24
    net[1].weight[:, 0] = 1
    x = torch.ones(1, 2, 6, 6)
    graph = capture(net, x)
    worst = in_order(graph.to(torch.float32).nodes[-1].op, x.flatten(1), torch.arange).double()
    exact = graph.forward(x.double())[-1]
    assert (exact - worst == (FLAT - 1) * FLOAT32).all()
    bounds = executed(graph, x)
    assert (bounds.low[len(graph.nodes) - 1] <= worst).all()
    audit = Enclosure(trace(net, x), Ball.around(x[0], torch.zeros_like(x[0]), torch.ones_like(x[0]), 0.0, 2), {}, True)
    assert (audit.low[-1] <= worst).all()


def check_radii(name, p, b, nodes):
    net, x = network(name), images(b)
    y, question = net(x).argmax(1), plica.MinRadius(plica.Lp(p))
    real = plica.certify(net, x, y, question, nodes=nodes)
    found = plica.certify(net, x, y, question, nodes=nodes, arithmetic="executed")
    assert found.arithmetic == ["executed"] * b
    assert (found.radius <= 1.01 * real.radius).all()  # of the same search; its precision is a hundredth
    assert (found.radius >= 0.97 * real.radius).all()
    leaves = leaf_table(found.evidence, torch.arange(b)).to_pylist()
    for row in range(b):
        own = [leaf for leaf in leaves if leaf["id"] == row]
        ball = Ball.around(
            x[row], torch.zeros_like(x[row]), torch.ones_like(x[row]), float(found.radius[row]), float(p)
        )
        check(trace(net, x[:1]), ball, int(y[row]), None, own, "executed")


@pytest.mark.parametrize(("name", "p"), [("leaky", 2), ("sigmoid", "inf"), ("batch norm", 1), ("pieces", "inf")])
def test_executed_radii_are_a_little_smaller_and_the_audit_finds_them_right(name, p):
    check_radii(name, p, b=1, nodes=4)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "p"), [(name, p) for name in BUILDERS for p in ("inf", 2, 1)])
def test_executed_radii_of_every_network(name, p):
    check_radii(name, p, b=2, nodes=30)


def cancelling():
    """Logits 0, (0.3 x + 1e7) - 1e7 and -1000: in float32 the second is 0 as well, and class 0 is the answer."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(1, 1), nn.Linear(1, 3)).requires_grad_(False)
    net[1].weight[:], net[1].bias[:] = 0.3, 1e7
    net[2].weight[:, 0], net[2].bias[:] = torch.tensor([0.0, 1, 0]), torch.tensor([0, -1e7, -1000])
    return net, torch.full((1, 1, 1), 0.5), torch.tensor([1])


def test_what_roundings_can_undo_is_not_proved_for_the_executed_network():
    net, x, y = cancelling()
    assert net(x).argmax() == 0
    question = plica.MinRadius(plica.Lp("inf"))
    real = plica.certify(net, x, y, question, nodes=8)
    assert real.radius > 0.4
    assert plica.certify(net, x, y, question, nodes=8, arithmetic="executed").radius == 0
    leaves = leaf_table(real.evidence, torch.arange(1)).to_pylist()
    ball = Ball.around(x[0], torch.zeros_like(x[0]), torch.ones_like(x[0]), float(real.radius), torch.inf)
    check(trace(net, x), ball, 1, None, leaves)
    with pytest.raises(RefusedError, match="not a positive one"):
        check(trace(net, x), ball, 1, None, leaves, "executed")
    with pytest.raises(RefusedError, match="arithmetic 'float16'"):
        check(trace(net, x), ball, 1, None, leaves, "float16")


class Normed(nn.Module):
    """Weights that are computed at every call."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, FLAT), requires_grad=False)

    def forward(self, x):
        return x.flatten(1) @ (self.weight / self.weight.norm(dim=1, keepdim=True)).T


def test_what_cannot_be_bounded_is_refused():
    net, x = Normed(), images(1)
    y, question = net(x).argmax(1), plica.MinRadius(plica.Lp(2))
    assert plica.certify(net, x, y, question, nodes=4).radius > 0
    with pytest.raises(Unsupported, match="computes weights anew"):
        plica.certify(net, x, y, question, nodes=4, arithmetic="executed")
    with pytest.raises(Unsupported, match="computes weights anew"):
        plica.bracket(net, x, y, question, gradients=10, nodes=4, arithmetic="executed")
    assert trace(net, x)[0].rounds
    assert not any(trace(network(name), x)[0].rounds or capture(network(name), x).rounds_constants for name in BUILDERS)
    with pytest.raises(ValueError, match="must be 'real' or 'executed', got 'float16'"):
        plica.certify(net, x, y, question, nodes=4, arithmetic="float16")


def test_sums_that_are_too_long_or_too_large_have_no_bound():
    slack, one = Slack(0.0, FLOAT32), torch.ones(1, 1, dtype=torch.float64)
    assert 17 * FLOAT32 <= slack.executed(Scale(factor=1.0), one) <= 18 * FLOAT32
    assert slack.executed(Scale(factor=1e20), 1e20 * one) == torch.inf
    assert error(1, 1e40 * one) == torch.inf
    assert error(16, 6e37 * one) == torch.inf  # the mean of 16 numbers of this size, whose sum overflows
    assert slack.executed(Matrix(right=one.expand(16, 1) / 16), 6e37 * one.expand(1, 16)) == torch.inf
    many = 2**23
    assert slack.executed(Matrix(right=one.expand(many, 1)), one.expand(1, many)) == torch.inf
    assert error(many, one) == torch.inf
