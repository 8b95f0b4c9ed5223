"""CIE 1976 L*, u*, v* of sRGB pixels under D65, over 100, and back; equal steps look about equally large.

u* = 13 L* (u' - u'_n),  v* = 13 L* (v' - v'_n),  u' = 4 X / (X + 15 Y + 3 Z),  v' = 9 Y / (X + 15 Y + 3 Z)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from plica.metrics import power  # torch.pow changes the last bit with the number of pixels
from plica.metrics.colour import WHITE, XYZ

LOW, HIGH = (0.0, -0.85, -1.35), (1.0, 1.76, 1.08)  # of L, u and v of all sRGB colours
DARK = 216 / 24389  # of Y: below it L* is linear
SLOPE = 24389 / 27
BACK = torch.linalg.inv(torch.tensor(XYZ, dtype=torch.float64)).tolist()
LEAST = 1e-4  # of L and of X + 15 Y + 3 Z; u' and v' of black are not defined
U, V = (0.0, 0.65), (0.02, 0.65)  # ranges of u' and v' that contain all colours; outside, rgb could divide by 0


def luv(x: Float[Tensor, "b 3 *p"]) -> Float[Tensor, "b 3 *p"]:
    """L, u and v over 100 of sRGB pixels in [0, 1]."""
    linear = torch.where(x > 0.04045, power((x.clamp(min=0.04045) + 0.055) / 1.055, 2.4), x / 12.92)
    X, Y, Z = _mixed(XYZ, linear)
    L = torch.where(Y > DARK, 1.16 * power(Y.clamp(min=DARK), 1 / 3) - 0.16, SLOPE / 100 * Y)
    denominator = (X + 15 * Y + 3 * Z).clamp(min=LEAST)
    u, v = _white()
    return torch.stack([L, 13 * L * (4 * X / denominator - u), 13 * L * (9 * Y / denominator - v)], 1)


def rgb(c: Float[Tensor, "b 3 *p"]) -> Float[Tensor, "b 3 *p"]:
    """sRGB pixels of L, u and v over 100; colours that sRGB cannot show lie outside [0, 1]."""
    L, u, v = c.unbind(1)
    L = L.clamp(min=0)
    Y = torch.where(L > 0.08, ((L.clamp(min=0.08) + 0.16) / 1.16) ** 3, 100 / SLOPE * L)
    scale = 13 * L.clamp(min=LEAST)
    u, v = ((t / scale + w).clamp(*box) for t, w, box in zip((u, v), _white(), (U, V), strict=True))
    X, Z = Y * 9 * u / (4 * v), Y * (12 - 3 * u - 20 * v) / (4 * v)
    linear = torch.stack(_mixed(BACK, torch.stack([X, Y, Z], 1)), 1)
    bright = linear > 0.0031308
    return torch.where(bright, 1.055 * power(linear.clamp(min=0.0031308), 1 / 2.4) - 0.055, 12.92 * linear)


def _mixed(matrix: Sequence[Sequence[float]], t: Float[Tensor, "b 3 *p"]) -> list[Tensor]:
    """The matrix applied to every pixel; written out, as a product of matrices sums in an order that depends on b."""
    one, two, three = t.unbind(1)
    return [a * one + b * two + c * three for a, b, c in matrix]


def _white() -> tuple[float, float]:
    """u' and v' of white."""
    X, Y, Z = WHITE
    whole = X + 15 * Y + 3 * Z
    return 4 * X / whole, 9 * Y / whole
