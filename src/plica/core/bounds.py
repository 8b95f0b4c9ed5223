"""Bounds of their own for every feature: the question is put in units of the box, where all features lie in [0, 1].

x = low + (high - low) u. An l_p norm of x is a weighted one of u; every other distance is asked at x. What is found is
taken back and judged anew at x, so that no rounding on the way counts as an answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from plica.core.formulations import MaxLoss, Question
from plica.core.judge import Judge, in_float64
from plica.core.losses import Targets
from plica.core.model import CountedModel
from plica.core.result import Result
from plica.metrics import BaseMetric, Metric, Unsupported, WeightedLp, differentiable_value, lp_form

Model = Callable[[Tensor], Tensor]
INSIDE = 4e-6  # of a radius, left free for the roundings of two changes of units
STRETCH = 1.001  # of a perturbation that rounding undid


class InUnits(nn.Module):
    """A model of x in [low, high] as one of u in [0, 1]."""

    low: Tensor
    span: Tensor

    def __init__(self, model: Model, low: Tensor, span: Tensor):
        super().__init__()
        self.model = model
        self.register_buffer("low", low)
        self.register_buffer("span", span)

    def forward(self, u: Float[Tensor, "b *image"]) -> Tensor:
        return self.model(self.low + self.span * u)


@dataclass(frozen=True, eq=False)
class MetricOfFeatures(BaseMetric):
    """A distance of x, asked in u."""

    metric: Metric
    box: Box

    def __call__(self, u: Tensor, v: Tensor) -> Tensor:
        return differentiable_value(self.metric, self.box.features(u), self.box.features(v))

    def fixed_pixels(self) -> Bool[Tensor, "..."] | None:
        return self.metric.fixed_pixels() if isinstance(self.metric, BaseMetric) else None


@dataclass(frozen=True, eq=False)
class Box:
    """low <= high, each of the shape of an image; a feature whose bounds are equal does not move."""

    low: Float[Tensor, "*image"]
    high: Float[Tensor, "*image"]

    @property
    def span(self) -> Float[Tensor, "*image"]:
        return self.high - self.low

    def units(self, x: Float[Tensor, "b *image"]) -> Float[Tensor, "b *image"]:
        return ((x - self.low) / torch.where(self.span > 0, self.span, 1)).clamp(0, 1)

    def features(self, u: Float[Tensor, "b *image"]) -> Float[Tensor, "b *image"]:
        return self.low.to(u) + self.span.to(u) * u

    def metric(self, metric: Metric) -> Metric:
        """The same distance, of u."""
        form = lp_form(metric)
        if form is None:
            return MetricOfFeatures(metric, self)
        weights = torch.ones_like(self.span) if form.weights is None else form.weights
        return WeightedLp(form.p, torch.where(self.span > 0, weights.to(self.span) * self.span, torch.inf))


def read_box(bounds: tuple[Any, Any], x: Float[Tensor, "b *image"]) -> Box:
    """The box of bounds that are numbers or tensors that expand to the shape of an image.

    Raises:
        ValueError: they have another shape, low is above high somewhere or everywhere equal to it, or x lies outside.
    """
    shape = x.shape[1:]
    try:
        low, high = (torch.as_tensor(bound).to(x).expand(shape) for bound in bounds)
    except (RuntimeError, TypeError, ValueError):
        raise ValueError(f"bounds must be two tensors (low, high) of an image's shape {tuple(shape)}.") from None
    if not bool((low <= high).all()) or not bool((low < high).any()) or not bool((high - low).isfinite().all()):
        raise ValueError("bounds must be finite, with low <= high for every feature and low < high for one at least.")
    outside = ~((x >= low) & (x <= high))
    if bool(outside.any()):
        where = outside.flatten(1).any(0).nonzero()[:, 0].tolist()
        raise ValueError(
            f"x lies outside its bounds in feature {where[0]} ({len(where)} such features of {low.numel()})."
        )
    return Box(low, high)


def attack_in_box(
    attack: Callable[..., Result], model: Model, x: Tensor, y: Tensor, question: Question, box: Box, targets: Targets,
    **how: Any,
) -> Result:  # fmt: skip
    """plica.attack in units of the box, judged at x."""
    if getattr(question, "through", None) is not None:
        raise Unsupported("Bounds of each feature and through=... do not go together; give bounds as two numbers.")
    asked: Any = replace(question, metric=box.metric(question.metric))
    radius = None
    if isinstance(question, MaxLoss):
        radius = torch.as_tensor(question.radius, dtype=torch.float64, device=x.device).expand(len(x)).clone()
        asked = replace(asked, radius=(1 - INSIDE) * radius)
    u = box.units(x)
    found = attack(InUnits(model, box.low, box.span), u, y, asked, targets=targets, **how)
    same = found.x_adv == u  # to the bit: what did not move is what it was
    x_adv = torch.where(same, x, torch.minimum(torch.maximum(box.features(found.x_adv), box.low), box.high))
    return _judged(model, x, y, question, box, targets, radius, replace(found, x_adv=x_adv))


@torch.no_grad()
def _judged(model, x, y, question: Question, box: Box, targets, radius, found: Result) -> Result:
    rows = (found.success & (found.distance > 0)).nonzero()[:, 0]
    if not len(rows):
        return replace(found, x_adv=torch.where(found.success.view(-1, *[1] * (x.ndim - 1)), found.x_adv, x))
    queries = CountedModel(model, len(x))
    aims = None if targets is None else targets[rows]
    judge = Judge(queries, in_float64(model, x), question.metric, x[rows], y[rows], aims,
                  None if radius is None else radius[rows], (-torch.inf, torch.inf), rows)  # fmt: skip
    points = found.x_adv[rows]
    first = judge(points)
    stretched = torch.minimum(torch.maximum(torch.lerp(x[rows], points, STRETCH), box.low), box.high)
    second = judge(stretched) if not bool(first.sure.all()) else first
    pick = first.sure.view(-1, *[1] * (x.ndim - 1))
    points = torch.where(pick, points, stretched)
    fields: dict[str, Any] = {}
    for name in ("margin", "distance", "violation", "prediction"):
        value = getattr(found, name).clone()
        value[rows] = torch.where(first.sure, getattr(first, name), getattr(second, name)).to(value.dtype)
        fields[name] = value
    success = found.success.clone()
    success[rows] = first.sure | second.sure
    x_adv = found.x_adv.clone()
    x_adv[rows] = points
    x_adv = torch.where(success.view(-1, *[1] * (x.ndim - 1)), x_adv, x)
    return replace(
        found, **fields, success=success, x_adv=x_adv, forwards=found.forwards + queries.forwards.to(x.device)
    )
