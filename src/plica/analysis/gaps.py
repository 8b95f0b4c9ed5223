"""The gap between the proved lower bound of an image's radius and the distance that an attack found."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from plica.bracket import CLOSED

MOST = 5  # gaps that are listed


class Gap(NamedTuple):
    """An image, by its row in the data, whose radius lies between `lower` and `upper`."""

    id: int
    lower: float
    upper: float


def closed(lower: Float64[np.ndarray, " b"], upper: Float64[np.ndarray, " b"]) -> Bool[np.ndarray, " b"]:
    """Where the two are the same to a thousandth."""
    return (upper == lower) | (upper <= lower * (1 + CLOSED))


def widest(
    ids: Int64[np.ndarray, " b"], lower: Float64[np.ndarray, " b"], upper: Float64[np.ndarray, " b"], most: int = MOST
) -> list[Gap]:
    """The images whose bound is the smallest share of their distance; those that are closed are left out."""
    known = closed(lower, upper)
    ratio = np.where(known, 1, lower) / np.where(known, 1, upper)
    order = [k for k in np.argsort(ratio, kind="stable")[:most] if ratio[k] < 1]
    return [Gap(int(ids[k]), float(lower[k]), float(upper[k])) for k in order]
