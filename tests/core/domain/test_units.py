"""Arithmetic of the box: clamping, units of the bounds and back, for two numbers and for bounds of each feature."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from plica import Held, Lp, WeightedLp
from plica.core.domain.bounds import Bounds, check_bounds
from plica.core.domain.units import unit_metric

N = 5
few = settings(max_examples=40, deadline=None)
number = st.floats(-100, 100, width=32)
numbers = st.lists(number, min_size=N, max_size=N).map(torch.tensor)
spans = st.lists(st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0.125, 100, width=32)), min_size=N, max_size=N)
shares = st.lists(st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1, width=32)), min_size=N, max_size=N)


@st.composite
def boxes(draw):
    """Bounds of N features, of which some have no room, and a point in them."""
    low, span = draw(numbers), torch.tensor(draw(spans))
    high = low + span
    assume(bool((low < high).any()))
    x = torch.minimum(torch.maximum(low + torch.tensor(draw(shares)) * (high - low), low), high)
    return check_bounds((low, high), x[None]), x[None]


@few
@given(boxes(), numbers, numbers)
def test_clamping_gives_the_nearest_point_of_the_box(box, z, v):
    bounds, _ = box
    inside, v = bounds.clamp(z[None]), bounds.clamp(v[None])
    assert ((inside >= bounds.low) & (inside <= bounds.high)).all()
    assert torch.equal(bounds.clamp(inside), inside)
    assert ((z - inside).abs() <= (z - v).abs()).all()


@few
@given(boxes())
def test_units_and_back(box):
    bounds, x = box
    u = bounds.to_units(x)
    assert ((u >= 0) & (u <= 1)).all()
    # three roundings of float32, of numbers as large as the bounds
    rounding = 4 * torch.finfo(x.dtype).eps * torch.maximum(bounds.low.abs(), bounds.high.abs())
    assert ((bounds.from_units(u) - x).abs() <= rounding).all()
    fixed = bounds.span == 0
    assert (u[:, fixed] == 0).all()
    assert torch.equal(bounds.from_units(u)[:, fixed], x[:, fixed])


@few
@given(boxes())
def test_units_keep_the_order_and_the_ends(box):
    bounds, x = box
    room = bounds.span > 0
    assert (bounds.to_units(bounds.low[None]) == 0).all()
    assert (bounds.to_units(bounds.high[None])[:, room] == 1).all()
    further = bounds.clamp(x + 1)
    assert (bounds.to_units(further) >= bounds.to_units(x)).all()


@few
@given(number, st.floats(0.125, 100, width=32), numbers, shares)
def test_two_numbers_are_equal_bounds_of_every_feature(low, span, z, share):
    high = float(torch.tensor(low) + torch.tensor(span))
    assume(low < high)
    x = torch.tensor(share)[None].mul(high - low).add(low).clamp(low, high)
    pair, each = check_bounds((low, high), x), Bounds(torch.full((N,), low), torch.full((N,), high))
    same = check_bounds((torch.full((N,), low), high), x)
    assert (pair.per_feature, each.per_feature, same.per_feature) == (False, True, False)
    assert same.numbers == pair.numbers
    assert torch.equal(pair.clamp(z[None]), each.clamp(z[None]).to(pair.low))
    torch.testing.assert_close(pair.to_units(x).float(), each.to_units(x), rtol=0, atol=1e-6 * (1 + abs(low) / span))


@few
@given(boxes(), st.integers(0, N - 1), st.booleans())
def test_a_point_a_rounding_outside_is_refused(box, feature, above):
    bounds, x = box
    outside = x.clone()
    wall = (bounds.high if above else bounds.low)[feature]
    outside[0, feature] = torch.nextafter(wall, wall + (1 if above else -1))
    with pytest.raises(ValueError, match=f"x lies outside its bounds in feature {feature} "):
        check_bounds((bounds.low, bounds.high), outside)


@few
@given(boxes(), shares, st.sampled_from([1.0, 1.5, 2.0, math.inf]), st.booleans())
def test_a_distance_in_units_is_the_distance(box, share, p, weighted):
    bounds, x = box
    bounds = Bounds(bounds.low.double(), bounds.high.double())
    metric = WeightedLp(p, torch.linspace(0.5, 2, N).double()) if weighted else Lp(p)
    u, v = bounds.to_units(x.double()), torch.tensor(share)[None].double()
    v = torch.where(bounds.span > 0, v, u)
    there = metric(bounds.from_units(u), bounds.from_units(v))
    torch.testing.assert_close(unit_metric(metric, bounds)(u, v), there, rtol=1e-9, atol=1e-9)


def test_features_that_another_distance_holds_are_held_in_units():
    def distance(x, z):
        return (x - z).abs().sum(1)

    pixels, bounds = torch.tensor([True, False]), Bounds(torch.zeros(2), torch.tensor([2.0, 4.0]))
    held = unit_metric(Held(distance, pixels), bounds).fixed_pixels()
    assert held is not None
    assert held.tolist() == [True, False]
    assert unit_metric(distance, bounds).fixed_pixels() is None


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        ((2.0, 3.0004), "a pixel lies 0.0004 outside"),
        ((1.9996, 3.0), "a pixel lies 0.0004 outside"),
        ((1.9, 3.0), "its pixels range from 1.9 to 3;"),
        ((2.0, 3.1), "its pixels range from 2 to 3.1;"),
        ((math.nan, math.inf), "image 0 has nan pixels"),
        ((math.inf, 2.5), r"image 0 has infinite pixels \(1 such images\)"),
    ],
)
def test_how_far_pixels_lie_outside_of_two_numbers(pixels, said):
    with pytest.raises(ValueError, match=said):
        check_bounds((2.0, 3.0), torch.tensor([pixels]))


def test_one_tensor_and_a_number_are_bounds_of_features():
    bounds = check_bounds((torch.tensor([0.0, 0.25]), 1.0), torch.tensor([[0.5, 1.0]]))
    assert bounds.per_feature
    assert bounds.high.tolist() == [1.0, 1.0]
    assert not check_bounds((torch.zeros(2), 1.0), torch.tensor([[0.5, 1.0]])).per_feature  # the same for all
    for pair in ((0.0, torch.tensor(1.0)), (torch.tensor(0.0), torch.tensor(1.0))):  # numbers, though written so
        assert check_bounds(pair, torch.tensor([[0.5, 1.0]])).numbers == (0.0, 1.0)


@pytest.mark.parametrize("pair", [(0.0, 1e39), (-1e39, 1.0)])
def test_bounds_that_the_dtype_cannot_hold(pair):
    with pytest.raises(ValueError, match="float32 can hold"):
        check_bounds(pair, torch.tensor([[0.5]]))
    assert check_bounds(pair, torch.tensor([[0.5]]).double()).numbers == pair
    assert check_bounds((-math.inf, math.inf), torch.tensor([[0.5]])).numbers == (-math.inf, math.inf)


@pytest.mark.parametrize(
    ("low", "high", "fixed", "none"),
    [
        ([0.0, 1.0], [0.0, 1.0], None, True),
        ([0.0, 1.0], [0.0, 2.0], None, False),
        ([0.0, 1.0], [0.0, 2.0], [False, True], True),
        ([0.0, 1.0], [1.0, 2.0], [False, True], False),
    ],
)
def test_bounds_that_leave_nothing_to_move(low, high, fixed, none):
    fixed = None if fixed is None else torch.tensor(fixed)
    assert Bounds(torch.tensor(low), torch.tensor(high)).leave_none(fixed) == none
