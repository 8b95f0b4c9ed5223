"""A point that float64 rejects is enlarged a little, and looked at twice again; three forward runs are enough."""

import pytest
import torch
from torch import nn

from plica.core.domain.bounds import Bounds
from plica.core.domain.levels import LevelGrid
from plica.core.goals import Goal
from plica.core.judging.confirm import FOR_SECOND_RUN, TRIES, confirm
from plica.core.judging.judge import Judge
from plica.core.model.counted import CountedModel
from plica.core.model.second_run import SecondRun
from plica.metrics import Lp
from plica.perturbations.base import ThetaDistance
from shift import Shift

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
    assert torch.equal(judge(x_adv).sure, judgement.sure) or runs < FOR_SECOND_RUN
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


def test_an_enlarged_point_lies_on_the_grid():
    model, step = Ramp(1e-4), 5e-5
    counted = CountedModel(model, len(X))
    grid = LevelGrid.of(X, Bounds(torch.tensor(0.0), torch.tensor(1.0)), 20001)
    goal = Goal(torch.zeros(len(X), dtype=torch.long))
    second = SecondRun(counted, X.dtype)
    judge = Judge(counted.with_grid(grid), second, Lp(2), X, goal, None, (0.0, 1.0), torch.arange(len(X)))
    points = torch.stack([torch.full((len(X),), 0.60005), X[:, 1]], 1)
    margins = goal.margin(model(X)), goal.margin(model(points))
    x_adv, _, judgement = confirm(judge, None, points, margins, torch.full((len(X),), 9))
    assert judgement.sure.all()
    assert (x_adv[:, 0] > 0.6002).all()  # enlarged
    level = x_adv.double() / step
    torch.testing.assert_close(level, level.round(), rtol=0, atol=2e-3)  # float32


def test_points_are_rounded_to_the_grid_of_their_own_image():
    """The first one is confirmed as it is, the second one is enlarged."""
    model, own = Ramp(1e-4), torch.tensor([0.25, 0.75])

    def grid(z, image):
        return torch.stack([z[:, 0], own[image]], 1)

    counted = CountedModel(model, len(X))
    goal = Goal(torch.zeros(len(X), dtype=torch.long))
    second = SecondRun(counted, X.dtype)
    judge = Judge(counted.with_grid(grid), second, Lp(2), X, goal, None, (0.0, 1.0), torch.arange(len(X)))
    points = torch.tensor([[0.7, 0.5], [0.60005, 0.5]])
    margins = goal.margin(model(X)), goal.margin(model(points))
    x_adv, _, judgement = confirm(judge, None, points, margins, torch.full((len(X),), 9))
    assert judgement.sure.all()
    assert x_adv[0, 0] == points[0, 0]
    assert x_adv[1, 0] > points[1, 0]
    assert torch.equal(x_adv[:, 1], own)


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


def enlarged(until, runs, off=1e-7, twice=True, through=None, found=True):
    """The search ended at 1 + 2 off, where the margin is 2 off, and in the second run off: too uncertain. Farther out
    the model refuses each point up to an excess of `until`, of each row. Returns the excess with which the points are
    judged, whether they count, and what that cost.

    twice: whether the model runs in two ways; else it refuses the search's point too.
    found: of each row, whether the search found a point.
    """
    reached = 1 + 2 * off
    x, end = torch.zeros(len(until), 2).double(), torch.full((len(until), 2), reached, dtype=torch.float64)
    x[:, 1] = end[:, 1] = reached * (1 + torch.tensor(until, dtype=torch.float64) * (1 - 1e-3))

    def logits(z, boundary):
        refused = (z[:, 0] > reached * (1 + 1e-9 * twice) - 1e-12) & (z[:, 0] < z[:, 1])
        return torch.stack([torch.zeros_like(z[:, 0]), torch.where(refused, -1.0, z[:, 0] - boundary)], 1)

    goal = Goal(torch.zeros(len(x), dtype=torch.long))
    counted = CountedModel(lambda z: logits(z, 1.0), len(x))
    second = (lambda z: logits(z, 1 + off)) if twice else None
    metric = Lp(2) if through is None else ThetaDistance(through)
    judge = Judge(counted, second, metric, x, goal, None, (-9.0, 9.0), torch.arange(len(x)))
    last = torch.full((len(x),), 2 * off, dtype=torch.float64).where(torch.tensor(found), -torch.inf)
    margins = torch.full_like(last, -0.5), last
    end = end if through is None else end[:, :1]
    x_adv, theta, judgement = confirm(judge, through, end, margins, torch.full((len(x),), runs))
    assert theta is None if through is None else torch.equal(theta[:, 0], x_adv[:, 0])
    assert torch.equal(judgement.distance[judgement.sure], x_adv[judgement.sure][:, 0] * (1 if through is None else 2))
    return (x_adv[:, 0] / reached - 1).tolist(), judgement.sure.tolist(), counted.forwards.tolist()


FIRST = (
    2 * 7e-7 / 0.5
)  # 2 (wanted - m2) / (m2 - m(x)): six differences of the two runs above the margin of the first are wanted


@pytest.mark.parametrize("through", [None, Shift()])
@pytest.mark.parametrize("tries", [1, 2, 3, 4])
def test_the_excess_grows_eightfold_until_a_point_passes(tries, through):
    excess = FIRST * 8 ** (tries - 1)
    more, sure, spent = enlarged([excess, 0.0], 30, through=through)
    assert more == pytest.approx([excess, FIRST], rel=1e-6)
    assert sure == [True, True]
    assert spent == [1 + 2 * tries, 3]


def test_it_ends_at_a_hundredth_and_after_six_tries():
    more, sure, spent = enlarged([FIRST * 8**3 * 1.01, 1.0], 30)
    assert more == pytest.approx([0.01, 0.01], rel=1e-6)  # and not 8^4 FIRST, an eighth more
    assert sure == [True, False]
    assert spent == [11, 13]


@pytest.mark.parametrize(("off", "excess"), [(1e-9, 1e-6), (1e-4, 28e-4), (1e-3, 0.01)])
def test_the_excess_lies_between_a_millionth_and_a_hundredth(off, excess):
    more, sure, _ = enlarged([0.0], 30, off)
    assert more == pytest.approx([excess], rel=1e-3)
    assert sure == [True]


@pytest.mark.parametrize(
    ("runs", "until", "excess", "spent"),
    [
        (3, 0.0, 8 * FIRST, 3),  # the last try takes eight times as much
        (4, 0.0, 8 * FIRST, 3),
        (5, 0.0, FIRST, 3),
        (6, 0.0, FIRST, 3),
        (5, 1.0, 64 * FIRST, 5),
        (6, 1.0, 64 * FIRST, 5),
        (7, 1.0, 512 * FIRST, 7),
    ],
)
def test_the_last_try_that_the_runs_allow_is_eight_times_as_far(runs, until, excess, spent):
    more, sure, cost = enlarged([until], runs)
    assert more == pytest.approx([excess], rel=1e-6)
    assert (sure, cost) == ([until == 0], [spent])


def test_of_a_model_that_runs_one_way_only_refused_points_alone_are_enlarged():
    """Eightfold from a millionth: with one run for each look, and nothing that tells by how much."""
    more, sure, spent = enlarged([0.0], 30, twice=False)
    assert (more, sure, spent) == (pytest.approx([0.0], abs=1e-12), [True], [1])
    # 1e-15 is less than rounding: refused at first, and then until the excess
    for tries, excess in enumerate([1e-6, 8e-6, 64e-6, 512e-6, 4096e-6], 1):
        more, sure, spent = enlarged([excess, 1.0], 30, twice=False)
        assert more == pytest.approx([excess, 4096e-6], rel=1e-6)
        assert sure == [True, False]
        assert spent == [1 + tries, 6]
    assert enlarged([1.0], 3, twice=False) == (pytest.approx([64e-6], rel=1e-6), [False], [3])


def test_an_image_without_a_point_costs_one_look():
    more, sure, spent = enlarged([0.0, 0.0, 8 * FIRST], 30, found=[True, False, True])
    assert more == pytest.approx([FIRST, 0.0, 8 * FIRST], rel=1e-6, abs=1e-12)
    assert spent == [3, 1, 5]
    assert sure[::2] == [True, True]
    # neither where the look refuses it
    assert enlarged([0.0, 1.0], 30, found=[True, False], twice=False)[1:] == ([True, False], [1, 1])
