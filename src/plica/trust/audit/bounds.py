"""Lower bounds of linear functions of a network over a ball, for the audit: intervals, and lines propagated back to
the image.

They are computed in float64, and the largest rounding error is subtracted: n terms added in any order have an error of
at most n u / (1 - n u) times the sum of their absolute values. For the backward propagation that sum is the sum over
steps of <|a|, v>, where v is the sum of the absolute values of the terms of the step's value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from plica.trust.audit.activations import Activation, Around, Relu
from plica.trust.audit.balls import Ball
from plica.trust.audit.distances import Distances
from plica.trust.audit.executed import error
from plica.trust.audit.layers import Affine, Step
from plica.trust.audit.stretch import MORE, stretches

ROWS = 2**21  # numbers of the largest tensor that is pulled back at once
UNIT = torch.finfo(torch.float64).eps / 2
TWICE = 2.0  # the sum of absolute values is itself rounded, and so are a network's own constants


class Enclosure:
    """A network over a ball: an interval for every step, from lines with these slopes.

    Args:
        steps: of the network.
        ball: around the image.
        slopes: in [0, 1], for each activation by its number.
        executed: whether the bounds hold for the values that the network computes in float32.
        least_of: for some steps that an activation takes, a function that computes lower bounds of sign * entry from
            the steps before, and returns entries, signs and bounds.
    """

    def __init__(
        self, steps: tuple[Step, ...], ball: Ball, slopes: Mapping[int, Tensor], executed: bool = False,
        least_of: Mapping[int, Callable[[Enclosure], tuple[Tensor, Tensor, Tensor]]] | None = None,
    ):  # fmt: skip
        self.steps, self.ball, self.executed = steps, ball, executed
        self.numbers = {k: i for i, k in enumerate(k for k, s in enumerate(steps) if isinstance(s.op, Activation))}
        self.taken = [steps[k].parents[0] for k in self.numbers]  # the step whose value an activation takes
        terms = [torch.Size(s.shape).numel() + (s.op.constants if isinstance(s.op, Affine) else 0) for s in steps]
        n = 150 + len(steps) + max(terms)
        self.gamma = TWICE * n * UNIT / (1 - n * UNIT)
        self.low, self.high = [ball.low.view(1, *steps[0].shape)], [ball.high.view(1, *steps[0].shape)]
        self.errors: list[Tensor] = [torch.zeros_like(self.low[0])]  # of each step, what roundings can do
        self.lines: dict[int, Any] = {}
        self.norms = stretches(steps) if ball.p == 2 and ball.radius < float("inf") else None
        self.centres = [ball.x.view(1, *steps[0].shape)]
        extent = ball.radius * MORE / ball.weights  # of the ball along each entry
        self.spreads = [extent.amax(1)]
        self.near: dict[int, Tensor] = {}  # how far the open entries lie of what a ReLU takes
        distances = None
        if self.norms is not None:
            distances = Distances(steps, self.norms, extent, self.spreads, self.errors)
        behind: set[int] = set()
        for k, step in enumerate(steps[1:], 1):
            if isinstance(step.op, Activation):
                behind.add(k)
                l, u = self.low[step.parents[0]], self.high[step.parents[0]]
                size = torch.maximum(l.abs(), u.abs())
                rounded = step.op.rounded(size) if executed else None
                moved = torch.zeros(()) if rounded is None else error(0, rounded)
                low, high = step.op.interval(l, u)
                self._append(low - moved, high + moved, self.gamma * step.op.size(size) + moved)
                self.lines[k] = step.op.lines(l, u, slopes[self.numbers[k]])
                if distances is not None and isinstance(step.op, Relu):
                    at = step.parents[0]
                    self.near[at] = distances.of_open(k, step.op, l, u, self.centres[at])
                self._place(k)
                continue
            self._affine(step)
            self._place(k)
            behind |= {k} if behind & set(step.parents) else set()
            takers = [(i, s.op) for i, s in enumerate(steps) if k in s.parents and isinstance(s.op, Activation)]
            if takers and (k in behind or ball.p != float("inf")):
                is_open = [op.is_open(self.low[k], self.high[k]) for _, op in takers]
                if any(i in self.taken for i, _ in takers):  # an activation of an activation: all its bounds count
                    is_open.append((self.high[k] > self.low[k]) & (self.high[k] > 0))
                self._tighten(k, torch.stack(is_open).any(0).flatten())
            if least_of is not None and k in least_of:
                self._cut(k, *least_of[k](self))

    def least(
        self, a: Tensor, at: int, lines: Mapping[int, Any] | None = None, pulls: Mapping[int, Tensor] | None = None,
        cut: Mapping[int, tuple[Tensor, Tensor]] | None = None,
    ) -> Tensor:  # fmt: skip
        """A lower bound of <a, value of step `at`> for each row of a. `pulls` are added to the coefficients of steps;
        `cut` are intervals of steps that replace their own."""
        lines = self.lines if lines is None else lines
        bound, terms, off, waiting = *(a.new_zeros(len(a)) for _ in range(3)), {at: a}
        for k in range(at, 0, -1):
            if k not in waiting:
                continue
            step, a = self.steps[k], waiting.pop(k)
            a = a + pulls[k] if pulls is not None and k in pulls else a
            off = off + (a.abs() * self.errors[k]).flatten(1).sum(1)
            if isinstance(step.op, Activation):
                part, constant = step.op.back(a, lines[k])
                parts = [part]
                if self.norms is not None and isinstance(step.op, Relu):
                    other, size = step.op.constant(a, part, self._around(step.parents[0], cut))
                    constant, terms = torch.maximum(constant, other), terms + size
            else:
                assert step.op is not None
                parts, constant = step.op.back(a, [self.steps[parent].shape for parent in step.parents])
            bound = bound + constant
            for parent, part in zip(step.parents, parts, strict=True):
                waiting[parent] = waiting[parent] + part if parent in waiting else part
        first = waiting.get(0, a.new_zeros(len(a), *self.steps[0].shape)).flatten(1)
        value, size = self.ball.least(first)
        return value + bound - off - self.gamma * (terms + size)

    def _around(self, k: int, cut: Mapping[int, tuple[Tensor, Tensor]] | None) -> Around:
        l, u, centre = self.low[k], self.high[k], self.centres[k]
        # entries of known sign do not count: theirs must not lie outside, by a rounding
        centre = torch.where((l < 0) & (u > 0), centre, torch.minimum(torch.maximum(centre, l), u))
        return Around(*(cut or {}).get(k, (l, u)), centre, self.near[k])

    def _place(self, k: int) -> None:
        """The value of step k at the image, and how far from it its values can lie, for an l_2 ball."""
        if self.norms is None:
            return
        step = self.steps[k]
        assert step.op is not None
        self.centres.append(step.op.value(*(self.centres[parent] for parent in step.parents)))
        operands = torch.stack([self.spreads[parent] for parent in step.parents]).norm(dim=0)
        self.spreads.append((self.norms[k] * operands + self.errors[k].norm()) * MORE)

    def _append(self, low: Tensor, high: Tensor, error: Tensor) -> None:
        self.low.append(low.contiguous())  # to be written to by the number of the entry
        self.high.append(high.contiguous())
        self.errors.append(error)

    def _affine(self, step: Step) -> None:
        """The value at the middle of the intervals, and |L| times half their widths on both sides."""
        assert isinstance(step.op, Affine)
        l, u = ([part[parent] for parent in step.parents] for part in (self.low, self.high))
        middle = [(a + b) / 2 for a, b in zip(l, u, strict=True)]
        half = [torch.maximum(b - m, m - a) for a, m, b in zip(l, middle, u, strict=True)]
        value = step.op.value(*middle)
        spread = step.op.size(*half) - step.op.size(*(torch.zeros_like(h) for h in half))
        size = step.op.size(*(torch.maximum(a.abs(), b.abs()) for a, b in zip(l, u, strict=True)))
        own = error(step.op.terms, size) if self.executed and step.op.terms else torch.zeros(())
        moved = self.gamma * 2 * size + own
        self._append(value - spread - moved, value + spread + moved, self.gamma * size + own)

    def _tighten(self, k: int, is_open: Tensor) -> None:
        """Tighter bounds, by backward propagation, for the entries marked in is_open."""
        low, high = self.low[k].view(-1), self.high[k].view(-1)
        widest = max(torch.Size(step.shape).numel() for step in self.steps[: k + 1])
        for part in is_open.nonzero()[:, 0].split(max(1, ROWS // widest)):
            a = torch.zeros(len(part), len(low), dtype=torch.float64)
            a[torch.arange(len(part)), part] = 1
            a = a.view(len(part), *self.steps[k].shape)
            low[part] = torch.maximum(low[part], self.least(a, k))
            high[part] = torch.minimum(high[part], -self.least(-a, k))

    def _cut(self, k: int, entries: Tensor, signs: Tensor, bounds: Tensor) -> None:
        """Tighten the bounds of some entries with lower bounds of sign * entry; nan and -inf are ignored."""
        low, high = self.low[k].view(-1), self.high[k].view(-1)
        for entry, sign, bound in zip(entries.tolist(), signs.tolist(), bounds.tolist(), strict=True):
            if sign > 0 and bound > float(low[entry]):
                low[entry] = bound
            if sign < 0 and -bound < float(high[entry]):
                high[entry] = -bound
