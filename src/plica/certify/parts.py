"""Parts of an input set, each defined by the signs of some neurons, and the bounds of functions on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy.typing import NDArray
from torch import Tensor

from plica.certify.certificate import Leaf, Split
from plica.certify.graph import Graph
from plica.certify.intermediate import Bounds
from plica.certify.slopes import Parts, Rows, unpacked

Numbers = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Part:
    """One part of the set for one function. The record is small, since many of them wait.

    Attributes:
        function: index of the row of the root.
        bound: the best known.
        neurons: whose signs are fixed, as numbered by Entries.
        signs: of these neurons, 1 or -1.
        multipliers: of the splits.
        slopes: of the lines, as in certificate.Leaf.
    """

    function: int
    bound: float
    neurons: Numbers
    signs: Numbers
    multipliers: Numbers
    slopes: UInt8[Tensor, " k"]


class Entries:
    """Numbers the inputs of all ReLUs, one node after the other, and makes tensors for the open ones.

    Args:
        rows: rows whose graph has the nodes.
        sizes: number of entries of each of these nodes.
        numbers: of the entries that the rows' bounds cover; None for all.
    """

    def __init__(self, rows: Rows, sizes: Mapping[int, int], numbers: Int[Tensor, " n"] | None = None):
        total = sum(sizes.values())
        self.numbers = torch.arange(total, device="cpu") if numbers is None else numbers.cpu()
        slot = torch.full((total,), -1, device="cpu")
        slot[self.numbers] = torch.arange(len(self.numbers), device="cpu")
        self.slot = slot.numpy()
        self.shapes = {k: rows.bounds.low[k].shape[1:] for k in sizes}
        self.ends = np.cumsum([0, *(shape.numel() for shape in self.shapes.values())])
        self.like = rows.a

    def tensors(self, flat: Float[Tensor, "r n"], only: Numbers) -> Parts:
        """Split by nodes; only nodes with some of these columns."""
        used = set(np.searchsorted(self.ends, only, "right") - 1)
        parts = zip(self.shapes.items(), flat.split(np.diff(self.ends).tolist(), 1), strict=True)
        return {k: part.view(len(flat), *shape) for i, ((k, shape), part) in enumerate(parts) if i in used}

    def scattered(self, parts: Sequence[Part], values: Sequence[Numbers]) -> Float[Tensor, "r n"]:
        """One number for each split, at its entry; 0 elsewhere."""
        flat = self.like.new_zeros(len(parts), len(self.numbers))
        rows = np.repeat(np.arange(len(parts)), [len(part.neurons) for part in parts])
        places = torch.from_numpy(rows * len(self.numbers) + self.places(parts)).to(flat.device)
        flat.view(-1)[places] = torch.from_numpy(np.concatenate(values)).to(flat)
        return flat

    def places(self, parts: Sequence[Part]) -> Numbers:
        """The columns of all splits."""
        return self.slot[np.concatenate([part.neurons for part in parts])]

    def rows(self, root: Rows, parts: Sequence[Part]) -> Rows:
        """One row for each part. root: one row for each function."""
        function = torch.tensor([part.function for part in parts], device=root.a.device)
        signs = self.tensors(self.scattered(parts, [part.signs for part in parts]), self.places(parts))
        return replace(root.take(function), signs=signs)

    def multipliers(self, parts: Sequence[Part]) -> Parts:
        """The multipliers of the splits."""
        return self.tensors(self.scattered(parts, [part.multipliers for part in parts]), self.places(parts))


def divided(graph: Graph) -> dict[int, int]:
    """The nodes by whose signs a set can be divided, and the activation that takes each."""
    return {graph.nodes[k].parents[0]: k for k, op in graph.activations() if op.splits}


def sizes(graph: Graph) -> dict[int, int]:
    """The number of entries of each of these nodes."""
    return {k: torch.Size(graph.nodes[k].shape).numel() for k in divided(graph)}


def stored(parts: Sequence[Part], graph: Graph) -> tuple[Leaf, ...]:
    """The parts in the form in which they are stored, with the number of the function in place of the rival."""
    ends = np.cumsum([0, *sizes(graph).values()])
    number = {k: number for number, (k, _) in enumerate(graph.activations())}
    numbers, found = [number[k] for k in divided(graph).values()], []
    for part in parts:
        node = np.searchsorted(ends, part.neurons, "right") - 1
        splits = tuple(
            Split(numbers[i], entry, sign)
            for i, entry, sign in zip(node, (part.neurons - ends[node]).tolist(), part.signs.tolist(), strict=True)
        )
        found.append(Leaf(part.function, splits, tuple(part.multipliers.tolist()), part.slopes))
    return tuple(found)


@torch.no_grad()
def bounds_of_parts(root: Rows, parts: Sequence[Part], batch: int) -> Float[Tensor, " n"]:
    """A lower bound of its function on each part, with slopes and multipliers as they are stored."""
    entries, start, found = Entries(root, sizes(root.graph)), root.start(), [root.a.new_zeros(0)]
    for first in range(0, len(parts), batch):
        some = parts[first : first + batch]
        slopes = torch.stack([part.slopes for part in some]).to(root.a.device)
        parameters = unpacked(slopes, start, root.a.dtype)
        found.append(entries.rows(root, some).lower(parameters, entries.multipliers(some)))
    return torch.cat(found)


def without_settled(parts: Sequence[Part], graph: Graph, bounds: Bounds) -> list[Part]:
    """The parts without splits of neurons whose sign is the same on all of the set. Parts that need the other sign are
    empty, and left out."""
    sides = (side for side in (bounds.low, bounds.high))
    low, high = (
        torch.cat([torch.zeros(0, device="cpu"), *(side[k][0].flatten().cpu() for k in divided(graph))])
        for side in sides
    )
    settled = ((low >= 0).int() - (high <= 0).int()).numpy()
    kept = []
    for part in parts:
        signs = settled[part.neurons]
        if (signs * part.signs < 0).any():
            continue
        neurons, own, multipliers = (side[signs == 0] for side in (part.neurons, part.signs, part.multipliers))
        kept.append(replace(part, neurons=neurons, signs=own, multipliers=multipliers))
    return kept


def half(part: Part, neuron: int, sign: int) -> Part:
    """The half of the part in which the neuron has this sign."""
    neurons, signs, multipliers = (
        np.append(side, value) for side, value in ((part.neurons, neuron), (part.signs, sign), (part.multipliers, 0.0))
    )
    return replace(part, neurons=neurons, signs=signs, multipliers=multipliers)
