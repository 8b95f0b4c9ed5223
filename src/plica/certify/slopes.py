"""Bounds of linear functions of the logits with optimised lines (alpha-CROWN, Xu et al. 2021) and with multipliers for
neurons whose signs are fixed (beta-CROWN, Wang et al. 2021).

Every row has its own lines, and its best bound so far counts; all lines are valid, so no step can make it worse.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from plica.certify.backward import Pass
from plica.certify.balls import Ball
from plica.certify.certificate import STEPS
from plica.certify.graph import Graph
from plica.certify.intermediate import Bounds
from plica.certify.openrelu import OpenLines, OpenReLU
from plica.certify.rounding import Slack
from plica.certify.sets import InputSet

Parts = dict[int, Tensor]  # one tensor for each activation, or for each node that one takes


def packed(parameters: Parts, rows: int) -> UInt8[Tensor, "r k"]:
    """The parameters of lines, in the order of the activations, in steps of 1 / STEPS."""
    flat = [(STEPS * v).round().to(torch.uint8).flatten(1) for v in parameters.values()]
    return torch.cat(flat, 1) if flat else torch.zeros(rows, 0, dtype=torch.uint8, device="cpu")


def unpacked(slopes: UInt8[Tensor, "r k"], like: Parts, dtype: torch.dtype) -> Parts:
    """The inverse of `packed`. like: any parameters of the same network."""
    flat = slopes.to(dtype) / STEPS
    parts = flat.split([v[0].numel() for v in like.values()], 1) if like else ()
    return {k: part.view(len(slopes), *v.shape[1:]) for (k, v), part in zip(like.items(), parts, strict=True)}


@dataclass(frozen=True)
class Ascent:
    """Adam (Kingma, Ba 2015) on the parameters of the lines and on the multipliers; steps shrink by `decay`."""

    steps: int = 30
    slope_step: float = 0.25
    multiplier_step: float = 0.1
    decay: float = 0.95
    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 1e-8

    def step(self, t: int, size: float, value: Tensor, grad: Tensor, mean: Tensor, square: Tensor) -> None:
        """Take the t-th step of the ascent, t from 1; changes value, mean and square in place."""
        mean.lerp_(grad, 1 - self.beta1)
        square.lerp_(grad * grad, 1 - self.beta2)
        root = (square / (1 - self.beta2**t)).sqrt_().add_(self.eps)
        value.addcdiv_(mean, root, value=size * self.decay ** (t - 1) / (1 - self.beta1**t))


@dataclass(frozen=True, eq=False)
class Rows:
    """r linear functions of the last node, the logits or what an activation takes, each with an input set and signs.

    Attributes:
        a: their coefficients.
        inputs: one set for each row, or one that all rows share.
        bounds: of the nodes, one row for each row, or one that all rows share.
        signs: for a node that an activation takes, 1 where z >= 0 is settled, -1 where z <= 0 is, 0 elsewhere.
        slack: of rounding, for the rows; None in a search.
    """

    graph: Graph
    a: Float[Tensor, "r *last"]
    inputs: InputSet
    bounds: Bounds
    signs: Parts
    slack: Slack | None = None

    def take(self, chosen: Int[Tensor, " k"]) -> Rows:
        """Some of the rows."""
        signs = {k: sign[chosen] for k, sign in self.signs.items()}
        shared = replace(self, a=self.a[chosen], signs=signs)
        if len(self.inputs.x) == 1:
            return shared
        slack = self.slack and self.slack.take(chosen)
        bounds = self.bounds.take(chosen, self.graph.activated())
        return replace(shared, inputs=self.inputs.take(chosen), bounds=bounds, slack=slack)

    def interval(self, k: int) -> tuple[Tensor, Tensor]:
        """The bounds of a node that an activation takes, restricted by the signs."""
        low, high = self.bounds.low[k], self.bounds.high[k]
        if k not in self.signs:
            return low, high
        sign = self.signs[k]
        return torch.where(sign > 0, low.clamp(min=0), low), torch.where(sign < 0, high.clamp(max=0), high)

    def start(self) -> Parts:
        """The initial parameters of the lines."""
        return {k: op.start(*self.interval(self.graph.nodes[k].parents[0])) for k, op in self.graph.activations()}

    @cached_property
    def _prepared(self) -> dict[int, Any]:
        """The quantities that do not depend on the parameters of the lines."""
        return {k: op.prepare(*self.interval(self.graph.nodes[k].parents[0])) for k, op in self.graph.activations()}

    @cached_property
    def _balls(self) -> dict[int, Ball]:
        """The balls of the inputs of activations, restricted by the signs."""
        return {
            k: Ball(*self.interval(self.graph.nodes[k].parents[0]), ball.centre, ball.spread)
            for k, ball in self.bounds.balls.items()
        }

    def lower(self, parameters: Parts, multipliers: Parts, keep: Parts | None = None) -> Float[Tensor, " r"]:
        """A lower bound of each function; `keep` as in Pass.lower."""
        lines: dict[int, Any] = {k: op.lines(self._prepared[k], parameters[k]) for k, op in self.graph.activations()}
        # f >= f - beta sign z wherever sign z >= 0
        pulls = {k: -self.signs[k] * beta for k, beta in multipliers.items()}
        for k, op in self.graph.activations():
            if isinstance(op, OpenReLU):
                pull = pulls.pop(self.graph.nodes[k].parents[0], self.a.new_zeros(()))
                lines[k] = OpenLines(*lines[k], pull=pull)
        return Pass(self.graph, self.inputs, lines, pulls, self.slack, self._balls).lower(
            self.a, len(self.graph.nodes) - 1, keep=keep
        )


def optimise(
    rows: Rows, parameters: Parts, multipliers: Parts, ascent: Ascent
) -> tuple[Float[Tensor, " r"], Parts, Parts]:
    """The best bound of each row, with its parameters and multipliers. Ends early if all are positive; once a quarter
    of the rows in work are positive, they are not changed any more."""
    best = torch.full((len(rows.a),), -torch.inf, dtype=rows.a.dtype, device=rows.a.device)
    kept = [{k: part.clone() for k, part in parts.items()} for parts in (parameters, multipliers)]
    work = torch.arange(len(best), device=best.device)
    moving = [
        {k: part.clone().requires_grad_(True) for k, part in parts.items()} for parts in (parameters, multipliers)
    ]
    moments = [{k: (torch.zeros_like(v), torch.zeros_like(v)) for k, v in parts.items()} for parts in moving]
    for t in range(1, ascent.steps + 2):
        with torch.set_grad_enabled(ascent.steps > 0):
            value = rows.lower(*moving)
        with torch.no_grad():
            better = value > best[work]
            improved = work[better]
            best[improved] = value.detach()[better]
            for old, new in zip(kept, moving, strict=True):
                for k in old:
                    old[k][improved] = new[k][better]
            is_open = ~(best[work] > 0)
            if t > ascent.steps or not bool(is_open.any()) or not value.requires_grad:
                break
            unknowns = [part for parts in moving for part in parts.values()]
            grads = iter(torch.autograd.grad(value, unknowns, torch.ones_like(value), allow_unused=True))
            for parts, own, size in zip(moving, moments, (ascent.slope_step, ascent.multiplier_step), strict=True):
                for k, part in parts.items():
                    grad = next(grads)
                    if grad is not None:
                        ascent.step(t, size, part, grad, *own[k])
            for part in moving[0].values():
                part.clamp_(0, 1)
            for part in moving[1].values():
                part.clamp_(min=0)
            left = is_open.nonzero()[:, 0]
            if 4 * len(left) <= 3 * len(work):
                rows, work = rows.take(left), work[left]
                moving = [{k: v[left].requires_grad_(True) for k, v in parts.items()} for parts in moving]
                moments = [{k: (m[left], s[left]) for k, (m, s) in own.items()} for own in moments]
    return best, kept[0], kept[1]
