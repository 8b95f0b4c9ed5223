"""Chooses target classes: those whose boundary is nearest by the linear model, in the distance of the question."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from plica.attacks.base import AttackInput
from plica.metrics import Lp, Metric, plain_p


@dataclass(frozen=True)
class TargetRows:
    """Rows of a search: the image each belongs to, the alternative of the goal it aims at, and the linear model of that
    alternative's margin at the image."""

    image: Int[Tensor, " r"]
    target: Int[Tensor, " r"]
    margin: Float[Tensor, " r"]
    grad: Float[Tensor, "r n"]


def nearest(task: AttackInput, images: Int[Tensor, " i"], tried: int, kept: int) -> TargetRows:
    """The `kept` nearest of the `tried` alternatives of largest margin, by margin / ||gradient||_q; `tried` gradients
    per image."""
    b = len(images)
    margins = task.goal[images].alternatives(task.logits[images])
    target = margins.topk(min(tried, margins.shape[1]), 1).indices
    image, t = images.repeat_interleave(target.shape[1]), target.flatten()
    goal = task.goal[image]
    margin, _, grad = task.model.gradient(
        task.x[image], image, lambda logits, rows: goal[rows].margin_to(logits, t[rows])
    )
    grad = grad.flatten(1)
    reach = (-margin / dual_norm(task.question.metric, grad).clamp(min=1e-30)).view(b, -1).nan_to_num(nan=torch.inf)
    order = reach.argsort(dim=1, stable=True)[:, :kept]
    rows = (order + torch.arange(b, device=order.device)[:, None] * reach.shape[1]).flatten()
    return TargetRows(image[rows], t[rows], margin[rows], grad[rows])


def _conjugate(metric: Metric) -> float:
    p = plain_p(metric) or 2.0
    return math.inf if p <= 1 else p / (p - 1) if p < math.inf else 1.0


def dual_norm(metric: Metric, grad: Float[Tensor, "r n"]) -> Float[Tensor, " r"]:
    """||grad||_q with 1/p + 1/q = 1 for l_p (the l_2 norm for other metrics): how fast the margin rises per unit of
    distance."""
    return Lp(_conjugate(metric)).norm(grad)


def shortest(metric: Metric, grad: Float[Tensor, "r n"], rise: Float[Tensor, " r"]) -> Float[Tensor, "r n"]:
    """The shortest step along which grad . step = rise, for l_p with p >= 2; for smaller p and other metrics the l_2
    one.

    It is what the first iteration of DeepFool takes (Moosavi-Dezfooli et al. 2016).
    """
    p = plain_p(metric) or 2.0
    q = 1 / (1 - 1 / max(p, 2.0))
    step = grad.sign() * (grad.abs() / grad.abs().amax(1, keepdim=True).clamp(min=1e-30)) ** (q - 1)
    return step * (rise / (step * grad).sum(1).clamp(min=1e-30))[:, None]
