"""The best point of each image is kept, whatever order points come in."""

import itertools

import pytest
import torch

from plica.core.goals import Goal
from plica.core.judging.best import BestPoints
from plica.core.model.counted import CountedModel
from plica.metrics import Lp
from plica.perturbations.base import ThetaDistance

X = torch.zeros(3, 2)
Y = torch.zeros(3, dtype=torch.long)


def offer(best, points, d=None):
    """Points (image, x, y, margin): at (x, y), logits with that margin over class 0. d: their distances, if known."""
    image, a, b, margin = (list(column) for column in zip(*points, strict=True))
    logits = torch.stack([torch.ones(len(margin)), 1 + torch.tensor(margin)], 1)
    best.offer(torch.tensor([a, b]).T.float(), torch.tensor(image), logits, d)


def nearest(radius=None, targets=None):
    return BestPoints(Lp(2), X, Goal(Y, targets), radius)


def test_nothing_yet():
    best = nearest()
    assert torch.equal(best.x_adv, X)
    assert best.distance.isinf().all()


POINTS = ((0, 3.0, 4.0, 0.5), (0, 0.6, 0.8, 0.1), (0, 0.3, 0.4, -0.1), (2, 1.0, 0.0, 0.2), (2, 0.0, 2.0, 0.9))


@pytest.mark.parametrize("order", list(itertools.permutations(range(5)))[::17])
@pytest.mark.parametrize("together", [True, False])
def test_the_nearest_misclassified_point_is_kept(order, together):
    best = nearest()
    points = [POINTS[i] for i in order]
    for part in [points] if together else [[point] for point in points]:
        offer(best, part)
    torch.testing.assert_close(best.distance, torch.tensor([1.0, torch.inf, 1.0]))
    torch.testing.assert_close(best.x_adv, torch.tensor([[0.6, 0.8], [0, 0], [1.0, 0]]))
    torch.testing.assert_close(best.margin, torch.tensor([0.1, -torch.inf, 0.2]))


@pytest.mark.parametrize("order", list(itertools.permutations(range(5)))[::17])
def test_with_radii_the_surest_point_inside_is_kept_when_they_come_one_by_one(order):
    best = nearest(radius=torch.tensor([6.0, 6.0, 1.5]))
    for i in order:
        offer(best, [POINTS[i]])
    torch.testing.assert_close(best.x_adv, torch.tensor([[3.0, 4.0], [0, 0], [1.0, 0]]))
    torch.testing.assert_close(best.distance, torch.tensor([5.0, torch.inf, 1.0]))


def test_with_radii_nothing_outside_is_kept():
    best = nearest(radius=torch.tensor([0.9, 0.9, 0.9]))
    offer(best, POINTS)
    assert best.distance.isinf().all()
    assert torch.equal(best.x_adv, X)


def test_a_margin_made_of_rounding_does_not_count():
    best = nearest()
    offer(best, [(0, 1.0, 0.0, 1e-6), (1, 1.0, 0.0, 0.0), (2, 1.0, 0.0, 1e-4)])
    assert best.distance.isfinite().tolist() == [False, False, True]


def test_only_the_target_counts():
    best = BestPoints(Lp(2), X, Goal(Y, torch.tensor([1, 2, 2])), None)
    logits = torch.tensor([[0.0, 1, 0], [0, 1, 0], [0, 1, 2]])
    best.offer(torch.ones(3, 2), torch.arange(3), logits)
    assert best.distance.isfinite().tolist() == [True, False, True]


def test_points_and_images_that_are_not_finite_are_passed_over():
    best = nearest()
    offer(best, [(0, float("nan"), 0.0, 0.5), (1, 1.0, 0.0, float("nan")), (2, float("inf"), 0.0, 0.5)])
    assert best.distance.isinf().all()
    assert torch.equal(best.x_adv, X)


def test_the_images_themselves_stay_as_they_are():
    x = X.clone()
    best = BestPoints(Lp(2), x, Goal(Y), None)
    offer(best, POINTS)
    assert torch.equal(x, X)


def test_adopted_points_bring_all_that_is_known_of_them():
    """The margin too: with radii, a point of larger margin is looked for."""
    best, other = nearest(radius=torch.full((3,), 6.0)), nearest(radius=torch.full((3,), 6.0))
    offer(other, POINTS)
    best.adopt(other, torch.tensor([0]))
    for name in ("x_adv", "distance", "margin"):
        assert torch.equal(getattr(best, name)[0], getattr(other, name)[0])
        assert torch.equal(getattr(best, name)[1:], getattr(nearest(), name)[1:])
    surer, weaker = 2 * float(other.margin[0]), float(other.margin[0]) / 2
    offer(best, [(0, 1.0, 1.0, weaker)])
    assert torch.equal(best.x_adv[0], other.x_adv[0])
    offer(best, [(0, 1.0, 1.0, surer)])
    assert best.x_adv[0].tolist() == [1, 1]


def test_promising_rows_reach_the_goal_and_with_radii_by_more():
    logits = torch.tensor([[1.0, 1.5], [1.0, 0.9], [1.0, 1.2], [1.0, 1.0]])
    images = torch.tensor([0, 0, 1, 2])
    assert nearest().promising(logits, images).tolist() == [0, 2]
    best = nearest(radius=torch.full((3,), 6.0))
    offer(best, [(0, 1.0, 0.0, 0.7), (1, 1.0, 0.0, 0.1)])
    assert best.promising(logits, images).tolist() == [2]


def test_a_point_on_the_radius_is_kept_and_of_equal_margins_the_first():
    best = nearest(radius=torch.tensor([5.0, 5.0, 5.0]))
    offer(best, [(0, 3.0, 4.0, 0.5)])
    assert best.distance.tolist() == [5, torch.inf, torch.inf]
    offer(best, [(0, 1.0, 0.0, 0.5)])
    assert best.x_adv[0].tolist() == [3, 4]


@pytest.mark.parametrize("more", [0.0, 2.0**-24])
def test_a_margin_must_exceed_64_units_of_rounding_of_the_largest_logit(more):
    best, logits = nearest(), torch.tensor([[1 - 2.0**-17 - more, 1.0]])
    best.offer(torch.ones(1, 2), torch.tensor([0]), logits)
    assert bool(best.distance[0].isfinite()) == bool(more)
    assert best.promising(logits, torch.tensor([1])).tolist() == [0] * bool(more)


def test_distances_that_are_known_are_not_computed():
    def never(x, z):
        raise AssertionError("was computed")

    best = BestPoints(never, X, Goal(Y), None)
    points, logits = torch.ones(3, 2), torch.tensor([[1.0, 2.0], [1.0, 0.0], [1.0, 2.0]])
    best.offer(points, torch.arange(3), logits, torch.tensor([0.5, 0.25, 0.125]))
    assert best.distance.tolist() == [0.5, torch.inf, 0.125]


def test_no_distance_is_computed_where_no_point_reaches_the_goal():
    def never(x, z):
        raise AssertionError("was computed")

    best = BestPoints(never, X, Goal(Y), None)
    best.offer(torch.ones(3, 2), torch.arange(3), torch.tensor([[1.0, 0.0]]).expand(3, 2))
    assert best.distance.isinf().all()


def test_of_points_equally_near_the_first_is_kept():
    best = nearest()
    offer(best, [(0, 3.0, 4.0, 0.1)])
    offer(best, [(0, 4.0, 3.0, 0.9), (1, 0.0, 1.0, 0.1), (1, 1.0, 0.0, 0.9)])
    assert best.x_adv.tolist() == [[3, 4], [0, 1], [0, 0]]


class Double:
    """x + 2 theta in both pixels, theta (b, 1); its distance of theta is 3 |theta|."""

    unit = 1.0

    def start(self, x):
        return x.new_zeros(len(x), 1)

    def __call__(self, x, theta):
        return x + 2 * theta

    def distance(self, x, theta):
        return 3 * theta.abs()[:, 0]


@pytest.mark.parametrize("metric", [ThetaDistance(Double()), Lp("inf")])
def test_of_perturbations_theta_is_kept_with_its_point(metric):
    best = BestPoints(metric, X, Goal(Y), None, Double())
    assert torch.equal(best.theta, torch.zeros(3, 1))
    logits = torch.tensor([[1.0, 2.0], [1.0, 0.0], [1.0, 2.0], [1.0, 2.0]])
    theta = torch.tensor([[0.5], [0.25], [-0.25], [1.0]])
    best.offer(2 * theta.expand(4, 2), torch.tensor([0, 1, 0, 2]), logits, theta=theta)
    assert best.theta[:, 0].tolist() == [-0.25, 0, 1]
    assert best.x_adv.tolist() == [[-0.5, -0.5], [0, 0], [2, 2]]
    each = 3 if isinstance(metric, ThetaDistance) else 2
    assert best.distance.tolist() == [0.25 * each, torch.inf, each]


def test_rows_of_padding_are_passed_over():
    best = nearest()
    images, sure = torch.arange(3), torch.ones(3, dtype=torch.bool)
    best.keep(torch.ones(8, 2), images, torch.ones(3), sure, once=True)
    torch.testing.assert_close(best.distance, torch.full((3,), 2.0).sqrt())


def test_a_distance_that_is_known_does_not_count_once_the_point_is_rounded():
    """It is that of the point before. With radii, such a point may lie outside after all."""
    whole = CountedModel(lambda z: z, 3, grid=lambda z, image: z.round())
    logits = torch.tensor([[1.0, 2.0]]).expand(2, 2)
    points, images = torch.tensor([[0.0, 2.4], [1.6, 0.0]]), torch.tensor([0, 1])
    best = BestPoints(Lp(2), X, Goal(Y), None, model=whole)
    best.offer(points, images, logits, torch.tensor([2.4, 1.6]))
    assert best.distance.tolist() == [2, 2, torch.inf]
    assert best.x_adv.tolist() == [[0, 2], [2, 0], [0, 0]]
    inside = BestPoints(Lp(2), X, Goal(Y), torch.full((3,), 1.8), model=whole)
    inside.offer(points, images, logits, torch.tensor([2.4, 1.6]))
    assert inside.distance.isinf().all()


def test_a_second_record_is_offered_every_point():
    """Its metric and radius are its own."""
    best = nearest()
    best.also = BestPoints(Lp("inf"), X, Goal(Y), torch.full((3,), 3.5))
    alone = BestPoints(Lp("inf"), X, Goal(Y), torch.full((3,), 3.5))
    for point in POINTS:
        offer(best, [point], torch.tensor(point[1:3]).norm()[None])
        offer(alone, [point])
    torch.testing.assert_close(best.x_adv, torch.tensor([[0.6, 0.8], [0, 0], [1.0, 0]]))
    torch.testing.assert_close(best.also.x_adv, torch.tensor([[0.6, 0.8], [0, 0], [0, 2.0]]))
    assert torch.equal(best.also.distance, alone.distance)
