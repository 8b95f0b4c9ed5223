"""Any distance with pixels that must not move."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plica.metrics.base import Metric
from plica.metrics.lp import Lp
from plica.metrics.mixtures import Combines
from plica.metrics.weighted import WeightedLp


@dataclass(frozen=True, eq=False)
class Held(Combines):
    """metric(x, x') where the held pixels of x' are those of x, to the last bit; inf where one is not.

    Searches move the other pixels only. An l_p norm so held is asked as a WeightedLp that weighs inf there.

    Args:
        metric: any distance.
        pixels: True for those that stay, of the shape of an image or one that expands to it.
    """

    metric: Any  # a Metric; checked here, with a sentence
    pixels: Tensor

    def __post_init__(self):
        if not isinstance(self.pixels, Tensor) or self.pixels.dtype != torch.bool or bool(self.pixels.all()):
            raise ValueError("Held(metric, pixels) takes a tensor of bool, True for pixels that stay, not all of them.")
        if not callable(self.metric):
            raise TypeError(f"Held(metric, pixels) takes a callable d(x, x_adv) -> (b,), got {self.metric!r}.")

    @property
    def plain(self) -> Metric:
        """The same distance as a WeightedLp where it is one, which has a prox."""
        if not isinstance(self.metric, Lp | WeightedLp):
            return self
        weights = self.metric.weights if isinstance(self.metric, WeightedLp) else torch.ones(self.pixels.shape)
        return WeightedLp(self.metric.p, torch.where(self.pixels, torch.inf, weights.to(self.pixels.device)))

    def __str__(self) -> str:
        return f"held {self.metric}"

    @property
    def rooted(self) -> bool:
        return bool(getattr(self.metric, "rooted", False))

    def __call__(self, x: Float[Tensor, "b *image"], x_adv: Float[Tensor, "b *image"]) -> Float[Tensor, " b"]:
        stay = self.pixels.to(x.device).expand_as(x)
        moved = (stay & (x_adv != x)).flatten(1).any(1)
        return torch.where(moved, torch.inf, self.metric(x, torch.where(stay, x, x_adv)))


def Weighted(metric: Metric, weights: Float[Tensor, "*image"]) -> WeightedLp:  # noqa: N802 - reads as the others do
    """||w (x' - x)||_p for metric = Lp(p): what is WeightedLp(p, w)."""
    if not isinstance(metric, Lp):
        raise TypeError(f"Weighted(metric, weights) takes an l_p norm, such as plica.Lp(2), got {metric}; pixels that "
                        "must not move are held under every distance by plica.Held(metric, pixels).")  # fmt: skip
    return WeightedLp(metric.p, weights)


def held(metric: Metric, x: Float[Tensor, "b *image"]) -> Bool[Tensor, "*image"] | None:
    """The pixels of an image that the metric does not let move; None where it lets them all."""
    if isinstance(metric, Held):
        return metric.pixels.to(x.device).expand(x.shape[1:])
    if isinstance(metric, WeightedLp) and bool(metric.weights.isinf().any()):
        return metric.weights.isinf().to(x.device).expand(x.shape[1:])
    return None
