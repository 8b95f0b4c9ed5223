"""MinRadius for distances that are kept whole (solver/linearized): which classes, which starts, in which order.

One fixed sequence of gradients per image, which does not know the budget: a larger budget goes on where a smaller one
stopped. First a race of classes, dropped by where their linear models meet the boundary; then, round after round,
starts from far outside, until five of them came back to the same point. MaxLoss is answered by the same search: an
image is broken at radius r exactly when its radius is at most r.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plica.attacks.base import AttackOutput, Task
from plica.attacks.boundary_search import land
from plica.attacks.prox_settings import Geometry, geometry
from plica.attacks.radius.ascent import ascend
from plica.core.best import BestPoints
from plica.core.losses import margin
from plica.core.model import rounding
from plica.core.status import Status
from plica.solver.linearized.proximal_sqp import BLOCK, ProximalSQP
from plica.solver.linearized.state import ProximalState
from plica.solver.rows import join, put, take

FIRST, MORE = 5, 2  # classes tried by logit at first, and after ten gradients
FAR = (2.0, 8.0, 4.0, 16.0)  # starts at so many times the length of the best perturbation, in turn
AIMED = (0, 0, 1)  # at which class: the best one, or the second best
ASCENT = 8  # gradients of direct ascent, for one more start
SAME, SETTLED = 1e-3, 5  # relative distance to the best below which a round ended at the same point; rounds that end it
WIDE = 3.0  # times the best radius, the ball of the ascent
LANDINGS = 4  # forward runs at a time towards the boundary; regula falsi gains a digit with each
INSIDE = 1 - 1e-6  # of the radius asked for: a distance in float32 stays inside it in float64
RESERVED = 4  # forward runs that the first look and the judge, in two precisions, need


def radius(task: Task) -> AttackOutput:
    """The nearest misclassified point, for a metric with a prox. Raises Unsupported for one without.

    For MaxLoss the same search, which leaves an image at its first point inside the radius.
    """
    shape = geometry(task.question.metric, task.x, task.bounds)
    stationarity = task.x.new_full((len(task.x),), torch.nan)
    every = torch.arange(len(task.x), device=task.x.device)
    settled = torch.zeros_like(every, dtype=torch.bool)
    near, wanted = task, torch.zeros_like(task.logits[:, 0])
    if task.radius is not None:
        best = BestPoints(task.question.metric, task.x, task.y, task.targets, None)
        near, wanted = replace(task, best=best, radius=None), task.radius.to(wanted) * INSIDE
    for images in every.split(max(1, task.batch_size)):
        search = _Search(near, images, shape, wanted)
        search.run()
        stationarity[images], settled[images] = search.residual, search.settled
        if near is not task:
            task.best.adopt(near.best, images[near.best.distance[images] <= wanted[images]])
        task.progress(int(images[-1]) + 1)
    done = (near.best.distance <= wanted).tolist()
    rest = [Status.SETTLED if same else Status.BUDGET for same in settled.tolist()]
    return AttackOutput(stationarity, [Status.SUCCEEDED if d else why for d, why in zip(done, rest, strict=True)])


@dataclass
class Candidates:
    """The state of a search, m rows for each of some images: row (i, j) at i * images + j. The solver moves
    u = scale (z - x)."""

    place: Int[Tensor, " r"]
    target: Int[Tensor, " r"]
    best: Float[Tensor, " r"]
    state: ProximalState


class _SpentError(Exception):
    """The budget is spent, or all images are answered."""


class _Search:
    """The search on some images at once, in lock step: the schedule is the same for all of them."""

    def __init__(self, task: Task, images: Int[Tensor, " i"], shape: Geometry, wanted: Float[Tensor, " b"]):
        self.task, self.images, self.shape, self.wanted = task, images, shape, wanted
        self.x, self.y = task.x[images].flatten(1), task.y[images]
        self.spent, self.round, self.landed = 0, 0, 0
        self.points = self.x.new_zeros(0, self.x.shape[1])
        self.residual = self.x.new_full((len(images),), torch.nan)
        self.best = self.x.new_full((len(images),), torch.inf)
        self.again = torch.zeros_like(images)  # rounds in a row that found nothing nearer and ended at the same point
        others = task.logits[images].scatter(1, self.y[:, None], -torch.inf)
        self.order = others.argsort(dim=1, descending=True, stable=True)[:, :-1]
        if task.targets is not None:
            self.order = task.targets[images, None]
        # the distance of each class so far; untried ones rank behind, by logit
        self.table = self.x.new_full(task.logits[images].shape, torch.inf)
        ranks = torch.arange(self.order.shape[1], device=self.x.device) * 1e6 + 1e30
        self.table.scatter_(1, self.order, ranks.to(self.x).expand_as(self.order))

    def run(self) -> None:
        try:
            self._race()
            while True:
                self._explore()
        except _SpentError:
            return

    def _race(self) -> None:
        """To 10, 30 and 50 gradients: five classes at the image, then those whose estimate is least; at last the best
        one in waves, far beyond the boundary and back to it, which comes to rest in better minima than going straight.
        """
        solver, (wave, last) = self.shape.race, self.shape.waves
        pool = self._enter(solver, None, 0, 1, 2)
        pool = self._enter(solver, pool, 1, FIRST)
        self._stage(solver, pool, 1, 4)
        pool = self._enter(solver, pool, FIRST, FIRST + MORE)
        self._stage(solver, pool, 2, 2)
        self._stage(solver, pool, 1, 14, wave)
        self._land()
        self._stage(solver, pool, 3, 2)
        self._stage(solver, pool, 1, 14, last)
        self._land()

    def _explore(self) -> None:
        """A round of 50 gradients: starts far outside and one at the end of a direct ascent, of which the best two,
        then the best one go on."""
        # with a target the boundary has corners, where two classes meet it: planes are averaged there, steps zigzag
        solver = self.shape.explore if self.task.targets is None else self.shape.race
        classes = self.table.argsort(dim=1, stable=True)
        last = self.order.shape[1] - 1
        targets = [classes[:, min(aimed, last)] for aimed in AIMED]
        starts = [self._outside(self.round * len(AIMED) + i) for i in range(len(AIMED))]
        climbed, target = self._ascend(classes[:, 0])
        self.round += 1
        before = self.best.clone()
        rows = self._bunch(solver, torch.cat([*targets, target]), torch.cat([*starts, climbed]), self._region())
        for kept, ticks in ((len(AIMED) + 1, 4), (2, 4), (1, 18)):
            rows = self._keep(rows, kept)
            self._advance(solver, rows, ticks)
        ended = torch.full_like(before, torch.inf).scatter_(0, rows.place, rows.best)
        same = ended.isfinite() & (ended <= self.best * (1 + SAME))
        self.again.masked_fill_(self.best < before * (1 - SAME), 0).add_(same)
        self._land()

    @property
    def settled(self) -> Bool[Tensor, " i"]:
        """Images that no more is spent on, as one round after another comes back to the same point."""
        return self.again >= SETTLED

    def _ascend(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """Starts at the end of a direct ascent, from the image in the first round, then from random points of the
        ball; and the classes nearest there. Images without a radius yet keep the image, and target."""
        radius = WIDE * self.best
        live = (~self._answered(slice(None)) & radius.isfinite()).nonzero()[:, 0]
        u, target = torch.zeros_like(self.x), target.clone()
        if len(live) and self.round:
            u = self._direction(-self.round) * radius[:, None].nan_to_num(posinf=0) * self.x.shape[1] ** 0.5
        if len(live):
            u[live], target[live] = ascend(
                self.task, self.images[live], self.shape, u[live], radius[live], self._spend(ASCENT)
            )
        return u, target

    def _spend(self, ticks: int) -> Iterator[int]:
        """Counts down to 0 while the budget lasts, one gradient of every image at a time."""
        for left in reversed(range(ticks)):
            if self.spent >= self.task.gradients:
                raise _SpentError
            self.spent += 1
            yield left

    def _region(self) -> Tensor:
        """Trust regions of starts far outside: in proportion to the present radius; nan, for the solver's own, without
        one."""
        reach = torch.where(self.best.isfinite(), self.best, torch.nan)
        return self.shape.explore_eta * self.shape.race.prox.natural(self.x.shape[1]) * reach

    def _outside(self, draw: int) -> Tensor:
        """Points in a random direction, the same for every image, at FAR times the best perturbation's length."""
        factor = FAR[draw % len(FAR)]
        best = self.shape.scaled(self.task.best.x_adv[self.images].flatten(1) - self.x)
        return factor * torch.linalg.vector_norm(best, dim=1, keepdim=True) * self._direction(draw)

    def _direction(self, draw: int) -> Float[Tensor, " n"]:
        """A random unit vector, another for each number."""
        seed = (self.task.seed * 1_000_003 + draw) % 2**63
        direction = torch.randn(self.x.shape[1], generator=torch.Generator().manual_seed(seed)).to(self.x)
        return direction / torch.linalg.vector_norm(direction)

    def _bunch(self, solver: ProximalSQP, target: Tensor, u: Tensor, eta: Tensor | None) -> Candidates:
        """ProximalState that aim at target (m * images,) from u, of the same length; eta (images,)."""
        m, images = len(target) // len(self.x), len(self.x)
        x = self.x.repeat(m, 1)
        low, high = self.shape.box(x)
        u = torch.minimum(torch.maximum(u, low), high)
        places = torch.arange(images, device=x.device).repeat(m)
        state = solver.start(low, high, u, None if eta is None else eta.repeat(m))
        return Candidates(places, target, self.best.new_full((len(x),), torch.inf), state)

    def _enter(self, solver: ProximalSQP, pool: Candidates | None, first: int, last: int, ticks: int = 1) -> Candidates:
        """ProximalState at the image itself, for its classes first..last by logit, moved and added to the pool."""
        target = self.order[:, first:last].T.flatten()
        if not len(target) and pool is not None:
            return pool
        more = self._bunch(solver, target, torch.zeros_like(self.x).repeat(len(target) // len(self.x), 1), None)
        more = self._keep(more, len(more.place))
        self._advance(solver, more, ticks)
        # images that were answered meanwhile leave both
        more = self._keep(more, len(more.place))
        return more if pool is None else join(self._keep(pool, len(pool.place)), more)

    def _stage(self, solver: ProximalSQP, pool: Candidates, kept: int, ticks: int, wave: float | None = None) -> None:
        """Move the `kept` rows of least estimate of every image; `wave` is their weight of the aim at first."""
        rows = self._least(pool, kept)
        part = take(pool, rows)
        if wave is not None:
            part.state.aim.fill_(wave)
        self._advance(solver, part, ticks)
        put(pool, rows, part)

    def _keep(self, pool: Candidates, kept: int) -> Candidates:
        """The `kept` rows of least estimate of every image, the least first."""
        rows = self._least(pool, kept)
        same = len(rows) == len(pool.place) and bool((rows[1:] > rows[:-1]).all())
        return pool if same else take(pool, rows)

    def _least(self, pool: Candidates, kept: int) -> Tensor:
        """The `kept` rows of least estimate of every image that is not answered yet."""
        if not len(pool.place):
            raise _SpentError
        images = self._width(pool)
        order = pool.state.estimate.view(-1, images).argsort(dim=0, stable=True)[:kept]
        rows = order * images + torch.arange(images, device=order.device)
        return rows[:, ~self._answered(pool.place[:images])].flatten()

    def _answered(self, places: Tensor | slice) -> Tensor:
        """Images of which no more is asked: those with a point inside the radius wanted, and those that are settled."""
        images = self.images[places]
        return (self.task.best.distance[images] <= self.wanted[images]) | self.settled[places]

    @staticmethod
    def _width(rows: Candidates) -> int:
        """For how many images there are rows."""
        return len(rows.place) // max(1, int((rows.place == rows.place[:1]).sum()))

    def _advance(self, solver: ProximalSQP, rows: Candidates, ticks: int) -> None:
        for _ in range(ticks):
            self._tick(solver, rows)
        self.table[rows.place, rows.target] = torch.minimum(self.table[rows.place, rows.target], rows.best)

    def _tick(self, solver: ProximalSQP, rows: Candidates) -> None:
        """One model call for all rows; each image pays one gradient per row."""
        images = self._width(rows)
        if not images or self.spent >= self.task.gradients:
            raise _SpentError
        m = len(rows.place) // images
        if m > self.task.gradients - self.spent:
            m = self.task.gradients - self.spent
            rows = take(rows, torch.arange(m * images, device=rows.place.device))
        self.spent += m
        z, image, y = self._points(rows, m), self.images[rows.place], self.y[rows.place]

        targets = None if self.task.targets is None else rows.target

        def towards(logits: Tensor, part: slice) -> Tensor:
            if targets is not None:
                return margin(logits, y[part], targets[part])
            return (logits.gather(1, rows.target[part, None]) - logits.gather(1, y[part, None]))[:, 0]

        value, logits, grad = self.task.model.gradient(z, image, towards)
        z = z[: len(image)]
        size, noise = rows.state.size, rounding(logits)
        wrong = margin(logits, y, targets) > noise
        near = (wrong & (size <= self.task.best.distance[image] * (1 + 1e-6))).nonzero()[:, 0]
        self.task.best.offer(z[near], image[near], logits[near])
        found = torch.where(wrong, size, torch.inf)
        rows.best = torch.minimum(rows.best, found)
        solver.step(rows.state, value, noise, self.shape.pull(grad.flatten(1)))
        least, which = found.view(m, -1).min(0)
        places = rows.place[:images]
        better, same = least < self.best[places], least >= self.best[places] * (1 - SAME)
        residual = rows.state.residual.view(m, -1).gather(0, which[None])[0]
        # a wave leaves the best point in long steps; what is known of the same point from before it holds
        residual = torch.where(same, torch.fmin(residual, self.residual[places]), residual)
        self.residual[places] = torch.where(better, residual, self.residual[places])
        self.best[places] = torch.where(better, least, self.best[places])

    def _points(self, rows: Candidates, m: int) -> Tensor:
        """The images at the rows' u, and padding after them, in a buffer that the next tick overwrites.  (p, *image)"""
        count, images = len(rows.place), len(rows.place) // m
        padded = self.task.model.padded(count)
        if len(self.points) < padded:
            self.points = self.x.new_zeros(padded, self.x.shape[1])
        places = rows.place[:images]
        x = self.x if images == len(self.x) else self.x[places]
        for start in range(0, count, images):
            for at in range(0, images, BLOCK):
                part = slice(at, min(at + BLOCK, images))
                there = slice(start + part.start, start + part.stop)
                self.shape.point(x[part], rows.state.u[there], self.points[there])
        return self.points[:padded].view(-1, *self.task.x.shape[1:])

    def _land(self) -> None:
        """Forward runs as far as the gradients spent so far allow: part of the sequence, whatever the budget."""
        runs = min(LANDINGS, self.spent // 5 - RESERVED - self.landed)
        if runs > 0:
            land(self.task, self.images[~self._answered(slice(None))], runs)
            self.landed += runs
