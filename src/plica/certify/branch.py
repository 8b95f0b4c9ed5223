"""Branch and bound over the signs of ReLUs (Bunel et al. 2020), each part bounded with optimised lines and multipliers.

If a function is not proved positive on the whole set, the set is divided into parts; each division fixes the sign of
one more neuron. The parts with the smallest bounds are divided first. A part counts as proved if its bound is positive
in float64 with the largest possible rounding error subtracted.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from plica.certify.intermediate import Bounds
from plica.certify.openrelu import OpenReLU
from plica.certify.parts import Entries, Numbers, Part, bounds_of_parts, divided, half, sizes, without_settled
from plica.certify.reduced import can_be_reduced, reduced
from plica.certify.slopes import Ascent, Parts, Rows, optimise, packed, unpacked

LARGEST_BATCH = 256  # most parts that are divided at once
NUMBERS = 2**19  # approximate number of coefficients of a batch
FAR = 8.0  # a run that needs more than this many times the effort is ended early
JUDGED = 256  # least number of parts before a run may be ended early


@dataclass(frozen=True)
class Branching:
    """Hyper-parameters.

    Attributes:
        batch: parts divided at once, at least.
        ascent: steps on a new part, which begins where its parent left off.
        last: steps on a part that cannot be divided further.
    """

    batch: int = 64
    root: Ascent = field(default_factory=Ascent)
    ascent: Ascent = field(default_factory=lambda: Ascent(steps=3, slope_step=0.1, multiplier_step=0.1))
    last: Ascent = field(default_factory=lambda: Ascent(steps=150, multiplier_step=10.0, decay=0.95))


class Search:
    """Proves functions of the logits positive over one input set, in the precision of the search. `leaves` are the
    parts that make up the set.

    Args:
        root: one row for each function.
        go_on: called with the number of parts bounded so far; returns False to end a run.
    """

    def __init__(self, root: Rows, go_on: Callable[[int], bool], settings: Branching):
        self.go_on, self.settings = go_on, settings
        self.nodes = 0
        self.leaves: list[Part] = []
        self.stuck = False  # whether a part is not proved and cannot be divided
        self.queue: list[tuple[float, int, Part]] = []
        self.order = itertools.count()
        self.divided, self.sizes = divided(root.graph), sizes(root.graph)
        self._go_to(root)

    def _go_to(self, root: Rows) -> None:
        """Search over this set from now on."""
        self.whole_start = root.start()
        self.known = root.bounds
        numbers, condensed = None, root.bounds.condensed
        # a search for neurons has the nodes up to theirs alone, of which none is condensed
        if condensed is not None and len(condensed.graph.nodes) == len(root.graph.nodes):
            numbers, bounds = condensed.numbers(), Bounds(condensed.low, condensed.high, balls=condensed.balls)
            root = replace(root, graph=condensed.condensed(), bounds=bounds)
        elif can_be_reduced(root.graph, root.bounds):
            graph, bounds, numbers = reduced(root.graph, root.bounds)
            root = replace(root, graph=graph, bounds=bounds)
        self.root, self.entries = root, Entries(root, self.sizes, numbers)
        self.start = root.start()
        sides = ((root.bounds.low[k], root.bounds.high[k]) for k in self.divided)
        self.open = sum(int(((low < 0) & (high > 0)).sum()) for low, high in sides)  # neurons
        self.stored = slice(None) if numbers is None else numbers  # of the parameters of all lines, those in use
        width = sum(torch.Size(node.shape).numel() for node in root.graph.used())
        self.batch = max(self.settings.batch, min(LARGEST_BATCH, NUMBERS // width))

    @property
    def least(self) -> float:
        """The smallest bound of the open parts; inf if there is none."""
        return self.queue[0][0] if self.queue else math.inf

    def run(self, used: Callable[[int], float] | None = None) -> bool:
        """Whether every function was proved positive on the whole set. Continues where an earlier run ended.

        Args:
            used: the share of the effort that is used after a number of parts. If it is given, a run ends early when it
                is far from being finished in time.
        """
        if not self.nodes:
            self.begin()
        first, seen = self.nodes, list[tuple[int, float]]()
        while self.queue and not self.stuck and self.go_on(self.nodes):
            seen.append((self.nodes - first, self.queue[0][0]))
            if used is not None and _is_far(seen, used(self.nodes)):
                break
            self.divide([heapq.heappop(self.queue)[2] for _ in range(min(self.batch, len(self.queue)))])
        return not self.queue

    def divide(self, parts: Sequence[Part]) -> None:
        """Bound both halves of each of these parts, at most a batch, by its most promising neuron."""
        rows = self.entries.rows(self.root, parts)
        scores = self._scores(rows, self._parameters(parts), self.entries.multipliers(parts))
        neurons = self.entries.numbers[scores.argmax(1).cpu()].tolist()
        halves = [half(part, neuron, sign) for part, neuron in zip(parts, neurons, strict=True) for sign in (1, -1)]
        self.nodes += len(halves)
        self.bound(halves, self.settings.ascent)

    def divide_each(self, parts: Sequence[Part]) -> None:
        """Divide these parts of the queue, in batches, until time runs out."""
        left = {id(part): part for part in parts}
        others = [part for _, _, part in self.queue if id(part) not in left]
        self.queue = []
        for start in range(0, len(parts), self.batch):
            if not self.go_on(self.nodes):
                break
            some = parts[start : start + self.batch]
            self.divide(some)
            for part in some:
                del left[id(part)]
        for part in (*others, *left.values()):
            self._queue(part)

    def begin(self) -> None:
        """Bound the whole set."""
        self.nodes = len(self.root.a)
        self.bound(self.whole(), self.settings.root)

    def whole(self) -> list[Part]:
        """The whole set for each function, with the initial lines."""
        (slopes,) = packed(self.whole_start, 1).cpu()
        none = np.zeros(0, np.int64)
        return [Part(row, -torch.inf, none, none, none, slopes) for row in range(len(self.root.a))]

    def move(self, root: Rows) -> None:
        """Continue with another input set, which is divided like the last one; its parts are bounded with the same
        lines."""
        parts = [*self.leaves, *(part for _, _, part in self.queue)]
        self._go_to(root)
        self.leaves, self.queue, self.stuck = [], [], False
        parts = without_settled(parts, self.root.graph, self.known)
        ascent = self.settings.ascent if len(parts) <= self.batch else Ascent(steps=0)
        if ascent.steps:  # which take as long as those of new parts
            self.nodes += len(parts)
        for start in range(0, len(parts), self.batch):
            self.bound(parts[start : start + self.batch], ascent)

    @torch.no_grad()
    def worst(self) -> Float[Tensor, "1 *image"] | None:
        """The point at which the smallest bound of an open part is attained; None if no part is open."""
        if not self.queue:
            return None
        parts, keep = [self.queue[0][2]], dict[int, Tensor]()
        rows = self.entries.rows(self.root, parts)
        rows.lower(self._parameters(parts), self.entries.multipliers(parts), keep)
        return rows.inputs.minimiser(keep[0], None)

    def losses(self) -> Parts:
        """How much the chord of each entry lowers the bounds of the open parts, on average over the smallest ones; for
        each node by whose signs a set can be divided, flattened."""
        flat = self.root.a.new_zeros(sum(self.sizes.values()))
        parts = [part for _, _, part in heapq.nsmallest(self.batch, self.queue)]
        if parts:
            rows = self.entries.rows(self.root, parts)
            scores = self._scores(rows, self._parameters(parts), self.entries.multipliers(parts))
            flat[self.entries.numbers.to(flat.device)] = scores.mean(0)
        return dict(zip(self.sizes, flat.split(list(self.sizes.values())), strict=True))

    def bound(self, parts: list[Part], ascent: Ascent) -> None:
        """Bound the parts. Those that are not proved are queued; `stuck` is set if one of them cannot be divided."""
        rows = self.entries.rows(self.root, parts)
        begin = self._parameters(parts), self.entries.multipliers(parts)
        value, parameters, multipliers = optimise(rows, *begin, ascent)
        slopes = torch.stack([part.slopes for part in parts])
        slopes[:, self.stored] = packed(parameters, len(parts)).cpu()
        betas = self._betas(parts, multipliers)
        parts = [
            replace(part, bound=bound, slopes=own, multipliers=beta)
            for part, bound, own, beta in zip(parts, value.tolist(), slopes, betas, strict=True)
        ]
        left = [part for part in parts if not part.bound > 0]  # nor where it is nan
        self.leaves += [part for part in parts if part.bound > 0]
        whole = [part for part in left if not self.can_divide(part)]
        if whole and ascent is not self.settings.last:
            left = [part for part in left if self.can_divide(part)]
            self.bound(whole, self.settings.last)
        for part in left:
            self._queue(part)

    def can_divide(self, part: Part) -> bool:
        """Whether the sign of some neuron is open on the part."""
        return len(part.neurons) < self.open

    @torch.no_grad()
    def proved(self, exact: Rows, leaves: Sequence[Part]) -> list[bool]:
        """Whether each leaf is proved by `exact`, the functions in float64 with slack, with the slopes and multipliers
        that are stored."""
        return (bounds_of_parts(exact, leaves, self.batch) > 0).tolist()

    def reopen(self, leaves: Sequence[Part]) -> None:
        """Queue these leaves again, which float64 does not prove."""
        again = set(map(id, leaves))
        self.leaves = [part for part in self.leaves if id(part) not in again]
        for part in leaves:
            self._queue(replace(part, bound=0.0))

    def _queue(self, part: Part) -> None:
        heapq.heappush(self.queue, (part.bound, next(self.order), part))
        self.stuck |= not self.can_divide(part)

    def _parameters(self, parts: Sequence[Part]) -> Parts:
        slopes = torch.stack([part.slopes for part in parts])[:, self.stored]
        return unpacked(slopes.to(self.root.a.device), self.start, torch.float32)

    def _betas(self, parts: Sequence[Part], multipliers: Parts) -> list[Numbers]:
        """The multipliers of the splits of each part."""
        flat = torch.cat(
            [
                (multipliers[k] if k in multipliers else self.root.a.new_zeros(len(parts), *shape)).flatten(1)
                for k, shape in self.entries.shapes.items()
            ], 1
        ).cpu().numpy() if self.sizes else np.zeros((len(parts), 0), np.float32)  # fmt: skip
        return [flat[row, self.entries.slot[part.neurons]] for row, part in enumerate(parts)]

    @torch.no_grad()
    def _scores(self, rows: Rows, parameters: Parts, multipliers: Parts) -> Float[Tensor, "r n"]:
        """How much the chord of each neuron lowers the bound, by its offset times its coefficient; positive where the
        sign is open."""
        keep: Parts = {}
        rows.lower(parameters, multipliers, keep)
        scores = []
        for k, activation in self.divided.items():
            low, high = (side.flatten(1) for side in rows.interval(k))
            open_entries = (low < 0) & (high > 0)
            offset = torch.where(open_entries, -low * high / torch.where(open_entries, high - low, 1), 0)
            op = rows.graph.nodes[activation].op
            a = low.new_zeros(len(rows.a), low.shape[1])
            if activation in keep:
                a = op.of(keep[activation]) if isinstance(op, OpenReLU) else keep[activation].flatten(1)
            score = offset * (a.clamp(max=0).abs() + 1e-3 * a.abs())
            scores.append(torch.where(open_entries, score + 1e-30, 0))
        return torch.cat(scores, 1) if scores else rows.a.new_zeros(len(rows.a), 0)


def _is_far(seen: list[tuple[int, float]], used: float) -> bool:
    """Whether more than FAR times the effort is needed, if every doubling of the number of parts raises the smallest
    bound by as much as the last one did. seen: pairs of the number of parts and the smallest bound, in order."""
    parts, bound = seen[-1]
    half = [at for number, at in seen if 0 < 2 * number <= parts]
    if not half or parts < JUDGED:
        return False
    gain = bound - half[-1]
    return not gain > 0 or -bound / gain > math.log2(FAR / max(used, 1e-9))
