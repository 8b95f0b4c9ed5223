"""MinRadius in few dimensions, by steps that are exact on piecewise linear networks (solver/linearized/bundle.py).

A search ends after a few gradients and restarts elsewhere: at the image for the first classes, then far beyond the
boundary and at points of the box, so that a thousand gradients give about 200 starts. As long as an image has no point,
its searches start at points and corners of the box and increase the margin there, since steps towards the image would
all end at the same maximum of the margin.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.quasirandom import SobolEngine

from plica.attacks.base import AttackInput
from plica.attacks.multistart import Candidates, Multistart, taken
from plica.attacks.prox_settings import ProxSettings
from plica.core.goals import Goal
from plica.solver.linearized.bundle import BundleSQP, BundleState
from plica.solver.linearized.prox import LpProx
from plica.solver.rows import join


@dataclass(frozen=True)
class FewSchedule:
    """When a search ends and where the next one starts; docs/design/radius.md has the measurements.

    Attributes:
        dimensions: largest number of dimensions for which this search is used from the start.
        classes: number of classes aimed at from the image itself, those with the largest logits.
        far: distances of the starts far beyond the boundary, used in turn, in lengths of the best perturbation.
        box_every: every so many starts one is a point of the box; all are as long as the image has no point.
        steps: gradients of one search; it goes on if it found a nearer point in the last `insist` gradients.
        insist: see `steps`.
        side_by_side: pairs (gradients spent, number of searches of one image that run at once from then on); several
            rows cost little more time than one.
        converged: relative length of a step at which a search ends.
        hopeless: a search whose estimate exceeds this many best radii after `hopeless_after` steps ends.
        hopeless_after: see `hopeless`.
        settled_after: the search of an image ends after this many starts in a row without a point that is nearer.
        nearer: share of the best distance by which a point must be nearer to count as such.
    """

    dimensions: int = 100
    classes: int = 3
    far: tuple[float, ...] = (1.0, 2.0, 0.5, 4.0)
    box_every: int = 3
    steps: int = 12
    insist: int = 3
    side_by_side: tuple[tuple[int, int], ...] = ((0, 2), (30, 4), (100, 8))
    converged: float = 1e-5
    hopeless: float = 1.5
    hopeless_after: int = 3
    settled_after: int = 100
    nearer: float = 1e-4


SCHEDULE = FewSchedule()
WIDE = 1e6  # in place of an infinite bound, in multiples of the largest pixel
NEAR = 10.0  # in place of an infinite bound for starts at points of the box
FLAT = 2  # planes that are kept for images of any size whose gradient is zero


def exact_steps(settings: ProxSettings) -> bool:
    """Whether the subproblem can be solved exactly: for l_1, l_2 and l_inf, weighted or not."""
    prox = settings.race.prox
    return isinstance(prox, LpProx) and prox.p in (1, 2, math.inf)


def suits(settings: ProxSettings, dimensions: int) -> bool:
    """Whether this search is used from the start."""
    return dimensions <= SCHEDULE.dimensions and exact_steps(settings)


@dataclass
class FewRows(Candidates):
    """m searches of each image that run at once.

    Attributes:
        start: number of the search among those of its image.
        free: whether it aims at the class that is nearest at its start.
        found_at: gradients spent when it last found a nearer point.
    """

    state: BundleState
    start: Int[Tensor, " r"]
    free: Bool[Tensor, " r"]
    found_at: Int[Tensor, " r"]


class FewSearch(Multistart[FewRows]):
    """The search on some images.

    Args:
        task: the task.
        images: indices of the images.
        settings: of the metric.
        enough: (b,) the distance, for each image of the task, at which its search ends.
        planes: most planes that are kept separately.
    """

    def __init__(
        self, task: AttackInput, images: Int[Tensor, " i"], settings: ProxSettings, enough: Float[Tensor, " b"],
        planes: int = BundleSQP.kept,
    ):  # fmt: skip
        super().__init__(task, images)
        self.settings, self.enough = settings, enough
        prox = settings.race.prox
        assert isinstance(prox, LpProx)
        self.solver = BundleSQP(prox.p, planes)
        self.first = min(SCHEDULE.classes, self.targets.shape[1])  # starts at the image
        self.settled = torch.zeros_like(images, dtype=torch.bool)
        self.zero_gradient = torch.zeros_like(self.settled)
        self.best = self.best.double()
        self.best_u, self.best_target = torch.zeros_like(self.x, dtype=torch.float64), torch.zeros_like(images)
        self.starts, self.found_by = torch.zeros_like(images), torch.zeros_like(images)  # starts so far, and the best's
        self.random: tuple[Tensor, Tensor] = self.best_u[:0], self.best_u[:0]

    def schedule(self) -> Iterator[FewRows]:
        """Searches from different starts. The number that run at once grows with the gradients spent."""
        rows = self._open(torch.arange(len(self.x), device=self.x.device))
        while len(rows):
            while len(rows) // rows.images < self._side_by_side:
                rows = join(rows, self._open(rows.index[: rows.images]))
            yield rows
            self._end(rows)
            live, each = (~self.finished(rows.index)).nonzero()[:, 0], len(rows) // rows.images
            if len(live) < len(rows):
                rows = taken(rows, live, len(live) // each)

    @property
    def _side_by_side(self) -> int:
        return next(rows for spent, rows in reversed(SCHEDULE.side_by_side) if self.spent >= spent)

    def finished(self, index: Int[Tensor, " i"] | slice) -> Bool[Tensor, " i"]:
        """Images with a point that is near enough, and images that are settled."""
        images = self.images[index]
        return (self.task.best.distance[images] <= self.enough[images]) | self.settled[index]

    @property
    def _limit(self) -> Float[Tensor, " b"]:
        """The size up to which a row's point is offered."""
        return self.task.best.distance * (1 + 1e-6)  # sizes and the metric differ by roundings

    def value(self, rows: FewRows, goal: Goal, logits: Tensor, part: slice) -> Tensor:
        """As in Multistart. Rows with `free` choose their class at the first step; while they climb, at every step."""
        alternatives = goal[part].alternatives(logits)
        state = rows.state
        choose = rows.free[part] & ((state.steps[part] == 0) | state.climbs[part])
        rows.target[part] = torch.where(choose, alternatives.detach().argmax(1), rows.target[part])
        return alternatives.gather(1, rows.target[part, None])[:, 0]

    def step(self, rows: FewRows) -> None:
        """As of Multistart."""
        state, x = rows.state, self.x[rows.index]
        z = torch.empty_like(x)
        self.settings.point(x, state.u.to(x), z)
        self.solver.move(state, self.settings.scaled(z.double() - x.double()))  # as rounded
        evaluation = self.evaluate(rows, z.view(-1, *self.task.x.shape[1:]), self._limit, size_is_distance=False)
        size, grad = evaluation.size.double(), self.settings.pull(evaluation.grad).double()
        images = rows.images
        index = rows.index[:images]
        # at first every row is at the image, or where it starts
        if bool((self.starts == len(rows) // images).all()) and not bool(state.steps.any()):
            self.zero_gradient[index] = ((grad == 0).all(1) | (rows.start >= self.first)).view(-1, images).all(0)
        least, row = size.view(-1, images).min(0)
        row = row * images + torch.arange(images, device=row.device)
        nearer, much = least < self.best[index], least < self.best[index] * (1 - SCHEDULE.nearer)
        rows.found_at = torch.where(size < self.best[rows.index] * (1 - SCHEDULE.nearer), self.spent, rows.found_at)
        self.found_by[index] = torch.where(much, rows.start[row], self.found_by[index])
        self.best[index] = torch.where(nearer, least, self.best[index])
        self.best_u[index] = torch.where(nearer[:, None], state.u[row], self.best_u[index])
        self.best_target[index] = torch.where(nearer, rows.target[row], self.best_target[index])
        best = self.best[rows.index]
        self.solver.step(state, evaluation.value.double(), evaluation.rounding.double(), grad, best)
        residual = torch.where(nearer, torch.nan, self.residual[index])
        same = size <= best * (1 + SCHEDULE.converged)
        own = torch.where(same, state.residual, torch.nan).view(-1, images)
        for part in own.to(residual):
            residual = torch.fmin(residual, part)
        self.residual[index] = residual

    def _open(self, index: Int[Tensor, " i"]) -> FewRows:
        """One more search for each of these images."""
        wide = WIDE * self.x[index].double().abs().amax(1, keepdim=True).clamp(min=1)
        low, high = (side.double().clamp(-wide, wide) for side in self.settings.box(self.x[index]))
        none = torch.zeros_like(index)
        rows = FewRows(
            index, none.clone(), self.solver.start(low, high), len(index), none.clone(), none > 0, none.clone()
        )
        self._place(rows, none == 0)
        return rows

    def _end(self, rows: FewRows) -> None:
        """End searches that have converged, returned to the best point or are hopeless, and start others instead."""
        state, best, best_u = rows.state, self.best[rows.index], self.best_u[rows.index]
        moves = state.estimate.isfinite()
        rest = state.residual < SCHEDULE.converged
        back = (state.u - best_u).abs().amax(1) < SCHEDULE.converged * best_u.abs().amax(1)
        back &= rows.target == self.best_target[rows.index]
        hopeless = (state.estimate > SCHEDULE.hopeless * best) & (state.steps > SCHEDULE.hopeless_after)
        long = (state.steps >= SCHEDULE.steps) & (
            self.spent - rows.found_at > SCHEDULE.insist * len(rows) // rows.images
        )
        ended = state.failed | long | moves & (rest | back | hopeless)
        if bool(ended.any()):
            # an image whose gradient is zero is no useful start for any class
            self.starts = torch.where(self.zero_gradient, self.starts.clamp(min=self.first), self.starts)
            self._place(rows, ended)
            self.settled = self.best.isfinite() & (self.starts - self.found_by > SCHEDULE.settled_after)

    def _place(self, rows: FewRows, which: Bool[Tensor, " r"]) -> None:
        """Restart these rows, each at the next start of its image."""
        images = rows.images
        for at in range(0, len(rows), images):
            part = slice(at, at + images)
            index = rows.index[part]
            rows.start[part] = torch.where(which[part], self.starts[index], rows.start[part])
            self.starts[index] += which[part]
        index, state = rows.index, rows.state
        best, best_u = self.best[index], self.best_u[index]
        aimed, number = rows.start < self.first, (rows.start - self.first).clamp(min=0)
        nowhere = best.isinf()
        box, corner = nowhere | (number % SCHEDULE.box_every == 0), nowhere & (number % 2 == 0)
        far = best.new_tensor(SCHEDULE.far)[number % len(SCHEDULE.far)] * torch.linalg.vector_norm(best_u, dim=1)
        directions, points = self._random(int(number.max()) + 1)
        near = torch.where(state.low > -WIDE, state.low, -NEAR), torch.where(state.high < WIDE, state.high, NEAR)
        point = torch.where(corner[:, None], points[number].round(), points[number])
        u = torch.where(box[:, None], torch.lerp(*near, point), far[:, None] * directions[number])
        u = torch.where(aimed[:, None], 0, u)
        # trust regions in proportion to the present radius
        reach = torch.where(best.isfinite() & ~aimed, best_u.abs().amax(1), torch.inf)
        self.solver.restart(state, which, u, reach, nowhere & ~aimed)
        target = self.targets[index, rows.start.clamp(max=self.first - 1)]
        rows.target = torch.where(which & aimed, target, rows.target)
        rows.free = torch.where(which, ~aimed, rows.free)
        rows.found_at = torch.where(which, self.spent, rows.found_at)

    def _random(self, count: int) -> tuple[Float[Tensor, "c n"], Float[Tensor, "c n"]]:
        """`count` random unit vectors and points of the unit cube, the same for every image."""
        if count > len(self.random[0]):
            n, seed = self.x.shape[1], self.task.seed * 1_000_003 % 2**31
            # the sequence does not depend on how much of it is drawn: torch draws normal numbers in blocks of 16, an
            # incomplete last one in another way
            count = 16 * math.ceil(count / 8)
            directions = torch.randn(
                count, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, device="cpu"
            )
            if n <= SCHEDULE.dimensions:
                points = SobolEngine(n, scramble=True, seed=seed).draw(count, dtype=torch.float64)
            else:
                points = torch.rand(
                    count, n, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64, device="cpu"
                )
            directions = directions / torch.linalg.vector_norm(directions, dim=1, keepdim=True)
            self.random = directions.to(self.x.device), points.to(self.x.device)
        return self.random
