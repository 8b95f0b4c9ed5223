"""MinRadius for distances with a proximal map (solver/linearized): the schedule of classes and starts.

The first 50 gradients are spent on several classes; those whose linear models have the nearest boundaries are kept.
Where gradients change from step to step, searches that come back slowly from far beyond the boundary follow; where
no point was found, small steps towards wrong regions that may be thin. Then there are rounds of 50 gradients from
starts far beyond the boundary, until five of them returned to the same point. MaxLoss is answered by the same search:
there is a misclassified point within the radius r exactly if the image's robustness radius is at most r.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, count

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plica.attacks.base import AttackInput, AttackOutput
from plica.attacks.multistart import taken
from plica.attacks.prox_settings import ProxSettings, prox_settings
from plica.attacks.radius.ascent import ascend
from plica.attacks.radius.few import FLAT, FewSearch, suits
from plica.attacks.radius.schedule import SCHEDULE, Elsewhere, Entry, Stage
from plica.attacks.radius.steps import RadiusRows, RadiusSteps
from plica.core.judging.best import BestPoints
from plica.core.status import Status
from plica.solver.rows import join, put


def radius(task: AttackInput) -> AttackOutput:
    """The nearest misclassified point, for a metric with a prox. Raises Unsupported for one without.

    For MaxLoss the search of an image ends at its first point inside the radius.
    """
    settings = prox_settings(task.question.metric, task.x, task.bounds)
    stationarity = task.x.new_full((len(task.x),), torch.nan)
    every = torch.arange(len(task.x), device=task.x.device)
    settled = torch.zeros_like(every, dtype=torch.bool)
    zero_gradient, not_finite = torch.zeros_like(settled), torch.zeros_like(settled)
    unbounded, enough = task, torch.zeros_like(task.best.distance)
    inside = enough
    if task.radius is not None:
        best = BestPoints(task.question.metric, task.x, task.goal, None, model=task.model)
        unbounded, inside = replace(task, best=best, radius=None), task.radius.to(enough) * SCHEDULE.inside
        enough = inside if task.enough is None else task.enough.to(enough) * SCHEDULE.inside
    for images in every.split(max(1, task.batch_size)):
        if suits(settings, task.x[0].numel()) and not task.model.half:  # in half precision margins have too few digits
            search = FewSearch(unbounded, images, settings, enough)
            search.run(search.schedule())
        else:
            search = RadiusSearch(unbounded, images, settings, enough)
            search.search()
            if bool((left := search.left).any()):
                flat = FewSearch(unbounded, images[left], settings, enough, FLAT)
                flat.starts.fill_(flat.first)  # no start at the image
                flat.spent = int(task.model.gradients[images[left]].max())
                flat.run(flat.schedule())
                search.residual[left] = flat.residual
        stationarity[images], settled[images] = search.residual, search.settled
        zero_gradient[images] = search.zero_gradient
        if search.not_finite is not None:
            not_finite[images] = search.not_finite & unbounded.best.distance[images].isinf()
        if unbounded is not task:
            task.best.adopt(unbounded.best, images[unbounded.best.distance[images] <= inside[images]])
        task.progress(int(images[-1]) + 1)
    status = [Status.BUDGET] * len(every)
    reasons = (settled, Status.SETTLED), (zero_gradient, Status.ZERO_GRADIENT), (not_finite, Status.NOT_FINITE)
    for images, why in (*reasons, (unbounded.best.distance <= inside, Status.SUCCEEDED)):
        status = [why if holds else other for holds, other in zip(images.tolist(), status, strict=True)]
    return AttackOutput(stationarity, status)


class RadiusSearch(RadiusSteps):
    """The search on some images: a schedule of their rows' steps."""

    def __init__(
        self, task: AttackInput, images: Int[Tensor, " i"], settings: ProxSettings, enough: Float[Tensor, " b"]
    ):
        super().__init__(task, images, settings, enough)
        self.pool: RadiusRows | None = None  # of the race
        self.nearest = self.order[:, 0].clone()  # the class that a slow return aims at
        self.climbed = torch.zeros_like(self.x)  # the end of the last ascent
        self.gained = torch.zeros_like(self.waiting)  # images for which a second slow return follows

    def search(self) -> None:
        """Search until the budget is spent or no image is left. Images where gradients change from step to step go on
        with slow returns, the others with the last stage of the race."""
        race = SCHEDULE.race if self.task.targets is None else SCHEDULE.aimed_race
        *first, last = SCHEDULE.sparse_race if self.settings.sparse else race
        spent = self._part(~self.waiting, (0, 0), self._race(first))
        if self.spent >= self.task.gradients:
            return
        kinked = self.agreement < SCHEDULE.kinked
        after = self._part(~kinked, spent, self._race([last]))
        # a wrong region that was missed may be thin; a target class may only be far away, where overshoot finds more
        thin = self.best.isinf() & ~self.zero_gradient & (self.task.targets is None)
        if self.not_finite is not None:
            thin &= ~self.not_finite
        self._part(~kinked & thin, after, self._thin())
        self._part(~kinked & ~thin, after, self._rounds(count()))
        spent = self._part(kinked, spent, self._slow_returns())
        self._part(kinked & ~self.gained, spent, self._rounds(count(1)))
        self._part(kinked & self.gained, spent, chain(self._slow_return(SCHEDULE.slower), self._rounds(count(1))))

    def _part(
        self, images: Bool[Tensor, " i"], spent: tuple[int, int], stages: Iterator[RadiusRows]
    ) -> tuple[int, int]:
        """Run the stages for some of the images.

        spent: the gradients and forward runs for each of them so far; returned as they are after these stages.
        """
        self.waiting, (self.spent, self.forwards), self.solver = ~images, spent, self.settings.race
        if self.spent < self.task.gradients and bool(images.any()):
            self.run(stages)
        return self.spent, self.forwards

    def _race(self, stages: Sequence[Entry | Stage | Elsewhere]) -> Iterator[RadiusRows]:
        """Stages of the pool of rows that start at the image, one for each class."""
        for stage in stages:
            if self.spent >= self.task.gradients:  # nothing is prepared that cannot be stepped
                return
            if isinstance(stage, Entry):
                self.pool = yield from self._enter(self.pool, stage)
            elif self.pool is None:
                continue
            elif isinstance(stage, Elsewhere):
                yield from self._elsewhere(self.pool, stage)
            else:
                yield from self._stage(self.pool, stage)

    def _rounds(self, numbers: Iterable[int]) -> Iterator[RadiusRows]:
        """The rounds with these numbers."""
        # without alternatives (with a target class, or for some goals) the boundary has corners where two classes meet:
        # steps zigzag there, and the solver of the race, which averages planes, is better
        self.solver = self.settings.explore if self.goal.has_alternatives else self.settings.race
        for number in numbers:
            if self.settings.sparse and number == SCHEDULE.others_after:
                yield from self._other_classes()
            yield from self._round(number)

    def _thin(self) -> Iterator[RadiusRows]:
        """Small steps and rounds in turn."""
        for number in count():
            yield from self._rounds([number]) if number % 2 else self._small_steps(number)

    def _small_steps(self, number: int) -> Iterator[RadiusRows]:
        """One row for each image from the end of an ascent, which does not aim beyond the boundary."""
        self.solver = self.settings.small_steps
        start, target = self._ascend(self.order[:, 0], number, SCHEDULE.long_ascent)
        length = self.solver.norm(start)
        reach = SCHEDULE.small * self.solver.prox.natural(self.x.shape[1]) * length
        rows = self._start(target, start, torch.where(length > 0, reach, torch.nan))
        for stage in SCHEDULE.small_steps:
            rows = self.keep(rows, stage.kept)
            yield from self._steps(rows, stage.steps)
            self._search_boundary(rows)

    def _slow_returns(self) -> Iterator[RadiusRows]:
        """A slow return towards the class of least estimate, and a round; another slow return follows at images that
        gained by the first one and not by the round."""
        pool = self.pool
        assert pool is not None
        index, _ = self.least(pool, 1)
        self.nearest[pool.index[index]] = pool.target[index]
        before = self.best.clone()
        yield from self._slow_return(SCHEDULE.slow)
        after = self.best.clone()
        yield from self._rounds(range(1))
        self.gained = (after < before * (1 - SCHEDULE.gain)) & (self.best > after * (1 - SCHEDULE.gain))

    def _slow_return(self, steps: int) -> Iterator[RadiusRows]:
        """One row for each image from the image itself, which goes far beyond the boundary and comes back slowly."""
        slow, share = self.settings.slow, SCHEDULE.slow / steps
        assert slow is not None
        self.solver = replace(slow, decay=slow.decay**share, decay_aim=slow.decay_aim**share)
        rows = self.keep(self._start(self.nearest, torch.zeros_like(self.x), None), 1)
        rows.state.aim.fill_(SCHEDULE.slow_aim)
        yield from self._steps(rows, steps)
        self._search_boundary(rows)

    def _enter(self, pool: RadiusRows | None, entry: Entry) -> Generator[RadiusRows, None, RadiusRows]:
        """Step the new rows; returns the pool with the new rows appended, without images that are finished."""
        target = self.order[:, entry.first : entry.last].T.flatten()
        if not len(target) and pool is not None:
            return pool
        zero = torch.zeros_like(self.x).repeat(len(target) // len(self.x), 1)
        new = self._start(target, zero, None)
        new = self.keep(new, len(new))
        yield from self._steps(new, entry.steps)
        new = self.keep(new, len(new))
        return new if pool is None else join(self.keep(pool, len(pool)), new)

    def _stage(self, pool: RadiusRows, stage: Stage) -> Iterator[RadiusRows]:
        """Step the best rows of the pool, and write them back into it."""
        index, images = self.least(pool, stage.kept)
        rows = taken(pool, index, images)
        weight = None if stage.overshoot is None else self.settings.overshoot[stage.overshoot]
        if weight is not None:
            rows.state.aim.fill_(weight)
        if stage.overshoot is not None and self.opening:
            yield from self._end_of_opening(rows, stage.steps)
        else:
            yield from self._steps(rows, stage.steps)
        put(pool, index, rows)
        if stage.search_boundary:
            self._search_boundary(rows)

    def _end_of_opening(self, rows: RadiusRows, steps: int) -> Iterator[RadiusRows]:
        """These steps of one row for each image. Images without a prospect go on from a random point of the box; the
        last steps measure how much gradients change from step to step (`agreement`)."""
        self.opening, self.limited = False, bool(self.misled.any())
        before = rows.margin.clone()  # replayed steps write to the same memory
        yield from self._steps(rows, SCHEDULE.patience)
        hopeless = self.best[rows.index].isinf() & (rows.margin < SCHEDULE.progress * before)
        if bool(hopeless.any()):
            self.limited = True
            self.misled[rows.index] |= hopeless
            self.solver.move(rows.state, hopeless, self._outside(0)[rows.index])
        # without alternatives steps zigzag, see `_rounds`
        last = SCHEDULE.last if self.settings.slow is not None and self.goal.has_alternatives else 0
        yield from self._steps(rows, steps - SCHEDULE.patience - last)
        if last:
            self.agreement[rows.index], self.measured = 0, last
            yield from self._steps(rows, last)
            self.measured = 0
            self.agreement[self.misled | self.best.isinf()] = 1

    def _elsewhere(self, pool: RadiusRows, stage: Elsewhere) -> Iterator[RadiusRows]:
        """Step one new row for each image."""
        pool = self.keep(pool, len(pool))
        if not len(pool):  # all images have finished
            return
        start = (self.order[:, 0], self._outside(0)) if stage.outside else self._beside(pool)
        rows = self.keep(self._start(*start, self._reach()), 1)
        yield from self._steps(rows, stage.steps)
        if stage.search_boundary:
            self._search_boundary(rows)

    def _beside(self, rows: RadiusRows) -> tuple[Tensor, Tensor]:
        """For each image the class of the row that came nearest, and a start in the direction of that row's plane with
        the pixels left out that the best perturbation changes."""
        images = rows.images
        row = rows.best.view(-1, images).argmin(0) * images + torch.arange(images, device=self.x.device)
        index, plane = rows.index[row], rows.state.plane[row]
        best = self.settings.scaled(self.task.best.x_adv[self.images[index]].flatten(1) - self.x[index])
        length = SCHEDULE.beside * torch.linalg.vector_norm(best, dim=1) / torch.linalg.vector_norm(plane, dim=1)
        target, u = self.order[:, 0].clone(), torch.zeros_like(self.x)
        target[index] = rows.target[row]
        u[index] = torch.where(best == 0, plane * length.nan_to_num(0, 0, 0)[:, None], 0)
        return target, u

    def _reach(self) -> Tensor:
        """Trust regions in proportion to the present radius; nan, for the solver's default, if there is none."""
        reach = torch.where(self.best.isfinite(), self.best, torch.nan)
        return self.settings.explore_eta * self.settings.race.prox.natural(self.x.shape[1]) * reach

    def _round(self, number: int) -> Iterator[RadiusRows]:
        """50 gradients: starts far beyond the boundary and one at the end of a direct ascent. From stage to stage fewer
        of them are kept."""
        classes = self.class_distance.argsort(dim=1, stable=True)
        last = self.order.shape[1] - 1
        targets = [classes[:, min(target, last)] for target in SCHEDULE.targets]
        starts = [self._outside(number * len(targets) + i) for i in range(len(targets))]
        climbed, target = self._ascend(classes[:, 0], number, SCHEDULE.ascent_steps)
        rows = self._start(torch.cat([*targets, target]), torch.cat([*starts, climbed]), self._reach())
        for stage in SCHEDULE.round:
            rows = self.keep(rows, stage.kept)
            yield from self._steps(rows, stage.steps)
        end = torch.full_like(self.best, torch.inf).scatter_(0, rows.index, rows.best)
        same = end.isfinite() & (end <= self.best * (1 + self.same_point))
        self.rounds_at_best.masked_fill_(self.best < self.round_best * (1 - self.same_point), 0).add_(same)
        self.round_best = self.best.clone()
        self._search_boundary()

    def _other_classes(self) -> Iterator[RadiusRows]:
        """Searches from the image towards the classes after the nearest one, so that the rounds continue with those
        that turn out to be near."""
        target = self.class_distance.argsort(dim=1, stable=True)[:, 1 : 1 + SCHEDULE.others[0].kept].T.flatten()
        if not len(target):  # a single class to aim at
            return
        rows = self._start(target, torch.zeros_like(self.x).repeat(len(target) // len(self.x), 1), None)
        for stage in SCHEDULE.others:
            rows = self.keep(rows, stage.kept)
            yield from self._steps(rows, stage.steps)

    def _ascend(self, target: Tensor, number: int, planned: int) -> tuple[Tensor, Tensor]:
        """Starts at the end of a direct ascent of `planned` gradients, and the classes that are nearest there. The
        ascent starts at the image in the first round, at random points of the ball in later ones. That of images
        without a point goes on where the last one ended."""
        radius = SCHEDULE.ascent_radius * self.best
        live = (~self.finished(slice(None))).nonzero()[:, 0]
        u, target = torch.zeros_like(self.x), target.clone()
        if not len(live):
            return u, target
        steps = min(planned, self.task.gradients - self.spent)
        self.spent += steps
        if number:
            drawn = self._direction(-number) * radius[:, None] * self.x.shape[1] ** 0.5
            u = torch.where(radius.isinf()[:, None], self.climbed, drawn)
        u[live], target[live] = ascend(
            self.task, self.images[live], self.settings, u[live], radius[live], steps, planned
        )
        self.climbed = u.clone()
        return u, target

    def _outside(self, number: int) -> Tensor:
        """Points in a random direction, the same for every image, at a multiple of the best perturbation's length; for
        images without a point, a random point of the box."""
        low, high = self.settings.box(self.x)
        point = torch.lerp(low, high, self.task.drawn(torch.rand, number))
        lengths = SCHEDULE.sparse_far if self.settings.sparse else SCHEDULE.far
        factor = lengths[number % len(lengths)]
        best = self.settings.scaled(self.task.best.x_adv[self.images].flatten(1) - self.x)
        far = factor * torch.linalg.vector_norm(best, dim=1, keepdim=True) * self._direction(number)
        return torch.where(self.best.isfinite()[:, None], far, point)

    def _direction(self, number: int) -> Float[Tensor, " n"]:
        """A random unit vector that depends on `number` and the seed. Unlike AttackInput.direction it is not 0 at fixed
        pixels: it is a direction of u, in which the bounds already keep fixed pixels at 0."""
        direction = self.task.drawn(torch.randn, number)
        return direction / torch.linalg.vector_norm(direction)
