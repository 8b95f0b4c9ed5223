"""How many images each method broke: one definition for summaries, tables, `plica show` and reports.

An image is *wrong* if the model misclassifies it without a perturbation, at distance 0. A method *breaks* an image that
is not wrong by finding a misclassified point (for max-loss, within the radius). It *misses* an image that it attacked
without success although another method broke it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64


@dataclass(frozen=True)
class Counts:
    """Numbers of images for one method.

    Attributes:
        attacked: images that it attacked, including wrong ones.
        broken: images that it broke.
        alone: images that only it broke; None if the methods did not attack the same images.
        missed: images that it missed.
        nearest: images that it broke at the smallest distance of all methods, including ties.
        attacked_all: whether it attacked all images that are not wrong.
    """

    attacked: int
    broken: int
    alone: int | None
    missed: int
    nearest: int
    attacked_all: bool


def wrong(radius: Float64[np.ndarray, "methods b"]) -> Bool[np.ndarray, " b"]:
    """Where the model misclassifies the image without a perturbation, as any method has measured."""
    return radius.min(0) == 0


def broken(radius: Float64[np.ndarray, "methods b"]) -> Bool[np.ndarray, " b"]:
    """Where the image is not wrong and some method broke it."""
    return np.isfinite(radius.min(0)) & ~wrong(radius)


def robust(radius: Float64[np.ndarray, "methods b"]) -> Bool[np.ndarray, " b"]:
    """Whether the image is not wrong and none of the methods broke it."""
    return np.isinf(radius.min(0))


def bins(images: int) -> int:
    """The number of bins of a histogram over so many images."""
    return min(32, max(4, images // 4))


def counts(radius: Float64[np.ndarray, "methods b"], attacked: Bool[np.ndarray, "methods b"]) -> list[Counts]:
    """The counts of each method of one question.

    Args:
        radius: distance of the point that each method found; 0 for wrong images, inf where it found none.
        attacked: whether it attacked the image; where not, its radius is inf.
    """
    right = ~wrong(radius)
    breaks = np.isfinite(radius) & right
    times = breaks.sum(0)
    comparable = bool((attacked == attacked.any(0))[:, right].all())
    least = radius.min(0, initial=np.inf)
    return [
        Counts(
            attacked=int(mine.sum()),
            broken=int(broke.sum()),
            alone=int((broke & (times == 1)).sum()) if comparable else None,
            missed=int((mine & ~broke & (times > 0)).sum()),
            nearest=int((broke & (distance == least)).sum()),
            attacked_all=bool(mine[right].all()),
        )
        for distance, mine, broke in zip(radius, attacked, breaks, strict=True)
    ]
