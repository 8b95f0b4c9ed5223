"""Coefficients kept as windows give the same bounds as whole images of them."""

import pytest
import torch
from torch import nn

import plica
from certify.zoo import Residual, _norm
from plica.certify.backward import Pass
from plica.certify.capture import capture
from plica.certify.intermediate import node_bounds
from plica.certify.norms import with_norms
from plica.certify.sets import input_set
from plica.certify.windows import Window, unit

SHAPE = (2, 13, 12)


class Plain(nn.Module):
    """A skip past one convolution: windows of two sizes are added up; and a constant for each entry."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 3, (3, 2), padding=(1, 0))
        self.norm = _norm()
        self.register_buffer("shift", torch.rand(3, 13, 11))

    def forward(self, x):
        z = self.first(x).relu()
        return self.norm((self.second(z) + z[..., 1:]) * self.shift + self.shift).relu()


NETWORKS = {
    "plain": lambda: nn.Sequential(Plain(), nn.Conv2d(3, 2, 3, stride=2, dilation=2), nn.ReLU()),
    "residual": lambda: nn.Sequential(Residual(), nn.Conv2d(4, 4, 2, groups=2), nn.Sigmoid(), nn.Conv2d(4, 2, 2)),
    # what lies outside of the image takes no part in the constants of a convolution before
    "two in a row": lambda: nn.Sequential(
        nn.Conv2d(2, 2, 2), nn.ReLU(), nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 2, 3, padding=1), nn.Tanh()
    ),
    "pool": lambda: nn.Sequential(nn.Conv2d(2, 3, 2), nn.MaxPool2d(2), nn.Conv2d(3, 3, 2), nn.ReLU()),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("p", "radius"), [("inf", 0.1), (2, 0.3), (1, 0.8)])
def test_bounds_are_the_same(name, p, radius):
    torch.manual_seed(0)
    net = nn.Sequential(NETWORKS[name](), nn.Flatten(), nn.LazyLinear(2)).eval()
    x = torch.rand(2, *SHAPE)
    x[:, :, :4] = x[:, :, :4].round()  # on the walls
    net(x)
    graph = capture(net.requires_grad_(False), x)
    graph = with_norms(graph) if p == 2 else graph
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    inputs = input_set(plica.Lp(p), x.double(), torch.full((2,), radius).double(), zero, one)
    bounds = node_bounds(graph, inputs, rigorous=True)
    slack = bounds.slack
    run = Pass(graph, inputs, bounds.lines, slack=slack, balls=bounds.balls)
    images = [k for k, node in enumerate(graph.nodes) if k and len(node.shape) == 3]
    assert len(images) > 3
    for k in images:
        shape = graph.nodes[k].shape
        entry = torch.randint(torch.Size(shape).numel(), (40,))
        rows = torch.randint(2, (40,))
        window = unit(entry, shape, x.double(), -1.5)
        assert isinstance(window, Window)
        dense = window.dense(shape)
        assert torch.equal(dense.flatten(1).gather(1, entry[:, None]), torch.full((40, 1), -1.5).double())
        assert (dense != 0).sum() == 40
        torch.testing.assert_close(run.lower(window, k, rows), run.lower(dense, k, rows), rtol=1e-12, atol=1e-12)


def test_a_window_over_the_border_reads_nothing_outside():
    values = torch.arange(2 * 3 * 4, dtype=torch.float64).view(1, 2, 3, 4) + 1
    window = Window(torch.ones(2, 2, 2, 2, dtype=torch.float64), torch.tensor([-1, 2]), torch.tensor([3, 1]))
    found = window.of(values, torch.zeros(2).long(), fill=-7)
    assert found[0, 0].tolist() == [[-7, -7], [4, -7]]
    assert found[1, 1].tolist() == [[22, 23], [-7, -7]]
    values[0, 0, 0] = torch.nan  # what is outside a window does not reach it
    assert found[1].isfinite().all()
    dense = window.dense((2, 3, 4))
    assert dense[0, 0].tolist() == [[0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert dense[1, 1].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 1, 0]]


def test_windows_that_have_moved_apart_are_added():
    place = torch.tensor([1, 2])
    small = Window(torch.rand(2, 1, 1, 2), place, place)
    large = Window(torch.rand(2, 1, 3, 3), place - 2, place + 1)
    shape = (1, 9, 9)
    assert small.aligned(large)
    torch.testing.assert_close(small.add(large).dense(shape), small.dense(shape) + large.dense(shape))
    assert not small.aligned(large._replace(top=torch.tensor([0, 5])))
