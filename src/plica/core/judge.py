"""The judge: re-measures every answer, the same for every method.

An answer counts if it is misclassified by a margin that neither another order of summation nor float64 can undo, lies
inside the bounds, and, for MaxLoss, within the radius, its distance taken in float64.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plica.core.losses import Targets, margin
from plica.core.model import CountedModel, rounding
from plica.metrics import Metric, distance
from plica.perturbations.base import ThetaDistance
from plica.solver.rows import WHOLE


@dataclass(frozen=True)
class Verdict:
    """One entry per point; `sure` points count."""

    sure: Bool[Tensor, " b"]
    margin: Float[Tensor, " b"]
    distance: Float[Tensor, " b"]
    violation: Float[Tensor, " b"]
    prediction: Int[Tensor, " b"]


@dataclass(frozen=True)
class Judge:
    """Measures points x_adv of images x, y.

    `fine` is the model in float64, None where it cannot be had or its runs cannot be afforded.
    """

    queries: CountedModel
    fine: Callable[[Tensor], Tensor] | None
    metric: Metric = field(metadata=WHOLE)
    x: Float[Tensor, "b *image"]
    y: Int[Tensor, " b"]
    targets: Targets
    radius: Float[Tensor, " b"] | None
    bounds: tuple[float, float]
    image: Int[Tensor, " b"]  # on whose account each point is run

    @torch.no_grad()
    def __call__(self, x_adv: Float[Tensor, "b *image"], theta: Float[Tensor, "b k"] | None = None) -> Verdict:
        """theta: what x_adv was made of, for a metric on theta."""
        logits = self.queries.logits(x_adv, self.image)
        m = margin(logits, self.y, self.targets).double()
        sure = m > rounding(logits)
        if self.fine is not None:
            self.queries.charge_forwards(self.image)
            m64 = torch.cat([margin(self.fine(part.double()), y, t) for part, y, t in self._parts(x_adv)])
            # a margin that float64 changes by a third is made of rounding
            sure &= (m64 > 0) & ((m64 - m).abs() < m / 3)
        low, high = self.bounds
        flat = x_adv.flatten(1).double()
        outside = torch.maximum(low - flat.amin(1), flat.amax(1) - high).clamp(min=0)
        point = x_adv if theta is None or not isinstance(self.metric, ThetaDistance) else theta
        d = distance(self.metric, self.x, point)
        violation = torch.maximum(outside, (-m).clamp(min=0))
        if self.radius is not None:
            violation = torch.maximum(violation, (d - self.radius).clamp(min=0))
        sure = sure & (outside == 0) & d.isfinite() & (d <= (torch.inf if self.radius is None else self.radius))
        return Verdict(sure, m, torch.where(sure, d, torch.inf), torch.where(sure, 0, violation), logits.argmax(1))

    def _parts(self, x_adv: Tensor):
        for start in range(0, len(x_adv), self.queries.most):
            rows = slice(start, start + self.queries.most)
            yield x_adv[rows], self.y[rows], None if self.targets is None else self.targets[rows]


def in_float64(model: Callable[[Tensor], Tensor], x: Float[Tensor, "b *image"]) -> Callable[[Tensor], Tensor] | None:
    """A copy of the model in float64, or None for a function, or a module that cannot be copied or run so."""
    if not isinstance(model, torch.nn.Module):
        return None
    try:
        fine = copy.deepcopy(model).double()
        with torch.no_grad():
            return fine if fine(x[:1].double()).dtype == torch.float64 else None
    except Exception:  # whatever a user's module raises: float64 is a bonus, the margin's guard remains
        return None
