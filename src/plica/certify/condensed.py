"""A ReLU network with convolutions over one input set, reduced to the neurons whose sign is open: each is a linear
function of those before it.

Between two such neurons everything is linear, so products of small matrices replace convolutions over all entries. On
resnet_2b, one neuron in five is open at half of the radius that an attack finds.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from plica.certify.affine import Affine, Convolution, Shapes
from plica.certify.balls import Ball
from plica.certify.graph import Graph, Node
from plica.certify.openrelu import NonzeroReLU, OpenLines
from plica.certify.relax import Activation, ReLU

LARGEST = 2**25  # most entries of all matrices of a network together
FLOATS = 2**22  # most entries of a coefficient tensor while a matrix is computed


@dataclass(frozen=True, eq=False)
class Joined(Affine):
    """A sum of matrices times operands, which are flattened.

    Attributes:
        factors: one for each operand, (outputs, entries).
    """

    factors: tuple[Tensor, ...] = ()

    def linear(self, *z: Tensor) -> Tensor:
        return sum((part.flatten(1) @ factor.T for part, factor in zip(z, self.factors, strict=True)), torch.zeros(()))

    def transpose(self, a: Tensor, shapes: Shapes) -> tuple[Tensor, ...]:
        return tuple((a @ factor).view(len(a), *shape) for factor, shape in zip(self.factors, shapes, strict=True))


@dataclass(frozen=True, eq=False)
class Functions:
    """Linear functions of the outputs of activations.

    Attributes:
        factors: by activation, or 0 for the input; (functions, entries).
        constant: of each function.
    """

    factors: dict[int, Tensor]
    constant: Float[Tensor, " n"]

    def take(self, chosen: Tensor) -> Functions:
        return Functions({k: factor[chosen] for k, factor in self.factors.items()}, self.constant[chosen])


@dataclass(eq=False)
class Condensed:
    """The network between open neurons, made node by node. Nodes keep their numbers; nodes that are not needed do not
    change.

    Attributes:
        graph: the whole network.
        nodes: of the condensed network.
        low, high, balls, lines: of the open entries, as in intermediate.Bounds.
        entries: the open entries of each node that an activation takes.
        known: slopes of an activation, 0 where open.
        found: some entries of a node, among them all open ones, as functions.
    """

    graph: Graph
    nodes: list[Node]
    low: dict[int, Tensor] = field(default_factory=dict)
    high: dict[int, Tensor] = field(default_factory=dict)
    balls: dict[int, Ball] = field(default_factory=dict)
    lines: dict[int, Any] = field(default_factory=dict)
    entries: dict[int, Tensor] = field(default_factory=dict)
    known: dict[int, Tensor] = field(default_factory=dict)
    found: dict[int, tuple[Tensor, Functions]] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: Graph) -> Condensed:
        return cls(graph, list(graph.nodes))

    def condensed(self) -> Graph:
        return replace(self.graph, nodes=tuple(self.nodes))

    def has_room(self, k: int, number: int) -> bool:
        """Whether this many entries of node k can be written as functions within LARGEST numbers in all."""
        width = sum(torch.Size(self.nodes[j].shape).numel() for j, _ in self.graph.activations() if j < k)
        held = sum(factor.numel() for _, own in self.found.values() for factor in own.factors.values())
        return held + number * width <= LARGEST

    def functions(self, k: int, entries: Int[Tensor, " n"]) -> Functions:
        """Some entries of a node, as functions."""
        width = max(torch.Size(node.shape).numel() for node in self.graph.nodes[: k + 1])
        parts = [self._pulled(k, some) for some in entries.split(max(1, FLOATS // width))]
        factors = {j: torch.cat([part.factors[j] for part in parts]) for j in parts[0].factors}
        return Functions(factors, torch.cat([part.constant for part in parts]))

    def _pulled(self, k: int, entries: Int[Tensor, " n"]) -> Functions:
        like = self.low[next(iter(self.low))]
        shape = self.graph.nodes[k].shape
        a = like.new_zeros(len(entries), torch.Size(shape).numel())
        a[torch.arange(len(a), device=a.device), entries] = 1
        pulled, factors, constant = {k: a.view(len(a), *shape)}, dict[int, Tensor](), like.new_zeros(len(a))
        for j in range(k, 0, -1):
            if j not in pulled:
                continue
            a, node = pulled.pop(j), self.graph.nodes[j]
            if isinstance(node.op, Activation):
                op = self.nodes[j].op
                flat, taken = a.flatten(1), node.parents[0]
                if isinstance(op, NonzeroReLU):
                    factors[j] = flat[:, torch.cat([self.entries[taken], op.positive])]  # type: ignore[list-item]
                    continue
                factors[j] = flat[:, self.entries[taken]]
                parts: tuple[Tensor, ...] = ((flat * self.known[j]).view(a.shape),)
            else:
                assert isinstance(node.op, Affine)
                constant = constant + node.op.constant(a)
                parts = node.op.transpose(a, tuple(self.graph.nodes[parent].shape for parent in node.parents))
            for parent, part in zip(node.parents, parts, strict=True):
                pulled[parent] = pulled[parent] + part if parent in pulled else part
        if 0 in pulled:
            factors[0] = pulled[0].flatten(1)
        return Functions(factors, constant)

    def settle(self, j: int, low: Tensor, high: Tensor, start: Tensor) -> None:
        """Set the bounds of the input of activation j. start: the initial parameters of its lines."""
        k = self.graph.nodes[j].parents[0]
        op: Any = self.graph.nodes[j].op
        low, high = low.flatten(1), high.flatten(1)
        is_open = op.unstable(low, high)[0]
        entries = is_open.nonzero()[:, 0]
        known = torch.where(low >= 0, 1, torch.where(high <= 0, op.slope, torch.nan))  # nan stays nan
        self.known[j] = torch.where(is_open, 0, known).to(low)
        self.entries[k], self.low[k], self.high[k] = entries, low[:, is_open], high[:, is_open]
        lines = op.lines(op.prepare(self.low[k], self.high[k]), start.flatten(1)[:, is_open])
        if k in self.found:
            held, neurons = self.found[k]
            self.define(k, neurons.take(is_open[held].nonzero()[:, 0]))
            self.nodes[j] = replace(self.graph.nodes[j], shape=self.nodes[k].shape)
            self.lines[j] = lines
            return
        positive = (~is_open & (self.known[j][0] != 0)).nonzero()[:, 0]
        first = NonzeroReLU(op.slope, entries, None, positive, tuple(self.graph.nodes[k].shape))
        self.nodes[j] = replace(self.graph.nodes[j], op=first, shape=(len(entries) + len(positive),))
        self.lines[j] = OpenLines(*lines, pull=low.new_zeros(()))

    def ball(self, j: int, ball: Ball) -> None:
        """Set the ball of the input of activation j, given for all its entries."""
        entries = self.entries[self.graph.nodes[j].parents[0]]
        self.balls[j] = Ball(*(part.flatten(1)[:, entries] for part in ball[:3]), spread=ball.spread)

    def numbers(self) -> Int[Tensor, " n"]:
        """The numbers of the open entries among all inputs of activations, one activation after the other."""
        found, before = list[Tensor](), 0
        for j, _ in self.graph.activations():
            k = self.graph.nodes[j].parents[0]
            found.append(before + self.entries[k])
            before += torch.Size(self.graph.nodes[k].shape).numel()
        return torch.cat(found)

    def define(self, k: int, neurons: Functions) -> None:
        """Let node k consist of these functions from now on."""
        parents = tuple(sorted(neurons.factors))
        op = Joined(neurons.constant[None], tuple(neurons.factors[parent] for parent in parents))
        self.nodes[k] = Node(op, parents, (len(neurons.constant),))


def can_be_condensed(graph: Graph) -> bool:
    """Whether the graph has convolutions, all activations are max(z, 0), each takes a separate node that is not itself
    an activation, and none is last."""
    ops = [op for _, op in graph.activations()]
    taken = [graph.nodes[k].parents[0] for k, _ in graph.activations()]
    return (
        any(isinstance(node.op, Convolution) for node in graph.nodes)
        and all(type(op) is ReLU and op.slope == 0 for op in ops)
        and len(set(taken)) == len(taken) > 0
        and not any(isinstance(graph.nodes[k].op, Activation) for k in (*taken, -1))
    )
