"""Distances between images: l_p norms, plain and weighted, distances between features, and any callable of the user."""

from plica.metrics.base import (
    BaseMetric,
    Count,
    LpForm,
    Metric,
    MetricProperties,
    Unsupported,
    check_shape,
    counts,
    differentiable_value,
    distance,
    fixed_pixels,
    gradient,
    lp_form,
    own_gradient,
    plain_p,
    properties,
    values,
)
from plica.metrics.colour import CIEDE2000
from plica.metrics.combine import Combinable, Largest, Sum
from plica.metrics.dists import DISTS
from plica.metrics.held import Held
from plica.metrics.lp import SMOOTHING, Lp, power, total
from plica.metrics.lpips import LPIPS
from plica.metrics.parse import metric_names, parse_metric, warn_of_slip
from plica.metrics.perceptual import Embedding, Perceptual
from plica.metrics.quality import Similarity
from plica.metrics.registry import METRICS
from plica.metrics.wasserstein import Wasserstein
from plica.metrics.weighted import Weighted, WeightedLp

__all__ = [
    "CIEDE2000",
    "DISTS",
    "LPIPS",
    "METRICS",
    "SMOOTHING",
    "BaseMetric",
    "Combinable",
    "Count",
    "Embedding",
    "Held",
    "Largest",
    "Lp",
    "LpForm",
    "Metric",
    "MetricProperties",
    "Perceptual",
    "Similarity",
    "Sum",
    "Unsupported",
    "Wasserstein",
    "Weighted",
    "WeightedLp",
    "check_shape",
    "counts",
    "differentiable_value",
    "distance",
    "fixed_pixels",
    "gradient",
    "lp_form",
    "metric_names",
    "own_gradient",
    "parse_metric",
    "plain_p",
    "power",
    "properties",
    "total",
    "values",
    "warn_of_slip",
]
