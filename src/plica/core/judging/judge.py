"""The judge: checks every point again, in the same way for every method.

A point counts if all of these hold. It reaches the goal by a margin that rounding cannot undo (rounding.py), in two
runs if the model can be run in two ways (model.SecondRun). It lies within the bounds. For MaxLoss, its distance,
computed in float64, is at most the radius.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plica.core.goals import Goal, finite
from plica.core.model.counted import CountedModel
from plica.core.model.draws import MeanOfDraws
from plica.metrics import Metric, distance
from plica.perturbations.base import ThetaDistance
from plica.solver.rows import WHOLE


@dataclass
class Judgement:
    """What the judge measured at each point. When points are judged again, rows.put replaces their values.

    Attributes:
        sure: whether the point counts.
        margin: the value of the goal, in units of the output.
        distance: of the metric, in float64; inf where not sure.
        violation: the largest amount by which a constraint (bounds, margin, radius) is missed; 0 where sure.
        prediction: the class with the largest logit; -1 if the goal has no classes.
        share: of the judge's draws that reach the goal; nan for models without random outputs.
    """

    sure: Bool[Tensor, " b"]
    margin: Float[Tensor, " b"]
    distance: Float[Tensor, " b"]
    violation: Float[Tensor, " b"]
    prediction: Int[Tensor, " b"]
    share: Float[Tensor, " b"]


@dataclass(frozen=True)
class Judge:
    """Measures a point x_adv for each of the images x. Judges of some of the images: rows.take.

    Attributes:
        model: runs the model and counts: judging a point costs one forward run, two with a second run.
        second: the model run in another way (model.SecondRun); it returns None if there is no other way. None if a
            second run would exceed the budget.
        goal: of each image.
        radius: of each image, in the metric's units; None for MinRadius.
        bounds: of all pixels.
        image: index, among the images that `model` counts, of the image that each point is charged to.
        mean: for a model with random outputs, whose fresh draws are judged; there is then a single image.
    """

    model: CountedModel
    second: Callable[[Tensor], Tensor | None] | None
    metric: Metric = field(metadata=WHOLE)
    x: Float[Tensor, "b *image"]
    goal: Goal
    radius: Float[Tensor, " b"] | None
    bounds: tuple[float, float]
    image: Int[Tensor, " b"]
    mean: MeanOfDraws | None = field(default=None, metadata=WHOLE)

    @torch.no_grad()
    def __call__(
        self,
        x_adv: Float[Tensor, "b *image"],
        theta: Float[Tensor, "b k"] | None = None,
        second: Float[Tensor, " b"] | None = None,
    ) -> Judgement:
        """Judge a point for each image.

        Args:
            x_adv: the points.
            theta: their parameters, x_adv = T(x, theta), for a metric on theta.
            second: `second_margin` of x_adv if it is known, nan for points to be judged without a second run; None to
                start the second run here.
        """
        if self.mean is not None:
            margin, prediction, share = majority(self.goal, self.mean.fresh(x_adv))
            sure = margin > 0
        else:
            logits = self.model.logits(x_adv, self.image)
            margin, prediction = self.goal.margin(logits).double(), self.goal.prediction(logits)
            sure, share = margin > self.model.least_margin(logits, self.image), torch.full_like(margin, torch.nan)
            if second is None and self.second is not None:
                second = self.second_margin(x_adv)
            if second is not None:
                sure &= second.isnan() | confirms(second, margin, self.model.few(self.image))
            margin = self.goal.margin(self.model.reported(logits)).double()
        low, high = self.bounds
        pixels = x_adv.flatten(1).double()
        outside = torch.maximum(low - pixels.amin(1), pixels.amax(1) - high).clamp(min=0)
        d = self.distances(x_adv, theta)
        violation = torch.maximum(outside, (-margin).clamp(min=0))
        if self.radius is not None:
            violation = torch.maximum(violation, (d - self.radius).clamp(min=0))
        sure = sure & (outside == 0) & d.isfinite() & (d >= 0)  # a metric of the user may return negative numbers
        sure = sure & (d <= (torch.inf if self.radius is None else self.radius))
        distances = torch.where(sure, d, torch.inf)
        return Judgement(sure, margin, distances, torch.where(sure, 0, violation), prediction, share)

    def distances(self, x_adv: Float[Tensor, "b *image"], theta: Float[Tensor, "b k"] | None) -> Float[Tensor, " b"]:
        """The distance of each point by the metric, in float64."""
        point = x_adv if theta is None or not isinstance(self.metric, ThetaDistance) else theta
        return distance(self.metric, self.x, point)

    @torch.no_grad()
    def second_margin(self, x_adv: Float[Tensor, "b *image"]) -> Float[Tensor, " b"]:
        """The margin of each point in the second run, for one forward run; -inf where it is not a number, nan where the
        model runs one way only."""
        assert self.second is not None
        self.model.charge_forwards(self.image)
        margins: list[Tensor] = []
        for start in range(0, len(x_adv), self.model.max_rows):
            part = slice(start, start + self.model.max_rows)
            output = self.second(x_adv[part].double())
            if output is None:
                return x_adv.new_full((len(x_adv),), torch.nan, dtype=torch.float64)
            margins.append(self.goal[part].margin(output).nan_to_num(-torch.inf, torch.inf, -torch.inf))
        return torch.cat(margins)


def majority(
    goal: Goal, outputs: Float[Tensor, "draws *output"]
) -> tuple[Float[Tensor, " 1"], Int[Tensor, " 1"], Float[Tensor, " 1"]]:
    """The median margin, the most frequent class and the share that reaches the goal, over draws at one point.

    Of an even number of draws the median is the lower of the two middle ones, so that it is positive exactly if more
    than half of the draws reach the goal. An output that is not finite does not reach it.
    """
    goal = goal[torch.zeros(len(outputs), dtype=torch.long, device=outputs.device)]
    margins = torch.where(finite(outputs), goal.margin(outputs).double(), -torch.inf)
    share = (margins > 0).double().mean()[None]
    return margins.median()[None], goal.prediction(outputs).mode().values[None], share


def confirms(
    second: Float[Tensor, " b"], margin: Float[Tensor, " b"], few_digits: Bool[Tensor, " b"]
) -> Bool[Tensor, " b"]:
    """Whether the second run confirms a success. A margin that it changes by a third is put down to rounding; where
    differences of logits have few digits, one that it changes by its own size. Both margins of a confirmed success are
    thus positive."""
    return (second - margin).abs() < margin / torch.where(few_digits, 1.0, 3.0)
