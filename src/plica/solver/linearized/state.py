"""What changes from step to step: records of tensors, one entry per row, rewritten in place by their solver alone."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

from plica.solver.accelerator import Scratch
from plica.solver.lbfgs import DampedLBFGS


@dataclass
class ProximalState:
    """The state of r searches. u is the point to evaluate next; `size` is its norm.

    plane: averaged gradient. velocity: of the heavy ball, (r, 0) without. lam: multiplier. slope: d(plane . z) / d lam.
    level: memory of the prox. first: |m| at the start. merit, predicted: the exact penalty at the last point, and at z.
    estimate: least norm at which the linear model of one of the last three steps meets the boundary.
    residual: |z - u| / |u|, the relative length of the next step: 0 exactly where u solves its own subproblem, which is
    where it meets the KKT conditions of min ||u|| s.t. m >= kappa in the box, with plane for the gradient of m.
    aim: weight of near and far in kappa. reached: once a point had m > 0. stepped: whether the rows have been stepped
    before, all of them or none. scratch: memory of the steps, shared by all records that come from one.
    """

    low: Float[Tensor, "r n"]
    high: Float[Tensor, "r n"]
    u: Float[Tensor, "r n"]
    plane: Float[Tensor, "r n"]
    velocity: Float[Tensor, "r _"]
    size: Float[Tensor, " r"]
    eta: Float[Tensor, " r"]
    lam: Float[Tensor, " r"]
    slope: Float[Tensor, " r"]
    level: Float[Tensor, " r"]
    first: Float[Tensor, " r"]
    merit: Float[Tensor, " r"]
    predicted: Float[Tensor, " r"]
    recent: Float[Tensor, "r 3"]
    estimate: Float[Tensor, " r"]
    residual: Float[Tensor, " r"]
    aim: Float[Tensor, " r"]
    reached: Bool[Tensor, " r"]
    steps: Int[Tensor, " r"]
    stepped: bool
    scratch: Scratch


@dataclass
class Averages:
    """Running means of the gradient of d, over `count` of them, and of its square."""

    mean: Float[Tensor, "r n"]
    square: Float[Tensor, "r n"]
    count: Float[Tensor, " r"]


@dataclass
class Damped:
    """Pairs of D; tau: damping, in units of the curvature h. merit, predicted: the exact penalty at the last point,
    and where it led by the linear model."""

    curvature: DampedLBFGS
    tau: Float[Tensor, " r"]
    merit: Float[Tensor, " r"]
    predicted: Float[Tensor, " r"]


@dataclass
class CurvedState:
    """The state of r searches. z is the point to evaluate next; size and pull are d and its gradient there, 0 at x.

    plane: averaged gradient of m. lam: multiplier, in units of d per margin. quadratic: d grows as the square of a
    step from x. first: |m| at the start. estimate: d where the linear model meets the boundary. residual: how far z is
    from solving its own subproblem, relative. aim: weight of far in kappa. reached: 1 once a point had m > 0.
    """

    x: Float[Tensor, "r n"]
    z: Float[Tensor, "r n"]
    pull: Float[Tensor, "r n"]
    plane: Float[Tensor, "r n"]
    memory: Averages | Damped
    quadratic: Bool[Tensor, " r"]
    size: Float[Tensor, " r"]
    lam: Float[Tensor, " r"]
    first: Float[Tensor, " r"]
    estimate: Float[Tensor, " r"]
    residual: Float[Tensor, " r"]
    aim: Float[Tensor, " r"]
    reached: Float[Tensor, " r"]
    steps: Float[Tensor, " r"]
