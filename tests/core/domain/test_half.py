"""Images in half precision: what a search in float32 makes of them."""

import pytest
import torch

from plica.core.domain.bounds import Bounds
from plica.core.domain.half import SLACK, HalfGrid, HalfModel, UnitGrid, half_dtype

HALVES = [torch.bfloat16, torch.float16]


def test_which_images_are_in_half_precision():
    assert [half_dtype(torch.zeros(1, dtype=dtype)) for dtype in HALVES] == HALVES
    assert half_dtype(torch.zeros(1)) is half_dtype(torch.zeros(1, dtype=torch.int64)) is half_dtype("x") is None


@pytest.mark.parametrize("dtype", HALVES)
def test_points_are_rounded_towards_their_images(dtype):
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(3, 200, generator=draw).to(dtype).float() * 2 - 1
    x, image = x.to(dtype).float(), torch.tensor([2, 0, 1, 2])
    z = x[image] + 0.1 * torch.randn(4, 200, generator=draw)
    z[0, :100] = x[2, :100]
    points = HalfGrid(x, dtype)(z, image)
    assert torch.equal(points, points.to(dtype).float())
    assert ((points - x[image]).abs() <= (z - x[image]).abs()).all()  # no pixel farther
    assert (((points - x[image]) * (z - x[image])) >= 0).all()  # none on the other side
    assert torch.equal(points[0, :100], x[2, :100])
    assert ((points - z).abs() <= torch.finfo(dtype).eps * z.abs().clamp(min=1)).all()  # and none far from where it was
    assert torch.equal(HalfGrid(x, dtype)(points, image), points)


def test_the_model_is_given_its_own_precision():
    seen = []
    HalfModel(lambda x: seen.append(x.dtype) or x, torch.bfloat16)(torch.zeros(2, 3))
    assert seen == [torch.bfloat16]


def test_points_in_units_of_bounds_are_pixels_too():
    dtype, low, high = torch.bfloat16, torch.tensor([-2.0, 0.0, 1.0]), torch.tensor([3.0, 0.7, 1.0])
    bounds, x = Bounds(low, high), torch.tensor([[0.5, 0.25, 1.0]])
    u = bounds.to_units(torch.tensor([[1.2345, 0.123, 1.0]]))
    points = bounds.from_units(UnitGrid(HalfGrid(x, dtype), bounds)(u, torch.tensor([0])))
    expected = HalfGrid(x, dtype)(bounds.from_units(u), torch.tensor([0]))
    torch.testing.assert_close(points, expected, rtol=1e-6, atol=1e-6)
    # a point that a change of units moved by a rounding is still that pixel
    moved = expected - 1e-7
    assert torch.equal(HalfGrid(x, dtype, SLACK)(moved, torch.tensor([0])), expected)
    assert not torch.equal(HalfGrid(x, dtype)(moved, torch.tensor([0])), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_inside_a_ball_points_are_rounded_to_the_nearest_pixels_that_it_has(dtype):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 4, 4, generator=generator).to(dtype).float()
    radius = torch.tensor([0.004, 0.02]).double()
    image = torch.tensor([0, 1, 1])
    z = x[image] + (2 * torch.rand(3, 3, 4, 4, generator=generator) - 1) * radius[image].float().view(-1, 1, 1, 1)
    z = z.clamp(0, 1)
    points = HalfGrid(x, dtype, radius=radius)(z, image)
    assert torch.equal(points.to(dtype).float(), points)
    assert ((points - x[image]).abs().double().flatten(1).amax(1) <= radius[image]).all()
    assert ((points >= 0) & (points <= 1)).all()
    nearest = z.to(dtype).float()
    inside = ((nearest - x[image]).abs() <= radius[image].view(-1, 1, 1, 1) * (1 - 1e-5)) & (nearest <= 1)
    assert torch.equal(points[inside], nearest[inside])
    assert not torch.equal(points, HalfGrid(x, dtype)(z, image))
    far = x[image] + 0.1  # outside of the ball as without one
    assert torch.equal(HalfGrid(x, dtype, radius=radius)(far, image), HalfGrid(x, dtype)(far, image))


def test_inside_a_ball_points_stay_inside_the_bounds():
    """0.9005 is no number of bfloat16: the next ones are 0.8984 and 0.9023, which is the nearer one."""
    x, radius = torch.tensor([[0.875]]), torch.tensor([0.1]).double()
    grid = HalfGrid(x, torch.bfloat16, radius=radius, bounds=(0.0, 0.9005))
    assert float(grid(torch.tensor([[0.9005]]), torch.tensor([0]))) == 0.8984375
    wide = HalfGrid(x, torch.bfloat16, radius=radius)
    assert float(wide(torch.tensor([[0.9005]]), torch.tensor([0]))) == 0.90234375
