"""Models or methods paired image by image: differences of radii, where accuracy curves cross, and a ranking.

Accuracy at radius r is the share of images whose nearest misclassified point is farther away than r. A single r ranks
models correctly only if their curves do not cross ("Implications of Solution Patterns", section 4.1). All intervals are
95 % intervals over the choice of images: of a share of one model Wilson's, of medians and paired differences the
bootstrap's.
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
    share_interval,
    weights,
)
from plica.utils.optional import require

__all__ = [
    "Contender",
    "Crossing",
    "Group",
    "Interval",
    "Pair",
    "Rank",
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
SAME = 1e-4  # relative; nearer radii are equal, since searches on one and the same network end that far apart


@dataclass(frozen=True)
class Crossing:
    """Accuracy curves that cross: `first` is ahead below `radius`, `second` above it, both outside the 95 % band.

    Attributes:
        within: the last radius at which `first` is surely ahead, and the first at which `second` is.
        before: a radius below `radius` and the difference of accuracy (first - second) there, the largest on that side,
            with a band that holds at all radii together.
        after: the same above `radius`.
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
        images: number of images for which both have a result.
        difference: median over them of radius(b) - radius(a).
        right: the same over the images that both classify correctly without a perturbation.
        larger: share of images whose radius is larger for b.
        smaller: share of images whose radius is smaller for b.
        p: of the two-sided Wilcoxon signed-rank test that the differences are symmetric about 0.
        accuracy: for a budget, accuracy under attack of b minus that of a.
        crossings: see `crossing`.
        touches: see `crossing`.
        surely_larger: images on which b is more robust than a whatever the exact radii are: its lower bound is not
            below the distance found for a. None where b has no lower bounds.
        surely_smaller: the same with a and b exchanged.
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
    surely_larger: int | None = None
    surely_smaller: int | None = None


@dataclass(frozen=True)
class Rank:
    """One line of a ranking.

    Attributes:
        name: of the model or method.
        value: the median radius; for a budget, accuracy under attack.
        best: the least rank in 95 % of the bootstrap samples.
        worst: the largest.
    """

    name: str
    value: Interval
    best: int
    worst: int


def pair(a: Contender, b: Contender, seed: int = 0) -> Pair:
    """Compare two contenders whose entries are the same images in the same order.

    Raises:
        ValueError: they have no image in common.
        ModuleNotFoundError: scipy is not installed.
    """
    shared = a.attacked & b.attacked
    if not shared.any():
        raise ValueError(f"{a.name} and {b.name} have no image in common.")
    a, b = a.take(shared), b.take(shared)
    right = (a.radius > 0) & (b.radius > 0)
    difference = _difference(a.radius, b.radius)
    gains = b.robust.astype(float) - a.robust  # their mean: accuracy of b - accuracy of a
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
        accuracy=percentile_interval(gains.mean(), weights(len(gains), seed) @ gains),
        crossings=crossings,
        touches=touches,
        surely_larger=_surely(b, a),
        surely_smaller=_surely(a, b),
    )


def _surely(larger: Contender, smaller: Contender) -> int | None:
    """Equality counts: what is proved includes the distance of the bound, as for max-loss that of the budget."""
    if larger.lower is None:
        return None
    return int(((larger.lower > 0) & (larger.lower >= smaller.radius)).sum())


def ranking(group: Group, seed: int = 0) -> list[Rank]:
    """The most robust model, or the strongest method, first; over the images that all have answers for."""
    ball = group.budget is not None
    score = _robust if ball else median
    better = 1 if group.by == "model" else -1  # a method is better if its radii are smaller
    shared = np.all([c.attacked for c in group.contenders], axis=0)
    radii = [c.radius[shared] for c in group.contenders]
    if not shared.any():
        return []
    rows = draws(int(shared.sum()), seed)
    values = np.array([score(radius) for radius in radii])
    drawn = np.stack([score(radius[rows]) for radius in radii])  # (contenders, draws)
    same = _nearly_equal(drawn[None], drawn[:, None])
    above = (~same & (better * drawn[None] > better * drawn[:, None])).sum(1)  # how many are ahead of each, per draw
    equal = same.sum(1) - 1
    ranks = [
        Rank(
            name=c.name,
            value=share_interval(np.isinf(radii[k])) if ball else percentile_interval(values[k], drawn[k]),
            best=1 + int(np.quantile(above[k], 0.025, method="inverted_cdf")),
            worst=1 + int(np.quantile((above + equal)[k], 0.975, method="inverted_cdf")),
        )
        for k, c in enumerate(group.contenders)
    ]
    return [ranks[k] for k in np.argsort(-better * values, kind="stable")]


def crossing(a: Contender, b: Contender, seed: int = 0) -> tuple[list[Crossing], int]:
    """Crossings at which one curve and then the other is ahead outside the band; and the number of all crossings.

    The band about the difference of the curves holds at all radii at once: its half width is the 95 % quantile of the
    bootstrap's largest deviation in units of the standard error at each radius.
    """
    radii = _radii(a, b)
    gains = (a.radius[:, None] > radii).astype(float) - (b.radius[:, None] > radii)  # (images, radii)
    difference = gains.mean(0)  # accuracy of a - accuracy of b
    drawn = weights(len(gains), seed) @ gains  # (draws, radii)
    error = np.maximum(drawn.std(0), 0.5 / len(gains))  # at least half an image, where all draws agree
    half_width = np.quantile((np.abs(drawn - difference) / error).max(1), 0.95) * error
    sure = np.sign(difference) * (np.abs(difference) > half_width)  # 1: a is ahead, -1: b, 0: inside the band
    signs = np.sign(difference[difference != 0])
    touches = int((signs[1:] != signs[:-1]).sum())
    crossings = []
    for i, j in itertools.pairwise(np.flatnonzero(sure).tolist()):
        if sure[i] != sure[j]:
            before, after = _strongest(difference, sure, i, -1), _strongest(difference, sure, j, 1)
            k = i + int(np.argmin(np.abs(difference[i : j + 1])))
            first, second = (a.name, b.name) if sure[i] > 0 else (b.name, a.name)
            leads = [(float(radii[m]), _scaled(difference[m], half_width[m], sure[i])) for m in (before, after)]
            within = float(radii[i]), float(radii[j])
            crossings.append(Crossing(first, second, float(radii[k]), within, *leads))
    return crossings, touches


def hardest(contender: Contender, most: int = 5) -> list[tuple[int, float]]:
    """ids and radii of the images that the model is least robust on, those that it misclassifies unperturbed first."""
    order = np.argsort(contender.radius, kind="stable")[:most]
    return [(int(contender.ids[row]), float(contender.radius[row])) for row in order]


def signed_rank(difference: Float64[np.ndarray, " b"]) -> float:
    """p of the two-sided Wilcoxon signed-rank test; an infinite difference has the largest rank.

    Raises:
        ModuleNotFoundError: scipy is not installed.
    """
    wilcoxon = require("scipy.stats", "The test between two models, in a comparison and in a report of both,").wilcoxon
    if not np.any(difference):
        return 1.0
    top = 2 * np.abs(difference[np.isfinite(difference)]).max(initial=1.0)
    return float(wilcoxon(np.clip(difference, -top, top)).pvalue)


def _difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """b - a, 0 where both are infinite or nearly equal."""
    same = _nearly_equal(a, b)
    return np.where(same, 0.0, np.where(same, 0.0, b) - np.where(same, 0.0, a))


def _nearly_equal(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.isclose(a, b, rtol=SAME, atol=0)


def _radii(a: Contender, b: Contender) -> np.ndarray:
    """0 and at most POINTS of the radii at which a curve falls."""
    radii = np.unique(np.concatenate([a.radius, b.radius]))
    radii = radii[np.isfinite(radii)]
    if len(radii) > POINTS:
        radii = radii[np.linspace(0, len(radii) - 1, POINTS).round().astype(int)]
    return np.unique(np.append(radii, 0.0))


def _strongest(difference: np.ndarray, sure: np.ndarray, start: int, way: int) -> int:
    """Index of the largest difference from `start` on, in direction `way`, until the other curve is surely ahead."""
    end = start
    while 0 <= end + way < len(sure) and sure[end + way] in (sure[start], 0):
        end += way
    low, high = min(start, end), max(start, end) + 1
    return low + int(np.argmax(difference[low:high] * sure[start]))


def _scaled(value: float, half: float, sign: float) -> Interval:
    """The interval value -+ half, times sign: positive for the curve that is ahead first."""
    return Interval(float(sign * value), float(sign * value - half), float(sign * value + half))


def _robust(radius: np.ndarray) -> np.ndarray:
    """The share of images that are robust, over the last axis."""
    return np.asarray(np.isinf(radius).mean(-1))
