"""State that changes from step to step: records of tensors, one entry per row, changed in place by their solver
only."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

from plica.solver.accelerator import Scratch
from plica.solver.lbfgs import DampedLBFGS


@dataclass
class ProximalState:
    """The state of r searches.

    Attributes:
        low, high: the box.
        u: the point to evaluate next.
        plane: averaged gradient of m.
        velocity: of heavy-ball steps; (r, 0) without them.
        size: norm of u.
        eta: trust region.
        lam: multiplier.
        slope: d(plane . z) / d lam.
        level: memory of the prox.
        first: |m| at the start.
        reach: longest step, in the norm of u; inf for any length.
        lost: whether u moves halfway towards 0, whatever the linear model says.
        merit, predicted: the exact penalty at the last point, and the one predicted at z.
        recent: the last three estimates.
        estimate: smallest norm at which the linear model of one of the last three steps reaches the boundary.
        residual: |z - u| / |u|, the relative length of the next step. It is 0 if and only if u solves its own
            subproblem, that is, satisfies the KKT conditions of min ||u|| s.t. m >= kappa in the box with plane as the
            gradient of m.
        aim: weight of near and far in kappa.
        reached: whether some point had m > 0.
        steps: number of steps so far, up to the last column of the schedule.
        stepped: whether the rows have been stepped before; the same for all of them.
        limited: whether `reach` and `lost` count.
        scratch: memory for intermediate results, shared by all records that come from this one.
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
    reach: Float[Tensor, " r"]
    lost: Bool[Tensor, " r"]
    merit: Float[Tensor, " r"]
    predicted: Float[Tensor, " r"]
    recent: Float[Tensor, "r 3"]
    estimate: Float[Tensor, " r"]
    residual: Float[Tensor, " r"]
    aim: Float[Tensor, " r"]
    reached: Bool[Tensor, " r"]
    steps: Int[Tensor, " r"]
    stepped: bool
    limited: bool
    scratch: Scratch


@dataclass
class Averages:
    """Running means of the gradient of d, after `count` gradients, and of its square."""

    mean: Float[Tensor, "r n"]
    square: Float[Tensor, "r n"]
    count: Float[Tensor, " r"]


@dataclass
class Damped:
    """The memory of the damped L-BFGS method.

    Attributes:
        curvature: pairs of D.
        tau: damping, in units of the curvature h.
        merit, predicted: the exact penalty at the last point, and the one predicted at the next.
    """

    curvature: DampedLBFGS
    tau: Float[Tensor, " r"]
    merit: Float[Tensor, " r"]
    predicted: Float[Tensor, " r"]


@dataclass
class CurvedState:
    """The state of r searches.

    Attributes:
        x: the image.
        z: the point to evaluate next.
        pull, size: the gradient of d and d at z; 0 at x.
        plane: averaged gradient of m.
        memory: of the descent on the plane.
        quadratic: whether d grows as the square of a step from x.
        lam: multiplier, in units of d per unit of margin.
        first: |m| at the start.
        estimate: d at which the linear model reaches the boundary.
        residual: relative distance of z from solving its own subproblem.
        aim: weight of far in kappa.
        reached: 1 if some point had m > 0, else 0.
        steps: number of steps so far.
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
