"""The best verified point per image, over all evaluations: every point at which a search runs the model is a candidate,
even if the search does not continue from it."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plica.core.goals import Goal
from plica.core.model.counted import CountedModel
from plica.metrics.base import Metric, values
from plica.perturbations.base import ParametricPerturbation, ThetaDistance
from plica.solver.accelerator import rows_to_copy
from plica.solver.rows import pick, write


class BestPoints:
    """For each image the nearest point that reaches the goal by more than rounding; or, given radii, the point within
    the radius of largest margin (of several in one call, the nearest of those with a larger margin). Changed in place.

    Attributes:
        x_adv: (b, *image), x where there is none yet.
        distance: (b,), inf where there is none yet.
        margin: (b,), -inf where there is none yet.
        theta: (b, k) with x_adv = T(x, theta), for a perturbation `through`; None without.
        model: the model that the offered logits come from; its `least_margin` says which margins exceed rounding.
        also: another record of the same images, to which every point is offered too; None for none.
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
        self.model = model or CountedModel(lambda z: z, len(x), device=x.device)
        self.also: BestPoints | None = None
        # one extra row, to which masked rows are written
        self._points = torch.cat([x, x.new_zeros(1, *x.shape[1:])])
        self._numbers = x.new_full((2, len(x) + 1), torch.inf)
        self._numbers[1] = -torch.inf
        self._nobody = torch.tensor(len(x), device=x.device)  # that row
        self.x_adv = self._points[:-1]
        start = None if through is None else through.start(x)
        self._theta = None if start is None else torch.cat([start, start.new_zeros(1, *start.shape[1:])])
        self.theta = None if self._theta is None else self._theta[:-1]
        self.distance, self.margin = self._numbers[0, :-1], self._numbers[1, :-1]

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
            logits: of the model at z.
            d: the distances of z if they are known; otherwise they are computed.
            theta: the parameters of z = T(x, theta), with a perturbation.
        """
        margin = self.goal[image].margin(logits)
        sure = margin > self.model.least_margin(logits, image)
        self.keep(z, image, margin, sure, d, theta)

    @torch.no_grad()
    def keep(
        self,
        z: Float[Tensor, "p *image"],
        image: Int[Tensor, " r"],
        margin: Float[Tensor, " r"],
        sure: Bool[Tensor, " r"],
        d: Float[Tensor, " r"] | None = None,
        theta: Float[Tensor, "r k"] | None = None,
        once: bool = False,
    ) -> None:
        """As `offer`, for points whose margins are known.

        Args:
            z: the r points; rows beyond these, such as padding, are ignored.
            image, margin, d, theta: of the r points.
            sure: which points are offered: those whose margin exceeds rounding.
            once: whether no image occurs twice.
        """
        if self.also is not None:  # it may have another metric
            self.also.keep(z, image, margin, sure, theta=theta, once=once)
        sure = self._surer(sure, margin, image)
        some = rows_to_copy(sure)
        z = z[: len(sure)]
        if not len(sure if some is None else some):
            return
        if some is not None:
            z = pick(z, some)
            image, margin, sure = image[some], margin[some], sure[some]
            d, theta = None if d is None else d[some], None if theta is None else pick(theta, some)
        if self.model.grid is not None:
            z, d = self.model.on_grid(z, image), None
        if d is None:
            point = theta if theta is not None and isinstance(self.metric, ThetaDistance) else z
            d = values(self.metric, pick(self.x, image), point)
        good = sure & (d < self.distance[image] if self.radius is None else d <= self.radius[image])
        if not once:
            good = self._first(torch.where(good, d, torch.inf), good, image)
        some = rows_to_copy(good)
        if some is not None:
            z, image, margin, d, good = pick(z, some), image[some], margin[some], d[some], good[some]
            theta = None if theta is None else pick(theta, some)
        target = torch.where(good, image, self._nobody)
        write(self._points, target, z)
        self._numbers.index_copy_(1, target, torch.stack([d, margin]))
        if self._theta is not None and theta is not None:
            write(self._theta, target, theta)

    def _first(self, d: Float[Tensor, " r"], good: Bool[Tensor, " r"], image: Int[Tensor, " r"]) -> Bool[Tensor, " r"]:
        """True for one row of each image: the good row with the smallest d, the first one if there are several."""
        none = len(d)
        nearest = torch.full_like(self.distance, torch.inf).scatter_reduce(0, image, d, "amin")
        every = torch.arange(none, device=d.device)
        row = every.masked_fill(~good | (d > nearest[image]), none)
        first = image.new_full((len(self.x),), none).scatter_reduce(0, image, row, "amin")
        return first[image] == every

    def promising(self, logits: Float[Tensor, "r *output"], image: Int[Tensor, " r"]) -> Int[Tensor, " p"]:
        """The rows that `offer` would keep if their distance allowed it: those that reach the goal by more than
        rounding and, given radii, by a larger margin than the point kept so far."""
        margin = self.goal[image].margin(logits)
        return self._surer(margin > self.model.least_margin(logits, image), margin, image).nonzero()[:, 0]

    def _surer(self, sure: Tensor, margin: Tensor, image: Tensor) -> Bool[Tensor, " r"]:
        """Given radii, the sure rows with a larger margin than the point kept so far; else all sure rows."""
        return sure if self.radius is None else sure & (margin > self.margin[image])

    def adopt(self, other: BestPoints, images: Int[Tensor, " i"]) -> None:
        """Copy the points that `other`, which has the same images, keeps for some of them; theta is not copied."""
        for own, new in ((self.x_adv, other.x_adv), (self.distance, other.distance), (self.margin, other.margin)):
            own[images] = new[images]
