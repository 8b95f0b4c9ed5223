"""The two questions, the same for every attack: MaxLoss (Eq. 1) and MinRadius (Eq. 4) of "Optimizers Matter" (Liang et
al. 2023)."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from plica.core.losses import LOSSES
from plica.perturbations.base import ParametricPerturbation, ThetaDistance
from plica.utils.messages import shown

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"  # Python's float takes more: 1_0, nan, digits of any script
NUMBER_OR_RATIO = re.compile(rf"({_NUMBER})(?:/({_NUMBER}))?", re.ASCII)


@dataclass(frozen=True)
class MinRadius:
    """min d(x, x')  s.t.  x' is misclassified and lies in the box: the robustness radius (Eq. 4).

    Args:
        metric: the distance d between the images x and x', a callable (x, x') -> (b,); or "theta", the distance that
            the perturbation defines between its parameters.
        through: the perturbation x' = T(x, theta), if not x + delta: plica.Flow(), RotateTranslate(), Recolor(),
            HueSaturation(), or a plica.Perturbation of one's own.
    """

    metric: Any
    through: Any = None

    def __post_init__(self):
        object.__setattr__(self, "metric", _checked(self.metric, self.through))


@dataclass(frozen=True)
class MaxLoss:
    """max loss(f(x'), y)  s.t.  d(x, x') <= radius and x' lies in the box (Eq. 1).

    Args:
        metric: as in MinRadius.
        radius: a number, or one per image (b,), in the metric's units.
        loss: margin, ce (cross-entropy) or dlr.
        through: as in MinRadius.
    """

    metric: Any
    radius: float | Float[Tensor, " b"]
    loss: str = "margin"
    through: Any = None

    def __post_init__(self):
        object.__setattr__(self, "metric", _checked(self.metric, self.through))
        if not isinstance(self.loss, str) or self.loss not in LOSSES:
            raise ValueError(f"MaxLoss(loss=...) must be one of {', '.join(LOSSES)}, got {shown(self.loss)}.")


Question = MinRadius | MaxLoss


def parse_radius(text: str) -> float:
    """A number or a ratio, "0.5" or "8/255".

    Raises:
        ValueError: it is neither, or negative.
    """
    match = NUMBER_OR_RATIO.fullmatch(text.strip())
    try:
        value = float(match[1]) / float(match[2] or "1") if match else math.nan
    except ZeroDivisionError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError(
            f"The radius {shown(text)} is not a distance; give a number such as 0.5 or a ratio such as 8/255."
        )
    return value


def _checked(metric: Any, through: Any) -> Any:
    """The metric; for "theta" the perturbation's own distance."""
    if through is not None and not isinstance(through, ParametricPerturbation):
        raise TypeError(
            "through=... is a perturbation, such as plica.Flow() or plica.Perturbation(function, origin); "
            f"got {shown(through)}."
        )
    if metric == "theta":
        if through is None:
            raise ValueError('"theta" is the distance of a perturbation; give one, such as through=plica.Flow().')
        return ThetaDistance(through)
    if not callable(metric):
        raise TypeError(f"A metric is a callable d(x, x_adv) -> (b,), such as plica.Lp(2); got {shown(metric)}.")
    return metric
