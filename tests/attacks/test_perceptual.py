"""PPGD, LPA, Fast-LPA and PWCF inside a ball of a distance between features: what they reach, and where they end."""

import pytest
import torch
from torch import nn

import plica
from linear import linear
from plica import Lp, MaxLoss, MinRadius, Perceptual
from plica.attacks.perceptual import Ball

METHODS = ("ppgd", "ppgd-newton", "lpa", "lpa-newton", "fast-lpa")


class Squared:
    """The square of a distance between embeddings, as LPIPS is one."""

    p, exponent = 2, 2

    def __init__(self, metric):
        self.metric, self.embed = metric, metric.embed

    def __call__(self, x, x_adv):
        return self.metric(x, x_adv) ** 2


class Linear:
    """d(x, x') = ||A (x' - x)||_2: the worst margin in its ball is known."""

    p, exponent = 2, 1

    def __init__(self, n):
        self.a = 0.3 * torch.randn(n, n, generator=torch.Generator().manual_seed(3)) / n**0.5 + torch.eye(n)

    def embed(self, x):
        return x.flatten(1) @ self.a.to(x).T

    def __call__(self, x, x_adv):
        return torch.linalg.vector_norm(self.embed(x_adv - x), dim=1)


def exact(case, metric):
    """|margin| / ||A^-T w||."""
    return -case.margin / torch.linalg.vector_norm(torch.linalg.solve(metric.a.double().T, case.model.w.double()))


def small():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5)
        )
    x = torch.rand(6, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    return net.eval(), x, net(x).argmax(1), Perceptual.of(net, ["1", "3"])


@pytest.mark.parametrize("method", ["ppgd", "lpa", "pwcf"])
def test_a_ball_a_little_larger_than_the_radius_is_broken_and_a_smaller_one_is_not(method):
    case, metric = linear(), Linear(48)
    truth = exact(case, metric)
    for factor, broken in ((1.1, True), (0.95, False)):
        found = plica.attack(case.model, case.x, case.y, MaxLoss(metric, factor * truth), method=method, gradients=200)
        assert found.success.eq(broken).all()


@pytest.mark.parametrize("loss", ["margin", "ce", "dlr"])
@pytest.mark.parametrize("method", METHODS)
def test_success_is_within_the_radius_and_costs_no_more_than_the_budget(method, loss):
    net, x, y, metric = small()
    found = plica.attack(net, x, y, MaxLoss(metric, 0.6, loss=loss), method=method, gradients=20)
    assert found.success.any()
    assert (found.distance[found.success] <= 0.6).all()
    assert (found.gradients <= 20).all()
    assert found.end is not None
    if method in ("ppgd", "lpa"):  # bisection never ends outside
        assert (metric(x, found.end) <= 0.6).all()


def test_fast_lpa_ends_outside_and_its_end_is_told():
    net, x, y, metric = small()
    found = plica.attack(net, x, y, MaxLoss(metric, 0.05), method="fast-lpa")
    assert found.end is not None
    assert (metric(x, found.end) > 0.05).any()
    inside = found.success
    assert (metric(x, found.x_adv)[inside] <= 0.05).all()
    assert torch.equal(found.x_adv[~inside], x[~inside])


def test_pwcf_ends_inside_and_breaks_what_the_others_break():
    net, x, y, metric = small()
    for radius in (0.2,):
        found = plica.attack(net, x, y, MaxLoss(metric, radius), method="pwcf")
        assert found.end is not None
        assert (metric(x, found.end) <= radius).all()
        for method in ("ppgd", "lpa"):
            other = plica.attack(net, x, y, MaxLoss(metric, radius), method=method, gradients=100)
            assert (found.success | ~other.success).all()


def test_the_root_of_a_square_is_seen():
    net, x, y, metric = small()
    for method in ("ppgd", "lpa"):
        one, two = (
            plica.attack(net, x, y, question, method=method, gradients=40)
            for question in (MaxLoss(metric, 0.3), MaxLoss(Squared(metric), 0.09))
        )
        assert one.success.any()
        assert torch.equal(one.success, two.success)


@pytest.mark.parametrize("method", METHODS)
def test_a_target_is_reached(method):
    net, x, y, metric = small()
    targets = net(x).topk(2, 1).indices[:, 1]
    found = plica.attack(net, x, y, MaxLoss(metric, 1.0), method=method, targets=targets, gradients=100)
    assert found.success.any()
    assert (found.prediction == targets)[found.success].all()


def test_projections_onto_a_ball():
    x = torch.full((3, 6), 0.5)
    z = (x + torch.tensor([[0.01], [0.2], [0.5]])).clamp(0, 1)
    ball = Ball(Lp(2), x, torch.full((3,), 0.3), (0.0, 1.0))
    for project in (ball.nearer, ball.newton):
        found = project(z)
        assert torch.equal(found[0], z[0])
        assert (Lp(2)(x, found)[1:] <= 0.3).all()
        assert torch.allclose(Lp(2)(x, found)[1:], torch.tensor(0.3), rtol=5e-3)  # ten halvings of the way to z


def test_what_they_cannot_treat():
    net, x, y, metric = small()
    for method in METHODS:
        with pytest.raises(plica.Unsupported, match=f"{method} maximises a loss inside a given radius"):
            plica.attack(net, x, y, MinRadius(metric), method=method)
    with pytest.raises(plica.Unsupported, match=r'ppgd needs an l2 distance between features.*use "lpa"'):
        plica.attack(net, x, y, MaxLoss(Lp(2), 1.0), method="ppgd")
    with pytest.raises(plica.Unsupported, match="ppgd needs an l2 distance"):
        plica.attack(net, x, y, MaxLoss(Perceptual.of(net, ["1"], p=1), 1.0), method="ppgd")
