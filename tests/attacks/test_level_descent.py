"""Changes of one or two pixels by a level: the order in which they are tried against a list of all of them, and what a
search costs and keeps."""

import itertools
import math

import pytest
import torch

from plica import Lp, MinRadius
from plica.attacks.base import AttackInput
from plica.attacks.levels.descent import Descent
from plica.attacks.levels.settings import ROUNDING
from plica.core.domain.bounds import Bounds
from plica.core.domain.levels import LevelGrid
from plica.core.goals import Goal
from plica.core.judging.best import BestPoints
from plica.core.model.counted import CountedModel
from plica.metrics import LpForm

LEVELS = 11
BOX = Bounds(torch.tensor(-1.0).double(), torch.tensor(1.0).double())
ON = torch.tensor([[5.0, 0.0, 10.0, 6.0], [3.0, 4.0, 8.0, 1.0]])  # images, in levels
OFF = ON + torch.tensor([[0.3, 0.1, -0.2, 0.4], [0.2, 0.45, -0.3, 0.0]])
STARTS = torch.tensor([[7.0, 1.0, 8.0, 6.0], [3.0, 2.0, 10.0, 0.0]])
GRADIENTS = torch.tensor([[1.0, -0.37, 0.61, -0.083], [-0.21, 1.3, -0.57, 0.113]])


def pixels(levels):
    return levels / 5 - 1


def descent(levels=ON, p=2.0, weights=None, fixed=None, model=None, gradients=30, starts=STARTS):
    """The search from `starts`, of images on or off the grid; the model need not reach anything there."""
    x, u = pixels(levels), pixels(starts)
    counted = CountedModel(model or (lambda z: torch.stack([z[:, 0] * 0, z[:, 0] * 0 - 1], 1)), len(x))
    goal, question = Goal(torch.zeros(len(x), dtype=torch.long)), MinRadius(Lp(p))
    logits = counted.model(x)
    best = BestPoints(question.metric, x, goal, None, None, counted)
    best.x_adv.copy_(u)
    best.distance.copy_(torch.linalg.vector_norm(u - x, ord=p, dim=1))
    task = AttackInput(
        counted, best, x, goal, logits, question, None, gradients, 0, (-1.0, 1.0), 8, lambda done: None
    )  # fmt: skip
    return Descent(task, torch.arange(len(x)), LevelGrid.of(x, BOX, LEVELS, fixed), LpForm(p, weights))


def size(delta, p):
    return max(map(abs, delta)) if p == math.inf else sum(abs(d) ** p for d in delta)


def in_order(x, u, grad, p, weights, fixed):
    """The points of all changes that lower the distance, those of the largest predicted margin first."""
    n, found = len(x), []

    def change(levels):
        return [w * (a - b) if w < math.inf else 0.0 for w, a, b in zip(weights, levels, x, strict=True)]

    old = change(u)
    base = list(u)
    if p == math.inf:  # a level along the gradient, but nearer than now
        for i in range(n):
            near = [
                k for k in range(LEVELS) if fixed[i] or weights[i] * abs(k - x[i]) <= (1 - 2 * ROUNDING) * size(old, p)
            ]
            if not near:
                return []
            if not fixed[i]:
                base[i] = min(max(u[i] + (grad[i] > 0) - (grad[i] < 0), near[0]), near[-1])
    moves = [(i, by) for i in range(n) for by in (1, -1) if not fixed[i]]
    for some in [(), *((m,) for m in moves), *itertools.combinations(moves, 2)]:
        if len(some) == 2 and some[0][0] == some[1][0]:
            continue
        levels = list(base)
        for i, by in some:
            levels[i] += by
        if not all(0 <= k < LEVELS for k in levels):
            continue
        new = change(levels)
        if p == math.inf:
            allowed = size(new, p) <= (1 - 2 * ROUNDING) * size(old, p)
        else:
            allowed = size(new, p) - size(old, p) < -ROUNDING * max(abs(d) ** p for d in old)
        if allowed:
            found.append((-sum(by * grad[i] for i, by in some), levels))
    return [levels for _, levels in sorted(found)]


@pytest.mark.parametrize("p", [1.0, 3.0, math.inf])
@pytest.mark.parametrize("images", [ON, OFF], ids=["on", "off"])
@pytest.mark.parametrize("weighted", [False, True])
def test_every_change_that_lowers_the_distance_is_tried_in_the_order_of_the_predicted_margin(p, images, weighted):
    weights = torch.tensor([1.5, 0.7, 1.0, math.inf if weighted else 1.0])
    fixed = weights.isinf()
    starts = torch.where(fixed, images.round(), STARTS)
    search = descent(images, p, weights if weighted else None, fixed if weighted else None, starts=starts)
    search.grad.copy_(GRADIENTS)
    plain = (weights if weighted else torch.ones(4)).tolist()
    for row in (1, 0):
        x, u = images[row].tolist(), starts[row].tolist()
        expected = in_order(x, u, GRADIENTS[row].tolist(), p, plain, fixed.tolist())
        assert len(expected) > 3
        own = torch.tensor([row])
        for levels in expected:
            point, any_left = search._next(own)
            assert any_left.tolist() == [True]
            free = ~fixed
            torch.testing.assert_close(5 * (point[0, free] + 1), torch.tensor(levels)[free])
            assert torch.equal(point[0, fixed], search.x[row, fixed])
        assert search._next(own)[1].tolist() == [False]


@pytest.mark.parametrize(
    ("p", "x", "u", "number"),
    [
        (math.inf, [5.5, 5.3, 4.9, 5.0], [6.0, 5.0, 5.0, 5.0], 0),  # no level is nearer to the first pixel
        (1.0, [5.4998, 5.0, 2.0, 5.0], [6.0, 5.0, 5.0, 5.0], 2),  # nearer by less than counts
        (2.0, [10.0, 5.0, 0.0, 5.0], [10.0, 9.0, 0.0, 5.0], 5),  # no level lies beyond the bounds
    ],
)
def test_what_is_hardly_nearer_is_not_tried(p, x, u, number):
    search = descent(torch.tensor([x]), p, starts=torch.tensor([u]))
    search.grad[0] = GRADIENTS[0]
    expected = in_order(x, u, GRADIENTS[0].tolist(), p, [1.0] * 4, [False] * 4)
    assert len(expected) == number
    found = [search._next(torch.tensor([0])) for _ in range(number + 1)]
    assert [any_left.item() for _, any_left in found] == [True] * number + [False]
    for (point, _), levels in zip(found, expected, strict=False):
        torch.testing.assert_close(5 * (point[0] + 1), torch.tensor(levels))


def test_a_held_pixel_off_the_grid_has_no_share_in_the_distance():
    weights = torch.tensor([1.0, 1.0, 1.0, math.inf])
    x, u = torch.tensor([[5.3, 5.2, 5.1, 6.4]]), torch.tensor([[5.0, 5.0, 5.0, 6.0]])
    search = descent(x, math.inf, weights, weights.isinf(), starts=u)
    assert search._next(torch.tensor([0]))[1].tolist() == [False]


def spent(search):
    return search.task.model.gradients.tolist(), search.task.model.forwards.tolist()


SLOPES = torch.tensor([1.0, 0.83, 0.71, 0.64])
CENTRE = torch.tensor([0.013, -0.027, 0.009, 0.021])  # no point of the grid, where the gradient would be 0


def bowl(z):
    """Reached where a weighted sum of squares exceeds 1.5."""
    value = ((z - CENTRE).square() * SLOPES).sum(1)
    return torch.stack([torch.full_like(value, 1.5), value], 1)


def searched(x, u, p, gradients, forwards):
    """Where the search for a point of `bowl` from u ends, and the gradients and forward runs that it costs."""

    def slope(levels):
        return (2 * (pixels(torch.tensor(levels)) - CENTRE) * SLOPES).tolist()

    spent, run, grad, on = 1, 0, slope(u), True
    while on:
        on = False
        for levels in in_order(x, u, grad, p, [1.0] * 4, [False] * 4):
            cheap = run < forwards
            if not cheap and spent == gradients:
                break
            run, spent = run + cheap, spent + (not cheap)
            if bowl(pixels(torch.tensor([levels]))).diff() > 0:
                on, u = True, levels
                if not cheap:
                    grad = slope(u)
                elif spent < gradients:
                    spent, grad = spent + 1, slope(u)
                break
    return u, spent, run


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
@pytest.mark.parametrize("gradients", [6, 30])
def test_a_search_ends_where_the_largest_predicted_margins_lead_and_costs_as_much(p, gradients):
    x = [[5.0, 5.0, 5.0, 5.0], [4.0, 5.0, 6.0, 4.0]]
    starts = [[10.0, 10.0, 10.0, 10.0], [5.0, 0.0, 0.0, 1.0]]
    search = descent(torch.tensor(x), p, model=bowl, starts=torch.tensor(starts), gradients=gradients)
    search.task.model.gradients[1] = 3  # spent before
    search.task.model.forwards[1] = 1
    search.run()
    forwards = max(0, gradients // 5 - 4)
    expected = [
        searched(x[0], starts[0], p, gradients, forwards), searched(x[1], starts[1], p, gradients - 3, forwards - 1)
    ]  # fmt: skip
    torch.testing.assert_close(5 * (search.u + 1), torch.tensor([u for u, _, _ in expected]))
    assert spent(search) == ([expected[0][1], 3 + expected[1][1]], [expected[0][2], 1 + expected[1][2]])
    best = search.task.best
    assert torch.equal(search.u, best.x_adv)
    torch.testing.assert_close(search.margin, bowl(search.u).diff()[:, 0])


def test_a_search_with_no_gradient_left_costs_nothing():
    search = descent(torch.full((2, 4), 5.0), model=bowl, gradients=30)
    search.task.model.gradients[:] = 30
    search.run()
    assert spent(search) == ([30, 30], [0, 0])


def test_a_search_whose_last_gradient_is_one_spends_it():
    search = descent(torch.full((2, 4), 5.0), model=bowl, gradients=20)
    search.task.model.gradients[:] = 19
    search.run()
    assert spent(search) == ([20, 20], [0, 0])


@pytest.mark.parametrize("left", [1, 2, 3])
def test_a_success_by_a_forward_run_costs_a_gradient_as_long_as_there_are_any(left):
    x, start = [4.0, 5.0, 6.0, 4.0], [10.0, 0.0, 10.0, 1.0]
    search = descent(torch.tensor([x]), model=bowl, gradients=60, starts=torch.tensor([start]))
    search.task.model.gradients[:] = 60 - left
    search.run()
    u, gradients, forwards = searched(x, start, 2.0, left, 8)
    torch.testing.assert_close(5 * (search.u[0] + 1), torch.tensor(u))
    assert spent(search) == ([60 - left + gradients], [forwards])
    assert u != start


def test_a_ball_of_linf_is_smaller_by_two_thousandths_of_a_level():
    """Whose weights leave a pixel 4 levels away, at a share of the distance on either side of that."""
    for share, most in ((1 - 2.5 * ROUNDING, 9.0), (1 - 1.5 * ROUNDING, 8.0)):
        weights = torch.tensor([1.0, share, 1.0, 1.0])
        search = descent(torch.full((1, 4), 5.0), math.inf, weights, starts=torch.tensor([[9.0, 9.0, 5.0, 5.0]]))
        _, _, highest = search._base(torch.tensor([0]))
        assert highest.tolist() == [[8.0, most, 8.0, 8.0]]
