"""The numbers that decide which margins count, as they are documented, and the roundings that a margin must exceed."""

import math

import pytest
import torch

from plica.core.model.least_margin import LeastMargin
from plica.core.model.rounding import (
    Noise,
    coarseness,
    constants,
    has_offset,
    least_margin,
    may_be_masked,
    measure_noise,
    usual_size,
    without,
)

U = 2.0**-23  # unit of rounding of float32
HALF = 2.0**-7  # and of bfloat16
UNIT = (0.0, 1.0)


def test_a_margin_must_exceed_64_units_of_rounding_of_the_largest_logit():
    assert least_margin(torch.tensor([[1.0, -4.0]]), 0.0, None, Noise()).tolist() == [64 * U * 4]
    assert least_margin(torch.tensor([[1.0, -4.0]]), HALF, None, Noise(1.0)).tolist() == [64 * U * 4]  # not measured


def test_an_offset_is_64_times_the_differences():
    logits = torch.tensor([[64.0, 63], [65, 64], [-65, -64], [64.5, 63.5], [1, 1], [0, 0]])
    assert has_offset(logits).tolist() == [False, True, True, True, True, False]
    assert has_offset(torch.tensor([[100.0], [0.0]])).tolist() == [False, False]  # of one logit nothing can be said


def test_a_logit_may_be_a_mask_from_100_times_those_that_decide():
    logits = [[1, 0.5, -100], [1, 0.5, -100.5], [1, 0.001, -50], [-0.5, -1, -101], [3, 2, 1]]
    assert may_be_masked(torch.tensor(logits)).tolist() == [False, True, False, True, False]
    assert may_be_masked(torch.tensor([[1.0, -1e9], [0, 0]])).tolist() == [False, False]
    assert may_be_masked(torch.tensor([[1e9]])).tolist() == [False]


def test_of_constant_logits_two_others_remain():
    x = torch.full((1, 3), 0.5)
    one, many = torch.tensor([[False, False, True]]), torch.tensor([[True, True, False]])
    assert constants(lambda z: torch.cat([z[:, :2], 0 * z[:, :1] - 1e6], 1), x, UNIT).tolist() == one[0].tolist()
    assert not constants(lambda z: torch.cat([z[:, :1], 0 * z[:, :2] - 1e6], 1), x, UNIT).any()
    assert constants(lambda z: 1 / 0, x, UNIT).tolist() == [False]
    logits = torch.tensor([[1.0, 2, -1e6], [4, 3, 7]])
    assert without(one, logits).tolist() == [[1, 2, 2], [4, 3, 4]]
    assert without(many, logits).tolist() == [[-1e6] * 3, [7] * 3]
    assert without(torch.cat([one, many]), logits).tolist() == [[1, 2, 2], [7, 7, 7]]


def test_the_usual_size_is_the_median_at_random_images():
    """Eight images: the median of torch is the lower of the two in the middle."""
    sizes = torch.arange(1.0, 9).repeat(2)

    def model(z):
        return torch.stack([-sizes, 0 * sizes], 1)

    assert usual_size(model, torch.rand(2, 1, 3, 3), UNIT) == 4
    assert usual_size(lambda z: 1 / 0, torch.rand(2, 3), UNIT) == 0


@pytest.mark.parametrize("alone", [0.0, 1.0])
def test_where_all_logits_are_0_no_change_is_measured(alone):
    noise = measure_noise(lambda z: torch.full((len(z), 2), alone * (len(z) == 1)), torch.rand(1, 4), UNIT)
    assert noise.change == 0


@pytest.mark.parametrize("other", [0.0, 1.0])
def test_where_all_logits_are_0_another_arithmetic_changes_nothing(other):
    zeros = torch.zeros(16, 2)
    assert coarseness(lambda z: zeros, lambda z: zeros.double() + other, torch.rand(1, 4), UNIT) == 0


def test_an_offset_is_one_of_all_images():
    def model(z):
        return torch.stack([1 + 100 * (z[:, 0] > 0.5), -torch.ones(len(z)) + 102 * (z[:, 0] > 0.5)], 1)

    seen = []
    assert not measure_noise(lambda z: seen.append(has_offset(model(z))) or model(z), torch.rand(1, 4), UNIT).offset
    assert seen[0].any()


LEAST = LeastMargin(torch.tensor([False, True]), torch.tensor([3.0, 5.0]), Noise(0.25), has_few=True)


def test_of_one_or_two_logits_their_size_at_the_image_counts_too():
    two, three = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.0, 0.0]])
    first, second = torch.tensor([0]), torch.tensor([1])
    assert LEAST(two, first, U).tolist() == [64 * U * 3]  # of the image
    assert LEAST(4 * two, first, U).tolist() == [64 * U * 8]  # of the point
    assert LEAST(three, first, U).tolist() == [64 * U * 2]
    assert LEAST(three, second, U).tolist() == [2 * 0.25 * 2]  # twice the measured change
    assert LEAST(two, second, U).tolist() == [2 * 0.25 * 5]
    assert LEAST.rows(second)(three, first, U).tolist() == [2 * 0.25 * 2]


def test_before_anything_was_measured_there_is_no_change():
    start = LeastMargin.unmeasured(2, "cpu")
    logits = torch.tensor([[100.0, 99.0, 99.5]])
    assert start(logits, torch.tensor([1]), U).tolist() == [64 * U * 100]
    assert start.of_all()(logits, torch.tensor([1]), U).tolist() == [64 * U * 1]  # of the differences alone
    assert start.of_all().few_digits.tolist() == [True, True]


def test_a_floor_is_each_image_s_own_and_no_margin_below_it_counts():
    least = LeastMargin(torch.zeros(2, dtype=torch.bool), torch.zeros(2), floor=torch.tensor([0.5, 0.0]))
    logits = torch.tensor([[1.0, 2.0, 0.0]])
    assert [float(least(logits, torch.tensor([i]), U)) for i in (0, 1)] == [0.5, 64 * U * 2]
    assert float(least.rows(torch.tensor([1, 0]))(logits, torch.tensor([1]), U)) == 0.5


def test_a_constant_logit_has_no_share_in_what_rounding_does():
    mask = torch.tensor([[False, False, True], [False, False, False]])
    least = LeastMargin(torch.zeros(2, dtype=torch.bool), torch.zeros(2), constant=mask)
    logits = torch.tensor([[1.0, 2.0, -1e6]])
    assert [float(least(logits, torch.tensor([i]), U)) for i in (0, 1)] == [64 * U * 2, 64 * U * 1e6]
    assert float(least.rows(torch.tensor([1]))(logits, torch.tensor([0]), U)) == 64 * U * 1e6
    assert least.without_constants(lambda z: logits)(logits).tolist() == [[1, 2, 2]]  # a constant at some image
    assert math.isnan(least.without_constants(lambda z: math.nan)(logits))
