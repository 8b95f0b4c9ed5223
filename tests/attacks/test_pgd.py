"""PGD: worst losses of linear models, exact budgets, stopping, and what it refuses."""

import math

import pytest
import torch

import plica
from counting import Counted
from linear import linear
from plica.attacks.pgd import steepest

P = (1, 2, math.inf)


@pytest.mark.parametrize("p", P)
@pytest.mark.parametrize("loss", ["margin", "ce", "dlr"])
def test_breaks_exactly_what_can_be_broken(p, loss):
    case = linear(classes=3)
    exact = case.radius(p)
    for factor, broken in ((1.02, True), (0.98, False)):  # 2 %: what the last of 40 steps leaves
        question = plica.MaxLoss(plica.Lp(p), radius=factor * exact, loss=loss)
        result = plica.attack(case.model, case.x, case.y, question, method="pgd", gradients=40)
        assert result.success.tolist() == [broken] * len(case.x)
        assert (result.distance[result.success] <= factor * exact[result.success]).all()


@pytest.mark.parametrize("p", P)
@pytest.mark.parametrize("budget", [1, 7, 30])
def test_spends_the_budget_exactly(p, budget):
    case = linear()
    model = Counted(case.model)
    question = plica.MaxLoss(plica.Lp(p), radius=0.5 * case.radius(p))
    result = plica.attack(model, case.x, case.y, question, method="pgd", gradients=budget)
    assert result.gradients.tolist() == [budget] * len(case.x)
    assert model.ledger.gradients == budget * len(case.x)


def test_leaves_an_image_once_it_is_broken():
    case = linear()
    radius = torch.where(torch.arange(len(case.x)) < 2, 3.0, 0.5) * case.radius(2)
    result = plica.attack(case.model, case.x, case.y, plica.MaxLoss(plica.Lp(2), radius), method="pgd", gradients=30)
    assert (result.gradients[:2] < 20).all()
    assert (result.gradients[2:] == 30).all()


def test_target():
    case = linear(classes=4)
    question = plica.MaxLoss(plica.Lp(2), radius=1.05 * case.radius(2))
    result = plica.attack(case.model, case.x, case.y, question, method="pgd", gradients=40, targets=1 - case.y)
    assert result.success.all()
    assert torch.equal(case.model(result.x_adv).argmax(1), 1 - case.y)


@pytest.mark.parametrize("p", P)
def test_no_step_of_that_length_is_steeper(p):
    g = torch.Generator().manual_seed(0)
    grad, z = torch.randn(5, 8, generator=g), torch.rand(5, 8, generator=g)
    length = torch.linspace(0.1, 3, 5)
    step = steepest(grad, z, length, p, (0.0, 1.0))
    assert (torch.linalg.vector_norm(step, ord=p, dim=1) <= length * (1 + 1e-6)).all()
    for _ in range(500):
        other = torch.randn(5, 8, generator=g) ** 3
        other = other / torch.linalg.vector_norm(other, ord=p, dim=1, keepdim=True) * length[:, None]
        other = (z + other).clamp(0, 1) - z if p == 1 else other
        assert ((grad * other).sum(1) <= (grad * step).sum(1) + 1e-6).all()


def test_refuses_what_it_cannot_do():
    case = linear()
    with pytest.raises(plica.Unsupported, match="MinRadius"):
        plica.attack(case.model, case.x, case.y, plica.MinRadius(plica.Lp(2)), method="pgd")
    with pytest.raises(plica.Unsupported, match=r"l1\.5"):
        plica.attack(case.model, case.x, case.y, plica.MaxLoss(plica.Lp(1.5), 0.1), method="pgd")
