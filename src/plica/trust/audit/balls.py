"""The ball around an image, cut by the box, and bounds of linear functions over it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

TURNS = 12  # of the fixed point for the multiplier of an l_2 ball


@dataclass(frozen=True, eq=False)
class Ball:
    """||weights (x' - x)||_p <= radius for p = inf, 2 or 1, and low <= x' <= high; tensors are (1, n), in float64."""

    x: Tensor
    low: Tensor
    high: Tensor
    radius: float
    p: float
    weights: Tensor  # positive and finite

    @classmethod
    def around(
        cls, x: Tensor, low: Tensor, high: Tensor, radius: float, p: float, weights: Tensor | None = None
    ) -> Ball:
        """The ball; its box is cut to the ball's extent plus a unit of rounding. Entries of weight inf are fixed."""
        weights = torch.ones_like(x) if weights is None else weights.expand_as(x)
        x, low, high, weights = (part.double().reshape(1, -1) for part in (x, low, high, weights))
        fixed, infinity = weights.isinf(), torch.full_like(x, torch.inf)
        extent = torch.nextafter(radius / weights, infinity)
        low = torch.where(fixed, x, torch.maximum(low, torch.nextafter(x - extent, -infinity)))
        high = torch.where(fixed, x, torch.minimum(high, torch.nextafter(x + extent, infinity)))
        return cls(x, low, high, radius, p, torch.where(fixed, 1.0, weights))

    def least(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """A lower bound of <a, x'> for each row of a (r, n), and the sum of the absolute values of its terms."""
        below, above = self.low - self.x, self.high - self.x
        corner = torch.where(a > 0, below, above)
        terms = (a.abs() * (self.x.abs() + torch.maximum(-below, above))).sum(1)
        free = (a * self.x).sum(1) + (a * corner).sum(1)  # of the box alone
        if self.p == math.inf or math.isinf(self.radius):
            return free, terms
        scaled, *walls = a / self.weights, *(wall * self.weights for wall in (below, above, corner))
        value, price = (self._least2 if self.p == 2 else self._least1)(scaled, *walls)
        value = (a * self.x).sum(1) + value
        return torch.maximum(free, value), terms + price

    def _least2(self, a: Tensor, below: Tensor, above: Tensor, corner: Tensor) -> tuple[Tensor, Tensor]:
        """max over some m > 0 of min over the box of <a, u> + m (|u|^2 - radius^2) / 2."""
        square = self.radius**2
        m = a.norm(dim=1, keepdim=True) / max(self.radius, 1e-300)
        best, price = a.new_full((len(a),), -torch.inf), a.new_zeros(len(a))
        for _ in range(TURNS):
            m = m.clamp(min=1e-300)
            u = torch.minimum(torch.maximum(-a / m, below), above)
            bent = (m / 2 * u * u).sum(1)
            value = (a * u).sum(1) + bent - m[:, 0] / 2 * square
            price = torch.where(value > best, bent + m[:, 0] / 2 * square, price)
            best = torch.maximum(best, value)
            inside = (u > below) & (u < above)
            left = square - torch.where(inside, 0.0, u * u).sum(1, keepdim=True)
            m = torch.where(inside, a, 0.0).norm(dim=1, keepdim=True) / left.clamp(min=1e-12 * square).sqrt()
        return best, price

    def _least1(self, a: Tensor, below: Tensor, above: Tensor, corner: Tensor) -> tuple[Tensor, Tensor]:
        """The same for |u|_1, at the best m: that of the entry at which the largest |a| have used up the radius."""
        reach = corner.abs()
        gain, order = torch.where(reach > 0, a.abs(), 0.0).sort(dim=1, descending=True)
        enough = reach.expand_as(a).gather(1, order).cumsum(1) >= self.radius
        first = enough.int().argmax(1, keepdim=True)
        m = torch.where(enough.any(1, keepdim=True), gain.gather(1, first), 0.0)
        u = torch.where(a.abs() > m, corner, 0.0)
        paid = (m * u.abs()).sum(1)
        return (a * u).sum(1) + paid - m[:, 0] * self.radius, paid + m[:, 0] * self.radius
