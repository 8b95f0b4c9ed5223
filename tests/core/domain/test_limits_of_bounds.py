"""Numbers at which bounds, levels and units begin and end to hold."""

import math

import numpy as np
import pytest
import torch

from plica import Lp, MaxLoss, MinRadius
from plica.core.domain.bounds import Bounds, check_bounds
from plica.core.domain.levels import LevelGrid, check_levels, level_count, pixel_rounding
from plica.core.domain.units import unit_question

ZERO, ONE = torch.tensor(0.0), torch.tensor(1.0)


def test_the_bounds_of_pixels_are_the_default():
    assert Bounds(ZERO, ONE).is_default
    for other in (Bounds(ZERO, 2 * ONE), Bounds(-ONE, ONE), Bounds(torch.zeros(2), torch.ones(2))):
        assert not other.is_default
    assert not Bounds(ZERO, ONE, torch.tensor([True])).is_default


def test_rounding_is_up_to_a_thousandth_of_the_span():
    for pixel, said in ((3.0009, "a pixel lies 0.0009 outside"), (3.0015, "its pixels range from 2 to 3.0015")):
        with pytest.raises(ValueError, match=said):
            check_bounds((2.0, 3.0), torch.tensor([[2.0, pixel]]))


def test_tensors_of_one_number_are_two_numbers_unless_they_are_equal():
    one = torch.zeros(1)
    assert check_bounds((one, one + 1), torch.tensor([[0.5]])).numbers == (0.0, 1.0)
    equal = check_bounds((torch.zeros(2), torch.zeros(2)), torch.zeros(1, 2))
    assert equal.per_feature
    assert equal.leave_none(None)


def test_one_image_outside_among_several_is_named():
    low, high = torch.tensor([0.0, 0.25]), torch.tensor([1.0, 0.75])
    with pytest.raises(ValueError, match=r"outside its bounds in feature 1 \(1 such features of 2\)"):
        check_bounds((low, high), torch.tensor([[0.5, 0.5], [0.5, 0.875], [1.0, 0.25]]))


@pytest.mark.parametrize("high", [math.inf, math.nan])
def test_bounds_of_features_are_finite(high):
    with pytest.raises(ValueError, match="bounds must be finite"):
        check_bounds((torch.zeros(2), torch.tensor([1.0, high])), torch.full((1, 2), 0.5))


def test_radii_in_units_leave_room_for_two_changes_of_units():
    bounds, radius = Bounds(torch.zeros(2), torch.tensor([1.0, 2.0])), torch.tensor([0.5, 4.0]).double()
    for outside, factor in ((False, 1 - 4e-6), (True, 1 + 4e-6)):
        question, radii = unit_question(MaxLoss(Lp(2), radius), radius, bounds, outside)
        torch.testing.assert_close(radii, factor * radius, rtol=1e-12, atol=0)
        assert torch.equal(question.radius, radii)
    assert unit_question(MinRadius(Lp(2)), None, bounds)[1] is None
    assert torch.equal(unit_question(MaxLoss(Lp(0), 1.0), radius, bounds)[1], radius)  # a count is exact


@pytest.mark.parametrize("levels", [2, 2**16])
def test_from_2_to_65536_levels(levels):
    bounds = Bounds(ZERO, ONE)
    assert level_count(np.int64(levels)) == levels
    check_levels(levels, bounds, torch.float32, MinRadius(Lp(2)))
    beyond = 1 if levels == 2 else 2**16 + 1
    with pytest.raises(ValueError, match="between 2 and 65536"):
        level_count(beyond)


def test_a_radius_in_linf_may_be_exceeded_by_a_unit_of_the_number_below_the_largest_bound():
    bounds = Bounds(torch.tensor(-255.0), torch.tensor(100.0))
    assert pixel_rounding(Lp(math.inf), bounds, torch.float32) == 255 * 2.0**-24
    assert pixel_rounding(Lp(math.inf), Bounds(torch.zeros(2), torch.tensor([1.0, 3.0])), torch.float32) == 3 * 2.0**-24
    assert pixel_rounding(Lp(2), bounds, torch.float32) == 0


def on_grid(x, bounds, levels):
    return bool((LevelGrid.of(torch.tensor([[x]], dtype=torch.float64), bounds, levels).level >= 0).all())


def test_a_pixel_lies_on_a_level_up_to_two_roundings_of_float32_and_a_quarter_of_a_step():
    bounds, unit = Bounds(ZERO.double(), ONE.double()), 2.0**-23
    assert [on_grid(0.2 + k * unit, bounds, 6) for k in (-1.9, 1.9, 2.5, -2.5)] == [True, True, False, False]
    far = Bounds(torch.tensor(1000.0).double(), torch.tensor(1001.0).double())
    step = 1 / (2**16 - 1)  # a ninth of two roundings of 1001 in float32
    assert [on_grid(1000 + (7 + k) * step, far, 2**16) for k in (0.24, -0.24, 0.26, -0.26)] == [
        True,
        True,
        False,
        False,
    ]


def test_a_feature_without_room_keeps_its_value_on_the_grid():
    bounds = Bounds(torch.tensor([0.0, 0.3]), torch.tensor([1.0, 0.3]))
    grid = LevelGrid.of(torch.tensor([[0.2, 0.3]]), bounds, 6)
    assert torch.equal(grid.level, torch.tensor([[1.0, 0.0]]))
    assert torch.equal(grid(torch.tensor([[0.55, 0.3]]), torch.tensor([0])), torch.tensor([[0.6, 0.3]]))
