"""The l_2 Lipschitz constant of a step, for the audit: the largest singular value of its whole matrix."""

from __future__ import annotations

import math
from functools import lru_cache

import torch

from plica.trust.audit.activations import Activation, Pool, Relu
from plica.trust.audit.curves import Curve
from plica.trust.audit.layers import Affine, Step

LARGEST = 2**24  # entries of a matrix that is written out
ROWS = 256  # of it, made at once
MORE = 1 + 1e-10  # than the roundings of an eigenvalue


@lru_cache(maxsize=4)
def stretches(steps: tuple[Step, ...]) -> tuple[float, ...]:
    """The Lipschitz constant of each step in all its operands as one vector; 1 for the image."""
    return (1.0, *(_stretch(step, [steps[parent].shape for parent in step.parents]) for step in steps[1:]))


def _stretch(step: Step, shapes: list[tuple[int, ...]]) -> float:
    if isinstance(step.op, Activation):
        return _of_activation(step.op)
    assert isinstance(step.op, Affine)
    entries = math.prod(step.shape) * sum(math.prod(shape) for shape in shapes)
    if step.op.dense and entries <= LARGEST:
        return _largest(step.op, step.shape, shapes)
    ones = [torch.ones(1, *shape, dtype=torch.float64) for shape in shapes]
    rows = step.op.size(*ones) - step.op.size(*(torch.zeros_like(one) for one in ones))
    pull = torch.func.vjp(step.op.absolute, *ones)[1]
    columns = max(float(part.max()) for part in pull(torch.ones(1, *step.shape, dtype=torch.float64)))
    return math.sqrt(float(rows.max()) * columns) * MORE


def _largest(op: Affine, shape: tuple[int, ...], shapes: list[tuple[int, ...]]) -> float:
    n = math.prod(shape)
    rows = []
    for part in torch.arange(n).split(ROWS):
        a = torch.zeros(len(part), n, dtype=torch.float64)
        a[torch.arange(len(part)), part] = 1
        rows.append(torch.cat([p.flatten(1) for p in op.back(a.view(len(part), *shape), shapes)[0]], 1))
    return largest(torch.cat(rows))


def largest(matrix: torch.Tensor) -> float:
    """At least its largest singular value."""
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    if not bool(gram.isfinite().all()):
        return math.inf
    return math.sqrt(max(0.0, float(torch.linalg.eigvalsh(gram)[-1]))) * MORE if len(gram) else 0.0


def _of_activation(op: Activation) -> float:
    if isinstance(op, Relu):
        return max(1.0, abs(op.slope))
    if isinstance(op, Pool):
        return math.sqrt(math.prod(op.kernel))  # of so many windows an input is at most the largest
    assert isinstance(op, Curve)
    return op.steep * MORE
