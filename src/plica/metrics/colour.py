"""CIEDE2000: the perceived difference of colours, summed over an image.

G. Sharma, W. Wu, E. N. Dalal, "The CIEDE2000 color-difference formula: implementation notes, supplementary test data,
and mathematical observations", Color Research and Application 30, 2005. The distance between two images is the root of
the sum of squares over pixels, as in Zhao, Liu, Larson (CVPR 2020).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from plica.metrics.combine import Combinable

# sRGB to CIE XYZ under D65 (IEC 61966-2-1), rows over the white point
XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
WHITE = (0.95047, 1.0, 1.08883)
LEAST = 1e-6  # of a chroma: at grey the square root has an infinite slope, and the hue is not defined


@dataclass(frozen=True)
class CIEDE2000(Combinable):
    """d(x, x') = sqrt(sum over pixels of Delta E_00^2), sRGB images (b, 3, h, w) in [0, 1]; 1 is barely visible."""

    def __str__(self) -> str:
        return "ciede2000"

    def __call__(self, x: Float[Tensor, "b *image"], x_adv: Float[Tensor, "b *image"]) -> Float[Tensor, " b"]:
        if x.ndim != 4 or x.shape[1] != 3:
            raise ValueError(f"CIEDE2000 takes RGB images (b, 3, height, width), got {tuple(x.shape)}.")
        square = difference(lab(x), lab(x_adv)).flatten(1).sum(1)
        return torch.where(square > 0, torch.where(square > 0, square, 1).sqrt(), square)


def lab(x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """CIE L*, a*, b* of sRGB pixels."""
    x = x.clamp(0, 1)
    linear = torch.where(x > 0.04045, ((x.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4, x / 12.92)
    matrix = x.new_tensor(XYZ) / x.new_tensor(WHITE)[:, None]
    t = torch.einsum("ij,bjhw->bihw", matrix, linear)
    edge = 6 / 29
    f = torch.where(t > edge**3, t.clamp(min=edge**3) ** (1 / 3), t / (3 * edge**2) + 4 / 29)
    X, Y, Z = f.unbind(1)
    return torch.stack([116 * Y - 16, 500 * (X - Y), 200 * (Y - Z)], 1)


def difference(one: Float[Tensor, "b 3 *p"], two: Float[Tensor, "b 3 *p"]) -> Float[Tensor, "b *p"]:
    """Delta E_00 squared between colours in Lab; the equations are numbered as in the paper."""
    (L1, a1, b1), (L2, a2, b2) = one.unbind(1), two.unbind(1)
    C7 = ((_length(a1, b1) + _length(a2, b2)) / 2) ** 7  # (2)-(3)
    G = 0.5 * (1 - (C7 / (C7 + 25.0**7) + LEAST**2).sqrt())  # (4)
    a1, a2 = (1 + G) * a1, (1 + G) * a2  # (5)
    C1, C2 = _length(a1, b1), _length(a2, b2)  # (6)
    h1, h2 = _hue(a1, b1), _hue(a2, b2)  # (7)
    dL, dC = L2 - L1, C2 - C1  # (8)-(9)
    # (10)-(11) squared, 4 C1 C2 sin(dh / 2)^2, without the hues: smooth at equal colours, and 0 to the last bit there
    dH2 = ((a2 - a1) ** 2 + (b2 - b1) ** 2 - dC**2).clamp(min=0)
    turn = torch.where(a1 * b2 - a2 * b1 < 0, -1.0, 1.0).float()
    L, C = (L1 + L2) / 2, (C1 + C2) / 2  # (12)-(13)
    apart = (h1 - h2).abs() > math.pi  # (14)
    h = (h1 + h2) / 2 + torch.where(apart, torch.where(h1 + h2 < 2 * math.pi, math.pi, -math.pi), 0.0).float()
    grey = (C1 * C2) <= (2 * LEAST) ** 2
    h = torch.where(grey, h1 + h2, h)
    T = (1 - 0.17 * (h - math.pi / 6).cos() + 0.24 * (2 * h).cos() + 0.32 * (3 * h + math.radians(6)).cos()
         - 0.20 * (4 * h - math.radians(63)).cos())  # fmt: skip  # (15)
    theta = math.radians(30) * (-(((h.rad2deg() - 275) / 25) ** 2)).exp()  # (16)
    R_C = 2 * (C**7 / (C**7 + 25.0**7) + LEAST**2).sqrt()  # (17)
    S_L = 1 + 0.015 * (L - 50) ** 2 / (20 + (L - 50) ** 2).sqrt()  # (18)
    S_C, S_H = 1 + 0.045 * C, 1 + 0.015 * C * T  # (19)-(20)
    R_T = -(2 * theta).sin() * R_C  # (21)
    dC, dH = dC / S_C, turn * ((dH2 + LEAST**2).sqrt() - LEAST) / S_H
    return ((dL / S_L) ** 2 + dC**2 + dH2 / S_H**2 + R_T * dC * dH).clamp(min=0)  # (22)


def _length(a: Tensor, b: Tensor) -> Tensor:
    return (a**2 + b**2 + LEAST**2).sqrt()


def _hue(a: Tensor, b: Tensor) -> Tensor:
    """The hue in [0, 2 pi); 0, with gradient 0, for grey."""
    grey = a**2 + b**2 < LEAST**2
    return torch.where(grey, 0.0, torch.atan2(b, torch.where(grey, 1.0, a)) % (2 * math.pi))
