"""Rounding: by how much a bound computed in float64 may differ from its value in real arithmetic.

Every step adds at most n terms, in any order; its error is at most gamma_n = n u / (1 - n u) times the sum of their
absolute values (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1). For a backward pass that sum is
<|a_k|, v_k> at node k, v_k the sum of the absolute values of the terms that make the node's output out of its inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from plica.certify.graph import Graph
from plica.certify.windows import Coefficients, own, plain

SAFETY = 4.0  # the estimate is itself computed with roundings, and constants of the network are rounded once or twice
MORE = 200  # terms beyond those of one row of one operation: roundings of lines, of coefficients that are added up


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
    """What the roundings of a backward pass amount to.

    Attributes:
        gamma: of the network.
        magnitude: v_k of each node, one row for each problem.
    """

    gamma: float
    magnitude: Mapping[int, Tensor]

    def of(self, k: int, a: Coefficients, rows: Int[Tensor, " r"] | None) -> Float[Tensor, " r"]:
        """<|a|, v_k>"""
        return (plain(a).detach().abs() * own(self.magnitude[k], a, rows)).flatten(1).sum(1)

    def total(self, size: Tensor) -> Tensor:
        """What has to be taken off a bound whose terms have so large a sum."""
        return self.gamma * size
