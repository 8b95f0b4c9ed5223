"""ReLUs whose inputs lie in an l_2 ball as well as in intervals: not all of them can be at the ends of their intervals
at once.

For <a, f(z)> - <g, z>, with z in the box [l, u] and ||z - c||_2 <= s, every m >= 0 gives the lower bound

    sum_i min_{l_i <= z_i <= u_i} (a_i f(z_i) - g_i z_i + m (z_i - c_i)^2 / 2) - m s^2 / 2.

With m = 0 this is CROWN's bound; without the box it is the offset of SDP-CROWN (Chiu et al. 2025).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from plica.certify.masks import is_true

STEPS = 4  # of the fixed-point iteration for m


class Ball(NamedTuple):
    """The inputs of an activation: their interval, their values at the image, and their largest l_2 distance from
    these."""

    low: Float[Tensor, "r *z"]
    high: Float[Tensor, "r *z"]
    centre: Float[Tensor, "r *z"]
    spread: Float[Tensor, " r"]

    def take(self, rows: Tensor) -> Ball:
        return Ball(*(part[rows] for part in self))


def offset(
    a: Float[Tensor, "r *z"], g: Float[Tensor, "r *z"], slope: float, ball: Ball
) -> tuple[Float[Tensor, " r"], Float[Tensor, " r"]]:
    """The best bound over a few values of m, for f(z) = max(z, slope z), and the sum of the absolute values of its
    terms."""
    a, g, low, high, centre = (part.flatten(1) for part in (a, g, *ball[:3]))
    square, tiny = ball.spread**2, torch.finfo(a.dtype).tiny
    with torch.no_grad():
        # slopes of the function on either side of 0, or on the only one that the interval reaches
        below = a * (slope + (1 - slope) * is_true(torch.ge, low, 0.0)) - g
        above = a * (1 - (1 - slope) * is_true(torch.le, high, 0.0)) - g
        bend = low.clamp(min=0).minimum(high)  # 0, or the end next to it
        sides = ((below, low, bend), (above, bend, high))
        m = torch.maximum(below.abs(), above.abs()).norm(dim=1) / ball.spread.clamp(min=tiny)
        best, best_m = torch.full_like(m, -torch.inf), m
        for _ in range(STEPS):
            m = m.clamp(min=tiny)
            left, right = (_least(*side, centre, m) for side in sides)
            value = torch.minimum(left.value, right.value).sum(1) - m / 2 * square
            better = value > best
            best, best_m = torch.where(better, value, best), torch.where(better, m, best_m)
            # the terms that are least within their intervals share the square of the radius that the others leave
            is_left = is_true(torch.lt, left.value, right.value)
            moved = torch.lerp(right.moved, left.moved, is_left)
            free = (moved * torch.lerp(right.free, left.free, is_left)).sum(1)
            room = torch.maximum(square - (moved.sum(1) - free), 1e-12 * square).clamp(min=tiny)
            m = m * (free / room).sqrt()
        m = best_m.clamp(min=tiny)
        left, right = (_least(*side, centre, m) for side in sides)
        z = torch.lerp(right.z, left.z, is_true(torch.lt, left.value, right.value))
        bent = m[:, None] / 2 * (z - centre).square_()
    # with the minimising z fixed the gradient in a and g is that of the bound (envelope theorem)
    values = a * torch.maximum(z, slope * z) - g * z + bent
    return values.sum(1) - m / 2 * square, bent.sum(1) + m / 2 * square


class _Least(NamedTuple):
    """Where the terms of one side of 0 are least, their values there, (z - c)^2, and 1 if
    that is not at an end, else 0."""

    z: Float[Tensor, "r z"]
    value: Float[Tensor, "r z"]
    moved: Float[Tensor, "r z"]
    free: Float[Tensor, "r z"]


def _least(slope: Tensor, low: Tensor, high: Tensor, centre: Tensor, m: Tensor) -> _Least:
    """Of slope z + m (z - c)^2 / 2 over low <= z <= high."""
    vertex = torch.addcmul(centre, slope, 1 / m[:, None], value=-1)
    z = vertex.clamp(low, high)
    moved = (z - centre).square_()
    return _Least(z, torch.addcmul(slope * z, moved, m[:, None] / 2), moved, is_true(torch.eq, z, vertex))
