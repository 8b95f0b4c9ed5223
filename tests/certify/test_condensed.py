"""The network between open neurons: the same values over its set, and the same bounds, as the whole network."""

import math

import pytest
import torch
from torch import nn

import plica
from plica.certify import condensed, intermediate
from plica.certify.affine import Convolution
from plica.certify.capture import capture
from plica.certify.condensed import can_be_condensed
from plica.certify.merged import merged
from plica.certify.norms import with_norms
from plica.certify.sets import input_set
from plica.certify.slopes import Rows


class Residual(nn.Module):
    """Two ways from the first ReLU to a sum, one of which skips a ReLU; a layer takes the image as well."""

    def __init__(self):
        super().__init__()
        self.stem, self.down = nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.Conv2d(4, 3, 3, padding=1)
        self.skip, self.second = nn.Conv2d(4, 3, 1), nn.Conv2d(3, 3, 3, padding=1)
        self.image, self.third, self.last = nn.Linear(128, 6), nn.Linear(48, 6), nn.Linear(6, 3)

    def forward(self, x):
        z = self.stem((x - 0.5) / 0.3).relu()
        z = (self.second(self.down(z).relu()) + self.skip(z)).relu()
        return self.last((self.third(z.flatten(1)) + self.image(x.flatten(1)) / 3).relu())


def plain():
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 8), nn.ReLU(),
        nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3),
    )  # fmt: skip


def sets(net, p):
    torch.manual_seed(3)
    net, x = net(), torch.rand(1, 2, 8, 8)
    graph = with_norms(capture(net, x))
    radius = torch.tensor([0.03 if p == "inf" else 0.3]).double()
    return graph, input_set(plica.Lp(p), x.double(), radius, torch.tensor(0.0), torch.tensor(1))


def samples(inputs, number):
    points = inputs.low + torch.rand(number, *inputs.x.shape[1:], dtype=torch.float64) * (inputs.high - inputs.low)
    if inputs.p == 2:
        moved = points - inputs.x
        points = inputs.x + moved * (inputs.radius / moved.flatten(1).norm(dim=1)).clamp(max=1).view(-1, 1, 1, 1)
    return points


@pytest.mark.parametrize("p", ["inf", 2])
@pytest.mark.parametrize("net", [Residual, plain])
def test_values_and_bounds_are_those_of_the_whole_network(net, p, monkeypatch):
    graph, inputs = sets(net, p)
    own = intermediate.node_bounds(graph, inputs)
    monkeypatch.setattr(intermediate, "can_be_condensed", lambda graph: False)
    whole = intermediate.node_bounds(graph, inputs)
    assert own.condensed is not None
    assert whole.condensed is None
    entries, taken = own.condensed.entries, [graph.nodes[k].parents[0] for k, _ in graph.activations()]
    for k in taken:
        low, high = whole.low[k].flatten(), whole.high[k].flatten()
        assert entries[k].tolist() == ((low < 0) & (high > 0)).nonzero()[:, 0].tolist()
        assert len(entries[k]) < len(low)
        torch.testing.assert_close(own.low[k].flatten()[entries[k]], low[entries[k]])
        torch.testing.assert_close(own.high[k].flatten()[entries[k]], high[entries[k]])
    assert sum(map(len, entries.values())) > 5
    numbers, flat = own.condensed.numbers(), torch.cat([whole.low[k].flatten() for k in taken])
    torch.testing.assert_close(flat[numbers], torch.cat([own.condensed.low[k][0] for k in taken]))

    network, points = own.condensed.condensed(), samples(inputs, 50)
    torch.testing.assert_close(_forward(network, points), graph.forward(points)[-1])

    a = torch.randn(20, 3, dtype=torch.float64)
    parameter = torch.rand(20, len(flat), dtype=torch.float64)
    sign, beta = (torch.zeros(20, len(flat), dtype=torch.float64) for _ in range(2))
    sign[:, numbers] = torch.randint(-1, 2, (20, len(numbers)), dtype=torch.float64)
    beta[:, numbers] = torch.rand(20, len(numbers), dtype=torch.float64)
    small = intermediate.Bounds(own.condensed.low, own.condensed.high, balls=own.condensed.balls)
    values = []
    for rows, columns in (
        (Rows(graph, a, inputs, whole, {}), torch.arange(len(flat))),
        (Rows(network, a, inputs, small, {}), numbers),
    ):
        shapes = {k: rows.bounds.low[k].shape[1:] for k in taken}
        parts = [part[:, columns].split([s.numel() for s in shapes.values()], 1) for part in (parameter, sign, beta)]
        slopes, signs, betas = ({k: v.view(20, *shapes[k]) for k, v in zip(taken, part, strict=True)} for part in parts)
        rows.signs.update(signs)
        values.append(rows.lower({j: slopes[graph.nodes[j].parents[0]] for j, _ in graph.activations()}, betas))
    torch.testing.assert_close(*values)


def _forward(graph, points):
    values = {0: points}
    used = {id(node) for node in graph.used()}
    for k, node in enumerate(graph.nodes[1:], 1):
        if id(node) in used:
            values[k] = node.op.forward(*(values[parent] for parent in node.parents))
    return values[len(graph.nodes) - 1]


def test_matrices_that_would_be_too_large_are_not_made(monkeypatch):
    graph, inputs = sets(Residual, "inf")
    whole = intermediate.node_bounds(graph, inputs)
    monkeypatch.setattr(condensed, "LARGEST", 1000)
    own = intermediate.node_bounds(graph, inputs)
    assert whole.condensed is not None
    assert own.condensed is None
    last = len(graph.nodes) - 1
    for k in (last - 1, last):
        torch.testing.assert_close(own.low[k], whole.low[k])


def test_bounds_on_the_far_side_are_left_out_only_where_the_sign_is_known():
    graph, inputs = sets(Residual, "inf")
    bounds, values = intermediate.node_bounds(graph, inputs, rigorous=True), graph.forward(samples(inputs, 500))
    assert bounds.condensed is None
    for k in {graph.nodes[j].parents[0] for j, _ in graph.activations()}:
        assert bool((bounds.low[k] <= values[k]).all())
        assert bool((values[k] <= bounds.high[k]).all())


def test_networks_without_convolutions_and_other_activations_are_left_as_they_are():
    x, image = torch.rand(1, 4), torch.rand(1, 1, 4, 4)
    assert not can_be_condensed(capture(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), x))
    for activation, is_condensed in ((nn.ReLU(), True), (nn.LeakyReLU(0.1), False), (nn.Sigmoid(), False)):
        net = nn.Sequential(nn.Conv2d(1, 2, 3), activation, nn.Flatten(), nn.Linear(8, 3))
        assert can_be_condensed(capture(net, image)) == is_condensed
    last = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.ReLU())
    assert not can_be_condensed(capture(last, image))


@pytest.mark.parametrize("padding", [0, 1])
def test_a_convolution_takes_what_the_scales_before_it_take(padding):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.mean = torch.rand(1, 3, 1, 1)
            self.convolution = nn.Conv2d(3, 4, 3, padding=padding, stride=2)

        def forward(self, x):
            return self.convolution((x - self.mean) / torch.tensor([0.2, 0.3, 0.4])[:, None, None] * 2).flatten(1)

    x = torch.rand(2, 3, 7, 7)
    graph = with_norms(capture(Scaled(), x[:1]))
    own = merged(graph)
    (convolution,) = (node for node in own.nodes if isinstance(node.op, Convolution))
    assert convolution.parents == (0,)
    assert len(own.nodes) == len(graph.nodes)
    torch.testing.assert_close(own.forward(x.double())[-1], graph.forward(x.double())[-1])
    last = own.nodes.index(convolution)
    assert own.norms[last] == pytest.approx(math.prod(graph.norms[1 : last + 1]))
    assert math.prod(graph.norms[1:last]) == pytest.approx(2 / 0.2)


def test_a_scale_of_single_pixels_is_left_before_the_convolution():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution, self.factor = nn.Conv2d(1, 2, 3), torch.rand(1, 5, 5)

        def forward(self, x):
            return self.convolution(x * self.factor).flatten(1)

    graph = capture(Scaled(), torch.rand(1, 1, 5, 5))
    assert merged(graph).nodes == graph.nodes


def test_a_relu_of_a_relu_is_left_as_it_is():
    """A network with one was a traceback."""
    torch.manual_seed(0)
    parts = nn.Conv2d(1, 2, 2), nn.ReLU(), nn.ReLU(), nn.Conv2d(2, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)
    net, x, question = nn.Sequential(*parts).requires_grad_(False), torch.rand(1, 1, 4, 4), plica.MinRadius(plica.Lp(2))
    y = net(x).argmax(1)
    assert not can_be_condensed(capture(net, x))
    found = plica.certify(net, x, y, question, nodes=4)
    assert 0 < found.radius <= plica.attack(net, x, y, question, gradients=30).distance
