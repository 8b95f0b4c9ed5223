"""What a metric says of itself: whether it is a norm, has a prox, is scale-free."""

from __future__ import annotations

from dataclasses import dataclass

from plica.metrics.base import Metric
from plica.metrics.held import Held
from plica.metrics.lp import Lp
from plica.metrics.mixtures import Largest, Sum
from plica.metrics.weighted import WeightedLp


@dataclass(frozen=True)
class MetricProperties:
    """norm: d(x, x') is a norm of x' - x. prox: it is kept whole in closed form, by method='radius'. scale_free:
    d(x, x + t delta) = t d(x, x + delta) for t > 0, so that D = d^2 / 2 is smooth at x where d is not."""

    norm: bool
    prox: bool
    scale_free: bool


def facts(metric: Metric) -> MetricProperties:
    """Of a user's callable: what its methods norm and prox and its attribute scale_free say; nothing is assumed."""
    if isinstance(metric, Lp | WeightedLp):
        return MetricProperties(metric.p >= 1, True, True)
    if isinstance(metric, Held):
        inner = facts(metric.metric)
        return MetricProperties(inner.norm, False, inner.scale_free)
    if isinstance(metric, Sum | Largest):
        parts = [
            facts(part) for part in (metric.parts if isinstance(metric, Largest) else [d for _, d in metric.terms])
        ]
        return MetricProperties(all(f.norm for f in parts), False, all(f.scale_free for f in parts))
    prox = hasattr(metric, "prox") and hasattr(metric, "norm")
    return MetricProperties(prox, prox, prox or bool(getattr(metric, "scale_free", False)))
