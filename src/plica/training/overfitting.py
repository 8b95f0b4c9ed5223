"""Catastrophic overfitting (Wong, Rice, Kolter 2020): a network learns to withstand an inner solver, not its ball.

It shows where more gradients suddenly find much more: in the share that the solver of the training has of what ten
times as many gradients find, on training images: where training images are few, it begins there and is not seen on
others. Of a max-loss question that is the loss gained, of a min-radius question the radius.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from plica.training.inner import Inner
from plica.training.network import Network
from plica.training.plan import TrainingPlan, TrainingQuestion

PROBED = 64  # training images
MORE = 10  # times the gradients
LEAST = 0.1  # nats: where more gradients gain less than that, there is no loss left to be missed
ALARM = 0.5  # share below which it is said; sound solvers have .6 to 1 (docs/design/training.md)


def share_gained(
    plan: TrainingPlan, model: nn.Module, x: Float[Tensor, "b *image"], y: Int[Tensor, " b"], scale: float
) -> float:
    """The least share over the questions; 1 where nothing can be gained. scale: of radii, as in training."""
    return min(_share(question, plan, model, x, y, scale) for question in plan.questions)


def _share(
    question: TrainingQuestion, plan: TrainingPlan, model: nn.Module, x: Tensor, y: Tensor, scale: float
) -> float:
    found = []
    for gradients in (plan.gradients, MORE * plan.gradients):
        inner = Inner(question.question(plan.bounds), gradients=gradients, bounds=plan.bounds, seed=plan.seed)
        inner.scale = scale
        hard = inner(model, x, y)
        if question.ask == "max-loss":
            found.append(_loss(model, hard.x_adv, y) - _loss(model, x, y))
        else:
            found.append(float(hard.radius.nan_to_num(0.0)[hard.correct].median()) if hard.correct.any() else 0.0)
    if question.ask == "max-loss":
        return found[0] / found[1] if found[1] > LEAST else 1.0
    return found[1] / found[0] if found[0] > 0 else 1.0


@torch.no_grad()
def _loss(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with Network.opened(model, x) as network:
        return float(cross_entropy(network.logits(x), y))
