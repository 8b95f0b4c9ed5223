"""MinRadius for distances of which only the gradient is known (solver/linearized): the schedule of classes and starts.

The first 50 gradients are spent on searches towards the classes with the largest logits, of which the best one is
continued. Rounds from starts far beyond the boundary follow; in few dimensions, where these find little, every other
round starts at the nearest point after some gradients of the search of few dimensions under l_2. MaxLoss is answered by
the same search: there is a misclassified point within the radius r exactly if the robustness radius is at most r.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plica.attacks.base import AttackInput, AttackOutput, refuse_counts
from plica.attacks.metric_oracle import MetricOracle
from plica.attacks.multistart import Candidates, Evaluation, Multistart, taken
from plica.attacks.prox_settings import ProxSettings, prox_settings
from plica.attacks.radius.few import FewSearch, suits
from plica.core.judging.best import BestPoints
from plica.core.status import Status
from plica.metrics import Lp, WeightedLp
from plica.solver.linearized.curved_sqp import CurvedSQP
from plica.solver.linearized.descent import Averaged, QuasiNewton
from plica.solver.linearized.state import CurvedState
from plica.solver.rows import dot, join, take


@dataclass(frozen=True)
class CurvedSchedule:
    """The order in which rows are stepped; docs/design/curved.md has the alternatives that were measured.

    Attributes:
        classes: number of classes tried, those with the largest logits.
        first_steps: gradients for the first class.
        other_steps: gradients for each other class.
        race_until: gradients spent before the first start far beyond the boundary; the best class gets what the first
            steps leave of them.
        far: distances of the starts far beyond the boundary, used in turn, in lengths of the perturbation.
        outside_steps: gradients for such a start alone, and again for the better of it and the best search so far.
        few_steps: gradients of the search of few dimensions before every other round; its last step may need some more.
        trial: the first step is made by both ways to lower the distance, each with this many times the usual number of
            gradients of the distance.
        smooth: L-BFGS is used for an image if averaged steps end this many times as far away.
        inside: share of the radius that MaxLoss may use, since distances in float64 may be larger than in float32.
    """

    classes: int = 3
    first_steps: int = 4
    other_steps: int = 3
    race_until: int = 50
    far: tuple[float, ...] = (2.0, 8.0, 4.0, 16.0)
    outside_steps: int = 12
    few_steps: int = 24
    trial: int = 3
    smooth: float = 2.5
    inside: float = 0.999


SCHEDULE = CurvedSchedule()


def curved(task: AttackInput) -> AttackOutput:
    """The nearest misclassified point for any metric, with the exact distance, by gradient steps on the metric."""
    refuse_counts("curved", task.question)
    every = torch.arange(len(task.x), device=task.x.device)
    stationarity = task.x.new_full((len(task.x),), torch.nan)
    metric_gradients = torch.zeros_like(every)
    not_finite = torch.zeros_like(every, dtype=torch.bool)
    for images in every.split(max(1, task.batch_size // 2)):
        search = CurvedSearch(task, images)
        search.run_all()
        if search.not_finite is not None:
            not_finite[images] = search.not_finite & task.best.distance[images].isinf()
        stationarity[images], metric_gradients[images] = search.residual, search.measure.gradients
        task.progress(int(images[-1]) + 1)
    done = task.best.distance.isfinite() & torch.tensor(task.radius is not None, device="cpu")
    status = [Status.BUDGET] * len(every)
    for images, why in (not_finite, Status.NOT_FINITE), (done, Status.SUCCEEDED):
        status = [why if holds else other for holds, other in zip(images.tolist(), status, strict=True)]
    return AttackOutput(stationarity, status, metric_gradients)


@dataclass
class CurvedRows(Candidates):
    """Rows whose solver moves the image itself."""

    state: CurvedState


class CurvedSearch(Multistart[CurvedRows]):
    """The search on some images, in two groups: one for each way to lower the distance
    (solver/linearized/descent.py)."""

    def __init__(self, task: AttackInput, images: Int[Tensor, " i"]):
        super().__init__(task, images)
        self.measure = MetricOracle(task.question.metric, task.x[images], task.model)
        self.quadratic = self.measure.quadratic(task.direction(0), task.bounds)
        self.order = self.targets

    def run_all(self) -> None:
        """Spend the first gradient on choosing a way for each image, then run the search of each group."""
        for solver, pool in self._first_step():
            self.solver, self.spent = solver, 1
            self.run(self._schedule(pool))

    def _first_step(self) -> list[tuple[CurvedSQP, CurvedRows]]:
        """Step towards the first class in both ways. Returns each solver with the rows of the images that it suits."""
        every = torch.arange(len(self.x), device=self.x.device)
        solvers = [CurvedSQP(descent(self.task.bounds)) for descent in (Averaged, QuasiNewton)]
        pools = [self._start(solver, every, self.order[:, 0]) for solver in solvers]
        evaluation = self._evaluate(pools[0])
        for solver, pool in zip(solvers, pools, strict=True):
            longer = replace(solver.descent, steps=SCHEDULE.trial * solver.descent.steps)
            self._move(replace(solver, descent=longer), pool, evaluation)
        factor = SCHEDULE.smooth
        limit = torch.where(self.quadratic, factor**2, factor) * pools[1].state.size
        smooth = pools[0].state.size > limit
        groups = [some.nonzero()[:, 0] for some in (~smooth, smooth)]
        return [(s, taken(pool, some, len(some))) for s, pool, some in zip(solvers, pools, groups, strict=True)]

    def _schedule(self, pool: CurvedRows) -> Iterator[CurvedRows]:
        """First the class with the largest logit; then two more, whose rows begin with the memory of the metric that
        the first has; then rounds. Each time the row with the smallest estimate goes on."""
        for _ in range(SCHEDULE.first_steps - 1):
            yield pool
        others = self.order[pool.index, 1 : SCHEDULE.classes].T
        if len(others):
            rows = torch.arange(len(pool), device=pool.index.device).repeat(len(others))
            memory = take(pool.state.memory, rows)
            more = self._start(self.solver, pool.index[rows], others.flatten(), memory, len(pool))
            for _ in range(SCHEDULE.other_steps):
                yield more
            pool = join(pool, more)
        pool = yield from self._least_only(pool, SCHEDULE.race_until - self.spent)
        few, number = self._few(pool.index), 0
        while len(pool):
            if few is not None:
                self._run(few)
                pool = yield from self._round(pool, self._nearest(few, pool))
            if len(pool):
                pool = yield from self._round(pool, self._outside(pool.state, number))
            number += 1

    def _few(self, index: Int[Tensor, " i"]) -> EuclideanSearch | None:
        """The search of few dimensions on these images; None in many dimensions, and in half precision, where margins
        have too few digits."""
        metric = Lp(2) if self.task.fixed is None else WeightedLp(2, torch.where(self.task.fixed, torch.inf, 1.0))
        settings = prox_settings(metric, self.task.x, self.task.bounds)
        if not suits(settings, self.x.shape[1]) or self.task.model.half:
            return None
        return EuclideanSearch(self.task, self.images[index], settings)

    def _run(self, few: EuclideanSearch) -> None:
        """Go on with the search of few dimensions; what it finds nearer is not a stationary point of the distance."""
        before = self.task.best.distance[self.images]
        self.spent += few.advance(SCHEDULE.few_steps, self.task.gradients - self.spent)
        self.residual[self.task.best.distance[self.images] < before] = torch.nan

    def _nearest(self, few: EuclideanSearch, rows: CurvedRows) -> Tensor:
        """The nearest points that the search has, where it has one, else the rows' own."""
        near, images = few.task.best, self.images[rows.index]
        found = near.distance[images].isfinite()[:, None]
        return torch.where(found, near.x_adv[images].flatten(1), rows.state.z)

    def _round(self, best: CurvedRows, start: Float[Tensor, "r n"]) -> Generator[CurvedRows, None, CurvedRows]:
        """24 gradients: a new row of the best class from `start`, which replaces the best row so far if it ends
        better."""
        every = torch.arange(len(best), device=best.index.device)
        new = self._start(self.solver, best.index, best.target, take(best.state.memory, every))
        self.solver.move(new.state, start, lambda z: self.measure(z, best.index))
        for _ in range(SCHEDULE.outside_steps):
            yield new
        better = yield from self._least_only(join(best, new), SCHEDULE.outside_steps)
        unfinished = torch.isin(best.index, better.index)
        left = unfinished.nonzero()[:, 0]
        return self.keep(join(taken(best, left, len(left)), better), 1)

    def _least_only(self, pool: CurvedRows, steps: int) -> Generator[CurvedRows, None, CurvedRows]:
        """Step the row with the smallest estimate of every image, chosen again before each step; returns these rows."""
        for _ in range(steps):
            pool = self.keep(pool, 1)
            yield pool
        return self.keep(pool, 1)

    def _outside(self, rows: CurvedState, number: int) -> Tensor:
        """Points in a random direction, the same for every image, at a multiple of the perturbation's length."""
        delta = rows.z - rows.x
        length = SCHEDULE.far[number % len(SCHEDULE.far)] * dot(delta, delta).sqrt()
        return (rows.x + length[:, None] * self.task.direction(number)).clamp(*self.task.bounds)

    def _start(
        self, solver: CurvedSQP, index: Tensor, target: Tensor, memory=None, images: int | None = None
    ) -> CurvedRows:
        """Rows that start at the images themselves. memory: of the metric, from other rows of the same images; images:
        their number, if there are several rows for each."""
        state = solver.start(self.x[index], self.quadratic[index], memory)
        return CurvedRows(index, target, state, len(index) if images is None else images)

    def finished(self, index: Int[Tensor, " i"] | slice) -> Bool[Tensor, " i"]:
        """For MaxLoss the images with a point inside the radius; for MinRadius none."""
        inside = self.task.best.distance[self.images[index]].isfinite()
        return inside if self.task.radius is not None else torch.zeros_like(inside)

    def step(self, rows: CurvedRows) -> None:
        """As of Multistart."""
        self._move(self.solver, rows, self._evaluate(rows))

    def _evaluate(self, rows: CurvedRows) -> Evaluation:
        limit = self.task.best.distance if self.task.radius is None else SCHEDULE.inside * self.task.radius
        z = rows.state.z.view(-1, *self.task.x.shape[1:])
        evaluation = self.evaluate(rows, z, limit, size_is_distance=True)
        self.record(rows, evaluation.size, rows.state.residual)
        return evaluation

    def _move(self, solver: CurvedSQP, rows: CurvedRows, evaluation: Evaluation) -> None:
        solver.step(
            rows.state, evaluation.value, evaluation.rounding, evaluation.grad, lambda z: self.measure(z, rows.index)
        )


class EuclideanSearch(FewSearch):
    """The search of few dimensions under l_2 on some images, in parts; its points are measured by the task's metric.

    For MaxLoss they are kept apart, since only those well within the radius count.
    """

    def __init__(self, task: AttackInput, images: Int[Tensor, " i"], settings: ProxSettings):
        self.max_loss, self.answers = task.radius is not None, task.best
        if self.max_loss:
            best = BestPoints(task.question.metric, task.x, task.goal, None, model=task.model)
            task = replace(task, best=best, radius=None)
        super().__init__(task, images, settings, torch.zeros_like(task.best.distance))
        self.rows = self.schedule()

    def finished(self, index: Int[Tensor, " i"] | slice) -> Bool[Tensor, " i"]:
        """As of CurvedSearch: no image is settled, so that none depends on others."""
        found = self.answers.distance[self.images[index]].isfinite()
        return found if self.max_loss else torch.zeros_like(found)

    @property
    def _limit(self) -> Float[Tensor, " b"]:
        """None: sizes are not the distance, which may have any units."""
        return torch.full_like(self.task.best.distance, torch.inf)

    def advance(self, steps: int, left: int) -> int:
        """Spend `steps` gradients for each image, with the last step some more; returns how many. If the next step
        needs more than are `left`, it is not made, and `left` is returned."""
        before = self.spent
        for rows in self.rows:
            each = len(rows) // max(1, rows.images)
            if self.spent + each - before > left:
                return left
            self.spent += each
            self.step(rows)
            if self.spent >= before + steps:
                break
        return self.spent - before
