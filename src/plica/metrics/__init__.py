"""Distances between images: l_p norms, plain and weighted, distances between features, and any callable of a user's."""

from plica.metrics.base import Metric, Unsupported, distance, gradient
from plica.metrics.colour import CIEDE2000
from plica.metrics.dists import DISTS
from plica.metrics.facts import MetricProperties, facts
from plica.metrics.held import Held, Weighted, held
from plica.metrics.lp import SMOOTHING, Lp, power, total
from plica.metrics.lpips import LPIPS
from plica.metrics.mixtures import Largest, Sum
from plica.metrics.parse import parse_metric
from plica.metrics.perceptual import Embedding, Perceptual
from plica.metrics.similarity import Similarity
from plica.metrics.transport import Wasserstein
from plica.metrics.weighted import WeightedLp

__all__ = [
    "CIEDE2000",
    "DISTS",
    "LPIPS",
    "SMOOTHING",
    "Embedding",
    "Held",
    "Largest",
    "Lp",
    "Metric",
    "MetricProperties",
    "Perceptual",
    "Similarity",
    "Sum",
    "Unsupported",
    "Wasserstein",
    "Weighted",
    "WeightedLp",
    "distance",
    "facts",
    "gradient",
    "held",
    "parse_metric",
    "power",
    "total",
]
