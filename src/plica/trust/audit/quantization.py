"""Would an answer survive being saved as a picture? Points rounded to 8 bits, and repaired where that undoes them.

Repair: x + s (x_adv - x) rounded, with the smallest s >= 1 found that is misclassified; its price is the distance of
that point over the one that was reported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

STRETCHES = tuple(1 + 0.01 * 2.0**k for k in range(10))  # 1.01 to 6.12
HALVINGS = 4


@dataclass(frozen=True)
class EightBits:
    """Per answer: `survives`: still misclassified; `within`: and inside the radius; `price`: nan if not repaired."""

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
    """`fooled(points, rows)` tells whether points of those rows are misclassified, `measure(points, rows)` how far they
    are."""
    every = np.arange(len(x))

    def points(rows: np.ndarray, stretch: np.ndarray) -> Tensor:
        s = torch.as_tensor(stretch).to(x).view(-1, *[1] * (x.ndim - 1))
        return round8(x[rows] + s * (x_adv[rows] - x[rows]), bounds)

    distance = measure(x_adv, every)
    rounded = points(every, np.ones(len(x)))
    survives, reach = fooled(rounded, every), measure(rounded, every)
    limit = np.inf if radius is None else radius * (1 + 1e-5)  # pixels of float32
    price = np.where(survives, reach, np.nan)
    low, high = np.ones(len(x)), np.full(len(x), np.nan)
    for stretch in STRETCHES:
        rows = every[~survives & np.isnan(high)]
        if len(rows):
            done = fooled(points(rows, np.full(len(rows), stretch)), rows)
            high[rows[done]], low[rows[~done]] = stretch, stretch
    for _ in range(HALVINGS):
        rows = every[~np.isnan(high)]
        if not len(rows):
            break
        middle = (low[rows] + high[rows]) / 2
        done = fooled(points(rows, middle), rows)
        high[rows[done]], low[rows[~done]] = middle[done], middle[~done]
    rows = every[~np.isnan(high)]
    if len(rows):
        price[rows] = measure(points(rows, high[rows]), rows)
    with np.errstate(divide="ignore", invalid="ignore"):
        price = np.where(distance > 0, price / distance, np.nan)
    return EightBits(survives, survives & (reach <= limit), price)
