"""Lp(0), the fewest changed entries or pixels that reach the goal: greedy choices by an average of gradients.

    z = argmax <g, z - x>  over the points of the box that differ from x in at most k pixels
    g <- inertia g + (1 - inertia) grad m(z)

The argmax has a closed form: move each pixel to the bound that g points to, for the k pixels with the largest product
of |g| and the distance to that bound (summed over channels). For a linear model this is the nearest point. k decreases
while the goal is reached, and increases slowly, below the best count, while it is not. Where all pixels at their
bounds do not reach the goal, they move a part of the way, another at each step. Averaging damps oscillations.
Each round starts at the image again, aims at other classes and uses another inertia (figures: docs/design/concave.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plica.attacks.base import AttackInput, AttackOutput
from plica.core.status import Status
from plica.metrics import counts


@dataclass(frozen=True)
class SparseSettings:
    """How many pixels are tried.

    Attributes:
        round: gradients of a round.
        inertia: of the average; rounds use the values in turn.
        classes: number of classes that rounds after the first aim at in turn, those with the largest logits.
        left_out: share of the entries, drawn at random, whose gradient at the image is set to 0 in later rounds.
        first: number of pixels at the start, over the number that is enough by the linear model at the image.
        shrink: factor of k after a point that reaches the goal.
        grow: factor of k, to which 1 is added, after `patience` misses in a row.
        grow_unknown: factor of k, to which 1 is added, after each miss of an image without a point.
        patience: see `grow`.
        far: how far a pixel may move where a bound is infinite, over the change of a single pixel that is enough by the
            linear model.
    """

    round: int = 25
    inertia: tuple[float, ...] = (0.7, 0.85, 0.5)
    classes: int = 3
    left_out: float = 0.3
    first: float = 2.0
    shrink: float = 0.85
    grow: float = 1.1
    grow_unknown: float = 1.25
    patience: int = 3
    far: float = 4.0


SETTINGS = SparseSettings()
GOLDEN = (5**0.5 - 1) / 2  # the fractional parts of its multiples fill [0, 1] evenly


def sparse(task: AttackInput) -> AttackOutput:
    """The fewest changed entries or pixels, for a metric that counts them; for MaxLoss at most `radius` of them."""
    every = torch.arange(len(task.x), device=task.x.device)
    status = [Status.BUDGET] * len(every)
    for images in every.split(max(1, task.batch_size)):
        search = SparseSearch(task, images)
        search.run()
        found = task.best.distance[images].isfinite()
        reasons = (
            (Status.SETTLED, search.finished),
            (Status.ZERO_GRADIENT, search.zero_gradient),
            (Status.NOT_FINITE, search.not_finite & ~found),
            (Status.SUCCEEDED, found & torch.tensor(task.radius is not None, device="cpu")),
        )
        for why, holds in reasons:
            for i in images[holds.to(images.device)].tolist():
                status[i] = why
        task.progress(int(images[-1]) + 1)
    return AttackOutput(task.x.new_full((len(every),), torch.nan), status)


class SparseSearch:
    """The search on some images, one row each.

    Attributes:
        average: of gradients.  (i, *image)
        k: number of pixels that may change next; its fractional part is kept between steps.  (i,)
        missed: points in a row that did not reach the goal.  (i,)
        low, high: bounds of the pixels.  (i, *image)
        zero_gradient, not_finite: whether the first gradient was 0, or not finite.  (i,)
    """

    def __init__(self, task: AttackInput, images: Int[Tensor, " i"]):
        self.task, self.images, self.spent = task, images, 0
        self.x, self.by_pixel = task.x[images], counts(task.question.metric) == "pixel"
        self.order = task.goal[images].alternatives(task.logits[images]).argsort(dim=1, descending=True, stable=True)
        self.average = torch.zeros_like(self.x)
        self.low, self.high = (torch.full_like(self.x, bound) for bound in task.bounds)
        self.k, self.missed = self.x.new_zeros(len(images)), torch.zeros_like(images)
        self.zero_gradient, self.not_finite = (torch.zeros_like(images, dtype=torch.bool) for _ in range(2))

    @property
    def limit(self) -> Float[Tensor, " i"]:
        """The largest number of changed pixels that is of use: one less than the best point has, or the radius."""
        if self.task.radius is None:
            return self.task.best.distance[self.images] - 1
        return self.task.radius[self.images].to(self.x).floor()

    @property
    def finished(self) -> Bool[Tensor, " i"]:
        """Images that are finished: with a point inside the radius, or a point that no other could improve."""
        found = self.task.best.distance[self.images].isfinite()
        return (self.limit < 1) | (found & torch.tensor(self.task.radius is not None, device=found.device))

    def run(self) -> None:
        """Round after round, until the budget is spent or no image is left."""
        for number in count():
            for step in range(SETTINGS.round):
                rows = (~self.finished).nonzero()[:, 0]
                if not len(rows) or self.spent >= self.task.gradients:
                    return
                if step == 0:
                    self._start(rows, number)
                else:
                    self._step(rows, number)

    def _random(self, number: int) -> Float[Tensor, "*image"]:
        """Uniform in [0, 1], the same for every image."""
        return self.task.drawn(torch.rand, number).view(self.x.shape[1:])

    def _start(self, rows: Int[Tensor, " r"], number: int) -> None:
        """Evaluate the gradient at the image, and set k: from the linear model, or to one less than the best point's
        count."""
        value, _, grad = self._gradient(self.x[rows], rows, number)
        if number == 0:
            self.zero_gradient[rows] = (grad == 0).flatten(1).all(1)
            self.not_finite[rows] = ~grad.isfinite().flatten(1).all(1)
        grad = grad.nan_to_num(0, 0, 0)
        if not all(abs(bound) < torch.inf for bound in self.task.bounds):
            reach = SETTINGS.far * value.abs() / grad.abs().flatten(1).amax(1).clamp(min=1e-30)
            reach = reach.nan_to_num(0, 0, 0).view(-1, *[1] * (self.x.ndim - 1))
            self.low[rows] = (self.x[rows] - reach).clamp(min=self.task.bounds[0])
            self.high[rows] = (self.x[rows] + reach).clamp(max=self.task.bounds[1])
        self.average[rows] = grad if number == 0 else grad * (self._random(number) > SETTINGS.left_out)
        gain = self._gain(rows).sort(dim=1, descending=True).values.cumsum(1)
        enough = SETTINGS.first * ((gain < -value[:, None]).sum(1) + 1).to(self.x)
        best = self.task.best.distance[self.images[rows]]
        self.k[rows] = torch.where(best.isfinite(), best - 1, enough).minimum(self.limit[rows]).clamp(min=1)
        self.missed[rows] = 0

    def _step(self, rows: Int[Tensor, " r"], number: int) -> None:
        _, reached, grad = self._gradient(self._point(rows), rows, number)
        inertia = SETTINGS.inertia[number % len(SETTINGS.inertia)]
        self.average[rows] = torch.lerp(grad.nan_to_num(0, 0, 0), self.average[rows], inertia)
        k, missed = self.k[rows], torch.where(reached, 0, self.missed[rows] + 1)
        found = self.task.best.distance[self.images[rows]].isfinite()
        up = missed >= torch.where(found, SETTINGS.patience, 1)
        grow = torch.where(found, SETTINGS.grow, SETTINGS.grow_unknown)
        k = torch.where(reached, SETTINGS.shrink * k, torch.where(up, grow * k + 1, k))
        self.k[rows], self.missed[rows] = k.minimum(self.limit[rows]).clamp(min=1), torch.where(up, 0, missed)

    def _gradient(
        self, z: Float[Tensor, "r *image"], rows: Int[Tensor, " r"], number: int
    ) -> tuple[Tensor, Bool[Tensor, " r"], Tensor]:
        """The margin that the round increases, whether the goal is reached, and the gradient of the margin. The point z
        is offered."""
        task, image = self.task, self.images[rows]
        goal, target = task.goal[image], self.order[rows, number % min(SETTINGS.classes, self.order.shape[1])]

        def value(logits: Tensor, part: slice) -> Tensor:
            return goal[part].margin_to(logits, target[part]) if number else goal[part].margin(logits)

        self.spent += 1
        values, logits, grad = task.model.gradient(z, image, value)
        task.best.offer(z, image, logits)
        return values, goal.margin(logits) > task.model.least_margin(logits, image), grad

    def _gain(self, rows: Int[Tensor, " r"]) -> Float[Tensor, "r pixels"]:
        """The increase of the margin if a pixel moves to its bound, by the average gradient."""
        average, x = self.average[rows], self.x[rows]
        gain = average * (torch.where(average > 0, self.high[rows], self.low[rows]) - x)
        return gain.flatten(2).sum(1) if self.by_pixel else gain.flatten(1)

    def _point(self, rows: Int[Tensor, " r"]) -> Float[Tensor, "r *image"]:
        """The next point: the k pixels of largest gain move to their bounds, or part of the way if all pixels at their
        bounds do not reach the goal. A random point of the box while the average gradient is 0."""
        average, x = self.average[rows], self.x[rows]
        order = self._gain(rows).sort(dim=1, descending=True, stable=True).indices
        chosen = torch.arange(order.shape[1], device=order.device) < self.k[rows].floor()[:, None]
        keep = torch.zeros_like(chosen).scatter(1, order, chosen)
        keep = keep.view(len(x), 1, *x.shape[2:]) if self.by_pixel else keep.view_as(x)
        z = torch.where(average > 0, self.high[rows], torch.where(average < 0, self.low[rows], x))
        z = torch.where(keep, z, x)
        if bool((all_at_walls := chosen.all(1) & self.task.best.distance[self.images[rows]].isinf()).any()):
            share = GOLDEN * self.spent % 1  # of the way, for what is reached between the walls only
            z = torch.where(all_at_walls.view(-1, *[1] * (z.ndim - 1)), torch.lerp(x, z, share), z)
        nowhere = (average == 0).flatten(1).all(1).nonzero()[:, 0]
        if len(nowhere):
            some = rows[nowhere]
            z[nowhere] = torch.lerp(self.low[some], self.high[some], self._random(self.spent))
            if self.task.fixed is not None:
                z[nowhere] = torch.where(self.task.fixed, x[nowhere], z[nowhere])
        return z
