"""Is the model right everywhere within a radius of an image? One image, one radius at a time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from plica.certify.branch import Branching, Search
from plica.certify.certificate import Evidence
from plica.certify.graph import Graph
from plica.certify.intermediate import node_bounds
from plica.certify.norms import with_norms
from plica.certify.rounding import Slack, gamma
from plica.certify.sets import InputSet, input_set
from plica.certify.slopes import Rows, packed
from plica.metrics import Metric


@dataclass(frozen=True)
class Effort:
    """Until when, or for how many parts of the set, to search. With `nodes` the clock plays no part.

    Attributes:
        deadline: of time.perf_counter().
        nodes: None for no limit.
    """

    deadline: float
    nodes: int | None = None

    def left(self) -> bool:
        """Whether there is time left."""
        return self.nodes is not None or time.perf_counter() < self.deadline

    def go_on(self, nodes: int) -> bool:
        return self.left() and (self.nodes is None or nodes < self.nodes)


@dataclass(frozen=True, eq=False)
class Networks:
    """One network in the precision of the search and in that of proofs."""

    search: Graph
    exact: Graph

    @classmethod
    def of(cls, graph: Graph, p: float = math.inf) -> Networks:
        """Of a graph in float64, for balls of an l_p norm."""
        graph = with_norms(graph) if p == 2 else graph
        return cls(graph.to(torch.float32), graph)


@dataclass(frozen=True, eq=False)
class Region:
    """What surrounds some images: a metric and the box, in the images' shape or one that expands to it."""

    metric: Metric
    low: Tensor
    high: Tensor

    def around(self, x: Float[Tensor, "b *image"], radius: Float[Tensor, " b"], dtype: torch.dtype) -> InputSet:
        return input_set(self.metric, x.to(dtype), radius.to(dtype), self.low.to(dtype), self.high.to(dtype))

    def span(self, x: Float[Tensor, "b *image"]) -> Float[Tensor, " b"]:
        """Radii at which the ball holds the whole box."""
        return self.around(x, torch.full((len(x),), torch.inf, device=x.device), torch.float64).span()


@dataclass(frozen=True)
class Proof:
    """What proves it, None where nothing does; how many parts of the set were bounded; and where the worst of what is
    left open is attained."""

    evidence: Evidence | None
    nodes: int
    worst: Float[Tensor, "1 *image"] | None = None


def prove(
    networks: Networks,
    region: Region,
    x: Float[Tensor, "1 *image"],
    a: Float[Tensor, "m classes"],
    radius: float,
    effort: Effort,
    settings: Branching | None = None,
) -> Proof:
    """Whether every function <a, logits> is proved positive within `radius` of x, in float64 with slack.

    Leaves have the number of their function for the rival.
    """
    at = torch.tensor([radius], dtype=torch.float64, device=x.device)

    @cache
    def exact() -> tuple[Rows, Tensor]:
        return _rows(networks.exact, region.around(x, at, torch.float64), a, effort.left, True)

    root, _ = _rows(networks.search, region.around(x, at, torch.float32), a, effort.left, False)
    search = Search(root, lambda: exact()[0], effort.go_on, settings or Branching())
    if not search.run():
        return Proof(None, search.nodes, search.worst())
    return Proof(Evidence(exact()[1], tuple(search.leaves)), search.nodes)


def _rows(
    graph: Graph, inputs: InputSet, a: Float[Tensor, "m classes"], go_on: Callable[[], bool], rigorous: bool
) -> tuple[Rows, UInt8[Tensor, " k"]]:
    """The functions over one set, one row for each; and the slopes behind the bounds."""
    bounds = node_bounds(graph, inputs, rigorous=rigorous, go_on=go_on)
    first = torch.zeros(len(a), dtype=torch.long, device=a.device)
    magnitude = {k: v[first] for k, v in bounds.magnitude.items()}
    slack = Slack(gamma(graph, inputs.x.dtype), magnitude) if rigorous else None
    activated = graph.activated()
    rows = Rows(graph, a.to(inputs.x), inputs.take(first), bounds.take(first, activated), {}, slack)
    return rows, packed(bounds.start, 1)[0].cpu()
