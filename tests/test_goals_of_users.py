"""Goals other than misclassification, through plica.attack: radii that are known, shapes, refusals."""

import inspect
import math

import pytest
import torch
from torch import nn

import plica
from plica import Lp, MaxLoss, MinRadius
from plica.goals import AnyLabel, Deviates, Misclassified, Pixels, class_logits, parse_goal

GENERATOR = torch.Generator().manual_seed(0)
W = torch.randn(12, 5, generator=GENERATOR)
X = 0.4 + 0.2 * torch.rand(8, 12, generator=GENERATOR)  # far from the walls of [0, 1]
BIAS = -(X.mean(0) @ W)
OUT = X @ W + BIAS
L2 = MinRadius(Lp(2))
EXACT = 1e-3  # 64 roundings of the outputs over the margins


class Affine(nn.Module):
    """x W + b: the boundary of every tag is a plane."""

    def __init__(self):
        super().__init__()
        self.w, self.b = nn.Parameter(W, requires_grad=False), nn.Parameter(BIAS, requires_grad=False)

    def forward(self, x):
        return x @ self.w + self.b


NET = Affine()
ASK = inspect.unwrap(plica.attack)  # wrong types are the point in some tests: past the type checker of the tests


@pytest.mark.parametrize("method", ["auto", "pwcf", "curved"])
def test_a_regression_deviates_where_its_nearest_plane_is(method):
    """Also where y is what the model says, so that the error has no gradient."""
    result = plica.attack(NET, X, OUT, L2, method=method, goal=Deviates(0.05))
    exact = (0.05 / W.norm(dim=0)).amin().expand(len(X)).double()
    torch.testing.assert_close(result.distance, exact, rtol=5e-3 if method == "pwcf" else EXACT, atol=0)
    assert ((NET(result.x_adv) - OUT).abs().amax(1) > 0.05).all()
    assert (result.prediction == -1).all()


# of the tags of the first input two are nearly as near, and curved stays with one
@pytest.mark.parametrize(("method", "above"), [("auto", 5e-4), ("pwcf", 5e-4), ("curved", 0.02)])
def test_any_label_is_the_nearest_flip_of_one_tag(method, above):
    result = plica.attack(NET, X, (OUT > 0).long(), L2, method=method, goal=AnyLabel(), gradients=200)
    exact = (OUT.abs() / W.norm(dim=0)).amin(1).double()
    torch.testing.assert_close(result.distance, exact, rtol=above, atol=0)


def test_one_logit_is_two_classes():
    """(b,) and (b, 1) give the same points to the bit, and [0, logit] the same but for what counts as rounding."""
    y = (OUT[:, 0] > 0).long()
    nets = (lambda x: NET(x)[:, 0], lambda x: NET(x)[:, :1], lambda x: class_logits(NET(x)[:, 0]))
    for question in (L2, MaxLoss(Lp(2), 0.1), MaxLoss(Lp(2), 0.1, "ce")):
        results = [plica.attack(net, X, y, question) for net in nets]
        assert torch.equal(results[0].x_adv, results[1].x_adv)
        assert torch.equal(results[0].success, results[2].success)
        torch.testing.assert_close(results[0].x_adv, results[2].x_adv, rtol=0, atol=1e-3)
        assert torch.equal(results[0].prediction[results[0].success], 1 - y[results[0].success])
    exact = (OUT[:, 0].abs() / W[:, 0].norm()).double()
    torch.testing.assert_close(plica.attack(nets[0], X, y, L2).distance, exact, rtol=EXACT, atol=0)


def test_a_sigmoid_taken_for_a_logit_is_warned_of():
    x = torch.linspace(0, 1, 8)[:, None]
    question = plica.MinRadius(plica.Lp(2))
    with pytest.warns(UserWarning, match="before the sigmoid"):
        plica.attack(lambda z: torch.sigmoid(9 * z - 4), x, (x[:, 0] > 4 / 9).long(), question, gradients=5)
    plica.attack(lambda z: z, x, (x[:, 0] > 0).long(), question, gradients=5)  # logits between 0 and 1


def test_probabilities_of_tags_are_warned_of():
    """They are all above 0, so that every image with a tag that is off was misclassified without a perturbation."""
    tags = (OUT > 0).long()
    with pytest.warns(UserWarning, match="before the sigmoid"):
        found = plica.attack(lambda z: (z @ W + BIAS).sigmoid(), X, tags, L2, goal=AnyLabel(), gradients=5)
    assert torch.equal(found.distance == 0, (tags == 0).any(1))
    plica.attack(lambda z: z @ W + BIAS, X, tags, L2, goal=AnyLabel(), gradients=5)


def test_the_margin_of_one_logit_is_more_than_rounding():
    """At the boundary the logit is 0, and its roundings are those of what it is the sum of."""
    y = (OUT[:, 0] > 0).long()
    result = plica.attack(lambda x: NET(x)[:, 0], X, y, L2)
    assert (result.margin >= 64 * torch.finfo(torch.float32).eps * OUT[:, 0].abs()).all()
    for k in range(len(X)):  # alone, and in another order of summation
        alone = (result.x_adv[k] * W[:, 0]).flip(0).sum() + BIAS[0]
        assert (alone > 0) != (OUT[k, 0] > 0)


def test_the_goal_of_a_user_without_alternatives():
    """The mean of the outputs rises by 0.1: a plane whose distance is known."""
    mean = OUT.mean(1)
    result = plica.attack(NET, X, mean, L2, goal=lambda output, y: output.mean(1) - y - 0.1)
    exact = torch.full((len(X),), 0.1).double() / W.mean(1).norm()
    torch.testing.assert_close(result.distance, exact, rtol=EXACT, atol=0)


def test_pixels_is_the_order_statistic_of_the_margins():
    logits = torch.randn(3, 4, 6, 5, generator=GENERATOR)
    y = logits.argmax(1)
    y[:, :2] = (y[:, :2] + 1) % 4  # 10 of 30 pixels are wrong
    for share, reached in ((1 / 30, True), (10 / 30, True), (11 / 30, False), (1, False)):
        goal = Pixels(share)
        assert ((goal(logits, y) > 0) == reached).all()
        margins = goal.margins(logits, y).sort(dim=1, descending=True).values
        assert torch.equal(goal(logits, y), margins[:, math.ceil(share * 30 - 1e-9) - 1])
    one = logits[:, 0]
    assert ((Pixels(1 / 30)(one, (one > 0).long()) > 0) == False).all()  # noqa: E712


def test_pixels_of_a_network():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1)).eval()
    x = torch.rand(4, 1, 8, 8, generator=GENERATOR)
    y = net(x).argmax(1)
    result = plica.attack(net, x, y, L2, goal=Pixels(0.25))
    wrong = (net(result.x_adv).argmax(1) != y).flatten(1).double().mean(1)
    assert result.success.all()
    assert (wrong >= 0.25).all()


def test_targets_and_the_goal_of_misclassification():
    y = OUT.argmax(1)
    as_before = plica.attack(NET, X, y, L2)
    assert torch.equal(plica.attack(NET, X, y, L2, goal=Misclassified()).x_adv, as_before.x_adv)


@pytest.mark.parametrize(
    ("goal", "words"),
    [
        (Deviates(0.1), "knows none"),
        ("any-label", "must be a function"),
        (AnyLabel, "must be a function"),
    ],
)
def test_goals_that_are_refused(goal, words):
    with pytest.raises((TypeError, ValueError), match=words):
        ASK(NET, X, OUT.argmax(1), L2, goal=goal, targets=OUT.argmin(1))


@pytest.mark.parametrize(
    ("goal", "y", "words"),
    [
        (Deviates(0.1), OUT[:, :2], "needs y of the output's shape"),
        (AnyLabel(), 2 * torch.ones_like(OUT), "needs y of 0 and 1"),
        (Pixels(0.5), torch.zeros(8, 3), r"Pixels needs an output .* \(8, 3\)\.$"),
        (lambda output, y: output, OUT, "one number for each image"),
        (lambda output, y: (output > y).float().mean(1), OUT, "has no gradient"),
        (lambda output, y: output @ y, OUT, "goal raised RuntimeError"),
        (Deviates(0.1), OUT[:3], "must have 8 entries"),
        (Deviates(0.1), OUT * math.nan, "must not be nan"),
    ],
)
def test_what_does_not_belong_to_the_goal(goal, y, words):
    with pytest.raises(ValueError, match=words):
        ASK(NET, X, y, L2, goal=goal)


def test_one_logit_for_each_pixel_needs_an_axis_of_y():
    output, y = torch.zeros(2, 1, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long)
    with pytest.raises(ValueError, match=r"write y\[:, None\]"):
        Pixels(0.5).check(output, y)
    Pixels(0.5).check(output, y[:, None])


@pytest.mark.parametrize("goal", [Deviates, Pixels])
@pytest.mark.parametrize("value", [-1, math.nan, math.inf, True, "0.1", None, torch.ones(2)])
def test_numbers_of_goals_that_are_none(goal, value):
    with pytest.raises(ValueError, match="number"):
        inspect.unwrap(goal.__init__)(object.__new__(goal), value)


def test_a_goal_that_is_nan_at_an_image_ends_it_alone():
    def goal(output, y):
        value = output[:, 0] - y[:, 0] - 0.01
        return torch.where(output[:, 0] == OUT[0, 0], torch.nan, value)

    result = plica.attack(NET, X, OUT, L2, goal=goal, gradients=20)
    assert result.status[0] is plica.Status.NOT_FINITE
    assert result.success.tolist() == [False] + 7 * [True]
    assert result.gradients[0] == 0


@pytest.mark.parametrize("method", ["auto", "pwcf", "curved"])
def test_y_in_float64_is_the_same_as_in_float32(method):
    narrow, wide = (
        plica.attack(NET, X, y, L2, method=method, goal=Deviates(0.05), gradients=20) for y in (OUT, OUT.double())
    )
    torch.testing.assert_close(wide.distance, narrow.distance, rtol=EXACT, atol=0)


def test_methods_and_losses_that_know_classes_only():
    with pytest.raises(plica.Unsupported, match='knows classes and no other goal; use "auto"'):
        plica.attack(NET, X, OUT, L2, goal=Deviates(0.1), method="fmn")
    with pytest.raises(plica.Unsupported, match="use loss='margin'"):
        plica.attack(NET, X, OUT, MaxLoss(Lp(2), 1.0, "ce"), goal=Deviates(0.1))


@pytest.mark.parametrize(
    ("text", "goal"),
    [
        ("misclassified", Misclassified()),
        ("deviates=0.1", Deviates(0.1)),
        ("any-label", AnyLabel()),
        ("pixels=0.25", Pixels(0.25)),
        ("plica.goals:class_logits", class_logits),
    ],
)
def test_goals_by_name(text, goal):
    assert parse_goal(text) == goal


@pytest.mark.parametrize(
    "text", ["deviates", "deviates=x", "deviates=-1", "pixels=0", "any-label=3", "no", "no_module:b", ""]
)
def test_texts_that_name_no_goal(text):
    with pytest.raises(ValueError, match="goal"):
        parse_goal(text)
