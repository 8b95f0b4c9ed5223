"""Towards the image along the ray through the best point (or its theta), as close to the boundary as can be had, with
forward runs only."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from plica.attacks.base import Task
from plica.core.losses import margin
from plica.core.model import rounding
from plica.perturbations.base import interpolate


def land(task: Task, images: Int[Tensor, " i"], forwards: int) -> None:
    """Shrink the perturbations of the given images by regula falsi on the margin (Illinois); every point tried is
    offered. For MinRadius only.

    The aim is twice the margin that counts, so that float64 agrees.
    """
    best = task.best
    rows = images[best.distance[images].isfinite()]
    if task.radius is not None or not len(rows):
        return
    x, y, through = task.x[rows], task.y[rows], task.question.through
    end = best.x_adv[rows].clone() if best.theta is None else best.theta[rows].clone()
    targets = None if task.targets is None else task.targets[rows]
    low, high = torch.zeros_like(best.margin[rows]), torch.ones_like(best.margin[rows])
    below, above = margin(task.logits[rows], y, targets), best.margin[rows].clone()
    for _ in range(forwards):
        s = torch.maximum(high - above * (high - low) / (above - below), 0.5 * (low + high))
        theta, z = interpolate(through, x, end, s, task.bounds)
        logits = task.model.logits(z, rows)
        best.offer(z, rows, logits, theta=theta)
        m = margin(logits, y, targets) - 2 * rounding(logits)
        past = m > 0
        below = torch.where(past, below / 2, m)
        high, above = torch.where(past, s, high), torch.where(past, m, above)
        low = torch.where(past, low, s)
