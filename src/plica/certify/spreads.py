"""How far, in l_2, what ReLUs take can lie from its value at the image: layers together, not one after the other.

norms.py multiplies the norms of the operations, as if every ReLU kept all of a difference. Between the image's value c
and any z of its interval a ReLU rises with a slope of [s - h, s + h], and h = 0 for most neurons. For any matrix M

    M (z_k - c_k) = A_0 (x' - x) + sum_j A_j sqrt(h_j) u_j,    ||u_j|| <= t_j, t_j >= ||sqrt(h_j) (z_j - c_j)||,

where A_j are the coefficients of M z_k pulled back with the slopes s, to the outputs of ReLUs j before k and to the
image (0, with t_0 the radius). For any weights a_j > 0 that sum to 1 its norm is at most that of the matrices
t_j A_j sqrt(h_j) / sqrt(a_j) side by side, by Cauchy and Schwarz: together, as their largest singular vectors differ.
M picks the neurons whose sign is open: the others have exact lines, which no distance can make better.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from plica.certify.balls import Ball
from plica.certify.graph import Graph
from plica.certify.norms import SLACK
from plica.certify.relax import MOVED, Activation, ReLU
from plica.certify.rounding import Slack
from plica.certify.sets import InputSet

ROWS = 1024  # of M, at most; with more the product of norms has to do
ENTRIES = 2**24  # of the largest A_j
POWERS, ABOVE = 20, 1.01  # steps of the power method, and by how much more than its eigenvalue is tried
LEAST = 1e-30  # weight of a term that is 0, as where no neuron of a layer is open; any will do
ROUNDED = 4.0  # times the error of each node: of its value, of the value at the image, of the coefficients


@dataclass(frozen=True, eq=False)
class Rises:
    """The slopes with which a ReLU rises from the image's value, s and h, and t; one row for each problem."""

    middle: Float[Tensor, "b *z"]
    half: Float[Tensor, "b *z"]
    stretched: Float[Tensor, " b"]


@dataclass(eq=False)
class Spreads:
    """The distances of the nodes that ReLUs take, filled in the order of the nodes.

    Args:
        whole: of all nodes, the distance of all entries by the product of norms.
    """

    graph: Graph
    inputs: InputSet
    whole: dict[int, Tensor]
    slack: Slack | None
    rises: dict[int, Rises] = field(default_factory=dict)  # by activation

    @torch.no_grad()
    def ball(self, k: int, op: ReLU, low: Tensor, high: Tensor, centre: Tensor, together: bool = True) -> Ball:
        """Where the open entries of what activation k takes lie.

        Args:
            low, high: of the node that activation k takes.
            centre: its value at the image.
            together: False for the product of norms alone.
        """
        taken = self.graph.nodes[k].parents[0]
        middle, half = slopes_between(op, low, high, centre)
        found = self.whole[taken].clone()
        stretched = found * half.flatten(1).amax(1).sqrt() * (1 + 1e-9)
        for row, own in enumerate(half.flatten(1)):
            entries = own.nonzero()[:, 0]
            if together and len(entries) <= ROWS and len(entries) * self._width(taken) <= ENTRIES:
                factors = own[entries].sqrt()
                alone, scaled = self._distance(taken, entries, row, (torch.ones_like(factors), factors))
                found[row] = torch.minimum(found[row], alone)
                stretched[row] = torch.minimum(stretched[row], scaled)
        self.rises[k] = Rises(middle, half, stretched)
        # entries of known sign must not count, though roundings may have put their centre outside
        centre = torch.where(half > 0, centre, torch.minimum(torch.maximum(centre, low), high))
        return Ball(low, high, centre, found)

    def _width(self, k: int) -> int:
        return max(math.prod(node.shape) for node in self.graph.nodes[: k + 1])

    def _distance(self, k: int, entries: Tensor, row: int, factors: tuple[Tensor, ...]) -> list[Tensor]:
        """How far some entries of node k, each times a factor, lie from their value at the image, for each choice of
        factors."""
        graph, off = self.graph, [factors[0].new_zeros(()) for _ in factors]
        squares: list[Tensor] = []

        def count(a: Tensor, size: Tensor | float) -> None:
            squares.append(a.flatten(1) @ a.flatten(1).T * size**2)

        a = factors[0].new_zeros(len(entries), math.prod(graph.nodes[k].shape))
        a[torch.arange(len(entries), device=a.device), entries] = 1
        pulled = {k: a.view(len(entries), *graph.nodes[k].shape)}
        for j in range(k, 0, -1):
            if j not in pulled:
                continue
            a, node = pulled.pop(j), graph.nodes[j]
            if self.slack is not None:
                rounded = self.slack.of(j, a, torch.full_like(entries, row))
                off = [so_far + ROUNDED * (rounded * f).norm() for so_far, f in zip(off, factors, strict=True)]
            if isinstance(node.op, ReLU):
                own = self.rises[j]
                count(a * own.half[row].sqrt(), own.stretched[row])
                parts: tuple[Tensor, ...] = (a * own.middle[row],)
            elif isinstance(node.op, Activation):
                assert graph.norms is not None
                count(a, graph.norms[j] * self.whole[node.parents[0]][row])
                continue
            else:
                assert node.op is not None
                parts = node.op.transpose(a, tuple(graph.nodes[parent].shape for parent in node.parents))
            for parent, part in zip(node.parents, parts, strict=True):
                pulled[parent] = pulled[parent] + part if parent in pulled else part
        if 0 in pulled:
            count(pulled[0] / self.inputs.weights[row], self.inputs.radius[row])
        together = [side_by_side([f[:, None] * square * f for square in squares]) for f in factors]
        return [(norm + so_far) * (1 + 1e-9) for norm, so_far in zip(together, off, strict=True)]


def side_by_side(squares: list[Float[Tensor, "n n"]]) -> float:
    """At least the norm of any sum of A_j u_j with ||u_j|| <= 1, from all A_j A_j^T.

    The weights are in proportion to the fourth roots of the sums of fourth powers of the singular values: within two
    per cent of the best ones, where it was tried.
    """
    weights = [square.norm().sqrt().clamp(min=LEAST) for square in squares]
    if not squares:
        return 0.0
    parts = [square * (sum(weights) / weight) for square, weight in zip(squares, weights, strict=True)]
    return norm_above(torch.stack(parts).sum(0)) * SLACK


def norm_above(gram: Float[Tensor, "n n"]) -> float:
    """At least the largest singular value of a matrix A, from A A^T, and seldom more than a half per cent above it; inf
    where an entry is not finite.

    The power method guesses the largest eigenvalue. v I - A A^T has a Cholesky factor only if v is larger (in float64
    up to roundings far below SLACK: Rump, Verification of positive definiteness, 2006); it takes a fifth of the time of
    all eigenvalues.
    """
    trace = float(gram.trace())
    if not math.isfinite(trace):
        return math.inf
    v, value = gram.diagonal().sqrt(), 0.0
    for _ in range(POWERS):
        w = gram @ v
        value = float(w.norm() / v.norm().clamp(min=1e-30))
        v = w / w.norm().clamp(min=1e-30)
    value = max(ABOVE * value, 1e-30)
    one = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    while value < trace:
        if not int(torch.linalg.cholesky_ex(value * one - gram)[1]):
            return math.sqrt(value)
        value *= ABOVE**3
    return math.sqrt(max(trace, 0.0))


def slopes_between(
    op: ReLU, low: Float[Tensor, "b *z"], high: Float[Tensor, "b *z"], centre: Float[Tensor, "b *z"]
) -> tuple[Float[Tensor, "b *z"], Float[Tensor, "b *z"]]:
    """s and h, so that (f(z) - f(c)) / (z - c) lies in [s - h, s + h] for every z in [low, high]: between its values at
    the two ends, as f is convex."""
    low, high = torch.minimum(low, centre), torch.maximum(high, centre)  # roundings may have put c outside
    slope = torch.full_like(low, op.slope)  # in the dtype of low: a bare number would be one of float32
    known = torch.where(low >= 0, 1, torch.where(high <= 0, slope, torch.nan))  # nan stays nan
    right, left = centre > 0, centre < 0
    least = torch.where(right, (centre - op.slope * low) / torch.where(right, centre - low, 1), op.slope)
    most = torch.where(left, (high - op.slope * centre) / torch.where(left, high - centre, 1), 1)
    is_open = op.unstable(low, high)
    half = torch.where(is_open, (most - least) / 2 + MOVED * (1 + abs(op.slope)), 0)
    return torch.where(is_open, (most + least) / 2, known), half
