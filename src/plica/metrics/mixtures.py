"""Distances made of others: sums with weights, 0.5 * Lp(2) + LPIPS(), and the largest of several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from plica.metrics.base import Metric


class Combines:
    """Metrics that can be weighted and added; the other one may be any callable."""

    def __add__(self, other: object) -> Sum:
        return Sum((*_terms(self), *_terms(other)))

    def __radd__(self, other: object) -> Sum:
        return Sum((*_terms(other), *_terms(self)))

    def __mul__(self, weight: float) -> Sum:
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
            raise ValueError(f"A metric is weighted with a number above 0, got {weight!r}.")
        return Sum(tuple((weight * w, metric) for w, metric in _terms(self)))

    __rmul__ = __mul__


@dataclass(frozen=True, eq=False)
class Sum(Combines):
    """d(x, x') = sum_i w_i d_i(x, x'); terms: (w_i, d_i)."""

    terms: tuple[tuple[float, Metric], ...]

    def __str__(self) -> str:
        return " + ".join(f"{metric}" if w == 1 else f"{w:g} {metric}" for w, metric in self.terms)

    def __call__(self, x: Float[Tensor, "b *image"], x_adv: Float[Tensor, "b *image"]) -> Float[Tensor, " b"]:
        return torch.stack([w * metric(x, x_adv) for w, metric in self.terms]).sum(0)

    @property
    def rooted(self) -> bool:
        return any(getattr(metric, "rooted", False) for _, metric in self.terms)


@dataclass(frozen=True, eq=False)
class Largest(Combines):
    """d(x, x') = max_i d_i(x, x'): within the radius of each. Weight the parts to make them comparable."""

    parts: tuple[Metric, ...]

    def __init__(self, *parts: Metric):
        if not parts or not all(callable(part) for part in parts):
            raise TypeError("Largest(d1, d2, ...) takes metrics, callables d(x, x_adv) -> (b,).")
        object.__setattr__(self, "parts", parts)

    def __str__(self) -> str:
        return f"max({', '.join(map(str, self.parts))})"

    def __call__(self, x: Float[Tensor, "b *image"], x_adv: Float[Tensor, "b *image"]) -> Float[Tensor, " b"]:
        return torch.stack([part(x, x_adv) for part in self.parts]).amax(0)

    @property
    def rooted(self) -> bool:
        return any(getattr(part, "rooted", False) for part in self.parts)


def _terms(metric: Any) -> tuple[tuple[float, Metric], ...]:
    if isinstance(metric, Sum):
        return metric.terms
    if not callable(metric):
        raise TypeError(f"A metric can be added to a metric, a callable d(x, x_adv) -> (b,); got {metric!r}.")
    return ((1.0, cast(Metric, metric)),)
