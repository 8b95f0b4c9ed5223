"""Bounds for each feature: the attack runs in units u in [0, 1] of the bounds, and its points are judged at x.

    x = low + (high - low) u

Model and metric are reparametrised; an l_p norm of x is a weighted l_p norm of u. Points are converted to x before they
are judged, so that a point that is misclassified only because of rounding in the conversion does not count.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from plica.core.domain.bounds import Bounds
from plica.core.formulations import MaxLoss, Question
from plica.core.goals import Goal
from plica.core.judging.judge import Judge
from plica.core.model.counted import CountedModel, Model
from plica.core.model.second_run import SecondRun
from plica.core.result import Result
from plica.metrics import BaseMetric, Metric, WeightedLp, counts, differentiable_value, lp_form
from plica.solver.rows import put, take

MARGIN = 4e-6  # share of a radius that is kept free for the rounding of two changes of units
UNITS = Bounds(*torch.tensor([0.0, 1.0], dtype=torch.float64, device="cpu"))
ENLARGE = 1.001  # factor of a perturbation that the judge refuses at x, once


class UnitModel(nn.Module):
    """A model of x as one of u. It is a module even if the model is a function, so that its buffers are converted with
    it to float64."""

    low: Tensor
    span: Tensor

    def __init__(self, model: Model, bounds: Bounds):
        super().__init__()
        self.model = model
        self.register_buffer("low", bounds.low)
        self.register_buffer("span", bounds.span)

    def forward(self, u: Float[Tensor, "b *image"]) -> Tensor:
        return self.model(self.low + self.span * u)


@dataclass(frozen=True, eq=False)
class UnitMetric(BaseMetric):
    """A distance of x as one of u."""

    metric: Metric
    bounds: Bounds

    def __call__(self, u: Tensor, v: Tensor) -> Tensor:
        return differentiable_value(self.metric, self.bounds.from_units(u), self.bounds.from_units(v))

    def fixed_pixels(self) -> Bool[Tensor, "..."] | None:
        return self.metric.fixed_pixels() if isinstance(self.metric, BaseMetric) else None


class UnitLp(WeightedLp):
    """An l_p norm of x as a weighted l_p norm of u. Messages name the metric that the user gave."""

    metric: Metric

    def __init__(self, p: float, weights: Tensor, metric: Metric):
        super().__init__(p, weights)
        object.__setattr__(self, "metric", metric)

    def __str__(self) -> str:
        return f"{self.metric} with bounds that differ between features"


def unit_metric(metric: Metric, bounds: Bounds) -> Metric:
    """The same distance as a function of u: an l_p norm becomes a weighted one, so that its prox is known, and a count
    is returned unchanged."""
    if counts(metric) is not None:
        return metric
    form, span = lp_form(metric), bounds.span
    if form is None:
        return UnitMetric(metric, bounds)
    weights = torch.ones_like(span) if form.weights is None else form.weights
    return UnitLp(form.p, torch.where(span > 0, weights.to(span) * span, torch.inf), metric)


def unit_question(
    question: Question, radius: Float[Tensor, " b"] | None, bounds: Bounds, outside: bool = False
) -> tuple[Question, Float[Tensor, " b"] | None]:
    """The same question and radii for u. The radii are made a little smaller, so that rounding cannot lead beyond them;
    or a little larger if `outside`, so that no point of a grid of levels is lost."""
    metric = unit_metric(question.metric, bounds)
    if radius is None or not isinstance(question, MaxLoss):
        return replace(question, metric=metric), None
    if counts(metric) is None:  # which is exact
        radius = (1 + MARGIN if outside else 1 - MARGIN) * radius
    return replace(question, metric=metric, radius=radius), radius


@torch.no_grad()
def judge_at_x(
    result: Result,
    model: CountedModel,
    x: Float[Tensor, "b *image"],
    goal: Goal,
    metric: Metric,
    radius: Float[Tensor, " b"] | None,
    bounds: Bounds,
) -> Result:
    """The result of an attack on u as one of x, its points measured at x.

    The perturbation of a point that the judge refuses there is enlarged once.
    """
    moved = result.x_adv != bounds.to_units(x)  # unchanged features keep the bits of x
    x_adv = torch.where(moved, bounds.clamp(bounds.from_units(result.x_adv)), x)
    rows = (result.success & (result.distance > 0)).nonzero()[:, 0]
    success, columns = result.success.clone(), {}
    if len(rows):
        radii = None if radius is None else radius[rows]
        everywhere = (-torch.inf, torch.inf)  # clamped already
        second = SecondRun(model, x.dtype)
        judge = Judge(model, second, metric, x[rows], goal[rows], radii, everywhere, rows, model.mean)
        points = model.on_grid(x_adv[rows], rows)
        judgement = judge(points)
        refused = (~judgement.sure).nonzero()[:, 0]
        if len(refused):
            enlarged = bounds.clamp(torch.lerp(x[rows[refused]], points[refused], ENLARGE))
            points[refused] = model.on_grid(enlarged, rows[refused])
            put(judgement, refused, take(judge, refused)(points[refused]))
        lost = (~judgement.sure).nonzero()[:, 0]
        if len(lost):  # report the image itself in its place
            points[lost] = x[rows[lost]]
            put(judgement, lost, take(judge, lost)(points[lost]))
        x_adv[rows], success[rows] = points, judgement.sure
        for name in ("margin", "distance", "violation", "prediction", *["share"] * (result.share is not None)):
            columns[name] = getattr(result, name).index_copy(0, rows, getattr(judgement, name))
    x_adv = torch.where(success.view(-1, *[1] * (x.ndim - 1)), x_adv, x)
    forwards = result.forwards + model.forwards.to(x.device)
    end = None if result.end is None else bounds.clamp(bounds.from_units(result.end))
    return replace(result, **columns, success=success, x_adv=x_adv, forwards=forwards, end=end)
