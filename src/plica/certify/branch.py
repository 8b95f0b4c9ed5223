"""Branch and bound over the signs of ReLUs (Bunel et al. 2020), each part bounded with optimised lines and multipliers.

If a function is not proved positive on the whole set, the set is divided into parts; each division fixes the sign of
one more neuron. The parts with the smallest bounds are divided first. A part counts as proved if its bound is positive
in float64 with the largest possible rounding error subtracted.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from plica.certify.certificate import Leaf, Split
from plica.certify.slopes import Ascent, Parts, Rows, optimise, packed, unpacked


@dataclass(frozen=True)
class Branching:
    """Hyper-parameters.

    Attributes:
        batch: parts divided at once.
        candidates: neurons that are tried for a part, by the bounds of the two halves.
        ascent: steps on a new part, which begins where its parent left off.
        last: steps on a part that cannot be divided further.
    """

    batch: int = 64
    candidates: int = 3
    root: Ascent = field(default_factory=Ascent)
    ascent: Ascent = field(default_factory=lambda: Ascent(steps=6, slope_step=0.1, multiplier_step=0.1))
    last: Ascent = field(default_factory=lambda: Ascent(steps=150, decay=0.98))


Sign = tuple[int, int, int]  # node, entry of it, sign


@dataclass(frozen=True, eq=False)
class Part:
    """One part of the set for one function; a small record, since many wait.

    Attributes:
        function: index of the row of the root.
        bound: the best known.
        splits: signs that are settled.
        multipliers: of the splits.
        slopes: of the lines, as in certificate.Leaf.
        candidates: neurons to divide by, the most promising first.
    """

    function: int
    bound: float
    splits: tuple[Sign, ...]
    multipliers: tuple[float, ...]
    slopes: UInt8[Tensor, " k"]
    candidates: tuple[tuple[int, int], ...]


class Search:
    """Proves functions of the logits positive over one input set, in the precision of the search; the parts that make
    up the set are left in `leaves`.

    Args:
        root: one row for each function.
        go_on: called with the number of parts bounded so far; False ends a run.
    """

    def __init__(self, root: Rows, go_on: Callable[[int], bool], settings: Branching):
        self.root, self.go_on, self.settings = root, go_on, settings
        self.nodes = 0
        self.leaves: list[Part] = []
        self.stuck = False  # whether a part is not proved and cannot be divided
        self.start = root.start()
        self.queue: list[tuple[float, int, Part]] = []
        self.order = itertools.count()
        graph = root.graph
        self.number = {k: number for number, (k, _) in enumerate(graph.activations())}
        self.divided = {graph.nodes[k].parents[0]: k for k, op in graph.activations() if op.splits}

    def run(self) -> bool:
        """Whether every function was proved positive on the whole set. Goes on where an earlier run ended."""
        if not self.nodes:
            self.begin()
        while self.queue and not self.stuck and self.go_on(self.nodes):
            batch = [heapq.heappop(self.queue)[2] for _ in range(min(self.settings.batch, len(self.queue)))]
            halves = self._divide(batch)
            self.nodes += len(halves)
            self._bound(halves, self.settings.ascent)
        return not self.queue

    def begin(self) -> None:
        """Bound the whole set."""
        self.nodes = len(self.root.a)
        self._bound(self.whole(), self.settings.root)

    def whole(self) -> list[Part]:
        """The whole set for each function, with the lines to begin with."""
        return [
            Part(row, -torch.inf, (), (), slopes, ())
            for row, slopes in enumerate(packed(self.start, len(self.root.a)).cpu())
        ]

    def move(self, root: Rows) -> None:
        """To another input set, which is divided as the last one was; its parts are bounded with the same lines."""
        parts = [*self.leaves, *(part for _, _, part in self.queue)]
        self.root, self.start = root, root.start()
        self.leaves, self.queue, self.stuck = [], [], False
        parts = self._without_settled(parts)
        ascent = self.settings.ascent if len(parts) <= self.settings.batch else Ascent(steps=0)
        for start in range(0, len(parts), self.settings.batch):
            self._bound(parts[start : start + self.settings.batch], ascent)

    def _without_settled(self, parts: list[Part]) -> list[Part]:
        """Without splits of neurons whose sign is the same on all of the set; halves of the other sign are empty."""
        settled = dict[int, list[int]]()
        for k in {k for part in parts for k, _, _ in part.splits}:
            low, high = (side[k][0].flatten() for side in (self.root.bounds.low, self.root.bounds.high))
            settled[k] = ((low >= 0).int() - (high <= 0).int()).tolist()
        kept = []
        for part in parts:
            signs = [settled[k][entry] for k, entry, _ in part.splits]
            if any(known * sign < 0 for known, (_, _, sign) in zip(signs, part.splits, strict=True)):
                continue
            splits, multipliers = (
                tuple(value for value, known in zip(values, signs, strict=True) if not known)
                for values in (part.splits, part.multipliers)
            )
            kept.append(replace(part, splits=splits, multipliers=multipliers))
        return kept

    @torch.no_grad()
    def worst(self) -> Float[Tensor, "1 *image"] | None:
        """Where in the open part of the least bound this bound is attained; None where no part is open."""
        if not self.queue:
            return None
        parts, keep = [self.queue[0][2]], dict[int, Tensor]()
        rows = self._rows(self.root, parts)
        rows.lower(self._parameters(parts), self._multipliers(parts), keep)
        return rows.inputs.minimiser(keep[0], None)

    def _bound(self, parts: list[Part], ascent: Ascent) -> None:
        """Bound the parts; those that are not proved are queued, or stuck where they cannot be divided."""
        rows = self._rows(self.root, parts)
        value, parameters, multipliers = optimise(rows, self._parameters(parts), self._multipliers(parts), ascent)
        slopes, betas = packed(parameters, len(parts)).cpu(), {k: beta.flatten(1) for k, beta in multipliers.items()}
        parts = [
            replace(part, slopes=slopes[row], multipliers=tuple(float(betas[k][row, e]) for k, e, _ in part.splits))
            for row, part in enumerate(parts)
        ]
        proved = value > 0  # false for nan
        self.leaves += [part for part, is_proved in zip(parts, proved.tolist(), strict=True) if is_proved]
        left = (~proved).nonzero()[:, 0]
        if not len(left):
            return
        candidates = self._candidates(_take_rows(rows, left), _take(parameters, left), _take(multipliers, left))
        whole = []
        for position, row in enumerate(left.tolist()):
            part = replace(parts[row], bound=float(value[row]), candidates=candidates[position])
            if part.candidates:
                self._queue(part)
            else:
                whole.append(part)
        if whole and ascent is not self.settings.last:
            self._bound(whole, self.settings.last)
        for part in whole if ascent is self.settings.last else ():
            self._queue(part)

    @torch.no_grad()
    def proved(self, exact: Rows, leaves: Sequence[Part]) -> list[bool]:
        """Of each leaf, whether it is proved by `exact`, the functions in float64 with slack, with slopes and
        multipliers as they are stored."""
        found: list[bool] = []
        for start in range(0, len(leaves), self.settings.batch):
            parts = list(leaves[start : start + self.settings.batch])
            multipliers = {k: beta.double() for k, beta in self._multipliers(parts).items()}
            value = self._rows(exact, parts).lower(self._parameters(parts, torch.float64), multipliers)
            found += (value > 0).tolist()
        return found

    def reopen(self, leaves: Sequence[Part]) -> None:
        """To be divided further, since float64 does not prove them."""
        again = set(map(id, leaves))
        self.leaves = [part for part in self.leaves if id(part) not in again]
        for start in range(0, len(leaves), self.settings.batch):
            parts = list(leaves[start : start + self.settings.batch])
            rows = self._rows(self.root, parts)
            candidates = self._candidates(rows, self._parameters(parts), self._multipliers(parts))
            for part, own in zip(parts, candidates, strict=True):
                self._queue(replace(part, bound=0.0, candidates=own))

    def _queue(self, part: Part) -> None:
        heapq.heappush(self.queue, (part.bound, next(self.order), part))
        self.stuck |= not part.candidates

    def leaf(self, part: Part) -> Leaf:
        """As it is stored, with the number of the function for the rival."""
        splits = tuple(Split(self.number[self.divided[k]], entry, sign) for k, entry, sign in part.splits)
        return Leaf(part.function, splits, part.multipliers, part.slopes)

    def _rows(self, root: Rows, parts: list[Part]) -> Rows:
        function = torch.tensor([part.function for part in parts], device=root.a.device)
        return replace(_take_rows(root, function), signs=self._signs(parts))

    def _parameters(self, parts: list[Part], dtype: torch.dtype = torch.float32) -> Parts:
        return unpacked(torch.stack([part.slopes for part in parts]).to(self.root.a.device), self.start, dtype)

    def _signs(self, parts: list[Part]) -> Parts:
        return self._scattered(parts, [tuple(float(sign) for _, _, sign in part.splits) for part in parts])

    def _multipliers(self, parts: list[Part]) -> Parts:
        return self._scattered(parts, [part.multipliers for part in parts])

    def _scattered(self, parts: list[Part], values: list[tuple[float, ...]]) -> Parts:
        """One number for each split, at its entry of its node; 0 elsewhere."""
        places: dict[int, list[tuple[int, int, float]]] = {}
        for row, (part, numbers) in enumerate(zip(parts, values, strict=True)):
            for (k, entry, _), number in zip(part.splits, numbers, strict=True):
                places.setdefault(k, []).append((row, entry, number))
        scattered: Parts = {}
        for k, found in places.items():
            rows, entries, numbers = zip(*found, strict=True)
            tensor = self.root.a.new_zeros(len(parts), torch.Size(self.root.graph.nodes[k].shape).numel())
            tensor[list(rows), list(entries)] = tensor.new_tensor(numbers)
            scattered[k] = tensor.view(len(parts), *self.root.graph.nodes[k].shape)
        return scattered

    @torch.no_grad()
    def _candidates(self, rows: Rows, parameters: Parts, multipliers: Parts) -> list[tuple[tuple[int, int], ...]]:
        """The neurons of each row whose chords lower its bound most, by the chord's offset times its coefficient."""
        keep: Parts = {}
        rows.lower(parameters, multipliers, keep)
        nodes, scores = [], []
        for k, activation in self.divided.items():
            low, high = rows.interval(k)
            open_entries = (low < 0) & (high > 0)
            offset = torch.where(open_entries, -low * high / torch.where(open_entries, high - low, 1), 0)
            a = keep[activation] if activation in keep else torch.zeros_like(low)
            score = offset * (a.clamp(max=0).abs() + 1e-3 * a.abs())
            scores.append(torch.where(open_entries, score + 1e-30, 0).flatten(1))
            nodes += [(k, entry) for entry in range(low[0].numel())]
        if not scores:
            return [()] * len(rows.a)
        top, position = torch.cat(scores, 1).topk(min(self.settings.candidates, len(nodes)), dim=1)
        return [
            tuple(nodes[i] for i, score in zip(places, values, strict=True) if score > 0)
            for places, values in zip(position.tolist(), top.tolist(), strict=True)
        ]

    @torch.no_grad()
    def _divide(self, batch: list[Part]) -> list[Part]:
        """The two halves of every part, by the candidate whose worse half has the better bound."""
        halves = [(_half(part, c, 1), _half(part, c, -1)) for part in batch for c in part.candidates]
        flat = [half for pair in halves for half in pair]
        value = self._rows(self.root, flat).lower(self._parameters(flat), self._multipliers(flat)).view(-1, 2)
        # what lies above 0 is proved and counts no more; of equal ones the better other half
        score = value.clamp(max=0).amin(1) + 1e-3 * value.clamp(max=0).amax(1)
        chosen, start = [], 0
        for part in batch:
            end = start + len(part.candidates)
            chosen += halves[start + int(score[start:end].nan_to_num(-torch.inf).argmax())]
            start = end
        return chosen


def _half(part: Part, candidate: tuple[int, int], sign: int) -> Part:
    return replace(part, splits=(*part.splits, (*candidate, sign)), multipliers=(*part.multipliers, 0.0), candidates=())


def _take(parts: Parts, rows: Int[Tensor, " r"] | Bool[Tensor, " r"]) -> Parts:
    return {k: v[rows] for k, v in parts.items()}


def _take_rows(rows: Rows, chosen: Int[Tensor, " r"]) -> Rows:
    slack = rows.slack and rows.slack.take(chosen)
    bounds = rows.bounds.take(chosen, rows.graph.activated())
    return Rows(rows.graph, rows.a[chosen], rows.inputs.take(chosen), bounds, _take(rows.signs, chosen), slack)
