"""Rounds the points of an attack to the grid, with the help of the gradient (many dimensions)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plica.attacks.base import AttackInput
from plica.attacks.levels.points import GridPoints
from plica.attacks.levels.settings import ROUNDING, SETTINGS
from plica.core.domain.levels import LevelGrid
from plica.core.judging.best import BestPoints
from plica.metrics import LpForm, values
from plica.solver.rows import dot


class Rounding(GridPoints):
    """Rounds the points of an attack to the grid.

    Attributes:
        end: the attack's points.  (r, n)
        surest: those of largest margin, and their margins; None within a radius, where all points have that.
        z: the same, stretched or shrunk.  (r, n)
        added_margin: what the linearisation must reach in addition, because points fell short before.
        inward: whether points move against the gradient where the linearised margin is more than enough.
        ball: radius of the l_inf ball that limits rounding, in units of the distance; inf for other distances.
    """

    def __init__(
        self, task: AttackInput, found: BestPoints, image: Int[Tensor, " r"], grid: LevelGrid, form: LpForm | None
    ):
        self.end = found.x_adv[image].flatten(1)
        super().__init__(task, image, found.x_adv[image], grid, form)
        self.z, self.added_margin = self.end.clone(), torch.zeros_like(self.margin)
        self.radius = None if task.radius is None else task.radius[image]
        self.inward = self.radius is None  # inside a radius a larger margin costs nothing
        self.surest = found.also and (found.also.x_adv[image].flatten(1), found.also.margin[image])
        self.ball = torch.full_like(self.margin, torch.inf)
        self.linf = form is not None and form.p == math.inf
        if self.linf:
            self._widen(torch.arange(len(image), device=image.device), 0.0)

    def run(self) -> None:
        """Round the attack's points; where that leads to none that reaches the goal, the surest ones."""
        self._round_nearest()
        rows = (self.task.best.distance[self.image].isinf() & self._any_left(0)).nonzero()[:, 0]
        if self.surest is not None and len(rows):
            z, margin = self.surest
            nearest = self.points(self.levels(z[rows]), rows)
            # the points that were evaluated may be far away
            self.u[rows], self.margin[rows] = nearest, margin[rows] + dot(self.grad[rows], nearest - z[rows])
            self.z, self.inward = z, False
            self.added_margin.fill_(0)
            self.ball.fill_(math.inf)
            self.evaluate(self._along_gradient(rows), rows, self.left()[rows] > 0)

    def _any_left(self, kept: Tensor | int) -> Bool[Tensor, " r"]:
        """Whether each row has gradients left, or more than `kept` forward runs."""
        return (self.left() > 0) | (self.forwards_left() > kept)

    def _round_nearest(self) -> None:
        """Evaluate one rounded point after another, until no nearer one is expected or the budget is spent. A forward
        run is left for rows without a point of the grid."""
        best, rows = self.task.best, torch.arange(len(self.image), device=self.image.device)
        missed = torch.zeros_like(rows)
        for number in range(SETTINGS.trials):
            kept = 0 if self.surest is None else best.distance[self.image].isinf().long()
            rows = rows[self._any_left(kept)[rows]]
            if not len(rows):
                return
            u = self._rounded(rows)
            if number:
                moved = (u != self.u[rows]).any(1)
                rows, u = rows[moved], u[moved]
                if not len(rows):
                    return
            before = best.distance[self.image[rows]]
            expected = self.margin[rows] + dot(self.grad[rows], u - self.u[rows])
            reached = self.evaluate(u, rows, self.left()[rows] > 0)
            nearer = best.distance[self.image[rows]] < before
            missed[rows] += ~reached
            short = torch.where(missed[rows] > 1, expected - self.margin[rows], 0).clamp(min=0)
            self.added_margin[rows] = torch.where(reached, 0, self.added_margin[rows] + short)
            self._stretch(rows[(missed[rows] > 1) & ~reached], missed)
            ends = nearer if self.linf or self.radius is not None else before.isfinite() & ~nearer
            rows = rows[~ends]

    def _stretch(self, rows: Int[Tensor, " r"], missed: Int[Tensor, " b"]) -> None:
        """Move points that missed the goal farther out, by a step that grows with the number of misses."""
        if self.linf:
            self._widen(rows, self.step)
        elif self.radius is None:
            factor = 1 + SETTINGS.stretch * 2.0 ** (missed[rows] - 2).to(self.z)
            self.z[rows] = torch.lerp(self.x[rows], self.end[rows], factor[:, None])

    def _widen(self, rows: Int[Tensor, " r"], by: float) -> None:
        """Set the l_inf ball to the distance of the attack's point with its largest changes rounded up, or (by > 0)
        enlarge the ball by a level; then stretch the point to its edge."""
        change = self._weighted((self.end - self.x)[rows]).abs()
        size = change.amax(1, keepdim=True)
        if by:
            weight = 1.0 if self.weights is None else float(self.weights.min())
            ball = self.ball[rows] + by * weight
        else:
            outward = self.levels(self.end[rows])
            up = self.end[rows] > self.x[rows]
            outward = torch.where(up, (outward - self.rounding).ceil(), (outward + self.rounding).floor())
            edge = self._weighted(self.step * (outward - self.x_level[rows])).abs()
            ball = edge.masked_fill(change < (1 - ROUNDING) * size, 0).amax(1)
        if self.radius is not None:
            ball = torch.minimum(ball, self.radius[rows].to(ball))
        self.ball[rows] = ball
        self.z[rows] = torch.lerp(self.x[rows], self.end[rows], (ball[:, None] / size).clamp(min=1))

    def _rounded(self, rows: Int[Tensor, " r"]) -> Float[Tensor, "r n"]:
        """The next points; points outside the radius are moved towards the image and rounded again."""
        u, shape = self._along_gradient(rows), (-1, *self.task.x.shape[1:])
        if self.radius is None:
            return u
        for _ in range(SETTINGS.trials):
            d = values(self.task.question.metric, self.x[rows].view(shape), u.view(shape))
            outside = d > self.radius[rows]
            if not bool(outside.any()):
                break
            factor = (self.radius[rows] / d).to(self.z).clamp(max=1 - ROUNDING)
            out = rows[outside]
            self.z[out] = torch.lerp(self.x[out], self.z[out], factor[outside, None])
            u = self._along_gradient(rows)
        return u

    def _along_gradient(self, rows: Int[Tensor, " r"]) -> Float[Tensor, "r n"]:
        """round(z + lambda g / w^2) with the smallest lambda for which the linearised margin suffices."""
        z = self.levels(self.z[rows]).clamp(0, self.grid.levels - 1)
        x, u, grad = self.x_level[rows], self.levels(self.u[rows]).round(), self.grad[rows]
        pull = grad if self.weights is None else grad / self.weights.square()
        least, most = (z - SETTINGS.reach).clamp(min=0), (z + SETTINGS.reach).clamp(max=self.grid.levels - 1)
        if self.linf:
            width = self.ball[rows, None] / self.step
            width = width if self.weights is None else width / self.weights
            least = torch.maximum(least, (x - width - ROUNDING).ceil())
            most = torch.minimum(most, (x + width + ROUNDING).floor())
        rise = (self.added_margin[rows] + self.least[rows] - self.margin[rows]) / self.step
        unit = 1 / pull.abs().amax(1).clamp(min=1e-30)

        def rounded(scale: Tensor) -> Tensor:
            v = torch.addcmul(z, scale[:, None], pull)
            return torch.minimum(torch.maximum(v, least), most).round_()

        def enough(scale: Tensor) -> Tensor:
            return dot(grad, rounded(scale) - u) >= rise

        none = torch.zeros_like(unit)
        up = ~enough(none)
        sign = torch.where(up, unit, -unit)
        low, high = (torch.full_like(unit, exponent) for exponent in SETTINGS.exponents)
        for _ in range(SETTINGS.halvings):
            middle = (low + high) / 2
            below = enough(sign * 2**middle) == up
            low, high = torch.where(below, low, middle), torch.where(below, middle, high)
        scale = sign * 2 ** torch.where(up, high, low)
        if not self.inward:
            scale = torch.where(up, scale, none)
        return self.points(rounded(scale), rows)
