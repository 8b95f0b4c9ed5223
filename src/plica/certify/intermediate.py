"""Bounds of every node over the input sets: intervals (IBP, Gowal et al. 2018), tightened by CROWN where an activation
takes the value and its sign, or its curve, is not settled."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from plica.certify.affine import Affine
from plica.certify.backward import Pass
from plica.certify.graph import Graph
from plica.certify.relax import Activation
from plica.certify.rounding import Slack, gamma
from plica.certify.sets import InputSet

FLOATS = 2**22  # of the largest coefficient tensor in one pass


@dataclass(eq=False)
class Bounds:
    """What is known of every node, one row for each problem; filled node by node.

    Attributes:
        low, high: of each node's value.
        start: of each activation, the parameters of its lines.
        lines: of each activation, for these parameters.
        magnitude: rounding.Slack's; empty unless asked for.
    """

    low: dict[int, Tensor] = field(default_factory=dict)
    high: dict[int, Tensor] = field(default_factory=dict)
    start: dict[int, Tensor] = field(default_factory=dict)
    lines: dict[int, Any] = field(default_factory=dict)
    magnitude: dict[int, Tensor] = field(default_factory=dict)

    def take(self, rows: Int[Tensor, " r"], nodes: Collection[int]) -> Bounds:
        """Low and high of some nodes for some of the problems."""
        return Bounds(*({k: part[k][rows] for k in nodes} for part in (self.low, self.high)))


@torch.no_grad()
def node_bounds(
    graph: Graph,
    inputs: InputSet,
    *,
    crown: bool = True,
    rigorous: bool = False,
    go_on: Callable[[], bool] = lambda: True,
) -> Bounds:
    """Bounds of every node.

    Args:
        crown: False for intervals alone.
        rigorous: roundings are allowed for, so that the bounds hold for real numbers; meant for float64.
        go_on: asked now and then; once it says False, intervals have to do.
    """
    bounds = Bounds({0: inputs.low}, {0: inputs.high})
    slack = Slack(gamma(graph, inputs.x.dtype), bounds.magnitude) if rigorous else None
    activated, behind = graph.activated(), graph.behind_activations()
    for k, node in enumerate(graph.nodes[1:], 1):
        low, high = ([part[parent] for parent in node.parents] for part in (bounds.low, bounds.high))
        if isinstance(node.op, Activation):
            bounds.low[k], bounds.high[k] = node.op.interval(low[0], high[0])
            bounds.start[k] = node.op.start(low[0], high[0])
            bounds.lines[k] = node.op.lines(node.op.prepare(low[0], high[0]), bounds.start[k])
            if slack is not None:
                bounds.magnitude[k] = node.op.magnitude(torch.maximum(low[0].abs(), high[0].abs()))
            continue
        assert isinstance(node.op, Affine)
        _interval(bounds, k, node.op, low, high, slack)
        # without an activation before it the interval of an l_inf ball is exact already
        if crown and k in activated and (k in behind or inputs.p != math.inf):
            _tighten(Pass(graph, inputs, bounds.lines, slack=slack), bounds, k, go_on)
    return bounds


def _interval(bounds: Bounds, k: int, op: Affine, low: list[Tensor], high: list[Tensor], slack: Slack | None) -> None:
    """The interval of an affine operation: its value at the middle, -+ |L| times half the widths."""
    middle = [(l + h) / 2 for l, h in zip(low, high, strict=True)]
    half = [torch.maximum(h - m, m - l) for l, m, h in zip(low, middle, high, strict=True)]
    value, spread = op.forward(*middle), op.absolute(*half)
    bounds.low[k], bounds.high[k] = value - spread, value + spread
    if slack is not None:
        size = op.magnitude(*(torch.maximum(l.abs(), h.abs()) for l, h in zip(low, high, strict=True)))
        bounds.magnitude[k] = size
        moved = slack.total(2 * size)
        bounds.low[k], bounds.high[k] = bounds.low[k] - moved, bounds.high[k] + moved


def _tighten(run: Pass, bounds: Bounds, k: int, go_on: Callable[[], bool]) -> None:
    """Replace bounds of node k by CROWN's where these are tighter, for the entries that an activation leaves open."""
    low, high = bounds.low[k].flatten(1), bounds.high[k].flatten(1)
    open_entries = torch.zeros_like(low, dtype=torch.bool)
    for j, op in run.graph.activations():
        if run.graph.nodes[j].parents[0] == k:
            open_entries |= op.unstable(bounds.low[k], bounds.high[k]).flatten(1)
            if j in run.graph.activated():  # the lines of the next activation, of max pooling, depend on all bounds
                open_entries |= ((bounds.high[k] > bounds.low[k]) & (bounds.high[k] > 0)).flatten(1)
    problem, entry = open_entries.nonzero(as_tuple=True)
    widest = max(torch.Size(node.shape).numel() for node in run.graph.nodes[: k + 1])
    for part in torch.arange(len(entry), device=low.device).split(max(1, FLOATS // widest)):
        if not go_on():
            break
        p, e = problem[part], entry[part]
        a = low.new_zeros(len(part), low.shape[1])
        a[torch.arange(len(part), device=low.device), e] = 1
        a = a.view(len(part), *run.graph.nodes[k].shape)
        low[p, e] = torch.maximum(low[p, e], run.lower(a, k, p))
        high[p, e] = torch.minimum(high[p, e], -run.lower(-a, k, p))
    # roundings of a search in float32 can cross two bounds that are nearly equal
    low, high = torch.minimum(low, high), torch.maximum(low, high)
    bounds.low[k], bounds.high[k] = (part.view_as(bounds.low[k]) for part in (low, high))
