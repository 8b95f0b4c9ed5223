"""The settings of PWCF."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PWCFSettings:
    """How rows share the budget of an image, and where they start; docs/design/pwcf.md has the measurements.

    Attributes:
        gradients_per_row: gradients of a row that must be affordable before there is a second row.
        longest: most gradients of a row; further ones seldom improve it.
        classes: most classes that are aimed at.
        far: distances of further starts in random directions, in lengths of the first step.
        shared: number of these starts that share a smaller budget with the classes. The others are added when the
            budget allows every row `longest` gradients.
        gradients_per_class: one class is tried, with one gradient, for each so many gradients of the budget.
        around: distances at which later searches in few dimensions start, used in turn, in lengths of the best
            perturbation.
        stiffness: weight of the margin against the distance if the unknowns are not the pixels themselves; with it the
            penalty parameter mu seldom has to decrease.
        overshoot: length of the first step, over that of the step to the linear model's boundary: a start just beyond
            the boundary is better than one just before it.
        noise: added to the start, in units of a pixel, to break ties and to give the distance a gradient.
        noise_share: most noise, over the largest entry of the first step: beside a boundary that is nearer than the
            noise, the start would be noise alone.
        passing: the margin that the constraint requires, over the first margin, so that the end point is misclassified.
        plateaus: budgets from this size on end a search where the margin is flat before the boundary, so that what is
            left is spent on other searches. With smaller budgets too little is left, and such a search sometimes
            finds a point.
        clip: share of the first margin above which a larger loss is not rewarded (section 3.2).
        boundary_forwards: forward runs at the end that move the best point towards the boundary.
        box_forwards: most forward runs at random points of the box before that.
        nearer: random points of the box are moved to this share of the distance of the nearest one so far.
        shrink: factor by which a start outside the radius is shortened, at most `shrinks` times.
        shrinks: see `shrink`.
        batches: number of batches whose starts are in memory at once.
        inside: share of the radius that MaxLoss may use, so that a violation within the tolerance stays inside.
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
    noise_share: float = 0.05
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
