"""Projected gradient ascent (Madry et al. 2018) for MaxLoss: the steepest step of the norm, then the exact projection.

z <- P(z + step), step = argmax <gradient, s> over ||s||_p <= 2.5 radius / steps; P is attacks/projections.py. The
simplest method for MaxLoss: any loss, l1, l2 and linf.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from plica.attacks.base import AttackInput, AttackOutput, unmeasured
from plica.attacks.projections import project, safely_inside
from plica.core.formulations import MaxLoss
from plica.core.goals import Goal
from plica.metrics import Unsupported, plain_p, total


@dataclass(frozen=True)
class PGDSettings:
    """total_length: of all steps together, in radii, so that every point of the ball can be reached (Madry et al.)."""

    total_length: float = 2.5


SETTINGS = PGDSettings()
FIRST = 24  # pixels of an l1 step that are sorted at first


def pgd(task: AttackInput) -> AttackOutput:
    """One ascent per image, from the image itself; it ends at the first misclassified point.

    Raises Unsupported for MinRadius, and for distances other than l1, l2, linf.
    """
    question = task.question
    if not isinstance(question, MaxLoss) or task.radius is None:
        raise Unsupported('pgd maximises a loss inside a given radius; for MinRadius use method="auto" or "fmn".')
    p = plain_p(question.metric)
    if p not in (1, 2, math.inf):
        raise Unsupported(f'pgd projects onto l1, l2 and linf balls, not onto those of {question.metric}; use "auto".')
    radius = safely_inside(task.radius, task.x, task.bounds)
    for images in torch.arange(len(task.x), device=task.x.device).split(max(1, task.batch_size)):
        _ascend(task, images, radius[images], p, question.loss)
        task.progress(int(images[-1]) + 1)
    return unmeasured(task)


def _ascend(task: AttackInput, images: Tensor, radius: Float[Tensor, " i"], p: float, loss: str) -> None:
    z = task.x[images]
    for _ in range(task.gradients):
        left = ~task.best.distance[images].isfinite()
        images, z, radius = images[left], z[left], radius[left]
        if not len(images):
            return
        _, logits, grad = task.model.gradient(z, images, partial(_loss, task.goal[images], loss))
        task.best.offer(z, images, logits)
        step = steepest(grad.flatten(1), z.flatten(1), SETTINGS.total_length / task.gradients * radius, p, task.bounds)
        z = project(z + step.view_as(z), task.x[images], radius, p, task.bounds)


def _loss(goal: Goal, name: str, logits: Tensor, rows: slice) -> Tensor:
    return goal[rows].loss(name, logits)


def steepest(
    grad: Float[Tensor, "r n"],
    z: Float[Tensor, "r n"],
    length: Float[Tensor, " r"],
    p: float,
    bounds: tuple[float, float],
) -> Float[Tensor, "r n"]:
    """argmax <grad, s> over ||s||_p <= length.

    For l1 the maximum is also over z + s in the box. The steepest step of the ball alone would change a single pixel,
    which soon reaches its bound; what this pixel leaves of the length goes to the pixel of next largest gradient.
    """
    if p == math.inf:
        return length[:, None] * grad.sign()
    if p == 2:
        size = total(grad.square()).sqrt()[:, None]
        return (grad / size.clamp(min=torch.finfo(grad.dtype).tiny)).mul_(length[:, None])
    (low, high), up = bounds, grad.sign()
    # to the bound that the gradient points to; 0 without a gradient
    room = (up * torch.finfo(grad.dtype).max).clamp_(low - z, high - z).abs_()
    return _fill(grad.abs().mul_(room.sign()), room, length, FIRST).mul_(up)


def _fill(size: Tensor, room: Tensor, length: Tensor, k: int) -> Tensor:
    """Steps that use up the room of the pixels in order of decreasing size, until their lengths add up to `length`. The
    k largest are sorted at first, which is usually enough."""
    order = size.topk(min(k, size.shape[1]), dim=1).indices
    ordered = room.gather(1, order)
    after = ordered.cumsum(1)
    share = torch.minimum((length[:, None] - (after - ordered)).clamp(min=0), ordered)
    filled = torch.zeros_like(room).scatter_(1, order, share)
    left = after[:, -1] < length
    if k < size.shape[1] and bool(left.any()):
        filled[left] = _fill(size[left], room[left], length[left], 8 * k)
    return filled
