"""Judges the best point for a model with random outputs, which counts if the model is wrong in most draws.

A search ends where the mean over its own draws is misclassified. There about half of all draws are misclassified, or
fewer. A separate set of draws (the same at every point) shows by how much the perturbation must be lengthened, or may
be shortened, so that most draws are misclassified; the judge then confirms the point with fresh draws.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from plica.core.judging.judge import Judge, Judgement, majority
from plica.perturbations.base import ParametricPerturbation, interpolate

# share of the separate draws that must be misclassified at the length chosen: above 0.5 by 1.4 standard deviations of
# the difference between the shares of two sets of 100 draws
WANTED = 0.6
FARTHER = (1.02, 1.05, 1.1, 1.2, 1.4, 2.0, 4.0)  # lengths that are tried, in lengths of the perturbation found
HALVINGS = 4  # of the interval between the longest length that is too short and the next one tried
TRIES = 3  # points that are judged, each with fresh draws
AGAIN = 1.05  # a perturbation that the judge rejects is made this many times as long


@torch.no_grad()
def settle(
    judge: Judge,
    through: ParametricPerturbation | None,
    end: Float[Tensor, "1 *point"],
) -> tuple[Float[Tensor, "1 *image"], Float[Tensor, "1 k"] | None, Judgement]:
    """The point as it is judged, its theta, and the judgement.

    Args:
        judge: of the one image, with the mean that was attacked.
        through: the perturbation, with which points are computed from their theta; None for x' = x + delta.
        end: the point that the search found, or its theta.
    """
    mean = judge.mean
    assert mean is not None

    def at(length: float) -> tuple[Tensor | None, Tensor]:
        theta, z = interpolate(through, judge.x, end, length, judge.bounds)
        return theta, judge.model.on_grid(z, judge.image)

    def share(length: float) -> float:
        theta, z = at(length)
        if judge.radius is not None and not bool(judge.distances(z, theta) <= judge.radius):
            return -1.0
        return float(majority(judge.goal, mean.others(z))[2])

    start = judge.x if through is None else through.start(judge.x)
    if torch.equal(end, start):  # no point was found
        theta = None if through is None else end
        return judge.x, theta, judge(judge.x, theta)
    length, tries = _length(share, nearest=judge.radius is None), 1
    theta, x_adv = at(length)
    judgement = judge(x_adv, theta)
    while not bool(judgement.sure) and tries < TRIES and share(AGAIN * length) >= 0:
        length, tries = AGAIN * length, tries + 1
        theta, x_adv = at(length)
        judgement = judge(x_adv, theta)
    return x_adv, theta, judgement


def beyond(judge: Judge) -> Float[Tensor, "1 *image"]:
    """The point to pass to `settle` if the mean reaches the goal at the image itself but most draws do not: a step
    along the gradient of the mean's margin that increases the margin by the standard deviation of the draws' margins.
    """
    assert judge.mean is not None
    outputs = judge.mean.others(judge.x)
    margins = judge.goal[torch.zeros(len(outputs), dtype=torch.long, device=outputs.device)].margin(outputs)
    _, _, grad = judge.model.gradient(judge.x, judge.image, lambda output, rows: judge.goal[rows].margin(output))
    low, high = judge.bounds
    return (judge.x + grad * margins.std() / grad.square().sum().clamp(min=1e-30)).clamp(low, high)


def _length(share: Callable[[float], float], nearest: bool) -> float:
    """A length at which the share is at least WANTED: the smallest one if `nearest`, else the first one tried. If there
    is none, the length with the largest share."""
    shares = {1.0: share(1.0)}
    if shares[1.0] < WANTED:
        for length in FARTHER:
            shares[length] = share(length)
            if shares[length] >= WANTED:
                break
    best = max(shares, key=lambda length: shares[length])
    if not nearest or shares[best] < WANTED:
        return best
    low = max((length for length in shares if length < best), default=0.0)
    if best == 1:
        for shorter in (1 / length for length in FARTHER):
            low = shorter
            if share(shorter) < WANTED:
                break
            best = shorter
        else:
            low = 0.0
    for _ in range(HALVINGS):
        middle = (low + best) / 2
        low, best = (low, middle) if share(middle) >= WANTED else (middle, best)
    return best
