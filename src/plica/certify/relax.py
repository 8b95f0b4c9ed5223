"""Activations between two lines: for every z in [l, u],  low.slope z + low.offset <= f(z) <= up.slope z + up.offset.

CROWN (Zhang et al. 2018, table 2 and 3). Lines with a free parameter, a number in [0, 1] for each entry, are those that
alpha-CROWN optimises (Xu et al. 2021): any value gives valid lines. Offsets are moved outward by a few roundings of
float64, in which bounds are proved; a search in float32 is not held back by its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

MOVED = 32 * torch.finfo(torch.float64).eps  # of what makes a line, by which it is moved outward
BISECTIONS = 40
MIDDLE = 128 / 255  # about a half, and one of the parameters that can be stored


class Lines(NamedTuple):
    """Slopes and offsets of the lower and the upper line, of an activation's shape each, one row for each problem."""

    low_slope: Tensor
    low_offset: Tensor
    up_slope: Tensor
    up_offset: Tensor

    def take(self, rows: Tensor) -> Lines:
        return Lines(*(line[rows] for line in self))


class Activation:
    """An activation of each entry by itself."""

    splits = False  # whether the sign of an entry's input makes the entry linear

    def forward(self, z: Tensor) -> Tensor:
        raise NotImplementedError

    def interval(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """The range of an increasing function over [low, high]."""
        return self.forward(low), self.forward(high)

    def unstable(self, low: Float[Tensor, "r *z"], high: Float[Tensor, "r *z"]) -> Bool[Tensor, "r *z"]:
        """Inputs of which tighter bounds would tighten the lines."""
        return high > low

    def start(self, low: Tensor, high: Tensor) -> Tensor:
        """The parameter to begin with, (r, *shape of the parameter)."""
        raise NotImplementedError

    def prepare(self, low: Tensor, high: Tensor) -> Any:
        """What the lines over [low, high] share for every parameter."""
        raise NotImplementedError

    def lines(self, prepared: Any, parameter: Tensor) -> Any:
        raise NotImplementedError

    def backward(self, a: Tensor, lines: Any) -> tuple[Tensor, Tensor]:
        """Coefficients of the input and a constant (r,) so that <a, f(z)> >= <coefficients, z> + constant."""
        positive, negative = a.clamp(min=0), a.clamp(max=0)
        constant = (positive * lines.low_offset + negative * lines.up_offset).flatten(1).sum(1)
        return positive * lines.low_slope + negative * lines.up_slope, constant

    def magnitude(self, z: Tensor) -> Tensor:
        """At least |slope| z + |offset| of every line that `lines` can give, for |input| <= z."""
        raise NotImplementedError

    def rounded(self, z: Tensor) -> Tensor | None:
        """Absolute values, for |input| <= z, of which a few units of rounding are more than f is computed wrong by;
        None where an output is one of the inputs, or 0."""
        raise NotImplementedError


@dataclass(frozen=True)
class ReLU(Activation):
    """max(z, slope z), for a slope <= 1. Lower: any slope between, through 0. Upper: the chord."""

    slope: float = 0.0
    splits = True

    def forward(self, z: Tensor) -> Tensor:
        return torch.maximum(z, self.slope * z)

    def interval(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        ends = self.forward(low), self.forward(high)
        if self.slope >= 0:
            return ends
        least = torch.where(self.unstable(low, high), 0, torch.minimum(*ends))
        return least, torch.maximum(*ends)

    def unstable(self, low: Tensor, high: Tensor) -> Tensor:
        return (low < 0) & (high > 0)

    def start(self, low: Tensor, high: Tensor) -> Tensor:
        return (high > -low).to(low)

    def bent(self, a: Tensor, before: Tensor, lines: Any) -> tuple[Tensor, Tensor]:
        """Coefficients of the entries whose sign is open, or of more: of their outputs, and of their inputs."""
        return a, before

    def prepare(self, low: Tensor, high: Tensor) -> tuple[Tensor, Lines]:
        """Where the parameter counts, and the lines elsewhere."""
        mixed = self.unstable(low, high)
        width = torch.where(mixed, high - low, 1)
        slope = torch.full_like(low, self.slope)  # in the dtype of low: a bare number would be one of float32
        stable = torch.where(low >= 0, 1, torch.where(high <= 0, slope, torch.nan))  # nan stays nan
        chord = (high - self.slope * low) / width
        over = torch.where(mixed, (1 - self.slope) * -(low * high) / width, 0)
        moved = over + MOVED * torch.where(mixed, high - low, 0) * (1 + abs(self.slope))
        return mixed, Lines(stable, torch.zeros_like(low), torch.where(mixed, chord, stable), moved)

    def lines(self, prepared: tuple[Tensor, Lines], parameter: Tensor) -> Lines:
        mixed, lines = prepared
        slope = (self.slope + (1 - self.slope) * parameter).clamp(max=1) if self.slope else parameter
        return lines._replace(low_slope=torch.where(mixed, slope, lines.low_slope))

    def magnitude(self, z: Tensor) -> Tensor:
        return 3 * (1 + abs(self.slope)) * z

    def rounded(self, z: Tensor) -> Tensor | None:
        return abs(self.slope) * z if self.slope else None


class _Curve(NamedTuple):
    """f over an interval: whether its chord lies above it, the chord, and from where to where tangents do."""

    chord_is_above: Tensor
    chord: Tensor
    chord_offset: Tensor
    first: Tensor
    last: Tensor


@dataclass(frozen=True)
class Sigmoidal(Activation):
    """sigmoid or tanh: convex below 0, concave above, f(-z) = 2 f(0) - f(z).

    Upper: the chord where it lies above f, else a tangent at a point as far right as the parameter says. The lower line
    is the upper one of the mirrored function.
    """

    name: str = "sigmoid"

    def forward(self, z: Tensor) -> Tensor:
        return torch.sigmoid(z) if self.name == "sigmoid" else torch.tanh(z)

    def slope(self, z: Tensor) -> Tensor:
        f = self.forward(z)
        return f * (1 - f) if self.name == "sigmoid" else 1 - f * f

    def interval(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward(low) - MOVED, self.forward(high) + MOVED

    def start(self, low: Tensor, high: Tensor) -> Tensor:
        return torch.full((len(low), 2, *low.shape[1:]), MIDDLE, dtype=low.dtype, device=low.device)

    def prepare(self, low: Tensor, high: Tensor) -> tuple[_Curve, _Curve, Tensor]:
        """Of the mirrored function, of the function itself, and by how much lines are moved outward."""
        return self._curve(-high, -low), self._curve(low, high), MOVED * (1 + high.abs() + low.abs())

    def lines(self, prepared: tuple[_Curve, _Curve, Tensor], parameter: Tensor) -> Lines:
        mirrored, curve, moved = prepared
        slope, offset = self._upper(mirrored, parameter[:, 0])
        up_slope, up_offset = self._upper(curve, parameter[:, 1])
        middle = 1.0 if self.name == "sigmoid" else 0.0  # 2 f(0)
        return Lines(slope, middle - offset - moved, up_slope, up_offset + moved)

    def magnitude(self, z: Tensor) -> Tensor:
        return 4 + 3 * z  # slopes are at most 1, and tangents touch inside the interval

    def rounded(self, z: Tensor) -> Tensor:
        return torch.ones_like(z)

    def _curve(self, low: Tensor, high: Tensor) -> _Curve:
        f_low, width = self.forward(low), high - low
        chord = torch.where(width > 0, (self.forward(high) - f_low) / torch.where(width > 0, width, 1), 0)
        is_above = (high <= 0) | ((low < 0) & (self.slope(high) >= chord))
        return _Curve(is_above, chord, f_low - chord * low, self._first_tangent(low, high, f_low), high)

    def _upper(self, curve: _Curve, parameter: Tensor) -> tuple[Tensor, Tensor]:
        """Slope and offset of a line above f."""
        at = curve.first + parameter * (curve.last - curve.first)
        slope = torch.where(curve.chord_is_above, curve.chord, self.slope(at))
        return slope, torch.where(curve.chord_is_above, curve.chord_offset, self.forward(at) - slope * at)

    def _first_tangent(self, low: Tensor, high: Tensor, f_low: Tensor) -> Tensor:
        """The leftmost point of [max(low, 0), high] whose tangent lies above f at `low`, from the right by bisection;
        `high` where there is none."""
        left, right = low.clamp(min=0), high
        for _ in range(BISECTIONS):
            middle = (left + right) / 2
            above = self.forward(middle) + self.slope(middle) * (low - middle) >= f_low
            left, right = torch.where(above, left, middle), torch.where(above, middle, right)
        return torch.where(low >= 0, low, right)
