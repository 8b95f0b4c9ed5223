"""Weighted l_p distances: pixels that may move more cheaply, or not at all."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from plica.metrics.lp import Lp, norm
from plica.metrics.mixtures import Combines


@dataclass(frozen=True, eq=False)
class WeightedLp(Combines):
    """d(x, x') = ||w (x' - x)||_p: pixels that may move more cheaply, or not at all.

    Args:
        p: a number > 0 or "inf".
        weights: w > 0 of the shape of an image, or one that expands to it; inf holds a pixel fixed.
    """

    p: float
    weights: Float[Tensor, "*image"]

    def __init__(self, p: int | float | str, weights: Tensor):
        object.__setattr__(self, "p", Lp(p).p)
        if not bool((weights > 0).all()) or not bool(weights.isfinite().any()):
            raise ValueError("WeightedLp(weights=...) must be positive, inf for pixels that stay, and not all inf.")
        object.__setattr__(self, "weights", weights)

    def __str__(self) -> str:
        return f"weighted l{self.p:g}"

    def __call__(self, x: Float[Tensor, "b *image"], x_adv: Float[Tensor, "b *image"]) -> Float[Tensor, " b"]:
        weights, delta = self.weights.to(x), x_adv - x
        fixed = weights.isinf()
        if not bool(fixed.any()):
            return norm((delta * weights).flatten(1), self.p)
        # inf * 0 is nan, in the gradient too: a fixed pixel costs nothing while it stays, and has no pull
        moved = (fixed & (delta != 0)).flatten(1).any(1)
        return torch.where(moved, torch.inf, norm((delta * weights.masked_fill(fixed, 0)).flatten(1), self.p))
