"""Best verified point per image, over every evaluation: each evaluated point is a candidate, whether or not the search
goes on from it."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plica.core.goals import Goal
from plica.core.model.counted import CountedModel
from plica.metrics.base import Metric, values
from plica.perturbations.base import ParametricPerturbation, ThetaDistance
from plica.solver.rows import pick, write


class BestPoints:
    """For each image the nearest point that reaches the goal by more than rounding; or, given radii, the one of largest
    margin within its radius. Changed in place.

    Attributes:
        x_adv: (b, *image), x where there is none yet.
        distance: (b,), inf where there is none yet.
        margin: (b,), -inf where there is none yet.
        theta: (b, k), what x_adv was made of, for a perturbation `through`; None without.
        model: whose logits are offered, which says what margin is more than rounding.
    """

    def __init__(
        self,
        metric: Metric,
        x: Float[Tensor, "b *image"],
        goal: Goal,
        radius: Float[Tensor, " b"] | None,
        through: ParametricPerturbation | None = None,
        model: CountedModel | None = None,
    ):
        self.metric, self.x, self.goal, self.radius = metric, x, goal, radius
        self.model = model or CountedModel(lambda z: z, len(x))
        self.x_adv = x.clone()
        self.theta = None if through is None else through.start(x)
        self.distance = x.new_full((len(x),), torch.inf)
        self.margin = x.new_full((len(x),), -torch.inf)

    @torch.no_grad()
    def offer(
        self,
        z: Float[Tensor, "r *image"],
        image: Int[Tensor, " r"],
        logits: Float[Tensor, "r *output"],
        d: Float[Tensor, " r"] | None = None,
        theta: Float[Tensor, "r k"] | None = None,
    ) -> None:
        """Keep each point that is better than the one kept for its image.

        Args:
            z: points within the bounds.
            image: index of each point's image; several points may have the same.
            logits: the model's, at z.
            d: the distances of z where they are known, else computed.
            theta: what z was made of, with a perturbation.
        """
        margin = self.goal[image].margin(logits)
        rows = self._better(margin, logits, image).nonzero()[:, 0]
        if not len(rows):
            return
        if len(rows) < len(z):
            z, image, margin = pick(z, rows), image[rows], margin[rows]
            d, theta = None if d is None else d[rows], None if theta is None else pick(theta, rows)
        if self.model.grid is not None:
            z, d = self.model.on_grid(z, image), None
        if d is None:
            point = theta if theta is not None and isinstance(self.metric, ThetaDistance) else z
            d = values(self.metric, pick(self.x, image), point)
        good = d < self.distance[image] if self.radius is None else d <= self.radius[image]
        images, rows = self._nearest(torch.where(good, d, torch.inf), good, image)
        write(self.x_adv, images, pick(z, rows))
        self.distance[images], self.margin[images] = d[rows], margin[rows]
        if self.theta is not None and theta is not None:
            write(self.theta, images, pick(theta, rows))

    def _nearest(
        self, d: Float[Tensor, " r"], good: Bool[Tensor, " r"], image: Int[Tensor, " r"]
    ) -> tuple[Int[Tensor, " i"], Int[Tensor, " i"]]:
        """The images with a good row, and of each the good row of least d, the first of several."""
        none = len(d)
        nearest = torch.full_like(self.distance, torch.inf).scatter_reduce(0, image, d, "amin")
        row = torch.arange(none, device=d.device).masked_fill(~good | (d > nearest[image]), none)
        first = image.new_full((len(self.x),), none).scatter_reduce(0, image, row, "amin")
        images = (first < none).nonzero()[:, 0]
        return images, first[images]

    def promising(self, logits: Float[Tensor, "r *output"], image: Int[Tensor, " r"]) -> Int[Tensor, " p"]:
        """The rows that `offer` would keep if they were near enough: those that reach the goal by more than rounding
        and, with radii, by a larger margin than the point kept."""
        return self._better(self.goal[image].margin(logits), logits, image).nonzero()[:, 0]

    def _better(self, margin: Tensor, logits: Tensor, image: Tensor) -> Bool[Tensor, " r"]:
        sure = margin > self.model.least_margin(logits, image)
        return sure if self.radius is None else sure & (margin > self.margin[image])

    def adopt(self, other: BestPoints, images: Int[Tensor, " i"]) -> None:
        """Copy the points that `other` has for the given of the same images; theta stays as it is."""
        for own, new in ((self.x_adv, other.x_adv), (self.distance, other.distance), (self.margin, other.margin)):
            own[images] = new[images]
