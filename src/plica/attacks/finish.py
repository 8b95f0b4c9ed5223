"""The last step of every attack: along the ray from the image to its best point, as close to the boundary as can be had."""

from __future__ import annotations

import torch

from plica.attacks.task import Task
from plica.losses import margin
from plica.queries import rounding


def finish(task: Task, forwards: int) -> None:
    """Shrink the perturbation of each best point by regula falsi on the margin (Illinois), with that many forward runs.

    For MinRadius only. Each point tried is offered to the archive, so that an answer never gets worse.
    """
    archive = task.archive
    rows = archive.distance.isfinite().nonzero()[:, 0]
    if forwards < 1 or task.radius is not None or not len(rows):
        return
    x, end = task.x[rows], archive.x_adv[rows].clone()
    targets = None if task.targets is None else task.targets[rows]
    low, high = torch.zeros_like(archive.margin[rows]), torch.ones_like(archive.margin[rows])
    below, above = margin(task.logits[rows], task.y[rows], targets), archive.margin[rows].clone()
    for _ in range(min(forwards, 6)):
        s = high - above * (high - low) / (above - below)
        s = torch.maximum(s, high - 0.5 * (high - low))
        z = torch.lerp(x, end, s.view(-1, *[1] * (x.ndim - 1))).clamp(*task.bounds)
        logits = task.queries.logits(z, rows)
        archive.offer(z, rows, logits)
        m = margin(logits, task.y[rows], targets) - 2 * rounding(logits)
        past = m > 0
        below = torch.where(past, below / 2, m)
        high, above = torch.where(past, s, high), torch.where(past, m, above)
        low = torch.where(past, low, s)
