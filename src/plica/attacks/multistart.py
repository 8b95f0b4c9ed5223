"""The search driver: several searches per image, run side by side, of which the most promising ones go on.

A schedule is a generator of the rows to step next, one gradient each. It does not know the budget, so a larger budget
continues where a smaller one stopped. `Multistart.run` steps what the schedule yields until the budget is spent or no
image is left. The radius attack (radius/search.py) and the curved attack (curved.py) are schedules of this driver.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plica.attacks.base import AttackInput
from plica.core.losses import margin
from plica.core.model import rounding
from plica.solver.rows import take


@dataclass
class Candidates:
    """Rows of a search, m for each of some images: row (j, i) of image i at j * images + i.

    Attributes:
        index: of the row's image among the images of the search.
        target: the class aimed at.
        state: of the solver, which knows the row's point, its `size` (the distance to the image), the `estimate` of
            the distance at which the boundary is met, and the `residual` of the optimality conditions.
    """

    index: Int[Tensor, " r"]
    target: Int[Tensor, " r"]
    state: Any

    def __len__(self) -> int:
        return len(self.index)

    @property
    def images(self) -> int:
        """The number of images that there are rows for; the first so many rows belong to one image each."""
        return len(self) // max(1, int((self.index == self.index[:1]).sum()))


C = TypeVar("C", bound=Candidates)


@dataclass(frozen=True)
class Evaluation:
    """What one model call says of each row: m = f_target - f_y (with targets, the margin of the target), the least m
    that counts, the gradient of m with respect to the image, and the row's size where it is misclassified (else
    inf)."""

    value: Float[Tensor, " r"]
    rounding: Float[Tensor, " r"]
    grad: Float[Tensor, "r n"]
    size: Float[Tensor, " r"]


class Multistart(ABC, Generic[C]):
    """The search on some images of a task. `best` and `residual` (i,) are the least size at which each image was
    misclassified, and the residual of that row.

    same_point: relative distance to the best below which a row has come back to the same point.
    """

    same_point = 0.0

    def __init__(self, task: AttackInput, images: Int[Tensor, " i"]):
        self.task, self.images = task, images
        self.x, self.y = task.x[images].flatten(1), task.y[images]
        self.spent = 0  # gradients per image
        self.best = self.x.new_full((len(images),), torch.inf)
        self.residual = self.x.new_full((len(images),), torch.nan)

    @property
    def classes(self) -> Int[Tensor, "i c"]:
        """The classes to aim at, by their logit at the image, largest first; with targets, the target alone."""
        if self.task.targets is not None:
            return self.task.targets[self.images, None]
        others = self.task.logits[self.images].scatter(1, self.y[:, None], -torch.inf)
        return others.argsort(dim=1, descending=True, stable=True)[:, :-1]

    @abstractmethod
    def step(self, rows: C) -> None:
        """Evaluate the rows' points and move them to the next ones, in place."""

    @abstractmethod
    def answered(self, index: Int[Tensor, " i"] | slice) -> Bool[Tensor, " i"]:
        """Images that nothing more is spent on."""

    def run(self, schedule: Iterator[C]) -> None:
        """Step the rows that the schedule yields while the budget lasts; each image pays one gradient per row."""
        for rows in schedule:
            images, left = rows.images, self.task.gradients - self.spent
            if not images or left <= 0:
                return
            m = min(len(rows) // images, left)
            if m * images < len(rows):
                rows = take(rows, torch.arange(m * images, device=rows.index.device))
            self.spent += m
            self.step(rows)

    def least(self, pool: C, kept: int) -> Int[Tensor, " k"]:
        """The `kept` rows of least estimate of every image that is not answered."""
        images = pool.images
        if not images:
            return pool.index
        order = pool.state.estimate.view(-1, images).argsort(dim=0, stable=True)[:kept]
        rows = order * images + torch.arange(images, device=order.device)
        return rows[:, ~self.answered(pool.index[:images])].flatten()

    def keep(self, pool: C, kept: int) -> C:
        """The rows of `least`, the least first; the pool itself where they are all of it in the same order."""
        rows = self.least(pool, kept)
        same = len(rows) == len(pool) and bool((rows[1:] > rows[:-1]).all())
        return pool if same else take(pool, rows)

    def evaluate(
        self, rows: C, z: Float[Tensor, "p *image"], limit: Float[Tensor, " b"], size_is_distance: bool
    ) -> Evaluation:
        """Run the model on the points z of the rows (and padding after them), and offer those that are misclassified
        at no more than `limit`, which has an entry for each image of the task.

        size_is_distance: whether the state's `size` is the metric's value; otherwise the metric is asked.
        """
        image, y, size = self.images[rows.index], self.y[rows.index], rows.state.size
        targets = None if self.task.targets is None else rows.target

        def towards(logits: Tensor, part: slice) -> Tensor:
            if targets is not None:
                return margin(logits, y[part], targets[part])
            return (logits.gather(1, rows.target[part, None]) - logits.gather(1, y[part, None]))[:, 0]

        value, logits, grad = self.task.model.gradient(z, image, towards)
        noise = rounding(logits)
        wrong = margin(logits, y, targets) > noise
        good = (wrong & (size <= limit[image])).nonzero()[:, 0]
        self.task.best.offer(z[good], image[good], logits[good], size[good] if size_is_distance else None)
        return Evaluation(value, noise, grad.flatten(1), torch.where(wrong, size, torch.inf))

    def record(self, rows: C, size: Float[Tensor, " r"], residual: Float[Tensor, " r"]) -> None:
        """Update `best` and `residual` from the rows just evaluated; size: inf where a row is not misclassified."""
        images = rows.images
        index = rows.index[:images]
        least, row = size.view(-1, images).min(0)
        own = residual.view(-1, images).gather(0, row[None])[0]
        better, same = least < self.best[index], least >= self.best[index] * (1 - self.same_point)
        # an overshoot phase leaves the best point in long steps; what was known of the same point before it holds
        own = torch.where(same, torch.fmin(own, self.residual[index]), own)
        self.residual[index] = torch.where(better, own, self.residual[index])
        self.best[index] = torch.where(better, least, self.best[index])
