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
        """The inputs of which tighter bounds would tighten the lines."""
        return high > low

    def start(self, low: Tensor, high: Tensor) -> Tensor:
        """The initial parameter, (r, *shape of the parameter)."""
        raise NotImplementedError

    def prepare(self, low: Tensor, high: Tensor) -> Any:
        """What the lines over [low, high] have in common for every parameter."""
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
        """Absolute values, for |input| <= z, such that a few units of rounding of them exceed the error of computing f;
        None if an output is one of the inputs, or 0."""
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
