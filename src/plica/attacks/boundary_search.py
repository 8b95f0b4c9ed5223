"""Regula falsi along the ray from the image to the best point (or its theta), with forward runs only."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plica.attacks.base import AttackInput
from plica.perturbations.base import interpolate

FEW = 100  # dimensions up to which random points of the box are likely to be near
NEARER = 3e-3  # the next point of a search is tried if it is nearer than the best one by this share of the distance


def box_search(task: AttackInput, images: Int[Tensor, " i"], forwards: int) -> None:
    """Offer `forwards` random points of the box, the same for every image, at one forward run each.

    In more than FEW dimensions random points are seldom near, so only images without a point are tried.
    """
    if task.x[0].numel() > FEW:
        images = images[task.best.distance[images].isinf()]
    for number in range(forwards if len(images) else 0):
        z = task.box_point(number, images)
        task.best.offer(z, images, task.model.logits(z, images))


def boundary_search(
    task: AttackInput, images: Int[Tensor, " i"], forwards: int, ahead: Float[Tensor, "i *image"] | None = None
) -> None:
    """Shrink the best perturbations of the given images towards the boundary, by the Illinois variant of regula falsi
    (Dowell, Jarratt 1971) on the margin. Every point tried is offered. Does nothing for MaxLoss.

    The search aims at twice the smallest margin that counts, so that float64 agrees.

    A search that has not converged has a next point, which is nearer than the best one but not evaluated yet. If it is
    misclassified, it becomes the best point. If not, the boundary is searched on the line between the two, on which no
    point is farther from the image than the best one.

    Args:
        task: the task whose `best` is improved.
        images: indices of images of the task.
        forwards: model calls for each of them.
        ahead: the next points, for questions without a perturbation; for an image without one, its best point.
    """
    best = task.best
    rows = images[best.distance[images].isfinite()]
    if task.radius is not None or not len(rows):
        return
    x, goal, through = task.x[rows], task.goal[rows], task.question.through
    clean = goal.margin(task.logits[rows])
    start, next_point = x, torch.zeros_like(rows, dtype=torch.bool)  # next_point: whether `start` is not evaluated yet
    nearest = 0.5  # the least step from the lower end of the bracket, as a share of it
    if ahead is not None:
        ahead = ahead[best.distance[images].isfinite()]
        next_point = task.question.metric(x, ahead) < (1 - NEARER) * best.distance[rows]
        start, nearest = _where(next_point, ahead, x), torch.where(next_point, 0.25, 0.5).to(best.margin)
    end = best.x_adv[rows].clone() if best.theta is None else best.theta[rows].clone()
    # shares of the way from `start` to `end` on either side of the boundary, and the margins there
    low, high = torch.zeros_like(best.margin[rows]), torch.ones_like(best.margin[rows])
    below, above = clean, best.margin[rows].clone()
    for _ in range(forwards):
        share = high - above * (high - low) / (above - below)
        share = torch.maximum(share, (1 - nearest) * low + nearest * high)
        share = share.masked_fill(next_point, 0)
        theta, z = interpolate(through, start, end, share, task.bounds)
        logits = task.model.logits(z, rows)
        best.offer(z, rows, logits, theta=theta)
        m = goal.margin(logits) - 2 * task.model.least_margin(logits, rows)
        past = m > 0
        if ahead is not None:  # from a next point that is misclassified the ray to the image is searched
            reached = next_point & past
            end, start = _where(reached, start, end), _where(reached, x, start)
            share, below = share.masked_fill(reached, 1), torch.where(reached, 2 * clean, below)
            next_point = torch.zeros_like(next_point)
        below = torch.where(past, below / 2, m)
        high, above = torch.where(past, share, high), torch.where(past, m, above)
        low = torch.where(past, low, share)


def _where(rows: Bool[Tensor, " i"], first: Float[Tensor, "i *image"], second: Float[Tensor, "i *image"]) -> Tensor:
    return torch.where(rows.view(-1, *[1] * (first.ndim - 1)), first, second)
