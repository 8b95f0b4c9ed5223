"""Detects catastrophic overfitting (Wong, Rice, Kolter 2020): a network may become robust against the inner solver of
its training, but not in the ball.

The solver of the training is compared with itself at ten times as many gradients. For max-loss questions the share is
the increase of the loss that the few gradients reach, divided by that of the many. For min-radius questions it is the
median radius found with the many, divided by that found with the few. Training images are used, because if there are
few of them, overfitting begins on them and does not show on others.
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
LEAST = 0.1  # nats: if many gradients gain less than this, the share is taken to be 1
# a share below this part of the share before the training, or of 1 if that was more, is reported; without overfitting
# it is 0.6 to 1 for norms (docs/design/training.md), and 0.4 to 0.7 for Flow, whose solver needs more gradients
ALARM = 0.5


def share_gained(
    plan: TrainingPlan, model: nn.Module, x: Float[Tensor, "b *image"], y: Int[Tensor, " b"], scale: float
) -> float:
    """The smallest share over the questions; 1 if more gradients gain nothing. scale: of radii, as in training."""
    return min(_share(question, plan, model, x, y, scale) for question in plan.questions)


def _share(
    question: TrainingQuestion, plan: TrainingPlan, model: nn.Module, x: Tensor, y: Tensor, scale: float
) -> float:
    values = []  # the increase of the loss or the radius, with few gradients and with many
    for gradients in (plan.gradients, MORE * plan.gradients):
        inner = Inner(question.question(plan.bounds), gradients=gradients, bounds=plan.bounds, seed=plan.seed)
        inner.scale = scale
        hard = [inner(model, *part) for part in zip(x.split(plan.batch), y.split(plan.batch), strict=True)]
        if question.ask == "max-loss":
            gains = [_loss(model, part.x_adv, part.y) - _loss(model, part.x, part.y) for part in hard]
            values.append(sum(gains) / len(x))
        else:
            radius, correct = (torch.cat([getattr(part, name) for part in hard]) for name in ("radius", "correct"))
            values.append(float(radius.nan_to_num(0.0)[correct].median()) if correct.any() else 0.0)
    few, many = values
    if question.ask == "max-loss":
        return few / many if many > LEAST else 1.0
    return many / few if few > 0 else 1.0


@torch.no_grad()
def _loss(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with Network.opened(model, x) as network:
        return float(cross_entropy(network.logits(x), y, reduction="sum"))
