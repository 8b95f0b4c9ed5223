"""The points of one inner problem, and the losses that train a network on them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plica.core.losses import margin
from plica.core.model.fitting import kind_errors
from plica.goals import class_logits
from plica.metrics import Unsupported
from plica.training.losses import OUTER
from plica.utils.messages import shown


@dataclass(frozen=True, eq=False)
class Hard:
    """Hard inputs x_adv for images x, one entry per image, found by an `Inner` or a `Union`; they carry no gradients.

    Attributes:
        x_adv: (b, *image) the points on which the network is to be trained. For MinRadius the point at the boundary, or
            the point at distance `cap` on the way to it; for MaxLoss the point of large loss. The image itself if
            nothing was searched or found.
        distance: (b,) of x_adv from the image.
        radius: (b,) for MinRadius the robustness radius to first order, 0 where misclassified; for MaxLoss the radius
            of the ball; nan where the network was not finite or its gradient 0.
        multiplier: (b,) by how much the radius grows for each unit by which the margin at x_adv decreases; nan for
            MaxLoss.
        correct: (b,) bool, whether the image itself is classified correctly.
        gradients: (b,) gradients of the network that were spent on the image.
        picked: (b,) for a Union, the index of the question that x_adv answers; 0 for an Inner.
        x: the images.
        y: their labels.
        cap: (b,) for MinRadius the cap, inf without one: radii beyond it are not rewarded; for MaxLoss the radius of
            the ball.
    """

    x: Float[Tensor, "b *image"]
    y: Int[Tensor, " b"]
    x_adv: Float[Tensor, "b *image"]
    distance: Float[Tensor, " b"]
    radius: Float[Tensor, " b"]
    multiplier: Float[Tensor, " b"]
    correct: Bool[Tensor, " b"]
    gradients: Int[Tensor, " b"]
    picked: Int[Tensor, " b"]
    cap: Float[Tensor, " b"]

    def loss(self, model: Callable[[Tensor], Tensor], outer: str = "plain", weight: float | None = None) -> Tensor:
        """The mean loss at x_adv, a scalar to call backward() on.

        Args:
            model: the network, in the mode in which it is trained, and wrapped as it is trained (DDP, compiled). It is
                run once, on x_adv alone or on x and x_adv together.
            outer: plain, trades or mart (training/losses.py).
            weight: of the second term of trades and mart, from 0 on; 6 and 5 by default.

        Raises:
            ValueError: there is no such outer loss, or the weight is negative or not finite.
        """
        if outer not in OUTER:
            raise ValueError(f"outer must be one of {', '.join(OUTER)}, got {shown(outer)}.")
        if weight is not None and not 0 <= weight < math.inf:
            raise ValueError(f"weight must be a number from 0, got {shown(weight)}.")
        kind = OUTER[outer]
        if not kind.weight:
            adv = clean = logits(model, self.x_adv)
        else:
            # one call for both: DDP and the statistics of batch normalisation take two before a backward pass badly
            clean, adv = logits(model, torch.cat([self.x, self.x_adv])).chunk(2)
        return kind.value(adv, clean, self.y, kind.weight if weight is None else weight).mean()

    def radius_of(self, model: Callable[[Tensor], Tensor]) -> Float[Tensor, " b"]:
        """The radii as a function of the network's weights, to first order: distance - multiplier * margin at x_adv, at
        most `cap`; 0 where misclassified, and where nothing was found.

        Their gradient is that of the radius of Eq. (4) by the envelope theorem, d radius / d theta = -multiplier d
        margin / d theta at the solution. It is exact for a smooth network and an exact solution; kinks make the
        multiplier of a single image noisy, most of all in l1. The model runs once, in its present mode; the search ran
        in eval mode.

        Raises:
            Unsupported: some question is a MaxLoss.
        """
        if bool(self.multiplier.isnan().any()):
            raise Unsupported("radius_of is the radius of MinRadius questions; of a MaxLoss take loss(model).")
        radius = self.distance - self.multiplier * margin(logits(model, self.x_adv), self.y)
        return torch.where(self.correct, torch.minimum(radius, self.cap), 0)


def logits(model: Callable[[Tensor], Tensor], x: Tensor) -> Float[Tensor, "b classes"]:
    """The logits of a model in training, in float32 or wider. A single logit is taken for two classes, [0, logit]."""
    with kind_errors(model, x):
        out = model(x)
    return class_logits(out if out.dtype == torch.float64 else out.float())
