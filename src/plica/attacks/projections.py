"""Euclidean projections onto the intersection of an l_p ball around an image with the box, exact, for p = 1, 2, inf.

min ||z' - z||_2  s.t.  ||z' - x||_p <= radius, low <= z' <= high ("Optimizers Matter", Appendix A). The common practice
of projecting onto the ball and then onto the box is exact for l_inf only. Here the multiplier of the ball is found in
a few steps; each step fixes the pixels that reached a bound at the step before. Used by attacks/pgd.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from plica.metrics import Unsupported, total


@dataclass(frozen=True)
class ProjectionSettings:
    """How exact projections are.

    Attributes:
        steps: towards the multiplier of the ball, at most; a few are enough, as a rule.
        settled: roundings of its length by which a point may be off the ball.
        slack: share of a radius that is left free: roundings of many pixels add up, at random.
    """

    steps: int = 40
    settled: float = 4.0
    slack: float = 1e-6


SETTINGS = ProjectionSettings()


@torch.no_grad()
def project(
    z: Float[Tensor, "b *image"],
    x: Float[Tensor, "b *image"],
    radius: Float[Tensor, " b"],
    p: float,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Float[Tensor, "b *image"]:
    """The point nearest to z (in l_2) with ||. - x||_p <= radius, up to rounding, and inside the bounds.

    x lies in the bounds. Rows are independent. Raises Unsupported for p other than 1, 2, inf.
    """
    if p not in (1, 2, math.inf):
        raise Unsupported(
            f"Projections are exact for l1, l2 and linf; l{p:g} has none here. "
            f'Use method="auto", which needs no projection.'
        )
    most_of_type = torch.finfo(x.dtype).max  # instead of infinite bounds, times which 0 is nan
    low, high = max(bounds[0], -most_of_type), min(bounds[1], most_of_type)
    flat, reach = x.flatten(1), radius.to(x)[:, None]
    delta, least, most = z.flatten(1) - flat, low - flat, high - flat
    if p == math.inf:
        moved = delta.clamp_(least, most).clamp_(-reach, reach)
    else:
        # how far each pixel may move in the direction in which it wants to
        room = (delta * most_of_type).clamp_(least, most).abs_()
        size = delta.abs()
        moved = (_onto_l2 if p == 2 else _onto_l1)(size, room, reach).mul_(delta.sign_())
    return moved.add_(flat).clamp_(low, high).view_as(x)


def safely_inside(
    radius: Float[Tensor, " b"], x: Float[Tensor, "b *image"], bounds: tuple[float, float]
) -> Float[Tensor, " b"]:
    """The radius less what rounding x + delta to pixels may add to it: the judge measures in float64."""
    largest = max(abs(bound) for bound in bounds)
    if largest == math.inf:  # no point of the ball has a larger pixel, in any l_p
        largest = x.detach().flatten(1).abs().amax(1) + radius.to(x.device)
    pixel = torch.finfo(x.dtype).eps * largest
    return ((1 - SETTINGS.slack) * radius - pixel).clamp(min=0).to(x)


def _onto_l2(size: Tensor, room: Tensor, reach: Tensor) -> Tensor:
    """min(s * size, room) with the largest s <= 1 such that its l_2 norm is at most reach: s = 1 / (1 + multiplier).

    Starting with no pixel at a bound, s is computed for the pixels that are free and never too large. It can only grow,
    so more and more pixels reach a bound, until s stays the same.
    """
    tiny = torch.finfo(size.dtype).tiny
    s = (reach / _sum(size**2).sqrt().clamp(min=tiny)).clamp(max=1)
    free, work = torch.empty_like(size), torch.empty_like(size)
    for _ in range(SETTINGS.steps):
        torch.lt(torch.mul(s, size, out=work), room, out=free)  # 1 where a pixel is free, 0 at a wall
        free_square = _sum(torch.mul(free, size, out=work).square_())
        left = reach**2 - _sum(free.neg_().add_(1).mul_(room).square_())
        larger = (left.clamp(min=0) / free_square.clamp(min=tiny)).sqrt().clamp(max=1)
        if bool((larger <= s).all()):
            break
        s = torch.maximum(s, larger)
    return torch.minimum(s * size, room)


def _onto_l1(size: Tensor, room: Tensor, reach: Tensor) -> Tensor:
    """min(max(size - t, 0), room) with the least t >= 0, the multiplier, whose l_1 norm is at most reach.

    Newton's method for t, of which the norm is a piecewise linear function, inside a bracket: where it leaves that, the
    middle of the bracket.
    """
    eps, t = torch.finfo(size.dtype).eps, torch.zeros_like(reach)
    low, high, settled = t, size.amax(1, keepdim=True), torch.zeros_like(reach, dtype=torch.bool)
    moved, free = torch.empty_like(size), torch.empty_like(size)
    for _ in range(SETTINGS.steps):
        torch.sub(size, t, out=moved).clamp_(min=0)
        count = _sum(torch.lt(moved, room, out=free).mul_(torch.sign(moved)))  # of pixels that move and are at no wall
        excess = _sum(torch.minimum(moved, room, out=moved)) - reach
        off = torch.where(t > 0, excess.abs(), excess)  # at t = 0 the point itself is inside
        settled |= off <= SETTINGS.settled * eps * (reach + count * t)
        if bool(settled.all()):
            break
        low, high = torch.where(excess > 0, t, low), torch.where(excess > 0, high, t)
        newton = t + excess / count.clamp(min=1)
        step = torch.where((newton > low) & (newton < high), newton, (low + high) / 2)
        t = torch.where(settled, t, step)
    # t has the rounding error of the largest entry, which may exceed a much smaller ball
    return moved * (reach / _sum(moved).clamp(min=torch.finfo(moved.dtype).tiny)).clamp(max=1)


def _sum(t: Tensor) -> Tensor:
    return total(t)[:, None]
