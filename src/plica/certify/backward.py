"""CROWN's backward pass (Zhang et al. 2018, theorem 3.2): linear functions of a node, bounded below over input sets.

The coefficients of <a, z_k> are propagated back node by node to the input; activations are replaced by their lines.
Terms of split neurons with multipliers >= 0 are added at their nodes (beta-CROWN, Wang et al. 2021, theorem 3.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from plica.certify.affine import Affine
from plica.certify.balls import Ball, offset
from plica.certify.graph import Graph, Node
from plica.certify.relax import Activation, ReLU
from plica.certify.rounding import Slack
from plica.certify.sets import InputSet
from plica.certify.windows import Coefficients, Window, own, plain


@dataclass(frozen=True, eq=False)
class Pass:
    """What a backward pass needs in addition to the coefficients.

    Attributes:
        lines: of each activation, one row for each problem.
        inputs: one set for each problem.
        multipliers: added to the coefficients at a node that an activation takes: -sign * beta for each row, where the
            sign of a neuron is settled (1: z >= 0, -1: z <= 0); for dense coefficients only.
        slack: how much rounding may have changed the bound; None if this is not needed.
        balls: l_2 balls that contain the inputs of activations, for ReLUs.
    """

    graph: Graph
    inputs: InputSet
    lines: Mapping[int, Any]
    multipliers: Mapping[int, Tensor] | None = None
    slack: Slack | None = None
    balls: Mapping[int, Ball] | None = None

    def lower(
        self,
        a: Float[Tensor, "r *node"] | Window,
        at: int,
        rows: Int[Tensor, " r"] | None = None,
        keep: dict[int, Tensor] | None = None,
    ) -> Float[Tensor, " r"]:
        """A lower bound of <a, value of node `at`>. rows: the problem of each row of `a`; None if row i belongs to
        problem i.

        keep: filled with the coefficients of every activation's output, and of the input (0); for dense `a` only.
        """
        return self.lower_of({at: a}, rows, keep)

    def lower_of(
        self,
        coefficients: Mapping[int, Coefficients],
        rows: Int[Tensor, " r"] | None = None,
        keep: dict[int, Tensor] | None = None,
    ) -> Float[Tensor, " r"]:
        """The same for a sum over several nodes, given by number."""
        graph, bound, moved, terms = self.graph, 0.0, 0.0, 0.0
        pulled = dict(coefficients)
        for k in range(max(pulled), 0, -1):
            if k not in pulled:
                continue
            node = graph.nodes[k]
            a = _suited(pulled.pop(k), node)
            if self.multipliers is not None and k in self.multipliers:
                a = plain(a) + self.multipliers[k]
            if self.slack is not None:
                moved = moved + self.slack.of(k, a, rows)
            if isinstance(node.op, Activation):
                if keep is not None:
                    keep[k] = plain(a)
                before, constant, size = self._activated(k, node.op, a, rows)
                parts, terms = (before,), terms + size
            elif isinstance(a, Window):
                parts, constant = a.through(node.op, graph.nodes[node.parents[0]].shape)
            else:
                assert isinstance(node.op, Affine)
                constant = node.op.constant(a)
                parts = node.op.transpose(a, tuple(graph.nodes[parent].shape for parent in node.parents))
            bound = bound + constant
            for parent, part in zip(node.parents, parts, strict=True):
                pulled[parent] = _sum(pulled[parent], part, graph.nodes[parent]) if parent in pulled else part
        first = pulled.get(0)
        if first is None:  # the nodes do not depend on the input
            a = next(iter(coefficients.values()))
            first = plain(a).new_zeros(len(plain(a)), *graph.nodes[0].shape)
        if keep is not None:
            keep[0] = plain(first)
        value, size = self.inputs.minimum(first, rows, self.slack is not None)
        value = value + bound
        return value if self.slack is None else value - moved - self.slack.gamma * (terms + size)

    def _activated(
        self, k: int, op: Activation, a: Coefficients, rows: Int[Tensor, " r"] | None
    ) -> tuple[Coefficients, Tensor, Tensor | float]:
        """The coefficients of the input of activation k, a constant, and the sum of the absolute values of the terms
        that the lines do not account for."""
        lines = type(self.lines[k])(*(own(part, a, rows) for part in self.lines[k]))
        before, constant = op.backward(plain(a), lines)
        size = 0.0
        if self.balls is not None and k in self.balls and isinstance(op, ReLU):
            ball = Ball(*(own(part, a, rows) for part in self.balls[k]))
            curved, size = offset(*op.bent(plain(a), before, lines), op.slope, ball)
            constant, size = torch.maximum(constant, curved), size.detach()
        return a._replace(a=before) if isinstance(a, Window) else before, constant, size


def _suited(a: Coefficients, node: Node) -> Coefficients:
    """The coefficients as a window while this saves work, else dense."""
    return a.dense(node.shape) if isinstance(a, Window) and not a.fits(node) else a


def _sum(a: Coefficients, b: Coefficients, node: Node) -> Coefficients:
    if isinstance(a, Window) and isinstance(b, Window) and a.aligned(b):
        return a.add(b)
    a, b = (part.dense(node.shape) if isinstance(part, Window) else part for part in (a, b))
    return a + b
