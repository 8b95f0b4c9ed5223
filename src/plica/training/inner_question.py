"""One question of an inner problem with its settings: its checks, and how a batch is solved."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from plica.core import validation
from plica.core.formulations import MaxLoss, MinRadius
from plica.core.metric_checks import check_metric
from plica.metrics import Unsupported, counts
from plica.perturbations.base import ThetaDistance, check
from plica.training.ascent import METHODS, chosen, max_loss
from plica.training.problem import Answer, Batch
from plica.training.radius import First, first_gradient, min_radius
from plica.utils.messages import shown


@dataclass(frozen=True)
class InnerQuestion:
    """A question, and the arguments of Inner that belong to it."""

    question: Any  # a Question, which is checked below
    cap: Any = None
    method: str = "auto"
    starts: int = 1
    skip_misclassified: bool = False

    def __post_init__(self):
        question, cap = self.question, self.cap
        if not isinstance(question, MinRadius | MaxLoss):
            raise TypeError(
                f"question must be plica.MinRadius(...) or plica.MaxLoss(...), got {type(question).__name__}."
            )
        if cap is not None and not (isinstance(cap, Real) and not isinstance(cap, bool) and 0 < float(cap) < math.inf):
            raise ValueError(f"cap must be a radius above 0, or None for none, got {shown(cap)}.")
        if counts(question.metric) is not None:
            raise Unsupported(
                f"Training follows the gradient of the distance, and {question.metric} is a count; ask in plica.Lp(1), "
                "whose answers change few pixels."
            )
        validation.whole("starts", self.starts, least=1)
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {shown(self.method)}.")
        if isinstance(question, MaxLoss):
            if cap is not None:
                raise ValueError("cap goes with MinRadius; MaxLoss(...) has its radius.")
            chosen(self.method, question.metric, question.through)
        elif (self.method, self.starts, self.skip_misclassified) != ("auto", 1, False):
            raise ValueError("method, starts and skip_misclassified go with MaxLoss; leave them out with MinRadius.")

    def check(self, x: Float[Tensor, "b *image"], bounds: tuple[float, float]) -> None:
        """Raises ValueError unless the distance and the perturbation take such images."""
        if self.question.through is not None:
            check(self.question.through, x)
        if not isinstance(self.question.metric, ThetaDistance):
            check_metric(self.question.metric, x, bounds)

    def radius(self, x: Float[Tensor, "b *image"], scale: float) -> Float[Tensor, " b"]:
        """The radius of the ball, or the cap (inf without one), for each image, times `scale`."""
        if isinstance(self.question, MaxLoss):
            radius = validation.radii(self.question, x).to(x)
            if not bool(radius.isfinite().all()):
                raise ValueError("MaxLoss(radius=...) must be finite in training, got inf; give a ball's radius.")
            return scale * radius
        return x.new_full((len(x),), math.inf if self.cap is None else min(scale * self.cap, torch.finfo(x.dtype).max))

    def solve(self, batch: Batch, first: First | None = None) -> Answer:
        """The solution for a batch. first: the gradient of the margin at the images, if it is known."""
        question = self.question
        if isinstance(question, MinRadius):
            return min_radius(batch, first or first_gradient(batch))
        method = chosen(self.method, question.metric, question.through)
        return max_loss(batch, method, self.starts, self.skip_misclassified)
