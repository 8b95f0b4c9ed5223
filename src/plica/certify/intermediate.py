"""Bounds of every node over the input sets: intervals (IBP, Gowal et al. 2018), tightened by CROWN at the inputs of
activations that are not linear over their intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from plica.certify.affine import Affine
from plica.certify.backward import Pass
from plica.certify.balls import Ball
from plica.certify.condensed import Condensed, Functions, can_be_condensed
from plica.certify.graph import Graph
from plica.certify.relax import Activation, ReLU
from plica.certify.rounding import Slack
from plica.certify.sets import InputSet
from plica.certify.spreads import Spreads
from plica.certify.windows import unit

FLOATS = 2**22  # of the largest coefficient tensor in one pass


@dataclass(eq=False)
class Bounds:
    """What is known of every node, one row for each problem; filled node by node.

    Attributes:
        low, high: of each node's value.
        start: of each activation, the parameters of its lines.
        lines: of each activation, for these parameters.
        slack: roundings that the bounds allow for; None where they do not.
        centre, spread: of each node, the value at the image and how far from it values lie in l_2; empty unless the
            graph has norms.
        balls: where what an activation takes lies, for ReLUs; by the number of the activation.
        condensed: the network between open neurons, where it was made.
    """

    low: dict[int, Tensor] = field(default_factory=dict)
    high: dict[int, Tensor] = field(default_factory=dict)
    start: dict[int, Tensor] = field(default_factory=dict)
    lines: dict[int, Any] = field(default_factory=dict)
    slack: Slack | None = None
    centre: dict[int, Tensor] = field(default_factory=dict)
    spread: dict[int, Tensor] = field(default_factory=dict)
    balls: dict[int, Ball] = field(default_factory=dict)
    condensed: Condensed | None = None

    def take(self, rows: Int[Tensor, " r"], nodes: Collection[int]) -> Bounds:
        """Low and high of some nodes, and all balls, for some of the problems."""
        low, high = ({k: part[k][rows] for k in nodes} for part in (self.low, self.high))
        return Bounds(low, high, balls={k: ball.take(rows) for k, ball in self.balls.items()})


def node_bounds(
    graph: Graph,
    inputs: InputSet,
    *,
    slopes: Mapping[int, Tensor] | None = None,
    crown: bool = True,
    rigorous: bool = False,
    unit: float = 0.0,
    go_on: Callable[[], bool] = lambda: True,
    tighten: Callable[[Bounds, int], None] | None = None,
) -> Bounds:
    """Bounds of every node.

    Args:
        slopes: parameters of the lines of each activation, in which the bounds can be differentiated; those to begin
            with where None.
        crown: False for intervals alone.
        rigorous: roundings are allowed for, so that the bounds hold for real numbers; meant for float64.
        unit: unit roundoff of the network as it runs, whose values are bounded then; 0 for those in real arithmetic.
        go_on: asked now and then; once it says False, intervals have to do.
        tighten: called with the bounds so far and each node behind an activation that another one takes; may replace
            low and high of this node.
    """
    slack = Slack.needed(graph, inputs.x.dtype, rigorous, unit)
    bounds = Bounds({0: inputs.low}, {0: inputs.high}, slack=slack)
    activated, behind = graph.activated(), graph.behind_activations()
    placed = graph.norms is not None and inputs.p == 2
    if placed:
        bounds.centre[0] = inputs.x
        bounds.spread[0] = inputs.radius / inputs.weights.flatten(1).amin(1) * (1 + 1e-9)
    spreads = Spreads(graph, inputs, bounds.spread, slack)
    is_search = slack is None and len(inputs.x) == 1 and (slopes is None or not torch.is_grad_enabled())
    if crown and is_search and can_be_condensed(graph):
        bounds.condensed = Condensed.of(graph)
    depth = graph.depth()
    for k, node in enumerate(graph.nodes[1:], 1):
        low, high = ([part[parent] for parent in node.parents] for part in (bounds.low, bounds.high))
        if isinstance(node.op, Activation):
            bounds.low[k], bounds.high[k] = node.op.interval(low[0], high[0])
            bounds.start[k] = node.op.start(low[0], high[0]) if slopes is None else slopes[k]
            bounds.lines[k] = node.op.lines(node.op.prepare(low[0], high[0]), bounds.start[k])
            if placed and isinstance(node.op, ReLU):
                bounds.balls[k] = spreads.ball(
                    k, node.op, low[0], high[0], bounds.centre[node.parents[0]], crown and go_on()
                )
            if bounds.condensed is not None:
                bounds.condensed.settle(k, low[0], high[0], bounds.start[k])
                if k in bounds.balls:
                    bounds.condensed.ball(k, bounds.balls[k])
            if slack is not None:
                size = torch.maximum(low[0].abs(), high[0].abs())
                slack.note(k, node.op, size)
                moved = slack.executed(node.op, size)
                bounds.low[k], bounds.high[k] = bounds.low[k] - moved, bounds.high[k] + moved
            if placed:
                _place(bounds, graph, k, slack)
            continue
        assert isinstance(node.op, Affine)
        _interval(bounds, k, node.op, low, high, slack)
        if placed:
            _place(bounds, graph, k, slack)
        # without an activation before it the interval of an l_inf ball is exact already
        if bounds.condensed is not None and (k in activated or k == len(graph.nodes) - 1):
            number = int(_open(graph, k, *(side[k].flatten(1) for side in (bounds.low, bounds.high))).sum())
            if not bounds.condensed.has_room(k, number if k in activated else bounds.low[k].numel()):
                bounds.condensed = None
        condensed = bounds.condensed
        if condensed is not None and k == len(graph.nodes) - 1:
            condensed.define(k, condensed.functions(k, torch.arange(bounds.low[k].numel(), device=inputs.x.device)))
        elif condensed is not None and k in activated and depth[k] > 1:
            _tighten_condensed(bounds, condensed, inputs, k, go_on)
        elif crown and k in activated and (k in behind or inputs.p != math.inf):
            _tighten(Pass(graph, inputs, bounds.lines, slack=slack, balls=bounds.balls), bounds, k, go_on)
        if tighten is not None and k in activated and k in behind:
            tighten(bounds, k)
        if condensed is not None and k in activated and depth[k] == 1:
            is_open = _open(graph, k, bounds.low[k].flatten(1), bounds.high[k].flatten(1))[0]
            condensed.found[k] = is_open.nonzero()[:, 0], condensed.functions(k, is_open.nonzero()[:, 0])
    return bounds


def _place(bounds: Bounds, graph: Graph, k: int, slack: Slack | None) -> None:
    """The centre and the spread of node k from those of its operands; what roundings can do to the centre is added."""
    assert graph.norms is not None
    node = graph.nodes[k]
    assert node.op is not None
    bounds.centre[k] = node.op.forward(*(bounds.centre[parent] for parent in node.parents))
    operands = torch.stack([bounds.spread[parent] for parent in node.parents])
    bounds.spread[k] = graph.norms[k] * operands.norm(dim=0) * (1 + 1e-9)
    if slack is not None:
        bounds.spread[k] = bounds.spread[k] + slack.error[k].flatten(1).norm(dim=1) * (1 + 1e-9)


def _interval(bounds: Bounds, k: int, op: Affine, low: list[Tensor], high: list[Tensor], slack: Slack | None) -> None:
    """The interval of an affine operation: its value at the middle, -+ |L| times half the widths."""
    middle = [(l + h) / 2 for l, h in zip(low, high, strict=True)]
    half = [torch.maximum(h - m, m - l) for l, m, h in zip(low, middle, high, strict=True)]
    value, spread = op.forward(*middle), op.absolute(*half)
    bounds.low[k], bounds.high[k] = value - spread, value + spread
    if slack is not None:
        slack.note(k, op, *(torch.maximum(l.abs(), h.abs()) for l, h in zip(low, high, strict=True)))
        moved = 2 * slack.error[k]  # of the value, and of what is added to it
        bounds.low[k], bounds.high[k] = bounds.low[k] - moved, bounds.high[k] + moved


def _tighten_condensed(
    bounds: Bounds, condensed: Condensed, inputs: InputSet, k: int, go_on: Callable[[], bool]
) -> None:
    """As `_tighten`, of one problem, for nodes with more than one activation before them: others see little of the
    image, and windows of it are faster."""
    low, high = bounds.low[k].flatten().clone(), bounds.high[k].flatten().clone()
    entries = ((low < 0) & (high > 0)).nonzero()[:, 0]
    neurons = condensed.functions(k, entries)
    condensed.found[k] = entries, neurons
    run = Pass(condensed.condensed(), inputs, condensed.lines, balls=condensed.balls)
    sign = torch.where((low + high)[entries] > 0, 1, -1).to(low)
    left = torch.arange(len(entries), device=low.device)
    for side in (1, -1):
        for part in left.split(max(1, FLOATS // max(low.numel(), inputs.x.numel()))):
            if not len(part) or not go_on():
                break
            own, at = side * sign[part], entries[part]
            found = _lower(run, neurons.take(part), own)
            low[at] = torch.where(own > 0, torch.maximum(low[at], found), low[at])
            high[at] = torch.where(own < 0, torch.minimum(high[at], -found), high[at])
        left = ((low < 0) & (high > 0))[entries].nonzero()[:, 0]
    # roundings of a search in float32 can cross two bounds that are nearly equal
    low, high = torch.minimum(low, high), torch.maximum(low, high)
    bounds.low[k], bounds.high[k] = (part.view_as(bounds.low[k]) for part in (low, high))


def _lower(run: Pass, neurons: Functions, sign: Tensor) -> Tensor:
    """Of sign * neuron, from below."""
    coefficients = {
        j: (sign[:, None] * factor).view(len(sign), *run.graph.nodes[j].shape) for j, factor in neurons.factors.items()
    }
    return run.lower_of(coefficients) + sign * neurons.constant


def _tighten(run: Pass, bounds: Bounds, k: int, go_on: Callable[[], bool]) -> None:
    """Replace bounds of node k by CROWN's where these are tighter, for the entries that an activation leaves open;
    those on the far side of 0 only where the near side has left them open."""
    low, high = bounds.low[k].flatten(1), bounds.high[k].flatten(1)
    near = torch.where(low + high > 0, 1.0, -1.0).to(low)
    widest = max(torch.Size(node.shape).numel() for node in run.graph.nodes[: k + 1])
    problem, entry = _open(run.graph, k, low, high).nonzero(as_tuple=True)
    is_executed = run.slack is not None and run.slack.unit > 0  # whose errors depend on the far side, too
    for side in (1, -1):
        left = torch.arange(len(entry), device=low.device)
        if side < 0 and not is_executed:
            left = _open(run.graph, k, low, high)[problem, entry].nonzero()[:, 0]
        for part in left.split(max(1, FLOATS // widest)):
            if not len(part) or not go_on():
                break
            p, e = problem[part], entry[part]
            sign = side * near[p, e]
            found = run.lower(unit(e, run.graph.nodes[k].shape, low, sign), k, p)
            low[p, e] = torch.where(sign > 0, torch.maximum(low[p, e], found), low[p, e])
            high[p, e] = torch.where(sign < 0, torch.minimum(high[p, e], -found), high[p, e])
    # roundings of a search in float32 can cross two bounds that are nearly equal
    low, high = torch.minimum(low, high), torch.maximum(low, high)
    bounds.low[k], bounds.high[k] = (part.view_as(bounds.low[k]) for part in (low, high))


def _open(graph: Graph, k: int, low: Tensor, high: Tensor) -> Tensor:
    """Entries of node k of which tighter bounds would tighten lines."""
    shape = (len(low), *graph.nodes[k].shape)
    found = torch.zeros_like(low, dtype=torch.bool)
    for j, op in graph.activations():
        if graph.nodes[j].parents[0] == k:
            found |= op.unstable(low.view(shape), high.view(shape)).flatten(1)
            if j in graph.activated():  # the lines of the next activation, of max pooling, depend on all bounds
                found |= (high > low) & (high > 0)
    return found
