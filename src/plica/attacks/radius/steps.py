"""The steps of the radius attack's rows: model call, best points, next points; the schedule is in search.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plica.attacks.base import AttackInput
from plica.attacks.boundary_search import boundary_search
from plica.attacks.multistart import Candidates, Evaluation, Multistart, Outputs
from plica.attacks.prox_settings import ProxSettings
from plica.attacks.radius.few import exact_steps
from plica.attacks.radius.schedule import SCHEDULE
from plica.goals import Misclassified
from plica.metrics import lp_form
from plica.solver.accelerator import Recorder, Replay, block_rows, is_accelerator
from plica.solver.linearized.proximal_sqp import pad_rows
from plica.solver.linearized.state import ProximalState
from plica.solver.linearized.subproblem import TINY

REPEATED = 4  # least number of steps of a stage that is recorded on a GPU; recording takes as long as two or three


@dataclass
class RadiusRows(Candidates):
    """Rows whose unknowns are u = scale (z - x).

    best: the smallest ||u|| at which the row was misclassified; inf before the first.
    margin: at the last point.
    """

    state: ProximalState
    best: Float[Tensor, " r"]
    margin: Float[Tensor, " r"]


class RadiusSteps(Multistart[RadiusRows]):
    """The rows' steps on some images.

    enough: (b,) the distance, for each image of the task, at which its search ends.
    """

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
        self.waiting = torch.zeros_like(self.zero_gradient)  # images that take part later
        self.agreement = self.x.new_ones(len(images))  # mean cosine of the gradient with the averaged one
        self.measured = 0  # steps over which `agreement` is measured now
        self.rounds_at_best = torch.zeros_like(images)  # rounds in a row that returned to the best point
        self.round_best = torch.full_like(self.best, torch.inf)  # `best` after the last round
        self.order = self.targets
        # the distance of each class so far; untried ones rank behind, by logit
        self.class_distance = torch.full_like(self.order, torch.inf, dtype=self.x.dtype)
        ranks = torch.arange(self.order.shape[1], device=self.x.device) * 1e6 + 1e30
        self.class_distance.scatter_(1, self.order, ranks.to(self.x).expand_as(self.order))

    @property
    def settled(self) -> Bool[Tensor, " i"]:
        """Images whose search has ended, because one round after another returned to the same point."""
        return self.rounds_at_best >= SCHEDULE.settled_after

    @property
    def left(self) -> Bool[Tensor, " i"]:
        """Images passed on to the search of few dimensions, because their gradient at the image is zero."""
        return self.zero_gradient & exact_steps(self.settings)

    def finished(self, index: Int[Tensor, " i"] | slice) -> Bool[Tensor, " i"]:
        """Images with a point that is near enough, images that are settled or wait, and those passed on to the other
        search."""
        images = self.images[index]
        near = self.task.best.distance[images] <= self.enough[images]
        return near | (self.settled | self.left | self.waiting)[index]

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
        if self.measured:
            cosine = torch.cosine_similarity(pad_rows(grad), pad_rows(rows.state.plane), eps=TINY)[: len(rows)]
            self.agreement[rows.index] += cosine / self.measured
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
        runs = min(SCHEDULE.boundary_forwards, self.task.affordable(self.spent) - self.forwards)
        if runs > 0:
            live, ahead = ~self.finished(slice(None)), None
            if rows is not None:
                ahead = self.task.best.x_adv[self.images]
                ahead[rows.index] = self._points(rows)[: len(rows)]
                ahead = ahead[live]
            boundary_search(self.task, self.images[live], runs, ahead)
            self.forwards += runs
