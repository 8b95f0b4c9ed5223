"""Lp(0): the fewest changed entries or pixels."""

import math

import pytest
import torch
from torch import nn

import plica
from plica import Held, Lp, MaxLoss, MinRadius
from plica.metrics import distance

BY_PIXEL = Lp(0, group="pixel")


def plane(shape=(3, 5, 5), b=6):
    """A linear model of two classes, images, labels, and what each entry adds to the margin at its wall, (b, n)."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(math.prod(shape), generator=generator)
    x = 0.2 + 0.6 * torch.rand(b, *shape, generator=generator)
    net = nn.Sequential(nn.Flatten(), nn.Linear(len(w), 2)).requires_grad_(False)
    net[1].weight.copy_(torch.stack([-w, w]) / 2)
    end = float((x.flatten(1) @ w).max()) + 0.1
    net[1].bias.copy_(torch.tensor([end, -end]) / 2)
    logits = net(x).double()
    y = logits.argmax(1)
    sign = torch.where(y == 0, 1, -1)[:, None]
    up = sign * w > 0
    gain = w.abs().double() * torch.where(up, 1 - x.flatten(1), x.flatten(1)).double()
    return net.eval(), x, y, gain, (logits[:, 0] - logits[:, 1]).abs()


def fewest(gain, need):
    """How many of the largest gains are needed for their sum to exceed `need`."""
    return ((gain.sort(dim=1, descending=True).values.cumsum(1) <= need[:, None]).sum(1) + 1).double()


def small():
    """A small network with random weights, random images and its labels."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU(), nn.Flatten(),
                            nn.Linear(72, 5))  # fmt: skip
    x = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return net.eval().requires_grad_(False), x, net(x).argmax(1)


def test_a_linear_model_has_the_exact_count():
    net, x, y, gain, need = plane()
    exact = fewest(gain, need)
    assert exact.min() >= 1
    assert len(exact.unique()) >= 3
    found = plica.attack(net, x, y, MinRadius(Lp(0)), gradients=25)
    assert torch.equal(found.distance, exact)
    pixels = fewest(gain.view(len(x), 3, -1).sum(1), need)
    assert torch.equal(plica.attack(net, x, y, MinRadius(BY_PIXEL), gradients=25).distance, pixels)
    held = torch.arange(75).view(3, 5, 5) % 2 == 0
    found = plica.attack(net, x, y, MinRadius(Held(Lp(0), held)), gradients=25)
    assert torch.equal(found.distance, fewest(gain.masked_fill(held.flatten(), 0), need))
    assert torch.equal(found.x_adv[:, held], x[:, held])


def test_max_loss_breaks_exactly_the_images_whose_radius_it_is():
    net, x, y, gain, need = plane()
    exact = fewest(gain, need)
    for k in (0, 1, float(exact.median()), float(exact.median()) + 0.5, math.inf):
        found = plica.attack(net, x, y, MaxLoss(Lp(0), k), gradients=25)
        assert torch.equal(found.success, exact <= k)
        assert (found.distance[found.success] <= k).all()


def test_bounds_of_each_feature_and_without_end():
    net, x, y, gain, need = plane()
    wide = torch.full(x.shape[1:], 1.0)
    wide.view(-1)[::3] = 2.0
    ends = torch.zeros_like(wide), wide
    room = gain.clone()
    up = (net[1].weight[1] - net[1].weight[0])[None] * torch.where(y == 0, 1, -1)[:, None] > 0
    wider = (net[1].weight[1] - net[1].weight[0]).abs().double() * (wide.flatten().double() - 1)
    exact = fewest(room + torch.where(up, wider, 0), need)
    found = plica.attack(net, x, y, MinRadius(Lp(0)), gradients=25, bounds=ends)
    assert torch.equal(found.distance, exact)
    k = float(exact.median())
    broken = plica.attack(net, x, y, MaxLoss(Lp(0), k), gradients=25, bounds=ends)
    assert torch.equal(broken.success, exact <= k)
    found = plica.attack(net, x, y, MinRadius(Lp(0)), gradients=25, bounds=(-math.inf, math.inf))
    assert (found.distance == 1).all()  # one entry alone is enough, far away


def test_levels_change_no_other_entry():
    net, x, y, *_ = plane()
    x = (x * 255).round() / 255
    y = net(x).argmax(1)
    found = plica.attack(net, x, y, MinRadius(Lp(0)), gradients=25, levels=256)
    free = plica.attack(net, x, y, MinRadius(Lp(0)), gradients=25)
    assert torch.equal(found.distance, free.distance)


@pytest.mark.parametrize("metric", [Lp(0), BY_PIXEL])
def test_a_larger_budget_is_never_worse_and_other_images_change_nothing(metric):
    net, x, y = small()
    last = torch.full((len(x),), torch.inf).double()
    for gradients in (5, 12, 30, 60):
        found = plica.attack(net, x, y, MinRadius(metric), gradients=gradients)
        assert (found.distance <= last).all()
        assert (found.gradients <= gradients).all()
        assert (found.forwards <= max(4, gradients / 5)).all()
        last = found.distance
    assert found.success.all()
    assert torch.equal(distance(metric, x, found.x_adv), found.distance)
    alone = plica.attack(net, x[5:6], y[5:6], MinRadius(metric), gradients=60)
    assert torch.equal(alone.x_adv, found.x_adv[5:6])


def test_it_changes_fewer_entries_than_answers_in_l1():
    net, x, y = small()
    found = plica.attack(net, x, y, MinRadius(Lp(0)), gradients=30).distance
    other = plica.attack(net, x, y, MinRadius(Lp(1)), gradients=30).x_adv
    assert (found <= distance(Lp(0), x, other)).all()


def test_a_gradient_of_zero_at_the_image_is_left_by_random_points():
    def flat(x):
        s = (x.flatten(1).mean(1) - 0.45).clamp(min=0)
        return torch.stack([torch.full_like(s, 0.002), s], 1)

    x = torch.full((2, 1, 4, 4), 0.4)
    found = plica.attack(flat, x, torch.zeros(2, dtype=torch.long), MinRadius(Lp(0)), gradients=40)
    assert found.distance.tolist() == [2.0, 2.0]  # each entry adds 0.6 / 16 to the mean
    assert {status.name for status in found.status} == {"ZERO_GRADIENT"}


@pytest.mark.parametrize("method", ["pwcf", "curved"])
def test_methods_that_follow_the_distance_refuse_a_count(method):
    net, x, y = small()
    with pytest.raises(plica.Unsupported, match="l0 is a count"):
        plica.attack(net, x, y, MinRadius(Lp(0)), method=method, gradients=10)


def test_a_count_goes_with_no_other_perturbation():
    x, model = torch.rand(2, 1, 4, 4), torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
    y = model(x).argmax(1)
    with pytest.raises(plica.Unsupported, match=r"x \+ delta only: leave out through="):
        plica.attack(model, x, y, plica.MinRadius(plica.Lp(0), through=plica.Flow()), gradients=5)


def test_training_and_certificates_refuse_a_count():
    net, x, y = small()
    with pytest.raises(plica.Unsupported, match="l0 is a count"):
        plica.training.Inner(MinRadius(Lp(0)))
    with pytest.raises(plica.Unsupported, match="not for l0"):
        plica.certify(net, x[:1], y[:1], MinRadius(Lp(0)))


@pytest.mark.parametrize("gradients", [20, 100])
def test_a_class_that_wins_between_the_walls_only(gradients):
    """Pixels moved to a bound never reach it."""

    def model(x):
        first = x[:, :1]
        return torch.cat([1 - 10 * first, 2 - 20 * (first - 0.5).abs(), 10 * first - 9], 1)

    x = torch.tensor([[0.02, 0.5], [0.98, 0.5]])
    result = plica.attack(
        model, x, torch.tensor([0, 2]), plica.MinRadius(plica.Lp(0)), gradients=gradients, targets=torch.tensor([1, 1])
    )
    assert result.distance.tolist() == [1, 1]
