"""Accuracy curves; 95 % intervals over the choice of images: Wilson's interval of a share, and the bootstrap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from plica.utils.wilson import wilson

DRAWS = 2000  # bootstrap samples; the ends of an interval vary by a few per cent of its width


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval over the choice of images."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def accuracy(radius: Float64[np.ndarray, " b"], at: Float64[np.ndarray, " k"]) -> Float64[np.ndarray, " k"]:
    """The share of the images whose radius is larger than each distance of `at`."""
    return 1 - np.searchsorted(np.sort(radius), at, side="right") / len(radius)


def band(
    radius: Float64[np.ndarray, " b"], at: Float64[np.ndarray, " k"]
) -> tuple[Float64[np.ndarray, " k"], Float64[np.ndarray, " k"]]:
    """Wilson's interval of `accuracy`, at each distance by itself."""
    return wilson(accuracy(radius, at), len(radius))


def median(radius: Float64[np.ndarray, "*draws b"]) -> Float64[np.ndarray, "*draws"]:
    """The median over the last axis; inf if less than half of the images were broken."""
    # inverted_cdf never takes the mean of a finite and an infinite radius
    return np.asarray(np.quantile(radius, 0.5, axis=-1, method="inverted_cdf"))


def share_interval(of: Bool[np.ndarray, " b"]) -> Interval:
    """The share of images for which something is true, with Wilson's interval."""
    share = np.asarray(of.mean())
    return Interval(float(share), *map(float, wilson(share, len(of))))


def draws(n: int, seed: int) -> Int64[np.ndarray, "draws n"]:
    """For each bootstrap sample n image numbers, drawn with replacement."""
    return np.random.default_rng(seed).integers(0, n, (DRAWS, n))


def weights(n: int, seed: int) -> Float64[np.ndarray, "draws n"]:
    """How often each image was drawn, over n: a sample's mean is a product with these."""
    return np.stack([np.bincount(row, minlength=n) for row in draws(n, seed)]) / n


def percentile_interval(value: float, drawn: Float64[np.ndarray, " draws"]) -> Interval:
    """An estimate, and the 2.5 % and 97.5 % quantiles of what the bootstrap samples gave."""
    low, high = np.quantile(drawn, (0.025, 0.975), method="inverted_cdf")
    return Interval(float(value), float(low), float(high))


def median_interval(values: Float64[np.ndarray, " b"], seed: int) -> Interval:
    """The median with its bootstrap interval; nan where there are no values."""
    if not len(values):
        return Interval(np.nan, np.nan, np.nan)
    return percentile_interval(float(median(values)), median(values[draws(len(values), seed)]))
