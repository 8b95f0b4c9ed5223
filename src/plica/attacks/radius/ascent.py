"""Direct ascent of the margin inside a ball, which finds starts that linear models at the image cannot find.

    u <- P_ball(u + step * argmax_{||d|| = 1} grad . d),   with a step that decreases to 0

If a network's outputs saturate, its gradient at the image says little about the location of the boundary, and steps
to the boundary of a linear model go wrong; steps along the sign of the gradient still increase the margin. This is
projected gradient ascent (Madry et al. 2018) for any l_p norm, on the margin over all classes.

Images without a point have no radius that the ball could depend on. They take steps to the boundary of the linear model
at u (DeepFool, Moosavi-Dezfooli et al. 2016), half as long again:

    u <- P_box(u - 1.5 m grad / |grad|^2)   while m < 0

These find wrong regions that are thin, where a search that aims far beyond the boundary skips them.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from plica.attacks.base import AttackInput
from plica.attacks.prox_settings import ProxSettings
from plica.solver.linearized.prox import clip
from plica.solver.linearized.proximal_sqp import multiple

STEP = 0.5  # the first step, in radii
RELAXATION = 1.5  # of steps to the linear model's boundary; 1.02 misses where a margin below 0 has many kinks
SHARE = 50  # for p <= 1 a step changes one entry in this many, since steps along a single entry make little progress


def ascend(
    task: AttackInput,
    images: Int[Tensor, " i"],
    settings: ProxSettings,
    u: Float[Tensor, "i n"],
    radius: Float[Tensor, " i"],
    steps: int,
    planned: int,
) -> tuple[Float[Tensor, "i n"], Int[Tensor, " i"]]:
    """Ascent from u within `radius`; every misclassified point is offered to `task.best`.

    Args:
        task: with the model, of which one gradient per image and step is spent.
        images: indices of images of the task.
        settings: how u becomes an image.
        u: starts, in the solver's unknowns.
        radius: of the balls, in the norm of u; inf for steps to the boundary of the linear model.
        steps: gradients to spend, at most `planned`.
        planned: steps after which their length would be 0.

    Returns:
        The last point evaluated where margin and gradient are finite (the start if there is none), and the alternative
        of the goal whose margin is largest at the last point.
    """
    # rows are padded, so that results do not depend on their number
    more = -len(images) % multiple(task.x[0].numel())
    rows = torch.arange(len(images) + more, device=images.device) % len(images)
    x, goal, u, r = task.x[images].flatten(1)[rows], task.goal[images], u[rows], radius[rows, None]
    low, high = settings.box(x)
    z, work = torch.empty_like(x), torch.empty_like(x)
    u = into_ball(settings, u, r, low, high, work)
    logits, finite = task.logits[images], u
    for remaining in range(planned, planned - steps, -1):
        settings.point(x, u, z)
        m, logits, grad = task.model.gradient(
            z.view(-1, *task.x.shape[1:]), images, lambda out, part: goal[part].margin(out)
        )
        task.best.offer(z[: len(images)].view(-1, *task.x.shape[1:]), images, logits)
        grad = settings.pull(grad.flatten(1))[rows]
        defined = (m[rows].isfinite() & grad.isfinite().all(1))[:, None]
        finite = torch.where(defined, u, finite)
        if remaining > 1:
            d = STEP * (remaining - 1) / planned * r * steepest_step(settings, grad, work)
            size = grad.abs().amax(1).clamp(min=torch.finfo(grad.dtype).tiny)
            grad = grad / size[:, None]  # outputs may be so large or small that float32 cannot hold the square
            length = RELAXATION * (-m[rows]).clamp(min=0) / size / grad.square().sum(1)
            d = torch.where(r.isinf(), (length[:, None] * grad).nan_to_num(nan=0), d)
            d = torch.where(defined, d, (finite - u) / 2)  # halfway back
            u = into_ball(settings, u + d, r, low, high, work)
    return finite[: len(images)], goal.alternatives(logits).argmax(1)


def _order(settings: ProxSettings) -> float:
    return getattr(settings.race.prox, "p", 2.0)  # a user's norm is treated like l_2


def steepest_step(settings: ProxSettings, grad: Tensor, work: Tensor) -> Tensor:
    """The d of ||d||_p = 1 with the greatest grad . d; for p <= 1 spread over a share of the entries."""
    p = _order(settings)
    if p == math.inf:
        return grad.sign()
    size = grad.abs()
    if p <= 1:
        least = size.topk(max(1, grad.shape[1] // SHARE), dim=1).values[:, -1:]
        d = grad.sign() * (size >= least)
    else:
        d = grad.sign() * (size / size.amax(1, keepdim=True).clamp(min=1e-30)) ** (1 / (p - 1))
    return d / settings.race.prox.norm(d, work).clamp(min=1e-30)[:, None]


def into_ball(settings: ProxSettings, u: Tensor, r: Tensor, low: Tensor, high: Tensor, work: Tensor) -> Tensor:
    """u in the ball and the box; the ball by scaling, for l_inf entry by entry."""
    if _order(settings) == math.inf:
        u = torch.minimum(torch.maximum(u, -r), r)
    else:
        u = u * (r / settings.race.prox.norm(u, work).clamp(min=1e-30)[:, None]).clamp(max=1)
    clip(u, low, high)
    return u
