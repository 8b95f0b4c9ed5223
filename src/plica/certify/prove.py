"""Proves that a model is correct everywhere within a radius of an image: one image, one radius at a time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from plica.certify.branch import Branching, Search
from plica.certify.certificate import Evidence
from plica.certify.graph import Graph
from plica.certify.inner import ASCENT, LARGEST, optimised, size_of_pass
from plica.certify.intermediate import Bounds, node_bounds
from plica.certify.lemmas import Lemmas, found, number_of_functions, stored_lemmas, tightened
from plica.certify.merged import merged
from plica.certify.norms import with_norms
from plica.certify.parts import Part, stored
from plica.certify.rounding import FLOAT32
from plica.certify.sets import InputSet, input_set
from plica.certify.slopes import Parts, Rows, packed, unpacked
from plica.metrics import Metric

CONFIRMING = 3.0  # time for bounds inside the network in float64, over that in float32, approximately
INNER = 0.2  # largest share of the effort spent on better lines for the bounds inside the network
ROWS_OF_NODE = 16  # bounds of single neurons, with their gradient, that take about as long as one part of the set
LOOK = 0.05  # share of the effort spent on parts of the set before bounds of neurons are computed, each time
NEURONS = 0.3  # largest share of the effort spent on bounds of neurons, each time
PARTS = (8, 64)  # parts of the set for each bound of a neuron, the first and the second time
FEW_PARTS = (1, 4)  # the same for the neurons that matter most, where the effort is not enough for all of them
LEAVES = 0.1  # largest share of the time of a search for checking its leaves in float64


@dataclass(frozen=True)
class Effort:
    """How long, or for how many parts of the set, to search. With `nodes` the time plays no role.

    Attributes:
        deadline: in seconds of time.perf_counter().
        nodes: None for no limit.
    """

    deadline: float
    nodes: int | None = None

    def left(self, reserve: float = 0.0) -> bool:
        """Whether there is time left, more than `reserve` seconds."""
        return self.nodes is not None or time.perf_counter() + reserve < self.deadline

    def go_on(self, nodes: int) -> bool:
        return self.left() and (self.nodes is None or nodes < self.nodes)

    def used(self, began: float, first: int, nodes: int) -> float:
        """The share that is used of what was left at the time `began`, after `first` nodes."""
        if self.nodes is not None:
            return (nodes - first) / max(1, self.nodes - first)
        return (time.perf_counter() - began) / max(1e-9, self.deadline - began)

    def part(self, share: float, nodes: int, now: float, reserve: float) -> Effort:
        """The given share of what is left, after `nodes` nodes, at the time `now` and without `reserve` seconds."""
        limit = None if self.nodes is None else nodes + max(1, int(share * (self.nodes - nodes)))
        return Effort(now + share * (self.deadline - reserve - now), limit)


@dataclass(frozen=True, eq=False)
class Networks:
    """One network in the precision of the search and in that of proofs.

    Attributes:
        unit: unit roundoff of the network as it runs; 0 for the network in real arithmetic.
    """

    search: Graph
    exact: Graph
    unit: float = 0.0

    @classmethod
    def of(cls, graph: Graph, p: float = math.inf, executed: bool = False) -> Networks:
        """From a graph in float64, for balls of an l_p norm. executed: for the network as it runs in float32."""
        graph = with_norms(graph) if p == 2 else graph
        search = graph if executed else merged(graph)
        return cls(search.to(torch.float32), graph, FLOAT32 if executed else 0.0)

    def graph(self, rigorous: bool) -> Graph:
        return self.exact if rigorous else self.search


@dataclass(frozen=True, eq=False)
class Region:
    """The metric and the box for some images; tensors have the images' shape or one that expands to it."""

    metric: Metric
    low: Tensor
    high: Tensor

    def around(self, x: Float[Tensor, "b *image"], radius: Float[Tensor, " b"], dtype: torch.dtype) -> InputSet:
        return input_set(self.metric, x.to(dtype), radius.to(dtype), self.low.to(dtype), self.high.to(dtype))

    def span(self, x: Float[Tensor, "b *image"]) -> Float[Tensor, " b"]:
        """Radii at which the ball contains the whole box."""
        return self.around(x, torch.full((len(x),), torch.inf, device=x.device), torch.float64).span()


class Prover:
    """Proofs for one image, at one radius after another. Each starts from the parts of the last one.

    Attributes:
        lemmas: bounds of neurons, as they were found.
        used: the bounds of neurons that were used at the last radius.
    """

    def __init__(
        self, networks: Networks, region: Region, x: Float[Tensor, "1 *image"], a: Float[Tensor, "m classes"],
        settings: Branching | None = None,
    ):  # fmt: skip
        self.networks, self.region, self.x, self.a = networks, region, x, a
        self.settings = settings or Branching()
        self.search: Search | None = None
        self.slopes: Parts | None = None  # of the lines inside the network, once they are optimised
        self.lemmas: Lemmas = {}
        self.used: Lemmas = {}
        self.rounds = 0  # of bounds of neurons
        self.parts = PARTS  # of the set, for each bound of a neuron, round by round
        self.cost = 0.0  # of bounds inside the network, seconds
        self.moving = 0.0  # time until the parts are bounded at another radius, seconds
        self.spent = 0.0  # on attempts, seconds
        self.gained = 0.0  # in the last attempt, of what the least bound lacked of 0

    @property
    def nodes(self) -> int:
        """The number of parts of the set that were bounded, for functions of the logits and for neurons."""
        return 0 if self.search is None else self.search.nodes

    @property
    def is_stuck(self) -> bool:
        """Whether some open part cannot be divided."""
        return self.search is not None and self.search.stuck

    @property
    def reserve(self) -> float:
        """Seconds to reserve for a confirmation."""
        return CONFIRMING * self.cost + LEAVES * self.spent

    def attempt(self, radius: float, effort: Effort, share: float = 1.0) -> bool:
        """Whether every function <a, logits> is proved positive within `radius` of x, in float32.

        Args:
            share: of what is left of the effort, the share that may be used.
        """
        began = time.perf_counter()
        root, _ = self._rows(radius, effort.left, False)
        now = time.perf_counter()
        self.cost = now - began
        first, latest = self.nodes, effort.deadline - self.reserve
        effort = effort.part(share, first, now, self.reserve)
        if self.search is None:
            self.search = Search(root, effort.go_on, self.settings)
            self.search.begin()
        else:
            self.search.go_on = effort.go_on
            self.search.move(root)
        self.moving = time.perf_counter() - began
        least = self.search.least
        if self.search.queue and self.slopes is None and self._optimise(root, effort):
            self.search.move(self._rows(radius, effort.left, False)[0])
        if self.rounds < len(self.parts):
            self._look_inside(radius, root, effort)
        if share == 1:
            self.search.go_on = effort.go_on
            is_found = self.search.run()
        else:
            # at least as long as the parts took to be moved
            now = time.perf_counter()
            effort = replace(effort, deadline=max(effort.deadline, min(latest, 2 * now - began)))
            self.search.go_on = effort.go_on
            is_found = self.search.run(lambda nodes: effort.used(now, first, nodes))
        self.spent += time.perf_counter() - began
        self.gained = 1.0 if is_found or not least else 1 - self.search.least / least
        return is_found

    def _look_inside(self, radius: float, root: Rows, effort: Effort) -> None:
        """Find bounds of neurons, if a first part of the effort was not enough without them, and if it allows for the
        first few parts of each, or of those that matter most."""
        assert self.search is not None
        while self.search.queue and not self.search.stuck and self.rounds < len(self.parts):
            first, began = self.nodes, time.perf_counter()
            self.search.go_on = effort.part(LOOK, first, began, 0.0).go_on
            if self.search.run() or not effort.go_on(self.nodes):
                return
            now = time.perf_counter()
            neurons = effort.part(NEURONS, self.nodes, now, 0.0)
            rate = max(1, self.nodes - first) / max(1e-9, now - began)
            room = (neurons.deadline - now) * rate if neurons.nodes is None else neurons.nodes - self.nodes
            if self.rounds == 0:
                is_room = PARTS[0] * size_of_pass(root.graph, root.bounds)[0] <= room
                self.parts = PARTS if is_room else FEW_PARTS
            losses = None if self.parts is PARTS else self.search.losses()
            if losses is not None:
                functions = number_of_functions(root.graph, root.bounds, losses)
                if (self.parts[self.rounds] + 2) * functions > room:  # the first part of each takes as long as three
                    return
            self._find(radius, neurons, losses)
            began = time.perf_counter()
            root, _ = self._rows(radius, effort.left, False)
            self.cost = max(self.cost, time.perf_counter() - began)
            self.search.move(root)

    def _find(self, radius: float, effort: Effort, losses: Parts | None) -> None:
        """Find bounds of the neurons whose signs are open within this radius; losses: as for `found`."""
        assert self.search is not None
        search, parts, known = self.search, self.parts[self.rounds], self.lemmas
        new: Lemmas = {}
        self.rounds += 1
        graph, inputs = self._problem(radius, False)

        def go_on(nodes: int) -> bool:
            return effort.go_on(search.nodes + nodes)

        def tighten(bounds: Bounds, node: int) -> None:
            search.nodes += found(known, graph, inputs, bounds, node, new, parts, losses, go_on)

        self._bounds(graph, inputs, effort.left, False, tighten)
        self.lemmas = new

    def leaves(self) -> list[Part]:
        """The parts that the last attempt proved positive."""
        assert self.search is not None
        return list(self.search.leaves)

    def confirm(self, radius: float, leaves: list[Part], effort: Effort | None = None) -> Evidence | None:
        """The proof in float64 with slack. Given an effort, leaves of the last attempt that fail are divided again."""
        assert self.search is not None
        exact, slopes = self._rows(radius, lambda: True, True)
        while True:
            failed = [
                part for part, is_proved in zip(leaves, self.search.proved(exact, leaves), strict=True) if not is_proved
            ]
            if not failed:
                graph = self.networks.exact
                return Evidence(slopes, stored(leaves, graph), stored_lemmas(self.used, graph))
            if effort is None:
                return None
            self.search.reopen(failed)
            self.search.go_on = effort.go_on
            if not self.search.run():
                return None
            leaves = self.search.leaves

    def worst(self) -> Float[Tensor, "1 *image"] | None:
        """The point at which the smallest bound of an open part of the last attempt is attained."""
        return None if self.search is None else self.search.worst()

    def _optimise(self, root: Rows, effort: Effort) -> bool:
        """Optimise the lines for the bounds inside the network, for as many steps as a part of the effort allows.
        Returns whether there were any."""
        assert self.search is not None
        rows, coefficients = size_of_pass(root.graph, root.bounds)
        if effort.nodes is None:
            steps = INNER * (effort.deadline - time.perf_counter()) / max(3 * self.cost, 1e-9)
        else:
            steps = INNER * (effort.nodes - self.search.nodes) / (1 + rows / ROWS_OF_NODE)
        if steps < 2 or not rows or coefficients > LARGEST:
            return False
        is_open = sorted({part.function for _, _, part in self.search.queue})
        ascent = replace(ASCENT, steps=int(min(ASCENT.steps, steps)))
        found = optimised(
            root.graph, root.inputs, root.a[is_open], root.start(), self.networks.unit, effort.left, ascent
        )
        # as they are stored
        self.slopes = unpacked(packed(found, 1), found, torch.float64)
        return True

    @torch.no_grad()
    def _rows(self, radius: float, go_on: Callable[[], bool], rigorous: bool) -> tuple[Rows, UInt8[Tensor, " k"]]:
        """The functions over one set, one row for each; and the slopes used for the bounds inside the network."""
        graph, inputs = self._problem(radius, rigorous)
        lemmas = self.used if rigorous else self.lemmas
        used: Lemmas = {}

        def tighten(bounds: Bounds, node: int) -> None:
            tightened(lemmas, graph, inputs, bounds, node, used, not rigorous)

        bounds = self._bounds(graph, inputs, go_on, rigorous, tighten)
        self.used = used
        rows = Rows(graph, self.a.to(inputs.x), inputs, bounds, {}, bounds.slack)
        return rows, packed(bounds.start, 1)[0].cpu()

    def _problem(self, radius: float, rigorous: bool) -> tuple[Graph, InputSet]:
        at = torch.tensor([radius], dtype=torch.float64, device=self.x.device)
        inputs = self.region.around(self.x, at, torch.float64 if rigorous else torch.float32)
        return self.networks.graph(rigorous), inputs

    def _bounds(
        self, graph: Graph, inputs: InputSet, go_on: Callable[[], bool], rigorous: bool,
        tighten: Callable[[Bounds, int], None],
    ) -> Bounds:  # fmt: skip
        slopes = self.slopes and {k: part.to(inputs.x) for k, part in self.slopes.items()}
        return node_bounds(
            graph, inputs, slopes=slopes, rigorous=rigorous, unit=self.networks.unit, go_on=go_on, tighten=tighten
        )
