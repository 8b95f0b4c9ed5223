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
    """The accuracy of projections.

    Attributes:
        steps: most steps towards the multiplier of the ball; a few are usually enough.
        settled: a point may miss the surface of the ball by this many units of rounding of its length.
        slack: share of a radius that is left free, since the rounding errors of many pixels add up at random.
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
    most_of_type = torch.finfo(x.dtype).max  # in place of infinite bounds, since 0 times inf is nan
    low, high = max(bounds[0], -most_of_type), min(bounds[1], most_of_type)
    flat, reach = x.flatten(1), radius.to(x)[:, None]
    delta, least, most = z.flatten(1) - flat, low - flat, high - flat
    if p == math.inf:
        moved = delta.clamp_(least, most).clamp_(-reach, reach)
    else:
        moved = (_onto_l2 if p == 2 else _onto_l1)(delta, least, most, reach)
    return moved.add_(flat).clamp_(low, high).view_as(x)


def safely_inside(
    radius: Float[Tensor, " b"], x: Float[Tensor, "b *image"], bounds: tuple[float, float]
) -> Float[Tensor, " b"]:
    """The radius minus what rounding x + delta to pixels may add to the distance, which the judge measures in
    float64."""
    largest = max(abs(bound) for bound in bounds)
    if largest == math.inf:  # no point of the ball has a larger pixel, in any l_p
        largest = x.detach().flatten(1).abs().amax(1) + radius.to(x.device)
    pixel = torch.finfo(x.dtype).eps * largest
    return ((1 - SETTINGS.slack) * radius - pixel).clamp(min=0).to(x)


def _onto_l2(delta: Tensor, least: Tensor, most: Tensor, reach: Tensor) -> Tensor:
    """s delta clamped between least and most, with the largest s <= 1 such that its l_2 norm is at most reach.

    s is 1 / (1 + multiplier). The square of the norm is a concave, piecewise linear function of s^2, since each pixel
    contributes to its slope until it reaches its bound. So the line through two earlier points of the function never
    overshoots the solution, and s increases until it converges.
    """
    enough = (1 - SETTINGS.settled * torch.finfo(delta.dtype).eps) * reach
    moved, square = torch.empty_like(delta), torch.empty_like(delta)
    before, below = torch.zeros_like(reach), torch.zeros_like(reach)
    tiny, now = torch.finfo(delta.dtype).tiny, _share(reach**2, _sum(torch.square(delta, out=square)))
    for _ in range(SETTINGS.steps):
        torch.mul(delta, now.sqrt(), out=moved).clamp_(least, most)
        at = _sum(torch.square(moved, out=square))
        going = (at < enough**2) & (now < 1) & (now > before)
        if not bool(going.any()):
            break
        further = now + (reach**2 - at) * (now - before) / (at - below).clamp(min=tiny)
        before, below = now, at
        now = torch.where(going, further.clamp(max=1), now)
    return moved


def _onto_l1(delta: Tensor, least: Tensor, most: Tensor, reach: Tensor) -> Tensor:
    """delta moved towards 0 by t and clamped between least and most, with the least t >= 0, the multiplier, such that
    its l_1 norm is at most reach.

    The norm is a piecewise linear function of t. The line through its last two points gives the next t; if that leaves
    the bracket, the middle of the bracket is taken.
    """
    eps, size = torch.finfo(delta.dtype).eps, delta.abs()
    up = delta.sign_()
    # how far each pixel may move in the direction of delta
    room = (up * torch.finfo(delta.dtype).max).clamp_(least, most).abs_()
    moved = torch.minimum(size, room)
    above = _sum(moved) - reach
    low, high, before = torch.zeros_like(reach), size.amax(1, keepdim=True), torch.zeros_like(reach)
    t = torch.where(above > 0, above / size.shape[1], low)  # as if all pixels moved
    for _ in range(SETTINGS.steps):
        torch.minimum(torch.sub(size, t, out=moved).clamp_(min=0), room, out=moved)
        excess = _sum(moved) - reach
        going = (t != before) & (excess.abs() > SETTINGS.settled * eps * (reach + t))
        if not bool(going.any()):
            break
        low, high = torch.where(excess > 0, t, low), torch.where(excess > 0, high, t)
        line = t + excess * (t - before) / (above - excess)
        before, above = t, excess
        t = torch.where(going, torch.where((line > low) & (line < high), line, (low + high) / 2), t)
    # t has the rounding error of the largest entry, which may exceed a much smaller ball
    return moved.mul_(_share(reach, _sum(moved))).mul_(up)


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, at most 1."""
    return (part / whole.clamp(min=torch.finfo(whole.dtype).tiny)).clamp(max=1)


def _sum(t: Tensor) -> Tensor:
    return total(t)[:, None]
