"""Rounding: by how much a bound computed in float64 may differ from its value in real arithmetic, and the network as it
runs in float32 from the network in real arithmetic.

A sum of n products, added in any order, is computed with an error of at most gamma_n = n u / (1 - n u) times the sum of
their absolute values (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1; fused multiplication and
addition errs less). For a backward pass the sum over all its steps is <|a_k|, v_k> at node k, v_k the sum of the
absolute values of the terms that make the node's output out of its inputs.

As it runs, the value of node k is what the operation gives in real arithmetic for the values before it as they were
computed, plus a number of at most e_k = gamma_n v_k in absolute value, n the terms of one output. So what a network
computes is what it would in real arithmetic with such numbers added to its nodes; they take at most <|a_k|, e_k> off a
bound whose coefficients at node k are a_k, and widen intervals by e_k.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from plica.certify.affine import Affine
from plica.certify.graph import Graph
from plica.certify.windows import Coefficients, own, plain

SAFETY = 4.0  # factor, since the estimate itself is rounded, and constants of the network are rounded once or twice
MORE = 200  # terms added to those of the longest sum, for the rounding of lines and of sums of coefficients
FLOAT32 = 2.0**-24  # unit roundoff
EXTRA = 16  # rounding errors of an operation in addition to its terms, as in batch normalisation or a sigmoid
LARGER = 1 + 1e-6  # far more than the relative rounding error of an error computed in float64


def gamma(graph: Graph, dtype: torch.dtype) -> float:
    """gamma_n for the longest sum that a bound of this network can contain, times SAFETY."""
    longest = MORE + len(graph.nodes)
    for node in graph.nodes:
        terms = torch.Size(node.shape).numel()
        for weight in (getattr(node.op, name, None) for name in ("weight", "left", "right")):
            if isinstance(weight, Tensor):
                terms += weight.numel()
        longest = max(longest, MORE + len(graph.nodes) + terms)
    unit = torch.finfo(dtype).eps / 2
    return SAFETY * longest * unit / (1 - longest * unit)


@dataclass(frozen=True, eq=False)
class Slack:
    """The effect of rounding.

    Attributes:
        gamma: of the computation of the bounds; 0 in a search, whose own rounding does not matter.
        unit: unit roundoff of the network as it runs; 0 for the network in real arithmetic.
        error: gamma v_k + e_k of each node, one row for each problem; filled node by node.
    """

    gamma: float
    unit: float
    error: dict[int, Tensor] = field(default_factory=dict)

    @classmethod
    def needed(cls, graph: Graph, dtype: torch.dtype, rigorous: bool, unit: float) -> Slack | None:
        """The slack for bounds that are computed in `dtype`; None if no rounding has to be taken into account."""
        return cls(gamma(graph, dtype) if rigorous else 0.0, unit) if rigorous or unit else None

    def note(self, k: int, op: Any, *z: Tensor) -> None:
        """Store the error of node k, an operation whose operands have absolute values of at most z."""
        self.error[k] = self.gamma * op.magnitude(*z) + self.executed(op, *z)

    def executed(self, op: Any, *z: Tensor) -> Tensor | float:
        """e_k. Results that are subnormal may be flushed to 0; inf if a sum may overflow or is too long."""
        terms = op.terms if isinstance(op, Affine) else 0
        size = (op.magnitude if isinstance(op, Affine) else op.rounded)(*z) if self.unit else None
        if size is None or (isinstance(op, Affine) and not terms):
            return 0.0
        n, number = terms + EXTRA, torch.finfo(torch.float32)
        if n * self.unit >= 0.5:
            return torch.full_like(size, torch.inf)
        error = LARGER * n * self.unit / (1 - n * self.unit) * size + 2 * n * number.tiny
        # a mean is computed as a sum, which may overflow though the mean does not
        return torch.where(n * size < number.max / 4, error, torch.inf)

    def of(self, k: int, a: Coefficients, rows: Int[Tensor, " r"] | None) -> Float[Tensor, " r"]:
        """<|a|, error of node k>."""
        return (plain(a).detach().abs() * own(self.error[k], a, rows)).flatten(1).sum(1)

    def take(self, rows: Tensor) -> Slack:
        """The slack for some of the problems."""
        return replace(self, error={k: part[rows] for k, part in self.error.items()})
