"""Bounds, in l_2, how far the values of a node can lie from those at the image, for inputs in a ball around it.

An operation stretches l_2 distances by at most its operator norm: that of a matrix is its largest singular value, that
of a convolution at most the largest one over the frequencies of a periodic grid that holds the image and its border.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from plica.certify.affine import Affine, Convolution, Matrix, Reshape, Scale
from plica.certify.curves import Curve
from plica.certify.graph import Graph, Node
from plica.certify.maxpool import MaxPool
from plica.certify.relax import ReLU
from plica.certify.transposed import TransposedConvolution

LARGEST = 2**24  # entries of a matrix, up to which its norm is computed and not only bounded
SLACK = 1 + 1e-8  # far more than the roundings of a singular value in float64


def with_norms(graph: Graph) -> Graph:
    """The graph with the norms of its operations; 1 for the input."""
    shapes = [node.shape for node in graph.nodes]
    norms = [operator_norm(node, [shapes[parent] for parent in node.parents]) for node in graph.nodes[1:]]
    return replace(graph, norms=(1.0, *norms))


def operator_norm(node: Node, shapes: list[tuple[int, ...]]) -> float:
    """Of the operation of a node, of all its operands as one vector; `shapes` are those of its operands."""
    op = node.op
    if isinstance(op, ReLU):
        return max(1.0, abs(op.slope))
    if isinstance(op, Curve):
        return op.steepest * SLACK
    if isinstance(op, MaxPool):
        return math.sqrt(math.prod(op.kernel))  # an input lies in no more windows than the kernel has places
    assert isinstance(op, Affine)
    if isinstance(op, Reshape):
        return 1.0
    if isinstance(op, Scale):
        return float(torch.as_tensor(op.factor, device="cpu").abs().max()) * SLACK
    small = math.prod(node.shape) * sum(math.prod(shape) for shape in shapes) <= LARGEST
    if isinstance(op, Matrix) and small:
        return math.prod(_largest(m.double()) for m in (op.left, op.right) if m is not None) * SLACK
    if isinstance(op, Convolution) and small:
        return _convolution(op, shapes[0]) * SLACK
    if isinstance(op, TransposedConvolution) and small:  # a matrix and its transpose have the same singular values
        return _convolution(op.back(), node.shape) * SLACK
    ones = [torch.ones(1, *shape, dtype=torch.float64, device="cpu") for shape in shapes]
    rows = float(op.absolute(*ones).max())  # the largest sum of absolute values
    pull = torch.func.vjp(op.absolute, *ones)[1]
    columns = max(float(part.max()) for part in pull(torch.ones(1, *node.shape, dtype=torch.float64, device="cpu")))
    return math.sqrt(rows * columns) * SLACK


def _largest(m: Tensor) -> float:
    """The largest singular value, by the smaller Gram matrix; inf where an entry is not finite."""
    gram = m @ m.T if m.shape[0] <= m.shape[1] else m.T @ m
    if not bool(gram.isfinite().all()):
        return math.inf
    return math.sqrt(max(0.0, float(torch.linalg.eigvalsh(gram)[-1])))


def _convolution(op: Convolution, image: tuple[int, ...]) -> float:
    """A stride s is a convolution of stride 1 of the s^2 images of every s-th pixel."""
    assert op.weight is not None
    weight = op.weight.double()
    out, channels = weight.shape[:2]
    spread = weight.new_zeros(
        out, channels, *(d * (k - 1) + 1 for d, k in zip(op.dilation, weight.shape[2:], strict=True))
    )
    spread[:, :, :: op.dilation[0], :: op.dilation[1]] = weight
    (s, t), (high, wide) = op.stride, spread.shape[2:]
    padded = functional.pad(spread, (0, -wide % t, 0, -high % s))
    rows, columns = padded.shape[2] // s, padded.shape[3] // t
    phases = padded.view(out, channels, rows, s, columns, t).permute(0, 1, 3, 5, 2, 4).reshape(out, -1, rows, columns)
    size = [
        -(-(n + 2 * p) // step) + k
        for n, p, step, k in zip(image[1:], op.padding, op.stride, (rows, columns), strict=True)
    ]
    waves = torch.fft.rfft2(phases, s=size).flatten(2).movedim(2, 0)  # (frequencies, out, in)
    if not bool(waves.isfinite().all()):
        return math.inf
    groups = waves.view(len(waves), op.groups, out // op.groups, -1)
    return float(torch.linalg.matrix_norm(groups, 2).max())
