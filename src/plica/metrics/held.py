"""Any metric with pixels that must not change."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plica.metrics.base import (
    BaseMetric,
    Count,
    LpForm,
    MetricProperties,
    counts,
    differentiable_value,
    lp_form,
    properties,
)
from plica.metrics.combine import Combinable


@dataclass(frozen=True, eq=False)
class Held(Combinable):
    """metric(x, x') where the fixed pixels of x' equal those of x exactly; inf where one does not.

    Searches change the other pixels only. An l_p norm becomes one with weight inf there, and keeps its prox.

    Args:
        metric: any distance.
        pixels: True for fixed pixels, of the shape of an image or one that expands to it. With a leading axis b those
            of each image, where it is the whole distance of a question of `plica.attack`.
    """

    metric: Any  # a Metric, which is checked below
    pixels: Tensor

    def __post_init__(self):
        if not isinstance(self.pixels, Tensor) or self.pixels.dtype != torch.bool or bool(self.pixels.all()):
            seen = str(self.pixels.dtype) if isinstance(self.pixels, Tensor) else type(self.pixels).__name__
            raise ValueError(
                "Held(metric, pixels) takes a tensor of bool, True for pixels that stay, not all of them, got "
                f"{'all of them' if seen == 'torch.bool' else seen}."
            )
        if not callable(self.metric):
            raise TypeError(f"Held(metric, pixels) takes a callable d(x, x_adv) -> (b,), got {self.metric!r}.")
        try:
            self.lp_form()
        except RuntimeError:
            raise ValueError(
                f"Held({self.metric}, pixels) needs pixels and weights of one image, got pixels of shape "
                f"{tuple(self.pixels.shape)} and weights of another."
            ) from None

    def __str__(self) -> str:
        return f"held {self.metric}"

    def __call__(self, x: Float[Tensor, "b *image"], x_adv: Float[Tensor, "b *image"]) -> Float[Tensor, " b"]:
        fixed = self.pixels.to(x.device)
        moved = (fixed & (x_adv != x)).flatten(1).any(1)
        return torch.where(moved, torch.inf, differentiable_value(self.metric, x, torch.where(fixed, x, x_adv)))

    @property
    def properties(self) -> MetricProperties:
        return replace(properties(self.metric), prox=self.lp_form() is not None, batch_invariant=False)

    def lp_form(self) -> LpForm | None:
        form = lp_form(self.metric)
        if form is None:
            return None
        weights = torch.ones(self.pixels.shape, device=self.pixels.device) if form.weights is None else form.weights
        return LpForm(form.p, torch.where(self.pixels, torch.inf, weights.to(self.pixels.device)))

    def counts(self) -> Count | None:
        return counts(self.metric)

    def fixed_pixels(self) -> Bool[Tensor, "..."]:
        inner = self.metric.fixed_pixels() if isinstance(self.metric, BaseMetric) else None
        return self.pixels if inner is None else self.pixels | inner.to(self.pixels.device)
