"""Checks whether points are still misclassified when their pixels are rounded to 8 bits, and how much farther away the
others must be moved.

A repair is x + s (x_adv - x), rounded, with the smallest s >= 1 found for which it is misclassified. Its price is the
distance of the repaired point divided by the stored distance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

STRETCHES = tuple(1 + 0.01 * 2.0**k for k in range(10))  # 1.01 to 6.12
HALVINGS = 4  # of the last interval between two of STRETCHES


@dataclass(frozen=True)
class EightBits:
    """For each point: `survives`, whether it is still misclassified; `within`, whether it is then also inside the
    radius; `price`, of a repair, or nan."""

    survives: Bool[np.ndarray, " b"]
    within: Bool[np.ndarray, " b"]
    price: Float64[np.ndarray, " b"]


def round8(x: Float[Tensor, "b *image"], bounds: tuple[float, float]) -> Tensor:
    """The nearest of the 256 values that the bounds span."""
    low, span = bounds[0], bounds[1] - bounds[0]
    return (low + span * (((x - low) / span * 255).round() / 255)).clamp(*bounds)


def eight_bits(
    fooled: Callable[[Tensor, np.ndarray], np.ndarray],
    measure: Callable[[Tensor, np.ndarray], np.ndarray],
    x: Float[Tensor, "b *image"],
    x_adv: Float[Tensor, "b *image"],
    radius: float | None,
    bounds: tuple[float, float],
) -> EightBits:
    """Round the points and repair them.

    Args:
        fooled: (points, rows) -> bool (k,): whether points of those rows are misclassified.
        measure: (points, rows) -> (k,): their distances from the images.
        x: images.
        x_adv: their points.
        radius: of max-loss, in the metric's units; None for min-radius.
        bounds: least and largest pixel.
    """
    all_rows = np.arange(len(x))

    def points(rows: np.ndarray, stretch: np.ndarray) -> Tensor:
        s = torch.as_tensor(stretch).to(x).view(-1, *[1] * (x.ndim - 1))
        return round8(x[rows] + s * (x_adv[rows] - x[rows]), bounds)

    distance = measure(x_adv, all_rows)
    rounded = points(all_rows, np.ones(len(x)))
    survives, rounded_distance = fooled(rounded, all_rows), measure(rounded, all_rows)
    limit = np.inf if radius is None else radius * (1 + 1e-5)  # float32 pixels are rounded, too
    price = np.where(survives, rounded_distance, np.nan)
    low, high = np.ones(len(x)), np.full(len(x), np.nan)
    for stretch in STRETCHES:
        rows = all_rows[~survives & np.isnan(high)]
        if len(rows):
            broken = fooled(points(rows, np.full(len(rows), stretch)), rows)
            high[rows[broken]], low[rows[~broken]] = stretch, stretch
    for _ in range(HALVINGS):
        rows = all_rows[~np.isnan(high)]
        if not len(rows):
            break
        middle = (low[rows] + high[rows]) / 2
        broken = fooled(points(rows, middle), rows)
        high[rows[broken]], low[rows[~broken]] = middle[broken], middle[~broken]
    rows = all_rows[~np.isnan(high)]
    if len(rows):
        price[rows] = measure(points(rows, high[rows]), rows)
    with np.errstate(divide="ignore", invalid="ignore"):
        price = np.where(distance > 0, price / distance, np.nan)
    return EightBits(survives, survives & (rounded_distance <= limit), price)
