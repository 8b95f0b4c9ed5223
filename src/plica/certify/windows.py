"""Coefficients of a neuron after convolutions: they are 0 outside a window of the image, its receptive field.

Bounds of a layer need one row of coefficients for each of its neurons. A window is smaller than the image, so storing
windows saves memory and time.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from plica.certify.affine import Convolution, Scale, Sum
from plica.certify.graph import Node
from plica.certify.maxpool import MaxPool
from plica.certify.relax import Activation


class Window(NamedTuple):
    """One window for each row, all of one size; it may reach over the border, where coefficients are 0."""

    a: Float[Tensor, "r c h w"]
    top: Int[Tensor, " r"]
    left: Int[Tensor, " r"]

    def fits(self, node: Node) -> bool:
        """Whether the operation of the node keeps windows, and this one is much smaller than the node."""
        op = node.op
        known = isinstance(op, Scale | Sum | Activation) or (isinstance(op, Convolution) and op.groups == 1)
        small = len(node.shape) == 3 and 2 * self.a.shape[2] * self.a.shape[3] <= node.shape[1] * node.shape[2]
        return small and known and not isinstance(op, MaxPool)

    def _places(self, shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Bool[Tensor, "r h w"]]:
        """Rows and columns of the image, moved to it where they are outside, and which are inside."""
        y, x = (
            corner[:, None] + torch.arange(size, device=corner.device)
            for corner, size in zip((self.top, self.left), self.a.shape[2:], strict=True)
        )
        inside = ((y >= 0) & (y < shape[1]))[:, :, None] & ((x >= 0) & (x < shape[2]))[:, None]
        return y.clamp(0, shape[1] - 1)[:, :, None], x.clamp(0, shape[2] - 1)[:, None], inside

    def of(self, values: Float[Tensor, "b c *image"], rows: Int[Tensor, " r"], fill: float = 0.0) -> Tensor:
        """What lies in each row's window, of the values of problem rows[i]; `fill` outside the image."""
        y, x, inside = self._places(tuple(values.shape[1:]))
        found = values.movedim(1, -1).contiguous()[rows[:, None, None], y, x]
        return torch.where(inside[..., None], found, fill).movedim(-1, 1)

    def dense(self, shape: tuple[int, ...]) -> Float[Tensor, "r c height width"]:
        """The same coefficients, of all of a node."""
        y, x, inside = self._places(shape)
        full = self.a.new_zeros(len(self.a), *shape[1:], shape[0])
        row = torch.arange(len(full), device=full.device)[:, None, None].expand_as(inside)
        y, x = y.expand_as(inside), x.expand_as(inside)
        full[row[inside], y[inside], x[inside]] = self.a.movedim(1, -1)[inside]
        return full.movedim(-1, 1)

    def add(self, other: Window) -> Window:
        """The sum of two windows, of which one lies the same way to the other in all rows."""
        down, right = int(other.top[0] - self.top[0]), int(other.left[0] - self.left[0])
        (h, w), (high, wide) = self.a.shape[2:], other.a.shape[2:]
        top, left, bottom, end = min(0, down), min(0, right), max(h, down + high), max(w, right + wide)
        own = functional.pad(self.a, (-left, end - w, -top, bottom - h))
        theirs = functional.pad(other.a, (right - left, end - right - wide, down - top, bottom - down - high))
        return Window(own + theirs, self.top + top, self.left + left)

    def aligned(self, other: Window) -> bool:
        """Whether `add` may be called."""
        return all(len((a - b).unique()) == 1 for a, b in ((self.top, other.top), (self.left, other.left)))

    def through(self, op: Any, shape: tuple[int, ...]) -> tuple[tuple[Window, ...], Tensor | float]:
        """Propagate the coefficients back through an operation: those of its operands, which have `shape`, and the
        contribution of its constant."""
        rows = torch.zeros_like(self.top)
        constant = 0.0
        if op.offset is not None:
            constant = (self.a * self._entries(op.offset, rows)).flatten(1).sum(1)
        if isinstance(op, Scale):
            factor = self._entries(op.factor, rows) if isinstance(op.factor, Tensor) else op.factor
            return (self._replace(a=self.a * factor),), constant
        if isinstance(op, Sum):
            return (self, self._replace(a=op.sign * self.a)), constant
        assert isinstance(op, Convolution)
        assert op.weight is not None
        a = self.a.contiguous(memory_format=torch.channels_last)
        pulled = functional.conv_transpose2d(a, op.weight, None, op.stride, 0, 0, 1, op.dilation)
        top, left = (corner * s - p for corner, s, p in zip((self.top, self.left), op.stride, op.padding, strict=True))
        window = Window(pulled, top, left)
        inside = window._places(shape)[2]
        return (window._replace(a=torch.where(inside[:, None], pulled, 0)),), constant

    def _entries(self, values: Tensor, rows: Tensor) -> Tensor:
        """Of a constant that expands to an image: one for each channel, or for each entry."""
        if values[0].numel() in (1, values.shape[1]):
            return values
        return self.of(values.expand(1, self.a.shape[1], *values.shape[2:]), rows)


Coefficients = Tensor | Window


def plain(a: Coefficients) -> Tensor:
    """The numbers alone."""
    return a.a if isinstance(a, Window) else a


def own(values: Tensor, a: Coefficients, rows: Int[Tensor, " r"] | None, fill: float = 0.0) -> Tensor:
    """For each row of coefficients the values of its problem, rows[i] (i where None), as far as its window goes."""
    if isinstance(a, Window) and values.ndim > 1:
        return a.of(values, torch.arange(len(values), device=values.device) if rows is None else rows, fill)
    return values if rows is None else values[rows]


def unit(entry: Int[Tensor, " r"], shape: tuple[int, ...], like: Tensor, factor: float | Tensor = 1.0) -> Coefficients:
    """`factor`, or one for each row, at an entry (as flat) of a node of `shape`, in the dtype of `like`; of an image as
    a window."""
    row = torch.arange(len(entry), device=like.device)
    if len(shape) != 3:
        a = like.new_zeros(len(entry), math.prod(shape))
        a[row, entry] = factor
        return a.view(len(entry), *shape)
    channels, height, width = shape
    a = like.new_zeros(len(entry), channels)
    a[row, entry // (height * width)] = factor
    return Window(a[:, :, None, None], entry // width % height, entry % width)
