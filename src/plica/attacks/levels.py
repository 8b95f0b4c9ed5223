"""Results on a grid of levels (core/domain/levels.py): a point is moved to the grid and the search continues there.

In many dimensions the attack runs without the grid, since its steps are far smaller than a level. Then its point z is
rounded with the help of the gradient g of the margin at a known grid point u:

    u' = round(z + lambda g / w^2)     with the smallest lambda for which  m(u) + g (u' - u) >= the margin that counts,

where w are the weights of the distance. If u' falls short because the margin is curved, the shortfall is added to the
margin that the next trial aims at. In few dimensions, where levels are coarse, the attack itself runs at grid points
(CountedModel.on_grid); from the nearest one, changes of one or two pixels by one level that lower the distance are
tried, those with the largest predicted margin first. docs/design/levels.md has the alternatives that were measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plica.attacks.base import Attack, AttackInput, AttackOutput
from plica.attacks.boundary_search import affordable
from plica.core.domain.levels import LevelGrid
from plica.core.judging.best import BestPoints
from plica.core.model.gradient import NoGradientError
from plica.core.status import Status
from plica.metrics import LpForm, counts, lp_form, values
from plica.solver.rows import dot


@dataclass(frozen=True)
class LevelSettings:
    """What the search on the grid may do.

    Attributes:
        dimensions: up to which the attack itself runs on the grid.
        kept: one of so many gradients is reserved for the grid,
        most: and no more than so many in more dimensions.
        looks: at grid points, where an image has gradients left because its attack ended early, or forward runs.
        reach: levels that a pixel of u' may be away from z.
        stretch: of the perturbation from the third point on that is classified correctly, doubled each time.
        halvings: of the interval of log2(lambda).
        exponents: that interval, for the largest change in levels.
    """

    dimensions: int = 100
    kept: int = 5
    most: int = 2
    looks: int = 12
    reach: float = 1.5
    stretch: float = 0.01
    halvings: int = 16
    exponents: tuple[float, float] = (-8.0, 12.0)


SETTINGS = LevelSettings()
ENOUGH = 4.0  # times the margin that counts, which a point is rounded for: the judge looks in float64 too
INSIDE = 2e-6  # of a radius, more than searches leave free inside it
ROUNDING = 1e-3  # of a level, within which a pixel is taken to lie on the grid


def on_levels(attack: Attack, task: AttackInput, grid: LevelGrid) -> tuple[AttackInput, AttackOutput]:
    """Run the attack and search the grid; the task with the best points of the grid, and the attack's output.

    grid: of the images of the task, the same step for all pixels.
    """
    form = lp_form(task.question.metric)
    # of a count no pixel may be rounded that the attack left alone
    few = task.x[0].numel() <= SETTINGS.dimensions or counts(task.question.metric) is not None
    model = task.model.with_grid(grid)
    # where no other points are looked at, those that progress is told of
    best = task.best if few else BestPoints(task.question.metric, task.x, task.goal, task.radius)
    best.model = model
    on_grid = replace(task, model=model, best=best)
    searched = _searched(task.radius, form, grid)
    batches = torch.arange(len(task.x), device=task.x.device).split(max(1, task.batch_size))
    kept = task.gradients // SETTINGS.kept
    if few:
        if form is None or task.radius is not None:
            return on_grid, attack(replace(on_grid, radius=searched))
        output = attack(replace(on_grid, gradients=task.gradients - kept))
        for images in batches:
            _Descent(on_grid, images[best.distance[images].isfinite()], grid, form).run()
        return on_grid, output
    enough = _room(searched, task.x[0].numel(), form, grid)
    gradients = task.gradients - min(kept, SETTINGS.most)
    output = attack(replace(task, radius=searched, gradients=gradients, enough=enough))
    found = task.best.distance.isfinite()
    for images in batches:
        _Rounding(on_grid, task.best, images[task.best.distance[images].isfinite()], grid, form).run()
    lost = (found & best.distance.isinf()).tolist()
    status = [Status.OFF_GRID if none else old for none, old in zip(lost, output.status, strict=True)]
    return on_grid, replace(output, status=status)


def _searched(radius: Float[Tensor, " b"] | None, form: LpForm | None, grid: LevelGrid) -> Float[Tensor, " b"] | None:
    """The radius that the attack is given, of which it uses a little less than all: a little more than the radius; in
    l_inf a whole number of levels where all images lie on the grid, as all distances are."""
    if radius is None:
        return None
    step = grid.step.double()
    if form is not None and form.p == math.inf and form.weights is None and bool((grid.level >= 0).all()):
        radius = ((radius - grid.rounding) / step + ROUNDING).floor() * step  # api/entry.py has added it
    return radius * (1 + INSIDE)


def _room(
    radius: Float[Tensor, " b"] | None, n: int, form: LpForm | None, grid: LevelGrid
) -> Float[Tensor, " b"] | None:
    """The radius less what rounding adds to the distance, if it rounds every pixel: n E|r|^p for r uniform in half a
    level to either side; two levels for p <= 1, whose perturbations change few pixels."""
    if radius is None or form is None or form.weights is not None or form.p == math.inf:
        return None
    step = float(grid.step)
    if form.p <= 1:
        return (radius - 2 * step).clamp(min=0)
    added = n * (step / 2) ** form.p / (form.p + 1)
    return (radius**form.p - added).clamp(min=0) ** (1 / form.p)


class _Looks:
    """Grid points u of some images, looked at one after the other; what all searches of the grid share.

    Attributes:
        image: of each row, among those of the task.
        x, u: pixels.  (r, n)
        margin, grad: at u, as of the last look with a gradient.
    """

    def __init__(self, task: AttackInput, image: Int[Tensor, " r"], u: Tensor, grid: LevelGrid, form: LpForm | None):
        self.task, self.image, self.grid = task, image, grid
        self.x, self.u = task.x[image].flatten(1), u.flatten(1)
        self.step, self.low = float(grid.step), task.bounds[0]
        level = grid.level[image].flatten(1)
        self.x_level = torch.where(level < 0, self.levels(self.x), level)
        self.rounding = min(0.5, ROUNDING + grid.rounding / self.step)
        weights = None if form is None or form.weights is None else form.weights.to(self.x)
        self.weights = None if weights is None else weights.expand(task.x.shape[1:]).flatten()
        self.margin, self.grad = self.x.new_zeros(len(image)), torch.zeros_like(self.x)
        self.least = self.x.new_zeros(len(image))

    def levels(self, pixels: Tensor) -> Tensor:
        return (pixels - self.low) / self.step

    def points(self, levels: Float[Tensor, "r n"], rows: Int[Tensor, " r"]) -> Float[Tensor, "r n"]:
        pixels = (self.low + self.step * levels).view(-1, *self.task.x.shape[1:])
        return self.grid(pixels, self.image[rows]).flatten(1)

    def _weighted(self, delta: Tensor, pixels: Tensor | None = None) -> Tensor:
        """delta times the weights, of all pixels or the given ones; 0 where a pixel must not move."""
        if self.weights is None:
            return delta
        weights = self.weights.masked_fill(self.weights.isinf(), 0)
        return delta * (weights if pixels is None else weights[pixels])

    def left(self) -> Int[Tensor, " r"]:
        """Gradients that each row may still spend."""
        return self.task.gradients - self.task.model.gradients[self.image]

    def forwards_left(self) -> Int[Tensor, " r"]:
        """Forward runs that each row may still spend, beside those that the judge needs."""
        return affordable(self.task.gradients) - self.task.model.forwards[self.image]

    def look(
        self, u: Float[Tensor, "r n"], rows: Int[Tensor, " r"], with_gradient: Bool[Tensor, " r"]
    ) -> Bool[Tensor, " r"]:
        """Whether the goal is reached at u, by a gradient or a forward run for each row; what was seen is kept."""
        reached = torch.zeros_like(rows, dtype=torch.bool)
        for which, look in ((with_gradient, self._gradient), (~with_gradient, self._forward)):
            if bool(which.any()):
                reached[which] = look(u[which], rows[which])
        return reached

    def _forward(self, u: Float[Tensor, "r n"], rows: Int[Tensor, " r"]) -> Bool[Tensor, " r"]:
        z, image = u.view(-1, *self.task.x.shape[1:]), self.image[rows]
        logits = self.task.model.logits(z, image)
        self.margin[rows], self.u[rows] = self.task.goal[image].margin(logits), u
        return self._offer(z, rows, logits)

    def _gradient(self, u: Float[Tensor, "r n"], rows: Int[Tensor, " r"]) -> Bool[Tensor, " r"]:
        """Where a model has no gradient or one of 0, that of the line from the image to u takes its place."""
        task, image = self.task, self.image[rows]
        goal, z = task.goal[image], u.view(-1, *task.x.shape[1:])
        try:
            margin, logits, grad = task.model.gradient(z, image, lambda logits, part: goal[part].margin(logits))
            grad = grad.flatten(1)
        except NoGradientError:
            logits = task.model.logits(z, image)
            margin, grad = goal.margin(logits), torch.zeros_like(u)
        delta = u - self.x[rows]
        rise = (margin - goal.margin(task.logits[image])) / dot(delta, delta).clamp(min=1e-30)
        flat = (grad == 0).all(1) | ~grad.isfinite().all(1)
        self.grad[rows] = torch.where(flat[:, None], rise[:, None] * delta, grad)
        self.margin[rows], self.u[rows] = margin, u
        return self._offer(z, rows, logits)

    def _offer(self, z: Tensor, rows: Int[Tensor, " r"], logits: Tensor) -> Bool[Tensor, " r"]:
        image = self.image[rows]
        self.task.best.offer(z, image, logits)
        least = self.task.model.least_margin(logits, image)
        self.least[rows] = ENOUGH * least
        return self.task.goal[image].margin(logits) > least


class _Rounding(_Looks):
    """The points of an attack, taken to the grid.

    Attributes:
        z: the attack's points, stretched or shrunk.  (r, n)
        need: the margin that is asked of the linearisation.
        ball: of l_inf, in units of the distance; inf for other distances.
    """

    def __init__(
        self, task: AttackInput, found: BestPoints, image: Int[Tensor, " r"], grid: LevelGrid, form: LpForm | None
    ):
        self.end = found.x_adv[image].flatten(1)
        super().__init__(task, image, found.x_adv[image], grid, form)
        self.z, self.need = self.end.clone(), torch.zeros_like(self.margin)
        self.radius = None if task.radius is None else task.radius[image]
        self.ball = torch.full_like(self.margin, torch.inf)
        self.linf = form is not None and form.p == math.inf
        if self.linf and len(image):
            self._widen(torch.arange(len(image), device=image.device), 0.0)

    def run(self) -> None:
        """Look at one rounded point after the other, until nothing nearer is expected or the budget is spent."""
        best, rows = self.task.best, torch.arange(len(self.image), device=self.image.device)
        missed = torch.zeros_like(rows)
        for number in range(SETTINGS.looks):
            rows = rows[(self.left()[rows] > 0) | (self.forwards_left()[rows] > 0)]
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
            reached = self.look(u, rows, self.left()[rows] > 0)
            nearer = best.distance[self.image[rows]] < before
            missed[rows] += ~reached
            short = torch.where(missed[rows] > 1, expected - self.margin[rows], 0).clamp(min=0)
            self.need[rows] = torch.where(reached, 0, self.need[rows] + short)
            self._stretch(rows[(missed[rows] > 1) & ~reached], missed)
            ends = nearer if self.linf or self.radius is not None else before.isfinite() & ~nearer
            rows = rows[~ends]

    def _stretch(self, rows: Int[Tensor, " r"], missed: Int[Tensor, " b"]) -> None:
        """Points that were classified correctly so many times, farther out."""
        if self.linf and len(rows):
            self._widen(rows, self.step)
        elif self.radius is None:
            factor = 1 + SETTINGS.stretch * 2.0 ** (missed[rows] - 2).to(self.z)
            self.z[rows] = torch.lerp(self.x[rows], self.end[rows], factor[:, None])

    def _widen(self, rows: Int[Tensor, " r"], by: float) -> None:
        """The ball of l_inf: the distance of the attack's point with its largest changes rounded up, or the one before
        and a level more; the point is stretched to its edge."""
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
        """The next points; those outside the radius shrink."""
        u, shape = self._along_gradient(rows), (-1, *self.task.x.shape[1:])
        if self.radius is None:
            return u
        for _ in range(SETTINGS.looks):
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
        """round(z + lambda g / w^2) for the lambda of least size for which the linearised margin is enough."""
        z = self.levels(self.z[rows]).clamp(0, self.grid.levels - 1)
        x, u, grad = self.x_level[rows], self.levels(self.u[rows]).round(), self.grad[rows]
        pull = grad if self.weights is None else grad / self.weights.square()
        least, most = (z - SETTINGS.reach).clamp(min=0), (z + SETTINGS.reach).clamp(max=self.grid.levels - 1)
        if self.linf:
            width = self.ball[rows, None] / self.step
            width = width if self.weights is None else width / self.weights
            least = torch.maximum(least, (x - width - ROUNDING).ceil())
            most = torch.minimum(most, (x + width + ROUNDING).floor())
        want = (self.need[rows] + self.least[rows] - self.margin[rows]) / self.step
        unit = 1 / pull.abs().amax(1).clamp(min=1e-30)

        def rounded(scale: Tensor) -> Tensor:
            v = torch.addcmul(z, scale[:, None], pull)
            return torch.minimum(torch.maximum(v, least), most).round_()

        def enough(scale: Tensor) -> Tensor:
            return dot(grad, rounded(scale) - u) >= want

        none = torch.zeros_like(unit)
        up = ~enough(none)
        sign = torch.where(up, unit, -unit)
        low, high = (torch.full_like(unit, exponent) for exponent in SETTINGS.exponents)
        for _ in range(SETTINGS.halvings):
            middle = (low + high) / 2
            below = enough(sign * 2**middle) == up
            low, high = torch.where(below, low, middle), torch.where(below, middle, high)
        scale = sign * 2 ** torch.where(up, high, low)
        if self.radius is not None:
            scale = torch.where(up, scale, none)  # inside the radius a larger margin costs nothing
        return self.points(rounded(scale), rows)


class _Descent(_Looks):
    """Changes of one or two pixels by a level from the nearest grid points, in few dimensions and for l_p norms.

    A change is tried if it lowers the distance; of all such, that of the largest margin by the linearisation at u. With
    forward runs while there are any, then with gradients.
    """

    def __init__(self, task: AttackInput, image: Int[Tensor, " r"], grid: LevelGrid, form: LpForm):
        super().__init__(task, image, task.best.x_adv[image], grid, form)
        self.p = form.p
        n = self.x.shape[1]
        pixel = torch.arange(n, device=self.x.device)
        none = self.x.new_zeros(1)
        # a change is a pair of moves; move 0 is none, then each pixel a level up, then each a level down
        self.pixel = torch.cat([pixel[:1] - 1, pixel, pixel])
        self.by = torch.cat([none, torch.ones_like(pixel).to(none), -torch.ones_like(pixel).to(none)])
        self.pairs = self.pixel[:, None] != self.pixel
        self.pairs[0, 0] = self.p == math.inf
        self.tried = torch.zeros(len(image), *self.pairs.shape, dtype=torch.bool, device=self.x.device)

    def run(self) -> None:
        """Try one change after the other until none is left or the budget is spent."""
        rows = torch.arange(len(self.image), device=self.image.device)
        rows = rows[self.left() > 0]
        if not len(rows):
            return
        self._gradient(self.u[rows], rows)
        while len(rows):
            u, any_left = self._next(rows)
            rows, u = rows[any_left], u[any_left]
            cheap = self.forwards_left()[rows] > 0
            able = cheap | (self.left()[rows] > 0)
            rows, u, cheap = rows[able], u[able], cheap[able]
            old = self.u[rows], self.margin[rows], self.grad[rows]
            reached = self.look(u, rows, ~cheap)
            again = rows[reached & cheap & (self.left()[rows] > 0)]
            if len(again):
                self._gradient(self.u[again], again)
            self.tried[rows[reached]] = False
            back = rows[~reached]  # the search goes on from where the goal is reached
            for own, value in zip((self.u, self.margin, self.grad), old, strict=True):
                own[back] = value[~reached]

    def _next(self, rows: Int[Tensor, " r"]) -> tuple[Float[Tensor, "r n"], Bool[Tensor, " r"]]:
        """The next point of each row, marked as tried; and whether there is one."""
        base, least, most = self._base(rows)
        moved = base[:, self.pixel] + self.by  # of move 0 the last pixel, which is not used
        inside = (moved >= least[:, self.pixel]) & (moved <= most[:, self.pixel])
        inside[:, 0] = (least <= most).all(1)
        gain = self.step * self.by * self.grad[rows][:, self.pixel]
        allowed = inside[:, :, None] & inside[:, None, :] & ~self.tried[rows] & self.pairs
        if self.p < math.inf:
            x = self.x_level[rows]
            size = self._weighted(base - x).abs() ** self.p
            cost = self._weighted(moved - x[:, self.pixel], self.pixel).abs() ** self.p - size[:, self.pixel]
            cost[:, 0] = 0
            allowed &= cost[:, :, None] + cost[:, None, :] < -ROUNDING * size.amax(1)[:, None, None]
        expected = (gain[:, :, None] + gain[:, None, :]).masked_fill(~allowed, -torch.inf).flatten(1)
        change = expected.argmax(1)
        first, second = change // len(self.pixel), change % len(self.pixel)
        self.tried[rows, first, second] = True
        self.tried[rows, second, first] = True
        each = torch.arange(len(rows), device=rows.device)
        for move in (first, second):
            base[each, self.pixel[move]] += self.by[move]
        return self.points(base, rows), expected.amax(1) > -torch.inf

    def _base(self, rows: Int[Tensor, " r"]) -> tuple[Tensor, Tensor, Tensor]:
        """The levels that are changed, and the least and greatest ones of each pixel: those of u; in l_inf u moved a
        level along the gradient, as far as a smaller distance allows."""
        u, x = self.levels(self.u[rows]).round(), self.x_level[rows]
        least, most = torch.zeros_like(u), torch.full_like(u, self.grid.levels - 1)
        if self.grid.fixed is not None:
            fixed = self.grid.fixed.flatten()
            least, most = torch.where(fixed, u, least), torch.where(fixed, u, most)
        if self.p < math.inf:
            return u, least, most
        size = self._weighted(u - x).abs().amax(1, keepdim=True)
        width = (1 - 2 * ROUNDING) * size
        width = width if self.weights is None else width / self.weights
        least, most = torch.maximum(least, (x - width).ceil()), torch.minimum(most, (x + width).floor())
        return torch.minimum(torch.maximum(u + self.grad[rows].sign(), least), most), least, most
