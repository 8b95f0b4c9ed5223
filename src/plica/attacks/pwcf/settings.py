"""The settings of PWCF."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PWCFSettings:
    """How rows share the budget of an image, and where they start; docs/design/pwcf.md has the measurements.

    Attributes:
        gradients_per_row: that a row needs before a second one is worth having.
        longest: gradients after which a row has nothing to gain, as a rule.
        classes: aimed at, at most.
        far: further starts, so many times the first step away in a random direction.
        shared: of them that share a budget with the classes; the others come on top of rows as long as can be.
        gradients_per_class: budget for each class that is tried with one gradient.
        around: lengths of the starts of later searches in few dimensions, in turn, in lengths of the best perturbation.
        stiffness: weight of the margin against the distance where the unknowns are not the pixels themselves: the
            penalty parameter mu seldom has to fall.
        overshoot: of the first step: a start just inside the boundary is worth less than one just past it.
        noise: of the start, in units of a pixel: breaks ties and gives the distance a gradient.
        passing: share of the first margin by which the boundary is to be passed, so that the end point surely is past.
        plateaus: gradients from which a search ends where the margin is flat and short of the boundary: what it leaves
            pays for others; with fewer it does not, and such a search finds a point now and then.
        clip: share of the first margin past which a larger loss is no better (section 3.2).
        boundary_forwards: forward runs at the end towards the boundary.
        box_forwards: forward runs on random points of the box before, where more are left.
        nearer: share of the distance of the nearest point of the box so far, at which further ones are looked for.
        shrink: share of the perturbation that a start outside the radius keeps, `shrinks` times at most.
        shrinks: see `shrink`.
        batches: of rows whose starts are in memory at once.
        inside: share of the radius that MaxLoss may use: a violation within the tolerance stays inside the radius.
    """

    gradients_per_row: int = 30
    longest: int = 80
    classes: int = 2
    far: tuple[float, ...] = (4.0, 2.0, 4.0, 8.0, 2.0, 4.0)
    shared: int = 3
    gradients_per_class: int = 10
    around: tuple[float, ...] = (1.0, 2.0, 0.5, 4.0)
    stiffness: float = 2
    overshoot: float = 1.1
    noise: float = 1e-3
    passing: float = 1e-4
    plateaus: int = 200
    clip: float = 1e-2
    boundary_forwards: int = 6
    box_forwards: int = 200
    nearer: float = 0.9
    shrink: float = 0.7
    shrinks: int = 20
    batches: int = 4
    inside: float = 0.999


SETTINGS = PWCFSettings()
