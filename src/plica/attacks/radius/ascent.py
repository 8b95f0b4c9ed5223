"""Direct ascent of the margin inside a ball: a start that linear models from the image do not find.

    u <- P_ball(u + step * argmax_{||d|| = 1} grad . d),   the step falling to 0

Where a network's outputs saturate, its gradient at the image says little of where the boundary is, and every search
that steps onto a linear model goes astray; signs of the gradient still climb. It is projected gradient ascent (Madry et
al. 2018) for any l_p norm, on the margin over all classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from plica.attacks.base import Task
from plica.attacks.prox_settings import Geometry
from plica.core.losses import margin
from plica.core.model import rounding
from plica.solver.linearized.prox import clip
from plica.solver.linearized.proximal_sqp import PAD

STEP = 0.5  # the first step, of the radius
SHARE = 50  # for p <= 1 a step moves one of so many entries: a step along one alone would hardly move


def ascend(
    task: Task,
    images: Int[Tensor, " i"],
    shape: Geometry,
    u: Float[Tensor, "i n"],
    radius: Float[Tensor, " i"],
    ticks: Iterator[int],
) -> tuple[Float[Tensor, "i n"], Int[Tensor, " i"]]:
    """The last point evaluated, from u within `radius`, and the class nearest to winning there; one gradient per image
    and tick, of which `ticks` counts down to 0. Every point is offered."""
    rows = torch.arange(len(images) + -len(images) % PAD, device=images.device) % len(images)
    x, y, u, r = task.x[images].flatten(1)[rows], task.y[images], u[rows], radius[rows, None]
    low, high = shape.box(x)
    targets, z, work = None if task.targets is None else task.targets[images], torch.empty_like(x), torch.empty_like(x)
    u = _inside(shape, u, r, low, high, work)
    logits, total = task.logits[images], None
    for left in ticks:
        total = left + 1 if total is None else total
        shape.point(x, u, z)
        m, logits, grad = task.model.gradient(
            z.view(-1, *task.x.shape[1:]), images, lambda out, part: margin(out, y[part], _at(targets, part))
        )
        wrong = (m > rounding(logits)).nonzero()[:, 0]
        task.best.offer(z[wrong].view(-1, *task.x.shape[1:]), images[wrong], logits[wrong])
        if left:
            d = _steepest(shape, shape.pull(grad.flatten(1))[rows], work)
            u = _inside(shape, u + STEP * left / total * r * d, r, low, high, work)
    best = logits.scatter(1, y[:, None], -torch.inf).argmax(1) if targets is None else targets
    return u[: len(images)], best


def _at(targets: Tensor | None, part: slice) -> Tensor | None:
    return None if targets is None else targets[part]


def _order(shape: Geometry) -> float:
    return getattr(shape.race.prox, "p", 2.0)  # a user's norm is climbed as l_2 is


def _steepest(shape: Geometry, grad: Tensor, work: Tensor) -> Tensor:
    """The d of ||d||_p = 1 with the greatest grad . d; for p <= 1 spread over a share of the entries."""
    p = _order(shape)
    if p == math.inf:
        return grad.sign()
    size = grad.abs()
    if p <= 1:
        least = size.topk(max(1, grad.shape[1] // SHARE), dim=1).values[:, -1:]
        d = grad.sign() * (size >= least)
    else:
        d = grad.sign() * (size / size.amax(1, keepdim=True).clamp(min=1e-30)) ** (1 / (p - 1))
    return d / shape.race.prox.norm(d, work).clamp(min=1e-30)[:, None]


def _inside(shape: Geometry, u: Tensor, r: Tensor, low: Tensor, high: Tensor, work: Tensor) -> Tensor:
    """u in the ball and the box; the ball by scaling, for l_inf entry by entry."""
    if _order(shape) == math.inf:
        u = torch.minimum(torch.maximum(u, -r), r)
    else:
        u = u * (r / shape.race.prox.norm(u, work).clamp(min=1e-30)[:, None]).clamp(max=1)
    clip(u, low, high)
    return u
