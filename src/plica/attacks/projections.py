"""Euclidean projections onto the intersection of an l_p ball around an image with the box, exact, for p = 1, 2, inf.

min ||z' - z||_2  s.t.  ||z' - x||_p <= radius, low <= z' <= high ("Optimizers Matter", Appendix A). First the ball and
then the box, as is often done, is exact for l_inf alone. Here the multiplier of the ball is bisected, and found in
closed form once it is known which pixels meet a wall. Used by attacks/pgd.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from plica.metrics import Unsupported, total


@dataclass(frozen=True)
class ProjectionSettings:
    """How exact projections are.

    Attributes:
        bisections: past the last bit of float32; in float64 the closed form finds the rest.
        confirmed: relative distance to the bisection within which the closed form is taken.
        slack: share of a radius that is left free: roundings of many pixels add up, at random.
    """

    bisections: int = 40
    confirmed: float = 1e-5
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
    low, high = bounds
    delta, reach = (z - x).flatten(1), radius.to(x)[:, None]
    # how far each pixel may move in the direction in which it wants to
    room = torch.where(delta > 0, high - x.flatten(1), x.flatten(1) - low)
    size = delta.abs()
    if p == math.inf:
        moved = torch.minimum(torch.minimum(size, room), reach)
    elif p == 2:
        moved = _onto_l2(size, room, reach)
    elif p == 1:
        moved = _onto_l1(size, room, reach)
    else:
        raise Unsupported(
            f"Projections are exact for l1, l2 and linf; l{p:g} has none here. "
            f'Use method="auto", which needs no projection.'
        )
    return (x + (delta.sign() * moved).view_as(x)).clamp(low, high)


def safely_inside(
    radius: Float[Tensor, " b"], x: Float[Tensor, "b *image"], bounds: tuple[float, float]
) -> Float[Tensor, " b"]:
    """The radius less what rounding x + delta to pixels may add to it: the judge measures in float64."""
    pixel = torch.finfo(x.dtype).eps * max(abs(bound) for bound in bounds)
    return ((1 - SETTINGS.slack) * radius - pixel).clamp(min=0).to(x)


def _onto_l2(size: Tensor, room: Tensor, reach: Tensor) -> Tensor:
    """min(s * size, room) with the largest s <= 1 such that its l_2 norm is at most reach: s = 1 / (1 + multiplier).

    s for the pixels that meet a wall so far is never too large, and adds pixels to them until none is left to add.
    """
    tiny = torch.finfo(size.dtype).tiny
    s = (reach / _sum(size**2).sqrt().clamp(min=tiny)).clamp(max=1)
    for _ in range(SETTINGS.bisections):
        free = s * size < room
        left = reach**2 - _sum(torch.where(free, 0, room) ** 2)
        larger = (left.clamp(min=0) / _sum(torch.where(free, size, 0) ** 2).clamp(min=tiny)).sqrt().clamp(max=1)
        if bool((larger <= s).all()):
            break
        s = torch.maximum(s, larger)
    return torch.minimum(s * size, room)


def _onto_l1(size: Tensor, room: Tensor, reach: Tensor) -> Tensor:
    """min(max(size - t, 0), room) with the least t >= 0, the multiplier, whose l_1 norm is at most reach."""

    def moved(t: Tensor) -> Tensor:
        return torch.minimum((size - t).clamp(min=0), room)

    top = size.amax(1, keepdim=True)
    t = _bisect(lambda t: _sum(moved(t)) <= reach, top, torch.zeros_like(top))
    free = (size > t) & (size - t < room)
    walls = _sum(torch.where((size > t) & ~free, room, 0))
    exact = (_sum(torch.where(free, size, 0)) + walls - reach) / free.sum(1, keepdim=True).clamp(min=1)
    found = moved(torch.where((t > 0) & free.any(1, keepdim=True), _confirmed(exact, t), t))
    # t has the roundings of the largest entry, which outweigh a ball that is small beside it
    return found * (reach / _sum(found).clamp(min=torch.finfo(found.dtype).tiny)).clamp(max=1)


def _bisect(inside: Callable[[Tensor], Tensor], inside_value: Tensor, target: Tensor) -> Tensor:
    """The last value that is inside on the way from `inside_value`, which is, to `target`.  (b, 1)"""
    inside_value = torch.where(inside(target), target, inside_value)
    for _ in range(SETTINGS.bisections):
        middle = (inside_value + target) / 2
        fine = inside(middle)
        inside_value, target = torch.where(fine, middle, inside_value), torch.where(fine, target, middle)
    return inside_value


def _confirmed(exact: Tensor, bisected: Tensor) -> Tensor:
    """The closed form where it confirms the bisection; elsewhere a pixel lay on the edge of a wall, and the bisection
    stands."""
    return torch.where((exact - bisected).abs() <= SETTINGS.confirmed * bisected.abs(), exact, bisected)


def _sum(t: Tensor) -> Tensor:
    return total(t)[:, None]
