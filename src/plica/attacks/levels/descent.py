"""Lowers the distance of grid points by changes of one or two pixels (few dimensions)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plica.attacks.base import AttackInput
from plica.attacks.levels.points import GridPoints
from plica.attacks.levels.settings import ROUNDING
from plica.core.domain.levels import LevelGrid
from plica.metrics import LpForm


class Descent(GridPoints):
    """Changes of one or two pixels by a level from the nearest grid points, in few dimensions and for l_p norms.

    Of all changes that lower the distance, the one with the largest margin by the linearisation at u is tried next,
    with forward runs while there are any, then with gradients.
    """

    def __init__(self, task: AttackInput, image: Int[Tensor, " r"], grid: LevelGrid, form: LpForm):
        super().__init__(task, image, task.best.x_adv[image], grid, form)
        self.p = form.p
        n = self.x.shape[1]
        pixel = torch.arange(n, device=self.x.device)
        none = self.x.new_zeros(1)
        # a change is a pair of moves: move 0 changes nothing, then each pixel up by a level, then each down by a level
        self.pixel = torch.cat([pixel[:1] - 1, pixel, pixel])
        self.by = torch.cat([none, torch.ones_like(pixel).to(none), -torch.ones_like(pixel).to(none)])
        self.pairs = self.pixel[:, None] != self.pixel
        self.pairs[0, 0] = self.p == math.inf
        self.tried = torch.zeros(len(image), *self.pairs.shape, dtype=torch.bool, device=self.x.device)

    def run(self) -> None:
        """Try one change after another until none is left or the budget is spent."""
        rows = torch.arange(len(self.image), device=self.image.device)
        rows = rows[self.left() > 0]
        if not len(rows):
            return
        self._gradient(self.u[rows], rows)
        while len(rows):
            u, any_left = self._next(rows)
            rows, u = rows[any_left], u[any_left]
            cheap = self.forwards_left()[rows] > 0
            able = cheap | (self.left()[rows] > 0)
            rows, u, cheap = rows[able], u[able], cheap[able]
            old = self.u[rows], self.margin[rows], self.grad[rows]
            reached = self.evaluate(u, rows, ~cheap)
            again = rows[reached & cheap & (self.left()[rows] > 0)]
            if len(again):
                self._gradient(self.u[again], again)
            self.tried[rows[reached]] = False
            back = rows[~reached]  # the search continues from points that reach the goal
            for own, value in zip((self.u, self.margin, self.grad), old, strict=True):
                own[back] = value[~reached]

    def _next(self, rows: Int[Tensor, " r"]) -> tuple[Float[Tensor, "r n"], Bool[Tensor, " r"]]:
        """The next point of each row, which is marked as tried; and whether there is one."""
        base, least, most = self._base(rows)
        moved = base[:, self.pixel] + self.by  # of move 0 the last pixel, which is not used
        inside = (moved >= least[:, self.pixel]) & (moved <= most[:, self.pixel])
        inside[:, 0] = (least <= most).all(1)
        gain = self.step * self.by * self.grad[rows][:, self.pixel]
        allowed = inside[:, :, None] & inside[:, None, :] & ~self.tried[rows] & self.pairs
        if self.p < math.inf:
            x = self.x_level[rows]
            size = self._weighted(base - x).abs() ** self.p
            cost = self._weighted(moved - x[:, self.pixel], self.pixel).abs() ** self.p - size[:, self.pixel]
            allowed &= cost[:, :, None] + cost[:, None, :] < -ROUNDING * size.amax(1)[:, None, None]
        expected = (gain[:, :, None] + gain[:, None, :]).masked_fill(~allowed, -torch.inf).flatten(1)
        change = expected.argmax(1)
        first, second = change // len(self.pixel), change % len(self.pixel)
        self.tried[rows, first, second] = True
        self.tried[rows, second, first] = True
        each = torch.arange(len(rows), device=rows.device)
        for move in (first, second):
            base[each, self.pixel[move]] += self.by[move]
        return self.points(base, rows), expected.amax(1) > -torch.inf

    def _base(self, rows: Int[Tensor, " r"]) -> tuple[Tensor, Tensor, Tensor]:
        """The levels to which changes are applied, and the least and greatest level of each pixel. They are those of u;
        for l_inf, u moved by a level along the gradient, as far as a smaller distance allows."""
        u, x = self.levels(self.u[rows]).round(), self.x_level[rows]
        base, least, most = u, torch.zeros_like(u), torch.full_like(u, self.grid.levels - 1)
        if self.p == math.inf:
            size = self._weighted(u - x).abs().amax(1, keepdim=True)
            width = (1 - 2 * ROUNDING) * size
            width = width if self.weights is None else width / self.weights
            least, most = torch.maximum(least, (x - width).ceil()), torch.minimum(most, (x + width).floor())
            base = torch.minimum(torch.maximum(u + self.grad[rows].sign(), least), most)
        if self.grid.fixed is not None:
            fixed = self.grid.fixed.flatten()
            base, least, most = (torch.where(fixed, u, level) for level in (base, least, most))
        return base, least, most
