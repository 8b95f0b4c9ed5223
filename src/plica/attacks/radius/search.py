"""MinRadius for distances with a proximal map (solver/linearized): the schedule of classes and starts.

The first 50 gradients are spent on several classes; those whose linear models have the nearest boundaries are kept.
Rounds of 50 gradients from starts far beyond the boundary follow, until five of them have returned to the same point.
MaxLoss is answered by the same search: there is a misclassified point within the radius r exactly if the image's
robustness radius is at most r.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import count

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plica.attacks.base import AttackInput, AttackOutput
from plica.attacks.boundary_search import affordable, boundary_search
from plica.attacks.multistart import Candidates, Evaluation, Multistart, Outputs, taken
from plica.attacks.prox_settings import ProxSettings, prox_settings
from plica.attacks.radius.ascent import ascend
from plica.attacks.radius.few import FLAT, FewSearch, exact_steps, suits
from plica.attacks.radius.schedule import SCHEDULE, Elsewhere, Entry, Stage
from plica.core.judging.best import BestPoints
from plica.core.status import Status
from plica.goals import Misclassified
from plica.metrics import lp_form
from plica.solver.accelerator import Recorder, Replay, block_rows, is_accelerator
from plica.solver.linearized.state import ProximalState
from plica.solver.rows import join, put

REPEATED = 4  # least number of steps of a stage that is recorded on a GPU; recording takes as long as two or three


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
            search.run(search.schedule())
            if bool((left := search.left).any()):
                flat = FewSearch(unbounded, images[left], settings, enough, FLAT)
                flat.starts.fill_(flat.first)  # no start at the image
                flat.spent = int(task.model.gradients[images[left]].max())
                flat.run(flat.schedule())
                search.residual[left], search.rounds_at_best[left] = flat.residual, 0
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


@dataclass
class RadiusRows(Candidates):
    """Rows whose unknowns are u = scale (z - x).

    best: the smallest ||u|| at which the row was misclassified; inf before the first.
    margin: at the last point.
    """

    state: ProximalState
    best: Float[Tensor, " r"]
    margin: Float[Tensor, " r"]


class RadiusSearch(Multistart[RadiusRows]):
    """The search on some images. enough: (b,) the distance, for each image of the task, at which its search ends."""

    same_point, keeps_aim = SCHEDULE.same_point, True

    def __init__(
        self, task: AttackInput, images: Int[Tensor, " i"], settings: ProxSettings, enough: Float[Tensor, " b"]
    ):
        super().__init__(task, images)
        settings = settings if task.targets is None else settings.aimed
        self.settings, self.enough, self.solver = settings, enough, settings.race
        self.zero_gradient = torch.zeros_like(images, dtype=torch.bool)
        self.forwards = 0  # spent so far on searches of the boundary
        self.points = self.x.new_zeros(0, self.x.shape[1])
        self._repeated: RadiusRows | None = None  # rows of a stage of many steps
        self._recorder = Recorder()
        self._replay: Replay | None = None  # what follows each model call for them
        self.misled = torch.zeros_like(self.zero_gradient)  # whether linear models were seen to mislead in the opening
        self.limited = False  # whether there is such an image
        self.opening = True  # until the first overshoot phase
        self.rounds_at_best = torch.zeros_like(images)  # rounds in a row that returned to the best point
        self.order = self.targets
        # the distance of each class so far; untried ones rank behind, by logit
        self.class_distance = torch.full_like(self.order, torch.inf, dtype=self.x.dtype)
        ranks = torch.arange(self.order.shape[1], device=self.x.device) * 1e6 + 1e30
        self.class_distance.scatter_(1, self.order, ranks.to(self.x).expand_as(self.order))

    def schedule(self) -> Iterator[RadiusRows]:
        """The race, then one round after another."""
        pool = None
        race = SCHEDULE.race if self.task.targets is None else SCHEDULE.aimed_race
        for stage in SCHEDULE.sparse_race if self.settings.sparse else race:
            if isinstance(stage, Entry):
                pool = yield from self._enter(pool, stage)
            elif pool is None:
                continue
            elif isinstance(stage, Elsewhere):
                yield from self._elsewhere(pool, stage)
            else:
                yield from self._stage(pool, stage)
        # without alternatives (with a target class, or for some goals) the boundary has corners where two classes meet:
        # steps zigzag there, and the solver of the race, which averages planes, is better
        self.solver = self.settings.explore if self.goal.has_alternatives else self.settings.race
        for number in count():
            if self.settings.sparse and number == SCHEDULE.others_after:
                yield from self._other_classes()
            yield from self._round(number)

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
        steps = stage.steps
        if stage.overshoot is not None and self.opening:
            self.opening, self.limited = False, bool(self.misled.any())
            before = rows.margin.clone()  # replayed steps write to the same memory
            yield from self._steps(rows, SCHEDULE.patience)
            steps -= SCHEDULE.patience
            hopeless = self.best[rows.index].isinf() & (rows.margin < SCHEDULE.progress * before)
            if bool(hopeless.any()):
                self.limited = True
                self.misled[rows.index] |= hopeless
                self.solver.move(rows.state, hopeless, self._outside(0)[rows.index])
        yield from self._steps(rows, steps)
        put(pool, index, rows)
        if stage.search_boundary:
            self._search_boundary(rows)

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
        climbed, target = self._ascend(classes[:, 0], number)
        before = self.best.clone()
        rows = self._start(torch.cat([*targets, target]), torch.cat([*starts, climbed]), self._reach())
        for stage in SCHEDULE.round:
            rows = self.keep(rows, stage.kept)
            yield from self._steps(rows, stage.steps)
        end = torch.full_like(before, torch.inf).scatter_(0, rows.index, rows.best)
        same = end.isfinite() & (end <= self.best * (1 + self.same_point))
        self.rounds_at_best.masked_fill_(self.best < before * (1 - self.same_point), 0).add_(same)
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

    @property
    def settled(self) -> Bool[Tensor, " i"]:
        """Images whose search has ended, because one round after another returned to the same point."""
        return self.rounds_at_best >= SCHEDULE.settled_after

    @property
    def left(self) -> Bool[Tensor, " i"]:
        """Images passed on to the search of few dimensions, because their gradient at the image is zero."""
        return self.zero_gradient & exact_steps(self.settings)

    def finished(self, index: Int[Tensor, " i"] | slice) -> Bool[Tensor, " i"]:
        """Images with a point that is near enough, images that are settled, and those passed on to the other search."""
        images = self.images[index]
        near = self.task.best.distance[images] <= self.enough[images]
        return near | self.settled[index] | self.left[index]

    def step(self, rows: RadiusRows) -> None:
        """As in Multistart. On a GPU the operations that follow a model call are recorded at the first one of a stage,
        and replayed at the others."""
        replay = self._replay if self._repeated is rows else None
        z = self._points(rows) if replay is None else self._as_images(rows)
        outputs = self.outputs(rows, z)
        if replay is None and self._repeated is rows and rows.state.stepped and self._can_be_recorded():
            replay = self._replay = self._recorder(partial(self._move, rows, z), outputs, (self, rows, rows.state))
            self._repeated = rows if replay is not None else None
        if replay is None:
            self._advance(rows, z, outputs)
        else:
            replay(*outputs)
            if self.limited:  # rows may aim elsewhere now, though rows.target is the same tensor
                self._looked_up = None

    def _advance(self, rows: RadiusRows, z: Tensor, outputs: Outputs) -> None:
        """Offer the points and move the rows to the next ones, without waiting for the device."""
        limit = self.task.best.distance * (1 + 1e-6)  # ||u|| and the metric differ by roundings
        evaluation = self.offer(rows, z, outputs, limit, size_is_distance=False)
        rows.best, rows.margin = torch.minimum(rows.best, evaluation.size), evaluation.value
        if self.spent == 1:
            self.zero_gradient[rows.index] = (evaluation.grad == 0).all(1)
        grad = self.settings.pull(evaluation.grad)
        self._limit(rows, evaluation, outputs[1], grad)
        self.solver.step(rows.state, evaluation.value, evaluation.rounding, grad)
        self.record(rows, evaluation.size, rows.state.residual)

    def _limit(
        self, rows: RadiusRows, evaluation: Evaluation, logits: Float[Tensor, "r *output"], grad: Float[Tensor, "r n"]
    ) -> None:
        """Limit the steps at images where linear models mislead (docs/design/radius.md). Rows go halfway back to the
        image if they are beyond the boundary and their model says that even the image is misclassified, if their
        gradient is zero before the boundary, or if they are at a point of another wrong class, at which they aim then.
        """
        state = rows.state
        state.limited = self.opening or self.limited
        if not state.limited:
            return
        beyond, accelerated = evaluation.value > evaluation.rounding, is_accelerator(grad.device)
        contradicts, flat = (state.u * grad).sum(1) < evaluation.value, (state.size > 0) > grad.any(1)
        lost = torch.where(beyond, contradicts, flat)
        if self.opening:
            index = rows.index[: rows.images]
            self.misled[index] |= lost.view(-1, rows.images).any(0)
            state.limited = accelerated or bool(self.misled.any())
        misled = self.misled[rows.index]
        state.lost = lost & misled
        if not (accelerated and self.opening):
            elsewhere = misled & ~beyond & evaluation.size.isfinite()
            if accelerated or bool(elsewhere.any()):
                largest = self.goal[rows.index].alternatives(logits).argmax(1)
                rows.target = torch.where(elsewhere, largest, rows.target)
                state.lost = state.lost | elsewhere
        state.reach = torch.where(misled, SCHEDULE.reach * torch.minimum(self.best[rows.index], rows.best), torch.inf)
        state.eta = torch.where(state.lost, 0.5 * state.eta, state.eta)

    def _move(self, rows: RadiusRows, z: Tensor, *outputs: Tensor) -> None:
        """`_advance`, and the images at the next points."""
        self._advance(rows, z, outputs)  # type: ignore[arg-type]
        self._points(rows)

    def _can_be_recorded(self) -> bool:
        """Whether only code of plica runs between two model calls: none of a user's metric, goal or grid."""
        known = lp_form(self.task.question.metric) is not None and self.task.model.grid is None
        return known and isinstance(self.goal.function, Misclassified)

    def _steps(self, rows: RadiusRows, steps: int) -> Iterator[RadiusRows]:
        self._repeated, self._replay = rows if steps >= REPEATED else None, None
        for _ in range(steps):
            yield rows
        self._repeated = self._replay = None
        distance = self.class_distance[rows.index, rows.target]
        self.class_distance[rows.index, rows.target] = torch.minimum(distance, rows.best)

    def _start(self, target: Tensor, u: Tensor, eta: Tensor | None) -> RadiusRows:
        """Rows that start at u and aim at `target`, both for m rows of every image. eta: first trust region of each
        image; None for the solver's default."""
        m, images = len(target) // len(self.x), len(self.x)
        x = self.x.repeat(m, 1)
        low, high = self.settings.box(x)
        u = torch.minimum(torch.maximum(u, low), high)
        index = torch.arange(images, device=x.device).repeat(m)
        state = self.solver.start(low, high, u, None if eta is None else eta.repeat(m))
        none = self.best.new_full((len(x),), torch.inf)
        return RadiusRows(index, target, state, images, none, none.clone())

    def _ascend(self, target: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Starts at the end of a direct ascent, and the classes that are nearest there. The ascent starts at the image
        in the first round, at random points of the ball in later ones. Images without a point yet start at the image,
        with the given target."""
        radius = SCHEDULE.ascent_radius * self.best
        live = (~self.finished(slice(None)) & radius.isfinite()).nonzero()[:, 0]
        u, target = torch.zeros_like(self.x), target.clone()
        steps = min(SCHEDULE.ascent_steps, self.task.gradients - self.spent)
        self.spent += steps  # without an ascent too, so that no image depends on others
        if not len(live):
            return u, target
        if number:
            u = self._direction(-number) * radius[:, None].nan_to_num(posinf=0) * self.x.shape[1] ** 0.5
        u[live], target[live] = ascend(
            self.task, self.images[live], self.settings, u[live], radius[live], steps, SCHEDULE.ascent_steps
        )
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

    def _points(self, rows: RadiusRows) -> Tensor:
        """The images at the rows' u, followed by padding, in a buffer that the next step overwrites.  (p, *image)"""
        length, images = len(rows), rows.images
        padded = self.task.model.padded(length)
        if len(self.points) < padded:
            self.points = self.x.new_zeros(padded, self.x.shape[1])
        index = rows.index[:images]
        x = self.x if images == len(self.x) else self.x[index]
        block = block_rows(x.device, *x.shape)
        u, points = (t[:length].view(-1, images, x.shape[1]) for t in (rows.state.u, self.points))
        for at in range(0, images, block):
            part = slice(at, at + block)
            self.settings.point(x[part], u[:, part], points[:, part])
        return self._as_images(rows)

    def _as_images(self, rows: RadiusRows) -> Tensor:
        return self.points[: self.task.model.padded(len(rows))].view(-1, *self.task.x.shape[1:])

    def _search_boundary(self, rows: RadiusRows | None = None) -> None:
        """Move the best points towards the boundary, with as many forward runs as the gradients spent so far allow (not
        the budget, so that a larger budget continues the same sequence). rows: at most one for each image, whose next
        points are tried first if they are nearer."""
        runs = min(SCHEDULE.boundary_forwards, affordable(self.spent) - self.forwards)
        if runs > 0:
            live, ahead = ~self.finished(slice(None)), None
            if rows is not None:
                ahead = self.task.best.x_adv[self.images]
                ahead[rows.index] = self._points(rows)[: len(rows)]
                ahead = ahead[live]
            boundary_search(self.task, self.images[live], runs, ahead)
            self.forwards += runs
