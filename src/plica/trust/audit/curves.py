"""Curved activations for the audit: lines of any slope, with the smallest offset with which they are bounds.

Between the points where its curvature changes sign, an activation F is convex or concave. Where it is convex, F(z) - s
z is largest at an end. Where it is concave, golden-section search encloses the maximum in an interval; beyond its
middle F lies below the line through two computed points. Only values of F are needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from plica.trust.audit.activations import Activation, Lines

Function = Callable[[Tensor], Tensor]
GOLDEN = (math.sqrt(5) - 1) / 2
SECTIONS, HALVINGS = 34, 20
NEAR = 1e-4
STEPS = 51  # from the least to the largest slope
MOVED = 2.0**-43  # of what makes an offset: each section may err by a few roundings of F


class Curve(Activation):
    """F, which bends at some points: upwards, downwards or not at all before, between and behind them (1, -1 or 0).

    Attributes:
        steep: |F'| at most.
        other: what is rounded inside of F beside multiples of z.
    """

    def __init__(
        self, value: Function, points: tuple[float, ...], bends: tuple[int, ...], steep: float = 1.0, other: float = 1.0
    ):
        self.of, self.steep, self.other, self.points = value, steep, other, points
        walls = [-math.inf, *points, math.inf]
        self.parts = list(zip(walls[:-1], walls[1:], bends, strict=True))

    def value(self, z: Tensor) -> Tensor:
        return self.of(z)

    def interval(self, l: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        moved, none = self._moved(l, u), torch.zeros_like(l)
        return -self._peak(-1, none, l, u) - moved, self._peak(1, none, l, u) + moved

    def parameters(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (2, *shape)

    def lines(self, l: Tensor, u: Tensor, t: Tensor) -> Lines:
        moved, found = self._moved(l, u), list[Tensor]()
        for i, sign in enumerate((-1, 1)):  # a line below F is one above -F
            from_u, from_l = self._hull(sign, u, l), self._hull(sign, l, u)
            first, last = (slope.clamp(-self.steep, self.steep) for slope in (from_u, from_l))
            slopes = torch.stack([first + k / STEPS * (last - first) for k in range(STEPS + 1)], 1)
            peaks, offset = self._peak(sign, slopes, l[:, None], u[:, None]), moved
            for k in range(STEPS + 1):  # between the two nearest of these lines
                offset = offset + (1 - (STEPS * t[:, i] - k).abs()).clamp(min=0) * peaks[:, k]
            found += [sign * (first + t[:, i] * (last - first)), sign * offset]
        return Lines(*found)

    def size(self, z: Tensor) -> Tensor:
        return 2 * self.other + 4 * self.steep * z

    def rounded(self, z: Tensor) -> Tensor:
        return self.other + self.steep * z

    def _moved(self, l: Tensor, u: Tensor) -> Tensor:
        return MOVED * (self.other + self.steep * (l.abs() + u.abs()))

    def _peak(self, sign: int, slope: Tensor, l: Tensor, u: Tensor) -> Tensor:
        """At least sign F(z) - slope z on [l, u]."""

        def g(z: Tensor) -> Tensor:
            return sign * self.of(z) - slope * z

        found = [g(l), g(u)]
        for left, right, bend in self.parts:
            a, b = _cut(left, l, u), _cut(right, l, u)
            found += [g(a), g(b)]
            if sign * bend >= 0:
                continue
            for _ in range(SECTIONS):
                c, d = b - GOLDEN * (b - a), a + GOLDEN * (b - a)
                in_left = g(c) >= g(d)
                a, b = torch.where(in_left, a, c), torch.where(in_left, d, b)
            middle = g((a + b) / 2)
            found.append(middle + (middle - torch.minimum(g(a), g(b))).clamp(min=0))
        return torch.stack(torch.broadcast_tensors(*found)).amax(0)

    def _hull(self, sign: int, end: Tensor, far: Tensor) -> Tensor:
        """The slope at `end` of the least concave function above sign F between the two: the largest of (sign F(z) -
        sign F(end)) / (z - end) if `end` is on the left, the smallest if it is on the right."""
        l, u = torch.minimum(end, far), torch.maximum(end, far)

        def chord(z: Tensor) -> Tensor:
            apart = z - end
            near = apart.abs() < NEAR  # where a difference of values would be all roundings
            rise = (self.of(z) - self.of(end)) / torch.where(near, 1.0, apart)
            return sign * torch.where(near, self._derivative((z + end) / 2), rise)

        found, at_end = [chord(far)], self.of(end)
        for left, right, bend in self.parts:
            a, b = _cut(left, l, u), _cut(right, l, u)
            found += [chord(a), chord(b)]
            if sign * bend < 0:
                for _ in range(HALVINGS):
                    middle = (a + b) / 2
                    rise = self._derivative(middle) * (middle - end) - (self.of(middle) - at_end)
                    steeper = sign * torch.where(middle > end, rise, -rise) > 0  # than the chord
                    a, b = torch.where(steeper, middle, a), torch.where(steeper, b, middle)
                found.append(chord(torch.where((a == end) | (b == end), end, (a + b) / 2)))
        every = torch.stack(torch.broadcast_tensors(*found))
        return torch.where(end <= far, every.amax(0), every.amin(0))

    def _derivative(self, z: Tensor) -> Tensor:
        return derivative(self.of)(z)


def derivative(function: Function) -> Function:
    """By automatic differentiation."""

    def at(z: Tensor) -> Tensor:
        value, pull = torch.func.vjp(function, z)[:2]
        return pull(torch.ones_like(value))[0]

    return at


def _cut(point: float, l: Tensor, u: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(torch.full_like(l, point), l), u)


def _waving(function: Function, steep: float) -> Curve:
    """A function that is concave, convex and concave again, and convex at 0, like GELU, SiLU and Mish."""
    turn = derivative(derivative(function))
    points = list[float]()
    for outer in (-3.0, 3.0):
        inner = 0.0
        while (middle := (inner + outer) / 2) not in (inner, outer):
            bent = float(turn(torch.tensor(middle, dtype=torch.float64)))
            inner, outer = (middle, outer) if bent > 0 else (inner, middle)
        points.append(inner)
    return Curve(function, (points[0], points[1]), (-1, 1, -1), steep)


@lru_cache(maxsize=1)
def _waves() -> dict[str, Curve]:
    return {
        "none": _waving(functional.gelu, 1.13),
        "tanh": _waving(lambda z: functional.gelu(z, approximate="tanh"), 1.13),
        "silu": _waving(functional.silu, 1.1),
        "mish": _waving(functional.mish, 1.09),
    }


def _elu(alpha: float = 1.0, scale: float = 1.0, within: float = 1.0) -> Curve:
    if not (math.isfinite(alpha) and 0 < scale < math.inf and 0 < within < math.inf):
        raise ValueError(f"elu with the parameters {alpha}, {scale} and {within}")

    def value(z: Tensor) -> Tensor:
        return torch.where(z > 0, scale * z, scale * alpha * torch.expm1(within * torch.where(z > 0, 0.0, z)))

    bends = ((alpha > 0) - (alpha < 0), 0)
    return Curve(value, (0.0,), bends, max(scale, abs(scale * alpha * within)), abs(scale * alpha))


def _softplus(beta: float = 1.0, threshold: float = 20.0) -> Curve:
    """log(1 + exp(beta z)) / beta, which torch computes for beta z up to the threshold; beyond it returns z."""
    if not (0 < beta < math.inf and threshold >= 20):
        raise ValueError(f"softplus with beta {beta} and threshold {threshold}")
    return Curve(lambda z: torch.logaddexp(beta * z, torch.zeros_like(z)) / beta, (), (1,), 1.0, 1 / beta)


def _hardswish(z: Tensor) -> Tensor:
    return torch.where(z < -3, 0.0 * z, torch.where(z > 3, z, z * (z + 3) / 6))


CURVES: dict[str, Callable[..., Any]] = {
    "celu": lambda alpha=1.0: _elu(alpha, 1.0, 1 / alpha),
    "elu": _elu,
    "gelu": lambda approximate="none": _waves()[approximate],
    "hardswish": lambda: Curve(_hardswish, (-3.0, 3.0), (0, 1, 0), 1.5, 0.0),
    "log_sigmoid_forward": lambda: Curve(functional.logsigmoid, (), (-1,)),
    "mish": lambda: _waves()["mish"],
    "sigmoid": lambda: Curve(torch.sigmoid, (0.0,), (1, -1), 0.25),
    "silu": lambda: _waves()["silu"],
    "softplus": _softplus,
    "softsign": lambda: Curve(lambda z: z / (1 + z.abs()), (0.0,), (1, -1)),
    "tanh": lambda: Curve(torch.tanh, (0.0,), (1, -1)),
}
