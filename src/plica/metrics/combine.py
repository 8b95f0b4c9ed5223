"""Combinations of metrics: weighted sums, as in 0.5 * Lp(2) + LPIPS(), and the largest of several."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plica.metrics.base import (
    BaseMetric,
    LpForm,
    Metric,
    MetricProperties,
    Unsupported,
    counts,
    differentiable_value,
    lp_form,
    properties,
)


class Combinable(BaseMetric):
    """A metric that can be multiplied by a number > 0 and added to another metric, which may be any callable."""

    def __add__(self, other: object) -> Sum:
        return Sum((*_terms(self), *_terms(other)))

    def __radd__(self, other: object) -> Sum:
        return Sum((*_terms(other), *_terms(self)))

    def __mul__(self, factor: float) -> Sum:
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < math.inf:
            raise ValueError(f"A metric can be multiplied by a number > 0, got {factor!r}.")
        return Sum(tuple((factor * weight, metric) for weight, metric in _terms(self)))

    __rmul__ = __mul__


@dataclass(frozen=True, eq=False)
class Sum(Combinable):
    """d(x, x') = sum_i w_i d_i(x, x').

    A sum whose only term is an l_p norm is one itself, c ||w (x' - x)||_p = ||c w (x' - x)||_p, and so keeps its prox.

    Args:
        terms: pairs (w_i, d_i), w_i > 0.
    """

    terms: tuple[tuple[float, Metric], ...]

    def __str__(self) -> str:
        return " + ".join(f"{metric}" if weight == 1 else f"{weight:g} {metric}" for weight, metric in self.terms)

    def __call__(self, x: Float[Tensor, "b *image"], x_adv: Float[Tensor, "b *image"]) -> Float[Tensor, " b"]:
        return torch.stack([weight * differentiable_value(metric, x, x_adv) for weight, metric in self.terms]).sum(0)

    @property
    def properties(self) -> MetricProperties:
        return _common(tuple(metric for _, metric in self.terms), prox=self.lp_form() is not None)

    def lp_form(self) -> LpForm | None:
        (factor, metric), *others = self.terms
        form = lp_form(metric)
        if others or form is None:
            return None
        weights = torch.ones((), dtype=torch.float64, device="cpu") if form.weights is None else form.weights
        return form if factor == 1 else LpForm(form.p, factor * weights)

    def fixed_pixels(self) -> Bool[Tensor, "..."] | None:
        return _fixed_in_any(tuple(metric for _, metric in self.terms))


@dataclass(frozen=True, eq=False)
class Largest(Combinable):
    """d(x, x') = max_i d_i(x, x'): a point within radius r is within r of each. Multiply the parts by numbers to make
    them comparable.

    Args:
        parts: the metrics d_i.
    """

    parts: tuple[Metric, ...]

    def __init__(self, *parts: Metric):
        if not parts or not all(callable(part) for part in parts):
            raise TypeError(f"Largest(d1, d2, ...) takes metrics, callables d(x, x_adv) -> (b,); got {parts!r}.")
        for part in parts:
            _refuse_counts(part)
        object.__setattr__(self, "parts", parts)

    def __str__(self) -> str:
        return f"max({', '.join(map(str, self.parts))})"

    def __call__(self, x: Float[Tensor, "b *image"], x_adv: Float[Tensor, "b *image"]) -> Float[Tensor, " b"]:
        return torch.stack([differentiable_value(part, x, x_adv) for part in self.parts]).amax(0)

    @property
    def properties(self) -> MetricProperties:
        return _common(self.parts, prox=False)

    def fixed_pixels(self) -> Bool[Tensor, "..."] | None:
        return _fixed_in_any(self.parts)


def _common(parts: tuple[Metric, ...], prox: bool) -> MetricProperties:
    """The properties of sums and maxima of metrics."""
    each = [properties(part) for part in parts]
    return MetricProperties(
        norm=all(part.norm for part in each),
        prox=prox,
        scale_free=all(part.scale_free for part in each),
        batch_invariant=len(each) == 1 and each[0].batch_invariant,
        singular_at_x=any(part.singular_at_x for part in each),
    )


def _fixed_in_any(parts: tuple[Metric, ...]) -> Bool[Tensor, "..."] | None:
    fixed = [part.fixed_pixels() for part in parts if isinstance(part, BaseMetric)]
    masks = [mask for mask in fixed if mask is not None]
    if not masks:
        return None
    union = masks[0]
    for mask in masks[1:]:
        union = union | mask
    return union


def _terms(metric: Any) -> tuple[tuple[float, Metric], ...]:
    if isinstance(metric, Sum):
        return metric.terms
    if not callable(metric):
        raise TypeError(f"A metric can be added to a metric, a callable d(x, x_adv) -> (b,); got {metric!r}.")
    _refuse_counts(metric)
    return ((1.0, cast(Metric, metric)),)


def _refuse_counts(metric: Any) -> None:
    if counts(metric) is not None:
        raise Unsupported(f"{metric} is a count without a gradient and no part of other distances; ask it alone.")
