"""Models or methods paired image by image: differences of radii, where accuracy curves cross, and a ranking.

Accuracy at radius r is the share of images whose nearest misclassified point is further than r. A single r ranks
models only where their curves do not cross ("Implications of Solution Patterns", section 4.1). All uncertainty is over
the choice of images: bootstrap, 95 %.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from plica.analysis.contenders import Contender, Group, groups
from plica.analysis.intervals import (
    Interval,
    accuracy,
    band,
    draws,
    median,
    median_interval,
    percentile_interval,
    weights,
)
from plica.utils.optional import require

__all__ = [
    "Contender",
    "Crossing",
    "Group",
    "Interval",
    "Pair",
    "Place",
    "accuracy",
    "band",
    "crossing",
    "groups",
    "hardest",
    "pair",
    "ranking",
    "signed_rank",
]

POINTS = 200  # radii at which curves are compared


@dataclass(frozen=True)
class Crossing:
    """Accuracy curves that cross: `first` is ahead before `radius`, `second` after it, both beyond doubt.

    Attributes:
        within: the last radius at which `first` is surely ahead, and the first at which `second` is.
        before: before `radius`, where the difference of accuracy is largest, and that difference (first - second), with
            a band that holds at all radii together.
        after: the same after `radius`.
    """

    first: str
    second: str
    radius: float
    within: tuple[float, float]
    before: tuple[float, Interval]
    after: tuple[float, Interval]


@dataclass(frozen=True)
class Pair:
    """Two contenders on the same images.

    Attributes:
        images: how many both were asked about.
        difference: median over them of radius(b) - radius(a).
        right: the same over the images that neither misclassifies as they are.
        larger: share of images whose radius is larger for b.
        smaller: share of images whose radius is smaller for b.
        p: of the two-sided Wilcoxon signed-rank test that the differences are symmetric about 0.
        accuracy: for a budget, accuracy under attack of b minus that of a.
        crossings: see `crossing`.
        touches: see `crossing`.
    """

    a: str
    b: str
    images: int
    difference: Interval
    right: Interval
    larger: float
    smaller: float
    p: float
    accuracy: Interval
    crossings: list[Crossing]
    touches: int


@dataclass(frozen=True)
class Place:
    """One line of a ranking: the median radius (or, for a budget, accuracy under attack) and the ranks that
    resampling the images leaves possible."""

    name: str
    value: Interval
    best: int
    worst: int


def pair(a: Contender, b: Contender, seed: int = 0) -> Pair:
    """Compare two contenders whose entries are the same images in the same order.

    Raises:
        ValueError: they were asked about no image in common.
        ModuleNotFoundError: scipy is not installed.
    """
    both = a.asked & b.asked
    if not both.any():
        raise ValueError(f"{a.name} and {b.name} have no image in common.")
    a, b = a.take(both), b.take(both)
    right = (a.radius > 0) & (b.radius > 0)
    difference = _difference(a.radius, b.radius)
    held = a.broken.astype(float) - b.broken  # accuracy of b - accuracy of a
    crossings, touches = crossing(a, b, seed)
    return Pair(
        a=a.name,
        b=b.name,
        images=len(difference),
        difference=median_interval(difference, seed),
        right=median_interval(difference[right], seed),
        larger=float((difference > 0).mean()),
        smaller=float((difference < 0).mean()),
        p=signed_rank(difference),
        accuracy=percentile_interval(held.mean(), weights(len(held), seed) @ held),
        crossings=crossings,
        touches=touches,
    )


def ranking(group: Group, seed: int = 0) -> list[Place]:
    """The most robust model, or the strongest method, first; over the images that all were asked about."""
    score = median if group.budget is None else _held
    better = 1 if group.by == "model" else -1  # a method is the better the smaller the radii that it finds
    shared = np.all([c.asked for c in group.contenders], axis=0)
    radii = [c.radius[shared] for c in group.contenders]
    if not shared.any():
        return []
    rows = draws(int(shared.sum()), seed)
    values = np.array([score(radius) for radius in radii])
    drawn = np.stack([score(radius[rows]) for radius in radii])  # (contenders, draws)
    above = (better * drawn[None] > better * drawn[:, None]).sum(1)  # how many are ahead of each, per draw
    level = (drawn[None] == drawn[:, None]).sum(1) - 1
    places = [
        Place(
            name=c.name,
            value=percentile_interval(values[k], drawn[k]),
            best=1 + int(np.quantile(above[k], 0.025, method="inverted_cdf")),
            worst=1 + int(np.quantile((above + level)[k], 0.975, method="inverted_cdf")),
        )
        for k, c in enumerate(group.contenders)
    ]
    return [places[k] for k in np.argsort(-better * values, kind="stable")]


def crossing(a: Contender, b: Contender, seed: int = 0) -> tuple[list[Crossing], int]:
    """Where one accuracy curve leaves the other behind beyond doubt and is then left behind itself; and how often the
    curves change places at all.

    The band about the difference of the curves holds at all radii at once: its half width is the 95 % quantile of the
    bootstrap's largest deviation in units of the standard error at each radius.
    """
    at = _radii(a, b)
    held = (a.radius[:, None] > at).astype(float) - (b.radius[:, None] > at)  # (images, radii)
    curve = held.mean(0)
    drawn = weights(len(held), seed) @ held  # (draws, radii)
    error = np.maximum(drawn.std(0), 0.5 / len(held))  # half an image: where all draws agree
    wide = np.quantile((np.abs(drawn - curve) / error).max(1), 0.95) * error
    sure = np.sign(curve) * (np.abs(curve) > wide)
    signs = np.sign(curve[curve != 0])
    touches = int((signs[1:] != signs[:-1]).sum())
    found, known = [], np.flatnonzero(sure).tolist()
    for i, j in itertools.pairwise(known):
        if sure[i] != sure[j]:
            before, after = _strongest(curve, sure, i, -1), _strongest(curve, sure, j, 1)
            k = i + int(np.argmin(np.abs(curve[i : j + 1])))
            first, second = (a.name, b.name) if sure[i] > 0 else (b.name, a.name)
            ahead = [(float(at[m]), _scaled(curve[m], wide[m], sure[i])) for m in (before, after)]
            found.append(Crossing(first, second, float(at[k]), (float(at[i]), float(at[j])), ahead[0], ahead[1]))
    return found, touches


def hardest(contender: Contender, most: int = 5) -> list[tuple[int, float]]:
    """ids and radii of the images that the model is least robust on; those it gets wrong as they are come first."""
    order = np.argsort(contender.radius, kind="stable")[:most]
    return [(int(contender.ids[row]), float(contender.radius[row])) for row in order]


def signed_rank(difference: Float64[np.ndarray, " b"]) -> float:
    """p of the two-sided Wilcoxon signed-rank test; an infinite difference has the largest rank.

    Raises:
        ModuleNotFoundError: scipy is not installed.
    """
    wilcoxon = require("scipy.stats", "A comparison").wilcoxon
    if not np.any(difference):
        return 1.0
    top = 2 * np.abs(difference[np.isfinite(difference)]).max(initial=1.0)
    return float(wilcoxon(np.clip(difference, -top, top)).pvalue)


def _difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """b - a, 0 where both are infinite."""
    same = a == b
    return np.where(same, 0.0, np.where(same, 0.0, b) - np.where(same, 0.0, a))


def _radii(a: Contender, b: Contender) -> np.ndarray:
    """0 and at most POINTS of the radii at which a curve falls."""
    both = np.unique(np.concatenate([a.radius, b.radius]))
    both = both[np.isfinite(both)]
    if len(both) > POINTS:
        both = both[np.linspace(0, len(both) - 1, POINTS).round().astype(int)]
    return np.unique(np.append(both, 0.0))


def _strongest(curve: np.ndarray, sure: np.ndarray, at: int, way: int) -> int:
    """From a radius outwards over those of the same certain sign: where the difference is largest."""
    end = at
    while 0 <= end + way < len(sure) and sure[end + way] in (sure[at], 0):
        end += way
    low, high = min(at, end), max(at, end) + 1
    return low + int(np.argmax(curve[low:high] * sure[at]))


def _scaled(value: float, wide: float, sign: float) -> Interval:
    """An interval about `value`, positive for whoever is ahead first."""
    return Interval(float(sign * value), float(sign * value - wide), float(sign * value + wide))


def _held(radius: np.ndarray) -> np.ndarray:
    return np.asarray(1 - np.isfinite(radius).mean(-1))
