"""Transposed convolutions, as in decoders: the matrix is the transpose of that of a convolution."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from plica.certify.affine import Affine, Convolution, Shapes


@dataclass(frozen=True, eq=False)
class TransposedConvolution(Affine):
    """conv_transpose2d.

    Attributes:
        weight: (in, out / groups, height, width).
        padding: rows and columns that are cut off on all sides of the output.
        output_padding: rows and columns that are kept, or added, at its end.
    """

    weight: Float[Tensor, "in out height width"] | None = None
    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] = (0, 0)
    output_padding: tuple[int, ...] = (0, 0)
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1

    @property
    def terms(self) -> int:
        assert self.weight is not None
        return self.weight.shape[0] // self.groups * self.weight[0, 0].numel()

    def back(self) -> Convolution:
        """The convolution that is its transpose, up to rows and columns at the end where output_padding is long."""
        return Convolution(
            weight=self.weight, stride=self.stride, padding=self.padding, dilation=self.dilation, groups=self.groups
        )

    def _convolve(self, z: Tensor, weight: Tensor | None) -> Tensor:
        assert weight is not None
        return functional.conv_transpose2d(
            z, weight, None, self.stride, self.padding, self.output_padding, self.groups, self.dilation
        )

    def linear(self, *z: Tensor) -> Tensor:
        return self._convolve(z[0], self.weight)

    def absolute(self, *z: Tensor) -> Tensor:
        return self._convolve(z[0], None if self.weight is None else self.weight.abs())

    def transpose(self, a: Tensor, shapes: Shapes) -> tuple[Tensor, ...]:
        ((_, height, width),) = shapes
        return (self.back().linear(a.contiguous(memory_format=torch.channels_last))[:, :, :height, :width],)
