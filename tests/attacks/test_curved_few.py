"""Distances without a prox in few dimensions: starts come from the search of few dimensions under l_2."""

import pytest
import torch
from torch import nn

import plica
from plica import Held, Lp, MaxLoss, MinRadius


def euclidean(x, x_adv):
    """Lp(2), written as a function."""
    return torch.linalg.vector_norm((x_adv - x).flatten(1), dim=1)


def mixed(x, x_adv):
    delta = (x_adv - x).flatten(1)
    return delta.abs().amax(1) + 0.1 * delta.abs().sum(1)


def network(n, b):
    """An untrained network with many linear regions, images of n features, and its answers."""
    draw = torch.Generator().manual_seed(3)
    net = nn.Sequential(nn.Linear(n, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    for part in net.parameters():
        part.data = torch.randn(part.shape, generator=draw) * (2 / part.shape[-1]) ** 0.5
    x = torch.rand(b, n, generator=draw)
    return net, x, net(x).argmax(1)


def question(radius):
    return MinRadius(mixed) if radius is None else MaxLoss(mixed, radius)


def test_it_comes_as_near_as_the_attack_that_knows_the_norm():
    net, x, y = network(10, 12)
    known = plica.attack(net, x, y, MinRadius(Lp(2)), gradients=300).distance
    found = plica.attack(net, x, y, MinRadius(euclidean), gradients=150).distance
    assert (found < 1.01 * known).all()


def test_units_of_the_distance_do_not_matter():
    """The search under l_2 offered only points whose l_2 norm was less than the best distance, in whatever units."""
    net, x, y = network(10, 12)
    usual, tiny = (
        plica.attack(net, x, y, MinRadius(lambda x, z, unit=unit: unit * euclidean(x, z)), gradients=75).distance / unit
        for unit in (1, 2.0**-30)
    )
    torch.testing.assert_close(tiny, usual, rtol=1e-4, atol=0)  # the distance's own steps depend on units a little


@pytest.mark.parametrize("radius", [None, 1.5])
def test_points_are_found_where_the_gradient_is_zero(radius):
    net, x, _ = network(10, 4)

    def flat(z):
        return net((z > 0.5).to(z) + 0 * z)

    y = flat(x).argmax(1)
    assert not plica.attack(flat, x, y, question(radius), gradients=50).success.any()
    assert plica.attack(flat, x, y, question(radius), gradients=75).success.all()


@pytest.mark.parametrize("radius", [None, 0.2])
def test_more_gradients_are_never_worse_nor_more_than_allowed(radius):
    net, x, y = network(10, 3)
    success, distance = torch.zeros(len(x), dtype=torch.bool), torch.full((len(x),), torch.inf)
    for gradients in 51, 60, 74, 75, 99, 130:
        result = plica.attack(net, x, y, question(radius), gradients=gradients)
        assert (result.gradients <= gradients).all()
        assert (result.success >= success).all()
        if radius is None:
            assert (result.distance <= distance).all()
        success, distance = result.success, result.distance


@pytest.mark.parametrize("radius", [None, 0.2])
def test_answers_do_not_depend_on_other_images(radius):
    net, x, y = network(32, 6)
    together = plica.attack(net, x, y, question(radius), gradients=80)
    assert together.success.any()
    alone = plica.attack(net, x[:1], y[:1], question(radius), gradients=80)
    assert torch.equal(alone.x_adv[0], together.x_adv[0])
    assert int(alone.gradients) == int(together.gradients[0])


def test_the_number_of_features_need_not_be_a_multiple_of_16_for_that():
    """The kernel of powers rounds the last numbers of a tensor differently: of the only row, alone."""
    net, x, y = network(100, 6)
    together, alone = (plica.attack(net, x[:k], y[:k], MinRadius(mixed), gradients=3) for k in (6, 1))
    assert torch.equal(alone.x_adv[0], together.x_adv[0])


def test_fixed_features_stay():
    net, x, y = network(10, 4)
    fixed = torch.arange(10) < 4
    result = plica.attack(net, x, y, MinRadius(Held(mixed, fixed)), gradients=80)
    free = plica.attack(net, x, y, MinRadius(Held(mixed, fixed)), gradients=50)
    assert result.success.any()
    assert torch.equal(result.x_adv[:, :4], x[:, :4])
    assert (result.distance <= free.distance).all()


def test_stationarity_is_not_told_of_points_that_the_search_under_l2_found():
    """It is a residual of the distance's own conditions, which that search does not evaluate."""
    net, x, _ = network(10, 4)

    def flat(z):
        return net((z > 0.5).to(z) + 0 * z)

    result = plica.attack(flat, x, flat(x).argmax(1), MinRadius(mixed), gradients=74)
    assert result.success.all()
    assert result.stationarity.isnan().all()
