"""Better lines for the bounds inside the network: one parameter for each neuron, used for all bounds.

The bounds of the logits depend on these parameters through the bounds of all layers, and so does their gradient
(alpha-CROWN, Xu et al. 2021, with lines that all bounds share). In a deep network the bounds of a layer are as wide as
those of the layers before it make them, so an improvement at one layer carries over to all layers behind it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from plica.certify.backward import Pass
from plica.certify.graph import Graph
from plica.certify.intermediate import Bounds, node_bounds
from plica.certify.sets import InputSet
from plica.certify.slopes import Ascent, Parts

LARGEST = 2**26  # most coefficients of one pass over all bounds; all are kept in memory for the gradient
ASCENT = Ascent(steps=20, slope_step=0.15)


def size_of_pass(graph: Graph, bounds: Bounds) -> tuple[int, int]:
    """The number of bounds of single neurons, and of coefficients, in one pass over all nodes of one problem."""
    sizes = [torch.Size(node.shape).numel() for node in graph.nodes]
    rows = coefficients = 0
    for k, op in graph.activations():
        taken = graph.nodes[k].parents[0]
        own = 2 * int(op.unstable(bounds.low[taken][:1], bounds.high[taken][:1]).sum())
        rows, coefficients = rows + own, coefficients + own * sum(sizes[: taken + 1])
    return rows, coefficients


def optimised(
    graph: Graph, inputs: InputSet, a: Float[Tensor, "m classes"], slopes: Parts, unit: float,
    go_on: Callable[[], bool], ascent: Ascent = ASCENT,
) -> Parts:  # fmt: skip
    """Parameters of the lines of each activation, one row, that maximise the sum of those bounds of <a, logits> that
    are not positive.

    Args:
        inputs: one set.
        slopes: initial ones.
        unit: as for node_bounds.
        go_on: returns False to end the search.
    """
    first = torch.zeros(len(a), dtype=torch.long, device=a.device)
    moving = {k: part.clone().requires_grad_(True) for k, part in slopes.items()}
    moments = {k: (torch.zeros_like(part), torch.zeros_like(part)) for k, part in slopes.items()}
    best, kept = -torch.inf, slopes
    for t in range(1, ascent.steps + 2):
        with torch.enable_grad():
            bounds = node_bounds(graph, inputs, slopes=moving, unit=unit)
            margins = Pass(graph, inputs, bounds.lines, slack=bounds.slack, balls=bounds.balls).lower(
                a, len(graph.nodes) - 1, first
            )
            value = margins.clamp(max=0).sum()
        if float(value.detach()) > best:
            best, kept = float(value.detach()), {k: part.detach().clone() for k, part in moving.items()}
        if t > ascent.steps or best == 0 or not go_on():
            break
        grads = torch.autograd.grad(value, list(moving.values()), allow_unused=True)
        with torch.no_grad():
            for (k, part), grad in zip(moving.items(), grads, strict=True):
                if grad is not None and bool(grad.isfinite().all()):
                    ascent.step(t, ascent.slope_step, part, grad, *moments[k])
                    part.clamp_(0, 1)
    return kept
