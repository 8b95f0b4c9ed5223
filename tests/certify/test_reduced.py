"""A network reduced to what is open over one set: the same values there, and the same bounds."""

import pytest
import torch
from torch import nn

import plica
from plica.certify.capture import capture
from plica.certify.intermediate import node_bounds
from plica.certify.norms import with_norms
from plica.certify.reduced import OpenReLU, can_be_reduced, reduced
from plica.certify.sets import input_set
from plica.certify.slopes import Rows


def rows(net, x, radius, p="inf"):
    graph = with_norms(capture(net, x))
    inputs = input_set(plica.Lp(p), x.double(), torch.tensor([radius]).double(), torch.tensor(0.0), torch.tensor(1))
    a = torch.randn(5, graph.nodes[-1].shape[0], dtype=torch.float64)
    return Rows(graph, a, inputs, node_bounds(graph, inputs), {})


def dense():
    return nn.Sequential(
        nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 16, bias=False), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(),
        nn.Linear(12, 3),
    )  # fmt: skip


def convolutional():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3, stride=2), nn.LeakyReLU(0.1), nn.Flatten(),
        nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 3),
    )  # fmt: skip


@pytest.mark.parametrize("p", ["inf", 2])
@pytest.mark.parametrize(("net", "shape"), [(dense, (6,)), (convolutional, (1, 6, 6))])
def test_values_and_bounds_are_those_of_the_whole_network(net, shape, p):
    torch.manual_seed(1)
    whole = rows(net(), torch.rand(1, *shape), 0.05 if p == "inf" else 0.2, p)
    assert bool(whole.bounds.balls) == (p == 2)
    graph, bounds, numbers = reduced(whole.graph, whole.bounds)
    taken = [whole.graph.nodes[k].parents[0] for k, _ in whole.graph.activations()]
    low, high = (torch.cat([side[k].flatten() for k in taken]) for side in (whole.bounds.low, whole.bounds.high))
    assert numbers.tolist() == ((low < 0) & (high > 0)).nonzero()[:, 0].tolist()
    assert 0 < len(numbers) < len(low)
    size = {k: torch.Size(g.nodes[k].shape).numel() for g in (graph,) for k in taken}
    assert (size[taken[0]] < 20) == (net is dense)
    points = whole.inputs.low + torch.rand(50, *shape, dtype=torch.float64) * (whole.inputs.high - whole.inputs.low)
    points = points if p == "inf" else whole.inputs.x + (points - whole.inputs.x) / points[0].numel() ** 0.5
    torch.testing.assert_close(_forward(graph, points), whole.graph.forward(points)[-1])

    function = torch.arange(5).repeat(8)
    parameter, sign = torch.rand(40, len(low), dtype=torch.float64), torch.zeros(40, len(low), dtype=torch.float64)
    sign[:, numbers] = torch.randint(-1, 2, (40, len(numbers)), dtype=torch.float64)
    beta = torch.rand(40, len(low), dtype=torch.float64)
    own = Rows(graph, whole.a, whole.inputs, bounds, {}).take(function)
    full = whole.take(function)
    values = []
    for which, columns in ((full, torch.arange(len(low))), (own, numbers)):
        shapes = {k: which.bounds.low[k].shape[1:] for k in taken}
        parts = [part[:, columns].split([s.numel() for s in shapes.values()], 1) for part in (parameter, sign, beta)]
        slopes, signs, betas = ({k: v.view(40, *shapes[k]) for k, v in zip(taken, part, strict=True)} for part in parts)
        which.signs.update(signs)
        activations = {k: j for j, k in zip((j for j, _ in graph.activations()), taken, strict=True)}
        values.append(which.lower({activations[k]: v for k, v in slopes.items()}, betas))
    torch.testing.assert_close(*values)


def _forward(graph, points):
    """Activations with known signs are linear."""
    values = [points]
    for node in graph.nodes[1:]:
        z = [values[parent] for parent in node.parents]
        if isinstance(node.op, OpenReLU):
            flat = z[0].flatten(1)
            value = flat * node.op.factor
            value[:, node.op.entries] = torch.maximum(flat, node.op.slope * flat)[:, node.op.entries]
            values.append(value.view(z[0].shape))
        else:
            values.append(node.op.forward(*z))
    return values[-1]


def test_networks_with_other_activations_are_left_as_they_are():
    for activation in (nn.Sigmoid(), nn.Identity()):
        one = rows(nn.Sequential(nn.Linear(4, 5), activation, nn.Linear(5, 3)), torch.rand(1, 4), 0.1)
        assert not can_be_reduced(one.graph, one.bounds)
