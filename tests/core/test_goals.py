"""A goal is the margin and the losses with its own labels and targets, for all images or some."""

import pytest
import torch

from plica.core.goals import Goal, finite
from plica.core.losses import LOSSES, margin
from plica.goals import Deviates

B, CLASSES = 12, 5
LOGITS = torch.randn(B, CLASSES, generator=torch.Generator().manual_seed(0))
Y = torch.arange(B) % CLASSES
TARGETS = (Y + 2) % CLASSES
GOALS = pytest.mark.parametrize("goal", [Goal(Y), Goal(Y, TARGETS)], ids=["any", "target"])


@GOALS
@pytest.mark.parametrize("rows", [slice(3, 7), torch.tensor([4, 0, 4, 11])])
def test_some_of_the_images(goal, rows):
    assert torch.equal(goal[rows].margin(LOGITS[rows]), goal.margin(LOGITS)[rows])
    for name in LOSSES:
        torch.testing.assert_close(goal[rows].loss(name, LOGITS[rows]), goal.loss(name, LOGITS)[rows])


@GOALS
def test_the_margin_is_positive_exactly_where_the_goal_is_reached(goal):
    predicted = LOGITS.argmax(1)
    reached = predicted != Y if goal.targets is None else predicted == TARGETS
    assert torch.equal(goal.margin(LOGITS) > 0, reached)


def test_alternatives_of_a_label_are_the_other_classes():
    """In the order of the classes; the margin of the goal is the largest of theirs."""
    goal, others = Goal(Y), LOGITS[torch.arange(CLASSES) != Y[:, None]].view(B, CLASSES - 1)
    margins = goal.alternatives(LOGITS)
    assert torch.equal(margins, others - LOGITS.gather(1, Y[:, None]))
    assert torch.equal(margins.amax(1), goal.margin(LOGITS))
    for k in range(CLASSES - 1):
        assert torch.equal(goal.margin_to(LOGITS, torch.full((B,), k)), margins[:, k])


def test_an_aim_has_the_margin_of_its_class_last_and_its_gradient():
    goal, alternative = Goal(Y), torch.arange(B) % (CLASSES - 1)
    aim, logits = goal.aim(alternative, LOGITS), LOGITS.clone().requires_grad_(True)
    margin = goal.margin_to(logits, alternative)
    (slope,) = torch.autograd.grad(margin.sum(), logits)
    assert torch.equal(aim.slope, slope)
    margins = aim.margins(LOGITS)
    assert torch.equal(margins[:, -1], margin)
    assert torch.equal(margins.sort(1).values, goal.alternatives(LOGITS).sort(1).values)
    assert torch.equal(aim.margins(LOGITS[3:7], slice(3, 7)), margins[3:7])


@pytest.mark.parametrize("goal", [Goal(Y, TARGETS), Goal(LOGITS, function=Deviates(0.1))], ids=["target", "function"])
def test_no_aim_where_alternatives_are_no_differences_of_logits(goal):
    assert goal.aim(torch.zeros_like(Y), LOGITS) is None
    assert Goal(Y % 2).aim(torch.zeros_like(Y), LOGITS[:, :1]) is None  # one logit for two classes


def test_a_target_is_the_only_alternative():
    assert torch.equal(Goal(Y, TARGETS).alternatives(LOGITS)[:, 0], margin(LOGITS, Y, TARGETS))
    assert Goal(Y, TARGETS).alternatives(LOGITS).shape == (B, 1)


class Halves:
    """Reached where the logits of either half of the classes add up to more than y."""

    def __call__(self, output, y):
        return self.alternatives(output, y).amax(1)

    def alternatives(self, output, y):
        return torch.stack([output[:, :2].sum(1), output[:, 2:].sum(1)], 1) - y[:, None]


def test_the_margin_of_one_way_is_its_column():
    goal, way = Goal(Y.float(), function=Halves()), torch.arange(B) % 2
    expected = torch.stack([LOGITS[:, :2].sum(1), LOGITS[:, 2:].sum(1)], 1)[torch.arange(B), way] - Y
    torch.testing.assert_close(goal.margin_to(LOGITS, way), expected)
    target = Goal(Y, TARGETS)
    assert torch.equal(target.margin_to(LOGITS, torch.zeros_like(Y)), target.margin(LOGITS))


def test_a_goal_without_classes_has_its_margin_as_loss_and_no_prediction():
    goal = Goal(LOGITS + 0.3, function=Deviates(0.1))
    torch.testing.assert_close(goal.loss("margin", LOGITS), torch.full((B,), 0.2))
    assert goal.prediction(LOGITS).tolist() == [-1] * B
    assert torch.equal(Goal(Y).prediction(LOGITS), LOGITS.argmax(1))
    assert torch.equal(Goal(Y % 2).prediction(LOGITS[:, :1]), (LOGITS[:, 0] > 0).long())  # one logit for two classes


def test_no_image_is_not_asked_of_a_function_that_takes_none():
    def one_number_of_all(output, y):
        return (output - output.amin()).flatten(1).amax(1)  # amin of nothing is an error

    goal = Goal(torch.zeros(0), None, one_number_of_all)
    assert goal.margin(torch.zeros(0, 3)).shape == (0,)
    assert goal.margin(torch.zeros(0, 3).double()).dtype == torch.float64


def test_an_output_is_finite_where_every_number_is():
    nan, inf = float("nan"), float("inf")
    output = torch.tensor([[1.0, 2.0], [1.0, nan], [inf, 0.0], [-inf, 0.0], [nan, nan]])
    assert finite(output).tolist() == [True, False, False, False, False]
    assert finite(output[:, None, :]).tolist() == [True, False, False, False, False]


@GOALS
@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_those_of_their_names(goal, name):
    assert torch.equal(goal.loss(name, LOGITS), LOSSES[name](LOGITS, Y, goal.targets))
