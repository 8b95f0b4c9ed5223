"""Builds the nodes of a network one after the other, and computes the value of each for an example image.

The example has a leading axis of length 1. An operation that mixes entries of that axis is refused. Each node is
therefore a function of one image, and can be computed for any number of images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from plica.certify.affine import Affine, Nonnegative, Reshape
from plica.certify.graph import Node
from plica.certify.relax import Activation


class Refused(Exception):  # noqa: N818 - caught in traced.py
    """This use of an operation has no bounds; the message says why."""


class Value(int):
    """The index of a node that depends on the input, as distinct from a constant of the network."""


class Builder:
    """The nodes built so far, and the value of each at the example."""

    def __init__(self, x: Float[Tensor, "1 *image"]):
        self.nodes = [Node(None, (), tuple(x.shape[1:]))]
        self.values = [x]
        self.columns = set[int]()  # nodes with one number for each image, (1,) in the model and (1, 1) here
        self.rounds_constants = False  # Graph's
        self.softmax: Callable[[Tensor, int], Tensor] | None = None  # Graph's

    def add(self, op: Affine | Activation, *parents: Value) -> Value:
        value = op.forward(*(self.values[parent] for parent in parents))
        if value.shape == (1,):  # one number for each image, such as a single logit: as a row of one
            op, value = _column(op), value[:, None]
        if value.ndim < 2 or len(value) != 1:
            raise Refused("it does not keep images apart")
        if isinstance(op, Nonnegative) and bool(
            (op.linear(*(torch.ones_like(self.values[parent]) for parent in parents)) < 0).any()
        ):
            raise Refused("it has negative coefficients")
        self.nodes.append(Node(op, tuple(int(parent) for parent in parents), tuple(value.shape[1:])))
        self.values.append(value)
        return Value(len(self.nodes) - 1)

    def ndim(self, value: Value) -> int:
        return self.values[value].ndim

    def example(self, value: Value) -> Tensor:
        """The value at the example, in the shape that it has in the model."""
        return self.values[value][:, 0] if value in self.columns else self.values[value]

    def shape(self, value: Value) -> tuple[int, ...]:
        return tuple(self.values[value].shape)


def _column(op: Any) -> Affine:
    """The same operation of a row, its one number as a row of one."""
    if isinstance(op, Reshape):
        return replace(op, shape=(1,))
    if not isinstance(op, Nonnegative):
        raise Refused("it does not keep images apart")
    function = op.function
    return replace(op, function=lambda *z: function(*z)[:, None])
