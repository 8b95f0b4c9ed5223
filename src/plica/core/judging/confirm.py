"""The judgement on the best points. A perturbation that the second run rejects is enlarged by the smallest factor tried
that passes.

    factor = 1 + 2 (wanted - m2) / (m2 - m(x)),   and if that fails, factor - 1 is multiplied by 8, and so on

m2 is the margin in the second run (usually in float64) and m(x) the margin at the image, so along the ray through both
the margin increases by m2 - m(x) per length of the perturbation. The second run comes first, so that a point that it
rejects costs no other run. Together with the two runs of an enlarged point this makes three forward runs. With fewer
left, there is no second run, since a rejected point could not be enlarged and checked in both ways.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from plica.core.judging.judge import Judge, Judgement, confirms
from plica.perturbations.base import ParametricPerturbation, interpolate
from plica.solver.rows import put, take

TRIES = 5  # enlarged points of one image, at most
GROW = 8.0  # growth of factor - 1 from try to try
SURE = 8.0  # factor - 1 is this many times larger at the last try, so that a kink of the margin does not lose the point
LEAST, MOST = 1e-6, 1e-2  # smallest and largest factor - 1
FOR_SECOND_RUN = 3  # least number of forward runs left for which there is a second run
SAFE = 6.0  # the margin aimed at, over the difference between the two runs; the judge requires three


@torch.no_grad()
def confirm(
    judge: Judge,
    through: ParametricPerturbation | None,
    end: Float[Tensor, "b *point"],
    found: tuple[Float[Tensor, " b"], Float[Tensor, " b"]],
    runs: Int[Tensor, " b"],
) -> tuple[Float[Tensor, "b *image"], Float[Tensor, "b k"] | None, Judgement]:
    """The points as they are judged, their theta, and the judgement.

    Args:
        judge: of the images.
        through: the perturbation, with which enlarged points are computed from their theta; None for x' = x + delta.
        end: the points, or their theta.
        found: the margins at the images, and those at the points in the search's run (-inf where it found none).
        runs: forward runs left for each image. The first check is made even if none is left, the second run only with
            FOR_SECOND_RUN or more.
    """
    first, last = (margin.double() for margin in found)
    share, runs = torch.ones_like(last), runs.clone()
    exists, second = last.isfinite(), torch.full_like(last, torch.nan)
    point, x_adv = interpolate(through, judge.x, end, share.to(end), judge.bounds)
    x_adv = judge.model.on_grid(x_adv, judge.image)
    rows = (exists & (runs >= FOR_SECOND_RUN)).nonzero()[:, 0]
    if judge.second is not None and len(rows):
        second[rows] = take(judge, rows).second_margin(x_adv[rows])
        runs[rows] -= 1
    cost = torch.where(second.isnan(), 1, 2)  # forward runs that each enlarged point costs
    doubtful = ~(second.isnan() | confirms(second, last, judge.model.few(judge.image)))
    required = last + SAFE * (second - last).abs()
    excess = (2 * (required - second) / (second - first).clamp(min=1e-30)).nan_to_num(LEAST).clamp(LEAST, MOST)
    judgement: Judgement | None = None
    pending = torch.arange(len(last), device=last.device)
    for _ in range(1 + TRIES):
        enlarged = pending[doubtful[pending]]
        if len(enlarged):
            last_try = runs[enlarged] < 2 * cost[enlarged]
            share[enlarged] = 1 + torch.where(last_try, (SURE * excess[enlarged]).clamp(max=MOST), excess[enlarged])
            excess[enlarged] = (GROW * excess[enlarged]).clamp(max=MOST)
            new, z = interpolate(through, judge.x[enlarged], end[enlarged], share[enlarged].to(end), judge.bounds)
            x_adv[enlarged] = judge.model.on_grid(z, judge.image[enlarged])
            if new is not None and point is not None:
                point[enlarged] = new
            again = enlarged[cost[enlarged] == 2]
            if len(again):
                second[again] = take(judge, again).second_margin(x_adv[again])
                runs[again] -= 1
        runs[pending] -= 1
        measured = take(judge, pending)(x_adv[pending], None if point is None else point[pending], second[pending])
        if judgement is None:
            judgement = measured
        else:
            put(judgement, pending, measured)
        pending = (~judgement.sure & exists & (runs >= cost)).nonzero()[:, 0]
        doubtful[pending] = True
        if not len(pending):
            break
    assert judgement is not None
    return x_adv, point, judgement
