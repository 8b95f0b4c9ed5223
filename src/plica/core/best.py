"""The best point of each image so far: every evaluated point is a candidate, whatever the search thinks of it."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plica.core.losses import Targets, margin
from plica.core.model import rounding
from plica.metrics.base import Metric, values
from plica.perturbations.base import ParametricPerturbation, ThetaDistance
from plica.solver.rows import pick, write


class BestPoints:
    """Points that are surely misclassified, one per image: the nearest; or, given radii, one inside them.

    x_adv (b, *image), distance (b,) (inf where there is none), margin (b,); with a perturbation `through` also theta
    (b, k), which x_adv comes from.
    """

    def __init__(
        self,
        metric: Metric,
        x: Float[Tensor, "b *image"],
        y: Int[Tensor, " b"],
        targets: Targets,
        radius: Float[Tensor, " b"] | None,
        through: ParametricPerturbation | None = None,
    ):
        self.metric, self.x, self.y, self.targets, self.radius = metric, x, y, targets, radius
        self.x_adv = x.clone()
        self.theta = None if through is None else through.start(x)
        self.distance = x.new_full((len(x),), torch.inf)
        self.margin = x.new_full((len(x),), -torch.inf)

    @torch.no_grad()
    def offer(
        self,
        z: Float[Tensor, "r *image"],
        image: Int[Tensor, " r"],
        logits: Float[Tensor, "r classes"],
        d: Float[Tensor, " r"] | None = None,
        theta: Float[Tensor, "r k"] | None = None,
    ) -> None:
        """Keep what is better than what was there; several rows may belong to one image. z lies in the box.

        d: the distances of z where they are known. theta: what z was made of, with a perturbation.
        """
        m = self._margin(logits, image)
        rows = self._better(m, logits, image).nonzero()[:, 0]
        if not len(rows):
            return
        if len(rows) < len(z):
            z, image, m, theta = pick(z, rows), image[rows], m[rows], None if theta is None else pick(theta, rows)
            d = None if d is None else d[rows]
        if d is None:
            point = theta if theta is not None and isinstance(self.metric, ThetaDistance) else z
            d = values(self.metric, pick(self.x, image), point)
        good = d < self.distance[image] if self.radius is None else d <= self.radius[image]
        # of several good rows of an image the nearest, of several nearest the first
        d = torch.where(good, d, torch.inf)
        nearest = torch.full_like(self.distance, torch.inf).scatter_reduce(0, image, d, "amin")
        place = torch.arange(len(d), device=d.device).masked_fill(~good | (d > nearest[image]), len(d))
        first = image.new_full((len(self.x),), len(d)).scatter_reduce(0, image, place, "amin")
        at = (first < len(d)).nonzero()[:, 0]
        row = first[at]
        write(self.x_adv, at, pick(z, row))
        self.distance[at], self.margin[at] = d[row], m[row]
        if self.theta is not None and theta is not None:
            write(self.theta, at, pick(theta, row))

    def promising(self, logits: Float[Tensor, "r classes"], image: Int[Tensor, " r"]) -> Int[Tensor, " p"]:
        """The rows that may be kept, wherever they lie: surely misclassified, and within radii by a larger margin than
        what is kept."""
        return self._better(self._margin(logits, image), logits, image).nonzero()[:, 0]

    def _margin(self, logits: Tensor, image: Tensor) -> Float[Tensor, " r"]:
        return margin(logits, self.y[image], None if self.targets is None else self.targets[image])

    def _better(self, m: Tensor, logits: Tensor, image: Tensor) -> Bool[Tensor, " r"]:
        sure = m > rounding(logits)
        return sure if self.radius is None else sure & (m > self.margin[image])

    def adopt(self, other: BestPoints, images: Int[Tensor, " i"]) -> None:
        """Take over the points that another archive of the same images has for the given ones; their theta stays."""
        for mine, theirs in ((self.x_adv, other.x_adv), (self.distance, other.distance), (self.margin, other.margin)):
            mine[images] = theirs[images]
