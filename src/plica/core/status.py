"""Why the attack on an image ended."""

from enum import Enum


class Status(Enum):
    """Why the attack on an image ended; the value is a sentence."""

    MISCLASSIFIED = "Misclassified from the start: the distance is 0."
    STATIONARY = "Stationary to the tolerance: no better point is to be had nearby."
    SUCCEEDED = "A point within the radius was found; more was not asked for."
    REJECTED = "Points within the radius were found, and the judge accepts none: rounding decides their class."
    SETTLED = "Start after start ended at the same point: no nearer one is to be expected."
    FIXED = "Nothing may move: bounds, fixed pixels or a radius of 0 leave no point but the image itself."
    ZERO_GRADIENT = "The gradient is zero at the image, so that no direction is known there; other points were tried."
    STALLED = "No further progress in many steps; the best point was kept."
    LINE_SEARCH = "No step improved the last point, often a kink; the best point was kept."
    BUDGET = "All gradients of the budget are spent; the best point was kept."
    BLACK_BOX = "The model has no gradient: only forward runs were used, and the best point was kept."
    INFEASIBLE = (
        "The constraints seem to contradict each other near the image; raise gradients or ask for a larger radius."
    )
    OFF_GRID = "Points were found between the levels, and none on the grid that was asked for; raise gradients."
    NOT_FINITE = "The model or the metric gave values that are not finite; the image was left there."
    FAILED = "The method raised an error on this image; the notes of the run say which."
