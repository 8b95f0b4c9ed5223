"""Affine operations z -> L z + b on the values of one image, with the maps that bounds need: L, |L|, and the transpose
of L.

Operations act on the axes after the first, for any number of rows, independently. A captured graph (graph.py) consists
of these operations and of the activations in relax.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Shapes = tuple[tuple[int, ...], ...]  # of one row of each operand


@dataclass(frozen=True, eq=False)
class Affine:
    """One or more operands z to L z + offset.

    Attributes:
        offset: b, with a leading axis of length 1 and a shape that expands to the output; None for 0.
    """

    offset: Float[Tensor, "1 *out"] | None = None

    @property
    def terms(self) -> int:
        """The largest number of terms in one entry of L z; 0 if every output is one of the inputs."""
        return 0

    def linear(self, *z: Tensor) -> Float[Tensor, "r *out"]:
        """L z."""
        raise NotImplementedError

    def absolute(self, *z: Tensor) -> Float[Tensor, "r *out"]:
        """|L| z; L z itself if no entry of L is negative."""
        return self.linear(*z)

    def transpose(self, a: Float[Tensor, "r *out"], shapes: Shapes) -> tuple[Tensor, ...]:
        """L^T a for each operand, by automatic differentiation. shapes: of the operands."""
        pull: Any = torch.func.vjp(self.linear, *(a.new_zeros(len(a), *shape) for shape in shapes))[1]
        return pull(a)

    def forward(self, *z: Tensor) -> Float[Tensor, "r *out"]:
        value = self.linear(*z)
        return value if self.offset is None else value + self.offset

    def constant(self, a: Float[Tensor, "r *out"]) -> Float[Tensor, " r"] | float:
        """<a, offset> of each row."""
        return 0.0 if self.offset is None else (a * self.offset).flatten(1).sum(1)

    def magnitude(self, *z: Tensor) -> Float[Tensor, "r *out"]:
        """|L| |z| + |b|: the sum of the absolute values of the terms of each output."""
        value = self.absolute(*z)
        return value if self.offset is None else value + self.offset.abs()


@dataclass(frozen=True, eq=False)
class Reshape(Affine):
    """The values of an image in another shape, in the same order."""

    shape: tuple[int, ...] = ()

    def linear(self, *z: Tensor) -> Tensor:
        return z[0].reshape(len(z[0]), *self.shape)

    def transpose(self, a: Tensor, shapes: Shapes) -> tuple[Tensor, ...]:
        return (a.reshape(len(a), *shapes[0]),)


@dataclass(frozen=True, eq=False)
class Nonnegative(Affine):
    """A linear function without negative coefficients: permutation, slice, concatenation, padding, average.

    Attributes:
        summands: terms of an output; 0 if every output is one of the inputs, or of the offset.
    """

    function: Callable[..., Tensor] = torch.clone
    summands: int = 0

    @property
    def terms(self) -> int:
        return max(self.summands, int(self.offset is not None))  # a number in Python may be rounded as an offset

    def linear(self, *z: Tensor) -> Tensor:
        return self.function(*z)


@dataclass(frozen=True, eq=False)
class Scale(Affine):
    """Multiplies each entry by its own factor."""

    factor: Float[Tensor, "1 *out"] | float = 1.0

    @property
    def terms(self) -> int:
        return 1

    def linear(self, *z: Tensor) -> Tensor:
        return z[0] * self.factor

    def absolute(self, *z: Tensor) -> Tensor:
        return z[0] * abs(self.factor)

    def transpose(self, a: Tensor, shapes: Shapes) -> tuple[Tensor, ...]:
        return (a * self.factor,)


@dataclass(frozen=True, eq=False)
class Sum(Affine):
    """z_1 + sign z_2, both of the same shape."""

    sign: float = 1.0

    @property
    def terms(self) -> int:
        return 2

    def linear(self, *z: Tensor) -> Tensor:
        return z[0] + self.sign * z[1]

    def absolute(self, *z: Tensor) -> Tensor:
        return z[0] + abs(self.sign) * z[1]

    def transpose(self, a: Tensor, shapes: Shapes) -> tuple[Tensor, ...]:
        return a, self.sign * a


@dataclass(frozen=True, eq=False)
class Matrix(Affine):
    """left @ z @ right on the last axes of the values; either matrix may be missing."""

    right: Float[Tensor, "m n"] | None = None
    left: Float[Tensor, "m n"] | None = None

    @property
    def terms(self) -> int:
        return math.prod(m.shape[axis] for m, axis in ((self.right, 0), (self.left, 1)) if m is not None)

    def linear(self, *z: Tensor) -> Tensor:
        return _product(self.left, z[0], self.right)

    def absolute(self, *z: Tensor) -> Tensor:
        left, right = (None if m is None else m.abs() for m in (self.left, self.right))
        return _product(left, z[0], right)

    def transpose(self, a: Tensor, shapes: Shapes) -> tuple[Tensor, ...]:
        left, right = (None if m is None else m.T for m in (self.left, self.right))
        return (_product(left, a, right),)


def _product(left: Tensor | None, z: Tensor, right: Tensor | None) -> Tensor:
    z = z if left is None else left @ z
    return z if right is None else z @ right


@dataclass(frozen=True, eq=False)
class Convolution(Affine):
    """conv2d with zero padding.

    Attributes:
        weight: (out, in / groups, height, width).
    """

    weight: Float[Tensor, "out in height width"] | None = None
    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] = (0, 0)
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1

    @property
    def terms(self) -> int:
        assert self.weight is not None
        return self.weight[0].numel()

    def _convolve(self, z: Tensor, weight: Tensor | None) -> Tensor:
        assert weight is not None
        return functional.conv2d(z, weight, None, self.stride, self.padding, self.dilation, self.groups)

    def linear(self, *z: Tensor) -> Tensor:
        return self._convolve(z[0], self.weight)

    def absolute(self, *z: Tensor) -> Tensor:
        return self._convolve(z[0], None if self.weight is None else self.weight.abs())

    def transpose(self, a: Tensor, shapes: Shapes) -> tuple[Tensor, ...]:
        """The rows and columns that a stride leaves over at the end of the input are the output padding."""
        assert self.weight is not None
        over = [
            size - ((out - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1)
            for size, out, stride, padding, dilation, kernel in zip(
                shapes[0][1:], a.shape[2:], self.stride, self.padding, self.dilation, self.weight.shape[2:], strict=True
            )
        ]
        # channels last: two to three times as fast on a CPU with few channels
        a = a.contiguous(memory_format=torch.channels_last)
        pulled = functional.conv_transpose2d(
            a, self.weight, None, self.stride, self.padding, over, self.groups, self.dilation
        )
        return (pulled,)
