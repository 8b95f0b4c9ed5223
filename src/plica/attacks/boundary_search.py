"""Regula falsi along the ray from the image to the best point (or its theta), with forward runs only."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from plica.attacks.base import AttackInput
from plica.perturbations.base import interpolate

FEW = 100
RESERVED = 4  # forward runs that the logits at the image and the judge need (core/judging/confirm.py)


def affordable(gradients: int) -> int:
    """Forward runs that go with a number of gradients: a fifth as many, less those reserved for the judge."""
    return gradients // 5 - RESERVED


def box_search(task: AttackInput, images: Int[Tensor, " i"], forwards: int) -> None:
    """Offer `forwards` random points of the box, the same for every image, at one forward run each.

    In more than FEW dimensions random points are seldom near, so only images without a point are tried.
    """
    if task.x[0].numel() > FEW:
        images = images[task.best.distance[images].isinf()]
    for number in range(forwards if len(images) else 0):
        z = task.box_point(number, images)
        task.best.offer(z, images, task.model.logits(z, images))


def boundary_search(task: AttackInput, images: Int[Tensor, " i"], forwards: int) -> None:
    """Shrink the best perturbations of the given images towards the boundary, by the Illinois variant of regula falsi
    (Dowell, Jarratt 1971) on the margin. Every point tried is offered. Does nothing for MaxLoss.

    The search aims at twice the smallest margin that counts, so that float64 agrees.

    Args:
        task: whose `best` is read and improved.
        images: indices of images of the task.
        forwards: model calls for each of them.
    """
    best = task.best
    rows = images[best.distance[images].isfinite()]
    if task.radius is not None or not len(rows):
        return
    x, goal, through = task.x[rows], task.goal[rows], task.question.through
    end = best.x_adv[rows].clone() if best.theta is None else best.theta[rows].clone()
    # shares of the way from the image to `end` on either side of the boundary, and the margins there
    low, high = torch.zeros_like(best.margin[rows]), torch.ones_like(best.margin[rows])
    below, above = goal.margin(task.logits[rows]), best.margin[rows].clone()
    for _ in range(forwards):
        share = torch.maximum(high - above * (high - low) / (above - below), 0.5 * (low + high))
        theta, z = interpolate(through, x, end, share, task.bounds)
        logits = task.model.logits(z, rows)
        best.offer(z, rows, logits, theta=theta)
        m = goal.margin(logits) - 2 * task.model.least_margin(logits, rows)
        past = m > 0
        below = torch.where(past, below / 2, m)
        high, above = torch.where(past, share, high), torch.where(past, m, above)
        low = torch.where(past, low, share)
