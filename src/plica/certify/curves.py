"""Curved activations between two lines, by where they are convex and concave: sigmoid, tanh, GELU, Softplus and others.

A line of slope s lies above F on [l, u] from the offset max F(z) - s z on. On a part where F is convex, that is largest
at an end of the part; where F is concave, at the point where F' = s, which bisection encloses in [a, b]; there it is
not above the tangent in the middle m, F(m) - s m + |F'(m) - s| (b - a) / 2. So every slope gives a valid line. Good
ones are those of the concave hull of F on [l, u]: from the steepest chord that begins at l to the least steep one that
ends at u. Offsets are computed for some of them; a mix of two lines above F lies above F. Lower lines are those above
-F, turned round.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from plica.certify.certificate import STEPS
from plica.certify.relax import Activation, Lines

GAPS = 51  # intervals between the slopes whose offsets are computed
BISECTIONS = 20
NEAR = 1e-4  # the slope of a chord between points nearer than this would be dominated by rounding errors
# of the values by which lines are moved outward: far more than the roundings of F, of F' and of a line in float64, and
# than what F lacks of being convex or concave between a point of inflection and the number nearest to it
MOVED = 2.0**-44


class Ready(NamedTuple):
    """Of lines above -F and above F: the least slope, by how much the steepest is steeper, (r, 2, *z), and the offsets
    of GAPS + 1 slopes from the one to the other, (r, 2, GAPS + 1, *z)."""

    least: Tensor
    steeper: Tensor
    offsets: Tensor


@dataclass(frozen=True)
class Curve(Activation):
    """An activation F and where it is convex and concave.

    Attributes:
        name: for messages.
        value: F.
        slope: its derivative; where there are two, either.
        breaks: where F bends the other way, or has a kink, in ascending order.
        bends: of the parts between them, 1 where F is convex, -1 where it is concave, 0 where it is straight.
        steepest: at least |F'|.
        unit: at least |F(0)|, and absolute values inside of F beyond steepest |z| that are rounded.
    """

    name: str
    value: Callable[[Tensor], Tensor] = field(repr=False)
    slope: Callable[[Tensor], Tensor] = field(repr=False)
    breaks: tuple[float, ...] = field(repr=False)
    bends: tuple[int, ...] = field(repr=False)
    steepest: float = field(repr=False, default=1.0)
    unit: float = field(repr=False, default=1.0)

    def forward(self, z: Tensor) -> Tensor:
        return self.value(z)

    def interval(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        flat, moved = torch.zeros_like(low), self._moved(low, high)
        least, most = (self._offset(sign, flat, low, high) for sign in (-1, 1))
        return -least - moved, most + moved

    def start(self, low: Tensor, high: Tensor) -> Tensor:
        """Lines that touch F in the middle between the points where the steepest and the least steep one do."""
        slopes, touching = self._hulls(low, high)
        signs = torch.tensor([-1, 1], device=low.device).view(-1, *[1] * (low.ndim - 1))
        middle = signs * self.slope((touching[0] + touching[1]) / 2)
        least, steeper = slopes[0], slopes[1] - slopes[0]
        share = (middle - least) / torch.where(steeper > 0, steeper, 1)
        return (share.clamp(0, 1) * STEPS).round() / STEPS

    def prepare(self, low: Tensor, high: Tensor) -> Ready:
        (least, steepest), _ = self._hulls(low, high)
        steeper = steepest - least
        shares = torch.linspace(0, 1, GAPS + 1, dtype=low.dtype, device=low.device)
        shares = shares.view(-1, *[1] * (low.ndim - 1))
        moved, offsets = self._moved(low, high), []
        for i, sign in enumerate((-1, 1)):
            slopes = least[:, i, None] + shares * steeper[:, i, None]
            offsets.append(self._offset(sign, slopes, low[:, None], high[:, None]) + moved[:, None])
        return Ready(least, steeper, torch.stack(offsets, 1))

    def lines(self, prepared: Ready, parameter: Tensor) -> Lines:
        """Lines between those whose offsets are known."""
        least, steeper, offsets = prepared
        place = parameter * GAPS
        before = place.detach().nan_to_num().floor().clamp(0, GAPS - 1)
        known = offsets.expand(len(parameter), *offsets.shape[1:])
        first, second = (known.gather(2, (before.long() + step)[:, :, None])[:, :, 0] for step in (0, 1))
        below, above = (first + (place - before) * (second - first)).unbind(1)
        down, up = (least + parameter * steeper).unbind(1)
        return Lines(-down, -below, up, above)

    def magnitude(self, z: Tensor) -> Tensor:
        return 2 * self.unit + 4 * self.steepest * z

    def rounded(self, z: Tensor) -> Tensor:
        return self.unit + self.steepest * z

    def _moved(self, low: Tensor, high: Tensor) -> Tensor:
        return MOVED * (self.unit + self.steepest * (low.abs() + high.abs()))

    def _hulls(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Of the concave hulls of -F and F on [low, high]: the slopes at `high` and at `low`, which are the least and
        the largest, and where lines of these slopes touch; (2, r, 2, *z)."""
        found = [[self._hull(sign, low, high, end) for sign in (-1, 1)] for end in (high, low)]
        slopes, touching = (torch.stack([torch.stack([one[i] for one in both], 1) for both in found]) for i in (0, 1))
        return slopes.clamp(-self.steepest, self.steepest), touching

    def _chord(self, z: Tensor, end: Tensor) -> Tensor:
        """The slope between two points; where they are so near that it would be all roundings, in the middle."""
        width = z - end
        near = width.abs() < NEAR
        chord = (self.value(z) - self.value(end)) / torch.where(near, 1, width)
        return torch.where(near, self.slope((z + end) / 2), chord)

    def _offset(self, sign: int, slope: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """At least sign F(z) - slope z for all z in [low, high]."""

        def above(z: Tensor) -> Tensor:
            return sign * self.value(z) - slope * z

        most = torch.maximum(above(low), above(high))
        for at in self.breaks:
            most = torch.maximum(most, above(_within(low, high, at)))
        for a, b in self._concave(sign, low, high, lambda z: sign * self.slope(z) > slope):
            z = (a + b) / 2
            most = torch.maximum(most, above(z) + (sign * self.slope(z) - slope).abs().detach() * (b - a) / 2)
        return most

    def _hull(self, sign: int, low: Tensor, high: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        """The slope of the concave hull of sign F at one end of [low, high]: that of the steepest chord from `low`, or
        of the least steep one to `high`; and the other point of the chord. Nothing rests on their being right but how
        near the lines are."""
        way, at = (sign, high) if end is low else (-sign, low)
        at_end, slope = self.value(end), way * self._chord(at, end)

        def rises(z: Tensor) -> Tensor:  # whether sign F' exceeds the slope of the chord
            return way * (self.slope(z) * (z - end) - (self.value(z) - at_end)) > 0

        others = [_within(low, high, point) for point in self.breaks]
        for a, b in self._concave(sign, low, high, rises):
            others.append(torch.where((a == end) | (b == end), end, (a + b) / 2))
        for other in others:
            chord = way * self._chord(other, end)
            better = chord > slope
            slope, at = torch.where(better, chord, slope), torch.where(better, other, at)
        return (slope if end is low else -slope), at

    @torch.no_grad()
    def _concave(
        self, sign: int, low: Tensor, high: Tensor, rises: Callable[[Tensor], Tensor]
    ) -> list[tuple[Tensor, Tensor]]:
        """For each part of [low, high] where sign F is concave, around the point behind which it rises no longer; at
        one end of the part where there is none."""
        found = []
        for first, last, bend in zip((-math.inf, *self.breaks), (*self.breaks, math.inf), self.bends, strict=True):
            if sign * bend >= 0:
                continue
            a, b = _within(low, high, first), _within(low, high, last)
            for _ in range(BISECTIONS):
                middle = (a + b) / 2
                up = rises(middle)
                a, b = torch.where(up, middle, a), torch.where(up, b, middle)
            found.append((a, b))
        return found


def _within(low: Tensor, high: Tensor, at: float) -> Tensor:
    return torch.minimum(torch.maximum(torch.full_like(low, at), low), high)


def _silu_slope(z: Tensor) -> Tensor:
    return torch.sigmoid(z) * (1 + z * torch.sigmoid(-z))


def _mish_slope(z: Tensor) -> Tensor:
    t = torch.tanh(functional.softplus(z))
    return t + z * (1 - t * t) * torch.sigmoid(z)


def _gelu_slope(z: Tensor) -> Tensor:
    return (1 + torch.erf(z / math.sqrt(2))) / 2 + z * torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def _gelu_tanh_slope(z: Tensor) -> Tensor:
    root, cube = math.sqrt(2 / math.pi), 0.044715
    t = torch.tanh(root * (z + cube * z * z * z))
    return (1 + t) / 2 + z / 2 * (1 - t * t) * root * (1 + 3 * cube * z * z)


def _tanh_slope(z: Tensor) -> Tensor:
    t = torch.tanh(z)
    return 1 - t * t


# SiLU, Mish and GELU are concave, convex and concave: signs of their second derivatives are those of 2 - z tanh(z / 2);
# of Q / P + z or its negative, a fraction of polynomials in exp(z) and monotone to either side of its pole; of 2 - z^2;
# and, with w = 3 c z^2, of 1 - w^2 / (1 + w)^2 less a multiple of z tanh(...), which rises with |z|
SIGMOID = Curve("sigmoid", torch.sigmoid, lambda z: torch.sigmoid(z) * torch.sigmoid(-z), (0.0,), (1, -1), 0.25)
TANH = Curve("tanh", torch.tanh, _tanh_slope, (0.0,), (1, -1))
SILU = Curve("silu", functional.silu, _silu_slope, (-2.3993572805154677, 2.3993572805154677), (-1, 1, -1), 1.1)
MISH = Curve("mish", functional.mish, _mish_slope, (-2.2563763963607931, 1.4905711794854285), (-1, 1, -1), 1.09)
GELU = Curve("gelu", functional.gelu, _gelu_slope, (-math.sqrt(2), math.sqrt(2)), (-1, 1, -1), 1.13)
GELU_TANH = Curve(
    "gelu by tanh", partial(functional.gelu, approximate="tanh"), _gelu_tanh_slope,
    (-1.4185040087908284, 1.4185040087908284), (-1, 1, -1), 1.13,
)  # fmt: skip
SOFTSIGN = Curve("softsign", functional.softsign, lambda z: (1 + z.abs()) ** -2, (0.0,), (1, -1))
LOG_SIGMOID = Curve("log_sigmoid", functional.logsigmoid, lambda z: torch.sigmoid(-z), (), (-1,))
HARDSWISH = Curve(
    "hardswish", functional.hardswish,
    lambda z: torch.where(z < -3, 0, torch.where(z > 3, 1, z / 3 + 0.5)), (-3.0, 3.0), (0, 1, 0), 1.5,
)  # fmt: skip


def softplus(beta: float = 1.0) -> Curve:
    """log(1 + exp(beta z)) / beta, for a positive beta."""
    return Curve(
        f"softplus {beta:g}", lambda z: -functional.logsigmoid(-beta * z) / beta, lambda z: torch.sigmoid(beta * z),
        (), (1,), unit=1 / beta,
    )  # fmt: skip


def elu(alpha: float = 1.0, scale: float = 1.0, within: float = 1.0) -> Curve:
    """scale z for z > 0, else scale alpha (exp(within z) - 1), for positive scale and within."""
    steep = scale * alpha * within
    return Curve(
        f"elu {alpha:g} {scale:g} {within:g}", lambda z: torch.ops.aten.elu(z, alpha, scale, within),
        lambda z: torch.where(z > 0, scale, steep * torch.exp(within * z.clamp(max=0))), (0.0,),
        (0 if alpha == 0 else 1 if alpha > 0 else -1, 0), max(scale, abs(steep)), abs(scale * alpha),
    )  # fmt: skip
