"""What is asked, the same for every attack: MaxLoss (Eq. 1) and MinRadius (Eq. 4) of "Optimizers Matter" (Liang et
al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from plica.losses import LOSSES
from plica.metrics import Metric


@dataclass(frozen=True)
class MinRadius:
    """min d(x, x')  s.t.  x' is misclassified and lies in the box: the robustness radius (Eq. 4)."""

    metric: Metric

    def __post_init__(self):
        _check_metric(self.metric)


@dataclass(frozen=True)
class MaxLoss:
    """max loss(f(x'), y)  s.t.  d(x, x') <= radius and x' lies in the box (Eq. 1).

    radius: a number, or one per image (b,), in the metric's units. loss: margin, ce (cross-entropy) or dlr.
    """

    metric: Metric
    radius: float | Float[Tensor, " b"]
    loss: str = "margin"

    def __post_init__(self):
        _check_metric(self.metric)
        if self.loss not in LOSSES:
            raise ValueError(f"MaxLoss(loss=...) must be one of {', '.join(LOSSES)}, got {self.loss!r}.")


Question = MinRadius | MaxLoss


def _check_metric(metric) -> None:
    if not callable(metric):
        raise TypeError(f"A metric is a callable d(x, x_adv) -> (b,), such as plica.Lp(2); got {metric!r}.")
