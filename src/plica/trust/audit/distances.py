"""How far the open inputs of a ReLU can lie from those at the image, for the audit; over an l_2 ball.

f(z) - f(c) = s (z - c) with a slope s between those to the two ends of the interval: s = m + e, |e| <= h. So a step is
the image times the weights and the slopes m, which is one matrix, and for every ReLU before it e times what lies there.
The matrices, each times the length of what it takes, are put beside each other with weights: |sum A_j u_j| is at most
the norm of [A_j / sqrt(w_j)] for |u_j| <= 1 and sum w_j = 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from plica.trust.audit.activations import MOVED, Activation, Relu
from plica.trust.audit.layers import Step
from plica.trust.audit.stretch import MORE

OPEN, ENTRIES = 1100, 2**24 + 2**21  # neurons, and numbers of a matrix, up to which matrices are made
TIMES = 3.0  # the error of a step: of its value, of the value at the image, of the matrix


@dataclass(frozen=True, eq=False)
class Bend:
    """Of a ReLU: m and h of every entry, and how far sqrt(h) z can lie from sqrt(h) c."""

    m: Tensor
    h: Tensor
    weighed: float


class Distances:
    """Of the steps of a network from their values at an image.

    Args:
        norms: of the steps.
        extent: of the ball along each entry of the image, (1, n).
        spreads, errors: of each step, all entries; lists that are being filled.
    """

    def __init__(
        self, steps: tuple[Step, ...], norms: tuple[float, ...], extent: Tensor, spreads: list[Tensor],
        errors: list[Tensor],
    ):  # fmt: skip
        self.steps, self.norms, self.extent, self.spreads, self.errors = steps, norms, extent, spreads, errors
        self.bends: dict[int, Bend] = {}

    def of_open(self, k: int, op: Relu, l: Tensor, u: Tensor, c: Tensor) -> Tensor:
        """How far the open entries of what step k, a ReLU, takes can lie from c, in [l, u]. (1,)"""
        at = self.steps[k].parents[0]
        l, u = torch.minimum(l, c), torch.maximum(u, c)
        is_open = op.is_open(l, u)
        least = torch.where(c > 0, (op.value(c) - op.value(l)) / torch.where(c > 0, c - l, 1.0), op.slope)
        most = torch.where(c < 0, (op.value(u) - op.value(c)) / torch.where(c < 0, u - c, 1.0), 1.0)
        h = torch.where(is_open, (most - least) / 2 + MOVED * (1 + abs(op.slope)), 0.0)
        m = torch.where(is_open, (most + least) / 2, torch.where(l >= 0, 1.0, op.slope * torch.ones_like(l)))
        numbers, spread = h.flatten().nonzero()[:, 0], float(self.spreads[at])
        plain, weighed = spread, spread * math.sqrt(float(h.max())) * MORE
        widest = max(math.prod(step.shape) for step in self.steps[: at + 1])
        if len(numbers) <= OPEN and len(numbers) * widest <= ENTRIES:
            root = h.flatten()[numbers].sqrt()
            plain = min(plain, self._distance(at, numbers, torch.ones_like(root)))
            weighed = min(weighed, self._distance(at, numbers, root))
        self.bends[k] = Bend(m, h, weighed)
        return torch.tensor([plain], dtype=torch.float64)

    def _distance(self, at: int, numbers: Tensor, weights: Tensor) -> float:
        """Of some entries of a step, each times a weight."""
        rows = torch.zeros(len(numbers), math.prod(self.steps[at].shape), dtype=torch.float64)
        rows[range(len(numbers)), numbers] = weights
        waiting, far, squares = {at: rows.view(-1, *self.steps[at].shape)}, 0.0, []
        while waiting:
            k = max(waiting)
            step, a = self.steps[k], waiting.pop(k)
            if step.op is None:
                squares.append(_square(a.flatten(1) * self.extent, 1.0))
                continue
            far += TIMES * float((a.abs() * self.errors[k]).flatten(1).sum(1).norm())
            if isinstance(step.op, Relu):
                bend = self.bends[k]
                squares.append(_square(a * bend.h.sqrt(), bend.weighed))
                parts = [a * bend.m]
            elif isinstance(step.op, Activation):
                squares.append(_square(a, self.norms[k] * float(self.spreads[step.parents[0]])))
                parts = []
            else:
                parts = step.op.back(a, [self.steps[parent].shape for parent in step.parents])[0]
            for parent, part in zip(step.parents, parts, strict=False):
                waiting[parent] = waiting[parent] + part if parent in waiting else part
        return (far + _beside_each_other(squares)) * MORE


def _square(a: Tensor, length: float) -> Tensor:
    """A A^T for A = length times a matrix."""
    return (a.flatten(1) @ a.flatten(1).T) * length**2


def _beside_each_other(squares: list[Tensor]) -> float:
    """At least the norm of [A_j / sqrt(w_j)], from A_j A_j^T, with w_j in proportion to the roots of their norms."""
    parts = [(square, float(square.norm()) ** 0.5) for square in squares if bool(square.any())]
    if not all(0 < size < math.inf for _, size in parts):
        return math.inf  # also of nan, and of numbers so small that their squares are 0
    if not parts:
        return 0.0
    whole = sum(size for _, size in parts)
    beside = torch.stack([square * (whole / size) for square, size in parts]).sum(0)
    return math.sqrt(max(0.0, float(torch.linalg.eigvalsh(beside)[-1]))) * MORE
