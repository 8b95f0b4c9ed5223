"""Better lines behind the bounds inside the network."""

from dataclasses import replace

import pytest
import torch

import plica
from plica.certify import prove
from plica.certify.backward import Pass
from plica.certify.capture import capture
from plica.certify.inner import ASCENT, optimised, size_of_pass
from plica.certify.intermediate import node_bounds
from plica.certify.prove import Effort, Networks, Prover, Region
from plica.certify.slopes import Ascent

RADIUS = 0.2


def deep(depth=5, width=20):
    torch.manual_seed(0)
    layers = [torch.nn.Linear(10, width)]
    for _ in range(depth - 1):
        layers += [torch.nn.ReLU(), torch.nn.Linear(width, width)]
    net = torch.nn.Sequential(*layers, torch.nn.ReLU(), torch.nn.Linear(width, 3)).eval()
    for weight in net.parameters():
        weight.data *= 2
    return net


def around(net, radius, p=float("inf")):
    x = torch.full((1, 10), 0.5)
    region = Region(plica.Lp(p), torch.zeros(10), torch.ones(10))
    graph = Networks.of(capture(net, x), p).search
    return graph, region.around(x, torch.tensor([radius]), torch.float32), region, x


@pytest.mark.parametrize(("p", "gain"), [(float("inf"), 0.5), (2.0, 0.01)])
def test_the_bound_that_is_negative_rises_and_intervals_hold(p, gain):
    """Under l_2 it can rise little: the gradient leaves out how far values lie from the image's."""
    net = deep()
    graph, inputs, _, _ = around(net, 0.2, p)
    a = torch.tensor([[1.0, -1, 0], [-1, 1, 0]])  # one of them is negative
    before = node_bounds(graph, inputs)
    slopes = optimised(graph, inputs, a, before.start, 0.0, lambda: True, replace(ASCENT, steps=10))
    after = node_bounds(graph, inputs, slopes=slopes)
    first = torch.zeros(2, dtype=torch.long)
    low = [
        Pass(graph, inputs, bounds.lines, balls=bounds.balls).lower(a, len(graph.nodes) - 1, first)
        for bounds in (before, after)
    ]
    assert low[0][1] < 0
    assert low[1][1] > low[0][1] + gain
    direction = torch.randn(500, 10)
    scale = 0.2 / direction.norm(p, dim=1, keepdim=True)
    points = (0.5 + direction * scale * torch.rand(500, 1)).clamp(0, 1)
    for k, value in enumerate(graph.forward(points)):
        assert (value >= after.low[k] - 1e-5).all()
        assert (value <= after.high[k] + 1e-5).all()


def test_no_step_and_no_time_leave_the_lines():
    graph, inputs, _, _ = around(deep(), 0.2)
    begin = node_bounds(graph, inputs).start
    a = torch.tensor([[1.0, -1, 0]])
    for found in (
        optimised(graph, inputs, a, begin, 0.0, lambda: True, Ascent(steps=0)),
        optimised(graph, inputs, a, begin, 0.0, lambda: False),
    ):
        assert all(torch.equal(found[k], begin[k]) for k in begin)


def test_a_proof_is_confirmed_with_them(monkeypatch):
    net = deep()
    _, _, region, x = around(net, 0.1)
    own = int(net(x).argmax())
    a = torch.stack([torch.eye(3)[own] - torch.eye(3)[k] for k in range(3) if k != own]).double()

    def attempted(radius):
        prover = Prover(Networks.of(capture(net, x)), region, x, a)
        return prover.attempt(radius, Effort(0.0, nodes=400)), prover

    found, prover = attempted(RADIUS)
    assert found
    assert prover.slopes is not None
    evidence = prover.confirm(RADIUS, prover.leaves())
    assert evidence is not None
    assert torch.equal(evidence.slopes, prove.packed(prover.slopes, 1)[0])
    monkeypatch.setattr(prove, "INNER", 0.0)
    spent = prover.nodes
    found, prover = attempted(RADIUS)
    assert prover.slopes is None
    assert not found or prover.nodes > spent


def test_size_of_a_pass():
    graph, inputs, _, _ = around(deep(depth=2, width=4), 0.5)
    bounds = node_bounds(graph, inputs)
    rows, coefficients = size_of_pass(graph, bounds)
    taken = sorted(graph.activated())
    counts = [int(((bounds.low[k] < 0) & (bounds.high[k] > 0)).sum()) for k in taken]
    assert rows == 2 * sum(counts)
    assert coefficients == sum(
        2 * n * (10 + sum(torch.Size(node.shape).numel() for node in graph.nodes[1 : k + 1]))
        for n, k in zip(counts, taken, strict=True)
    )
