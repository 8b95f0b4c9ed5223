"""Max pooling, also with windows that end beyond the image: windows, planes, and which pixel is chosen among equals."""

import pytest
import torch
from torch.nn import functional

from plica.certify.maxpool import MaxPool
from plica.trust.audit.activations import Pool


@pytest.mark.parametrize(
    "windows",
    [
        ((3, 2), (2, 3), (1, 0), (1, 2)),
        ((2, 2), (2, 2), (0, 0), (1, 1)),
        ((2, 3), (3, 4), (1, 1), (1, 1)),  # of the last rows and columns some are in no window
        ((1, 3), (4, 1), (0, 1), (2, 1)),
    ],
)
@pytest.mark.parametrize("image", [(5, 7), (6, 8), (7, 5)])
def test_windows_in_ceil_mode_are_torchs_and_the_function_lies_between_the_planes(windows, image):
    g = torch.Generator().manual_seed(0)
    z = torch.randn(2, 2, *image, generator=g, dtype=torch.float64)
    ours, audits = MaxPool(*windows, image, True), Pool(*windows, True)
    expected = functional.max_pool2d(z, *windows, ceil_mode=True)
    assert torch.equal(audits.value(z), expected)
    assert torch.equal(ours.forward(z), expected)
    assert torch.equal(ours._windows(z, -torch.inf).amax(2).view_as(expected), expected)
    assert torch.equal(audits._windows(z, -torch.inf), ours._windows(z, -torch.inf))
    low, high = z - torch.rand(z.shape, generator=g), z + torch.rand(z.shape, generator=g)
    t = torch.rand(ours.start(low, high).shape, generator=g, dtype=torch.float64)
    a = torch.randn(expected.shape, generator=g, dtype=torch.float64)
    bounds = ours.backward(a, ours.lines(ours.prepare(low, high), t)), audits.back(a, audits.lines(low, high, t))
    for _ in range(20):
        point = torch.lerp(low, high, (1.4 * torch.rand(z.shape, generator=g) - 0.2).clamp(0, 1).double())
        value = (a * functional.max_pool2d(point, *windows, ceil_mode=True)).flatten(1).sum(1)
        for pulled, constant in bounds:
            assert (value >= (pulled * point).flatten(1).sum(1) + constant - 1e-12).all()


def test_among_equal_intervals_every_precision_chooses_the_same_pixel():
    """Middles of intervals were compared with their roundings; the audit chose others than the search, and refused
    right proofs."""
    low = torch.rand(1, 2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    high = 1 - low + 1e-9 * torch.randn(low.shape, generator=torch.Generator().manual_seed(1))
    ours = MaxPool((2, 2), (2, 2), (0, 0), (1, 1), (8, 8))
    double, single = (ours.prepare(low.to(d), high.to(d))[0].low for d in (torch.float64, torch.float32))
    assert torch.equal(double, single.double())
    audits = Pool(2)
    audits.value(low)  # which notes the size of images
    assert torch.equal(audits.lines(low, high, torch.ones(1, 2, 16)).low, double)
    assert (double[:, :, 0] == 1).all()  # the first
