"""Why a row of the solver stopped."""

from enum import Enum


class Stop(Enum):
    """Why the solver stopped; the value is a sentence."""

    STATIONARY = "Stationary and feasible to the tolerances."
    DONE = "The problem reported that the row need not go on."
    STALLED = "No further progress in many steps; the point is feasible."
    LINE_SEARCH = (
        "A minimiser was bracketed but no step satisfied the Wolfe conditions; often a kink. Check the stationarity."
    )
    MAX_STEPS = "Step limit reached; raise max_steps or loosen tol."
    BUDGET = "All gradients of the budget are spent."
    INFEASIBLE = "Stationary for the violation alone: the constraints seem to contradict each other here."
    UNBOUNDED = "The objective falls without end on feasible points."
    NOT_FINITE = "The start, or every step tried from a point, gave values that are not finite."
