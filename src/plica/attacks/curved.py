"""MinRadius for distances of which only the gradient is known (solver/linearized): which classes, which starts.

One fixed sequence of gradients per image, which does not know the budget: a larger budget goes on where a smaller one
stopped. MaxLoss is answered by the same search: an image is broken at radius r exactly when its radius is at most r.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from plica.attacks.base import AttackOutput, Task
from plica.attacks.metric_oracle import Measure
from plica.core.losses import margin
from plica.core.model import rounding
from plica.core.status import Status
from plica.solver.linearized.curved_sqp import CurvedSQP
from plica.solver.linearized.descent import Averaged, QuasiNewton
from plica.solver.linearized.state import CurvedState
from plica.solver.rows import dot, join, take

CLASSES, FIRST, MORE = 3, 4, 3  # tried by logit: gradients for the first of them, and for each other one
UNTIL = 50  # gradients before the first start from outside
OUTSIDE = 12  # gradients for it before it is compared with the best, and for the better of them then
TRIAL = 3  # times the usual gradients of the distance for the first step, by which the way to lower it is chosen
SMOOTH = 2.5  # QuasiNewton is taken where the other way ends so many times as far
FAR = (2.0, 8.0, 4.0, 16.0)  # starts at so many times the length of the best perturbation, in turn
INSIDE = 0.999  # share of the radius that MaxLoss may use: float64 may find a point farther than float32 does


def curved(task: Task) -> AttackOutput:
    """The nearest misclassified point, for any metric; keeps the distance whole, by steps on the metric alone."""
    every = torch.arange(len(task.x), device=task.x.device)
    stationarity = task.x.new_full((len(task.x),), torch.nan)
    spent = torch.zeros(len(task.x), dtype=torch.long)
    for images in every.split(max(1, task.batch_size // 2)):
        search = _Search(task, images)
        search.run()
        stationarity[images], spent[images.cpu()] = search.residual, search.measure.gradients
        task.progress(int(images[-1]) + 1)
    done = (task.best.distance.isfinite() & torch.tensor(task.radius is not None)).tolist()
    return AttackOutput(stationarity, [Status.SUCCEEDED if d else Status.BUDGET for d in done], spent)


@dataclass
class Candidates:
    """CurvedState of a search, m for each of some images: row (i, j) at i * images + j."""

    place: Int[Tensor, " r"]
    target: Int[Tensor, " r"]
    state: CurvedState


class _SpentError(Exception):
    """The budget is spent, or all images are answered."""


class _Search:
    """The search on some images at once, in lock step: the schedule is the same for all of them."""

    def __init__(self, task: Task, images: Int[Tensor, " i"]):
        self.task, self.images = task, images
        self.x, self.y = task.x[images].flatten(1), task.y[images]
        self.measure = Measure(task.question.metric, task.x[images], task.model)
        self.quadratic = self.measure.quadratic(task.direction(0), task.bounds)
        self.best = self.x.new_full((len(images),), torch.inf)
        self.residual = self.x.new_full((len(images),), torch.nan)
        others = task.logits[images].scatter(1, self.y[:, None], -torch.inf)
        self.order = others.argsort(dim=1, descending=True, stable=True)[:, :-1]
        if task.targets is not None:
            self.order = task.targets[images, None]

    def run(self) -> None:
        for solver, pool in self._opened():
            self.solver, self.spent, self.round = solver, 1, 0
            try:
                self._race(pool)
            except _SpentError:
                continue

    def _opened(self) -> list[tuple[CurvedSQP, Candidates]]:
        """The first step towards the first class, by either way to lower the distance; the images that each suits."""
        every = torch.arange(len(self.x), device=self.x.device)
        solvers = [CurvedSQP(way(self.task.bounds)) for way in (Averaged, QuasiNewton)]
        pools = [self._enter(solver, every, self.order[:, 0]) for solver in solvers]
        told = self._look(pools[0])
        for solver, pool in zip(solvers, pools, strict=True):
            longer = replace(solver.descent, steps=TRIAL * solver.descent.steps)
            replace(solver, descent=longer).step(pool.state, *told, lambda z: self.measure(z, every))
        far = torch.where(self.quadratic, SMOOTH**2, SMOOTH) * pools[1].state.size
        smooth = pools[0].state.size > far
        return [(s, take(pool, some)) for s, pool, some in zip(solvers, pools, (~smooth, smooth), strict=True)]

    def _race(self, pool: Candidates) -> None:
        """To 50 gradients: the first class by logit, two more with what it learnt, then the least estimate."""
        self._advance(pool, FIRST - 1)
        others = self.order[pool.place, 1:CLASSES].T
        if len(others):
            rows = torch.arange(len(pool.place), device=pool.place.device).repeat(len(others))
            known = take(pool.state.memory, rows)
            more = self._enter(self.solver, pool.place[rows], others.flatten(), known)
            self._advance(more, MORE)
            pool = join(pool, more)
        self._explore(self._alone(pool, UNTIL - self.spent))

    def _explore(self, best: Candidates) -> None:
        """Rounds of 24 gradients: a start far outside at the best class, which replaces the best so far if better."""
        while True:
            every = torch.arange(len(best.place), device=best.place.device)
            new = self._enter(self.solver, best.place, best.target, take(best.state.memory, every))
            self.solver.move(new.state, self._outside(best.state), lambda z, at=best.place: self.measure(z, at))
            self.round += 1
            self._advance(new, OUTSIDE)
            tried = self._alone(join(best, new), OUTSIDE)
            left = torch.isin(best.place, tried.place)  # images that are not answered yet
            best = self._keep(join(take(best, left), tried))

    def _alone(self, pool: Candidates, ticks: int) -> Candidates:
        """Move the row of least estimate of every image; images that are answered leave."""
        for _ in range(ticks):
            pool = self._keep(pool)
            self._advance(pool, 1)
        return self._keep(pool)

    def _outside(self, rows: CurvedState) -> Tensor:
        """Points in a random direction, the same for every image, at FAR times the present perturbation's length."""
        delta = rows.z - rows.x
        reach = FAR[self.round % len(FAR)] * dot(delta, delta).sqrt()
        return (rows.x + reach[:, None] * self.task.direction(self.round)).clamp(*self.task.bounds)

    def _enter(self, solver: CurvedSQP, place: Tensor, target: Tensor, memory=None) -> Candidates:
        """CurvedState at the images themselves, with what other rows of the same image know of the metric."""
        return Candidates(place, target, solver.start(self.x[place], self.quadratic[place], memory))

    def _keep(self, pool: Candidates) -> Candidates:
        """The row of least estimate of every image that is not answered yet."""
        images = self._width(pool)
        if not images:
            raise _SpentError
        if len(pool.place) == images and self.task.radius is None:
            return pool
        least = pool.state.estimate.view(-1, images).argsort(dim=0, stable=True)[0]
        rows = least * images + torch.arange(images, device=least.device)
        return take(pool, rows[~self._answered(pool.place[:images])])

    def _answered(self, places: Tensor) -> Tensor:
        found = self.task.best.distance[self.images[places]].isfinite()
        return found if self.task.radius is not None else torch.zeros_like(found)

    @staticmethod
    def _width(rows: Candidates) -> int:
        """For how many images there are rows."""
        return len(rows.place) // max(1, int((rows.place == rows.place[:1]).sum()))

    def _advance(self, rows: Candidates, ticks: int) -> None:
        for _ in range(ticks):
            self._tick(rows)

    def _tick(self, rows: Candidates) -> None:
        """One model call for all rows; each image pays one gradient per row."""
        images = self._width(rows)
        if not images or self.spent >= self.task.gradients:
            raise _SpentError
        m = min(len(rows.place) // images, self.task.gradients - self.spent)
        if m * images < len(rows.place):
            rows = take(rows, torch.arange(m * images, device=rows.place.device))
        self.spent += m
        self.solver.step(rows.state, *self._look(rows), lambda z: self.measure(z, rows.place))

    def _look(self, rows: Candidates) -> tuple[Tensor, Tensor, Tensor]:
        """Margins, their rounding and their gradients (r, n) at the rows' points; points that count are offered."""
        state, image, y = rows.state, self.images[rows.place], self.y[rows.place]
        targets = None if self.task.targets is None else rows.target

        def towards(logits: Tensor, part: slice) -> Tensor:
            if targets is not None:
                return margin(logits, y[part], targets[part])
            return (logits.gather(1, rows.target[part, None]) - logits.gather(1, y[part, None]))[:, 0]

        z = state.z.view(-1, *self.task.x.shape[1:])
        value, logits, grad = self.task.model.gradient(z, image, towards)
        noise, size = rounding(logits), state.size
        wrong = margin(logits, y, targets) > noise
        limit = self.task.best.distance if self.task.radius is None else INSIDE * self.task.radius
        near = (wrong & (size <= limit[image])).nonzero()[:, 0]
        self.task.best.offer(z[near], image[near], logits[near], size[near])
        images = self._width(rows)
        least, which = torch.where(wrong, size, torch.inf).view(-1, images).min(0)
        places = rows.place[:images]
        better = least < self.best[places]
        residual = state.residual.view(-1, images).gather(0, which[None])[0]
        self.residual[places] = torch.where(better, residual, self.residual[places])
        self.best[places] = torch.where(better, least, self.best[places])
        return value, noise, grad.flatten(1)
