"""Merges convolutions with the scalings before them: one operation in place of two or three."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from plica.certify.affine import Convolution, Scale
from plica.certify.graph import Graph, Node


def merged(graph: Graph) -> Graph:
    """The same function up to rounding; nodes keep their numbers."""
    nodes, norms = list(graph.nodes), None if graph.norms is None else list(graph.norms)
    for k in range(len(nodes)):
        while (taken := _without_scale(nodes, nodes[k])) is not None:
            if norms is not None:
                norms[k] *= norms[nodes[k].parents[0]]  # as in the proof, which has both
            nodes[k] = taken
    return replace(graph, nodes=tuple(nodes), norms=None if norms is None else tuple(norms))


def _without_scale(nodes: list[Node], node: Node) -> Node | None:
    """A convolution that includes the scaling before it; None if there is no scaling of whole channels."""
    op = node.op
    if not isinstance(op, Convolution) or op.groups != 1 or op.weight is None:
        return None
    scaled = nodes[node.parents[0]]
    scale, channels = scaled.op, op.weight.shape[1]
    if not isinstance(scale, Scale):
        return None
    factor = torch.as_tensor(scale.factor, device=op.weight.device).to(op.weight)
    if factor.numel() not in (1, channels) or (factor.numel() > 1 and factor.shape[-3:] != (channels, 1, 1)):
        return None
    offset: Tensor | None = op.offset
    if scale.offset is not None:
        # the border is 0 behind the scale, so what the offset adds is another number there
        moved = op.linear(scale.offset.to(op.weight).expand(1, *scaled.shape))
        offset = moved if offset is None else moved + offset
    weight = op.weight * factor.reshape(1, -1, 1, 1)
    return replace(node, op=replace(op, weight=weight, offset=offset), parents=scaled.parents)
