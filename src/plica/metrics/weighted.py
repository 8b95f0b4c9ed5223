"""Weighted l_p distances: some pixels change at lower cost than others, or not at all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plica.metrics.base import LpForm, Metric, MetricProperties
from plica.metrics.combine import Combinable
from plica.metrics.lp import Lp, norm


@dataclass(frozen=True, eq=False)
class WeightedLp(Combinable):
    """d(x, x') = ||w (x' - x)||_p: pixels of small weight change at lower cost; those of weight inf must not change.

    Args:
        p: a number > 0 or "inf".
        weights: w > 0 of the shape of an image, or one that expands to it; where a pixel with weight inf has
            changed, the distance is inf.
    """

    p: float
    weights: Float[Tensor, "*image"]
    _some_are_fixed: bool = field(init=False, repr=False)

    def __init__(self, p: int | float | str, weights: Any):  # weights: a Tensor, which is checked below
        object.__setattr__(self, "p", Lp(p).p)
        if not self.p:
            raise ValueError("WeightedLp(p, weights) needs p > 0: a count has no weights. For fixed pixels write "
                             "plica.Held(plica.Lp(0), pixels).")  # fmt: skip
        if not isinstance(weights, Tensor):
            raise TypeError(f"WeightedLp(weights=...) must be a tensor, got {type(weights).__name__}; "
                            "write torch.as_tensor(weights).")  # fmt: skip
        if not bool((weights > 0).all()) or not bool(weights.isfinite().any()):
            raise ValueError("WeightedLp(weights=...) must be positive, inf for fixed pixels, and not all inf.")
        object.__setattr__(self, "weights", weights)
        # looked up once: on a GPU each look waits for the device
        object.__setattr__(self, "_some_are_fixed", bool(weights.isinf().any()))

    def __str__(self) -> str:
        return f"weighted l{self.p:g}"

    def __call__(self, x: Float[Tensor, "b *image"], x_adv: Float[Tensor, "b *image"]) -> Float[Tensor, " b"]:
        weights, delta = self.weights.to(x), x_adv - x
        if not self._some_are_fixed:
            return norm((delta * weights).flatten(1), self.p)
        fixed = weights.isinf()
        # inf * 0 is nan, in the gradient too: a fixed pixel that has not moved adds 0 to the norm and to its gradient
        moved = (fixed & (delta != 0)).flatten(1).any(1)
        return torch.where(moved, torch.inf, norm((delta * weights.masked_fill(fixed, 0)).flatten(1), self.p))

    @property
    def properties(self) -> MetricProperties:
        return MetricProperties(norm=self.p >= 1, prox=True, scale_free=True)

    def lp_form(self) -> LpForm:
        return LpForm(self.p, self.weights)

    def fixed_pixels(self) -> Bool[Tensor, "..."] | None:
        return self.weights.isinf() if self._some_are_fixed else None


def Weighted(metric: Metric, weights: Float[Tensor, "*image"]) -> WeightedLp:  # noqa: N802 - reads as the others do
    """||w (x' - x)||_p for metric = Lp(p): the same as WeightedLp(p, w)."""
    if not isinstance(metric, Lp):
        raise TypeError(f"Weighted(metric, weights) takes an l_p norm, such as plica.Lp(2), got {metric}; for "
                        "fixed pixels under any distance use plica.Held(metric, pixels).")  # fmt: skip
    return WeightedLp(metric.p, weights)
