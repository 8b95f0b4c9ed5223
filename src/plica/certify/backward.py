"""CROWN's backward pass (Zhang et al. 2018, theorem 3.2): linear functions of a node, bounded below over input sets.

From <a, z_k> the coefficients are pulled back node by node to the input; activations give way to their lines. Terms of
split neurons with multipliers >= 0 are added on the way (beta-CROWN, Wang et al. 2021, theorem 3.1).
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
from plica.certify.graph import Graph
from plica.certify.relax import Activation, ReLU
from plica.certify.rounding import Slack
from plica.certify.sets import InputSet


@dataclass(frozen=True, eq=False)
class Pass:
    """What a backward pass needs beside the coefficients.

    Attributes:
        lines: of each activation, one row for each problem.
        inputs: one set for each problem.
        multipliers: added to the coefficients at a node that an activation takes: -sign * beta for each row, where the
            sign of a neuron is settled (1: z >= 0, -1: z <= 0).
        slack: by how much rounding may have moved the bound; None where nobody asks.
        balls: where an activation's input lies, for ReLUs over l_2 balls.
    """

    graph: Graph
    inputs: InputSet
    lines: Mapping[int, Any]
    multipliers: Mapping[int, Tensor] | None = None
    slack: Slack | None = None
    balls: Mapping[int, Ball] | None = None

    def lower(
        self,
        a: Float[Tensor, "r *node"],
        at: int,
        rows: Int[Tensor, " r"] | None = None,
        keep: dict[int, Tensor] | None = None,
    ) -> Float[Tensor, " r"]:
        """A lower bound of <a, value of node `at`>; rows: the problem of each row, its own number where None.

        keep: filled with the coefficients of every activation's output, and of the input (0).
        """
        graph, bound, moved = self.graph, 0.0, 0.0
        pulled: dict[int, Tensor] = {at: a}
        for k in range(at, 0, -1):
            if k not in pulled:
                continue
            a, node = pulled.pop(k), graph.nodes[k]
            if self.multipliers is not None and k in self.multipliers:
                a = a + self.multipliers[k]
            if self.slack is not None:
                moved = moved + self.slack.of(k, a, rows)
            if isinstance(node.op, Activation):
                if keep is not None:
                    keep[k] = a
                lines = self.lines[k] if rows is None else self.lines[k].take(rows)
                before, constant = node.op.backward(a, lines)
                parts = (before,)
                if self.balls is not None and k in self.balls and isinstance(node.op, ReLU):
                    ball = self.balls[k] if rows is None else self.balls[k].take(rows)
                    curved, size = offset(a, before, node.op.slope, ball)
                    constant = torch.maximum(constant, curved)
                    moved = moved + size.detach()
            else:
                assert isinstance(node.op, Affine)
                constant = node.op.constant(a)
                parts = node.op.transpose(a, tuple(graph.nodes[parent].shape for parent in node.parents))
            bound = bound + constant
            for parent, part in zip(node.parents, parts, strict=True):
                pulled[parent] = pulled[parent] + part if parent in pulled else part
        first = pulled.get(0)
        if first is None:  # the node does not depend on the input
            first = a.new_zeros(len(a), *graph.nodes[0].shape)
        if keep is not None:
            keep[0] = first
        value, size = self.inputs.minimum(first, rows)
        value = value + bound
        return value if self.slack is None else value - self.slack.total(moved + size)
