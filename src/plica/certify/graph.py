"""A network as a list of nodes, each an affine operation or an activation of earlier nodes; node 0 is the input."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from plica.certify.affine import Affine
from plica.certify.relax import Activation


@dataclass(frozen=True, eq=False)
class Node:
    """A node.

    Attributes:
        op: None for the input.
        parents: indices of its operands.
        shape: of its value for one image.
    """

    op: Affine | Activation | None
    parents: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in the order of computation; the last one gives the logits.

    Attributes:
        norms: the largest factor by which each operation stretches l_2 distances (norms.py); None if they are not
            needed.
        rounds_constants: whether the model computes constants from its weights at every call, and so rounds them; the
            nodes have them in float64.
        softmax: torch.softmax or torch.log_softmax if the model ends with it. The nodes are those before it, since it
            does not change the order of classes.
        compiled: whether a part of the model is compiled, and may run other operations than these.
    """

    nodes: tuple[Node, ...]
    norms: tuple[float, ...] | None = None
    rounds_constants: bool = False
    softmax: Callable[[Tensor, int], Tensor] | None = None
    compiled: bool = False

    def forward(self, x: Float[Tensor, "r *image"]) -> list[Tensor]:
        """The value of every node."""
        values = [x]
        for node in self.nodes[1:]:
            assert node.op is not None
            values.append(node.op.forward(*(values[parent] for parent in node.parents)))
        return values

    def to(self, dtype: torch.dtype) -> Graph:
        """The graph with constants of another dtype."""
        return replace(self, nodes=tuple(replace(node, op=_converted(node.op, dtype)) for node in self.nodes))

    def activations(self) -> Iterator[tuple[int, Activation]]:
        """Index and operation of every activation."""
        for k, node in enumerate(self.nodes):
            if isinstance(node.op, Activation):
                yield k, node.op

    def depth(self) -> list[int]:
        """For every node, the largest number of activations on a path to it, itself included."""
        depth: list[int] = []
        for node in self.nodes:
            before = max((depth[parent] for parent in node.parents), default=0)
            depth.append(before + isinstance(node.op, Activation))
        return depth

    def used(self) -> Iterator[Node]:
        """The nodes that the last one depends on, itself included, from the last to the first."""
        wanted = {len(self.nodes) - 1}
        for k in range(len(self.nodes) - 1, -1, -1):
            if k in wanted:
                wanted |= set(self.nodes[k].parents)
                yield self.nodes[k]

    def activated(self) -> set[int]:
        """The nodes whose value an activation takes."""
        return {self.nodes[k].parents[0] for k, _ in self.activations()}

    def behind_activations(self) -> set[int]:
        """The nodes that are, or depend on, an activation."""
        behind: set[int] = set()
        for k, node in enumerate(self.nodes):
            if isinstance(node.op, Activation) or behind & set(node.parents):
                behind.add(k)
        return behind


def _converted(op: Any, dtype: torch.dtype) -> Any:
    if not is_dataclass(op) or isinstance(op, type):
        return op
    tensors = {f.name: getattr(op, f.name) for f in fields(op) if isinstance(getattr(op, f.name), Tensor)}
    return replace(op, **{name: tensor.to(dtype) for name, tensor in tensors.items()})
