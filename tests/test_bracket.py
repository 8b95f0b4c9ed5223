"""plica.bracket: the attack's radius above, the certificate's below, and when they meet."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import plica
from certify.zoo import images, network
from linear import linear


@pytest.mark.parametrize("p", [1, 2, "inf"])
def test_the_brackets_of_a_linear_model_close(p):
    problem = linear(b=3)
    both = plica.bracket(problem.model, problem.x, problem.y, plica.MinRadius(plica.Lp(p)), gradients=60, nodes=20)
    exact = problem.radius(float(p))
    assert (both.lower <= exact).all()
    assert (exact <= both.upper * (1 + 1e-6)).all()  # the exact radius is one of float64, the attack's point of float32
    assert both.closed.all()
    assert (both.gap <= 1e-3).all()


def test_printed_they_are_a_line_without_the_evidence():
    problem = linear(b=3)
    both = plica.bracket(problem.model, problem.x, problem.y, plica.MinRadius(plica.Lp(2)), gradients=60, nodes=20)
    lower, upper = (f"{float(side.median()):.4g}" for side in (both.lower, both.upper))
    line = f"3 images: 3 with a lower bound, 3 exact to a thousandth; medians {lower} and {upper}"
    assert repr(both) == f"Bracket({line})"
    assert repr(both.certificate) == f"Certificate(3 images: 3 proved, median radius {lower}; 3 CLOSED)"


def test_the_sides_are_the_attack_and_the_certificate():
    net, x = network("relu"), images()
    y, question = net(x).argmax(1), plica.MinRadius(plica.Lp("inf"))
    y[0] = (y[0] + 1) % 3  # misclassified: both sides are 0
    both = plica.bracket(net, x, y, question, gradients=40, nodes=30, method="pwcf")
    attacked = plica.attack(net, x, y, question, gradients=40, method="pwcf")
    assert torch.equal(both.attacked, attacked.distance)
    assert (both.upper <= attacked.distance).all()
    assert torch.equal(both.upper, both.result.distance)
    assert (both.result.gradients >= attacked.gradients).all()
    torch.testing.assert_close(question.metric(x.double(), both.result.x_adv.double()), both.upper)
    assert (net(both.result.x_adv).argmax(1) != y).all()
    assert torch.equal(both.lower, both.certificate.radius)
    assert (both.lower <= both.upper).all()
    assert both.closed[0]
    assert both.gap[0] == 0
    # where nothing was found or proved
    lower, upper = [0, 1, torch.inf, 1], [1, torch.inf, torch.inf, 1.0005]
    other = replace(both, lower=torch.tensor(lower).double(), upper=torch.tensor(upper).double())
    assert other.closed.tolist() == [False, False, True, True]
    assert other.gap[:3].tolist() == [torch.inf, torch.inf, 0]


def test_where_the_search_is_stuck_the_attack_starts_again():
    """A hole of the boundary that the attack does not see, and the worst open part of the search does."""
    weights = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)).requires_grad_(False)
    # a tent over 0.3 < x_0 < 0.5, of class 1 from 0.32 to 0.48
    weights[0].weight.copy_(torch.tensor([[1.0, 0], [1, 0], [1, 0]]))
    weights[0].bias.copy_(torch.tensor([-0.3, -0.4, -0.5]))
    weights[2].weight.copy_(torch.tensor([[0.0, 0, 0], [1, -2, 1]]))
    weights[2].bias.copy_(torch.tensor([0.02, 0]))
    x, y = torch.tensor([[0.1, 0.5]]), torch.zeros(1).long()
    both = plica.bracket(weights, x, y, plica.MinRadius(plica.Lp("inf")), gradients=1, nodes=200)
    assert both.attacked[0] == torch.inf
    assert both.upper[0] == pytest.approx(0.22, rel=0.01)
    assert both.closed[0]


def test_what_has_no_lower_bounds_is_refused_before_the_attack():
    calls = []

    class Counted(nn.Module):
        def forward(self, x):
            calls.append(len(x))
            return nn.functional.softshrink(x.flatten(1)[:, :3])

    x, y = images(), torch.zeros(4).long()
    with pytest.raises(plica.Unsupported, match="softshrink"):
        plica.bracket(Counted(), x, y, plica.MinRadius(plica.Lp(2)))
    assert sum(calls) <= 2  # one image to look at what is returned, and one to trace
    with pytest.raises(plica.Unsupported, match="linf, l2 and l1"):
        plica.bracket(Counted(), x, y, plica.MinRadius(plica.Lp(3)))
    with pytest.raises(TypeError, match="MinRadius"):
        plica.bracket(Counted(), x, y, plica.MaxLoss(plica.Lp(2), 0.1))
    with pytest.raises(ValueError, match="nodes takes the place of seconds; give one of them"):
        plica.bracket(Counted(), x, y, plica.MinRadius(plica.Lp(2)), nodes=2, seconds=3)
    with pytest.raises(ValueError, match="at least one image"):
        plica.bracket(Counted(), x[:0], y[:0], plica.MinRadius(plica.Lp(2)))


def test_what_the_certificate_does_not_treat_is_refused():
    net, x = network("relu"), images()
    y = net(x).argmax(1)
    question = plica.MinRadius(plica.Lp(2))
    with pytest.raises(plica.Unsupported, match="misclassification"):
        plica.bracket(net, x, y, question, goal=lambda output, y: output.gather(1, y[:, None])[:, 0])
    with pytest.raises(plica.Unsupported, match="draws"):
        plica.bracket(net, x, y, question, draws=4)


def test_boxes_and_held_pixels_of_each_image_are_bracketed():
    net, x = network("relu"), images()
    y, held = net(x).argmax(1), images(seed=3) > 0.7
    low, high = (x - 0.3).clamp(min=0), (x + 0.4).clamp(max=1)
    question = plica.MinRadius(plica.Held(plica.Lp(2), held))
    both = plica.bracket(net, x, y, question, gradients=20, nodes=10, bounds=(low, high))
    assert (both.lower <= both.upper).all()
    assert (both.lower > 0).all()
    found = both.result.x_adv
    assert torch.equal(found[held], x[held])
    assert ((low <= found) & (found <= high)).all()


@pytest.mark.parametrize("shape", [(-1, 1), (-1,)], ids=["b, 1", "b"])
def test_one_logit_is_bracketed_as_two_classes(shape):
    class One(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network("relu")

        def forward(self, x):
            logits = self.net(x)
            return (logits[:, 1] - logits[:, 0]).view(*shape)

    net, x = One(), images(2)
    y = (net(x).view(-1) > 0).long()
    both = plica.bracket(net, x, y, plica.MinRadius(plica.Lp("inf")), gradients=20, nodes=5)
    assert (both.lower > 0).all()
    assert (both.lower <= both.upper).all()


def test_with_levels_no_start_off_the_grid_is_an_answer():
    net, x = network("relu"), (images() * 7).round() / 7
    y = net(x).argmax(1)
    question = plica.MinRadius(plica.Lp("inf"))
    both = plica.bracket(net, x, y, question, levels=8, gradients=20, nodes=20)
    torch.testing.assert_close(both.result.x_adv, (both.result.x_adv * 7).round() / 7)
    assert torch.equal(both.upper, both.attacked)
    assert (both.lower <= both.upper).all()
