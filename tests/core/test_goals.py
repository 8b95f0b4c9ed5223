"""A goal is the margin and the losses with its own labels and targets, for all images or some."""

import pytest
import torch

from plica.core.goals import Goal
from plica.core.losses import LOSSES, margin

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


def test_the_margin_to_a_class():
    """Of the best other class it is the margin; with targets the target alone counts."""
    others = LOGITS.scatter(1, Y[:, None], -torch.inf)
    assert torch.equal(Goal(Y).margin_to(LOGITS, others.argmax(1)), margin(LOGITS, Y))
    assert (Goal(Y).margin_to(LOGITS, others.argmin(1)) <= margin(LOGITS, Y)).all()
    assert torch.equal(Goal(Y, TARGETS).margin_to(LOGITS, Y), margin(LOGITS, Y, TARGETS))
