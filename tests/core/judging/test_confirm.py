"""A point that float64 rejects is enlarged a little, and looked at twice again; three forward runs are enough."""

import pytest
import torch
from torch import nn

from plica.core.goals import Goal
from plica.core.judging.confirm import LOOKS, TRIES, confirm
from plica.core.judging.judge import Judge
from plica.core.model.counted import CountedModel
from plica.core.model.second_run import SecondRun
from plica.metrics import Lp

X = torch.tensor([[0.5, 0.5], [0.5, 0.25]])


class Ramp(nn.Module):
    """Logits (1, 1 + x_0 - 0.6), of which float32 adds an error to the second."""

    def __init__(self, error: float):
        super().__init__()
        self.error = nn.Parameter(torch.tensor(error, dtype=torch.float64), requires_grad=False)

    def forward(self, x):
        error = self.error if x.dtype == torch.float32 else 0
        return torch.stack([torch.ones_like(x[:, 0]), 0.4 + x[:, 0] + error], 1).to(x)


def confirmed(error, runs, end=0.60005):
    """The judgement on points at x_0 = end, and the forward runs that each image cost."""
    model = Ramp(error)
    counted = CountedModel(model, len(X))
    goal = Goal(torch.zeros(len(X), dtype=torch.long))
    judge = Judge(counted, SecondRun(counted, X.dtype), Lp(2), X, goal, None, (0.0, 1.0), torch.arange(len(X)))
    points = torch.stack([torch.full((len(X),), end), X[:, 1]], 1)
    margins = goal.margin(model(X)), goal.margin(model(points))
    x_adv, theta, judgement = confirm(judge, None, points, margins, torch.full((len(X),), runs))
    assert theta is None
    spent = counted.forwards.clone()
    assert torch.equal(judge(x_adv).sure, judgement.sure) or runs < LOOKS
    return x_adv, judgement, spent


def test_a_point_that_both_precisions_confirm_stays_as_it_is():
    x_adv, judgement, spent = confirmed(0.0, runs=9)
    assert judgement.sure.all()
    assert (x_adv[:, 0] == torch.tensor(0.60005)).all()
    assert (spent <= 2).all()


@pytest.mark.parametrize("runs", [3, 4, 5, 9])
def test_a_point_that_float64_rejects_is_enlarged_by_little(runs):
    """Float32 sees the boundary 1e-4 too near: at 0.60005 float64 is short of it."""
    x_adv, judgement, spent = confirmed(1e-4, runs)
    assert judgement.sure.all()
    assert (Ramp(0.0).double()(x_adv.double()).argmax(1) == 1).all()
    assert (judgement.distance < 0.1 * 1.011).all()
    assert (spent <= runs).all()


@pytest.mark.parametrize("runs", [1, 2])
def test_where_runs_are_too_few_for_both_looks_float32_alone_decides(runs):
    _, judgement, spent = confirmed(1e-4, runs)
    assert judgement.sure.all()
    assert (spent == 1).all()


def test_a_point_beyond_help_is_refused():
    """Float64 sees the boundary far outside of what a stretch reaches."""
    _, judgement, spent = confirmed(0.2, runs=20)
    assert not judgement.sure.any()
    assert (spent <= 20).all()


@pytest.mark.parametrize("tries", range(TRIES + 1))
def test_every_run_that_may_be_spent_on_a_doubtful_point_is(tries):
    """One second run of the search's own point, then two runs for each enlarged one."""
    _, judgement, spent = confirmed(0.2, runs=2 * tries + 3)
    assert not judgement.sure.any()
    assert (spent == 2 * tries + 3).all()
