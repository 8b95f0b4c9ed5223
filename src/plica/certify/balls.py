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
    square, tiny = (ball.spread**2)[:, None], torch.finfo(a.dtype).tiny
    # slopes of the function on either side of 0, as far as the interval reaches there
    below, above = torch.where(low < 0, slope * a - g, 0), torch.where(high > 0, a - g, 0)
    bend = torch.minimum(torch.maximum(torch.zeros_like(low), low), high)  # 0, or the end next to it

    def least(m: Tensor) -> tuple[Tensor, Tensor]:
        """Where the terms are least, and whether on the side of z <= 0."""
        left = torch.minimum(torch.maximum(centre - below / m, low), bend)
        right = torch.minimum(torch.maximum(centre - above / m, bend), high)
        at_left = below * left + m / 2 * (left - centre) ** 2
        at_right = above * right + m / 2 * (right - centre) ** 2
        is_left = (high <= 0) | ((low < 0) & (at_left < at_right))
        return torch.where(is_left, left, right), is_left

    def terms(z: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        bent = m / 2 * (z - centre) ** 2
        return a * torch.maximum(z, slope * z) - g * z + bent, bent.sum(1) + m[:, 0] / 2 * square[:, 0]

    with torch.no_grad():
        m = torch.maximum(below.abs(), above.abs()).norm(dim=1, keepdim=True) / square.sqrt().clamp(min=tiny)
        best, best_m = torch.full_like(ball.spread, -torch.inf), m
        for _ in range(STEPS):
            m = m.clamp(min=tiny)
            z, is_left = least(m)
            value = terms(z, m)[0].sum(1) - m[:, 0] / 2 * square[:, 0]
            better = value > best
            best, best_m = torch.where(better, value, best), torch.where(better[:, None], m, best_m)
            free = (z > low) & (z < high) & (z != bend)
            fixed = torch.where(free, 0, (z - centre) ** 2).sum(1, keepdim=True)
            room = torch.maximum(square - fixed, 1e-12 * square).sqrt().clamp(min=tiny)
            m = torch.where(free, torch.where(is_left, below, above), 0).norm(dim=1, keepdim=True) / room
        m = best_m.clamp(min=tiny)
        z, _ = least(m)
    # with the minimising z fixed the gradient in a and g is that of the bound (envelope theorem)
    values, size = terms(z, m)
    return values.sum(1) - m[:, 0] / 2 * square[:, 0], size
