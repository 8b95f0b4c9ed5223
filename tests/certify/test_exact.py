"""Certified radii against exact ones: never above, and with branching close below."""

import numpy as np
import pytest
import torch
from torch import nn

import plica
from certify.zoo import dense

pytest.importorskip("scipy")
from certify.exact import radius

FEATURES = 4


def network(seed, slope):
    """A network 4-6-6-3, and its layers."""
    torch.manual_seed(seed)
    net = dense(nn.LeakyReLU(slope) if slope else nn.ReLU(), FEATURES, 6, 6, 3).eval().requires_grad_(False)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter *= 2
        net[-1].bias -= net(torch.rand(100, FEATURES)).mean(0)  # so that there are boundaries
    layers = [m for m in net if isinstance(m, nn.Linear)]
    return net, [(m.weight.double().numpy(), m.bias.double().numpy()) for m in layers]


def compare(seeds, p, images, nodes):
    """Certified over exact radii of the images that have one."""
    ratios = []
    for seed in seeds:
        slope = (0.0, 0.2)[seed % 2]
        net, layers = network(seed, slope)
        x = torch.rand(images, FEATURES, generator=torch.Generator().manual_seed(seed))
        y = net(x).argmax(1)
        exact = torch.tensor(
            [radius(layers, slope, row, label, p) for row, label in zip(x.double().numpy(), y.tolist(), strict=True)],
            dtype=torch.float64,
        )
        found = plica.certify(net, x, y, plica.MinRadius(plica.Lp(p)), nodes=nodes, upper=exact * 1.001)
        reached = exact.isfinite()
        assert (found.radius[reached] <= exact[reached] * (1 + 1e-6)).all()  # the oracle's own tolerance
        ratios.append((found.radius / exact)[reached])
    return torch.cat(ratios)


@pytest.mark.parametrize("p", [np.inf, 1])
def test_certified_radii_are_below_the_exact_ones_and_near(p):
    ratios = compare(range(2), p, images=3, nodes=100)
    assert len(ratios) >= 4
    assert ratios.median() > 0.97
    assert ratios.min() > 0.7


@pytest.mark.parametrize("p", [np.inf, 2, 1])
@pytest.mark.parametrize("seed", [0, 5])
def test_brackets_of_two_features_close(p, seed):
    """Parts of the ball without a point need large multipliers. With steps of 0.1, and a gradient without the last
    entry to move, five of the eight brackets under l1 ended between 0.73 and 0.96."""
    draw = torch.Generator().manual_seed(seed)
    net = dense(nn.ReLU(), 2, 16, 16, 2).eval()
    for parameter in net.parameters():
        parameter.data = torch.randn(parameter.shape, generator=draw) * (1 if parameter.ndim > 1 else 0.5)
    x = torch.tensor([[0.2, 0.3], [0.5, 0.5], [0.7, 0.2], [0.4, 0.8]])
    found = plica.bracket(net, x, net(x).argmax(1), plica.MinRadius(plica.Lp(p)), nodes=3000)
    assert (found.lower > 0.998 * found.upper).all()


@pytest.mark.slow
@pytest.mark.parametrize("p", [np.inf, 1])
def test_certified_radii_of_many_networks_are_below_the_exact_ones(p):
    assert compare(range(10, 110), p, images=5, nodes=60).median() > 0.95
