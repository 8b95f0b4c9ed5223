"""The search driver: several searches per image run at once, and the most promising ones are continued.

A schedule is a generator of the rows to step next, at one gradient each. It does not know the budget, so a larger
budget continues where a smaller one stopped. `Multistart.run` steps the rows that the schedule yields until the budget
is spent or no image is left. The radius attack (radius/search.py) and the curved attack (curved.py) are schedules of
this driver.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plica.attacks.base import AttackInput
from plica.core.goals import Aim, Goal
from plica.goals import flat
from plica.solver.rows import take

LARGE = 1e12  # an output larger than this, or smaller than its reciprocal, is scaled
MOST_DOUBLINGS = 120  # largest power of two by which an output is scaled, within the range of float32


@dataclass
class Candidates:
    """Rows of a search, m for each of some images: row (j, i) of image i at j * images + i.

    Attributes:
        index: index of the row's image among the images of the search.
        target: the alternative of the goal that the row aims at, by its column (Goal.alternatives).
        state: of the solver: the row's point, its `size` (the distance to the image), the `estimate` of the distance
            at which the row will reach the boundary, and the `residual` of the optimality conditions.
        images: number of images that have rows; the first `images` rows belong to one image each.
    """

    index: Int[Tensor, " r"]
    target: Int[Tensor, " r"]
    state: Any
    images: int

    def __len__(self) -> int:
        return len(self.index)


C = TypeVar("C", bound=Candidates)
Outputs = tuple[Tensor, Tensor, Tensor]  # margins (r,) or (r, others), logits, and the gradient of a row's margin


def taken(rows: C, some: Int[Tensor, " s"], images: int) -> C:
    """Some of the rows, in the same order of images; `images` is the number of images among them."""
    return replace(take(rows, some), images=images)


@dataclass(frozen=True)
class Evaluation:
    """The result of one model call for each row.

    Attributes:
        value: the margin of the row's target.
        rounding: the smallest margin that counts.
        grad: the gradient of `value` with respect to the image.
        size: the row's size if it reaches the goal, else inf.
    """

    value: Float[Tensor, " r"]
    rounding: Float[Tensor, " r"]
    grad: Float[Tensor, "r n"]
    size: Float[Tensor, " r"]


class Multistart(ABC, Generic[C]):
    """The search on some images of a task.

    Attributes:
        best: (i,) the smallest size at which each image was misclassified.
        residual: (i,) the residual of the row that reached it.
        not_finite: (i,) images whose first gradient is not finite.
        scale: (i,) factor of margins and their gradients: 1, or the power of two that brings an output of a size such
            as 1e20 or 1e-20, whose square float32 cannot hold, near 1; None if it is 1 for all images.
        same_point: a row has returned to the best point if its size exceeds `best` by no more than this share.
        keeps_aim: whether rows.target hardly ever changes, so that Goal.aim is worth its preparation.
    """

    same_point = 0.0
    keeps_aim = False

    def __init__(self, task: AttackInput, images: Int[Tensor, " i"]):
        self.task, self.images = task, images
        self.x, self.goal = task.x[images].flatten(1), task.goal[images]
        self.spent = 0  # gradients per image
        self._looked_up: tuple[Tensor, Tensor | None] | None = None  # index and target that `_known` is of
        self._known: tuple[Tensor, Goal, Tensor | None, Aim | None] = images, self.goal, None, None
        self.best = self.x.new_full((len(images),), torch.inf)
        self.residual = self.x.new_full((len(images),), torch.nan)
        self.infinity = self.x.new_tensor(torch.inf)  # for torch.where, which would copy a number to the device
        self.not_finite: Bool[Tensor, " i"] | None = None
        size = flat(task.model.varying(task.logits[images], images)).abs().amax(1).double()
        usual = (size > 1 / LARGE) & (size < LARGE) | (size == 0)
        exponent = torch.where(usual, 0, -size.log2()).round().clamp(-MOST_DOUBLINGS, MOST_DOUBLINGS)
        self.scale = None if bool(usual.all()) else torch.exp2(exponent).to(self.x)

    @property
    def targets(self) -> Int[Tensor, "i alternatives"]:
        """The alternatives of the goal, by their columns, sorted by their margin at the image, largest first."""
        margins = self.goal.alternatives(self.task.logits[self.images])
        return margins.argsort(dim=1, descending=True, stable=True)

    @abstractmethod
    def step(self, rows: C) -> None:
        """Evaluate the rows' points and move them to the next ones, in place."""

    @abstractmethod
    def finished(self, index: Int[Tensor, " i"] | slice) -> Bool[Tensor, " i"]:
        """Images that are finished, so that no more gradients are spent on them."""

    def run(self, schedule: Iterator[C]) -> None:
        """Step the rows that the schedule yields while the budget lasts; each image pays one gradient per row."""
        for rows in schedule:
            images, left = rows.images, self.task.gradients - self.spent
            if not images or left <= 0:
                return
            m = min(len(rows) // images, left)
            if m * images < len(rows):
                rows = taken(rows, torch.arange(m * images, device=rows.index.device), images)
            self.spent += m
            self.step(rows)

    def least(self, pool: C, kept: int) -> tuple[Int[Tensor, " k"], int]:
        """The `kept` rows with the smallest estimates of every image that is not finished, and the number of these
        images. This is the only time in a stage that the host waits for the device."""
        images = pool.images
        if not images:
            return pool.index, 0
        order = pool.state.estimate.view(-1, images).argsort(dim=0, stable=True)[:kept]
        rows = order * images + torch.arange(images, device=order.device)
        left = (~self.finished(pool.index[:images])).nonzero()[:, 0]
        return (rows if len(left) == images else rows[:, left]).flatten(), len(left)

    def keep(self, pool: C, kept: int) -> C:
        """The rows of `least`, sorted by estimate; the pool itself if it has one row per image and all are kept."""
        rows, images = self.least(pool, kept)
        return pool if len(rows) == len(pool) == images else taken(pool, rows, images)

    def evaluate(
        self, rows: C, z: Float[Tensor, "p *image"], limit: Float[Tensor, " b"], size_is_distance: bool
    ) -> Evaluation:
        """Run the model on the points z of the rows (and padding after them), and offer those that are misclassified
        at no more than `limit`, which has an entry for each image of the task.

        size_is_distance: whether the state's `size` is the metric's value; otherwise the metric is evaluated.
        """
        return self.offer(rows, z, self.outputs(rows, z), limit, size_is_distance)

    def outputs(self, rows: C, z: Float[Tensor, "p *image"]) -> Outputs:
        """The first half of `evaluate`: run the model. Returns what `offer` takes."""
        image, goal, scale, aim = self._of(rows)
        if aim is None:
            value, logits, grad = self.task.model.gradient(
                z, image, lambda logits, part: self._scaled(self.value(rows, goal, logits, part), scale, part)
            )
        else:
            value, logits, grad = self.task.model.gradient(z, image, aim.margins, aim.slope)
        if self.not_finite is None:
            bad = ~grad.flatten(1).isfinite().all(1)
            self.not_finite = torch.zeros_like(self.images).index_add(0, rows.index, bad.to(self.images)) > 0
        return value, logits, grad

    def offer(
        self,
        rows: C,
        z: Float[Tensor, "p *image"],
        outputs: Outputs,
        limit: Float[Tensor, " b"],
        size_is_distance: bool,
    ) -> Evaluation:
        """The second half of `evaluate`, which does not wait for the device."""
        (image, goal, scale, aim), size, (value, logits, grad) = self._of(rows), rows.state.size, outputs
        if aim is None:
            margin = goal.margin(logits)
        else:
            value, margin = self._scaled(value[:, -1], scale), value.amax(1)
        noise = self.task.model.least_margin(logits, image)
        wrong = margin > noise
        reached, d = torch.where(wrong, size, self.infinity), size if size_is_distance else None
        near = reached < limit[image]
        self.task.best.keep(z, image, margin, near, d, once=len(rows) == rows.images)
        noise = noise if scale is None else noise * scale
        return Evaluation(value, noise, grad.flatten(1), reached)

    def value(self, rows: C, goal: Goal, logits: Float[Tensor, "p *output"], part: slice) -> Float[Tensor, " p"]:
        """The margin of the alternative that each row of a part aims at, which it increases. goal: of all rows."""
        return goal[part].margin_to(logits, rows.target[part])

    def record(self, rows: C, size: Float[Tensor, " r"], residual: Float[Tensor, " r"]) -> None:
        """Update `best` and `residual` from the rows just evaluated; size: inf where a row is not misclassified."""
        images, every = rows.images, rows.images == len(self.best)
        index, least, own = rows.index[:images], size, residual
        if len(rows) > images:
            least, row = size.view(-1, images).min(0)
            own = residual.view(-1, images).gather(0, row[None])[0]
        best, known = (self.best, self.residual) if every else (self.best[index], self.residual[index])
        better, same = least < best, least >= best * (1 - self.same_point)
        # an overshoot phase leaves the best point in long steps; an earlier residual of the same point stays valid
        own = torch.where(same, torch.fmin(own, known), own)
        known, best = torch.where(better, own, known), torch.where(better, least, best)
        if every:
            self.residual, self.best = known, best
        else:
            self.residual[index], self.best[index] = known, best

    def _of(self, rows: C) -> tuple[Int[Tensor, " r"], Goal, Float[Tensor, " r"] | None, Aim | None]:
        """The index of each row's image among those of the task, its goal, its scale and, if `keeps_aim`, its aim. They
        are looked up once for all steps of the same rows."""
        index, target = rows.index, rows.target if self.keeps_aim else None
        if self._looked_up is None or self._looked_up[0] is not index or self._looked_up[1] is not target:
            self._looked_up = index, target
            image, goal = self.images[index], self.goal[index]
            scale = None if self.scale is None else self.scale[index]
            aim = goal.aim(rows.target, self.task.logits) if self.keeps_aim else None
            if aim is not None and scale is not None:
                aim = replace(aim, slope=aim.slope * scale[:, None])
            self._known = image, goal, scale, aim
        return self._known

    @staticmethod
    def _scaled(value: Tensor, scale: Tensor | None, part: slice = slice(None)) -> Tensor:
        return value if scale is None else value * scale[part]
