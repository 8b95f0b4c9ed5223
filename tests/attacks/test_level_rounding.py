"""Rounding with the help of the gradient, on 1001 levels: where each trial lies, what it costs, when it ends."""

import math

import pytest
import torch

from plica import Lp, MaxLoss, MinRadius, Status
from plica.attacks.base import AttackInput, AttackOutput
from plica.attacks.levels.points import GridPoints
from plica.attacks.levels.rounding import Rounding
from plica.attacks.levels.search import on_levels
from plica.attacks.levels.settings import ENOUGH, INSIDE, ROUNDING
from plica.core.domain.bounds import Bounds
from plica.core.domain.levels import LevelGrid
from plica.core.goals import Goal
from plica.core.judging.best import BestPoints
from plica.core.model.counted import CountedModel
from plica.metrics import LpForm

LEVELS = 1001
BOX = Bounds(torch.tensor(-1.0).double(), torch.tensor(1.0).double())
X = torch.tensor([[500.0, 500.0, 500.0], [400.0, 600.0, 700.0]]) / 500 - 1
GRADIENT = torch.tensor([1.0, 0.0, 0.0])
ROW = torch.tensor([0])


def constant(margin):
    """A model of this margin everywhere whose gradient is (1, 0, 0) all the same."""

    def model(z):
        slope = z[:, 0] - z[:, 0].detach()
        return torch.stack([slope * 0, slope + margin], 1)

    return model


def task(p=2.0, radius=None, model=constant(-0.05), gradients=20, x=X, batch=8):  # noqa: B008 - it stays as it is
    counted, goal = CountedModel(model, len(x)), Goal(torch.zeros(len(x), dtype=torch.long))
    radii = None if radius is None else torch.full((len(x),), radius, dtype=torch.float64)
    question = MinRadius(Lp(p)) if radius is None else MaxLoss(Lp(p), radius)
    best = BestPoints(question.metric, x, goal, radii, None, counted)
    return AttackInput(
        counted, best, x, goal, model(x), question, radii, gradients, 0, (-1.0, 1.0), batch, lambda done: None
    )  # fmt: skip


def rounding(end, p=2.0, weights=None, x=X, levels=LEVELS, surest=None, **more):
    """The search from `end`, in levels, and at last from `surest`."""
    this = task(p, x=x, **more)
    found = BestPoints(this.question.metric, x, this.goal, None)
    found.x_adv.copy_(pixels(torch.tensor(end), levels))
    if surest is not None:
        found.also = BestPoints(this.question.metric, x, this.goal, None)
        found.also.x_adv.copy_(pixels(torch.tensor(surest), levels))
        found.also.margin.fill_(0.1)
    rows = torch.arange(len(x))
    return Rounding(this, found, rows, LevelGrid.of(x, BOX, levels), LpForm(p, weights))


def pixels(levels, number=LEVELS):
    return 2 * levels / (number - 1) - 1


def in_levels(pixels):
    return 500 * (pixels + 1)


STEP = 0.002
END = [[800.2, 350.4, 500.0], [250.2, 600.0, 950.3]]


def close(found, expected, atol=2e-3):
    torch.testing.assert_close(found, torch.tensor(expected, dtype=found.dtype), rtol=0, atol=atol)


def missed(x, end, p, ball, budget):
    """The last point, z and the margin that is added, and the number of points, where each one misses the goal."""
    size = (end - x).abs().max()
    z = end if p == 2 else x + ball / size * (end - x)
    u, added, number = z.round(), 0.0, 1
    while number < budget:
        new = z.clamp(0, 1000).round()
        most = min(float(z[0].clamp(0, 1000)) + 1.5, 1000, float(x[0] + ball if p == math.inf else 1000))
        new[0] = round(most)  # as far as it may lie from z, and in the ball
        if torch.equal(new, u):
            break
        number, added, u = number + 1, added + max(0.0, float(new[0] - u[0])) * STEP, new
        ball += 1
        z = x + (1 + 0.01 * 2.0 ** (number - 2) if p == 2 else ball / size) * (end - x)
    return u, z, added, number


@pytest.mark.parametrize("gradients", [2, 4, 15])
@pytest.mark.parametrize("p", [2.0, math.inf])
def test_points_that_miss_the_goal_are_stretched_from_the_second_on_and_aim_higher(gradients, p):
    search = rounding(END, p, gradients=gradients)
    search.run()
    for row, ball in enumerate([301.0, 251.0]):
        x, end = in_levels(X[row]), torch.tensor(END[row])
        u, z, added, number = missed(x, end, p, ball, min(gradients, 12))
        assert search.task.model.gradients[row] == number
        close(in_levels(search.u[row]), u.tolist())
        close(in_levels(search.z[row]), z.tolist(), 0.03)
        close(search.added_margin[row], added, 1e-5)
    assert search.task.model.forwards.tolist() == [0, 0]
    assert search.margin.tolist() == pytest.approx([-0.05] * 2)


def test_nothing_left_to_spend_ends_it():
    for gradients, spent in ((0, [0, 0]), (20, [20, 20])):
        search = rounding(END, gradients=gradients)
        search.task.model.gradients[:] = torch.tensor(spent)
        search.run()
        assert search.task.model.gradients.tolist() == spent
        assert search.task.model.forwards.tolist() == [0, 0]


def test_forward_runs_are_used_when_no_gradient_is_left():
    search = rounding(END, gradients=30)
    search.task.model.gradients[:] = 29
    search.run()
    assert search.task.model.gradients.tolist() == [30, 30]
    assert search.task.model.forwards.tolist() == [2, 2]


def beyond(level):
    """A model whose goal is reached where the second pixel is above this level, with gradient (1, 0, 0)."""

    def model(z):
        slope = z[:, 0] - z[:, 0].detach()
        return torch.stack([slope * 0, slope + torch.where(in_levels(z[:, 1]) > level, 0.1, -0.05)], 1)

    return model


@pytest.mark.parametrize(("p", "gradients", "runs"), [(2.0, 30, [2, 2]), (2.0, 100, [10, 10]), (math.inf, 30, [0, 2])])
def test_the_last_run_is_for_the_surest_point_where_none_on_the_grid_reaches_the_goal(p, gradients, runs):
    """With 100 gradients both points end at the box, under linf the first one does not change after the first run."""
    surest = [[500.0, 900.3, 500.0], [400.0, 899.8, 700.4]]
    search = rounding(END, p, surest=surest, gradients=gradients, model=beyond(850))
    search.task.model.gradients[:] = gradients - 2
    search.run()
    assert search.task.model.gradients.tolist() == [gradients] * 2
    assert search.task.model.forwards.tolist() == runs
    close(in_levels(search.task.best.x_adv), [[500.0, 900.0, 500.0], [400.0, 900.0, 700.0]])


def test_the_surest_point_is_not_run_where_another_reaches_the_goal_or_nothing_is_left():
    surest = [[500.0, 900.3, 500.0], [400.0, 899.8, 700.4]]
    search = rounding(END, surest=surest, gradients=100, model=beyond(300))
    search.run()
    assert (in_levels(search.task.best.x_adv[:, 1]) < 700).all()
    search = rounding(END, surest=surest, gradients=20, model=beyond(850))
    search.task.model.gradients[:] = 18
    search.run()
    assert search.task.best.distance.isinf().all()
    assert search.task.model.forwards.tolist() == [0, 0]


@pytest.mark.parametrize(("p", "radius", "runs"), [(2.0, None, 2), (math.inf, None, 1), (2.0, 1.0, 1)])
def test_the_next_point_is_tried_only_where_it_may_be_nearer(p, radius, runs):
    """Points along the gradient to where the margin is as little as it may be, and not again the same."""
    search = rounding(END, p, radius=radius, model=constant(0.05))
    search.run()
    assert search.task.model.gradients.tolist() == [runs, runs]
    close(in_levels(search.u[0]), [799.0 if runs == 2 else 801.0 if p == math.inf else 800.0, 350.0, 500.0])
    assert search.added_margin.tolist() == [0, 0]


def test_a_point_that_is_not_nearer_is_the_last():
    search = rounding(END, model=constant(0.05))
    search.task.best.distance[:] = 0.1  # as if nearer ones were known
    search.run()
    assert search.task.model.gradients.tolist() == [1, 1]


def test_points_that_reach_the_goal_forget_what_was_added():
    search = rounding(END, model=constant(0.05), p=math.inf)
    search.added_margin[:] = 7.0
    search.run()
    assert search.added_margin.tolist() == [0, 0]


def test_points_within_a_radius_are_not_stretched():
    search = rounding(END, radius=1.0)
    search.run()
    close(in_levels(search.z), END)


def test_the_ball_of_linf_only():
    search = rounding(END)
    assert search.ball.tolist() == [math.inf, math.inf]
    close(in_levels(search.z), END)


def test_changes_on_a_level_up_to_rounding_are_not_rounded_up():
    near = [[800 + 0.3 * ROUNDING, 350.0, 500.0], [100 - 0.3 * ROUNDING, 600.0, 750.0]]
    assert (rounding(near, math.inf).ball / STEP).tolist() == pytest.approx([300, 300], rel=1e-4)
    assert (rounding(END, math.inf).ball / STEP).tolist() == pytest.approx([301, 251], rel=1e-4)
    far = [[800.2, 350.0, 500.0], [99.8, 600.0, 750.0]]
    assert (rounding(far, math.inf).ball / STEP).tolist() == pytest.approx([301, 301], rel=1e-4)


def test_the_ball_of_weighted_linf_grows_by_a_level_of_the_least_weight():
    search = rounding(END, math.inf, torch.tensor([2.0, 1.0, 0.5]))
    before = search.ball.clone()
    search._stretch(torch.tensor([1]), torch.tensor([2, 2]))
    assert ((search.ball - before) / STEP).tolist() == pytest.approx([0, 0.5], abs=1e-3)


def along(search, row):
    """round(z + lambda g / w^2) by trying many lambda, in levels."""
    grid, step = search.grid.levels - 1, search.step
    x, z, u = (((v[row] + 1) / step).double() for v in (search.x, search.z, search.u.clone()))
    grad, u = search.grad[row].double(), u.round()
    weights = torch.ones_like(z) if search.weights is None else search.weights.double()
    z = z.clamp(0, grid)
    least, most = (z - 1.5).clamp(min=0), (z + 1.5).clamp(max=grid)
    if search.linf:
        width = float(search.ball[row]) / step / weights
        least = torch.maximum(least, (x - width - ROUNDING).ceil())
        most = torch.minimum(most, (x + width + ROUNDING).floor())
    pull = grad / weights.square()
    outward = 2 ** torch.linspace(-8, 12, 4001).double()
    inward = -outward.flip(0) if search.radius is None else outward[:0]  # a larger margin costs nothing in a radius
    scales = torch.cat([inward, outward[:1] * 0, outward])[:, None] / pull.abs().max()
    trials = torch.minimum(torch.maximum(z + scales * pull, least), most).round()
    need = float(search.added_margin[row] + search.least[row] - search.margin[row])
    enough = step * ((trials - u) @ grad) >= need
    return trials[enough.nonzero()[0, 0]] if bool(enough.any()) else trials[-1]


@pytest.mark.parametrize("p", [2.0, math.inf])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("radius", [None, 50.0])
def test_a_point_is_the_first_along_the_gradient_whose_linearised_margin_suffices(p, weighted, radius):
    generator = torch.Generator().manual_seed(3)
    n, rows = 6, 24
    x = torch.randint(0, 11, (rows, n), generator=generator) / 5 - 1
    end = (5 * x + 5 + 2.4 * torch.randn(rows, n, generator=generator)).clamp(-0.3, 10.3)
    weights = torch.tensor([1.0, 0.5, 2.0, 1.2, 0.8, 1.5]) if weighted else None
    search = rounding(end.tolist(), p, weights, x=x, levels=11, radius=radius)
    search.u = (end + 0.6 * torch.randn(rows, n, generator=generator)).round().clamp(0, 10) / 5 - 1
    size = 10.0 ** torch.linspace(-4, 4, rows)[:, None]
    search.grad = size * torch.randn(rows, n, generator=generator)
    reach = size[:, 0] * torch.randn(rows, generator=generator)
    search.margin, search.least, search.added_margin = 0.3 * reach, 0.2 * reach.abs(), 0.1 * reach.abs()
    found = 5 * (search._along_gradient(torch.arange(rows)) + 1)
    expected = torch.stack([along(search, row) for row in range(rows)])
    torch.testing.assert_close(found, expected.float(), rtol=0, atol=1e-4)
    some = torch.tensor([5, 2])
    torch.testing.assert_close(5 * (search._along_gradient(some) + 1), expected[some].float(), rtol=0, atol=1e-4)


def test_a_point_at_its_radius_stays_and_one_beyond_moves_in_by_a_thousandth_at_least():
    for level, radius, inside in ((700.0, 0.4, 700.0), (700.6, 0.4018, 500 + 200.6 * (1 - ROUNDING))):
        search = rounding([[level, 500.0, 500.0]], x=torch.zeros(1, 3), radius=radius)
        if level == inside:  # the radius is its distance to the bit
            search.radius[0] = float(Lp(2)(search.x, search.points(torch.tensor([[700.0, 500, 500]]), ROW)))  # type: ignore[index]
        u = search._rounded(ROW)
        close(in_levels(search.z), [[inside, 500.0, 500.0]])
        close(in_levels(u), [[700.0, 500.0, 500.0]])


def test_points_outside_the_radius_are_moved_in_whatever_the_others_are():
    search = rounding([[690.0, 500.0, 500.0], [720.0, 500.0, 500.0]], x=torch.zeros(2, 3), radius=0.4006)
    assert in_levels(search._rounded(torch.tensor([0, 1])))[:, 0].tolist() == pytest.approx([690, 700])


def test_a_point_aims_at_a_multiple_of_the_margin_that_counts_and_must_exceed_it_once():
    this = task(model=constant(0.25))
    this.model.least_margin = lambda logits, image: torch.full((len(image),), 0.25)  # type: ignore[method-assign]
    search = GridPoints(this, torch.tensor([0, 1]), X.clone(), LevelGrid.of(X, BOX, LEVELS), None)
    rows = torch.tensor([1])
    assert search.evaluate(X[rows], rows, torch.tensor([False])).tolist() == [False]
    assert search.least.tolist() == [0, ENOUGH * 0.25]
    assert search.evaluate(X[rows], rows, torch.tensor([True])).tolist() == [False]
    this.model.least_margin = lambda logits, image: torch.full((len(image),), 0.2)  # type: ignore[method-assign]
    assert search.evaluate(X[rows], rows, torch.tensor([True])).tolist() == [True]
    assert search.grad.tolist() == [[0, 0, 0], GRADIENT.tolist()]
    assert (search.left().tolist(), search.forwards_left().tolist()) == ([20, 18], [0, -1])


def test_a_gradient_that_is_no_number_somewhere_is_replaced_by_the_slope():
    def model(z):
        return torch.stack([z[:, 0] * 0, z[:, 0] + 0.5 + (z[:, 1] * 0).sqrt()], 1)

    search = GridPoints(task(model=model), torch.tensor([0, 1]), X.clone(), LevelGrid.of(X, BOX, LEVELS), None)
    u = X[:1] + torch.tensor([[0.2, 0.0, 0.1]])
    assert search._gradient(u, torch.tensor([0])).tolist() == [True]
    close(search.grad[0], [0.8, 0, 0.4], 1e-5)  # 0.2 / |delta|^2 delta


def run_on_levels(this, grid, points=None, status=Status.BUDGET):
    """The tasks of an attack that offers these points, in levels; and what it and the grid's search returned."""
    seen = []

    def attack(task):
        seen.append(task)
        if points is not None:
            z = pixels(torch.tensor(points), grid.levels)
            every = torch.arange(len(z))
            task.best.offer(z, every, task.model.logits(z, every))
        return AttackOutput(torch.zeros(len(task.x)), [status] * len(task.x))

    on_grid, output = on_levels(attack, this, grid)
    return seen[0], on_grid, output


WIDE = torch.zeros(3, 120)


@pytest.mark.parametrize(("gradients", "left"), [(30, 28), (7, 6), (4, 4)])
def test_an_attack_off_the_grid_leaves_at_most_two_gradients_for_rounding(gradients, left):
    this = task(x=WIDE, gradients=gradients)
    attacked, on_grid, _ = run_on_levels(this, LevelGrid.of(WIDE, BOX, LEVELS))
    assert attacked.gradients == left
    assert attacked.model.grid is None
    assert attacked.best is this.best
    assert attacked.radius is None
    assert attacked.enough is None
    assert on_grid.best is not this.best
    assert on_grid.gradients == gradients


@pytest.mark.parametrize(("n", "on"), [(100, True), (101, False)])
def test_attacks_of_at_most_a_hundred_features_run_on_the_grid(n, on):
    x = torch.zeros(1, n)
    attacked, _, _ = run_on_levels(task(x=x), LevelGrid.of(x, BOX, LEVELS))
    assert (attacked.model.grid is not None) == on


def test_points_of_an_attack_on_the_grid_are_brought_nearer():
    """A model that is wrong everywhere else: the nearest points are a level away, two levels before."""
    x = torch.zeros(2, 3)
    model = lambda z: torch.stack([z[:, 0] * 0, torch.where((z != 0).any(1), 0.1, -0.1) + z.sum(1)], 1)  # noqa: E731
    start = [[502.0, 500.0, 500.0], [500.0, 501.0, 501.0]]
    for batch in (1, 8):
        this = task(x=x, model=model, gradients=30, batch=batch)
        _, on_grid, _ = run_on_levels(this, LevelGrid.of(x, BOX, LEVELS), start)
        assert on_grid.best.distance.tolist() == pytest.approx([STEP] * 2, rel=1e-4)


def test_an_attack_on_the_grid_leaves_a_fifth_for_the_descent():
    this = task(gradients=30)
    attacked, on_grid, _ = run_on_levels(this, LevelGrid.of(X, BOX, LEVELS))
    assert attacked.gradients == 24
    assert attacked.model.grid is not None
    assert attacked.best is this.best is on_grid.best
    inside, _, _ = run_on_levels(task(gradients=30, radius=0.4), LevelGrid.of(X, BOX, LEVELS))
    assert inside.gradients == 30
    assert inside.radius.tolist() == pytest.approx([0.4 * (1 + INSIDE)] * 2, rel=1e-9)


def test_a_radius_off_the_grid_is_stretched_and_one_to_end_at_is_less():
    attacked, _, _ = run_on_levels(task(x=WIDE, radius=0.4), LevelGrid.of(WIDE, BOX, LEVELS))
    assert attacked.radius.tolist() == pytest.approx([0.4 * (1 + INSIDE)] * 3, rel=1e-9)
    square = (0.4 * (1 + INSIDE)) ** 2 - 120 * STEP**2 / 12
    assert attacked.enough.tolist() == pytest.approx([square**0.5] * 3, rel=1e-6)


def test_images_whose_points_are_lost_by_rounding_are_told_from_those_without_any():
    """Reached is the first image off the grid alone, the second on it too, the third nowhere."""

    def model(z):
        off = (in_levels(z) - in_levels(z).round()).abs().amax(1) > 0.01
        margin = torch.where(off | (z[:, 1] > 0.5), 0.1, -0.1)
        margin = torch.where(z[:, 2] > 0.5, -0.1, margin)
        return torch.stack([margin * 0, margin], 1)

    points = torch.full((3, 120), 500.0)
    points[0, 0], points[1, 1], points[2, 2] = 800.4, 900.4, 900.4
    for batch in (1, 8):
        _, on_grid, output = run_on_levels(
            task(x=WIDE, model=model, batch=batch), LevelGrid.of(WIDE, BOX, LEVELS), points.tolist()
        )
        assert output.status == [Status.OFF_GRID, Status.BUDGET, Status.BUDGET]
        assert on_grid.best.distance.isfinite().tolist() == [False, True, False]


def test_a_radius_of_whole_levels_needs_all_images_on_the_grid():
    x = torch.cat([WIDE, WIDE[:1] + 0.3 * STEP])
    on, _, _ = run_on_levels(task(math.inf, 100.4 * STEP, x=WIDE), LevelGrid.of(WIDE, BOX, LEVELS))
    assert on.radius.tolist() == pytest.approx([100 * STEP * (1 + INSIDE)] * 3, rel=1e-6)
    nearly, _, _ = run_on_levels(task(math.inf, (100 - 0.5 * ROUNDING) * STEP, x=WIDE), LevelGrid.of(WIDE, BOX, LEVELS))
    assert nearly.radius.tolist() == pytest.approx([100 * STEP * (1 + INSIDE)] * 3, rel=1e-6)
    lowest, _, _ = run_on_levels(task(math.inf, 100.4 * STEP, x=WIDE - 1), LevelGrid.of(WIDE - 1, BOX, LEVELS))
    assert lowest.radius.tolist() == pytest.approx([100 * STEP * (1 + INSIDE)] * 3, rel=1e-6)
    mixed, _, _ = run_on_levels(task(math.inf, 100.4 * STEP, x=x), LevelGrid.of(x, BOX, LEVELS))
    assert mixed.radius.tolist() == pytest.approx([100.4 * STEP * (1 + INSIDE)] * 4, rel=1e-6)
