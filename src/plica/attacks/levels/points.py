"""Grid points of some images, evaluated one after the other: shared by all searches of the grid."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plica.attacks.base import AttackInput
from plica.attacks.levels.settings import ENOUGH, ROUNDING
from plica.core.domain.levels import LevelGrid
from plica.core.model.gradient import NoGradientError
from plica.metrics import LpForm
from plica.solver.rows import dot


class GridPoints:
    """Grid points u of some images, evaluated one after the other; the base class of searches on the grid.

    Attributes:
        image: index of each row's image among those of the task.
        x, u: pixels of the image and of the grid point.  (r, n)
        margin: at u.
        grad: the gradient of the margin, at the last point that was evaluated with one.
        least: the margin that rounded points aim at.
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

    def _weighted(self, delta: Tensor, pixels: Tensor | slice = slice(None)) -> Tensor:
        """delta times the weights, of all pixels or the given ones; 0 where a pixel must not move."""
        if self.weights is None:
            return delta
        weights = self.weights.masked_fill(self.weights.isinf(), 0)
        return delta * weights[pixels]

    def left(self) -> Int[Tensor, " r"]:
        """Gradients that each row may still spend."""
        return self.task.gradients - self.task.model.gradients[self.image]

    def forwards_left(self) -> Int[Tensor, " r"]:
        """Forward runs that each row may still spend, without those that the judge needs."""
        return self.task.affordable(self.task.gradients) - self.task.model.forwards[self.image]

    def evaluate(
        self, u: Float[Tensor, "r n"], rows: Int[Tensor, " r"], with_gradient: Bool[Tensor, " r"]
    ) -> Bool[Tensor, " r"]:
        """Whether the goal is reached at u, by a gradient or a forward run for each row. Stores u and its margin."""
        reached = torch.zeros_like(rows, dtype=torch.bool)
        for which, run in ((with_gradient, self._gradient), (~with_gradient, self._forward)):
            if bool(which.any()):
                reached[which] = run(u[which], rows[which])
        return reached

    def _forward(self, u: Float[Tensor, "r n"], rows: Int[Tensor, " r"]) -> Bool[Tensor, " r"]:
        z, image = u.view(-1, *self.task.x.shape[1:]), self.image[rows]
        logits = self.task.model.logits(z, image)
        self.margin[rows], self.u[rows] = self.task.goal[image].margin(logits), u
        return self._offer(z, rows, logits)

    def _gradient(self, u: Float[Tensor, "r n"], rows: Int[Tensor, " r"]) -> Bool[Tensor, " r"]:
        """If the model has no gradient, or it is 0, the slope along the line from the image to u replaces it."""
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
