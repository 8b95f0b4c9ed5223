"""Bounds of neurons inside the network that are proved by dividing the set, layer by layer.

What CROWN's intervals lose at one layer is lost again at every layer behind it, and dividing the set for the logits
does not help, since its parts keep the intervals of the whole set. A few parts for each neuron whose sign is open
tighten its interval, and may settle its sign, for all layers and all parts that come after.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from plica.certify.branch import Branching, Search
from plica.certify.certificate import Lemma
from plica.certify.graph import Graph
from plica.certify.intermediate import Bounds
from plica.certify.parts import Part, bounds_of_parts, divided, stored, without_settled
from plica.certify.sets import InputSet
from plica.certify.slopes import Ascent, Parts, Rows

COVERED = 0.9  # share of the losses of a layer for which the neurons that are tightened account
GAIN = 0.01  # a bound that narrows the interval by a smaller share is not kept
_ASCENT = Ascent(steps=3, slope_step=0.1, multiplier_step=0.1)
BRANCHING = Branching(root=Ascent(steps=10), ascent=_ASCENT, last=_ASCENT)


@dataclass(frozen=True, eq=False)
class Neurons:
    """Lower bounds of sign * neuron, for neurons of one node.

    Attributes:
        entries, signs: of each function; entries of the flattened node.
        parts: of each function, by its number; they make up the set.
    """

    entries: Int[Tensor, " n"]
    signs: Int[Tensor, " n"]
    parts: list[Part]

    def rows(self, graph: Graph, inputs: InputSet, bounds: Bounds, node: int) -> Rows:
        """The functions as rows, over the network up to this node."""
        shape = graph.nodes[node].shape
        a = inputs.x.new_zeros(len(self.entries), torch.Size(shape).numel())
        a[torch.arange(len(a), device=a.device), self.entries] = self.signs.to(a)
        before = replace(graph, nodes=graph.nodes[: node + 1])
        return Rows(before, a.view(-1, *shape), inputs, bounds, {}, bounds.slack)

    def least(self, values: Float[Tensor, " n"]) -> Float[Tensor, " f"]:
        """For each function the smallest value among its parts; -inf if it has none, or if one is nan."""
        function = torch.tensor([part.function for part in self.parts], dtype=torch.long, device=values.device)
        values = torch.where(values.isnan(), -torch.inf, values)
        least = values.new_full((len(self.entries),), torch.inf).scatter_reduce_(0, function, values, "amin")
        return torch.where(least == torch.inf, -torch.inf, least)

    def only(self, chosen: Sequence[int]) -> Neurons:
        """Some of the functions."""
        number = {f: i for i, f in enumerate(chosen)}
        parts = [replace(part, function=number[part.function]) for part in self.parts if part.function in number]
        return Neurons(self.entries[list(chosen)], self.signs[list(chosen)], parts)

    def joined(self, others: Neurons) -> Neurons:
        """These neurons together with others, which take the place of those here that bound the same."""
        again = set(zip(others.entries.tolist(), others.signs.tolist(), strict=True))
        functions = zip(self.entries.tolist(), self.signs.tolist(), strict=True)
        old = self.only([number for number, function in enumerate(functions) if function not in again])
        parts = [replace(part, function=part.function + len(old.entries)) for part in others.parts]
        entries, signs = (torch.cat(both) for both in ((old.entries, others.entries), (old.signs, others.signs)))
        return Neurons(entries, signs, old.parts + parts)


Lemmas = dict[int, Neurons]  # by the node


def tightened(
    lemmas: Lemmas, graph: Graph, inputs: InputSet, bounds: Bounds, node: int, kept: Lemmas, settle: bool
) -> None:
    """Tighten the bounds of a node with the lemmas known for it. `kept` receives the lemmas that were used.

    Args:
        settle: whether to remove splits whose sign is settled over this set; needed for any set but the one for which
            they were found.
    """
    if node not in lemmas:
        return
    neurons = lemmas[node]
    rows = neurons.rows(graph, inputs, bounds, node)
    if settle:
        neurons = replace(neurons, parts=without_settled(neurons.parts, rows.graph, bounds))
    kept[node] = neurons
    _replace(bounds, node, neurons, neurons.least(bounds_of_parts(rows, neurons.parts, BRANCHING.batch)))


def found(
    lemmas: Lemmas, graph: Graph, inputs: InputSet, bounds: Bounds, node: int, kept: Lemmas, parts: int,
    losses: Parts | None, go_on: Callable[[int], bool],
) -> int:  # fmt: skip
    """Tighten the bounds of a node with the lemmas known for it and with new ones, for which the set is divided into
    `parts` parts for each bound of a neuron whose sign is open. Returns the number of parts bounded; `kept` receives
    the lemmas of this node, old and new.

    Args:
        losses: how much each entry of each node lowers the bounds of interest, see `Search.losses`: only those that
            account for nearly all of it are tightened. None for all.
    """
    tightened(lemmas, graph, inputs, bounds, node, kept, settle=False)
    taken = divided(graph).get(node)
    if taken is None or not go_on(0):
        return 0
    low, high = bounds.low[node].flatten(), bounds.high[node].flatten()
    entries = _chosen(low, high, None if losses is None else losses[node])
    if not len(entries):
        return 0
    new = Neurons(entries.repeat_interleave(2), torch.tensor([1, -1], device=entries.device).repeat(len(entries)), [])
    search = Search(new.rows(graph, inputs, bounds, node), go_on, BRANCHING)
    _divide(search, parts)
    new = replace(new, parts=[*search.leaves, *(part for _, _, part in search.queue)])
    values = new.least(torch.tensor([part.bound for part in new.parts], device="cpu").to(low))
    width = (high - low)[new.entries]
    before = torch.where(new.signs > 0, low[new.entries], -high[new.entries])
    is_settled = values >= 0
    other = is_settled.view(-1, 2).flip(1).flatten()  # of the neuron's other bound
    is_kept = is_settled | (~other & (values > before + GAIN * width))
    chosen = is_kept.nonzero()[:, 0].tolist()
    if chosen:
        new = new.only(chosen)
        kept[node] = kept[node].joined(new) if node in kept else new
        _replace(bounds, node, new, values[chosen])
    return search.nodes


def stored_lemmas(lemmas: Lemmas, graph: Graph) -> tuple[Lemma, ...]:
    """The lemmas in the form in which they are stored."""
    number = {k: number for number, (k, _) in enumerate(graph.activations())}
    result = []
    for node, neurons in sorted(lemmas.items()):
        own: list[list[Part]] = [[] for _ in neurons.entries]
        for part in neurons.parts:
            own[part.function].append(part)
        taken = number[divided(graph)[node]]
        result += [
            Lemma(taken, entry, sign, stored(parts, graph))
            for entry, sign, parts in zip(neurons.entries.tolist(), neurons.signs.tolist(), own, strict=True)
        ]
    return tuple(result)


def number_of_functions(graph: Graph, bounds: Bounds, losses: Parts) -> int:
    """The number of bounds of neurons that `found` tightens over all nodes, approximately."""
    nodes = set(losses) & graph.behind_activations()
    return sum(2 * len(_chosen(bounds.low[k].flatten(), bounds.high[k].flatten(), losses[k])) for k in nodes)


def _chosen(
    low: Float[Tensor, " n"], high: Float[Tensor, " n"], losses: Float[Tensor, " n"] | None
) -> Int[Tensor, " k"]:
    """The open entries that account for nearly all losses, the largest first; for None all, the highest chord first."""
    is_open = (low < 0) & (high > 0)
    height = -low * high / (high - low).clamp(min=torch.finfo(low.dtype).tiny)
    weight = torch.where(is_open, height if losses is None else losses, -1)
    order = weight.argsort(descending=True, stable=True)[: int(is_open.sum())]
    if losses is None:
        return order
    weight = weight[order]
    return order[(weight > 0) & (weight.cumsum(0) - weight < COVERED * weight.sum())]


def _divide(search: Search, parts: int) -> None:
    """Divide the set into this many parts for each function; each time the part with the smallest bound is divided."""
    whole = search.whole()
    for start in range(0, len(whole), search.batch):
        if not search.go_on(search.nodes):
            return
        some = whole[start : start + search.batch]
        search.nodes += len(some)
        search.bound(some, BRANCHING.root)
    for _ in range(parts - 1):
        worst = dict[int, Part]()
        for _, _, part in sorted(search.queue):
            if search.can_divide(part):
                worst.setdefault(part.function, part)
        if not worst or not search.go_on(search.nodes):
            return
        search.divide_each(list(worst.values()))


def _replace(bounds: Bounds, node: int, neurons: Neurons, values: Float[Tensor, " f"]) -> None:
    """Replace the bounds of the node where the new values are tighter."""
    low, high = bounds.low[node].flatten(1).clone(), bounds.high[node].flatten(1).clone()
    for sign, side, best in ((1, low, torch.maximum), (-1, high, torch.minimum)):
        own = neurons.signs == sign
        least = torch.full_like(side[0], -torch.inf)
        least.scatter_reduce_(0, neurons.entries[own], values[own], "amax")
        side[0] = best(side[0], sign * least)
    # roundings of a search in float32 can cross two bounds that are nearly equal
    low, high = torch.minimum(low, high), torch.maximum(low, high)
    bounds.low[node], bounds.high[node] = (part.view_as(bounds.low[node]) for part in (low, high))
