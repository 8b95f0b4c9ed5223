"""The question of an attack as a problem of BFGS-SQP: the objective and the folded constraints of each row."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plica.attacks.base import AttackInput
from plica.attacks.pwcf.parametrization import Parametrization, Sine, within
from plica.attacks.pwcf.settings import SETTINGS
from plica.attacks.target_classes import TargetRows
from plica.core.formulations import MaxLoss
from plica.goals import class_logits
from plica.solver import Evaluation
from plica.solver.rows import pick, take


@dataclass(frozen=True)
class PWCFProblem:
    """The question as a problem of the solver.

    Margins are divided by the norm of their gradient at the start of the row, so that they too are distances and one
    penalty parameter suits every network.

    blind: rows whose last point has not reached the boundary and has gradient zero; updated by every call.
    """

    task: AttackInput
    parametrization: Parametrization
    target_rows: TargetRows
    unit: Float[Tensor, " r"]
    blind: Bool[Tensor, " r"]

    equalities = 0

    @property
    def constraints(self) -> int:
        return 0 if self.task.radius is not None and isinstance(self.parametrization, Sine) else 1

    def __call__(self, u: Tensor, rows: Tensor) -> Evaluation:
        """Values and gradients at the unknowns u; the point is offered to `AttackInput.best`."""
        task, image = self.task, self.target_rows.image[rows]
        x, parametrization = pick(task.x.flatten(1), image), take(self.parametrization, rows)
        free = parametrization.image(u, x)
        flat = free.clamp(*task.bounds)
        z = flat.view(-1, *task.x.shape[1:])
        loss, logits, grad = task.model.gradient(z, image, partial(self._loss, rows=rows))
        task.best.offer(z, image, logits, theta=None if task.best.theta is None else u)
        pull = parametrization.pull(u, within(task.bounds, free, grad.flatten(1)))
        unit = self.unit[rows]
        grads = u.new_empty(len(u), 1 + self.constraints, u.shape[1])
        if task.radius is None:
            size, grads[:, 0] = parametrization.size(u, x)
            torch.mul(pull, -unit[:, None], out=grads[:, 1])
            violation = unit * (self._aim(SETTINGS.passing, logits, rows) - loss)
            # No gradient leads back to the boundary from there, and the distance alone would pull the point to the
            # image. So the line search treats points where the margin is flat as lying outside the domain.
            if task.gradients >= SETTINGS.plateaus:
                self.blind[rows] = blind = (violation > 0) & (pull == 0).all(1)
                violation = violation.masked_fill(blind, torch.inf)
            return Evaluation(torch.stack([size, violation], 1), grads)
        limit = self._loss_limit(logits, rows)
        torch.mul(pull, -torch.where(loss < limit, unit, 0)[:, None], out=grads[:, 0])
        values = [-unit * torch.minimum(loss, limit)]
        excess = parametrization.excess(u, x, SETTINGS.inside * task.radius[image].to(x.dtype))
        if excess is not None:
            values.append(excess[0])
            grads[:, 1] = excess[1]
        return Evaluation(torch.stack(values, 1), grads, done=task.best.distance[image].isfinite())

    def _loss(self, logits: Tensor, part: slice, rows: Tensor) -> Tensor:
        """The margin of the alternative aimed at; for MaxLoss with another loss than the margin, that loss."""
        goal = self.task.goal[self.target_rows.image[rows[part]]]
        if self._loss_name != "margin":
            return goal.loss(self._loss_name, logits)
        return goal.margin_to(logits, self.target_rows.target[rows[part]])

    @property
    def _loss_name(self) -> str:
        return self.task.question.loss if isinstance(self.task.question, MaxLoss) else "margin"

    def _loss_limit(self, logits: Tensor, rows: Tensor) -> Tensor:
        """The loss above which the attack has certainly succeeded (section 3.2): slightly above 0 for the margin and
        DLR, log(classes) for cross-entropy, log(1/2) for cross-entropy with a target."""
        if self._loss_name == "margin":
            return self._aim(SETTINGS.clip, logits, rows)
        limit = SETTINGS.clip
        if self._loss_name == "ce":
            classes = class_logits(logits).shape[1]
            limit = math.log(0.55) if self.task.targets is not None else 1.05 * math.log(classes)
        return torch.full_like(self.target_rows.margin[rows], limit)

    def _aim(self, share: float, logits: Tensor, rows: Tensor) -> Float[Tensor, " r"]:
        """A share of the first margin, but at least twice the margin that counts: a row that starts near the boundary
        would end at a point that does not count."""
        least = self.task.model.least_margin(logits, self.target_rows.image[rows])
        return torch.maximum(share * self.target_rows.margin[rows].abs(), 2 * least)
