"""Chooses the images that a report shows: as many as fit, the most fragile first, then evenly over the ranks of the
radii, so that any number of them represents all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from plica.analysis.contenders import Contender, Group

FRAGILE = 12  # images of the smallest radii, which are always shown


@dataclass(frozen=True)
class Pick:
    """One image to show: a row of a contender's answers to a question."""

    group: Group
    contender: Contender
    row: int

    @property
    def task(self) -> tuple[str, str]:
        """The run's directory and the name of the task that found the point."""
        run, task = self.contender.sources[int(self.contender.source[self.row])]
        return str(run.directory), task.name

    @property
    def image(self) -> int:
        """The image's number in the data."""
        return int(self.contender.ids[self.row])


def picks(models: Sequence[Group]) -> list[Pick]:
    """All perturbed images in the order in which they are shown, taking from the questions in turn.

    If a metric has min-radius questions, its points within budgets are left out.
    """
    with_radii = {group.metric for group in models if group.budget is None}
    shown = [(g, c) for g in models if g.budget is None or g.metric not in with_radii for c in g.contenders]
    queues = [[Pick(group, c, row) for row in order(c.radius)] for group, c in shown]
    longest = max(map(len, queues), default=0)
    return [queue[turn] for turn in range(longest) for queue in queues if turn < len(queue)]


def order(radius: Float64[np.ndarray, " b"]) -> list[int]:
    """Rows with a perturbation, the FRAGILE of the smallest radius first, then halving the gaps between ranks."""
    ranked = np.argsort(radius, kind="stable")
    ranked = ranked[(radius[ranked] > 0) & np.isfinite(radius[ranked])]
    first, rest = ranked[:FRAGILE], ranked[FRAGILE:]
    bits = max(1, int(len(rest) - 1).bit_length())
    reverse = [int(f"{k:0{bits}b}"[::-1], 2) for k in range(2**bits)]
    return [*first.tolist(), *[int(rest[k]) for k in reverse if k < len(rest)]]


def examples(by_method: Sequence[Group], most: int = 3) -> list[int]:
    """A few of the images that the most methods broke, evenly spread over the radii without the extremes."""
    if not by_method:
        return []
    shared = by_method[0].contenders[0].ids
    for group in by_method:
        shared = shared[np.isin(shared, group.contenders[0].ids)]
    answers = [c.take(np.isin(c.ids, shared)) for group in by_method for c in group.contenders]
    methods = np.sum([c.broken for c in answers], axis=0)  # that broke each image
    if not len(methods) or not methods.max():
        return []
    best = np.flatnonzero(methods == methods.max())
    ranked = best[np.argsort(answers[0].radius[best], kind="stable")]
    if len(ranked) > most:
        ranked = ranked[np.linspace(0, len(ranked) - 1, most + 2).round().astype(int)[1:-1]]
    return [int(shared[k]) for k in ranked]
