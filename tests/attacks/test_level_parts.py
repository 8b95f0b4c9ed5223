"""The search on a grid of eleven levels, part by part, on a linear model: each part has an answer in closed form."""

import math

import pytest
import torch

from plica import Lp, MaxLoss, MinRadius
from plica.attacks.base import AttackInput
from plica.attacks.levels.points import GridPoints
from plica.attacks.levels.rounding import Rounding
from plica.attacks.levels.search import _attack_radius, _radius_before_rounding
from plica.attacks.levels.settings import INSIDE
from plica.core.domain.bounds import Bounds
from plica.core.domain.levels import LevelGrid
from plica.core.goals import Goal
from plica.core.judging.best import BestPoints
from plica.core.model.counted import CountedModel
from plica.metrics import LpForm

X = torch.full((1, 4), 0.5)
ROW = torch.tensor([0])
BOX = Bounds(torch.tensor(0.0).double(), torch.tensor(1.0).double())


def linear(w, boundary):
    """Logits (boundary, w x)."""
    return lambda z: torch.stack([torch.full_like(z[:, 0], boundary), z @ torch.tensor(w)], 1)


def task(p=2.0, radius=None, model=linear([1.0, 0, 0, 0], 0.75)):  # noqa: B008 - a function, which stays as it is
    counted, goal = CountedModel(model, 1), Goal(torch.tensor([0]))
    radii = None if radius is None else torch.tensor([radius], dtype=torch.float64)
    question = MinRadius(Lp(p)) if radius is None else MaxLoss(Lp(p), radius)
    best = BestPoints(question.metric, X, goal, radii, None, counted)
    logits = model(X)
    return AttackInput(counted, best, X, goal, logits, question, radii, 20, 0, (0.0, 1.0), 8, lambda done: None)


def rounding(end, p=2.0, radius=None, weights=None, **more):
    """The search that begins at an attack's point."""
    this = task(p, radius, **more)
    found = BestPoints(this.question.metric, X, this.goal, None)
    found.x_adv.copy_(torch.tensor([end]))
    grid = LevelGrid.of(X, BOX, 11)
    return Rounding(this, found, ROW, grid, LpForm(p, weights))


END = [0.63, 0.37, 0.63, 0.55]


def test_the_ball_of_linf_has_the_largest_changes_rounded_up():
    search = rounding(END, math.inf)
    assert search.ball.tolist() == pytest.approx([0.2])
    assert search.z[0].tolist() == pytest.approx([0.7, 0.3, 0.7, 0.5 + 0.05 * 0.2 / 0.13])
    search._widen(ROW, search.step)
    assert search.ball.tolist() == pytest.approx([0.3])
    assert search.z[0].tolist() == pytest.approx([0.8, 0.2, 0.8, 0.5 + 0.05 * 0.3 / 0.13])


def test_the_ball_of_linf_stays_within_the_radius():
    assert rounding(END, math.inf, radius=0.16).ball.tolist() == pytest.approx([0.16])
    assert rounding(END, math.inf, radius=0.5).ball.tolist() == pytest.approx([0.2])


def test_the_ball_of_weighted_linf_grows_by_the_least_weight():
    search = rounding(END, math.inf, weights=torch.tensor([2.0, 2.0, 2.0, 1.0]))
    assert search.ball.tolist() == pytest.approx([0.4])
    search._widen(ROW, search.step)
    assert search.ball.tolist() == pytest.approx([0.5])


@pytest.mark.parametrize(("p", "levels"), [(math.inf, [7, 3, 7, 7]), (2.0, [8, 2, 8, 7])])
def test_no_pixel_is_moved_out_of_the_ball_or_farther_than_one_and_a_half_levels(p, levels):
    search = rounding(END, p)
    search.grad[0] = torch.tensor([1.0, -1, 1, 1])
    search.least[0] = 100.0  # more than any point has
    assert (10 * search._along_gradient(ROW)[0]).round().tolist() == levels


def test_a_point_outside_the_radius_is_moved_in_as_far_as_need_be():
    u = rounding([0.8, 0.8, 0.5, 0.5], radius=0.3)._rounded(ROW)
    assert u[0].tolist() == pytest.approx([0.7, 0.7, 0.5, 0.5])


def test_a_point_that_stays_where_it_is_is_not_run_again():
    search = rounding([0.8, 0.5, 0.5, 0.5], model=linear([1.0, 0.01, 0.01, 0.01], 0.76))
    search.run()
    assert search.task.best.x_adv[0].tolist() == pytest.approx([0.8, 0.5, 0.5, 0.5])
    assert (search.task.model.gradients + search.task.model.forwards).tolist() == [1]


def test_without_a_gradient_the_slope_from_the_image_takes_its_place():
    model = linear([1.0, 0, 0, 0], 0.75)
    search = GridPoints(task(model=lambda z: model(z).detach()), ROW, X.clone(), LevelGrid.of(X, BOX, 11), LpForm(2.0))
    u = torch.tensor([[0.8, 0.6, 0.5, 0.5]])
    assert search._gradient(u, ROW).tolist() == [True]
    assert search.grad[0].tolist() == pytest.approx([0.9, 0.3, 0, 0])  # 0.3 / |delta|^2 delta


def test_the_radius_of_a_search_is_of_whole_levels_under_linf_alone():
    grid, radius = LevelGrid.of(X, BOX, 11), torch.tensor([0.25]).double()
    off = LevelGrid.of(X + 0.03, BOX, 11)
    weighted = LpForm(math.inf, torch.ones(4))
    for form, points, expected in (
        (LpForm(math.inf), grid, 0.2), (LpForm(2.0), grid, 0.25), (None, grid, 0.25), (LpForm(math.inf), off, 0.25),
        (weighted, grid, 0.25),
    ):  # fmt: skip
        found = _attack_radius(radius, form, points)
        assert found is not None
        assert found.tolist() == pytest.approx([expected * (1 + INSIDE)], rel=1e-7)
    assert _attack_radius(None, LpForm(2.0), grid) is None


def test_what_rounding_to_half_precision_was_added_to_a_radius_is_taken_off():
    grid = LevelGrid.of(torch.zeros(1, 4), BOX, 4001, dtype=torch.float16)
    assert grid.rounding == 2**-11
    found = _attack_radius(torch.tensor([10 / 4000 + grid.rounding]).double(), LpForm(math.inf), grid)
    assert found is not None
    assert found.tolist() == pytest.approx([10 / 4000 * (1 + INSIDE)], rel=1e-6)


def test_what_rounding_is_expected_to_add_to_a_distance():
    grid, radius = LevelGrid.of(X, BOX, 11), torch.tensor([0.5]).double()
    expected = {1.0: 0.3, 2.0: (0.25 - 12 * 0.1**2 / 12) ** 0.5, 4.0: (0.0625 - 12 * 0.05**4 / 5) ** 0.25}
    for p, left in expected.items():
        found = _radius_before_rounding(radius, 12, LpForm(p), grid)
        assert found is not None
        assert found.tolist() == pytest.approx([left], rel=1e-6)
    assert _radius_before_rounding(radius, 10**6, LpForm(2.0), grid).tolist() == [0]  # type: ignore[union-attr]
    for form in (None, LpForm(math.inf), LpForm(2.0, torch.ones(4))):
        assert _radius_before_rounding(radius, 12, form, grid) is None
