"""Max pooling between two planes, with the inputs of each window along one axis.

With L the largest lower bound of a window, max_i z_i <= L + sum_i max(z_i - L, 0), each term below its chord; and max_i
z_i <= max_i u_i. The upper plane is a mix of the two, by the parameter. The lower plane is any one input of the window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from plica.certify.relax import MOVED, Activation

TIE = 1e-5  # more than the roundings of float32


class Planes(NamedTuple):
    """Coefficients (r, c, k, windows) and offsets (r, c, windows) of the lower and the upper plane of each window of k
    inputs; the lower offset is 0."""

    low: Tensor
    up: Tensor
    up_offset: Tensor

    def take(self, rows: Tensor) -> Planes:
        return Planes(*(part[rows] for part in self))


@dataclass(frozen=True)
class MaxPool(Activation):
    """max_pool2d of (r, c, height, width)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    image: tuple[int, int]  # height and width of the input
    ceil: bool = False  # whether a last window that begins inside the image or before it may end beyond

    def forward(self, z: Tensor) -> Tensor:
        return functional.max_pool2d(z, self.kernel, self.stride, self.padding, self.dilation, self.ceil)

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width of the padded image that the windows cover."""
        return self._reach(0), self._reach(1)

    def _reach(self, axis: int) -> int:
        size, padding, stride = self.image[axis], self.padding[axis], self.stride[axis]
        usual, window = size + 2 * padding, self.dilation[axis] * (self.kernel[axis] - 1) + 1
        left_over = (usual - window) % stride
        start = usual - window - left_over + stride  # of one more window
        return start + window if self.ceil and left_over and start < size + padding else usual

    def _windows(self, z: Float[Tensor, "r c h w"], fill: float) -> Float[Tensor, "r c k windows"]:
        """The inputs of each window; padding has the value `fill`."""
        (high, wide), (rows, columns) = self.padding, self.padded
        more = columns - wide - self.image[1], rows - high - self.image[0]
        padded = functional.pad(z, (wide, more[0], high, more[1]), value=fill)
        # unfold multiplies nothing: it copies, infinities too
        columns = functional.unfold(padded, self.kernel, self.dilation, 0, self.stride)
        return columns.view(*z.shape[:2], -1, columns.shape[-1])

    def start(self, low: Tensor, high: Tensor) -> Tensor:
        """1 (the chords) where they lie lower in the middle of the intervals, else 0 (the constant)."""
        chords = self._planes(low, high)
        middle = self._windows((low + high) / 2, 0.0)
        return ((chords.up * middle).sum(2) + chords.up_offset < self._windows(high, -torch.inf).amax(2)).to(low)

    def prepare(self, low: Tensor, high: Tensor) -> tuple[Planes, Tensor]:
        """The planes of the chords, and the constant."""
        return self._planes(low, high), self._windows(high, -torch.inf).amax(2)

    def lines(self, prepared: tuple[Planes, Tensor], parameter: Tensor) -> Planes:
        chords, top = prepared
        offset = parameter * chords.up_offset + (1 - parameter) * top
        moved = MOVED * (chords.up_offset.abs() + top.abs())
        return Planes(chords.low, parameter[:, :, None] * chords.up, offset + moved)

    def _planes(self, low: Tensor, high: Tensor) -> Planes:
        """The lower plane, and the upper one of the chords alone."""
        l, u = self._windows(low, -torch.inf), self._windows(high, -torch.inf)
        best = l.amax(2, keepdim=True)
        ends = l + u
        largest = ends.amax(2, keepdim=True)
        # of ends that are the same but for roundings the first, so that any precision chooses the same
        first = (ends >= largest - TIE * (1 + largest.abs())).int().argmax(2)
        pick = functional.one_hot(first, l.shape[2]).movedim(-1, 2).to(low)
        taking_part = u > best
        width = torch.where(taking_part, u - l, 1)
        slope = torch.where(taking_part, (u - best) / width, 0)
        # an input that is never below the others is the maximum itself
        slope = torch.where(u.isnan() | l.isnan(), torch.nan, slope)
        chord_at_low = torch.where(taking_part, slope * torch.where(taking_part, l, 0), 0)
        size = (slope * torch.where(taking_part, l.abs() + u.abs(), 0)).sum(2) + best[:, :, 0].abs()
        moved = MOVED * size
        return Planes(pick, slope, best[:, :, 0] - chord_at_low.sum(2) + moved)

    def backward(self, a: Float[Tensor, "r c h w"], lines: Planes) -> tuple[Tensor, Tensor]:
        flat = a.flatten(2)
        positive, negative = flat.clamp(min=0), flat.clamp(max=0)
        columns = positive[:, :, None] * lines.low + negative[:, :, None] * lines.up
        high, wide = self.padding
        folded = functional.fold(columns.flatten(1, 2), self.padded, self.kernel, self.dilation, 0, self.stride)
        inside = folded[:, :, high : high + self.image[0], wide : wide + self.image[1]]
        return inside, (negative * lines.up_offset).flatten(1).sum(1)

    def magnitude(self, z: Tensor) -> Tensor:
        value = 6 * self._windows(z, 0.0).sum(2)  # slopes are at most 1
        return value.view(len(z), z.shape[1], *self.forward(z).shape[2:])

    def rounded(self, z: Tensor) -> None:
        return None
