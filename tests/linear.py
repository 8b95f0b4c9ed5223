"""A linear two-class model, for which every attack's right answer is known for every l_p.

With m(x) = w.x + b the margin of the other class, the radius is |m| / ||w||_q and the worst margin in a ball of
radius r is m + r ||w||_q, 1/p + 1/q = 1; for p < 1 as for p = 1, since one pixel alone is then the cheapest. Images are
kept clear of the walls.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

FARTHEST = 0.3  # a single pixel's way to the boundary, from near the middle of the box


class Model(nn.Module):
    """Logits level -+ s / 2 with s = w.x + b, pixels counted from the middle of the box; further classes 3 below."""

    def __init__(self, w: Tensor, b: float, classes: int, bounds: tuple[float, float], level: float):
        super().__init__()
        self.w, self.b, self.level = nn.Parameter(w, requires_grad=False), b, level
        self.middle, self.span = sum(bounds) / 2, bounds[1] - bounds[0]
        self.register_buffer("others", level - 3 - torch.arange(classes - 2, dtype=w.dtype))

    def forward(self, x: Tensor) -> Tensor:
        s = ((x.flatten(1) - self.middle) / self.span * self.w).sum(1, keepdim=True) + self.b
        return torch.cat([self.level - s / 2, self.level + s / 2, self.others.expand(len(x), -1)], 1)


@dataclass(frozen=True)
class Linear:
    """The model, images x (b, *image) classified rightly, their labels y (b,) and margins (b,), all negative."""

    model: Model
    x: Tensor
    y: Tensor
    margin: Tensor
    span: float

    def dual(self, p: float) -> float:
        """||w||_q."""
        q = math.inf if p <= 1 else 1.0 if p == math.inf else p / (p - 1)
        return float(torch.linalg.vector_norm(self.model.w.double(), ord=q)) / self.span

    def radius(self, p: float) -> Tensor:
        """The exact robustness radius of each image.  (b,)"""
        return -self.margin / self.dual(p)

    def worst(self, p: float, radius: Tensor) -> Tensor:
        """The largest margin in the ball of that radius about each image.  (b,)"""
        return self.margin + radius * self.dual(p)


def linear(
    b: int = 6,
    shape: tuple[int, ...] = (3, 4, 4),
    classes: int = 2,
    bounds: tuple[float, float] = (0.0, 1.0),
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    level: float = 3.0,
) -> Linear:
    """b images of either class in turn, their l_1 radius between FARTHEST / 10 and FARTHEST, in units of the box."""
    generator = torch.Generator().manual_seed(seed)
    w, bias = torch.randn(math.prod(shape), generator=generator, dtype=torch.float64), 0.1
    away = 0.1 * torch.rand(b, math.prod(shape), generator=generator, dtype=torch.float64) - 0.05
    y = torch.arange(b) % 2
    target = FARTHEST * float(w.abs().max()) * (0.1 + 0.9 * torch.rand(b, generator=generator, dtype=torch.float64))
    s = torch.where(y == 0, -target, target)
    away = away + ((s - bias - away @ w) / (w @ w))[:, None] * w
    low, high = bounds
    x = ((low + high) / 2 + (high - low) * away).to(dtype).view(b, *shape)
    return Linear(Model(w.to(dtype), bias, classes, bounds, level).eval(), x, y, -target, high - low)
