"""CIEDE2000 against the pairs of colours that its authors publish."""

import pytest
import torch

from plica.metrics import CIEDE2000, gradient
from plica.metrics.colour import difference, lab

# L, a, b of two colours and their difference: Sharma, Wu, Dalal (2005), Table 1
PAIRS = torch.tensor([
    (50, 2.6772, -79.7751, 50, 0, -82.7485, 2.0425),
    (50, 3.1571, -77.2803, 50, 0, -82.7485, 2.8615),
    (50, -1.3802, -84.2814, 50, 0, -82.7485, 1.0000),
    (50, 0, 0, 50, -1, 2, 2.3669),
    (50, 2.49, -0.001, 50, -2.49, 0.0009, 7.1792),
    (50, 2.5, 0, 50, 0, -2.5, 4.3065),
    (50, 2.5, 0, 73, 25, -18, 27.1492),
    (50, 2.5, 0, 61, -5, 29, 22.8977),
    (50, 2.5, 0, 56, -27, -3, 31.9030),
    (50, 2.5, 0, 58, 24, 15, 19.4535),
    (60.2574, -34.0099, 36.2677, 60.4626, -34.1751, 39.4387, 1.2644),
    (63.0109, -31.0961, -5.8663, 62.8187, -29.7946, -4.0864, 1.2630),
    (61.2901, 3.7196, -5.3901, 61.4292, 2.2480, -4.9620, 1.8731),
    (22.7233, 20.0904, -46.6940, 23.0331, 14.9730, -42.5619, 2.0373),
    (36.4612, 47.8580, 18.3852, 36.2715, 50.5065, 21.2231, 1.4146),
    (90.9257, -0.5406, -0.9208, 88.6381, -0.8985, -0.7239, 1.5381),
    (2.0776, 0.0795, -1.1350, 0.9033, -0.0636, -0.5514, 0.9082),
], dtype=torch.float64)  # fmt: skip


def test_published_pairs():
    one, two, expected = PAIRS[:, :3], PAIRS[:, 3:6], PAIRS[:, 6]
    torch.testing.assert_close(difference(one, two).sqrt(), expected, rtol=0, atol=1e-4)  # printed with four digits
    torch.testing.assert_close(difference(two, one).sqrt(), expected, rtol=0, atol=1e-4)


def test_lab_of_known_colours():
    """White, black, mid grey and the red primary of sRGB (Lab under D65)."""
    rgb = torch.tensor([[1.0, 1, 1], [0, 0, 0], [0.5, 0.5, 0.5], [1, 0, 0]], dtype=torch.float64)
    expected = torch.tensor([[100, 0, 0], [0, 0, 0], [53.389, 0, 0], [53.241, 80.092, 67.203]], dtype=torch.float64)
    torch.testing.assert_close(lab(rgb[:, :, None, None])[:, :, 0, 0], expected, rtol=0, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_at_the_image_itself_and_at_grey(dtype):
    x = torch.rand(3, 3, 5, 5, generator=torch.Generator().manual_seed(0), dtype=dtype)
    x[0] = 0.5
    x[1, :, 2] = 0
    value, grad = gradient(CIEDE2000(), x, x.clone())
    assert (value == 0).all()
    assert (grad == 0).all()
    moved = (x + 0.01 * torch.rand(x.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)).clamp(0, 1)
    value, grad = gradient(CIEDE2000(), x, moved)
    assert (value > 0).all()
    assert grad.isfinite().all()


def test_gradient():
    """Against finite differences."""
    generator = torch.Generator().manual_seed(2)
    x, x_adv, direction = (torch.rand(2, 3, 4, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    x_adv = 0.8 * x + 0.1 * x_adv
    h = 1e-6
    slope = (CIEDE2000()(x, x_adv + h * direction) - CIEDE2000()(x, x_adv - h * direction)) / (2 * h)
    found = (gradient(CIEDE2000(), x, x_adv)[1] * direction).flatten(1).sum(1)
    torch.testing.assert_close(found, slope, rtol=1e-5, atol=0)


def test_other_images_are_refused():
    with pytest.raises(ValueError, match=r"takes RGB images \(b, 3, height, width\), got \(2, 4\)"):
        CIEDE2000()(torch.rand(2, 4), torch.rand(2, 4))
