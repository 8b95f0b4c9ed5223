"""Moves points that a search under autocast found to the boundary of the model in its own precision."""

from __future__ import annotations

import torch

from plica.attacks.base import AttackInput
from plica.attacks.boundary_search import boundary_search
from plica.core.judging.best import BestPoints
from plica.perturbations.base import interpolate

RUNS = 3  # forward runs per image in the model's own precision
EXTRA = 1 + RUNS  # with the first run under autocast: these are allowed in addition to a fifth of the gradients
MOST = 1.0  # largest share by which a perturbation is lengthened in one step


@torch.no_grad()
def in_own_precision(task: AttackInput, found: BestPoints) -> None:
    """Offer the points of `found` to `task.best`, after making each perturbation shorter or longer until the margin of
    the model in its own precision is just large enough. A perturbation that needs more than RUNS runs for this is
    offered unchanged, for the judge to decide.

    Args:
        task: with the model in its own precision.
        found: the best points under autocast, of the same images.
    """
    through, best = task.question.through, task.best
    rows = found.distance.isfinite().nonzero()[:, 0]
    share, end = found.distance.new_ones(len(rows)), found.x_adv if found.theta is None else found.theta
    first = task.goal.margin(task.logits)
    for run in range(RUNS):
        if not len(rows):
            return
        theta, z = interpolate(through, task.x[rows], end[rows], share, task.bounds)
        logits = task.model.logits(z, rows)
        best.offer(z, rows, logits, theta=theta)
        margin, least = task.goal[rows].margin(logits), task.model.least_margin(logits, rows)
        short = margin <= least
        boundary_search(task, rows[~short], RUNS - 1 - run)
        rise = (margin - first[rows]) / share
        longer = (2 * (2 * least - margin) / rise.clamp(min=1e-30)).clamp(max=MOST)
        rows, share = rows[short], (share + longer)[short]
    theta = None if found.theta is None else found.theta[rows]
    every = torch.ones_like(rows, dtype=torch.bool)
    best.keep(found.x_adv[rows], rows, found.margin[rows], every, found.distance[rows], theta, once=True)
