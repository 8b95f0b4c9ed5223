"""Models with random outputs: how far the point moves until most draws are wrong.

Draws are written down here: draw i is wrong where the first pixel exceeds thresholds[i], and the search ended at 1.
"""

import math

import pytest
import torch
from torch import nn

from plica.core.goals import Goal
from plica.core.judging.judge import Judge, majority
from plica.core.judging.majority import FARTHER, WANTED, _length, beyond, settle
from plica.core.model.counted import CountedModel
from plica.core.model.draws import MeanOfDraws
from plica.metrics import Lp
from plica.perturbations.base import ThetaDistance
from shift import Shift

X = torch.zeros(1, 2)
END = torch.tensor([[1.0, 0.0]])
NEVER = 100.0


class Written(MeanOfDraws):
    """Draws with these thresholds in place of random ones; `looks` of them, one list after the other, for the judge."""

    def __init__(self, thresholds, looks):
        nn.Module.__init__(self)
        self.thresholds, self.judged, self.looks = torch.tensor(thresholds), looks, 0

    def others(self, z):
        return torch.stack([self.thresholds, z[0, 0].expand_as(self.thresholds)], 1)

    def fresh(self, z):
        self.looks += 1
        thresholds = torch.tensor(self.judged[min(self.looks, len(self.judged)) - 1])
        return torch.stack([thresholds, z[0, 0].expand_as(thresholds)], 1)


def settled(thresholds, radius=None, looks=((0.0,),), end=END, through=None, metric=None, grid=None):
    """The first pixel where the point ends, whether the judge is sure of it, how often it looked, and theta."""
    mean = Written(thresholds, looks)
    limit = None if radius is None else torch.tensor([radius], dtype=torch.float64)
    goal = Goal(torch.zeros(1, dtype=torch.long))
    model = CountedModel(lambda z: z, 1, grid=grid)
    judge = Judge(model, None, metric or Lp(2), X, goal, limit, (-10.0, 10.0), torch.zeros(1, dtype=torch.long), mean)
    x_adv, theta, judgement = settle(judge, through, end)
    assert float(x_adv[0, 1]) == 0
    return float(x_adv[0, 0]), bool(judgement.sure), mean.looks, theta


def half_and_one_at(length):
    """Ten draws: half are wrong anywhere, and one more, which makes 0.6, from this length on."""
    return [-1.0] * 5 + [length] + [NEVER] * 4


LENGTHS = (0, 1 / 4, 1 / 2, 5 / 7, 1 / 1.2, 1 / 1.1, 1 / 1.05, 1 / 1.02, 1, 1.02, 1.05, 1.1, 1.2, 1.4, 2, 4)


@pytest.mark.parametrize("interval", range(1, len(LENGTHS)))
@pytest.mark.parametrize("part", [0, 6, 15])
def test_the_least_length_at_which_six_of_ten_draws_are_wrong_is_found_to_a_sixteenth(interval, part):
    low, high = LENGTHS[interval - 1 : interval + 1]
    at = low + (high - low) * (part + 0.5) / 16
    length, sure, looks, _ = settled(half_and_one_at(at))
    assert length == pytest.approx(low + (high - low) * (part + 1) / 16, rel=1e-6)
    assert (sure, looks) == (True, 1)


def test_half_of_the_draws_are_not_enough_and_none_is_needed_beyond_six_of_ten():
    assert settled([-1.0] * 6 + [NEVER] * 4)[0] == pytest.approx(1 / 4 / 16)
    assert settled([-1.0] * 5 + [NEVER] * 5)[0] == 1  # nowhere enough, nowhere more


def test_the_first_length_that_suffices_is_taken_though_more_draws_are_wrong_at_others():
    assert 1.02 < settled([-1.0] * 5 + [1.03] + [1.3] * 4)[0] < 1.05
    assert 1.2 < settled([1.3] * 6 + [NEVER] * 4)[0] < 1.4  # also where none is wrong before


def test_where_no_length_suffices_that_of_the_most_draws_is_taken():
    length, _, _, _ = settled([-1.0] * 3 + [1.3] + [NEVER] * 6)
    assert length == pytest.approx(1.4)


@pytest.mark.parametrize(
    ("at", "radius", "length"),
    [
        (0.5, 3.0, 1.0),  # enough at the end of the search: a radius is no reason for less
        (1.03, 1.07, 1.05),
        (1.5, 2.0, 2.0),  # the edge belongs to the radius
        (1.5, 1.999, 1.0),
        (1.2, 1.07, 1.0),
    ],
)
def test_within_a_radius_the_first_length_that_suffices_is_taken(at, radius, length):
    assert settled(half_and_one_at(at), radius)[0] == pytest.approx(length)


@pytest.mark.parametrize("at", [0.5, 1.03])
def test_the_point_lies_on_the_grid(at):
    """Lengths are tried as they are rounded: to hundredths."""
    length, sure, _, _ = settled(half_and_one_at(at), grid=lambda z, image: (100 * z).round() / 100)
    assert sure
    assert length == pytest.approx(round(length, 2), abs=1e-7)  # float32
    assert at <= length < 1.07 * at


REFUSED, TAKEN = (NEVER,), (0.0,)


@pytest.mark.parametrize(
    ("looks", "length", "sure", "number"),
    [
        ((TAKEN,), 2.0, True, 1),
        ((REFUSED, TAKEN), 2.1, True, 2),
        ((REFUSED, REFUSED, TAKEN), 2.205, True, 3),
        ((REFUSED, REFUSED, REFUSED, TAKEN), 2.205, False, 3),
    ],
)
def test_a_point_that_fresh_draws_refuse_is_moved_by_a_twentieth_twice(looks, length, sure, number):
    got = settled(half_and_one_at(1.5), 3.0, looks)
    assert got[0] == pytest.approx(length)
    assert got[1:3] == (sure, number)


def test_draws_that_tie_are_no_success():
    assert settled(half_and_one_at(0.5), 3.0, ((1.0,), (1.0,)))[:3] == (pytest.approx(1.05), True, 2)


def test_no_point_is_moved_out_of_the_radius():
    assert settled(half_and_one_at(1.5), 2.05, (REFUSED, TAKEN))[:3] == (2.0, False, 1)


def test_draws_that_are_never_wrong_do_not_keep_the_judge_from_its_looks():
    length, sure, looks, _ = settled([NEVER] * 10, 1.1, (REFUSED, TAKEN))
    assert length == pytest.approx(1.05)
    assert (sure, looks) == (True, 2)


@pytest.mark.parametrize(
    ("margins", "median", "share", "prediction"),
    [
        ([1.0, 2.0, -3.0], 1.0, 2 / 3, 1),
        ([1.0, 2.0, -3.0, -4.0], -3.0, 0.5, 0),  # of two the lower one: half of the draws are not most
        ([0.0, 0.0, 1.0], 0.0, 1 / 3, 0),  # a tie is no success
        ([-math.inf, math.inf, 1.0], -math.inf, 1 / 3, 1),  # nor is what is not finite
        ([math.nan, math.nan, 1.0], -math.inf, 1 / 3, 1),
    ],
)
def test_the_median_of_draws_and_the_share_that_is_wrong(margins, median, share, prediction):
    outputs = torch.tensor([[0.0, margin] for margin in margins])
    got = majority(Goal(torch.zeros(1, dtype=torch.long)), outputs)
    assert [float(value) for value in got] == [median, prediction, share]


@pytest.mark.parametrize(("metric", "radius"), [(ThetaDistance(Shift()), 4.0), (Lp(2), 2.0)])
def test_theta_is_lengthened_with_its_point(metric, radius):
    end = torch.tensor([[1.0]])
    length, sure, looks, theta = settled(half_and_one_at(1.5), radius, through=Shift(), end=end, metric=metric)
    assert (length, sure, looks, theta.tolist()) == (2.0, True, 1, [[2.0]])


@pytest.mark.parametrize("at", [NEVER, -1.0])
@pytest.mark.parametrize("through", [None, Shift()])
def test_where_no_point_was_found_the_image_is_judged(through, at):
    start, metric = (X, None) if through is None else (through.start(X), ThetaDistance(through))
    length, sure, looks, theta = settled(half_and_one_at(1.5), None, ((at,),), start, through, metric)
    assert (length, sure, looks) == (0.0, at < 0, 1)
    assert theta is None if through is None else torch.equal(theta, start)


@pytest.mark.parametrize(
    ("slope", "bound", "end"),
    [
        # margins of the draws deviate by sqrt 2, and the square of the gradient is 0.05
        ((0.2, 0.1), 10.0, (4 * 2**0.5, 2 * 2**0.5)),
        ((0.2, 0.1), 3.0, (3.0, 2 * 2**0.5)),
        ((0.0, 0.0), 10.0, (0.0, 0.0)),
    ],
)
def test_beyond_an_image_that_the_mean_alone_gets_wrong(slope, bound, end):
    weights = torch.tensor([[0.0, 0.0], slope])
    model = CountedModel(lambda z: z @ weights.T, 1)
    goal = Goal(torch.zeros(1, dtype=torch.long))
    mean = Written([0.0, -2.0], ())
    rows = torch.zeros(1, dtype=torch.long)
    x = beyond(Judge(model, None, Lp(2), X, goal, None, (-bound, bound), rows, mean))
    assert x[0].tolist() == pytest.approx(end)
    assert math.isfinite(float(x.sum()))


@pytest.mark.parametrize(("shares", "asked"), [(WANTED, [1.0]), (WANTED - 0.01, [1.0, *FARTHER])])
def test_exactly_six_of_ten_draws_are_enough(shares, asked):
    lengths = []
    assert _length(lambda length: lengths.append(length) or shares, nearest=False) == 1.0
    assert lengths == asked
