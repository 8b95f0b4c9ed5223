"""Points rounded to 8 bits: which stay misclassified, and by how much the others must be lengthened."""

import math

import numpy as np
import pytest
import torch

from plica.trust.audit.quantization import eight_bits, round8

BOUNDS = (-1.0, 3.0)
STEP = 4 / 255


def value(level):
    return -1 + STEP * level


def test_the_256_values_that_the_bounds_span():
    assert round8(torch.tensor([[value(10.4), value(10.6), -1.0, 3.0]]), BOUNDS).tolist() == [
        pytest.approx([value(10), value(11), -1.0, 3.0], abs=1e-6)
    ]
    assert round8(torch.tensor([[-1.5, 3.5]]), BOUNDS).tolist() == [[-1.0, 3.0]]


def repaired(delta, needed):
    """The length, in levels, of the first stretch found at which delta levels are rounded to what is needed; None
    where there is none: steps of 0.01, 0.02, ... 5.12, then four halvings of the last interval."""
    low, high = 1.0, None
    for k in range(10):
        stretch = 1 + 0.01 * 2**k
        if round(stretch * delta) >= needed:
            high = stretch
            break
        low = stretch
    if high is None:
        return None
    for _ in range(4):
        middle = (low + high) / 2
        low, high = (low, middle) if round(middle * delta) >= needed else (middle, high)
    return round(high * delta)


CASES = [(20.4, 20), (20.4, 21), (20.3, 25), (7.7, 30), (10.2, 40), (10.2, 62), (10.2, 63), (3.3, 19), (0.0, 1)]


@pytest.mark.parametrize("radius", [None, 20 * STEP, 20.4 * STEP])
@pytest.mark.parametrize("shape", [(1, 1, 2), (2,)])
def test_each_point_is_lengthened_as_far_as_it_takes(radius, shape):
    """An image is misclassified once its first pixel has risen by as many levels as are needed."""
    deltas, needed = (torch.tensor(column) for column in zip(*CASES, strict=True))
    x = value(torch.full((len(CASES), 2), 50.0)).view(-1, *shape)
    x_adv = x.clone()
    x_adv.view(-1, 2)[:, 0] += STEP * deltas

    def rise(points, rows):
        return ((points - x[rows]).reshape(-1, 2)[:, 0] / STEP).double().numpy()

    found = eight_bits(
        lambda points, rows: rise(points, rows) > needed.numpy()[rows] - 0.5,
        lambda points, rows: rise(points, rows) * STEP,
        x, x_adv, radius, BOUNDS,
    )  # fmt: skip
    survives = [round(delta) >= least for delta, least in CASES]
    assert found.survives.tolist() == survives
    assert found.within.tolist() == [
        survived and (radius is None or round(delta) * STEP <= radius * (1 + 1e-5))
        for survived, (delta, _) in zip(survives, CASES, strict=True)
    ]
    for price, survived, (delta, least) in zip(found.price.tolist(), survives, CASES, strict=True):
        length = round(delta) if survived else repaired(delta, least)
        if length is None or delta == 0:
            assert math.isnan(price)
        else:
            assert price == pytest.approx(length / delta, rel=1e-4)


def test_a_radius_may_be_exceeded_by_the_rounding_of_pixels():
    x = torch.zeros(2, 2)

    def measure(points, rows):
        return np.array([1.0 + 0.9e-5, 1.0 + 1.2e-5])[rows]

    found = eight_bits(lambda points, rows: np.ones(len(rows), dtype=bool), measure, x, x + 1, 1.0, (0.0, 1.0))
    assert found.within.tolist() == [True, False]
