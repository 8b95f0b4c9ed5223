"""Accuracy curves; 95 % intervals over the choice of images: Wilson's interval of a share, and the bootstrap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

Z = 1.959964  # 97.5 % quantile of the normal distribution: two-sided 95 %
DRAWS = 2000  # bootstrap samples; the ends of an interval vary by a few per cent of its width


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def accuracy(radius: Float64[np.ndarray, " b"], at: Float64[np.ndarray, " k"]) -> Float64[np.ndarray, " k"]:
    """The share of the images whose radius is larger than each distance of `at`."""
    return 1 - np.searchsorted(np.sort(radius), at, side="right") / len(radius)


def wilson(share: Float64[np.ndarray, "*k"], total: int) -> tuple[Float64[np.ndarray, "*k"], Float64[np.ndarray, "*k"]]:
    """Low and high end of the score interval of shares of `total` images; [0, 1] where there is none.

    (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n): Wilson, J. Am. Stat. Assoc. 22 (1927), 209.
    """
    if not total:
        return np.zeros_like(share), np.ones_like(share)
    p, q = share, Z * Z / total
    middle, half = p + q / 2, Z * np.sqrt(p * (1 - p) / total + q / (4 * total))
    # at shares of 0 and 1 the ends are 0 and 1, which rounding may miss
    low = np.where(p == 0, 0.0, np.maximum(0.0, (middle - half) / (1 + q)))
    return low, np.where(p == 1, 1.0, (middle + half) / (1 + q))


def band(
    radius: Float64[np.ndarray, " b"], at: Float64[np.ndarray, " k"]
) -> tuple[Float64[np.ndarray, " k"], Float64[np.ndarray, " k"]]:
    """Wilson's interval of `accuracy`, at each distance by itself."""
    return wilson(accuracy(radius, at), len(radius))


def median(radius: Float64[np.ndarray, "*draws b"]) -> Float64[np.ndarray, "*draws"]:
    """Of the last axis; inf where less than half of the images were broken."""
    # inverted_cdf never takes the mean of a finite and an infinite radius
    return np.asarray(np.quantile(radius, 0.5, axis=-1, method="inverted_cdf"))


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
