"""A ReLU network over one input set: neurons whose sign is known there are linear, and have no lines.

This holds for four neurons in five of the networks of VNN-COMP. The search over parts of the set uses the reduced
network; the proof of its leaves uses the whole one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from plica.certify.affine import Matrix
from plica.certify.balls import Ball
from plica.certify.graph import Graph, Node
from plica.certify.intermediate import Bounds
from plica.certify.openrelu import OpenReLU
from plica.certify.relax import ReLU


def can_be_reduced(graph: Graph, bounds: Bounds) -> bool:
    """Whether all activations are ReLUs, each takes a separate node, and the bounds are those of a search, without
    slack for rounding."""
    taken = [graph.nodes[k].parents[0] for k, _ in graph.activations()]
    is_plain = bounds.slack is None and all(type(op) is ReLU for _, op in graph.activations())
    return is_plain and 0 < len(taken) == len(set(taken))


def reduced(graph: Graph, bounds: Bounds) -> tuple[Graph, Bounds, Int[Tensor, " n"]]:
    """The graph with OpenReLUs, the bounds of their open entries, and the numbers of these among all inputs of
    activations, one activation after the other.

    Args:
        bounds: of one set, at the nodes that activations take.
    """
    nodes, own, numbers, before = list(graph.nodes), Bounds(), list[Tensor](), 0
    for k, op in graph.activations():
        assert isinstance(op, ReLU)
        taken = graph.nodes[k].parents[0]
        low, high = bounds.low[taken].flatten(1), bounds.high[taken].flatten(1)
        is_open = op.unstable(low, high)[0]
        numbers.append(before + is_open.nonzero()[:, 0])
        before += len(is_open)
        own.low[taken], own.high[taken] = low[:, is_open], high[:, is_open]
        if k in bounds.balls:
            ball = bounds.balls[k]
            places = (part.flatten(1)[:, is_open] for part in (ball.low, ball.high, ball.centre))
            own.balls[k] = Ball(*places, spread=ball.spread)
        # nan stays nan
        known = torch.where(low >= 0, 1, torch.where(high <= 0, op.slope, torch.nan))
        factor = torch.where(is_open, 0, known).to(low)
        is_used = is_open | (factor[0] != 0)
        if _slices(graph, k):
            factor, is_open = factor[:, is_used], is_open[is_used]
            _slice(nodes, graph, k, is_used)
        nodes[k] = replace(nodes[k], op=OpenReLU(op.slope, is_open.nonzero()[:, 0], factor))
    return replace(graph, nodes=tuple(nodes)), own, torch.cat(numbers)


def _slices(graph: Graph, k: int) -> bool:
    """Whether entries of activation k can be left out: only matrices come before and after it."""
    taken = graph.nodes[k].parents[0]
    users = [[node for node in graph.nodes if parent in node.parents] for parent in (taken, k)]
    around = [graph.nodes[taken], *users[1]]
    return len(users[0]) == 1 and len(around) > 1 and all(map(_is_product, around))


def _is_product(node: Node) -> bool:
    return isinstance(node.op, Matrix) and node.op.left is None and node.op.right is not None and len(node.shape) == 1


def _slice(nodes: list[Node], graph: Graph, k: int, is_used: Tensor) -> None:
    """Leave out entries that are always 0."""
    taken, shape = graph.nodes[k].parents[0], (int(is_used.sum()),)
    for user, node in enumerate(graph.nodes):
        if k in node.parents:
            op: Any = nodes[user].op
            nodes[user] = replace(nodes[user], op=replace(op, right=op.right[is_used]))
    op = nodes[taken].op
    offset = op.offset if op.offset is None else op.offset.expand(1, len(is_used))[:, is_used]
    nodes[taken] = replace(nodes[taken], op=replace(op, right=op.right[:, is_used], offset=offset), shape=shape)
    nodes[k] = replace(nodes[k], shape=shape)
