"""Models that return probabilities get the radii of their logits."""

import pytest
import torch
from torch import nn

import plica
from plica.core.model.probabilities import are_probabilities, logarithm

DRAW = torch.Generator().manual_seed(0)
X = 0.2 + 0.6 * torch.rand(12, 6, generator=DRAW)


class Net(nn.Module):
    """Logits so far apart that linear models of the probabilities lead far away."""

    def __init__(self, after=lambda z: z):
        super().__init__()
        draw = torch.Generator().manual_seed(1)
        self.first = nn.Parameter(torch.randn(6, 20, generator=draw))
        self.second = nn.Parameter(8 * torch.randn(20, 3, generator=draw))
        self.after = after

    def forward(self, x):
        return self.after(torch.relu((2 * x - 1) @ self.first) @ self.second)


def soft(z):
    return z.softmax(1)


Y = Net()(X).argmax(1)


@pytest.mark.parametrize("method", ["auto", "pwcf", "pgd"])
@pytest.mark.parametrize("p", [1.0, 2.0, float("inf")])
def test_the_answers_are_those_of_the_logits(method, p):
    question = plica.MinRadius(plica.Lp(p))
    if method == "pgd":
        question = plica.MaxLoss(plica.Lp(p), 0.2, loss="ce")
    wanted = plica.attack(Net(), X, Y, question, method=method, gradients=40)
    found = plica.attack(Net(soft), X, Y, question, method=method, gradients=40)
    assert found.success.tolist() == wanted.success.tolist()
    assert found.success.any()
    if method != "pgd":
        torch.testing.assert_close(found.distance, wanted.distance, rtol=1e-2, atol=0)
    outputs = Net(soft).double()(found.x_adv.double())
    own = outputs.gather(1, Y[:, None])[:, 0]
    margins = outputs.scatter(1, Y[:, None], -1).amax(1) - own
    assert bool((margins[found.success] > 0).all())
    torch.testing.assert_close(found.margin, margins, rtol=0, atol=1e-5)
    assert found.prediction[found.success].tolist() == outputs.argmax(1)[found.success].tolist()


def test_with_bounds_for_each_feature_too():
    bounds = torch.zeros(6), torch.tensor([1.0, 1.0, 1.0, 1.5, 2.0, 0.9])
    question = plica.MinRadius(plica.Lp(2))
    wanted = plica.attack(Net(), X, Y, question, gradients=60, bounds=bounds)
    found = plica.attack(Net(soft), X, Y, question, gradients=60, bounds=bounds)
    torch.testing.assert_close(found.distance, wanted.distance, rtol=1e-2, atol=0)
    outputs = Net(soft)(found.x_adv)
    margins = outputs.scatter(1, Y[:, None], -1).amax(1) - outputs.gather(1, Y[:, None])[:, 0]
    torch.testing.assert_close(found.margin, margins.double(), rtol=0, atol=1e-5)


class Under(nn.Module):
    """A network whose layers compute in bfloat16, with probabilities in float32."""

    def __init__(self, after):
        super().__init__()
        self.net, self.after = Net(), after

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.after(self.net(x).float())


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_in_half_precision_too(p):
    question = plica.MinRadius(plica.Lp(p))
    wanted = plica.attack(Under(lambda z: z), X, Y, question, gradients=40)
    found = plica.attack(Under(soft), X, Y, question, gradients=40)
    assert bool(found.success.all())
    torch.testing.assert_close(found.distance, wanted.distance, rtol=0.05, atol=0)  # bfloat16 has three digits


def test_sums_in_half_precision_have_few_digits():
    p = torch.full((1, 3), 1 / 3, dtype=torch.bfloat16)
    assert float(p.sum(1, dtype=torch.float64)) > 1.001
    assert are_probabilities(p, torch.finfo(p.dtype).eps)


def least_squares(x):
    """Fits to one of two classes, whose sum is one, but which may be negative."""
    first = 0.5 + (x - 0.5) @ torch.tensor([0.9, -0.8, 0.7, 0.9, -0.8, 0.7])
    return torch.stack([first, 1 - first], 1)


def test_outputs_that_are_negative_elsewhere_are_no_probabilities():
    """An image whose outputs lie in [0, 1] got another answer alone than with others."""
    x = 0.2 + 0.6 * torch.rand(40, 6, generator=torch.Generator().manual_seed(2))
    outputs = least_squares(x)
    y = outputs.argmax(1)
    assert not are_probabilities(outputs)
    together = plica.attack(least_squares, x, y, plica.MinRadius(plica.Lp(2)), gradients=20)
    for i in [i for i in range(len(x)) if are_probabilities(outputs[i : i + 1])][:4]:
        alone = plica.attack(least_squares, x[i : i + 1], y[i : i + 1], plica.MinRadius(plica.Lp(2)), gradients=20)
        assert torch.equal(alone.x_adv[0], together.x_adv[i])
        own = least_squares(alone.x_adv)[0]
        assert float(alone.margin) == pytest.approx(float(own[1 - y[i]] - own[y[i]]), abs=1e-6)
        assert not plica.trust.examine(least_squares, x[i : i + 1], y[i : i + 1], checks=["probabilities"]).findings


def test_the_mean_over_draws_is_that_of_the_probabilities():
    def noisy(x):
        return soft(Net()(x + 1e-5 * torch.randn_like(x)) / 8)

    found = plica.attack(noisy, X[:2], Y[:2], plica.MinRadius(plica.Lp(2)), draws=8, gradients=20)
    wanted = plica.attack(Net(), X[:2], Y[:2], plica.MinRadius(plica.Lp(2)), gradients=20)
    torch.testing.assert_close(found.distance, wanted.distance, rtol=0.1, atol=0)


def test_what_probabilities_are():
    assert are_probabilities(soft(Net()(X)))
    assert are_probabilities(torch.tensor([[1.0, 0.0], [torch.nan, torch.nan]]))
    for other in (Net()(X), soft(Net()(X))[:, :1], torch.tensor([[1.5, -0.5]]), torch.tensor([[0.4, 0.5], [0.5, 0.5]])):
        assert not are_probabilities(other)
    assert not are_probabilities(torch.full((2, 3), torch.nan))


def test_the_logarithm_of_0_is_finite():
    p = torch.tensor([[1.0, 0.0]])
    assert logarithm(p).tolist() == [[0, pytest.approx(-87.34, abs=0.01)]]


def test_logarithms_have_more_digits_than_half_precision():
    p = torch.tensor([[0.998, 0.002]], dtype=torch.bfloat16)
    torch.testing.assert_close(logarithm(p), p.float().log(), rtol=1e-6, atol=0)
